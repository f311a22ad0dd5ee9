//! What one endpoint and its lane count into, and which endpoints have series of their own.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{Families, forget, gauge_value};
use crate::pipeline::outcome::{AttemptResult, Reason};

/// The label of endpoints that have no series of their own.
pub(super) const OTHER: &str = "_other";

/// How a delivery began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// With an event of a source topic.
    Source,
    /// With a dead letter put back on its way.
    Replay,
}

/// Why a delivery was parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the words of the contract.
pub enum Park {
    Throttled,
    Breaker,
    Paused,
    Shutdown,
    Full,
    UnknownEndpoint,
}

impl Park {
    const ALL: [Self; 6] =
        [Self::Throttled, Self::Breaker, Self::Paused, Self::Shutdown, Self::Full, Self::UnknownEndpoint];

    /// The same as a reason, for the record's header.
    pub fn reason(self) -> Reason {
        match self {
            Self::Throttled => Reason::Throttled,
            Self::Breaker => Reason::Breaker,
            Self::Paused => Reason::Paused,
            Self::Shutdown => Reason::Shutdown,
            Self::Full => Reason::Full,
            Self::UnknownEndpoint => Reason::UnknownEndpoint,
        }
    }
}

/// What one endpoint's deliveries count into.
///
/// The books of an endpoint: each delivery is [`opened`](Self::opened) once and ends in exactly one of
/// [`delivered`](Self::delivered), [`dead`](Self::dead), [`dropped`](Self::dropped) and [`moved`](Self::moved) (which
/// opens it again in the endpoint's own queue); between them it is in its
/// lane or, after [`retried`](Self::retried) or [`parked`](Self::parked), perhaps on a retry topic.
pub struct Endpoint {
    families: Arc<Families>,
    label: String,
    opened: [IntCounter; 2],
    delivered: IntCounter,
    dead_outcome: IntCounter,
    dropped: IntCounter,
    moved: IntCounter,
    throttled: IntCounter,
    attempt_duration: Histogram,
    latency: Histogram,
    // Most members of these sets never occur for an endpoint: their series are made when they first do.
    attempts: [OnceLock<IntCounter>; RESULTS.len()],
    dead: [OnceLock<IntCounter>; Reason::ALL.len()],
    retries: [OnceLock<IntCounter>; Reason::ALL.len()],
    parked: [OnceLock<IntCounter>; Park::ALL.len()],
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.label).finish()
    }
}

impl Endpoint {
    fn new(families: &Arc<Families>, label: &str) -> Self {
        let outcome = |outcome| families.deliveries.with_label_values(&[label, outcome]);
        Self {
            opened: ["source", "replay"].map(|from| families.opened.with_label_values(&[label, from])),
            delivered: outcome("delivered"),
            dead_outcome: outcome("dead"),
            dropped: outcome("dropped"),
            moved: outcome("moved"),
            throttled: families.throttled.with_label_values(&[label]),
            attempt_duration: families.attempt_duration.with_label_values(&[label]),
            latency: families.latency.with_label_values(&[label]),
            attempts: Default::default(),
            dead: std::array::from_fn(|_| OnceLock::new()),
            retries: std::array::from_fn(|_| OnceLock::new()),
            parked: Default::default(),
            families: Arc::clone(families),
            label: label.to_owned(),
        }
    }

    /// A delivery began. One read again from a retry topic does not begin.
    pub fn opened(&self, from: Origin) {
        self.opened[from as usize].inc();
    }

    /// An attempt was made.
    pub fn attempt(&self, result: AttemptResult, duration: Duration) {
        let index = result_index(result);
        let counter = self.attempts[index]
            .get_or_init(|| self.families.attempts.with_label_values(&[self.label.as_str(), RESULTS[index]]));
        counter.inc();
        self.attempt_duration.observe(duration.as_secs_f64());
    }

    /// A delivery ended with a 2xx; `latency` since the event's timestamp, if it has one.
    pub fn delivered(&self, latency: Option<Duration>) {
        self.delivered.inc();
        if let Some(latency) = latency {
            self.latency.observe(latency.as_secs_f64());
        }
    }

