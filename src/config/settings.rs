//! What we run on: every value checked, every default applied, every reference resolved.
//!
//! Plain values only; `app.rs` turns them into the options of each part. A `Settings` that exists is valid,
//! so nothing behind it checks again.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use regex::Regex;

use super::secret::{Secret, SigningKey};

/// Everything one process runs on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What becomes of deliveries that wait for an endpoint that was removed.
    pub on_removed: OnRemoved,
    /// How long a waiting delivery may name an endpoint this instance does not know yet.
    pub unknown_grace: Duration,
    /// The cluster, the group and the source topics.
    pub kafka: Kafka,
    /// The topics Arauto owns.
    pub topics: Topics,
    /// Where to find an event's facts.
    pub events: Events,
    /// Bounds of memory and time.
    pub limits: Limits,
    /// The attempt log.
    pub attempts: Attempts,
    /// Where endpoints may live.
    pub security: Security,
    /// The admin server.
    pub admin: Admin,
    /// Logging.
    pub log: Log,
    /// Where spans go; `None`: there are none.
    pub otel: Option<Otel>,
    /// Notices.
    pub notices: Notices,
    /// The endpoints, in the order they were written; ids are unique.
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// What becomes of deliveries whose endpoint was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRemoved {
    /// They are dead-lettered with the reason `unknown_endpoint`.
    Dead,
    /// They are settled and counted as dropped.
    Drop,
}

/// `[kafka]`
#[derive(Debug, Clone, PartialEq)]
pub struct Kafka {
    /// Bootstrap servers, comma separated.
    pub brokers: String,
    /// Consumer group.
    pub group: String,
    /// Source topics.
    pub topics: Vec<TopicSelector>,
    /// Where a new group begins.
    pub start: Start,
    /// Group protocol.
    pub protocol: Protocol,
    /// librdkafka properties passed through; none that the commit logic relies on. Values may be secret.
    pub properties: Vec<(String, Secret)>,
}

impl Kafka {
    /// Is a topic that is not one of our own among those that events are read from? The brokers' own are when they are
    /// asked for by name.
    pub fn reads(&self, topic: &str) -> bool {
        let internal = topic.starts_with("__");
        self.topics.iter().any(|selector| {
            selector.matches(topic) && (!internal || matches!(selector, TopicSelector::Name(_)))
        })
    }
}

/// One entry of `kafka.topics`.
#[derive(Debug, Clone)]
pub enum TopicSelector {
    /// A topic by name.
    Name(String),
    /// A pattern, anchored at both ends, and as it was written.
    Pattern(Regex, String),
}

/// Equal when written equally: a compiled pattern has no equality of its own.
impl PartialEq for TopicSelector {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(a), Self::Name(b)) | (Self::Pattern(_, a), Self::Pattern(_, b)) => a == b,
            (Self::Name(_), Self::Pattern(..)) | (Self::Pattern(..), Self::Name(_)) => false,
        }
    }
}

impl TopicSelector {
    /// Does this entry select the topic?
    pub fn matches(&self, topic: &str) -> bool {
        match self {
            Self::Name(name) => name == topic,
            Self::Pattern(pattern, _) => pattern.is_match(topic),
        }
    }
}

/// Where a new group begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the beginning of each source topic.
    Earliest,
    /// At the end, as the first instance saw it.
    Latest,
}

/// Group protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// KIP-848 where the brokers offer it, classic otherwise.
    Auto,
    /// KIP-848.
    Consumer,
    /// Classic, with the cooperative assignor.
    Classic,
}

/// `[topics]`
#[derive(Debug, Clone, PartialEq)]
pub struct Topics {
    /// Prefix of every topic we own.
    pub prefix: String,
    /// Delays of the configured retry tiers, ascending, distinct, all above zero; `0s` is always there besides.
    pub tiers: Vec<Duration>,
    /// How long we may stand still before a tier loses records.
    pub retention: Duration,
    /// Retention of the dead-letter topic.
    pub dead_retention: Duration,
    /// Partitions of each topic we create.
    pub partitions: i32,
    /// Replication factor; -1 leaves it to the brokers.
    pub replication: i32,
    /// Create what is missing at start.
    pub create: bool,
}

