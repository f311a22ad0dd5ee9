//! Which offsets of one partition are settled, and what may be committed.
//!
//! Pure: no clock, no lock, no I/O; the ticket and the commit loop wrap it. Offsets settle in any order, the
//! watermark moves over the settled front and steps over holes (compaction, transaction markers), each in O(1)
//! amortised. The idea of a deque behind a moving watermark is decaton's `OutOfOrderCommitControl`.

use std::collections::VecDeque;

use self::metadata::{Owed, Position, Run};

pub mod metadata;

/// Intake stops when the metadata of what is owed has grown beyond this share of its space …
const CROWDED_AT: usize = metadata::MAX_LEN * 3 / 4;
/// … and goes on below this one, so that it does not flutter.
const ROOMY_AT: usize = metadata::MAX_LEN / 2;

/// The ledger of one assigned partition, for one life of it.
#[derive(Debug)]
pub struct Ledger {
    /// Everything below is settled; what is committed.
    base: i64,
    /// Lowest offset not read yet.
    next: i64,
    /// Sequence number of `entries[0]`.
    first: u64,
    entries: VecDeque<Entry>,
    /// What an earlier life owed at and above `next`, until it has been read again.
    carried: VecDeque<Run>,
    /// Below it, what `carried` does not name is settled.
    carried_horizon: i64,
    dirty: bool,
    crowded: bool,
}

#[derive(Debug)]
struct Entry {
    offset: i64,
    timestamp: i64,
    left: u32,
    slots: Slots,
}

/// The endpoints an event is for, by hash; a settled one is zeroed (no endpoint hashes to zero).
#[derive(Debug)]
enum Slots {
    One(u32),
    Many(Box<[u32]>),
}

/// The place of one delivery in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    sequence: u64,
    slot: u32,
}

/// What an earlier life left of an offset that is read now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carried {
    /// It was never read: owed to whoever wants it.
    New,
    /// It is settled: nobody gets it again.
    Settled,
    /// It is owed to these endpoints only (to everybody who wants it: `Owed::All`).
    Owed(Owed),
}

/// What to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The next offset to read.
    pub offset: i64,
    /// What is settled above it.
    pub metadata: String,
}

impl Ledger {
    /// A life that begins at a position: nothing is settled above its offset but what the position says.
    pub fn new(position: Position) -> Self {
        let Position { base, horizon, owed } = position;
        Self {
            base,
            next: base,
            first: 0,
            entries: VecDeque::new(),
            carried: owed.into(),
            carried_horizon: horizon,
            dirty: false,
            crowded: false,
        }
    }

    /// The lowest unsettled offset.
    pub fn base(&self) -> i64 {
        self.base
    }

    /// The lowest offset not read yet.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// The timestamp of the oldest unsettled event that was read.
    pub fn oldest_timestamp(&self) -> Option<i64> {
        self.entries.front().map(|entry| entry.timestamp)
    }

    /// Is what is owed so scattered that intake has to stop until some of it is settled? What an earlier life has
    /// read is read on all the same: it is counted already, and unread it could never settle.
    pub fn is_crowded(&self) -> bool {
        self.crowded && self.next >= self.carried_horizon
    }

    /// What an earlier life says of an offset, which must not be below `next`.
    pub fn carried(&mut self, offset: i64) -> Carried {
        while self.carried.front().is_some_and(|run| run.last < offset) {
            self.carried.pop_front();
        }
        match self.carried.front() {
            Some(run) if run.first <= offset => Carried::Owed(run.owed.clone()),
            _ if offset < self.carried_horizon => Carried::Settled,
            _ => Carried::New,
        }
    }

