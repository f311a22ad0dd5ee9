//! Every metric: its name, type, labels, help text, and the typed calls that record it.
//!
//! Handles are resolved once (per lane, topic, partition), so recording is an atomic add without a lookup.
//! Label values come from closed sets, the configuration, or the assigned partitions, never from records.
//! Only this file and its children name `prometheus`; they never decide anything.
//!
//! Histograms carry no exemplars: the `prometheus` crate (0.14) neither keeps any nor writes OpenMetrics, the only format
//! that has a place for them. Trace ids are in spans and logs.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
    core::{Collector, MetricVec, MetricVecBuilder},
};

use self::{
    broker::{Broker, Brokers, Client},
    certificate::Certificates,
    endpoint::{Endpoints, RESULTS},
};
use crate::{
    notices::Kind,
    pipeline::{delivery::now, outcome::Reason},
};

pub mod broker;
mod certificate;
pub mod endpoint;

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Seconds from an event's Kafka timestamp to its 2xx. Fine below a second, where healthy deliveries are; 5 s,
/// 60 s and 3,600 s are there exactly, because objectives are written in them.
const LATENCY_BUCKETS: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0];

/// Seconds of one attempt; the default time-out (15 s) is a bound, and so is twice of it.
const ATTEMPT_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0];

/// Why an event, or an event for one endpoint, needs no delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmatched {
    /// No endpoint wants it.
    NoEndpoint,
    /// It has no value.
    Tombstone,
    /// An endpoint's filter refused it.
    Filtered,
}

/// Why a partition began a new life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// The log was cut off at its end.
    Truncated,
    /// The position is not in the log.
    OutOfRange,
    /// The topic was deleted and made again.
    Recreated,
}

/// What happened to our share of the group's partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebalance {
    /// Partitions came.
    Assign,
    /// Partitions were taken, with time to commit.
    Revoke,
    /// Partitions were taken without.
    Lost,
}

/// What became of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noticed {
    /// It is on its topic.
    Ok,
    /// It was left out: another one tells its count, or it was about the delivery of a notice.
    Suppressed,
    /// It was not written.
    Error,
}

/// What the window holds, asked for at each scrape so that counting costs a delivery nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Window {
    /// Deliveries held.
    pub in_flight: usize,
    /// Bytes held.
    pub in_flight_bytes: usize,
    /// Share of the window in use, 0 to 1.
    pub used_ratio: f64,
}

