//! How many attempts one endpoint may have in flight now: additive increase, multiplicative decrease. Pure.
//!
//! The window is TCP's (RFC 5681: slow start, then one more per round trip, half after a loss), steered by latency as
//! in Netflix's concurrency-limits (<https://github.com/Netflix/concurrency-limits>, gradient) and vector's adaptive
//! concurrency (a round trip at most one change, only successes are timed, no increase unless the limit was reached). When
//! it is this process that attempts mostly wait for, fewer are under way as well.

use std::time::Duration;

/// Round trips of fewer attempts than this say little about latency.
const SAMPLES: usize = 3;
/// Latency counts as rising when a round's mean is above the base by this factor and this much: a queue at the
/// receiver a quarter as long as what it works on, and more than the jitter of a fast receiver or of a busy machine.
const TOLERANCE: f64 = 1.25;
const SLACK: f64 = 0.005;
/// The bounds of one decrease.
const GENTLEST: f64 = 0.9;
const HARDEST: f64 = 0.5;
/// When attempts mostly wait in this process (see [`Signal::Crowded`]), fewer at once do as well: a round trip takes off
/// a tenth, down to this many. More would only make the queue longer, and touch more connections for the same work.
const FEWEST: usize = 8;
/// A receiver may have become slower for good: with each round above the base, the base follows by this share.
const DRIFT: f64 = 0.1;

/// The adaptive limit.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    limit: usize,
    most: usize,
    /// Doubles per round trip until the first decrease.
    slow_start: bool,
    /// Attempts begun so far; and how many that were when the round began.
    begun: u64,
    round: u64,
    /// Was the limit reached in this round?
    reached: bool,
    /// Sum of the durations of this round's successes in seconds, their number, and that of the crowded among them.
    sum: f64,
    count: usize,
    crowded: usize,
    /// What a round trip takes when nothing queues at the receiver, in seconds; 0 until it was measured.
    base: f64,
}

/// What an attempt says about the receiver's capacity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Signal {
    /// It succeeded in this time.
    Success(Duration),
    /// The same, but it waited long for its turns in this process, which has more to do than it can.
    Crowded(Duration),
    /// Timed out, could not connect, 429 or 503: too much, perhaps.
    Overload,
    /// Failed otherwise: says nothing.
    Neutral,
}

impl Limit {
    /// One at a time, until something is known.
    pub(super) fn new(most: usize) -> Self {
        Self {
            limit: 1,
            most: most.max(1),
            slow_start: true,
            begun: 0,
            round: 0,
            reached: false,
            sum: 0.0,
            count: 0,
            crowded: 0,
            base: 0.0,
        }
    }

    /// Attempts allowed in flight now.
    pub(super) fn current(&self) -> usize {
        self.limit
    }

    /// The limit to plan with: what is allowed now once that is known to be the receiver's, else the most there may be.
    pub(super) fn expected(&self) -> usize {
        if self.slow_start { self.most } else { self.limit }
    }

    /// Is it still being found how many may go at once?
    pub(super) fn is_ramping(&self) -> bool {
        self.slow_start && self.limit < self.most
    }

    /// Never more than this from now on.
    pub(super) fn set_most(&mut self, most: usize) {
        self.most = most.max(1);
        self.limit = self.limit.min(self.most);
    }

    /// Begins with one again, and ramps up.
    pub(super) fn start_over(&mut self) {
        self.limit = 1;
        self.slow_start = true;
        self.begin_round();
    }

    /// It is another receiver: begins with one, and measures anew what a round trip takes.
    pub(super) fn forget(&mut self) {
        self.base = 0.0;
        self.start_over();
    }

    /// An attempt begins, `in_flight` with it; what is returned belongs to its [`Limit::ended`].
    pub(super) fn begins(&mut self, in_flight: usize) -> u64 {
        self.reached |= in_flight >= self.limit;
        self.begun += 1;
        self.begun
    }

