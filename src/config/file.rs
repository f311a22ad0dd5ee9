//! What the user wrote: every key of the main file, with its place. `config/arauto.toml` says what each means.
//!
//! Only the form of each value is checked here; whether the values make sense together is for [`super::check`].

use std::time::Duration;

use super::{
    mistake::Place,
    read::{Table, value::Value},
    secret::Secret,
    settings::{LogFormat, OnRemoved, Protocol, Start},
    written::{Key, List, Text, Written},
};

pub(super) mod endpoint;

use endpoint::{Endpoint, Policy};

/// The main file.
#[derive(Debug)]
pub(super) struct File {
    /// `on_removed`: what becomes of deliveries whose endpoint is gone.
    pub(super) on_removed: Key<OnRemoved>,
    /// `unknown_grace`: how long an unknown endpoint may be one of a configuration that is yet to come.
    pub(super) unknown_grace: Key<Duration>,
    /// `include`: more files with endpoints.
    pub(super) include: Key<List<Text>>,
    /// `[kafka]`
    pub(super) kafka: Kafka,
    /// `[topics]`
    pub(super) topics: Topics,
    /// `[events]`
    pub(super) events: Events,
    /// `[limits]`
    pub(super) limits: Limits,
    /// `[attempts]`
    pub(super) attempts: Attempts,
    /// `[security]`
    pub(super) security: Security,
    /// `[admin]`
    pub(super) admin: Admin,
    /// `[log]`
    pub(super) log: Log,
    /// `[otel]`
    pub(super) otel: Otel,
    /// `[notices]`
    pub(super) notices: Notices,
    /// `[defaults]`
    pub(super) defaults: Policy,
    /// `[[endpoints]]`, of this file and of the included ones.
    pub(super) endpoints: Vec<Endpoint>,
}

/// `[kafka]`
#[derive(Debug)]
pub(super) struct Kafka {
    pub(super) place: Place,
    /// `brokers`: bootstrap servers, comma separated; required.
    pub(super) brokers: Key<Text>,
    /// `group`: consumer group.
    pub(super) group: Key<Text>,
    /// `topics`: source topics, names and `^` patterns; required.
    pub(super) topics: Key<List<Text>>,
    /// `start`: where a new group begins.
    pub(super) start: Key<Start>,
    /// `protocol`: group protocol.
    pub(super) protocol: Key<Protocol>,
    /// `[kafka.properties]`: what goes to librdkafka as it is.
    pub(super) properties: Key<Vec<(Written<String>, Secret)>>,
}

/// `[topics]`
#[derive(Debug)]
pub(super) struct Topics {
    pub(super) place: Place,
    /// `prefix`: of the topics we own.
    pub(super) prefix: Key<Text>,
    /// `tiers`: delays of the retry tiers.
    pub(super) tiers: Key<List<Duration>>,
    /// `retention`: how long a tier keeps records beyond their delay.
    pub(super) retention: Key<Duration>,
    /// `dead_retention`: how long dead letters are kept.
    pub(super) dead_retention: Key<Duration>,
    /// `partitions` of the topics we create.
    pub(super) partitions: Key<i64>,
    /// `replication` of the topics we create; -1: the brokers' default.
    pub(super) replication: Key<i64>,
    /// `create` what is missing.
    pub(super) create: Key<bool>,
}

/// `[events]`
#[derive(Debug)]
pub(super) struct Events {
    /// `type`: where an event's type stands.
    pub(super) event_type: Key<List<Text>>,
    /// `id`: where its id stands.
    pub(super) id: Key<List<Text>>,
    /// `namespace` of derived ids.
    pub(super) namespace: Key<Text>,
    /// `tenant`: where its tenant stands.
    pub(super) tenant: Key<List<Text>>,
    /// `priority`: where its priority stands.
    pub(super) priority: Key<List<Text>>,
}

/// `[limits]`
#[derive(Debug)]
pub(super) struct Limits {
    /// `in_flight`: deliveries in memory.
    pub(super) in_flight: Key<i64>,
    /// `in_flight_bytes`: their bytes.
    pub(super) in_flight_bytes: Key<usize>,
    /// `hold`: the longest wait in memory.
    pub(super) hold: Key<Duration>,
    /// `prefetch` per partition.
    pub(super) prefetch: Key<usize>,
    /// `drain`: the longest wait on a rebalance.
    pub(super) drain: Key<Duration>,
    /// `shutdown_grace`: the longest clean stop.
    pub(super) shutdown_grace: Key<Duration>,
    /// `commit_interval`
    pub(super) commit_interval: Key<Duration>,
    /// `own_queues`: endpoints with a queue of their own at most.
    pub(super) own_queues: Key<i64>,
}