/// All metrics of one process; clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    families: Arc<Families>,
    /// Endpoints with series of their own at most.
    max_series: usize,
    endpoints: Mutex<Endpoints>,
    topics: Mutex<HashMap<String, Arc<Topic>>>,
    partitions: Mutex<BTreeMap<(String, i32), Partition>>,
    brokers: Mutex<Brokers>,
    certificates: Mutex<Certificates>,
    /// Not there before it is known: 0 would say that the clocks agree.
    clock_skew: OnceLock<Gauge>,
    window: OnceLock<Box<dyn Fn() -> Window + Send + Sync>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Metrics with at most `max_endpoint_series` endpoints that have series of their own.
    pub fn new(max_endpoint_series: usize) -> Self {
        let registry = Registry::new();
        let families = Arc::new(Families::new(&registry));
        register_process(&registry);
        families.build_info.with_label_values(&[env!("CARGO_PKG_VERSION"), crate::REVISION]).set(1);
        families.last_reload_success.set(1);
        Self(Arc::new(Inner {
            registry,
            families,
            max_series: max_endpoint_series,
            endpoints: Mutex::default(),
            topics: Mutex::default(),
            partitions: Mutex::default(),
            brokers: Mutex::default(),
            certificates: Mutex::default(),
            clock_skew: OnceLock::new(),
            window: OnceLock::new(),
        }))
    }

    /// Takes over the configured endpoints, each with whether it is enabled, in the order of the configuration.
    ///
    /// Those with series keep them; what is left goes to new ones, first come, first served. The series of a removed
    /// endpoint go when nothing holds its handle any more.
    pub fn set_endpoints<'a>(&self, configured: impl IntoIterator<Item = (&'a str, bool)>) {
        let configured: Vec<(&str, bool)> = configured.into_iter().collect();
        self.0.families.endpoints.set(gauge_value(configured.len()));
        lock(&self.0.endpoints).configure(&self.0.families, self.0.max_series, &configured);
    }

    /// A configured endpoint is enabled, or is not, whatever its configuration says.
    pub fn set_endpoint_enabled(&self, id: &str, enabled: bool) {
        lock(&self.0.endpoints).set_enabled(&self.0.families, id, enabled);
    }

    /// Takes over which endpoints were disabled by what they answered, each with the reason. Those that their
    /// configuration disables are not among them.
    pub fn set_disabled<'a>(&self, disabled: impl IntoIterator<Item = (&'a str, &'static str)>) {
        lock(&self.0.endpoints).set_disabled(&self.0.families, disabled);
    }

    /// A configured endpoint was disabled by what it answered, for this reason, or is not.
    pub fn set_endpoint_disabled(&self, id: &str, reason: Option<&'static str>) {
        lock(&self.0.endpoints).set_endpoint_disabled(&self.0.families, id, reason);
    }

    /// How far the own queues are behind in the partitions that this process reads for them; there are no others.
    pub fn own_queue_lags<'a>(&self, lags: impl IntoIterator<Item = (&'a str, i64)>) {
        lock(&self.0.endpoints).set_own_queue_lags(&self.0.families, lags);
    }

    /// The handle of an endpoint; of the shared series when it has none of its own. Ask once per lane.
    pub fn endpoint(&self, id: &str) -> Arc<endpoint::Endpoint> {
        lock(&self.0.endpoints).handle(&self.0.families, id)
    }

    /// The gauges of a lane that begins now; what it set is taken back when it is dropped.
    pub fn lane(&self, id: &str) -> endpoint::Lane {
        endpoint::Lane::new(self.endpoint(id))
    }

    /// The handle of a source topic. Ask once per partition task.
    pub fn topic(&self, topic: &str) -> Arc<Topic> {
        let mut topics = lock(&self.0.topics);
        if let Some(known) = topics.get(topic) {
            return Arc::clone(known);
        }
        let handle = Arc::new(Topic::new(&self.0.families, topic));
        topics.insert(topic.to_owned(), Arc::clone(&handle));
        handle
    }

    /// The handle of one of our own topics that we produce to.
    pub fn produced(&self, topic: &str) -> Produced {
        let counter = |result| self.0.families.produced.with_label_values(&[topic, result]);
        Produced { ok: counter("ok"), error: counter("error") }
    }

    /// The gauges of a partition that was assigned.
    pub fn add_partition(&self, topic: &str, partition: i32) -> Partition {
        let mut partitions = lock(&self.0.partitions);
        let key = (topic.to_owned(), partition);
        if let Some(known) = partitions.get(&key) {
            return known.clone();
        }
        let gauges = Partition::register(&self.0.registry, topic, partition);
        partitions.insert(key, gauges.clone());
        self.0.families.assigned_partitions.with_label_values(&[topic]).inc();
        gauges
    }

    /// The gauges of a partition that is ours; `None` when it is not (any more).
    pub fn partition(&self, topic: &str, partition: i32) -> Option<Partition> {
        lock(&self.0.partitions).get(&(topic.to_owned(), partition)).cloned()
    }

    /// Takes the series of a partition away that is ours no more; a handle still held writes into the void.
    pub fn remove_partition(&self, topic: &str, partition: i32) {
        if let Some(gauges) = lock(&self.0.partitions).remove(&(topic.to_owned(), partition)) {
            gauges.unregister(&self.0.registry);
            self.0.families.assigned_partitions.with_label_values(&[topic]).dec();
        }
    }

    /// Says whom to ask what the window holds; the first one stays.
    pub fn watch_window(&self, read: impl Fn() -> Window + Send + Sync + 'static) {
        self.0.window.get_or_init(|| Box::new(read));
    }

    /// Retry and dead-letter records that were handed to the producer, or (negative) acknowledged or given up.
    pub fn produce_pending(&self, change: i64) {
        self.0.families.produce_pending.add(change);
    }

    /// A partition began a new life.
    pub fn partition_reset(&self, reason: Reset) {
        let label = match reason {
            Reset::Truncated => "truncated",
            Reset::OutOfRange => "out_of_range",
            Reset::Recreated => "recreated",
        };
        self.0.families.partition_resets.with_label_values(&[label]).inc();
    }

    /// A ticket was dropped unsettled.
    pub fn ticket_lost(&self) {
        self.0.families.tickets_lost.inc();
    }

    /// A record of the attempt log was lost.
    pub fn attempt_record_dropped(&self) {
        self.0.families.attempt_log_dropped.inc();
    }

    /// Tickets dropped unsettled so far.
    pub fn tickets_lost(&self) -> u64 {
        self.0.families.tickets_lost.get()
    }

    /// Does work stand still that nothing holds back?
    pub fn stalled(&self, so: bool) {
        self.0.families.stalled.set(i64::from(so));
    }

    /// The brokers' clock minus ours.
    pub fn clock_skew(&self, seconds: f64) {
        const HELP: &str =
            "The brokers' clock minus ours, from append times of our own records; absent before the first.";
        let gauge =
            || registered(&self.0.registry, Gauge::with_opts(Opts::new("arauto_clock_skew_seconds", HELP)));
        self.0.clock_skew.get_or_init(gauge).set(seconds);
    }

    /// How the brokers answered one of our clients lately; those not among them have gone.
    pub fn brokers(&self, client: Client, brokers: &[Broker]) {
        lock(&self.0.brokers).show(&self.0.families, client, brokers);
    }

    /// So many spans will not reach the collector.
    pub fn spans_dropped(&self, spans: u64) {
        self.0.families.spans_dropped.inc_by(spans);
    }

    /// An offset commit was acknowledged, or was not.
    pub fn commit(&self, ok: bool) {
        self.0.families.commits.with_label_values(&[ok_or_error(ok)]).inc();
    }

    /// Our share of the group's partitions changed.
    pub fn rebalance(&self, kind: Rebalance) {
        let label = match kind {
            Rebalance::Assign => "assign",
            Rebalance::Revoke => "revoke",
            Rebalance::Lost => "lost",
        };
        self.0.families.rebalances.with_label_values(&[label]).inc();
    }

    /// The configuration was read again and taken over, or rejected.
    pub fn reload(&self, ok: bool) {
        let label = if ok { "ok" } else { "rejected" };
        self.0.families.reloads.with_label_values(&[label]).inc();
        self.0.families.last_reload_success.set(i64::from(ok));
    }

    /// Until when the certificates of receivers are valid, in unix milliseconds, as far as they have shown any.
    pub fn certificates<'a>(&self, ends: impl Iterator<Item = (&'a str, i64)>) {
        let endpoints = lock(&self.0.endpoints);
        let labelled = ends.map(|(id, end)| (endpoints.label(id).to_owned(), end));
        lock(&self.0.certificates).set(labelled);
    }

    /// Notices will be written: their series begin.
    pub fn begin_notices(&self) {
        for kind in Kind::ALL {
            for result in ["ok", "suppressed", "error"] {
                self.0.families.notices.with_label_values(&[kind.as_str(), result]);
            }
        }
    }

    /// Something became of a notice.
    pub fn noticed(&self, kind: Kind, result: Noticed) {
        let result = match result {
            Noticed::Ok => "ok",
            Noticed::Suppressed => "suppressed",
            Noticed::Error => "error",
        };
        self.0.families.notices.with_label_values(&[kind.as_str(), result]).inc();
    }

    /// Everything in the text format.
    pub fn render(&self) -> String {
        lock(&self.0.endpoints).sweep(&self.0.families);
        lock(&self.0.certificates).show(&self.0.families, now());
        if let Some(read) = self.0.window.get() {
            let window = read();
            self.0.families.in_flight.set(gauge_value(window.in_flight));
            self.0.families.in_flight_bytes.set(gauge_value(window.in_flight_bytes));
            self.0.families.window_used_ratio.set(window.used_ratio);
        }
        let families = self.0.registry.gather();
        TextEncoder::new().encode_to_string(&families).expect("gathered families have names and series")
    }
}

