//! Which offsets of one partition are settled, and what may be committed.
//!
//! Pure: no clock, no lock, no I/O; the ticket and the commit loop wrap it. Offsets settle in any order, the
//! watermark moves over the settled front and steps over holes (compaction, transaction markers), each in O(1)
//! amortised. The idea of a deque behind a moving watermark is decaton's `OutOfOrderCommitControl`.

use std::collections::VecDeque;

use self::metadata::{Owed, Position, Run};

mod bits;
mod columns;
mod format1;
pub mod metadata;
mod rows;
mod table;

/// Intake stops when the metadata of what is owed has grown beyond this share of its space …
const CROWDED_AT: usize = metadata::MAX_LEN * 3 / 4;
/// … and goes on below this one, so that it does not flutter.
const ROOMY_AT: usize = metadata::MAX_LEN / 2;

/// Settled entries that are never worth throwing out.
const KEPT_SETTLED: usize = 1024;

/// The ledger of one assigned partition, for one life of it.
#[derive(Debug)]
pub struct Ledger {
    /// Everything below is settled; what is committed.
    base: i64,
    /// Lowest offset not read yet.
    next: i64,
    /// Sequence number of the next event.
    sequence: u64,
    /// What was read and lies at or above the base. Settled ones behind an unsettled one are thrown out when they
    /// are the greater part, so that one delivery that takes long does not grow the ledger with everything behind.
    entries: VecDeque<Entry>,
    /// Settled ones among the entries.
    settled: usize,
    /// What an earlier life owed at and above `next`, until it has been read again.
    carried: VecDeque<Run>,
    /// Below it, what `carried` does not name is settled.
    carried_horizon: i64,
    dirty: bool,
    crowded: bool,
}

#[derive(Debug)]
struct Entry {
    sequence: u64,
    offset: i64,
    timestamp: i64,
    /// Settled entries between this one and the one before were thrown out.
    gap_before: bool,
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
            sequence: 0,
            entries: VecDeque::new(),
            settled: 0,
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
        let sequence = self.sequence;
        self.sequence += 1;
        let left = u32::try_from(endpoints.len()).expect("fewer endpoints than 2^32");
        if self.entries.is_empty() {
            // Over a hole, which is worth a commit: nothing else may end for long.
            self.dirty |= offset > self.base;
            self.base = offset;
        }
        if left == 0 && self.entries.is_empty() {
            self.base = self.next;
            self.dirty = true;
            return sequence;
        }
        if left == 0 {
            self.dirty = true;
            self.settled += 1;
        }
        let slots = match endpoints {
            [one] => Slots::One(*one),
            many => Slots::Many(many.into()),
        };
        self.entries.push_back(Entry { sequence, offset, timestamp, gap_before: false, left, slots });
        self.throw_out_settled();
        sequence
    }

    /// The place of an opened event's nth endpoint.
    pub fn place(sequence: u64, slot: usize) -> Place {
        Place { sequence, slot: u32::try_from(slot).expect("fewer endpoints than 2^32") }
    }

    /// Settles one delivery. Settling twice is a bug of the caller and is ignored in release builds.
    pub fn settle(&mut self, place: Place) {
        let index = self.index_of(place.sequence);
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
        if entry.left > 0 {
            return;
        }
        self.settled += 1;
        if index == Some(0) {
            self.advance();
        } else {
            self.throw_out_settled();
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

    /// Is there something to commit?
    pub fn is_dirty(&self) -> bool {
        self.dirty
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
            adjacent &= !entry.gap_before;
            // A run may span holes: an offset that does not exist is owed to nobody.
            match owed.last_mut() {
                Some(run) if adjacent && entry.is_owed(&run.owed) => run.last = entry.offset,
                _ => owed.push(Run { first: entry.offset, last: entry.offset, owed: entry.owed() }),
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
            self.settled -= 1;
        }
        self.base = self.entries.front().map_or(self.next, |entry| entry.offset);
    }

    /// Where an event's entry is: at its distance from the first, unless entries in between were thrown out.
    fn index_of(&self, sequence: u64) -> Option<usize> {
        let first = self.entries.front()?.sequence;
        let direct = usize::try_from(sequence.checked_sub(first)?).ok()?;
        if self.entries.get(direct).is_some_and(|entry| entry.sequence == sequence) {
            return Some(direct);
        }
        self.entries.binary_search_by_key(&sequence, |entry| entry.sequence).ok()
    }

    /// Amortised O(1): it runs when the settled are as many as the unsettled, and leaves none of them.
    fn throw_out_settled(&mut self) {
        if self.settled <= KEPT_SETTLED.max(self.entries.len() / 2) {
            return;
        }
        let mut gap = false;
        self.entries.retain_mut(|entry| {
            gap |= entry.gap_before;
            if entry.left == 0 {
                gap = true;
                return false;
            }
            entry.gap_before = std::mem::take(&mut gap);
            true
        });
        self.settled = 0;
    }
}

impl Entry {
    /// Is it owed to just these? For one endpoint, which most have, without an allocation.
    fn is_owed(&self, to: &Owed) -> bool {
        match (&self.slots, to) {
            (Slots::One(hash), Owed::To(hashes)) => hashes[..] == [*hash],
            (Slots::One(_), Owed::All) => false,
            (Slots::Many(_), _) => self.owed() == *to,
        }
    }

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
