//! The receivers: how each of them answers an attempt, until the schedule changes its mind.

use std::time::Duration;

use super::random::Random;
use crate::pipeline::outcome::{Attempt, AttemptResult, RetryAfter};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Fine,
    /// Half of its answers are failures.
    Flaky,
    Slow,
    Refuses,
    Hangs,
    /// 429 or 503, sometimes with `Retry-After`.
    Busy,
    /// 500 with `Retry-After`.
    Resting,
    Gone,
}

impl Mood {
    pub(super) const ALL: [Self; 8] = [
        Self::Fine,
        Self::Flaky,
        Self::Slow,
        Self::Refuses,
        Self::Hangs,
        Self::Busy,
        Self::Resting,
        Self::Gone,
    ];

    pub(super) fn answer(self, random: &mut Random, timeout: Duration, now: i64) -> Attempt {
        let quick = Duration::from_millis(5 + random.below(200) as u64);
        let mut hint = None;
        let mut wait = |random: &mut Random| {
            let seconds = random.pick(&[1_u64, 7, 20, 90]);
            let at = now + seconds as i64 * 1000;
            hint = Some(if random.one_in(2) {
                RetryAfter::After(Duration::from_secs(seconds))
            } else {
                RetryAfter::At(at)
            });
        };
        let (result, duration) = match self {
            Self::Fine => (AttemptResult::Status(204), quick),
            Self::Flaky if random.one_in(2) => (AttemptResult::Status(204), quick),
            Self::Flaky => (random.pick(&[AttemptResult::Status(500), AttemptResult::Reset]), quick),
            Self::Slow => (AttemptResult::Status(200), quick * 20),
            Self::Refuses => (AttemptResult::Connect, quick),
            Self::Hangs => (AttemptResult::Timeout, timeout),
            Self::Busy => {
                if random.one_in(2) {
                    wait(random);
                }
                (AttemptResult::Status(random.pick(&[429, 503])), quick)
            }
            Self::Resting => {
                wait(random);
                (AttemptResult::Status(500), quick)
            }
            Self::Gone => (AttemptResult::Status(410), quick),
        };
        Attempt { result, retry_after: hint, detail: String::new(), duration }
    }
}
