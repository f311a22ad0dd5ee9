//! What the user wrote about an endpoint, and about all of them in `[defaults]`.

use std::time::Duration;

use super::{DAY, HOUR, LONG, MOMENT, ZERO, texts};
use crate::config::{
    mistake::Place,
    read::Table,
    secret::Secret,
    settings::{Ordering, Priority, Queue, Rate, Signature},
    written::{Key, List, Text, Written},
};

/// One `[[endpoints]]`.
#[derive(Debug)]
pub(in crate::config) struct Endpoint {
    pub(in crate::config) place: Place,
    /// `id`: unique; required.
    pub(in crate::config) id: Key<Text>,
    /// `url`: required.
    pub(in crate::config) url: Key<Text>,
    /// `topics` it wants.
    pub(in crate::config) topics: Key<List<Text>>,
    /// `types` it wants; `*` stands for any run of characters.
    pub(in crate::config) types: Key<List<Text>>,
    /// `tenant` whose events it gets.
    pub(in crate::config) tenant: Key<Text>,
    /// `secrets`: all of them sign.
    pub(in crate::config) secrets: Key<List<Secret>>,
    /// `enabled`
    pub(in crate::config) enabled: Key<bool>,
    /// `paused`
    pub(in crate::config) paused: Key<bool>,
    /// `headers` sent with every attempt.
    pub(in crate::config) headers: Key<Vec<(Written<String>, Secret)>>,
    /// `forward`: Kafka headers passed on.
    pub(in crate::config) forward: Key<List<Text>>,
    /// Every key that `[defaults]` has too.
    pub(in crate::config) policy: Policy,
}

/// `[defaults]`, and what an endpoint sets again.
#[derive(Debug, Clone)]
pub(in crate::config) struct Policy {
    /// `timeout` of an attempt.
    pub(in crate::config) timeout: Key<Duration>,
    /// `concurrency`: most attempts in flight.
    pub(in crate::config) concurrency: Key<i64>,
    /// `rate` of deliveries.
    pub(in crate::config) rate: Key<Option<Rate>>,
    /// `burst`; 0: one second's worth of the rate.
    pub(in crate::config) burst: Key<i64>,
    /// `queue`
    pub(in crate::config) queue: Key<Queue>,
    /// `ordering`
    pub(in crate::config) ordering: Key<Ordering>,
    /// `signature`
    pub(in crate::config) signature: Key<Signature>,
    /// `priority`
    pub(in crate::config) priority: Key<Priority>,
    /// `[….retry]`
    pub(in crate::config) retry: Retry,
    /// `[….breaker]`
    pub(in crate::config) breaker: Breaker,
    /// `disable_after`: how long every attempt must have failed; `None` inside: never.
    pub(in crate::config) disable_after: Key<Option<Duration>>,
}

/// `[….retry]`
#[derive(Debug, Clone)]
pub(in crate::config) struct Retry {
    /// `schedule`: the waits before attempt 2, 3, ….
    pub(in crate::config) schedule: Key<List<Duration>>,
    /// `jitter`
    pub(in crate::config) jitter: Key<f64>,
    /// `max_age` since the first attempt.
    pub(in crate::config) max_age: Key<Duration>,
    /// `max_pause`: the longest `Retry-After` obeyed.
    pub(in crate::config) max_pause: Key<Duration>,
    /// `dead_on`: statuses that are final at once.
    pub(in crate::config) dead_on: Key<List<Result<i64, Text>>>,
}

/// `[….breaker]`
#[derive(Debug, Clone)]
pub(in crate::config) struct Breaker {
    /// `failures`: the share that opens it.
    pub(in crate::config) failures: Key<f64>,
    /// `minimum` of attempts before that.
    pub(in crate::config) minimum: Key<i64>,
    /// `open_for`: the first pause.
    pub(in crate::config) open_for: Key<Duration>,
    /// `max_open`: the longest pause.
    pub(in crate::config) max_open: Key<Duration>,
}

/// Names of the two nested sections, for messages.
pub(in crate::config) type Sections = (&'static str, &'static str);
/// Of `[defaults]`.
pub(in crate::config) const DEFAULTS: Sections = ("[defaults.retry]", "[defaults.breaker]");
const ENDPOINTS: Sections = ("[endpoints.retry]", "[endpoints.breaker]");

impl Endpoint {
    /// Reads one `[[endpoints]]`.
    pub(in crate::config) fn read(t: &mut Table<'_, '_>) -> Self {
        Self {
            place: t.place(),
            id: t.key("id", |v| v.text()),
            url: t.key("url", |v| v.text()),
            topics: t.key("topics", texts),
            types: t.key("types", texts),
            tenant: t.key("tenant", |v| v.text()),
            secrets: t.key("secrets", |v| v.list(|v| v.secret())),
            enabled: t.key("enabled", |v| v.flag()),
            paused: t.key("paused", |v| v.flag()),
            headers: t.key("headers", |v| v.pairs()),
            forward: t.key("forward", texts),
            policy: Policy::read(t, ENDPOINTS),
        }
    }
}

impl Policy {
    /// Reads the keys that defaults and endpoints share.
    pub(in crate::config) fn read(t: &mut Table<'_, '_>, (retry, breaker): Sections) -> Self {
        Self {
            timeout: t.key("timeout", |v| v.duration(MOMENT..=HOUR)),
            concurrency: t.key("concurrency", |v| v.int(1..=10_000)),
            rate: t.key("rate", |v| v.rate()),
            burst: t.key("burst", |v| v.int(0..=1_000_000)),
            queue: t.key("queue", |v| v.word(&[("shared", Queue::Shared), ("own", Queue::Own)])),
            ordering: t.key("ordering", |v| {
                v.word(&[("none", Ordering::None), ("key", Ordering::Key), ("endpoint", Ordering::Endpoint)])
            }),
            signature: t.key("signature", |v| {
                v.word(&[
                    ("standard", Signature::Standard),
                    ("github", Signature::Github),
                    ("stripe", Signature::Stripe),
                    ("none", Signature::None),
                ])
            }),
            priority: t.key("priority", |v| v.word(&Priority::WORDS)),
            retry: t.section("retry", retry, Retry::read),
            breaker: t.section("breaker", breaker, Breaker::read),
            disable_after: t.key("disable_after", |v| v.duration_or_never(MOMENT..=LONG)),
        }
    }
}

impl Retry {
    fn read(t: &mut Table<'_, '_>) -> Self {
        Self {
            schedule: t.key("schedule", |v| v.list(|v| v.duration(ZERO..=365 * DAY))),
            jitter: t.key("jitter", |v| v.number("a number from 0 to 1", |n| (0.0..=1.0).contains(&n))),
            max_age: t.key("max_age", |v| v.duration(MOMENT..=LONG)),
            max_pause: t.key("max_pause", |v| v.duration(ZERO..=365 * DAY)),
            dead_on: t.key("dead_on", |v| v.list(|v| v.int_or_text())),
        }
    }
}

impl Breaker {
    fn read(t: &mut Table<'_, '_>) -> Self {
        let share = |n: f64| n > 0.0 && n <= 1.0;
        Self {
            failures: t.key("failures", |v| v.number("a number above 0 and at most 1", share)),
            minimum: t.key("minimum", |v| v.int(1..=1_000_000)),
            open_for: t.key("open_for", |v| v.duration(MOMENT..=365 * DAY)),
            max_open: t.key("max_open", |v| v.duration(MOMENT..=365 * DAY)),
        }
    }
}
