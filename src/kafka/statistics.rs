//! What a client tells of itself every so often: how its brokers answer, and whether it is a member of its group.
//!
//! The document has a kilobyte for each partition of each topic that the client knows, read at about 1 GB/s when only
//! skipped; so only the few numbers that are looked at are taken out of it, and nothing is kept of the rest.
//! <https://github.com/confluentinc/librdkafka/blob/master/STATISTICS.md>

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use crate::metrics::{
    Metrics,
    broker::{Broker, Client},
};

/// What is looked at.
#[derive(Debug, Deserialize)]
pub(super) struct Statistics<'a> {
    #[serde(default, deserialize_with = "without_names")]
    brokers: Vec<BrokerStatistics>,
    #[serde(borrow)]
    cgrp: Option<GroupStatistics<'a>>,
}

#[derive(Debug, Deserialize)]
struct BrokerStatistics {
    /// -1: no broker, but an address that leads to some.
    nodeid: i32,
    /// Requests that wait to be sent, and those that wait for their answers.
    outbuf_cnt: i64,
    waitresp_cnt: i64,
    rtt: Average,
}

/// Microseconds, since the last time this was told.
#[derive(Debug, Deserialize)]
struct Average {
    sum: i64,
    cnt: i64,
}

#[derive(Debug, Deserialize)]
struct GroupStatistics<'a> {
    state: &'a str,
    join_state: &'a str,
}

impl<'a> Statistics<'a> {
    /// Reads the document; `None` when it is none.
    pub(super) fn read(json: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// Is the client a member of its group? `None` when it has none.
    pub(super) fn is_member(&self) -> Option<bool> {
        self.cgrp.as_ref().map(|group| group.state == "up" && group.join_state == "steady")
    }
}

/// Is the client a member of its group, as far as it knows?
///
/// An assignment says so at once. What the client tells of itself may be older than the assignment before which it is
/// read, so it takes two such documents in a row to be none.
#[derive(Debug)]
pub(super) struct Membership(AtomicU8);

/// So many documents in a row must say that the client is no member.
const DENIALS: u8 = 2;

impl Membership {
    /// Of a client that has not joined.
    pub(super) fn none() -> Self {
        Self(AtomicU8::new(DENIALS))
    }

    /// The group has assigned partitions, or none, to the client.
    pub(super) fn assigned(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// The client has told of itself.
    pub(super) fn told(&self, member: bool) {
        let denials = if member { 0 } else { self.0.load(Ordering::Acquire).saturating_add(1) };
        self.0.store(denials, Ordering::Release);
    }

    pub(super) fn holds(&self) -> bool {
        self.0.load(Ordering::Acquire) < DENIALS
    }
}

/// The values of an object; its keys repeat what is in them.
fn without_names<'de, D: Deserializer<'de>>(object: D) -> Result<Vec<BrokerStatistics>, D::Error> {
    struct Values;

    impl<'de> Visitor<'de> for Values {
        type Value = Vec<BrokerStatistics>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut values = Vec::new();
            while let Some((IgnoredAny, value)) = map.next_entry()? {
                values.push(value);
            }
            Ok(values)
        }
    }

    object.deserialize_map(Values)
}

/// Shows in the metrics what one client tells of its brokers; what it showed is taken back when it is dropped.
pub(super) struct Watch {
    metrics: Metrics,
    client: Client,
    /// Shown with the first telling and with every so many more.
    every: u32,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    told: u32,
    brokers: BTreeMap<i32, Sums>,
}

/// Of one broker; a client may have several connections to it.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    micros: i64,
    answers: i64,
    waiting: i64,
}

impl Watch {
    pub(super) fn new(metrics: Metrics, client: Client, every: u32) -> Self {
        Self { metrics, client, every, seen: Mutex::default() }
    }

    pub(super) fn take_in(&self, statistics: &Statistics<'_>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(brokers) = seen.take_in(statistics, self.every) {
            self.metrics.brokers(self.client, &brokers);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.metrics.brokers(self.client, &[]);
    }
}

impl Seen {
    /// Adds up; returns what is to be shown when it is time to.
    fn take_in(&mut self, statistics: &Statistics<'_>, every: u32) -> Option<Vec<Broker>> {
        // Waiting is told as it is, round trips since the last telling.
        self.brokers.values_mut().for_each(|sums| sums.waiting = 0);
        let mut known: BTreeMap<i32, Sums> = BTreeMap::new();
        for broker in statistics.brokers.iter().filter(|broker| broker.nodeid >= 0) {
            let before = self.brokers.get(&broker.nodeid).copied().unwrap_or_default();
            let sums = known.entry(broker.nodeid).or_insert(before);
            sums.micros += broker.rtt.sum.max(0);
            sums.answers += broker.rtt.cnt.max(0);
            sums.waiting += broker.outbuf_cnt.max(0) + broker.waitresp_cnt.max(0);
        }
        self.brokers = known;
        let due = self.told.is_multiple_of(every);
        self.told = self.told.wrapping_add(1) % every;
        due.then(|| {
            let brokers = std::mem::take(&mut self.brokers);
            brokers.into_iter().map(|(id, sums)| sums.broker(id)).collect()
        })
    }
}