/// `[attempts]`
#[derive(Debug)]
pub(super) struct Attempts {
    /// `topic`: where attempts are logged; empty: nowhere.
    pub(super) topic: Key<Text>,
    /// `retention`: how long that is kept.
    pub(super) retention: Key<Duration>,
}

/// `[security]`
#[derive(Debug)]
pub(super) struct Security {
    /// `allow`: networks endpoints may live in although they are not public.
    pub(super) allow: Key<List<Text>>,
    /// `https_only`
    pub(super) https_only: Key<bool>,
}

/// `[admin]`
#[derive(Debug)]
pub(super) struct Admin {
    /// `listen`: address and port, or `off`.
    pub(super) listen: Key<Text>,
    /// `max_endpoint_series`: endpoints with metric series of their own.
    pub(super) max_endpoint_series: Key<i64>,
    /// `stalled_after`: when work that does not move is stalled.
    pub(super) stalled_after: Key<Duration>,
}

/// `[log]`
#[derive(Debug)]
pub(super) struct Log {
    /// `level`: a filter.
    pub(super) level: Key<Text>,
    /// `format`
    pub(super) format: Key<LogFormat>,
}

/// `[otel]`
#[derive(Debug)]
pub(super) struct Otel {
    pub(super) place: Place,
    /// `endpoint`: where spans are sent to, or `off`.
    pub(super) endpoint: Key<Text>,
    /// `sample_ratio`: the share of traces that begin here.
    pub(super) sample_ratio: Key<f64>,
    /// `headers` of the requests.
    pub(super) headers: Key<Vec<(Written<String>, Secret)>>,
    /// `service_name`
    pub(super) service_name: Key<Text>,
    /// `timeout` of a request, its repetitions included.
    pub(super) timeout: Key<Duration>,
}

/// `[notices]`
#[derive(Debug)]
pub(super) struct Notices {
    /// `enabled`: they are written.
    pub(super) enabled: Key<bool>,
    /// `repeat`: about the same thing at most one in this time.
    pub(super) repeat: Key<Duration>,
    /// `certificate`: how long before its end it is told of.
    pub(super) certificate: Key<Duration>,
}

/// No wait, where none makes sense.
pub(super) const ZERO: Duration = Duration::ZERO;
/// The shortest time that is one.
pub(super) const MOMENT: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
/// Ten years: longer than any record is kept on purpose.
pub(super) const LONG: Duration = Duration::from_secs(3_650 * 86_400);

impl File {
    /// Reads the main file.
    pub(super) fn read(t: &mut Table<'_, '_>) -> Self {
        Self {
            on_removed: t
                .key("on_removed", |v| v.word(&[("dead", OnRemoved::Dead), ("drop", OnRemoved::Drop)])),
            unknown_grace: t.key("unknown_grace", |v| v.duration(ZERO..=LONG)),
            include: t.key("include", texts),
            kafka: t.section("kafka", "[kafka]", Kafka::read),
            topics: t.section("topics", "[topics]", Topics::read),
            events: t.section("events", "[events]", Events::read),
            limits: t.section("limits", "[limits]", Limits::read),
            attempts: t.section("attempts", "[attempts]", |t| Attempts {
                topic: t.key("topic", |v| v.text()),
                retention: t.key("retention", |v| v.duration(SECOND..=LONG)),
            }),
            security: t.section("security", "[security]", |t| Security {
                allow: t.key("allow", texts),
                https_only: t.key("https_only", |v| v.flag()),
            }),
            admin: t.section("admin", "[admin]", |t| Admin {
                listen: t.key("listen", |v| v.text()),
                max_endpoint_series: t.key("max_endpoint_series", |v| v.int(0..=1_000_000)),
                stalled_after: t.key("stalled_after", |v| v.duration(SECOND..=DAY)),
            }),
            log: t.section("log", "[log]", Log::read),
            otel: t.section("otel", "[otel]", Otel::read),
            notices: t.section("notices", "[notices]", |t| Notices {
                enabled: t.key("enabled", |v| v.flag()),
                repeat: t.key("repeat", |v| v.duration(SECOND..=30 * DAY)),
                certificate: t.key("certificate", |v| v.duration(ZERO..=LONG)),
            }),
            defaults: t.section("defaults", "[defaults]", |t| Policy::read(t, endpoint::DEFAULTS)),
            endpoints: t.sections("endpoints", "[[endpoints]]", Endpoint::read),
        }
    }
}

