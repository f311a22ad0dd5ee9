//! Dead letters as operators see them: what a record of the dead-letter topic says, and which ones are meant.
//!
//! Nothing here prints or writes. Whoever reads the topic shows each record to a [`matcher::Matcher`] while it is still
//! in the client's buffer; only those that are meant become a [`Letter`].

use std::sync::Arc;

use self::expression::Subject;
use crate::{
    kafka::headers::{Envelope, Glance, Malformed},
    pipeline::{Event, Record, decode::Decoder, outcome::Reason},
};

pub mod export;
pub mod expression;
pub mod filter;
pub mod matcher;
pub mod spans;
pub mod summary;

/// A record of the dead-letter topic.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The record as it is there.
    pub record: Record,
    /// The delivery that died. A record that somebody else wrote, or that Arauto moved there because it could not be
    /// read, has none; it can be looked at, not replayed.
    pub envelope: Result<Envelope, Malformed>,
    /// The event it carries. Without an envelope, as much of it as can be told.
    pub event: Event,
}

impl Letter {
    /// Reads a record.
    pub fn read(record: Record, decoder: &Decoder) -> Self {
        let (envelope, event) = match Envelope::read(&record) {
            Ok((envelope, original)) => {
                let event = decoder.restore(&envelope, original, record.value.clone());
                (Ok(envelope), event)
            }
            Err(malformed) => (Err(malformed), unaddressed(&record, decoder)),
        };
        Self { record, envelope, event }
    }

    /// When it died, in unix milliseconds: the time of the record.
    pub fn died(&self) -> i64 {
        self.record.timestamp
    }

    /// The webhook id.
    pub fn id(&self) -> Option<&str> {
        match &self.envelope {
            Ok(envelope) => Some(&envelope.id),
            Err(_) => Glance::text(self.glance().id),
        }
    }

    /// The endpoint's id.
    pub fn endpoint(&self) -> Option<&str> {
        match &self.envelope {
            Ok(envelope) => Some(&envelope.endpoint),
            Err(_) => Glance::text(self.glance().endpoint),
        }
    }

    /// Why it died, as the header says it: a later release may know more reasons.
    pub fn reason(&self) -> Option<&str> {
        match &self.envelope {
            Ok(envelope) => Some(envelope.reason.as_str()),
            Err(_) => Glance::text(self.glance().reason),
        }
    }

    /// The last HTTP status.
    pub fn status(&self) -> Option<u16> {
        match &self.envelope {
            Ok(envelope) => envelope.status,
            Err(_) => Glance::number(self.glance().status),
        }
    }

    /// The last error or response excerpt.
    pub fn error(&self) -> Option<&str> {
        match &self.envelope {
            Ok(envelope) => envelope.error.as_deref(),
            Err(_) => Glance::text(self.glance().error),
        }
    }

    /// Attempts made.
    pub fn attempts(&self) -> u32 {
        match &self.envelope {
            Ok(envelope) => envelope.attempts,
            Err(_) => Glance::number(self.glance().attempts).unwrap_or(0),
        }
    }

    /// What an expression can ask about it.
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            event: &self.event,
            endpoint: self.endpoint(),
            reason: self.reason(),
            status: self.status(),
            error: self.error(),
            attempts: self.attempts(),
            replays: self.envelope.as_ref().map_or(0, |envelope| envelope.replays),
            died: self.died(),
        }
    }

    fn glance(&self) -> Glance<'_> {
        Glance::of_record(&self.record)
    }
}

/// The event of a record without a readable envelope: its facts are looked for all the same.
fn unaddressed(record: &Record, decoder: &Decoder) -> Event {
    let glance = Glance::of_record(record);
    let topic = Glance::text(glance.source_topic).map_or_else(|| Arc::clone(&record.topic), Arc::from);
    let event = decoder.decode(Record { topic, ..record.clone() });
    Event {
        id: Glance::text(glance.id).unwrap_or_default().into(),
        partition: Glance::number(glance.source_partition).unwrap_or(record.partition),
        offset: Glance::number(glance.source_offset).unwrap_or(record.offset),
        ..event
    }
}

