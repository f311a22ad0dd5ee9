//! How fast a lane drains, and the due times that are reserved by it for what is parked. Pure.
//!
//! A cursor moves on by what one delivery takes: the interval of the rate limit, or the mean duration of a successful
//! attempt divided by how many go at once (or what one took lately, if that is less), whichever is longer. Parked
//! deliveries get one slot each, in the order they are parked, so that they come back about as fast as they can be sent.
//! Slots of a rate are exact; the others are guesses, which the lane cuts short when it sees more than they knew.

use std::time::Duration;

use crate::config::settings::Rate;

/// Weight of the newest attempt in the mean duration.
const NEWEST: f64 = 0.1;
/// The rate of deliveries is measured over at least this many milliseconds.
const MEASURED_OVER: i64 = 1_000;

/// The pace of one lane. Times are unix milliseconds.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The next free slot.
    cursor: f64,
    /// Mean duration of successful attempts, and of slower failed ones; `None` before the first success.
    mean: Option<f64>,
    /// Deliveries that arrived since `since`, and how many per second before.
    arrived: u32,
    since: i64,
    rate: f64,
}

impl Pace {
    /// A delivery arrived.
    pub(super) fn arrived(&mut self, took: Duration, now: i64) {
        self.took(took);
        self.measure(now);
        self.arrived += 1;
    }

    /// An attempt failed. If it took longer than others that is what the lane drains at; a quick failure says nothing.
    pub(super) fn failed(&mut self, took: Duration) {
        if self.mean.is_some_and(|mean| mean < took.as_secs_f64() * 1000.0) {
            self.took(took);
        }
    }

    /// Mean milliseconds of an attempt; `None` before the first success.
    pub(super) fn mean(&self) -> Option<f64> {
        self.mean
    }

    /// Deliveries per second that arrived lately.
    pub(super) fn rate(&mut self, now: i64) -> f64 {
        self.measure(now);
        self.rate
    }

    /// Milliseconds between two deliveries with so many in flight; `None` when nothing is known.
    pub(super) fn spacing(&mut self, rate: Option<Rate>, at_once: usize, now: i64) -> Option<f64> {
        // What it has done it can do again, whatever a busy moment makes of the mean.
        let done = 1_000.0 / self.rate(now);
        let drain = self.mean.map(|mean| (mean / at_once.max(1) as f64).min(done));
        let limit = rate.map(|rate| rate.interval().as_secs_f64() * 1000.0);
        match (drain, limit) {
            (Some(drain), Some(limit)) => Some(drain.max(limit)),
            (known, None) | (None, known) => known,
        }
    }

    /// Reserves the next free slot, not before `from`, behind what is held and what was parked before.
    pub(super) fn reserve(&mut self, from: i64, held: usize, spacing: f64) -> i64 {
        let behind_the_held = from as f64 + spacing * held as f64;
        self.cursor = self.cursor.max(behind_the_held) + spacing;
        self.cursor as i64
    }

    /// The last slot given, while it lies ahead.
    pub(super) fn cursor(&self, now: i64) -> Option<i64> {
        Some(self.cursor as i64).filter(|cursor| *cursor > now)
    }

    /// Forgets what was measured and reserved: it is another receiver.
    pub(super) fn start_over(&mut self) {
        *self = Self::default();
    }

    /// Forgets what was reserved.
    pub(super) fn forget_slots(&mut self) {
        self.cursor = 0.0;
    }

    fn took(&mut self, took: Duration) {
        let took = took.as_secs_f64() * 1000.0;
        self.mean = Some(self.mean.map_or(took, |mean| mean * (1.0 - NEWEST) + took * NEWEST));
    }

    fn measure(&mut self, now: i64) {
        let over = now - self.since;
        if !(0..MEASURED_OVER).contains(&over) {
            // Nothing was measured when the clock was set back.
            self.rate = if over > 0 { f64::from(self.arrived) * 1000.0 / over as f64 } else { 0.0 };
            (self.arrived, self.since) = (0, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn spacing_is_what_one_delivery_takes() {
        let rate = |count| Some(Rate { count, per: Duration::from_secs(1) });
        let rows = [
            (None, None, 64, None),
            (None, rate(50), 64, Some(20.0)),
            (Some(640 * MS), None, 64, Some(10.0)),
            (Some(640 * MS), rate(50), 64, Some(20.0)),
            (Some(640 * MS), rate(50), 1, Some(640.0)),
        ];
        for (took, rate, at_once, expected) in rows {
            let mut pace = Pace::default();
            took.into_iter().for_each(|took| pace.arrived(took, 0));
            assert_eq!(pace.spacing(rate, at_once, 0), expected);
        }
    }

    #[test]
    fn what_was_done_lately_can_be_done_again() {
        let mut pace = Pace::default();
        // 200 in a second, though each took so long that one at a time could do but two.
        (0..200).for_each(|n| pace.arrived(500 * MS, n * 5));
        assert_eq!(pace.spacing(None, 1, 999), Some(500.0), "not measured yet");
        assert_eq!(pace.spacing(None, 1, 1_000), Some(5.0));
        assert_eq!(pace.spacing(None, 250, 1_000), Some(2.0), "the mean is better");
        let rate = Rate { count: 50, per: Duration::from_secs(1) };
        assert_eq!(pace.spacing(Some(rate), 1, 1_000), Some(20.0), "a limit is a limit");
        assert_eq!(pace.spacing(None, 1, 3_000), Some(500.0), "nothing arrived lately");
        pace.arrived(500 * MS, 3_500);
        assert_eq!(pace.spacing(None, 1, 2_000), Some(500.0), "the clock was set back");
        (0..200).for_each(|n| pace.arrived(500 * MS, 2_000 + n * 5));
        pace.start_over();
        pace.arrived(500 * MS, 3_000);
        assert_eq!(pace.spacing(None, 1, 3_000), Some(500.0), "it is another receiver");
    }

    #[test]
    fn a_slow_failure_takes_its_time_and_a_quick_one_says_nothing() {
        let mut pace = Pace::default();
        pace.failed(1_000 * MS);
        assert_eq!(pace.spacing(None, 1, 0), None, "nothing is known until something arrived");
        pace.arrived(100 * MS, 0);
        pace.failed(MS);
        assert_eq!(pace.spacing(None, 1, 0), Some(100.0));
        pace.failed(1_100 * MS);
        assert_eq!(pace.spacing(None, 1, 0), Some(200.0));
    }

    #[test]
    fn slots_follow_each_other_and_never_lie_in_the_past() {
        let mut pace = Pace::default();
        assert_eq!([(); 3].map(|()| pace.reserve(1_000, 10, 20.0)), [1_220, 1_240, 1_260]);
        assert_eq!(pace.cursor(1_100), Some(1_260));
        assert_eq!(pace.reserve(5_000, 0, 20.0), 5_020);
        assert_eq!(pace.cursor(6_000), None);
    }

    #[test]
    fn the_rate_is_what_arrived_lately() {
        let mut pace = Pace::default();
        assert!(pace.rate(0).abs() < 0.01);
        (0..100).for_each(|n| pace.arrived(MS, 1_000 + n * 10));
        assert!((pace.rate(2_000) - 100.0).abs() < 1.0);
        assert!(pace.rate(4_000).abs() < 0.01);
    }
}
