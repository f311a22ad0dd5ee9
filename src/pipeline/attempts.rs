//! The attempt log: one record per attempt, and one per delivery that ends without one, for whoever wants to know later
//! what happened. Nothing stands on it: what cannot be written at once is dropped and counted.
//!
//! The record's key is the webhook id, its value a flat JSON object ([`Entry`]). Fields may be added; their meaning stays.

use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    delivery::{Delivery, millis, now},
    outcome::{Attempt, Outcome, Reason},
};
use crate::{
    config::settings::Settings,
    kafka::{
        headers::cut,
        lossy::{Error, Producer},
    },
    metrics::Metrics,
};

/// The version of the entries written here; a reader takes any version and the fields it knows.
const VERSION: u32 = 1;

/// Bytes that an entry without an error takes, ids and names being of ordinary length: some 350.
const USUAL: usize = 512;

/// What became of an attempt, or of a delivery without one. Times are unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry<'a> {
    v: u32,
    /// The webhook id.
    pub id: Cow<'a, str>,
    /// The endpoint's id.
    pub endpoint: Cow<'a, str>,
    /// The event type.
    #[serde(rename = "type")]
    pub event_type: Cow<'a, str>,
    /// When the attempt began; without one, when the delivery ended.
    pub time: i64,
    /// The how manieth attempt it was, from 1; absent when the delivery ended without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The HTTP status, if there was an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How long the attempt took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
    /// What went wrong, or the beginning of an answer that was not 2xx: at most 512 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Cow<'a, str>>,
    /// `delivered`, `retry` (it will be made again), `dead` (it became a dead letter) or `dropped`.
    pub outcome: Cow<'a, str>,
    /// Why it is made again or has ended: the words of `arauto-reason`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    /// When the next attempt is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<i64>,
    /// How often the delivery had been replayed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replays: u32,
    /// Where the event is: its topic, …
    pub source_topic: Cow<'a, str>,
    /// … partition, …
    pub source_partition: i32,
    /// … offset …
    pub source_offset: i64,
    /// … and timestamp; -1 when it has none.
    pub source_timestamp: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde asks.
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl<'a> Entry<'a> {
    /// Of an attempt that began then and is counted in its delivery.
    fn attempted(delivery: &'a Delivery, began: i64, attempt: &Attempt, outcome: &Outcome) -> Self {
        let took = millis(attempt.duration);
        let error = || delivery.error.as_deref().map(|error| Cow::Borrowed(cut(error)));
        let (word, reason, due, error) = match outcome {
            // What a receiver says when it takes something is no error.
            Outcome::Delivered => ("delivered", None, None, None),
            Outcome::Retry { after, reason, .. } => {
                let due = began.saturating_add(took).saturating_add(millis(*after));
                ("retry", Some(*reason), Some(due), error())
            }
            Outcome::Dead { reason } => ("dead", Some(*reason), None, error()),
        };
        Self {
            attempt: Some(delivery.attempts),
            status: delivery.status,
            duration_ms: Some(took),
            error,
            due,
            ..Self::ended(delivery, began, word, reason)
        }
    }

    /// Of a delivery that ended then without an attempt.
    fn ended(delivery: &'a Delivery, time: i64, outcome: &'static str, reason: Option<Reason>) -> Self {
        let event = delivery.event();
        Self {
            v: VERSION,
            id: Cow::Borrowed(&event.id),
            endpoint: Cow::Borrowed(&delivery.endpoint),
            event_type: Cow::Borrowed(&event.event_type),
            time,
            attempt: None,
            status: None,
            duration_ms: None,
            error: None,
            outcome: Cow::Borrowed(outcome),
            reason: reason.map(|reason| Cow::Borrowed(reason.as_str())),
            due: None,
            replays: delivery.replays,
            source_topic: Cow::Borrowed(&event.topic),
            source_partition: event.partition,
            source_offset: event.offset,
            source_timestamp: event.timestamp,
        }
    }

    /// What a record says; `None` when somebody else wrote it.
    pub fn read(value: &[u8]) -> Option<Entry<'static>> {
        serde_json::from_slice(value).ok()
    }
}

/// The attempt log of a process, or none. Cheap to clone.
#[derive(Clone)]
pub struct Log(Option<Producer>);

impl Log {
    /// The log that is configured.
    pub fn new(settings: &Settings, metrics: &Metrics) -> Result<Self, Error> {
        let Some(topic) = &settings.attempts.topic else { return Ok(Self(None)) };
        let metrics = metrics.clone();
        Producer::new(&settings.kafka, topic, move || metrics.attempt_record_dropped())
            .map(|log| Self(Some(log)))
    }

    /// An attempt that began then has ended and is counted in its delivery.
    pub(super) fn attempted(&self, delivery: &Delivery, began: i64, attempt: &Attempt, outcome: &Outcome) {
        if let Some(log) = &self.0 {
            write(log, &Entry::attempted(delivery, began, attempt, outcome));
        }
    }

    /// A delivery becomes a dead letter without an attempt.
    pub(super) fn dead(&self, delivery: &Delivery, reason: Reason) {
        if let Some(log) = &self.0 {
            write(log, &Entry::ended(delivery, now(), "dead", Some(reason)));
        }
    }

    /// A delivery is dropped.
    pub(super) fn dropped(&self, delivery: &Delivery, reason: Reason) {
        if let Some(log) = &self.0 {
            write(log, &Entry::ended(delivery, now(), "dropped", Some(reason)));
        }
    }

    /// Gives what was written so long to get through; blocks its thread.
    pub fn flush(&self, longest: Duration) {
        if let Some(log) = &self.0 {
            log.flush(longest);
        }
    }
}

fn write(log: &Producer, entry: &Entry<'_>) {
    let mut value = Vec::with_capacity(USUAL);
    serde_json::to_writer(&mut value, entry).expect("plain values have a JSON form");
    log.send(entry.id.as_bytes(), &value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The format is a contract.
    #[test]
    fn entries_are_compact_and_come_back() {
        let whole = r#"{"v":1,"id":"msg_1","endpoint":"crm","type":"order.paid","time":1700000000000,"attempt":2,"status":503,"duration_ms":12,"error":"later","outcome":"retry","reason":"status","due":1700000005012,"replays":1,"source_topic":"orders","source_partition":3,"source_offset":99812,"source_timestamp":1699999999000}"#;
        let ended = r#"{"v":1,"id":"msg_1","endpoint":"crm","type":"order.paid","time":1700000000000,"outcome":"dead","reason":"expired","source_topic":"orders","source_partition":3,"source_offset":99812,"source_timestamp":-1}"#;
        for text in [whole, ended] {
            let entry = Entry::read(text.as_bytes()).unwrap();
            assert_eq!(serde_json::to_string(&entry).unwrap(), text);
        }
        let later = whole.replacen(r#""v":1"#, r#""v":2,"more":{}"#, 1);
        assert_eq!(Entry::read(later.as_bytes()).unwrap().attempt, Some(2), "of a later release");
        for junk in ["", "{}", "[]", r#"{"id":1}"#] {
            assert_eq!(Entry::read(junk.as_bytes()), None, "{junk}");
        }
    }
}