/// `[events]`
#[derive(Debug, Clone, PartialEq)]
pub struct Events {
    /// Sources of the event type; the first that has it wins.
    pub event_type: Vec<FactSource>,
    /// Sources of the id.
    pub id: Vec<IdSource>,
    /// Namespace of derived ids; `None`: the Kafka cluster's id.
    pub namespace: Option<String>,
    /// Sources of the tenant.
    pub tenant: Vec<FactSource>,
    /// Sources of the priority.
    pub priority: Vec<FactSource>,
}

/// Where a fact of an event stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FactSource {
    /// A Kafka header by name (compared without regard to ASCII case).
    Header(String),
    /// An RFC 6901 JSON pointer into the value.
    Json(String),
}

/// Where an event's id stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdSource {
    /// CloudEvents source and id: from `ce_source`/`ce_id` headers, or from a structured JSON CloudEvent.
    CloudEvents,
    /// A header or a JSON pointer.
    Fact(FactSource),
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Deliveries held in memory, whole process.
    pub in_flight: usize,
    /// Bytes held in memory, whole process.
    pub in_flight_bytes: usize,
    /// A wait this short stays in memory; at least the shortest tier.
    pub hold: Duration,
    /// Prefetched bytes per assigned partition.
    pub prefetch: usize,
    /// Longest wait for attempts under way when partitions are taken away.
    pub drain: Duration,
    /// Longest clean shutdown.
    pub shutdown_grace: Duration,
    /// Time between commits.
    pub commit_interval: Duration,
    /// Endpoints with a queue of their own at most.
    pub own_queues: usize,
}

/// `[attempts]`
#[derive(Debug, Clone, PartialEq)]
pub struct Attempts {
    /// Where attempts are logged, a topic of our own; `None`: nowhere.
    pub topic: Option<String>,
    /// How long that is kept.
    pub retention: Duration,
}

impl Attempts {
    /// What the topic is called after the prefix, unless told otherwise.
    pub const NAME: &str = "attempts";
}

/// `[security]`
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Security {
    /// Networks endpoints may live in although they are not public.
    pub allow: Vec<IpNet>,
    /// `http://` endpoints are refused.
    pub https_only: bool,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Where to listen; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// Endpoints with metric series of their own.
    pub max_endpoint_series: usize,
    /// Work that nothing holds back and that has not moved for so long is stalled.
    pub stalled_after: Duration,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// A filter in `tracing_subscriber::EnvFilter` syntax, checked.
    pub level: String,
    /// The format.
    pub format: LogFormat,
}

/// Log format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// `[otel]`
#[derive(Debug, Clone, PartialEq)]
pub struct Otel {
    /// Where spans are sent to, `http` or `https`, path included, without user info.
    pub endpoint: url::Url,
    /// The share of the traces that begin here that are recorded, 0 to 1.
    pub sample_ratio: f64,
    /// Headers of the requests, names lower-case, checked for HTTP.
    pub headers: Vec<(String, Secret)>,
    /// `service.name` of everything that is sent.
    pub service_name: String,
    /// The longest time one request may take, its repetitions included.
    pub timeout: Duration,
}

/// `[notices]`
#[derive(Debug, Clone, PartialEq)]
pub struct Notices {
    /// They are written.
    pub enabled: bool,
    /// About the same thing of an endpoint at most one in this time.
    pub repeat: Duration,
    /// How long before its end a certificate is told of.
    pub certificate: Duration,
}