/// What one source topic's events count into.
#[derive(Debug)]
pub struct Topic {
    events: IntCounter,
    unmatched: [IntCounter; 3],
    lost: IntCounter,
}

impl Topic {
    fn new(families: &Families, topic: &str) -> Self {
        let reasons = ["no_endpoint", "tombstone", "filtered"];
        Self {
            events: families.events.with_label_values(&[topic]),
            unmatched: reasons.map(|reason| families.unmatched.with_label_values(&[topic, reason])),
            lost: families.events_lost.with_label_values(&[topic]),
        }
    }

    /// An event was read.
    pub fn event(&self) {
        self.events.inc();
    }

    /// An event, or an event for one endpoint, needs no delivery.
    pub fn unmatched(&self, reason: Unmatched) {
        self.unmatched[reason as usize].inc();
    }

    /// So many offsets were gone before they were read.
    pub fn lost(&self, offsets: u64) {
        self.lost.inc_by(offsets);
    }
}

/// What records produced to one of our own topics count into.
#[derive(Debug, Clone)]
pub struct Produced {
    ok: IntCounter,
    error: IntCounter,
}

impl Produced {
    /// The brokers acknowledged a record.
    pub fn ok(&self) {
        self.ok.inc();
    }

    /// A record was not acknowledged; it will be sent again.
    pub fn error(&self) {
        self.error.inc();
    }
}

/// The gauges of one assigned partition; clones share them.
#[derive(Debug, Clone)]
pub struct Partition {
    lag: IntGauge,
    oldest: Gauge,
}

impl Partition {
    // Each gauge is registered by itself: the crate's vectors tell children apart by a hash of the label values
    // without separators, in which partition 12 of `orders` and partition 2 of `orders1` are one.
    fn register(registry: &Registry, topic: &str, partition: i32) -> Self {
        let opts = |name, help| {
            Opts::new(name, help).const_label("topic", topic).const_label("partition", partition.to_string())
        };
        let lag = opts("arauto_partition_lag", "High watermark minus committed offset.");
        let oldest = opts(
            "arauto_partition_oldest_unsettled_seconds",
            "Age of the oldest event not yet settled, or not yet read; 0 when none.",
        );
        Self {
            lag: registered(registry, IntGauge::with_opts(lag)),
            oldest: registered(registry, Gauge::with_opts(oldest)),
        }
    }

    fn unregister(&self, registry: &Registry) {
        registry.unregister(Box::new(self.lag.clone())).expect("it was registered when it was made");
        registry.unregister(Box::new(self.oldest.clone())).expect("it was registered when it was made");
    }

    /// High watermark minus committed offset.
    pub fn lag(&self, records: i64) {
        self.lag.set(records);
    }

    /// Age of the oldest event not yet settled, or not yet read; zero when none.
    pub fn oldest_unsettled(&self, age: Duration) {
        self.oldest.set(age.as_secs_f64());
    }
}

