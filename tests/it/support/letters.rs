//! Dead letters as Arauto writes them, made by hand so that every kind is there at once.

use std::fmt::Display;

use super::{Rig, command::arauto, config::ConfigFile, records::NewRecord};

/// Every word `arauto-reason` may have.
pub(crate) const REASONS: [&str; 22] = [
    "status",
    "timeout",
    "connect",
    "tls",
    "dns",
    "blocked_address",
    "throttled",
    "breaker",
    "paused",
    "shutdown",
    "gone",
    "rejected",
    "exhausted",
    "expired",
    "disabled",
    "unknown_endpoint",
    "full",
    "cancelled",
    "auth",
    "expression",
    "invalid_event",
    "too_large",
];

/// A dead letter under construction: of event 7 in partition 0 of `orders`, after 8 attempts for `crm`, `exhausted`.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    record: NewRecord,
    envelope: Vec<(&'static str, String)>,
}

impl Letter {
    /// A letter with this webhook id.
    pub(crate) fn new(dead: &str, id: &str) -> Self {
        let envelope = [
            ("arauto-id", id),
            ("arauto-endpoint", "crm"),
            ("arauto-source-topic", "orders"),
            ("arauto-source-partition", "0"),
            ("arauto-source-offset", "7"),
            ("arauto-source-timestamp", "1700000000000"),
            ("arauto-attempts", "8"),
            ("arauto-first-seen", "1700000000001"),
            ("arauto-due", "1700000000002"),
            ("arauto-reason", "exhausted"),
            ("arauto-replays", "0"),
        ];
        let record = NewRecord::new(dead, "{}");
        Self { record, envelope: envelope.map(|(name, value)| (name, value.to_owned())).into() }
    }

    /// With this header of ours, `arauto-` before its name.
    pub(crate) fn with(mut self, name: &'static str, value: &dyn Display) -> Self {
        self.envelope.retain(|(other, _)| *other != name);
        self.envelope.push((name, format!("{value}")));
        self
    }

    /// With this value.
    pub(crate) fn value(mut self, value: impl Into<Vec<u8>>) -> Self {
        self.record.value = Some(value.into());
        self
    }

    /// With this header of the event.
    pub(crate) fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.record = self.record.header(name, value);
        self
    }

    /// In this partition of the topic.
    pub(crate) fn partition(mut self, partition: i32) -> Self {
        self.record = self.record.partition(partition);
        self
    }

    /// Died at this time, in unix milliseconds.
    pub(crate) fn died(mut self, at: i64) -> Self {
        self.record = self.record.timestamp(at);
        self
    }

    /// The record: keyed by the endpoint, the event's headers first.
    pub(crate) fn record(&self) -> NewRecord {
        let endpoint = self.envelope.iter().find(|(name, _)| *name == "arauto-endpoint");
        let keyed = self.record.clone().key(endpoint.expect("it has one").1.clone());
        self.envelope.iter().fold(keyed, |record, (name, value)| record.header(name, value.as_str()))
    }
}

/// The how manieth letter of an endpoint: of the event at that offset, with the id `<endpoint>-<number>`, in partition 0.
pub(crate) fn numbered(rig: &Rig, endpoint: &str, number: usize) -> Letter {
    Letter::new(&rig.dead(), &format!("{endpoint}-{number}"))
        .with("arauto-endpoint", &endpoint)
        .with("arauto-source-offset", &number)
        .with("arauto-first-attempt", &1_700_000_000_001_i64)
        .with("arauto-status", &503)
        .with("arauto-error", &"no room")
        .header("kept", "as it was")
        .partition(0)
}

/// Makes the topics that Arauto owns.
pub(crate) async fn make_topics(config: &ConfigFile) {
    let made = arauto(&["topics", "--create", "--config", config.path().to_str().unwrap()]).await;
    assert_eq!(made.code, 0, "{made:?}");
}