    /// An attempt has ended. Only what began after the last change says anything about it.
    pub(super) fn ended(&mut self, begun: u64, signal: Signal) {
        if begun <= self.round {
            return;
        }
        match signal {
            Signal::Neutral => {}
            Signal::Overload => self.decrease(HARDEST, 1),
            Signal::Success(took) | Signal::Crowded(took) => {
                self.sum += took.as_secs_f64();
                self.count += 1;
                self.crowded += usize::from(matches!(signal, Signal::Crowded(_)));
                if self.count >= self.limit.max(SAMPLES) {
                    self.end_round();
                }
            }
        }
    }

    fn end_round(&mut self) {
        let mean = self.sum / self.count as f64;
        if self.base == 0.0 || self.limit == 1 {
            // One at a time nothing queues because of us: that is what it takes.
            self.base = mean;
        } else if mean < self.base {
            // Half of the way: one lucky round is no new base.
            self.base = self.base.midpoint(mean);
        }
        if mean > self.base * TOLERANCE + SLACK {
            let gradient = self.base / mean;
            self.base += (mean - self.base) * DRIFT;
            return self.decrease(gradient, 1);
        }
        if self.crowded > self.count / 2 && self.limit >= FEWEST {
            // This says nothing of the receiver.
            return self.decrease(GENTLEST, FEWEST);
        }
        if self.reached && self.limit < self.most {
            let more = if self.slow_start { self.limit * 2 } else { self.limit + 1 };
            self.limit = more.min(self.most);
        }
        self.begin_round();
    }

    fn decrease(&mut self, factor: f64, least: usize) {
        self.slow_start = false;
        self.limit = ((self.limit as f64 * factor.clamp(HARDEST, GENTLEST)) as usize).max(least);
        self.begin_round();
    }