    /// A delivery ended: its dead letter is written.
    pub fn dead(&self, reason: Reason) {
        self.dead_outcome.inc();
        self.of_reason(&self.families.dead, &self.dead[reason as usize], reason.as_str()).inc();
    }

    /// A delivery ended without a dead letter (`on_removed = "drop"`).
    pub fn dropped(&self) {
        self.dropped.inc();
    }

    /// It ended here because its endpoint has a queue of its own now, which opens it again.
    pub fn moved(&self) {
        self.moved.inc();
    }

    /// An attempt failed and will be made again.
    pub fn retried(&self, reason: Reason) {
        self.of_reason(&self.families.retries, &self.retries[reason as usize], reason.as_str()).inc();
    }

    /// A delivery went to a retry topic without an attempt.
    pub fn parked(&self, why: Park) {
        self.of_reason(&self.families.parked, &self.parked[why as usize], why.reason().as_str()).inc();
    }

    /// A delivery had to wait for the rate limiter.
    pub fn throttled(&self) {
        self.throttled.inc();
    }

    fn of_reason<'a>(
        &self,
        family: &IntCounterVec,
        slot: &'a OnceLock<IntCounter>,
        reason: &'static str,
    ) -> &'a IntCounter {
        slot.get_or_init(|| family.with_label_values(&[self.label.as_str(), reason]))
    }
}

/// What one lane is doing now. Several lanes may share the `_other` series: each adds its own part.
#[derive(Debug)]
pub struct Lane {
    /// The counters of its endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Deliveries in its queue.
    pub queued: Gauge,
    /// Attempts under way.
    pub in_flight: Gauge,
    /// Most attempts in flight.
    pub concurrency_limit: Gauge,
    /// Deliveries held in memory until they are due.
    pub waiting: Gauge,
    /// Its breaker: 0 closed, 1 probing, 2 open. The lanes that share a series add up.
    pub breaker: Gauge,
}

impl Lane {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        let gauge = |family: &IntGaugeVec| Gauge {
            sum: family.with_label_values(&[&endpoint.label]),
            own: AtomicI64::new(0),
        };
        Self {
            queued: gauge(&endpoint.families.lane_queued),
            in_flight: gauge(&endpoint.families.lane_in_flight),
            concurrency_limit: gauge(&endpoint.families.lane_concurrency_limit),
            waiting: gauge(&endpoint.families.lane_waiting),
            breaker: gauge(&endpoint.families.breaker_state),
            endpoint,
        }
    }
}

/// One lane's part of a gauge; taken back when dropped.
#[derive(Debug)]
pub struct Gauge {
    sum: IntGauge,
    own: AtomicI64,
}

impl Gauge {
    /// Sets this lane's part.
    pub fn set(&self, value: usize) {
        let value = gauge_value(value);
        self.sum.add(value - self.own.swap(value, Ordering::Relaxed));
    }

    /// Changes this lane's part.
    pub fn add(&self, change: i64) {
        self.own.fetch_add(change, Ordering::Relaxed);
        self.sum.add(change);
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.sum.sub(*self.own.get_mut());
    }
}

/// Who has series of their own.
#[derive(Default)]
pub(super) struct Endpoints {
    slots: HashMap<String, Slot>,
    other: Option<Arc<Endpoint>>,
    /// Those without series of their own that are not enabled.
    others_disabled: HashSet<String>,
    /// Why endpoints were disabled by what they answered.
    reasons: HashMap<String, &'static str>,
    /// The series that show that, and those of own queues.
    shown_disabled: HashSet<(String, &'static str)>,
    shown_lags: HashSet<String>,
}

#[derive(Default)]
struct Slot {
    configured: bool,
    handle: Option<Arc<Endpoint>>,
}

impl Endpoints {
    pub(super) fn configure(&mut self, families: &Arc<Families>, max: usize, configured: &[(&str, bool)]) {
        for slot in self.slots.values_mut() {
            slot.configured = false;
        }
        for (id, _) in configured {
            if let Some(slot) = self.slots.get_mut(*id) {
                slot.configured = true;
            }
        }
        let mut room = max.saturating_sub(self.slots.values().filter(|slot| slot.configured).count());
        let mut sharing = 0;
        self.others_disabled.clear();
        for &(id, enabled) in configured {
            // `_other` is a legal id; such an endpoint shares the shared series.
            if id != OTHER && (self.slots.contains_key(id) || room > 0) {
                room -= usize::from(!self.slots.contains_key(id));
                self.slots.entry(id.to_owned()).or_default().configured = true;
                families.begin(id, enabled);
            } else {
                sharing += 1;
                self.others_disabled.extend((!enabled).then(|| id.to_owned()));
            }
        }
        if sharing > 0 {
            let enabled = gauge_value(sharing - self.others_disabled.len());
            families.endpoint_enabled.with_label_values(&[OTHER]).set(enabled);
        } else {
            forget(&families.endpoint_enabled, &[OTHER]);
        }
        self.sweep(families);
    }