/// The reasons a delivery can have on the dead-letter topic, for help texts and completions.
pub fn reasons() -> impl Iterator<Item = &'static str> {
    Reason::ALL.into_iter().map(Reason::as_str)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        config::settings::{Events, FactSource, IdSource},
        pipeline::Headers,
    };

    pub(super) fn decoder() -> Decoder {
        let events = Events {
            event_type: vec![FactSource::Header("type".into()), FactSource::Json("/type".into())],
            id: vec![IdSource::CloudEvents],
            namespace: None,
            tenant: vec![FactSource::Json("/tenant".into())],
            priority: Vec::new(),
        };
        Decoder::new(&events, "".into())
    }

    pub(super) fn record(headers: &[(&str, &'static str)], value: &'static str) -> Record {
        let header = |(name, value): &(&str, &'static str)| {
            (Arc::from(*name), Some(Bytes::from_static(value.as_bytes())))
        };
        Record {
            topic: "arauto.dead".into(),
            partition: 2,
            offset: 11,
            timestamp: 1_000,
            key: Some(Bytes::from_static(b"crm")),
            value: Some(Bytes::from_static(value.as_bytes())),
            headers: Headers(headers.iter().map(header).collect()),
        }
    }

    pub(super) const ENVELOPE: [(&str, &str); 11] = [
        ("arauto-id", "msg_1"),
        ("arauto-endpoint", "crm"),
        ("arauto-source-topic", "orders"),
        ("arauto-source-partition", "0"),
        ("arauto-source-offset", "5"),
        ("arauto-source-timestamp", "900"),
        ("arauto-attempts", "8"),
        ("arauto-first-seen", "950"),
        ("arauto-due", "990"),
        ("arauto-reason", "exhausted"),
        ("arauto-status", "503"),
    ];

    #[test]
    fn a_letter_tells_what_died() {
        let letter = Letter::read(record(&ENVELOPE, r#"{"type":"order.paid","tenant":"acme"}"#), &decoder());
        let event = &letter.event;
        assert_eq!((&*event.topic, event.offset, &*event.id), ("orders", 5, "msg_1"));
        assert_eq!((&*event.event_type, event.tenant.as_deref()), ("order.paid", Some("acme")));
        assert_eq!((letter.id(), letter.endpoint(), letter.died()), (Some("msg_1"), Some("crm"), 1_000));
        assert_eq!((letter.reason(), letter.status(), letter.attempts()), (Some("exhausted"), Some(503), 8));
    }

    #[test]
    fn a_record_that_is_no_delivery_tells_what_it_can() {
        let moved = [
            ("a", "b"),
            ("arauto-source-topic", "arauto.retry.5s"),
            ("arauto-source-partition", "3"),
            ("arauto-source-offset", "x"),
            ("arauto-reason", "invalid_event"),
            ("arauto-error", "header arauto-id is missing"),
        ];
        let letter = Letter::read(record(&moved, r#"{"type":"order.paid"}"#), &decoder());
        assert_eq!(letter.envelope.as_ref().unwrap_err().header, "arauto-id");
        let event = &letter.event;
        assert_eq!((&*event.topic, event.partition, event.offset), ("arauto.retry.5s", 3, 11));
        assert_eq!((&*event.id, &*event.event_type), ("", "order.paid"));
        assert_eq!((letter.id(), letter.endpoint(), letter.status()), (None, None, None));
        assert_eq!(
            (letter.reason(), letter.error()),
            (Some("invalid_event"), Some("header arauto-id is missing"))
        );
        assert_eq!(event.headers.0.len(), 1, "ours are none of the event's");
    }

    #[test]
    fn a_record_of_somebody_else_is_a_letter_too() {
        let letter = Letter::read(record(&[], "junk"), &decoder());
        assert_eq!((&*letter.event.topic, letter.event.offset), ("arauto.dead", 11));
        assert_eq!((letter.reason(), letter.attempts()), (None, 0));
    }
}