impl Kafka {
    fn read(t: &mut Table<'_, '_>) -> Self {
        Self {
            place: t.place(),
            brokers: t.key("brokers", |v| v.text()),
            group: t.key("group", |v| v.text()),
            topics: t.key("topics", texts),
            start: t.key("start", |v| v.word(&[("earliest", Start::Earliest), ("latest", Start::Latest)])),
            protocol: t.key("protocol", |v| {
                v.word(&[
                    ("consumer", Protocol::Consumer),
                    ("classic", Protocol::Classic),
                    ("auto", Protocol::Auto),
                ])
            }),
            properties: t.key("properties", |v| v.properties()),
        }
    }
}

impl Topics {
    fn read(t: &mut Table<'_, '_>) -> Self {
        Self {
            place: t.place(),
            prefix: t.key("prefix", |v| v.text()),
            tiers: t.key("tiers", |v| v.list(|v| v.duration(MOMENT..=30 * DAY))),
            retention: t.key("retention", |v| v.duration(SECOND..=LONG)),
            dead_retention: t.key("dead_retention", |v| v.duration(SECOND..=LONG)),
            // Kafka's clusters hold tens of thousands of partitions; more for one topic is a typing mistake.
            partitions: t.key("partitions", |v| v.int(1..=10_000)),
            replication: t.key("replication", |v| v.int(-1..=i64::from(i16::MAX))),
            create: t.key("create", |v| v.flag()),
        }
    }
}

impl Events {
    fn read(t: &mut Table<'_, '_>) -> Self {
        Self {
            event_type: t.key("type", texts),
            id: t.key("id", texts),
            namespace: t.key("namespace", |v| v.text()),
            tenant: t.key("tenant", texts),
            priority: t.key("priority", texts),
        }
    }
}

impl Limits {
    fn read(t: &mut Table<'_, '_>) -> Self {
        Self {
            in_flight: t.key("in_flight", |v| v.int(1..=10_000_000)),
            in_flight_bytes: t.key("in_flight_bytes", |v| v.size(1..=1 << 40)),
            hold: t.key("hold", |v| v.duration(ZERO..=HOUR)),
            // librdkafka's own bounds of `queued.max.messages.kbytes`: 1 to 2097151.
            prefetch: t.key("prefetch", |v| v.size(1 << 10..=2_097_151 << 10)),
            drain: t.key("drain", |v| v.duration(MOMENT..=HOUR)),
            shutdown_grace: t.key("shutdown_grace", |v| v.duration(ZERO..=HOUR)),
            // What a crash repeats grows with it; beyond a minute nobody can mean it.
            commit_interval: t.key("commit_interval", |v| v.duration(MOMENT..=60 * SECOND)),
            own_queues: t.key("own_queues", |v| v.int(0..=100_000)),
        }
    }
}

impl Log {
    fn read(t: &mut Table<'_, '_>) -> Self {
        Self {
            level: t.key("level", |v| v.text()),
            format: t.key("format", |v| {
                v.word(&[("text", LogFormat::Text), ("json", LogFormat::Json), ("auto", LogFormat::Auto)])
            }),
        }
    }
}

impl Otel {
    fn read(t: &mut Table<'_, '_>) -> Self {
        Self {
            place: t.place(),
            endpoint: t.key("endpoint", |v| v.text()),
            sample_ratio: t.key("sample_ratio", |v| {
                v.number("a number from 0 to 1", |ratio| (0.0..=1.0).contains(&ratio))
            }),
            headers: t.key("headers", |v| v.pairs()),
            service_name: t.key("service_name", |v| v.text()),
            timeout: t.key("timeout", |v| v.duration(MOMENT..=HOUR)),
        }
    }
}

/// An array of strings.
pub(super) fn texts(value: Value<'_, '_>) -> Option<List<Text>> {
    value.list(|v| v.text())
}