    /// Of a configured endpoint.
    pub(super) fn set_enabled(&mut self, families: &Families, id: &str, enabled: bool) {
        let gauge = |label: &str| families.endpoint_enabled.with_label_values(&[label]);
        if self.slots.contains_key(id) {
            gauge(id).set(i64::from(enabled));
        } else if enabled && self.others_disabled.remove(id) {
            gauge(OTHER).inc();
        } else if !enabled && self.others_disabled.insert(id.to_owned()) {
            gauge(OTHER).dec();
        }
    }

    pub(super) fn set_disabled<'a>(
        &mut self,
        families: &Families,
        disabled: impl IntoIterator<Item = (&'a str, &'static str)>,
    ) {
        self.reasons = disabled.into_iter().map(|(id, reason)| (id.to_owned(), reason)).collect();
        self.show_disabled(families);
    }

    pub(super) fn set_endpoint_disabled(
        &mut self,
        families: &Families,
        id: &str,
        reason: Option<&'static str>,
    ) {
        let before = match reason {
            Some(reason) => self.reasons.insert(id.to_owned(), reason),
            None => self.reasons.remove(id),
        };
        // All of them are counted anew: not for each of many of which nothing changed.
        if before != reason {
            self.show_disabled(families);
        }
    }

    fn show_disabled(&mut self, families: &Families) {
        let mut counts: HashMap<(String, &'static str), i64> = HashMap::new();
        for (id, reason) in &self.reasons {
            *counts.entry((self.label(id).to_owned(), reason)).or_default() += 1;
        }
        for (label, reason) in self.shown_disabled.drain() {
            if !counts.contains_key(&(label.clone(), reason)) {
                forget(&families.endpoint_disabled, &[&label, reason]);
            }
        }
        for ((label, reason), count) in counts {
            families.endpoint_disabled.with_label_values(&[label.as_str(), reason]).set(count);
            self.shown_disabled.insert((label, reason));
        }
    }

    pub(super) fn set_own_queue_lags<'a>(
        &mut self,
        families: &Families,
        lags: impl IntoIterator<Item = (&'a str, i64)>,
    ) {
        let mut sums: HashMap<String, i64> = HashMap::new();
        for (id, lag) in lags {
            *sums.entry(self.label(id).to_owned()).or_default() += lag;
        }
        for label in self.shown_lags.drain().filter(|label| !sums.contains_key(label)) {
            forget(&families.own_queue_lag, &[&label]);
        }
        for (label, lag) in sums {
            families.own_queue_lag.with_label_values(&[&label]).set(lag);
            self.shown_lags.insert(label);
        }
    }

    /// The label its series have.
    pub(super) fn label<'a>(&self, id: &'a str) -> &'a str {
        if self.slots.contains_key(id) { id } else { OTHER }
    }

    pub(super) fn handle(&mut self, families: &Arc<Families>, id: &str) -> Arc<Endpoint> {
        let (place, label) = match self.slots.get_mut(id) {
            Some(slot) => (&mut slot.handle, id),
            None => (&mut self.other, OTHER),
        };
        Arc::clone(place.get_or_insert_with(|| Arc::new(Endpoint::new(families, label))))
    }

    /// Takes away the series of endpoints that are configured no more and whose handle nobody else holds.
    pub(super) fn sweep(&mut self, families: &Families) {
        self.slots.retain(|id, slot| {
            let held = slot.handle.as_ref().is_some_and(|handle| Arc::strong_count(handle) > 1);
            let keep = slot.configured || held;
            if !keep {
                families.end(id);
            }
            keep
        });
    }
}

