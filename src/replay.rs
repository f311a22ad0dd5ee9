//! Replays: dead letters, or past events, put back on their way exactly once, however often that is interrupted.
//!
//! What a replay is, how far it has come and which letters it took are records of the state topic, written in the
//! same transaction as the records it puts on the tier `0s`. This page is the record of one, `replay/<name>`; [`book`]
//! is what all of them say, [`pick`] decides what becomes of a letter or an event, [`engine`] does it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::pace::Pace;
use crate::pipeline::{decode::id, state::Entry};

pub mod book;
pub mod engine;
pub mod journal;
pub mod known;
pub mod pace;
pub mod pick;
pub mod taken;
pub mod tally;
pub mod target;

/// The version of the records written here. One of a later version is shown but not gone on with: what it leaves out
/// may be what this release does not know.
pub const VERSION: u32 = 1;

/// A replay, as it was begun and as far as it has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// The version of the record.
    pub v: u32,
    /// What is replayed.
    pub of: Of,
    /// When it was begun, in unix milliseconds.
    pub begun: i64,
    /// When it was written down last, in unix milliseconds.
    pub at: i64,
    /// Is it over?
    pub stand: Stand,
    /// Which of them, times resolved.
    pub filter: serde_json::Value,
    /// How they are replayed.
    pub options: Options,
    /// What is read, as it was at the start.
    pub spans: Spans,
    /// What became of what was read so far.
    #[serde(default)]
    pub counts: Counts,
    /// When the next ones are due.
    #[serde(default)]
    pub pace: Pace,
}

/// What is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// Dead letters.
    Letters,
    /// Events of source topics: a backfill.
    Events,
}

/// Is it over?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stand {
    /// Not yet: it runs, or was interrupted.
    Unfinished,
    /// It has read all it was to read.
    Finished,
    /// An operator ended it before.
    Cancelled,
}

/// How letters or events are replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// The endpoint that gets all of them; without it each goes to its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The rate per endpoint, as written; without it a share of the endpoint's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// They get new webhook ids.
    #[serde(default)]
    pub reset_id: bool,
    /// What was taken before is taken again.
    #[serde(default)]
    pub again: bool,
    /// What was replayed so often to the same endpoint is refused.
    pub max_replays: u32,
}

/// Topic → partition → what is read of it.
pub type Spans = BTreeMap<String, BTreeMap<i32, Span>>;

/// What is read of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i64, i64, i64)", into = "(i64, i64, i64)")]
pub struct Span {
    /// The first offset.
    pub from: i64,
    /// The first offset that is not read any more.
    pub to: i64,
    /// The first offset that has not been dealt with.
    pub next: i64,
}

/// What became of what was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Records read.
    pub read: u64,
    /// Records that the filter let through.
    pub matched: u64,
    /// Put back on their way.
    pub written: u64,
    /// Left out because an earlier replay took them.
    pub taken: u64,
    /// Refused.
    pub refused: u64,
}

impl Replay {
    /// The record that says it.
    pub fn entry(&self, name: &str) -> Entry {
        let value = serde_json::to_vec(self).expect("plain values have a JSON form");
        Entry { key: key(name), value }
    }

    /// Is it begun and not over?
    pub fn is_unfinished(&self) -> bool {
        self.stand == Stand::Unfinished
    }

    /// The topic and the partition where both still have to read the same offsets, if there is one.
    pub fn meets(&self, spans: &Spans) -> Option<(&str, i32)> {
        self.shares(spans, |span| (span.next, span.to))
    }

    /// The topic and the partition where this one has read what the other still has to, if there is one.
    pub fn has_read(&self, spans: &Spans) -> Option<(&str, i32)> {
        self.shares(spans, |span| (span.from, span.next))
    }