struct Families {
    events: IntCounterVec,
    unmatched: IntCounterVec,
    opened: IntCounterVec,
    attempts: IntCounterVec,
    attempt_duration: HistogramVec,
    deliveries: IntCounterVec,
    dead: IntCounterVec,
    retries: IntCounterVec,
    parked: IntCounterVec,
    latency: HistogramVec,
    throttled: IntCounterVec,
    lane_queued: IntGaugeVec,
    lane_in_flight: IntGaugeVec,
    lane_concurrency_limit: IntGaugeVec,
    lane_waiting: IntGaugeVec,
    breaker_state: IntGaugeVec,
    endpoint_enabled: IntGaugeVec,
    endpoint_disabled: IntGaugeVec,
    own_queue_lag: IntGaugeVec,
    stalled: IntGauge,
    in_flight: IntGauge,
    in_flight_bytes: IntGauge,
    window_used_ratio: Gauge,
    produce_pending: IntGauge,
    partition_resets: IntCounterVec,
    events_lost: IntCounterVec,
    tickets_lost: IntCounter,
    attempt_log_dropped: IntCounter,
    broker_round_trip: GaugeVec,
    broker_waiting: IntGaugeVec,
    certificate_expiry: GaugeVec,
    spans_dropped: IntCounter,
    notices: IntCounterVec,
    commits: IntCounterVec,
    produced: IntCounterVec,
    rebalances: IntCounterVec,
    assigned_partitions: IntGaugeVec,
    endpoints: IntGauge,
    reloads: IntCounterVec,
    last_reload_success: IntGauge,
    build_info: IntGaugeVec,
}

impl Families {
    #[rustfmt::skip] // One metric per line, and one place to read them all.
    fn new(registry: &Registry) -> Self {
        let counters = |name, labels: &[&str], help| registered(registry, IntCounterVec::new(Opts::new(name, help), labels));
        let gauges = |name, labels: &[&str], help| registered(registry, IntGaugeVec::new(Opts::new(name, help), labels));
        let gauge = |name, help| registered(registry, IntGauge::with_opts(Opts::new(name, help)));
        let ratio = |name, help| registered(registry, Gauge::with_opts(Opts::new(name, help)));
        let histograms = |name, buckets: &[f64], help| {
            registered(registry, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), &["endpoint"]))
        };
        let families = Self {
            events: counters("arauto_events_total", &["topic"], "Events read from source topics (retry topics not counted)."),
            unmatched: counters("arauto_events_unmatched_total", &["topic", "reason"], "Events, or (event, endpoint) pairs for `filtered`, that need no delivery."),
            opened: counters("arauto_deliveries_opened_total", &["endpoint", "from"], "Deliveries that began."),
            attempts: counters("arauto_attempts_total", &["endpoint", "result"], "HTTP attempts."),
            attempt_duration: histograms("arauto_attempt_duration_seconds", ATTEMPT_BUCKETS, "One attempt, response body included."),
            deliveries: counters("arauto_deliveries_total", &["endpoint", "outcome"], "Deliveries that ended."),
            dead: counters("arauto_dead_total", &["endpoint", "reason"], "Dead letters written."),
            retries: counters("arauto_retries_total", &["endpoint", "reason"], "Attempts that failed and will be made again."),
            parked: counters("arauto_parked_total", &["endpoint", "reason"], "Deliveries produced to a retry topic without an attempt."),
            latency: histograms("arauto_delivery_latency_seconds", LATENCY_BUCKETS, "From an event's Kafka timestamp to its 2xx."),
            throttled: counters("arauto_throttled_total", &["endpoint"], "Deliveries that had to wait for the rate limiter."),
            lane_queued: gauges("arauto_lane_queued", &["endpoint"], "Deliveries in the lane's queue."),
            lane_in_flight: gauges("arauto_lane_in_flight", &["endpoint"], "The lane's attempts under way."),
            lane_concurrency_limit: gauges("arauto_lane_concurrency_limit", &["endpoint"], "Most attempts the lane may have under way."),
            lane_waiting: gauges("arauto_lane_waiting", &["endpoint"], "Deliveries held in memory until they are due."),
            breaker_state: gauges("arauto_breaker_state", &["endpoint"], "The breaker: 0 closed, 1 probing, 2 open."),
            endpoint_enabled: gauges("arauto_endpoint_enabled", &["endpoint"], "1 if the endpoint is enabled, 0 if not; for `_other` how many of them are."),
            endpoint_disabled: gauges("arauto_endpoint_disabled", &["endpoint", "reason"], "1 if the endpoint was disabled by what it answered, not by its configuration; for `_other` how many were."),
            own_queue_lag: gauges("arauto_own_queue_lag", &["endpoint"], "Records that the endpoint's own queue has not settled, in the partitions this instance reads for it."),
            stalled: gauge("arauto_stalled", "1 if work stands still that nothing holds back (what, says /readyz), else 0."),
            in_flight: gauge("arauto_in_flight", "Deliveries held in memory."),
            in_flight_bytes: gauge("arauto_in_flight_bytes", "Bytes of deliveries held in memory."),
            window_used_ratio: ratio("arauto_window_used_ratio", "Share in use of what lanes may fill of the window, 0 to 1; near 1 for long: add instances."),
            produce_pending: gauge("arauto_produce_pending", "Retry and dead-letter records not acknowledged yet."),
            partition_resets: counters("arauto_partition_resets_total", &["reason"], "Times the log of a partition changed under us."),
            events_lost: counters("arauto_events_lost_total", &["topic"], "Offsets that retention or truncation took before they were read."),
            attempt_log_dropped: registered(registry, IntCounter::new("arauto_attempt_log_dropped_total", "Records of the attempt log ([attempts]) dropped because it could not be written in time.")),
            tickets_lost: registered(registry, IntCounter::new("arauto_tickets_lost_total", "Tickets dropped unsettled; must stay 0.")),
            broker_round_trip: registered(registry, GaugeVec::new(Opts::new("arauto_broker_round_trip_seconds", "From a request of a client of ours to the broker's answer, mean of the last 15 s; what a fetch waits for records is in it. Absent when nothing was asked."), &["broker", "client"])),
            broker_waiting: gauges("arauto_broker_requests_waiting", &["broker", "client"], "Requests to the broker without an answer yet."),
            certificate_expiry: registered(registry, GaugeVec::new(Opts::new("arauto_certificate_expiry_seconds", "Time left of the certificate that an https endpoint's receiver showed last, below 0 when it has expired; absent before a connection was made. For `_other` the least of them."), &["endpoint"])),
            spans_dropped: registered(registry, IntCounter::new("arauto_spans_dropped_total", "Spans that did not reach the collector: too many at once, or not taken in time.")),
            notices: counters("arauto_notices_total", &["kind", "result"], "Notices written (`ok`), left out by their limits or because they were about deliveries of notices (`suppressed`), not written (`error`)."),
            commits: counters("arauto_commits_total", &["result"], "Offset commits."),
            produced: counters("arauto_produced_total", &["topic", "result"], "Records to retry and dead-letter topics."),
            rebalances: counters("arauto_rebalances_total", &["kind"], "Changes of the partitions assigned to this instance."),
            assigned_partitions: gauges("arauto_assigned_partitions", &["topic"], "Partitions assigned to this instance."),
            endpoints: gauge("arauto_endpoints", "Endpoints loaded."),
            reloads: counters("arauto_config_reloads_total", &["result"], "Times the configuration was read again."),
            last_reload_success: gauge("arauto_config_last_reload_success", "1 if the configuration in use is the last one read, 0 if that was rejected."),
            build_info: gauges("arauto_build_info", &["version", "revision"], "What was built; always 1."),
        };
        families.begin_process();
        families
    }

    /// Makes the process-wide series of closed sets, so that a rate over them is right from the first count.
    fn begin_process(&self) {
        let sets: [(&IntCounterVec, &[&str]); 4] = [
            (&self.partition_resets, &["truncated", "out_of_range", "recreated"]),
            (&self.commits, &["ok", "error"]),
            (&self.rebalances, &["assign", "revoke", "lost"]),
            (&self.reloads, &["ok", "rejected"]),
        ];
        for (family, values) in sets {
            for value in values {
                family.with_label_values(&[value]);
            }
        }
    }

    /// Makes the series every known endpoint has, before its lane first runs.
    fn begin(&self, endpoint: &str, enabled: bool) {
        self.endpoint_enabled.with_label_values(&[endpoint]).set(i64::from(enabled));
        self.opened.with_label_values(&[endpoint, "source"]);
        for outcome in OUTCOMES {
            self.deliveries.with_label_values(&[endpoint, outcome]);
        }
        // Objectives compare it with what was opened: both have to begin at zero.
        self.latency.with_label_values(&[endpoint]);
    }

    /// Takes all series of an endpoint away.
    fn end(&self, endpoint: &str) {
        for gauges in [
            &self.lane_queued,
            &self.lane_in_flight,
            &self.lane_concurrency_limit,
            &self.lane_waiting,
            &self.breaker_state,
            &self.endpoint_enabled,
        ] {
            forget(gauges, &[endpoint]);
        }
        forget(&self.attempt_duration, &[endpoint]);
        forget(&self.latency, &[endpoint]);
        forget(&self.throttled, &[endpoint]);
        let reasons = Reason::ALL.map(Reason::as_str);
        let sets: [(&IntCounterVec, &[&str]); 6] = [
            (&self.opened, &["source", "replay"]),
            (&self.attempts, &RESULTS),
            (&self.deliveries, &OUTCOMES),
            (&self.dead, &reasons),
            (&self.retries, &reasons),
            (&self.parked, &reasons),
        ];
        for (family, values) in sets {
            for value in values {
                forget(family, &[endpoint, value]);
            }
        }
    }
}

