//! What became of every delivery, as somebody sees it who stands beside the pipeline, and what must not happen.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use crate::config::settings::{Endpoint, Ordering};

/// Partition and offset of an event, and the number of an endpoint.
pub(super) type Pair = (i32, i64, usize);

/// One delivery, all its copies together.
#[derive(Debug, Default, Clone)]
pub(super) struct Fate {
    /// It was read, and its endpoint wanted it.
    pub(super) wanted: bool,
    pub(super) attempts: u32,
    pub(super) charged: u32,
    pub(super) delivered: u32,
    pub(super) dead: u32,
    pub(super) dropped: u32,
    /// How often it may arrive besides, because what was known of it was lost.
    pub(super) extra: u32,
    /// Not to be attempted before, as far as somebody still has to know.
    not_before: i64,
    /// What was known of its attempts was lost.
    pub(super) forgotten: bool,
    /// Times in a row it was parked by an open breaker.
    parks: u32,
}

#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) fates: BTreeMap<Pair, Fate>,
    /// The keys of all events, by partition and offset.
    pub(super) keys: BTreeMap<(i32, i64), Option<Bytes>>,
    pub(super) broken: Option<String>,
}

impl Fate {
    pub(super) fn ends(&self) -> u32 {
        self.delivered + self.dead + self.dropped
    }

    fn is_exact(&self) -> bool {
        self.extra == 0 && !self.forgotten
    }
}

impl Books {
    pub(super) fn broken(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    pub(super) fn require(&mut self, kept: bool, promise: &str, pair: Pair) {
        if !kept {
            let fate = self.fate(pair).clone();
            self.broken(format!("{promise}: {pair:?} {fate:?}"));
        }
    }

    pub(super) fn fate(&mut self, pair: Pair) -> &mut Fate {
        self.fates.entry(pair).or_default()
    }

    /// An attempt begins.
    pub(super) fn attempt(&mut self, pair: Pair, endpoint: &Endpoint, now: i64) {
        let fate = self.fate(pair);
        let (first, in_time) = (fate.attempts == 0, !fate.is_exact() || fate.not_before <= now);
        fate.attempts += 1;
        fate.parks = 0;
        self.require(in_time, "attempted before it was due", pair);
        if first {
            self.check_order(pair, endpoint.ordering);
        }
    }

    /// Nothing arrives for the first time before what is ahead of it in its line has ended.
    fn check_order(&mut self, pair: Pair, ordering: Ordering) {
        let (partition, offset, endpoint) = pair;
        let key = &self.keys[&(partition, offset)];
        if ordering == Ordering::None || (ordering == Ordering::Key && key.is_none()) {
            return;
        }
        let ahead = self.keys.range((partition, i64::MIN)..(partition, offset));
        let in_line = ahead.filter(|(_, other)| ordering == Ordering::Endpoint || *other == key);
        let waiting = in_line
            .map(|((_, before), _)| (partition, *before, endpoint))
            .find(|before| self.fates.get(before).is_none_or(|fate| fate.ends() == 0));
        if let Some(before) = waiting {
            self.broken(format!("order not kept: {pair:?} arrived before {before:?} had ended"));
        }
    }

    /// An attempt failed; it is to be made again after that time.
    pub(super) fn failed(&mut self, pair: Pair, charged: bool, until: i64) {
        let fate = self.fate(pair);
        fate.charged += u32::from(charged);
        fate.not_before = until;
    }

    /// It was dead-lettered because its schedule is used up.
    pub(super) fn exhausted(&mut self, pair: Pair, schedule: &[Duration]) {
        let fate = self.fate(pair);
        let enough = fate.charged as usize >= schedule.len();
        let exact = fate.is_exact();
        self.require(enough || !exact, "given up before its schedule was used up", pair);
    }

    /// It was parked because of an open breaker.
    pub(super) fn parked(&mut self, pair: Pair, schedule: &[Duration], wait: Duration) {
        let fate = self.fate(pair);
        let step = schedule.get((fate.charged + fate.parks) as usize).or(schedule.last());
        let kept = !fate.is_exact() || step.is_none_or(|step| wait >= *step);
        fate.parks += 1;
        self.require(kept, "a dead endpoint's backlog circulates faster than its schedule", pair);
    }

    /// It was parked for another reason.
    pub(super) fn parked_otherwise(&mut self, pair: Pair) {
        self.fate(pair).parks = 0;
    }

    /// Nobody has to know any more when it is due, and how often it was attempted.
    pub(super) fn forget(&mut self, pair: Pair) {
        let fate = self.fate(pair);
        (fate.not_before, fate.forgotten) = (0, true);
    }

    /// It has ended once more.
    pub(super) fn ended(&mut self, pair: Pair) {
        let fate = self.fate(pair);
        let once = fate.ends() <= 1 + fate.extra;
        self.require(once, "ended more often than it may", pair);
    }

    /// Everything has come to rest.
    pub(super) fn close(&mut self) {
        let lost = self.fates.iter().find(|(_, fate)| fate.wanted && fate.ends() == 0);
        if let Some((pair, fate)) = lost {
            let what = format!("lost: {pair:?} {fate:?}");
            self.broken(what);
        }
    }
}
