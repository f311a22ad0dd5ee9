//! One thing that happened to a delivery, as `arauto dev` shows it.

use serde::Serialize;

use crate::{
    dev::receiver::Received,
    kafka::headers::{Envelope, Malformed},
    pipeline::{Record, decode::Decoder},
};

/// An attempt that was answered, or a dead letter that was written.
#[derive(Debug, Serialize)]
pub(super) struct Seen {
    /// Unix milliseconds.
    pub(super) at: i64,
    pub(super) event_type: String,
    /// The webhook id.
    pub(super) id: String,
    pub(super) endpoint: String,
    /// Since the event was published; unknown for events of others.
    pub(super) latency_ms: Option<u64>,
    #[serde(flatten)]
    pub(super) fate: Fate,
}

/// What happened.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Fate {
    /// The receiver answered.
    Attempt { attempt: u32, status: u16, verified: bool },
    /// It ended on the dead-letter topic.
    DeadLetter { attempts: u32, reason: &'static str, status: Option<u16> },
}

impl Seen {
    /// A request at the receiver; its path names the endpoint.
    pub(super) fn attempt(received: &Received) -> Self {
        Self {
            at: received.at_ms,
            event_type: received.header("arauto-event-type").to_owned(),
            id: received.id().to_owned(),
            endpoint: received.path.trim_start_matches('/').to_owned(),
            latency_ms: None,
            fate: Fate::Attempt {
                attempt: received.header("arauto-attempt").parse().unwrap_or(0),
                status: received.status.unwrap_or_default(),
                verified: received.verified == Some(Ok(())),
            },
        }
    }

    /// A record of the dead-letter topic.
    pub(super) fn dead_letter(record: &Record, decoder: &Decoder) -> Result<Self, Malformed> {
        let (envelope, headers) = Envelope::read(record)?;
        let event = decoder.decode(Record { headers, ..record.clone() });
        Ok(Self {
            at: record.timestamp,
            event_type: event.event_type.to_string(),
            id: envelope.id.to_string(),
            endpoint: envelope.endpoint.to_string(),
            latency_ms: None,
            fate: Fate::DeadLetter {
                attempts: envelope.attempts,
                reason: envelope.reason.as_str(),
                status: envelope.status,
            },
        })
    }
}
