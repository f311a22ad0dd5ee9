//! What operators have released or cancelled of that which waits on retry topics.
//!
//! Kafka's records cannot be changed. So whoever releases or cancels a delivery writes a copy of its record, to the tier
//! `0s` or to the dead-letter topic, and in the same transaction a *marker* on the state topic; the reader of the tier
//! settles the *originals* that a marker covers without doing anything. Pure.
//!
//! A marker covers exactly the records that were copied, told by facts of the records themselves, so that it never
//! matters who reads them and when: which endpoint and ids, a stretch of offsets, none newer than the newest that was
//! copied (a topic deleted and made again has other records at the same offsets), and none that was ready too soon.
//! The last is what keeps a delivery from being made twice: a reader may act on an original as soon as it is ready, and
//! what is ready within [`AHEAD`] is left to it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{delivery::millis, state::Entry};
use crate::{
    kafka::headers::Envelope,
    registry::{endpoint_hash, parse_hash_name},
};

/// The version of the records written here. One of a later release is not obeyed: what it leaves out may be what this
/// release does not know, and rather a delivery is made twice than lost.
const VERSION: u32 = 1;
/// What the keys of our records begin with.
const PREFIX: &str = "retries/";

/// A reader acts on an original only if it has known all that the state topic says since less than this.
pub const KNOWN_WITHIN: Duration = Duration::from_secs(2);
/// What is ready within this is left to its reader: [`KNOWN_WITHIN`], as long as a transaction may take, and what the
/// clocks of the command's machine and of instances may differ by ([`CLOCKS`]).
pub const AHEAD: Duration = Duration::from_secs(15);
/// How much clocks may differ.
pub const CLOCKS: Duration = Duration::from_secs(3);

/// What became of the originals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// They were made due at once: the copies are on the tier `0s`.
    Release,
    /// They were ended: the copies are on the dead-letter topic.
    Cancel,
}

/// Originals of one endpoint on one partition of a tier that were copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    v: u32,
    /// What became of them.
    pub act: Act,
    /// Whose they are.
    pub endpoint: String,
    /// The tier's topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The first offset.
    pub from: i64,
    /// One more than the last offset.
    pub until: i64,
    /// Only what is ready after this, in unix milliseconds; without it nobody was there to act on any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// The newest timestamp among them, in unix milliseconds.
    pub newest: i64,
    /// Only these webhook ids; all if there are none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ids: BTreeSet<String>,
}

/// A record of a tier, as far as markers look at it.
#[derive(Debug, Clone, Copy)]
pub struct Original<'a> {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in unix milliseconds.
    pub timestamp: i64,
    /// The delay of its tier.
    pub delay: Duration,
    /// What it says.
    pub envelope: &'a Envelope,
}

impl Original<'_> {
    /// When a reader may act on it, in unix milliseconds: it has been on its tier for the delay, or is due.
    pub fn ready(&self) -> i64 {
        ready(self.timestamp, self.delay, self.envelope.due)
    }

    /// Is it a delivery to this endpoint?
    pub fn is_for(&self, endpoint: &str) -> bool {
        let named = &*self.envelope.endpoint;
        named == endpoint || parse_hash_name(named).is_some_and(|hash| hash == endpoint_hash(endpoint))
    }
}

/// See [`Original::ready`].
pub fn ready(appended: i64, delay: Duration, due: i64) -> i64 {
    appended.saturating_add(millis(delay)).min(due)
}

impl Marker {
    /// A marker that covers nothing yet.
    pub fn new(act: Act, endpoint: &str, (topic, partition): (&str, i32), after: Option<i64>) -> Self {
        let (endpoint, topic) = (endpoint.to_owned(), topic.to_owned());
        let (from, until, newest, ids) = (i64::MAX, i64::MIN, i64::MIN, BTreeSet::new());
        Self { v: VERSION, act, endpoint, topic, partition, from, until, after, newest, ids }
    }

    /// Covers one more record, which has been copied; if ids were named its own is noted down.
    pub fn add(&mut self, original: &Original<'_>, by_id: bool) {
        self.from = self.from.min(original.offset);
        self.until = self.until.max(original.offset + 1);
        self.newest = self.newest.max(original.timestamp);
        self.ids.extend(by_id.then(|| original.envelope.id.to_string()));
    }

    /// Has this record of its partition been copied?
    pub fn covers(&self, original: &Original<'_>) -> bool {
        (self.from..self.until).contains(&original.offset)
            && original.timestamp <= self.newest
            && self.after.is_none_or(|after| original.ready() > after)
            && original.is_for(&self.endpoint)
            && (self.ids.is_empty() || self.ids.contains(&*original.envelope.id))
    }