    fn shares(&self, spans: &Spans, part: fn(&Span) -> (i64, i64)) -> Option<(&str, i32)> {
        let ours = self
            .spans
            .iter()
            .flat_map(|(topic, parts)| parts.iter().map(move |(of, span)| (topic, of, span)));
        let mut ours = ours.filter(|(topic, of, span)| {
            let theirs = spans.get(*topic).and_then(|partitions| partitions.get(of));
            let (first, end) = part(span);
            theirs.is_some_and(|theirs| first.max(theirs.next) < end.min(theirs.to))
        });
        ours.next().map(|(topic, of, _)| (topic.as_str(), *of))
    }

    /// Offsets still to be read.
    pub fn left(&self) -> i64 {
        let spans = self.spans.values().flat_map(BTreeMap::values);
        spans.map(|span| (span.to - span.next).max(0)).sum()
    }
}

impl Span {
    /// All of it is still to be read.
    pub fn new(from: i64, to: i64) -> Self {
        Self { from, to: to.max(from), next: from }
    }
}

impl From<(i64, i64, i64)> for Span {
    fn from((from, to, next): (i64, i64, i64)) -> Self {
        Self { from, to, next }
    }
}

impl From<Span> for (i64, i64, i64) {
    fn from(span: Span) -> Self {
        (span.from, span.to, span.next)
    }
}

/// The key of a replay's record.
pub fn key(name: &str) -> String {
    format!("replay/{name}")
}

/// May a replay be called that? 1–64 of `A-Z a-z 0-9 _ -`: names stand in keys and transactional ids.
pub fn is_name(name: &str) -> bool {
    id::is_plain(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(spans: &[(&str, i32, (i64, i64, i64))]) -> Spans {
        let mut all = Spans::new();
        for (topic, partition, span) in spans {
            all.entry((*topic).to_owned()).or_default().insert(*partition, Span::from(*span));
        }
        all
    }

    fn replay(of: &[(&str, i32, (i64, i64, i64))]) -> Replay {
        Replay {
            v: VERSION,
            of: Of::Letters,
            begun: 5,
            at: 6,
            stand: Stand::Unfinished,
            filter: serde_json::json!({ "reason": "exhausted" }),
            options: Options { to: None, rate: None, reset_id: false, again: false, max_replays: 3 },
            spans: spans(of),
            counts: Counts::default(),
            pace: Pace::default(),
        }
    }

    #[test]
    fn the_record_is_stable_and_small() {
        let replay = replay(&[("a.dead", 0, (0, 7, 3)), ("a.dead", 1, (4, 4, 4))]);
        let entry = replay.entry("n");
        let expected = concat!(
            r#"{"v":1,"of":"letters","begun":5,"at":6,"stand":"unfinished","filter":{"reason":"exhausted"},"#,
            r#""options":{"reset_id":false,"again":false,"max_replays":3},"#,
            r#""spans":{"a.dead":{"0":[0,7,3],"1":[4,4,4]}},"#,
            r#""counts":{"read":0,"matched":0,"written":0,"taken":0,"refused":0},"pace":{}}"#,
        );
        assert_eq!((&*entry.key, std::str::from_utf8(&entry.value).unwrap()), ("replay/n", expected));
        assert_eq!(serde_json::from_slice::<Replay>(&entry.value).unwrap(), replay);
        assert_eq!(replay.left(), 4);
    }

    #[test]
    fn replays_meet_where_both_still_have_to_read() {
        let ours = replay(&[("d", 0, (0, 10, 5)), ("d", 1, (0, 10, 10))]);
        for (theirs, expected) in [
            (("d", 0, (0, 20, 0)), Some(("d", 0))),
            (("d", 0, (9, 20, 9)), Some(("d", 0))),
            (("d", 0, (10, 20, 10)), None),
            (("d", 0, (0, 5, 0)), None),
            (("d", 0, (0, 6, 6)), None),
            (("d", 1, (0, 20, 0)), None),
            (("e", 0, (0, 20, 0)), None),
        ] {
            assert_eq!(ours.meets(&spans(&[theirs])), expected, "{theirs:?}");
        }
        let read = |theirs| ours.has_read(&spans(&[theirs])).is_some();
        assert!(read(("d", 0, (0, 20, 4))) && !read(("d", 0, (0, 20, 5))));
    }
}
