//! The circuit breaker of one lane (Nygard, "Release It!"; states and counting window as in Resilience4j). Pure.
//!
//! Closed: everything goes. Open: nothing does, until the pause is over. Probing: one real delivery at a time; a
//! failure opens it again for twice as long, a run of successes closes it. Times are unix milliseconds.

use std::{collections::VecDeque, time::Duration};

use crate::{config::settings, pipeline::delivery::millis};

/// Attempts the failed share is counted over; more when `minimum` asks for more. The same as Resilience4j's.
const WINDOW: usize = 100;
/// Successes in a row that close it.
const RUN: u32 = 3;

/// One lane's breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// Changes with every change of the state: what began in another one says nothing about this one.
    generation: u64,
    /// The last pause, which the next one doubles; zero when it was closed since.
    pause: Duration,
}

#[derive(Debug)]
enum State {
    Closed(Window),
    Open { until: i64 },
    Probing { successes: u32, in_flight: bool, next: i64 },
}

/// The latest attempts: did they fail?
#[derive(Debug, Default)]
struct Window {
    failed: VecDeque<bool>,
    failures: usize,
}

/// What the breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// Everything.
    Closed,
    /// One delivery, to see.
    Probe,
    /// Nothing before then.
    Shut(i64),
}

impl Breaker {
    /// Closed, or, for an endpoint known to be failing, about to probe.
    pub(super) fn new(failing: bool, now: i64) -> Self {
        let probing = State::Probing { successes: 0, in_flight: false, next: now };
        let state = if failing { probing } else { State::Closed(Window::default()) };
        Self { state, generation: 0, pause: Duration::ZERO }
    }

    /// What may go now.
    pub(super) fn gate(&self, now: i64) -> Gate {
        match self.state {
            State::Closed(_) => Gate::Closed,
            State::Open { until } if now < self.sane(until, now) => Gate::Shut(self.sane(until, now)),
            State::Open { .. } | State::Probing { in_flight: false, .. } => Gate::Probe,
            State::Probing { in_flight: true, next, .. } => Gate::Shut(next.max(now + 1)),
        }
    }

    /// An attempt begins; what is returned belongs to its [`Breaker::ended`]. `timeout` is the longest it may take.
    pub(super) fn begins(&mut self, now: i64, timeout: Duration) -> u64 {
        if matches!(self.state, State::Open { .. }) {
            self.enter(State::Probing { successes: 0, in_flight: false, next: now });
        }
        if let State::Probing { in_flight, next, .. } = &mut self.state {
            *in_flight = true;
            *next = now.saturating_add(millis(timeout));
        }
        self.generation
    }

    /// An attempt has ended; returns whether the breaker was closed by it.
    pub(super) fn ended(&mut self, begun: u64, ok: bool, policy: &settings::Breaker, now: i64) -> bool {
        if begun != self.generation {
            return false;
        }
        match &mut self.state {
            State::Open { .. } => false,
            State::Closed(window) => {
                if window.add(!ok, policy) {
                    self.open(policy, now);
                }
                false
            }
            State::Probing { successes, in_flight, .. } => {
                *in_flight = false;
                *successes += 1;
                if !ok {
                    self.open(policy, now);
                } else if *successes >= RUN {
                    self.pause = Duration::ZERO;
                    self.enter(State::Closed(Window::default()));
                    return true;
                }
                false
            }
        }
    }

    /// An attempt was given up without a result.
    pub(super) fn abandoned(&mut self, begun: u64) {
        if let (true, State::Probing { in_flight, .. }) = (begun == self.generation, &mut self.state) {
            *in_flight = false;
        }
    }

    /// It is another receiver: closed, and what is under way says nothing.
    pub(super) fn forget(&mut self) {
        self.pause = Duration::ZERO;
        self.enter(State::Closed(Window::default()));
    }

    /// 0 closed, 1 probing, 2 open, as the metric has it.
    pub(super) fn level(&self) -> u8 {
        match self.state {
            State::Closed(_) => 0,
            State::Probing { .. } => 1,
            State::Open { .. } => 2,
        }
    }

    /// When the next delivery may go, while not all may.
    pub(super) fn next_probe(&self, now: i64) -> Option<i64> {
        match self.state {
            State::Closed(_) => None,
            State::Open { until } => Some(self.sane(until, now)),
            State::Probing { next, .. } => Some(next),
        }
    }

    /// Closed, and no attempt failed lately: nothing would be forgotten with it.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(&self.state, State::Closed(window) if window.failures == 0)
    }

    fn open(&mut self, policy: &settings::Breaker, now: i64) {
        self.pause = match self.pause {
            Duration::ZERO => policy.open_for,
            last => (last * 2).min(policy.max_open).max(policy.open_for),
        };
        self.enter(State::Open { until: now.saturating_add(millis(self.pause)) });
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }

    /// The clock may have been set back: never a longer pause than was meant.
    fn sane(&self, until: i64, now: i64) -> i64 {
        until.min(now.saturating_add(millis(self.pause)))
    }
}

