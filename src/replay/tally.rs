//! What a replay does, or would do, counted: how many go where, how long that takes, what is refused and why. Pure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{pick::Refused, target::Why};

/// Refusals shown one by one; the rest is counted.
const LISTED: usize = 1_000;

/// The counts.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// What goes to each endpoint.
    pub endpoints: BTreeMap<Arc<str>, Share>,
    /// Left out because an earlier replay took them.
    pub taken: u64,
    /// Refused, by reason.
    pub reasons: BTreeMap<Why, u64>,
    /// The first of them.
    pub listed: Vec<Refused>,
}

/// What goes to one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// How many.
    pub count: u64,
    /// Time between two, in microseconds.
    pub interval: i64,
}

impl Tally {
    /// One goes.
    pub fn goes(&mut self, endpoint: &Arc<str>, interval: i64) {
        let share = self.endpoints.entry(Arc::clone(endpoint)).or_insert(Share { count: 0, interval });
        share.count += 1;
    }

    /// One that was counted does not go after all.
    pub fn went_not(&mut self, endpoint: &str) {
        if let Some(share) = self.endpoints.get_mut(endpoint) {
            share.count = share.count.saturating_sub(1);
        }
    }

    /// One is refused.
    pub fn refuse(&mut self, refused: Refused) {
        *self.reasons.entry(refused.why).or_default() += 1;
        if self.listed.len() < LISTED {
            self.listed.push(refused);
        }
    }

    /// How many go.
    pub fn count(&self) -> u64 {
        self.endpoints.values().map(|share| share.count).sum()
    }

    /// How many are refused.
    pub fn refused(&self) -> u64 {
        self.reasons.values().sum()
    }

    /// How long it takes at the rate, from the first to the last of the endpoint that takes longest.
    pub fn takes(&self) -> Duration {
        self.endpoints.values().map(Share::takes).max().unwrap_or_default()
    }
}

impl Share {
    /// How long it takes at the rate.
    pub fn takes(&self) -> Duration {
        let interval = Duration::from_micros(u64::try_from(self.interval).unwrap_or(0));
        interval.saturating_mul(u32::try_from(self.count.saturating_sub(1)).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::pick::At;

    #[test]
    fn it_takes_as_long_as_the_slowest_endpoint() {
        let mut tally = Tally::default();
        assert_eq!((tally.count(), tally.takes()), (0, Duration::ZERO));
        for (endpoint, interval, count) in
            [("fast", 1_000, 101), ("slow", 1_000_000, 3), ("one", 90_000_000, 1)]
        {
            (0..count).for_each(|_| tally.goes(&endpoint.into(), interval));
        }
        assert_eq!((tally.count(), tally.takes()), (105, Duration::from_secs(2)));
        tally.went_not("slow");
        assert_eq!((tally.count(), tally.takes()), (104, Duration::from_secs(1)));
    }

    #[test]
    fn refusals_are_counted_and_the_first_listed() {
        let mut tally = Tally::default();
        for offset in 0..1_500 {
            let at = At { topic: "d".into(), partition: 0, offset };
            let why = if offset % 3 == 0 { Why::Unknown } else { Why::MaxReplays };
            tally.refuse(Refused { id: "i".into(), endpoint: "e".into(), at, why });
        }
        assert_eq!((tally.refused(), tally.listed.len()), (1_500, LISTED));
        assert_eq!(tally.reasons, [(Why::Unknown, 500), (Why::MaxReplays, 1_000)].into());
    }
}