    /// Opens an event for its endpoints (hashes, not zero) and returns the sequence number its places have.
    /// An event for nobody is settled at once. The offset must not be below `next`.
    pub fn open(&mut self, offset: i64, timestamp: i64, endpoints: &[u32]) -> u64 {
        assert!(offset >= self.next, "offset {offset} opened twice, next is {}", self.next);
        debug_assert!(endpoints.iter().all(|hash| *hash != 0), "zero means settled");
        self.next = offset + 1;
        let sequence = self.first + self.entries.len() as u64;
        let left = u32::try_from(endpoints.len()).expect("fewer endpoints than 2^32");
        if self.entries.is_empty() {
            self.base = offset;
        }
        if left == 0 && self.entries.is_empty() {
            self.base = self.next;
            self.dirty = true;
            return sequence;
        }
        self.dirty |= left == 0;
        let slots = match endpoints {
            [one] => Slots::One(*one),
            many => Slots::Many(many.into()),
        };
        self.entries.push_back(Entry { offset, timestamp, left, slots });
        sequence
    }

    /// The place of an opened event's nth endpoint.
    pub fn place(sequence: u64, slot: usize) -> Place {
        Place { sequence, slot: u32::try_from(slot).expect("fewer endpoints than 2^32") }
    }

    /// Settles one delivery. Settling twice is a bug of the caller and is ignored in release builds.
    pub fn settle(&mut self, place: Place) {
        let index = place.sequence.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) else {
            debug_assert!(false, "settled a place that is gone: {place:?}");
            return;
        };
        if !entry.slots.clear(place.slot as usize) {
            debug_assert!(false, "settled twice: {place:?}");
            return;
        }
        entry.left -= 1;
        self.dirty = true;
        if entry.left == 0 && place.sequence == self.first {
            self.advance();
        }
    }

    /// The partition was read up to this offset and there is nothing below it that was not read.
    pub fn reached_end(&mut self, end: i64) {
        if end <= self.next {
            return;
        }
        self.next = end;
        if self.entries.is_empty() {
            self.base = end;
            self.dirty = true;
        }
    }

    /// What to commit, if there is something new since the last time; call `touch` if it does not get through.
    pub fn take_commit(&mut self) -> Option<Commit> {
        if !self.dirty {
            return None;
        }
        self.dirty = false;
        let (metadata, wanted_len) = metadata::encode(&self.position());
        self.crowded = wanted_len > if self.crowded { ROOMY_AT } else { CROWDED_AT };
        Some(Commit { offset: self.base, metadata })
    }

    /// There is something to commit again: a commit that did not get through, or a position never committed.
    pub fn touch(&mut self) {
        self.dirty = true;
    }

    /// Everything another life needs to go on from here.
    pub fn position(&self) -> Position {
        let mut owed: Vec<Run> = Vec::new();
        let mut adjacent = false;
        for entry in &self.entries {
            if entry.left == 0 {
                adjacent = false;
                continue;
            }
            let still = entry.owed();
            // A run may span holes: an offset that does not exist is owed to nobody.
            match owed.last_mut() {
                Some(run) if adjacent && run.owed == still => run.last = entry.offset,
                _ => owed.push(Run { first: entry.offset, last: entry.offset, owed: still }),
            }
            adjacent = true;
        }
        owed.extend(self.carried.iter().filter(|run| run.last >= self.next).map(|run| Run {
            first: run.first.max(self.next),
            last: run.last,
            owed: run.owed.clone(),
        }));
        Position { base: self.base, horizon: self.next.max(self.carried_horizon), owed }
    }

    fn advance(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.left == 0) {
            self.entries.pop_front();
            self.first += 1;
        }
        self.base = self.entries.front().map_or(self.next, |entry| entry.offset);
    }
}

impl Entry {
    fn owed(&self) -> Owed {
        match &self.slots {
            Slots::One(hash) => Owed::To(vec![*hash]),
            Slots::Many(hashes) => {
                let mut still: Vec<u32> = hashes.iter().copied().filter(|hash| *hash != 0).collect();
                still.sort_unstable();
                Owed::To(still)
            }
        }
    }
}

impl Slots {
    /// Marks a slot as settled; false when it was already.
    fn clear(&mut self, slot: usize) -> bool {
        let hash = match self {
            Self::One(hash) if slot == 0 => hash,
            Self::One(_) => return false,
            Self::Many(hashes) => match hashes.get_mut(slot) {
                Some(hash) => hash,
                None => return false,
            },
        };
        std::mem::replace(hash, 0) != 0
    }
}

#[cfg(test)]
mod tests;