    fn begin_round(&mut self) {
        self.round = self.begun;
        self.reached = false;
        (self.sum, self.count, self.crowded) = (0.0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// One round trip with as many in flight as allowed, each answered as told for that many in flight.
    fn round(limit: &mut Limit, answer: impl Fn(usize) -> Signal) {
        let at_once = limit.current();
        let begun: Vec<u64> = (1..=at_once).map(|in_flight| limit.begins(in_flight)).collect();
        begun.into_iter().for_each(|begun| limit.ended(begun, answer(at_once)));
    }

    fn rounds(limit: &mut Limit, count: usize, answer: impl Fn(usize) -> Signal) -> Vec<usize> {
        let one = |_| {
            round(limit, &answer);
            limit.current()
        };
        (0..count).map(one).collect()
    }

    /// So many workers, 50 ms each, and a queue before them.
    fn workers(workers: usize) -> impl Fn(usize) -> Signal {
        move |in_flight| Signal::Success(50 * MS.mul_f64((in_flight as f64 / workers as f64).max(1.0)))
    }

    #[test]
    fn a_receiver_without_bounds_gets_all_there_may_be() {
        let mut limit = Limit::new(64);
        assert_eq!(limit.current(), 1);
        let course = rounds(&mut limit, 12, |_| Signal::Success(50 * MS));
        assert_eq!(course.last(), Some(&64));
    }

    #[test]
    fn a_receiver_with_workers_gets_as_many_and_a_few_that_queue() {
        for (count, low, high) in [(1, 1, 2), (2, 1, 4), (8, 6, 12), (20, 14, 28)] {
            let mut limit = Limit::new(64);
            rounds(&mut limit, 40, workers(count));
            for at_once in rounds(&mut limit, 500, workers(count)) {
                assert!((low..=high).contains(&at_once), "{at_once} at once for {count} workers");
            }
        }
    }

    #[test]
    fn overload_halves_once_per_round_trip() {
        let mut limit = Limit::new(64);
        rounds(&mut limit, 12, |_| Signal::Success(MS));
        let begun: Vec<u64> = (1..=64).map(|n| limit.begins(n)).collect();
        begun.into_iter().for_each(|begun| limit.ended(begun, Signal::Overload));
        assert_eq!(limit.current(), 32);
        rounds(&mut limit, 9, |_| Signal::Overload);
        assert_eq!(limit.current(), 1);
        assert_eq!(rounds(&mut limit, 3, |_| Signal::Neutral), [1; 3]);
    }

    #[test]
    fn after_a_decrease_it_goes_up_by_one() {
        let mut limit = Limit::new(64);
        rounds(&mut limit, 12, |_| Signal::Success(MS));
        round(&mut limit, |_| Signal::Overload);
        assert_eq!(rounds(&mut limit, 3, |_| Signal::Success(MS)), [33, 34, 35]);
    }

    #[test]
    fn it_does_not_go_up_unless_it_was_reached() {
        let mut limit = Limit::new(64);
        rounds(&mut limit, 6, |_| Signal::Success(MS));
        let before = limit.current();
        for _ in 0..1000 {
            let begun = limit.begins(1);
            limit.ended(begun, Signal::Success(MS));
        }
        assert_eq!(limit.current(), before);
    }

    #[test]
    fn a_receiver_that_became_slower_for_good_is_trusted_again() {
        let mut limit = Limit::new(64);
        rounds(&mut limit, 12, |_| Signal::Success(50 * MS));
        rounds(&mut limit, 200, |_| Signal::Success(300 * MS));
        assert_eq!(limit.current(), 64);
    }

    #[test]
    fn another_receiver_is_measured_anew() {
        let mut limit = Limit::new(64);
        rounds(&mut limit, 12, |_| Signal::Success(5 * MS));
        let late = limit.begins(1);
        limit.forget();
        limit.ended(late, Signal::Overload);
        assert_eq!(limit.current(), 1);
        assert_eq!(rounds(&mut limit, 12, |_| Signal::Success(300 * MS)).last(), Some(&64));
    }

    #[test]
    fn one_at_a_time_tells_what_it_takes() {
        let mut limit = Limit::new(64);
        rounds(&mut limit, 12, |_| Signal::Success(MS));
        rounds(&mut limit, 9, |_| Signal::Overload);
        limit.start_over();
        // It came back, a hundred times as slow.
        assert_eq!(rounds(&mut limit, 12, |_| Signal::Success(100 * MS)).last(), Some(&64));
    }

    #[test]
    fn jitter_of_a_fast_receiver_is_no_congestion() {
        let mut limit = Limit::new(64);
        rounds(&mut limit, 12, |_| Signal::Success(MS / 2));
        let course = rounds(&mut limit, 100, |n| Signal::Success(MS * (n as u32 % 4)));
        assert_eq!(course.last(), Some(&64));
    }

    #[test]
    fn a_process_that_cannot_keep_up_has_fewer_at_once_and_never_few() {
        let mut limit = Limit::new(64);
        rounds(&mut limit, 12, |_| Signal::Success(MS));
        let course = rounds(&mut limit, 40, |_| Signal::Crowded(MS));
        assert_eq!((course[..3].to_vec(), course.last()), (vec![57, 51, 45], Some(&FEWEST)));
        // It goes up again as soon as there is room.
        assert_eq!(rounds(&mut limit, 2, |_| Signal::Success(MS)), [9, 10]);
        // One turn that was late is no crowd.
        round(&mut limit, |_| Signal::Success(MS));
        let begun: Vec<u64> = (1..=11).map(|n| limit.begins(n)).collect();
        let signal = |n| if n % 3 == 0 { Signal::Crowded(MS) } else { Signal::Success(MS) };
        (0..).zip(begun).for_each(|(n, begun)| limit.ended(begun, signal(n)));
        assert_eq!(limit.current(), 12);
        // What begins in a crowd gets as many.
        let mut limit = Limit::new(64);
        assert_eq!(rounds(&mut limit, 20, |_| Signal::Crowded(MS)).last(), Some(&FEWEST));
        let mut limit = Limit::new(2);
        assert_eq!(rounds(&mut limit, 20, |_| Signal::Crowded(MS)).last(), Some(&2));
    }

    #[test]
    fn a_lower_most_holds_at_once() {
        let mut limit = Limit::new(64);
        rounds(&mut limit, 12, |_| Signal::Success(MS));
        limit.set_most(5);
        assert_eq!(limit.current(), 5);
        limit.start_over();
        assert_eq!(limit.current(), 1);
    }
}