/// One webhook receiver.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// 1–64 of `a-z A-Z 0-9 _ -`.
    pub id: Arc<str>,
    /// `http` or `https`, parsed, without user info or fragment.
    pub url: url::Url,
    /// Source topics it wants; `None`: all. Entries select topics exactly as `kafka.topics` entries do; the topic of
    /// notices is selected by its name only.
    pub topics: Option<Vec<TopicSelector>>,
    /// Event type patterns; `None`: all. `*` stands for any run of characters.
    pub types: Option<Vec<String>>,
    /// Only this tenant's events; `None`: every event.
    pub tenant: Option<String>,
    /// All live keys; every one signs. Empty only for `Signature::None`.
    pub keys: Vec<SigningKey>,
    /// `false`: its events count as unmatched.
    pub enabled: bool,
    /// Nothing is sent, everything waits.
    pub paused: bool,
    /// Fixed headers, names lower-case, checked for HTTP and against the reserved ones.
    pub headers: Vec<(String, Secret)>,
    /// Kafka headers passed on, names lower-case.
    pub forward: Vec<String>,
    /// Longest attempt, body included.
    pub timeout: Duration,
    /// Most attempts in flight, per instance; at least 1.
    pub concurrency: usize,
    /// Deliveries per time; `None`: unlimited.
    pub rate: Option<Rate>,
    /// Resolved burst, at least 1 (one second's worth of the rate if it was written as 0).
    pub burst: u32,
    /// Whose queue it reads.
    pub queue: Queue,
    /// Order kept.
    pub ordering: Ordering,
    /// Signature scheme.
    pub signature: Signature,
    /// Priority when the process is saturated.
    pub priority: Priority,
    /// Retry policy.
    pub retry: Retry,
    /// Circuit breaker.
    pub breaker: Breaker,
    /// Disabled when every attempt has failed for so long; `None`: never.
    pub disable_after: Option<Duration>,
}

impl Endpoint {
    /// Does it ask for this topic by its name?
    pub fn asks_for(&self, topic: &str) -> bool {
        let is = |selector: &TopicSelector| matches!(selector, TopicSelector::Name(name) if name == topic);
        self.topics.iter().flatten().any(is)
    }
}

/// A rate: `count` per `per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    /// One second, minute or hour.
    pub per: Duration,
}

impl Rate {
    /// Time between two deliveries at this rate.
    pub fn interval(&self) -> Duration {
        self.per / self.count
    }
}

/// Whose queue an endpoint reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// The one of the group.
    Shared,
    /// A consumer group of its own.
    Own,
}

/// Order kept for an endpoint, per partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordering {
    /// None.
    None,
    /// One at a time per key.
    Key,
    /// One at a time.
    Endpoint,
}

/// Signature scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// Standard Webhooks.
    Standard,
    /// `X-Hub-Signature-256`.
    Github,
    /// `Stripe-Signature`.
    Stripe,
    /// Not signed.
    None,
}

/// Priority when the process is saturated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// First.
    High,
    /// The default.
    Normal,
    /// Last.
    Low,
}

impl Priority {
    /// The words that configurations and events say it with.
    pub const WORDS: [(&str, Self); 3] = [("high", Self::High), ("normal", Self::Normal), ("low", Self::Low)];
}

/// Retry policy of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Wait before attempt 2, 3, …; empty: no retries.
    pub schedule: Vec<Duration>,
    /// Upward jitter, 0 to 1.
    pub jitter: f64,
    /// Older than this since first seen: dead.
    pub max_age: Duration,
    /// The longest `Retry-After` obeyed.
    pub max_pause: Duration,
    /// Statuses that are final at once, as inclusive ranges.
    pub dead_on: Vec<(u16, u16)>,
}

/// Circuit breaker of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Breaker {
    /// Failed share of recent attempts that opens it, above 0, at most 1.
    pub failures: f64,
    /// Attempts before it may open.
    pub minimum: u32,
    /// First pause.
    pub open_for: Duration,
    /// Longest pause.
    pub max_open: Duration,
}