    /// The record that tells everybody; its number is that of no other one.
    pub fn entry(&self, number: u64) -> Entry {
        let value = serde_json::to_vec(self).expect("plain values have a JSON form");
        Entry { key: key(number), value }
    }
}

/// The key of a marker's record.
pub fn key(number: u64) -> String {
    format!("{PREFIX}{number}")
}

/// All markers there are.
#[derive(Debug, Default, Clone)]
pub struct Marked {
    by_number: BTreeMap<u64, Marker>,
    /// Numbers by topic and partition.
    by_place: HashMap<Arc<str>, HashMap<i32, Vec<u64>>>,
}

impl Marked {
    /// Takes in one record of the state topic; was it one of ours? A null value forgets a marker.
    pub fn apply(&mut self, key: &str, value: Option<&[u8]>) -> bool {
        let Some(number) = key.strip_prefix(PREFIX).and_then(|number| number.parse().ok()) else {
            return false;
        };
        self.remove(number);
        let marker = value.and_then(|value| serde_json::from_slice::<Marker>(value).ok());
        if let Some(marker) = marker.filter(|marker| marker.v <= VERSION) {
            let place = self.by_place.entry(marker.topic.as_str().into()).or_default();
            place.entry(marker.partition).or_default().push(number);
            self.by_number.insert(number, marker);
        }
        true
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// A number that no marker has, nor had before it was forgotten: whoever forgets one may do so late.
    pub fn next_number(&self, now: i64) -> u64 {
        let last = self.by_number.last_key_value().map_or(0, |(last, _)| *last);
        now.unsigned_abs().max(last + 1)
    }

    /// What became of this record of a tier's partition, if an operator has decided that.
    pub fn act(&self, (topic, partition): (&str, i32), original: &Original<'_>) -> Option<Act> {
        let numbers = self.by_place.get(topic)?.get(&partition)?;
        let mut markers = numbers.iter().filter_map(|number| self.by_number.get(number));
        markers.find(|marker| marker.covers(original)).map(|marker| marker.act)
    }

    /// The numbers of markers of a partition that cover nothing from this offset on.
    pub fn passed(&self, (topic, partition): (&str, i32), committed: i64) -> Vec<u64> {
        let numbers = self.by_place.get(topic).and_then(|partitions| partitions.get(&partition));
        let is_passed =
            |number: &&u64| self.by_number.get(number).is_some_and(|marker| marker.until <= committed);
        numbers.into_iter().flatten().filter(is_passed).copied().collect()
    }

    fn remove(&mut self, number: u64) {
        let Some(marker) = self.by_number.remove(&number) else { return };
        let Some(partitions) = self.by_place.get_mut(&*marker.topic) else { return };
        if let Some(numbers) = partitions.get_mut(&marker.partition) {
            numbers.retain(|other| *other != number);
        }
        partitions.retain(|_, numbers| !numbers.is_empty());
        if partitions.is_empty() {
            self.by_place.remove(&*marker.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Event, Headers, outcome::Reason};

    const TIER: &str = "arauto.retry.1h";
    const HOUR: Duration = Duration::from_secs(3600);

    fn envelope(endpoint: &str, id: &str, due: i64) -> Envelope {
        let event = Event {
            topic: "orders".into(),
            partition: 0,
            offset: 0,
            timestamp: 0,
            key: None,
            value: None,
            headers: Headers::default(),
            id: id.into(),
            event_type: "order".into(),
            tenant: None,
            priority: None,
            notice: false,
        };
        Envelope::new(&event, endpoint.into(), Reason::Status, 0, due)
    }

    fn original(envelope: &Envelope, offset: i64, timestamp: i64) -> Original<'_> {
        Original { offset, timestamp, delay: HOUR, envelope }
    }

    /// Offsets 10 and 20 of `crm`, appended at 1,000 and 2,000, ready after an hour, were copied.
    fn marker(after: Option<i64>, by_id: bool) -> Marker {
        let envelope = envelope("crm", "msg_1", i64::MAX);
        let mut marker = Marker::new(Act::Release, "crm", (TIER, 3), after);
        for (offset, timestamp) in [(10, 1_000), (20, 2_000)] {
            marker.add(&original(&envelope, offset, timestamp), by_id);
        }
        marker
    }

    #[test]
    fn exactly_what_was_copied_is_covered() {
        let far = i64::MAX;
        let ready = 1_000 + 3_600_000;
        let check = |marker: &Marker, (endpoint, id, due): (&str, &str, i64), at: (i64, i64), expected| {
            let envelope = envelope(endpoint, id, due);
            assert_eq!(
                marker.covers(&original(&envelope, at.0, at.1)),
                expected,
                "{endpoint} {id} {due} {at:?}"
            );
        };
        let all = marker(None, false);
        for (offset, timestamp, expected) in [
            (10, 1_000, true),
            (15, 1_500, true),
            (20, 2_000, true),
            (9, 1_000, false),
            (21, 2_000, false),
            // The topic was deleted and made again: the same offset, another record.
            (15, 2_001, false),
        ] {
            check(&all, ("crm", "msg_9", far), (offset, timestamp), expected);
        }
        check(&all, ("erp", "msg_1", far), (15, 1_500), false);
        // Who did not know the endpoint has named it by its hash.
        check(&all, (&crate::registry::hash_name(endpoint_hash("crm")), "msg_1", far), (15, 1_500), true);
        // What was ready too soon was not copied.
        let later = marker(Some(ready), false);
        for (due, timestamp, expected) in
            [(far, 1_001, true), (far, 1_000, false), (ready, 1_500, false), (ready + 1, 1_500, true)]
        {
            check(&later, ("crm", "msg_1", due), (15, timestamp), expected);
        }
        let one = marker(None, true);
        check(&one, ("crm", "msg_1", far), (15, 1_500), true);
        check(&one, ("crm", "msg_2", far), (15, 1_500), false);
    }

    #[test]
    fn markers_are_found_by_their_place_and_forgotten_when_passed() {
        let mut markers = Marked::default();
        assert!(markers.is_empty());
        let first = marker(None, false).entry(markers.next_number(1));
        assert_eq!(first.key, "retries/1");
        assert!(markers.apply(&first.key, Some(&first.value)));
        let second = Marker { act: Act::Cancel, from: 20, until: 31, ..marker(None, false) };
        let second = Marker { newest: 9_000, ..second }.entry(markers.next_number(1));
        assert!(markers.apply(&second.key, Some(&second.value)));
        assert_eq!((markers.next_number(1), markers.next_number(100)), (3, 100));

        let envelope = envelope("crm", "msg_1", i64::MAX);
        let act = |markers: &Marked, topic: &str, partition, offset| {
            markers.act((topic, partition), &original(&envelope, offset, 1_500))
        };
        for (topic, partition, offset, expected) in [
            (TIER, 3, 15, Some(Act::Release)),
            (TIER, 3, 25, Some(Act::Cancel)),
            (TIER, 3, 40, None),
            (TIER, 2, 15, None),
            ("arauto.retry.5m", 3, 15, None),
        ] {
            assert_eq!(act(&markers, topic, partition, offset), expected, "{topic} {partition} {offset}");
        }

        assert!(markers.passed((TIER, 3), 20).is_empty());
        assert_eq!(markers.passed((TIER, 3), 21), [1]);
        assert_eq!(markers.passed((TIER, 3), 31), [1, 2]);
        assert!(markers.passed((TIER, 0), 31).is_empty());
        markers.apply("retries/1", None);
        assert_eq!(act(&markers, TIER, 3, 15), None);
        assert_eq!(act(&markers, TIER, 3, 25), Some(Act::Cancel));
        markers.apply("retries/2", None);
        assert!(markers.is_empty());
    }

    #[test]
    fn records_are_small_and_those_of_a_later_release_are_not_obeyed() {
        let entry = marker(Some(7), true).entry(5);
        let text = r#"{"v":1,"act":"release","endpoint":"crm","topic":"arauto.retry.1h","partition":3,"from":10,"until":21,"after":7,"newest":2000,"ids":["msg_1"]}"#;
        assert_eq!((entry.key.as_str(), std::str::from_utf8(&entry.value).unwrap()), ("retries/5", text));
        let mut markers = Marked::default();
        for junk in ["{}", "x", &text.replace("\"v\":1", "\"v\":2"), &text.replace("release", "undo")] {
            assert!(markers.apply("retries/5", Some(junk.as_bytes())));
            assert!(markers.is_empty(), "{junk}");
        }
        assert!(!markers.apply("replay/5", Some(text.as_bytes())));
        assert!(!markers.apply("retries/x", Some(text.as_bytes())));
        assert!(markers.apply("retries/5", Some(text.as_bytes())) && !markers.is_empty());
    }
}