impl Window {
    /// Takes in an attempt; should it open?
    fn add(&mut self, failed: bool, policy: &settings::Breaker) -> bool {
        let minimum = policy.minimum as usize;
        if self.failed.len() >= WINDOW.max(minimum) && self.failed.pop_front() == Some(true) {
            self.failures -= 1;
        }
        self.failed.push_back(failed);
        self.failures += usize::from(failed);
        let share = self.failures as f64 / self.failed.len() as f64;
        self.failed.len() >= minimum && share >= policy.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(failures: f64, minimum: u32) -> settings::Breaker {
        settings::Breaker { failures, minimum, open_for: 30 * SECOND, max_open: 100 * SECOND }
    }

    /// Attempts one after the other at one moment.
    fn attempts(breaker: &mut Breaker, policy: &settings::Breaker, now: i64, results: &[bool]) {
        for ok in results {
            let begun = breaker.begins(now, SECOND);
            breaker.ended(begun, *ok, policy, now);
        }
    }

    #[test]
    fn it_opens_by_share_and_not_before_the_minimum() {
        let (bad, good) = (false, true);
        let rows: [(f64, u32, Vec<bool>, bool); 6] = [
            (0.5, 20, vec![bad; 19], false),
            (0.5, 20, vec![bad; 20], true),
            (0.5, 4, vec![good, bad, good, bad], true),
            (0.5, 4, vec![good, good, good, bad], false),
            (1.0, 3, [vec![good], vec![bad; 99]].concat(), false),
            (1.0, 3, [vec![good], vec![bad; 100]].concat(), true),
        ];
        for (failures, minimum, results, open) in rows {
            let mut breaker = Breaker::new(false, 0);
            attempts(&mut breaker, &policy(failures, minimum), 0, &results);
            assert_eq!(breaker.level() == 2, open, "{failures} {minimum} {results:?}");
        }
    }

    #[test]
    fn it_doubles_while_probes_fail_and_closes_after_a_run() {
        let policy = policy(0.5, 1);
        let mut breaker = Breaker::new(false, 0);
        attempts(&mut breaker, &policy, 0, &[false]);
        let mut now = 0;
        for pause in [30, 60, 100, 100] {
            let until = now + pause * 1000;
            assert_eq!((breaker.gate(now), breaker.level()), (Gate::Shut(until), 2));
            assert_eq!(breaker.gate(until - 1), Gate::Shut(until));
            assert_eq!(breaker.gate(until), Gate::Probe);
            now = until;
            attempts(&mut breaker, &policy, now, &[false]);
        }
        now += 100_000;
        attempts(&mut breaker, &policy, now, &[true, true]);
        assert_eq!((breaker.gate(now), breaker.level()), (Gate::Probe, 1));
        attempts(&mut breaker, &policy, now, &[true]);
        assert_eq!((breaker.gate(now), breaker.level()), (Gate::Closed, 0));
        attempts(&mut breaker, &policy, now, &[false]);
        assert_eq!(breaker.gate(now), Gate::Shut(now + 30_000), "the pause is the first one again");
    }

    #[test]
    fn one_probe_at_a_time() {
        let mut breaker = Breaker::new(true, 5);
        assert_eq!(breaker.gate(5), Gate::Probe);
        let probe = breaker.begins(5, SECOND);
        assert_eq!(breaker.gate(5), Gate::Shut(1_005));
        assert_eq!(breaker.gate(2_000), Gate::Shut(2_001), "late, and still under way");
        breaker.abandoned(probe);
        assert_eq!(breaker.gate(5), Gate::Probe);
    }

    #[test]
    fn what_began_before_it_opened_says_nothing() {
        let policy = policy(0.5, 1);
        let mut breaker = Breaker::new(false, 0);
        let (first, late) = (breaker.begins(0, SECOND), breaker.begins(0, SECOND));
        breaker.ended(first, false, &policy, 0);
        assert!(!breaker.ended(late, true, &policy, 1));
        assert_eq!(breaker.gate(1), Gate::Shut(30_000));
    }

    #[test]
    fn what_began_at_another_receiver_says_nothing() {
        let policy = policy(0.5, 1);
        let mut breaker = Breaker::new(false, 0);
        let late = breaker.begins(0, SECOND);
        breaker.forget();
        breaker.ended(late, false, &policy, 1);
        assert_eq!((breaker.gate(1), breaker.is_quiet()), (Gate::Closed, true));
    }

    #[test]
    fn a_clock_set_back_makes_no_pause_longer() {
        let policy = policy(0.5, 1);
        let mut breaker = Breaker::new(false, 0);
        attempts(&mut breaker, &policy, 1_000_000_000, &[false]);
        assert_eq!(breaker.gate(5), Gate::Shut(30_005));
    }
}
