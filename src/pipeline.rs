//! The pipeline: the one page that shows how an event becomes webhooks.
//!
//! ```text
//!             endpoints ····snapshot····┐
//!                                       ▼
//! Kafka ─► source ─► decode ─► route ─► lane ─► sign ─► deliver ─► outcome ─► settle ─┬─► done
//!            │                                                                        ├─► retry topic (tier)
//!            │ opens one ticket per delivery                     settles the ticket    └─► dead-letter topic
//!            └───────────────► ledger ◄───────────────────────────────┘
//!                                 └─► commit ─► Kafka group offsets (+ metadata)
//! ```

use std::sync::Arc;

use bytes::Bytes;

pub mod assignment;
pub mod commit;
pub mod decode;
pub mod delivery;
pub mod lane;
pub mod ledger;
pub mod outcome;
pub mod positions;
pub mod request;
pub mod retry;
pub mod route;
pub mod settle;
pub mod sign;
mod source;
pub mod state;
pub mod ticket;
pub mod window;

/// One Kafka record, its bytes copied out of the client's buffer once and shared from there on.
#[derive(Debug, Clone)]
pub struct Record {
    /// Topic it was read from.
    pub topic: Arc<str>,
    /// Partition it was read from.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in unix milliseconds; -1 when it has none.
    pub timestamp: i64,
    /// Its key, absent when null.
    pub key: Option<Bytes>,
    /// Its value, absent when null (a tombstone).
    pub value: Option<Bytes>,
    /// Its headers, in their order.
    pub headers: Headers,
}

/// Kafka headers in their order; names may repeat, values may be null.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(Arc<str>, Option<Bytes>)>);

impl Headers {
    /// The last value of a header by its exact name, if it is there and not null.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().rev().find(|(n, _)| &**n == name).and_then(|(_, value)| value.as_ref())
    }

    /// The last value of a header by its name without regard to ASCII case, as UTF-8 text.
    pub fn text_ignore_case(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .and_then(|(_, value)| value.as_ref())
            .and_then(|value| std::str::from_utf8(value).ok())
    }
}

/// One record of a source topic with its facts. A retry record is turned back into the event it carries.
#[derive(Debug, Clone)]
pub struct Event {
    /// Source topic (not the retry topic).
    pub topic: Arc<str>,
    /// Partition of the source topic.
    pub partition: i32,
    /// Offset in the source topic.
    pub offset: i64,
    /// Timestamp in unix milliseconds; -1 when it has none.
    pub timestamp: i64,
    /// The event's key.
    pub key: Option<Bytes>,
    /// The event's value; a webhook's body, byte for byte. Absent for a tombstone.
    pub value: Option<Bytes>,
    /// The event's own headers, without any `arauto-*`.
    pub headers: Headers,
    /// The `webhook-id`: the same on every attempt for every endpoint.
    pub id: Arc<str>,
    /// The event type.
    pub event_type: Arc<str>,
    /// The tenant, if any.
    pub tenant: Option<Arc<str>>,
}
