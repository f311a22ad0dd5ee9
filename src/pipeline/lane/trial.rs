//! Is a full lane that has not been quick enough lately to be waited for all the same? Once in a while, and shortly. Pure.
//!
//! A lane may be slower than others only because they take the process's time, or the receiver's, from it. That shows
//! when it is waited for: they run dry, and it speeds up. One that does not was slow by itself, and is not waited for
//! again until much later.

/// A trial costs others, at most, so much of their time: one in so many.
const SELDOM: f64 = 64.0;

/// When a lane was on trial last. Times are unix milliseconds.
#[derive(Debug, Default)]
pub(super) struct Trial {
    since: Option<i64>,
}

impl Trial {
    /// For how many milliseconds is it waited for, when trials take `length`? Begins one if the last was long ago.
    pub(super) fn remaining(&mut self, length: f64, now: i64) -> Option<i64> {
        let age = |since: i64| (now - since) as f64;
        let since = match self.since {
            // A clock may be set back.
            Some(since) if (0.0..=length * SELDOM).contains(&age(since)) => since,
            Some(_) | None => *self.since.insert(now),
        };
        let remaining = length - age(since);
        (remaining > 0.0).then(|| remaining.ceil() as i64)
    }

    /// It was quick enough: the next time it may be tried again at once.
    pub(super) fn passed(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_short_and_seldom_unless_it_was_passed() {
        let mut trial = Trial::default();
        for (now, expected) in [
            (1_000, Some(100)),
            (1_040, Some(60)),
            (1_100, None),
            (7_400, None),
            (7_401, Some(100)),
            (7_501, None),
            // Before it began.
            (7_000, Some(100)),
            (7_100, None),
        ] {
            assert_eq!(trial.remaining(100.0, now), expected, "{now}");
        }
        trial.passed();
        assert_eq!(trial.remaining(100.0, 7_101), Some(100));
    }
}