impl Sums {
    fn broker(self, id: i32) -> Broker {
        let mean = self.micros.checked_div(self.answers).and_then(|mean| u64::try_from(mean).ok());
        Broker { id, round_trip: mean.map(Duration::from_micros), waiting: self.waiting }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As librdkafka 2.12 writes it, shortened.
    const TOLD: &str = r#"{ "name": "arauto#consumer-1", "replyq":0,
        "brokers":{
          "a:9092/bootstrap": { "name":"a:9092/bootstrap", "nodeid":-1, "outbuf_cnt":0, "waitresp_cnt":7,
            "rtt": { "min":1, "sum":9000, "cnt":3 }, "req": { "Fetch":1 }, "toppars":{  } },
          "\u0061:9092/1": { "nodeid":1, "outbuf_cnt":1, "waitresp_cnt":2,
            "rtt": { "sum":6000, "cnt":3 }, "toppars":{ "t-0": { "topic":"t", "partition":0} } },
          "b:9092/2": { "nodeid":2, "outbuf_cnt":0, "waitresp_cnt":0, "rtt": { "sum":0, "cnt":0 } },
          "GroupCoordinator": { "nodeid":1, "outbuf_cnt":0, "waitresp_cnt":1, "rtt": { "sum":4000, "cnt":1 } }
        }, "topics":{ "t": { "topic":"t", "partitions":{ "0": { "partition":0 } } } },
        "cgrp": { "state": "up", "stateage":5, "join_state": "steady", "rebalance_cnt":1 } }"#;

    fn broker(id: i32, round_trip: Option<u64>, waiting: i64) -> Broker {
        Broker { id, round_trip: round_trip.map(Duration::from_micros), waiting }
    }

    #[test]
    fn what_is_looked_at_is_read() {
        let told = Statistics::read(TOLD.as_bytes()).unwrap();
        assert_eq!(told.is_member(), Some(true));
        let shown = Seen::default().take_in(&told, 15);
        assert_eq!(shown, Some(vec![broker(1, Some(2500), 4), broker(2, None, 0)]));
        for (json, member) in [
            (r#"{"cgrp":{"state":"up","join_state":"wait-assign-call"}}"#, Some(Some(false))),
            (r#"{"cgrp":{"state":"wait-coord","join_state":"steady"}}"#, Some(Some(false))),
            (r#"{"name":"rdkafka#producer-1","brokers":{}}"#, Some(None)),
            ("no document", None),
        ] {
            assert_eq!(Statistics::read(json.as_bytes()).map(|told| told.is_member()), member, "{json}");
        }
    }

    #[test]
    fn one_document_that_is_older_than_the_assignment_takes_nobody_out_of_the_group() {
        let membership = Membership::none();
        assert!(!membership.holds());
        // What the client tells, `None` for an assignment, and what is believed then.
        let rows = [
            (Some(false), false),
            (None, true),
            (Some(false), true),
            (Some(true), true),
            (Some(false), true),
            (Some(false), false),
            (Some(false), false),
            (Some(true), true),
        ];
        for (number, (told, member)) in rows.into_iter().enumerate() {
            told.map_or_else(|| membership.assigned(), |told| membership.told(told));
            assert_eq!(membership.holds(), member, "row {number}");
        }
    }

    #[test]
    fn round_trips_add_up_until_they_are_shown_and_a_broker_that_is_gone_is_not() {
        let told = |id: i32, sum: i64, waiting: i64| {
            format!(
                r#"{{"brokers":{{"x":{{"nodeid":{id},"outbuf_cnt":0,"waitresp_cnt":{waiting},"rtt":{{"sum":{sum},"cnt":1}}}}}}}}"#
            )
        };
        let mut seen = Seen::default();
        let rows = [
            (told(1, 1000, 1), Some(vec![broker(1, Some(1000), 1)])),
            (told(1, 2000, 9), None),
            (told(1, 4000, 3), None),
            (told(1, 6000, 2), Some(vec![broker(1, Some(4000), 2)])),
            (told(1, 6000, 2), None),
            (told(2, 500, 0), None),
            (told(2, 700, 0), Some(vec![broker(2, Some(600), 0)])),
        ];
        for (row, (json, expected)) in rows.iter().enumerate() {
            assert_eq!(&seen.take_in(&Statistics::read(json.as_bytes()).unwrap(), 3), expected, "row {row}");
        }
    }
}
