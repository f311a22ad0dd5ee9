//! Kafka as plain values: logs of records with holes, committed offsets with their metadata, and dead letters.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::pipeline::{
    Headers, Record,
    ledger::metadata::{self, Position},
};

/// A log: a partition of the source topic, or a tier (of one partition) by its delay in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Log {
    Source(i32),
    Tier(u64),
}

/// A log as a group reads it: the main group, or the one of an endpoint (by its number) with a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Of {
    pub(super) own: Option<usize>,
    pub(super) log: Log,
}

#[derive(Debug, Default)]
pub(super) struct Kafka {
    pub(super) logs: BTreeMap<Log, BTreeMap<i64, Record>>,
    ends: BTreeMap<Log, i64>,
    /// When the records of tiers are due, so that nobody reads their headers at every look.
    due: BTreeMap<(Log, i64), i64>,
    committed: BTreeMap<Of, (i64, String)>,
}

impl Log {
    pub(super) fn tier(self) -> Option<Duration> {
        match self {
            Self::Source(_) => None,
            Self::Tier(delay) => Some(Duration::from_millis(delay)),
        }
    }
}

impl Kafka {
    /// Appends a record behind a hole of that many offsets.
    pub(super) fn append(&mut self, log: Log, hole: i64, record: (Option<Bytes>, Headers), now: i64) -> i64 {
        let end = self.ends.entry(log).or_default();
        let offset = *end + hole;
        *end = offset + 1;
        let (topic, partition): (Arc<str>, i32) = match log {
            Log::Source(partition) => ("orders".into(), partition),
            Log::Tier(_) => ("tier".into(), 0),
        };
        let (key, headers) = record;
        let value = Some(Bytes::from_static(b"{}"));
        let record = Record { topic, partition, offset, timestamp: now, key, value, headers };
        self.logs.entry(log).or_default().insert(offset, record);
        offset
    }

    pub(super) fn note_due(&mut self, log: Log, offset: i64, due: i64) {
        self.due.insert((log, offset), due);
    }

    pub(super) fn due(&self, log: Log, offset: i64) -> i64 {
        self.due.get(&(log, offset)).copied().unwrap_or(i64::MAX)
    }

    pub(super) fn next(&self, log: Log, from: i64) -> Option<&Record> {
        self.logs.get(&log)?.range(from..).next().map(|(_, record)| record)
    }

    pub(super) fn end(&self, log: Log) -> i64 {
        self.ends.get(&log).copied().unwrap_or(0)
    }

    pub(super) fn commit(&mut self, of: Of, offset: i64, metadata: String) {
        self.committed.insert(of, (offset, metadata));
    }

    /// Where whoever gets it begins.
    pub(super) fn position(&self, of: Of) -> Position {
        match self.committed.get(&of) {
            None => Position::at(0),
            Some((base, metadata)) => metadata::decode(*base, metadata).unwrap_or(Position::at(*base)),
        }
    }
}