const OUTCOMES: [&str; 4] = ["delivered", "dead", "dropped", "moved"];

fn ok_or_error(ok: bool) -> &'static str {
    if ok { "ok" } else { "error" }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let collector = made.expect("names, labels and buckets are constants that a test has made");
    registry.register(Box::new(collector.clone())).expect("names are distinct");
    collector
}

#[cfg(target_os = "linux")]
fn register_process(registry: &Registry) {
    let process = prometheus::process_collector::ProcessCollector::for_self();
    registry.register(Box::new(process)).expect("names are distinct");
}

#[cfg(not(target_os = "linux"))] // The collector reads /proc.
fn register_process(_: &Registry) {}

/// Removes one series; one that was never made is none to remove.
fn forget<T: MetricVecBuilder>(family: &MetricVec<T>, values: &[&str]) {
    family.remove_label_values(values).ok();
}

/// A count as a gauge's value.
fn gauge_value(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The maps behind these locks are whole after every statement, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{endpoint::Park, *};
    use crate::pipeline::outcome::AttemptResult;

    /// Copied from the contract.
    const CONTRACT: &[(&str, &str, &[&str])] = &[
        ("arauto_assigned_partitions", "gauge", &["topic"]),
        ("arauto_attempt_duration_seconds", "histogram", &["endpoint"]),
        ("arauto_attempt_log_dropped_total", "counter", &[]),
        ("arauto_attempts_total", "counter", &["endpoint", "result"]),
        ("arauto_breaker_state", "gauge", &["endpoint"]),
        ("arauto_broker_requests_waiting", "gauge", &["broker", "client"]),
        ("arauto_broker_round_trip_seconds", "gauge", &["broker", "client"]),
        ("arauto_build_info", "gauge", &["revision", "version"]),
        ("arauto_certificate_expiry_seconds", "gauge", &["endpoint"]),
        ("arauto_clock_skew_seconds", "gauge", &[]),
        ("arauto_commits_total", "counter", &["result"]),
        ("arauto_config_last_reload_success", "gauge", &[]),
        ("arauto_config_reloads_total", "counter", &["result"]),
        ("arauto_dead_total", "counter", &["endpoint", "reason"]),
        ("arauto_deliveries_opened_total", "counter", &["endpoint", "from"]),
        ("arauto_deliveries_total", "counter", &["endpoint", "outcome"]),
        ("arauto_delivery_latency_seconds", "histogram", &["endpoint"]),
        ("arauto_endpoint_disabled", "gauge", &["endpoint", "reason"]),
        ("arauto_endpoint_enabled", "gauge", &["endpoint"]),
        ("arauto_endpoints", "gauge", &[]),
        ("arauto_events_lost_total", "counter", &["topic"]),
        ("arauto_events_total", "counter", &["topic"]),
        ("arauto_events_unmatched_total", "counter", &["reason", "topic"]),
        ("arauto_in_flight", "gauge", &[]),
        ("arauto_in_flight_bytes", "gauge", &[]),
        ("arauto_lane_concurrency_limit", "gauge", &["endpoint"]),
        ("arauto_lane_in_flight", "gauge", &["endpoint"]),
        ("arauto_lane_queued", "gauge", &["endpoint"]),
        ("arauto_lane_waiting", "gauge", &["endpoint"]),
        ("arauto_notices_total", "counter", &["kind", "result"]),
        ("arauto_own_queue_lag", "gauge", &["endpoint"]),
        ("arauto_parked_total", "counter", &["endpoint", "reason"]),
        ("arauto_partition_lag", "gauge", &["partition", "topic"]),
        ("arauto_partition_oldest_unsettled_seconds", "gauge", &["partition", "topic"]),
        ("arauto_partition_resets_total", "counter", &["reason"]),
        ("arauto_produce_pending", "gauge", &[]),
        ("arauto_produced_total", "counter", &["result", "topic"]),
        ("arauto_rebalances_total", "counter", &["kind"]),
        ("arauto_retries_total", "counter", &["endpoint", "reason"]),
        ("arauto_spans_dropped_total", "counter", &[]),
        ("arauto_stalled", "gauge", &[]),
        ("arauto_throttled_total", "counter", &["endpoint"]),
        ("arauto_tickets_lost_total", "counter", &[]),
        ("arauto_window_used_ratio", "gauge", &[]),
    ];

    fn with_one_of_each() -> Metrics {
        let metrics = Metrics::new(10);
        metrics.set_endpoints([("crm", true)]);
        let crm = metrics.endpoint("crm");
        crm.attempt(AttemptResult::Status(200), Duration::from_millis(20));
        crm.dead(Reason::Exhausted);
        crm.retried(Reason::Timeout);
        crm.parked(Park::Throttled);
        metrics.topic("orders").event();
        metrics.produced("arauto.dead").ok();
        metrics.add_partition("orders", 0).lag(7);
        metrics.clock_skew(-0.25);
        metrics.begin_notices();
        metrics.certificates([("crm", 0)].into_iter());
        metrics.render();
        let round_trip = Some(Duration::from_millis(2));
        metrics.brokers(Client::Producer, &[Broker { id: 1, round_trip, waiting: 1 }]);
        metrics.set_endpoint_disabled("crm", Some("gone"));
        metrics.own_queue_lags([("crm", 7)]);
        metrics
    }

    #[test]
    fn names_types_and_labels_are_the_contract() {
        let metrics = with_one_of_each();
        let _lane = metrics.lane("crm");
        let families = metrics.0.registry.gather();
        let found: Vec<(String, String, Vec<String>)> = families
            .iter()
            .filter(|family| !family.name().starts_with("process_"))
            .map(|family| {
                let kind = format!("{:?}", family.get_field_type()).to_lowercase();
                let labels = family.get_metric()[0].get_label();
                let mut labels: Vec<String> = labels.iter().map(|label| label.name().to_owned()).collect();
                labels.sort();
                (family.name().to_owned(), kind, labels)
            })
            .collect();
        let contract = CONTRACT.iter().map(|(name, kind, labels)| {
            ((*name).to_owned(), (*kind).to_owned(), labels.iter().map(|&label| label.to_owned()).collect())
        });
        assert_eq!(found, contract.collect::<Vec<_>>());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_is_there() {
        let text = Metrics::new(1).render();
        for name in ["process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"] {
            assert!(text.contains(&format!("\n{name} ")), "{name}");
        }
    }

    /// The value of one series as it is rendered; `None` when it is not there.
    fn value(metrics: &Metrics, series: &str) -> Option<f64> {
        let text = metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    #[test]
    fn known_endpoints_begin_at_zero() {
        let metrics = Metrics::new(10);
        metrics.set_endpoints([("crm", true), ("erp", false)]);
        for (series, expected) in [
            (r#"arauto_deliveries_total{endpoint="crm",outcome="dead"}"#, Some(0.0)),
            (r#"arauto_deliveries_opened_total{endpoint="erp",from="source"}"#, Some(0.0)),
            (r#"arauto_endpoint_enabled{endpoint="crm"}"#, Some(1.0)),
            (r#"arauto_endpoint_enabled{endpoint="erp"}"#, Some(0.0)),
            (r#"arauto_endpoint_enabled{endpoint="_other"}"#, None),
            (r#"arauto_dead_total{endpoint="crm",reason="gone"}"#, None),
            (r#"arauto_delivery_latency_seconds_count{endpoint="erp"}"#, Some(0.0)),
            ("arauto_endpoints", Some(2.0)),
            ("arauto_config_last_reload_success", Some(1.0)),
            ("arauto_clock_skew_seconds", None),
            (r#"arauto_commits_total{result="error"}"#, Some(0.0)),
        ] {
            assert_eq!(value(&metrics, series), expected, "{series}");
        }
    }

    #[test]
    fn series_go_with_the_endpoint_and_first_come_first_served() {
        let metrics = Metrics::new(2);
        let dropped = |id: &str| {
            value(&metrics, &format!(r#"arauto_deliveries_total{{endpoint="{id}",outcome="dropped"}}"#))
        };
        metrics.set_endpoints([("a", true), ("b", true), ("c", true), ("d", false)]);
        for id in ["a", "b", "c", "d", "never-heard-of"] {
            metrics.endpoint(id).dropped();
        }
        assert_eq!(["a", "b", "c", "_other"].map(dropped), [Some(1.0), Some(1.0), None, Some(3.0)]);
        assert_eq!(value(&metrics, r#"arauto_endpoint_enabled{endpoint="_other"}"#), Some(1.0));

        let enabled = |id: &str| value(&metrics, &format!(r#"arauto_endpoint_enabled{{endpoint="{id}"}}"#));
        for (id, so, expected) in [("c", false, 0.0), ("c", false, 0.0), ("d", true, 1.0), ("c", true, 2.0)] {
            metrics.set_endpoint_enabled(id, so);
            assert_eq!((enabled("_other"), enabled(id)), (Some(expected), None), "{id} {so}");
        }
        metrics.set_endpoint_enabled("a", false);
        assert_eq!((enabled("a"), enabled("b")), (Some(0.0), Some(1.0)));

        let held = metrics.endpoint("a");
        metrics.set_endpoints([("d", true), ("b", true), ("c", true)]);
        metrics.endpoint("d").dropped();
        assert_eq!(["a", "b", "c", "d"].map(dropped), [Some(1.0), Some(1.0), None, Some(1.0)]);
        drop(held);
        assert_eq!(["a", "b", "d"].map(dropped), [None, Some(1.0), Some(1.0)]);
        assert!(!metrics.render().contains(r#"endpoint="a""#));
    }

    #[test]
    fn the_disabled_are_shown_with_their_reason_and_those_that_share_a_series_are_counted() {
        let metrics = Metrics::new(1);
        metrics.set_endpoints([("a", true), ("b", true), ("c", true)]);
        let disabled = |id: &str, reason: &str| {
            let series = format!(r#"arauto_endpoint_disabled{{endpoint="{id}",reason="{reason}"}}"#);
            value(&metrics, &series)
        };
        let shown =
            || [("a", "gone"), ("a", "failing"), ("_other", "gone")].map(|(id, reason)| disabled(id, reason));
        assert_eq!(shown(), [None; 3]);
        for (id, reason, expected) in [
            ("a", Some("gone"), [Some(1.0), None, None]),
            ("b", Some("gone"), [Some(1.0), None, Some(1.0)]),
            ("c", Some("gone"), [Some(1.0), None, Some(2.0)]),
            ("a", Some("failing"), [None, Some(1.0), Some(2.0)]),
            ("b", None, [None, Some(1.0), Some(1.0)]),
            ("a", None, [None, None, Some(1.0)]),
        ] {
            metrics.set_endpoint_disabled(id, reason);
            assert_eq!(shown(), expected, "{id} {reason:?}");
        }
        // `a` goes: `b` and `c` are told apart from then on, and nothing of before is left.
        metrics.set_endpoints([("b", true), ("c", true)]);
        metrics.set_disabled([("b", "gone"), ("c", "gone")]);
        assert_eq!((disabled("b", "gone"), disabled("_other", "gone")), (Some(1.0), Some(1.0)));
        metrics.set_disabled([]);
        assert_eq!((disabled("b", "gone"), disabled("_other", "gone")), (None, None));
    }

    #[test]
    fn lags_of_own_queues_go_with_the_queue() {
        let metrics = Metrics::new(1);
        metrics.set_endpoints([("a", true), ("b", true), ("c", true)]);
        let lag = |id: &str| value(&metrics, &format!(r#"arauto_own_queue_lag{{endpoint="{id}"}}"#));
        metrics.own_queue_lags([("a", 5), ("b", 2), ("c", 1)]);
        assert_eq!((lag("a"), lag("_other")), (Some(5.0), Some(3.0)));
        metrics.own_queue_lags([("a", 0)]);
        assert_eq!((lag("a"), lag("_other")), (Some(0.0), None));
    }

    #[test]
    fn an_endpoint_removed_and_added_again_while_held_keeps_its_series() {
        let metrics = Metrics::new(1);
        metrics.set_endpoints([("a", true)]);
        let held = metrics.endpoint("a");
        metrics.set_endpoints([]);
        metrics.set_endpoints([("a", true)]);
        held.dropped();
        drop(held);
        metrics.endpoint("a").dropped();
        assert_eq!(value(&metrics, r#"arauto_deliveries_total{endpoint="a",outcome="dropped"}"#), Some(2.0));
    }

    #[test]
    fn lanes_add_up_and_take_back() {
        let metrics = Metrics::new(0);
        let queued = || value(&metrics, r#"arauto_lane_queued{endpoint="_other"}"#);
        let limit = || value(&metrics, r#"arauto_lane_concurrency_limit{endpoint="_other"}"#);
        let (one, two) = (metrics.lane("one"), metrics.lane("two"));
        one.concurrency_limit.set(64);
        two.concurrency_limit.set(8);
        one.queued.set(5);
        two.queued.set(3);
        one.queued.set(4);
        two.queued.add(-1);
        assert_eq!((queued(), limit()), (Some(6.0), Some(72.0)));
        drop(one);
        assert_eq!((queued(), limit()), (Some(2.0), Some(8.0)));
    }

    #[test]
    fn partitions_whose_labels_run_together_are_two() {
        let metrics = Metrics::new(1);
        let lag = |topic, partition| {
            value(&metrics, &format!(r#"arauto_partition_lag{{partition="{partition}",topic="{topic}"}}"#))
        };
        metrics.add_partition("orders", 12).lag(1);
        metrics.add_partition("orders1", 2).lag(2);
        metrics.add_partition("orders", 12).oldest_unsettled(Duration::from_millis(1_500));
        assert_eq!((lag("orders", 12), lag("orders1", 2)), (Some(1.0), Some(2.0)));
        metrics.remove_partition("orders", 12);
        metrics.remove_partition("orders", 12);
        assert_eq!((lag("orders", 12), lag("orders1", 2)), (None, Some(2.0)));
        assert_eq!(value(&metrics, r#"arauto_assigned_partitions{topic="orders"}"#), Some(0.0));
        metrics.add_partition("orders", 12).lag(3);
        assert_eq!(lag("orders", 12), Some(3.0));
    }

    #[test]
    fn series_of_a_broker_go_with_it_and_are_its_clients() {
        let metrics = Metrics::new(1);
        let of = |name: &str, id: i32, client: &str| {
            value(&metrics, &format!(r#"{name}{{broker="{id}",client="{client}"}}"#))
        };
        let round_trip = |id, client| of("arauto_broker_round_trip_seconds", id, client);
        let broker = |id, millis: Option<u64>| Broker {
            id,
            round_trip: millis.map(Duration::from_millis),
            waiting: 1,
        };
        metrics.brokers(Client::Consumer, &[broker(1, Some(20)), broker(11, Some(30))]);
        metrics.brokers(Client::Producer, &[broker(1, Some(2))]);
        assert_eq!([1, 11].map(|id| round_trip(id, "consumer")), [Some(0.02), Some(0.03)]);
        metrics.brokers(Client::Consumer, &[broker(1, None)]);
        assert_eq!([1, 11].map(|id| round_trip(id, "consumer")), [None, None]);
        let waiting = [1, 11].map(|id| of("arauto_broker_requests_waiting", id, "consumer"));
        assert_eq!((waiting, round_trip(1, "producer")), ([Some(1.0), None], Some(0.002)));
    }

    #[test]
    fn time_left_is_worked_out_at_each_scrape_and_the_others_share_the_least() {
        let metrics = Metrics::new(1);
        metrics.set_endpoints([("a", true), ("b", true), ("c", true)]);
        let left =
            |id: &str| value(&metrics, &format!(r#"arauto_certificate_expiry_seconds{{endpoint="{id}"}}"#));
        let now = now();
        let ends = [("a", now + 3_600_000), ("b", now + 900_000), ("c", now - 60_000)];
        metrics.certificates(ends.into_iter());
        let first = left("a").unwrap();
        assert!((3_590.0..=3_600.0).contains(&first), "{first}");
        assert!((-70.0..=-60.0).contains(&left("_other").unwrap()));
        let deadline = std::time::SystemTime::now() + Duration::from_secs(5);
        while left("a") == Some(first) {
            assert!(std::time::SystemTime::now() < deadline, "it stands still");
        }
        metrics.certificates([("b", now + 900_000)].into_iter());
        assert!(left("a").is_none() && left("_other").unwrap() > 800.0);
    }

    #[test]
    fn the_window_is_asked_at_each_scrape() {
        let metrics = Metrics::new(1);
        assert_eq!(value(&metrics, "arauto_in_flight"), Some(0.0));
        metrics.watch_window(|| Window { in_flight: 3, in_flight_bytes: 3072, used_ratio: 0.5 });
        assert_eq!(value(&metrics, "arauto_in_flight"), Some(3.0));
        assert_eq!(value(&metrics, "arauto_in_flight_bytes"), Some(3072.0));
        assert_eq!(value(&metrics, "arauto_window_used_ratio"), Some(0.5));
    }
}