pub(super) const RESULTS: [&str; 11] =
    ["2xx", "3xx", "4xx", "5xx", "429", "timeout", "connect", "tls", "dns", "reset", "blocked"];

/// The place of a result in [`RESULTS`]. Statuses outside 200 to 499 are `5xx`: the set has no other name for them.
fn result_index(result: AttemptResult) -> usize {
    match result {
        AttemptResult::Status(200..=299) => 0,
        AttemptResult::Status(300..=399) => 1,
        AttemptResult::Status(429) => 4,
        AttemptResult::Status(400..=499) => 2,
        AttemptResult::Status(_) => 3,
        AttemptResult::Timeout => 5,
        AttemptResult::Connect => 6,
        AttemptResult::Tls => 7,
        AttemptResult::Dns => 8,
        AttemptResult::Reset => 9,
        AttemptResult::Blocked => 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn every_result_has_its_name() {
        for (result, expected) in [
            (AttemptResult::Status(200), "2xx"),
            (AttemptResult::Status(204), "2xx"),
            (AttemptResult::Status(302), "3xx"),
            (AttemptResult::Status(404), "4xx"),
            (AttemptResult::Status(410), "4xx"),
            (AttemptResult::Status(429), "429"),
            (AttemptResult::Status(503), "5xx"),
            (AttemptResult::Status(101), "5xx"),
            (AttemptResult::Status(999), "5xx"),
            (AttemptResult::Timeout, "timeout"),
            (AttemptResult::Connect, "connect"),
            (AttemptResult::Tls, "tls"),
            (AttemptResult::Dns, "dns"),
            (AttemptResult::Reset, "reset"),
            (AttemptResult::Blocked, "blocked"),
        ] {
            assert_eq!(RESULTS[result_index(result)], expected, "{result:?}");
        }
    }

    /// The crate's vectors hash label values without separators: were one value the end of another, series of two
    /// endpoints could be taken for one.
    #[test]
    fn no_value_of_a_set_is_the_end_of_another() {
        let reasons = Reason::ALL.map(Reason::as_str);
        for set in [&RESULTS[..], &super::super::OUTCOMES[..], &reasons[..]] {
            for one in set {
                assert!(!set.iter().any(|other| other != one && other.ends_with(one)), "{one}");
            }
        }
    }

    #[test]
    fn the_books_balance() {
        let metrics = Metrics::new(1);
        metrics.set_endpoints([("crm", true)]);
        let crm = metrics.endpoint("crm");
        for _ in 0..5 {
            crm.opened(Origin::Source);
        }
        crm.opened(Origin::Replay);
        crm.delivered(Some(Duration::from_millis(40)));
        crm.delivered(None);
        crm.dead(Reason::Gone);
        crm.dropped();
        crm.retried(Reason::Status);
        crm.parked(Park::Full);
        let text = metrics.render();
        let sum = |name: &str| -> u64 {
            let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
            lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
        };
        assert_eq!(sum("arauto_deliveries_opened_total"), sum("arauto_deliveries_total") + 2);
        assert_eq!(sum("arauto_dead_total"), 1);
        assert!(text.contains("arauto_delivery_latency_seconds_bucket{endpoint=\"crm\",le=\"0.05\"} 1"));
        assert!(text.contains("arauto_parked_total{endpoint=\"crm\",reason=\"full\"} 1"));
    }

    #[test]
    fn an_endpoint_called_other_has_no_series_of_its_own() {
        let metrics = Metrics::new(5);
        metrics.set_endpoints([(OTHER, true)]);
        metrics.endpoint("unknown").dropped();
        metrics.endpoint(OTHER).dropped();
        metrics.set_endpoints([]);
        assert!(
            metrics.render().contains(r#"arauto_deliveries_total{endpoint="_other",outcome="dropped"} 2"#)
        );
    }
}
