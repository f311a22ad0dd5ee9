//! Does a lane flow by itself? How far apart its attempts end while deliveries wait behind them. Pure.

/// Weight of the newest gap in the mean: a few dozen attempts are remembered.
const NEWEST: f64 = 1.0 / 32.0;
/// A gap counts as this multiple of the mean at most, and as a tick of the clock more: one hiccup of the machine is no
/// news, a dozen gaps are.
const SURGE: f64 = 8.0;

/// The flow of one lane. Times are unix milliseconds.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Mean time from one end to the next while others waited.
    gap: Option<f64>,
    /// The last end; or the beginning of what is under way, if nothing was before.
    last: i64,
    /// Did others wait at the last end?
    backlog: bool,
}

impl Flow {
    /// An attempt begins, the only one under way.
    pub(super) fn begins(&mut self, now: i64) {
        (self.last, self.backlog) = (self.last.max(now), false);
    }

    /// An attempt has ended, and others wait for their turn, or none does.
    pub(super) fn ended(&mut self, backlog: bool, now: i64) {
        if self.backlog {
            let gap = (now - self.last).max(0) as f64;
            let follow = |mean: f64| mean + (gap.min(mean * SURGE + 1.0) - mean) * NEWEST;
            self.gap = Some(self.gap.map_or(gap, follow));
        }
        (self.last, self.backlog) = (now, backlog);
    }

    /// Are so many gone within so many milliseconds? Whoever has only begun may be as fast as that, whoever has
    /// stopped for that long is not any more.
    pub(super) fn is_brisk(&self, count: usize, within: f64, now: i64) -> bool {
        (now - self.last) as f64 <= within && self.gap.is_none_or(|gap| gap * count as f64 <= within)
    }

    /// Forgets what was measured: it is another receiver.
    pub(super) fn start_over(&mut self) {
        self.gap = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that ends an attempt every so many milliseconds.
    fn flow(gap: i64, ends: i64) -> Flow {
        let mut flow = Flow::default();
        flow.begins(0);
        (1..=ends).for_each(|n| flow.ended(true, n * gap));
        flow
    }

    #[test]
    fn what_leaves_quickly_is_brisk_until_it_stops() {
        let rows = [
            (1, 100, 150, 0, true),
            (2, 100, 75, 0, true),
            (2, 100, 76, 0, false),
            (20, 100, 10, 0, false),
            (1, 100, 10, 150, true),
            (1, 100, 10, 151, false),
        ];
        for (gap, ends, count, later, brisk) in rows {
            let flow = flow(gap, ends);
            assert_eq!(flow.is_brisk(count, 150.0, gap * ends + later), brisk, "{gap} {count} {later}");
        }
    }

    #[test]
    fn one_that_has_begun_is_given_a_moment() {
        let mut flow = Flow::default();
        assert!(!flow.is_brisk(10, 150.0, 1_000), "nothing is under way");
        flow.begins(1_000);
        assert!(flow.is_brisk(1_000, 150.0, 1_150));
        assert!(!flow.is_brisk(1_000, 150.0, 1_151));
    }

    #[test]
    fn one_hiccup_is_no_news() {
        let mut flow = flow(1, 100);
        flow.ended(true, 300);
        assert!(flow.is_brisk(100, 150.0, 301));
        for n in 1..=40 {
            flow.ended(true, 300 + n * 50);
        }
        assert!(!flow.is_brisk(10, 150.0, 2_301), "forty are");
    }

    #[test]
    fn a_time_without_backlog_says_nothing() {
        let mut flow = flow(1, 100);
        flow.ended(false, 101);
        flow.ended(true, 5_000);
        assert!(flow.is_brisk(100, 150.0, 5_001));
        for n in 1..=100 {
            flow.ended(true, 5_000 + n * 50);
        }
        assert!(!flow.is_brisk(10, 150.0, 10_001), "it has become slow");
    }
}
