//! A letter in one line: of a table, or of JSON.

use serde::Serialize;

use crate::{letters::Letter, replay::book::Take};

/// What is said of a letter without its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    /// Where the letter is: the dead-letter topic.
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// Unix milliseconds, as all times.
    pub(super) died: i64,
    pub(super) id: Option<String>,
    pub(super) endpoint: Option<String>,
    #[serde(rename = "type")]
    pub(super) event_type: String,
    pub(super) tenant: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) error: Option<String>,
    pub(super) attempts: u32,
    pub(super) replays: u32,
    /// Where the event is.
    pub(super) source: Source,
    /// Why it can be looked at only: it was not written by Arauto, or cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
    /// The replay that took it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replayed: Option<Replayed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Source {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Replayed {
    pub(super) at: i64,
    pub(super) by: String,
}

impl Row {
    pub(super) fn new(letter: &Letter, taken: Option<Take<'_>>) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let (record, event) = (&letter.record, &letter.event);
        Self {
            topic: record.topic.to_string(),
            partition: record.partition,
            offset: record.offset,
            died: letter.died(),
            id: owned(letter.id()),
            endpoint: owned(letter.endpoint()),
            event_type: event.event_type.to_string(),
            tenant: owned(event.tenant.as_deref()),
            reason: owned(letter.reason()),
            status: letter.status(),
            error: owned(letter.error()),
            attempts: letter.attempts(),
            replays: letter.subject().replays,
            source: Source {
                topic: event.topic.to_string(),
                partition: event.partition,
                offset: event.offset,
            },
            problem: letter.envelope.as_ref().err().map(ToString::to_string),
            replayed: taken.map(|take| Replayed { at: take.at, by: take.by.to_owned() }),
        }
    }
}

/// So many letters.
pub(super) fn letters(count: u64) -> String {
    format!("{count} letter{}", if count == 1 { "" } else { "s" })
}
