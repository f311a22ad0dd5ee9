//! Which retry topic a wait goes to: any due time composed of a few fixed delays, like a timing wheel.
//!
//! Never makes a delivery early, never reads a clock; what an attempt's result means is decided in `outcome`.

use std::time::Duration;

/// The delays of the retry topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder {
    /// Ascending, distinct, all above zero.
    tiers: Vec<Duration>,
}

impl Ladder {
    /// Takes the delays in any order. `0s` always exists besides and is never chosen by [`Ladder::tier_for`]:
    /// it is for what is due now and must be handed on through Kafka all the same.
    pub fn new(tiers: impl IntoIterator<Item = Duration>) -> Self {
        let mut tiers: Vec<Duration> = tiers.into_iter().filter(|tier| !tier.is_zero()).collect();
        tiers.sort_unstable();
        tiers.dedup();
        Self { tiers }
    }

    /// The longest tier that is not longer than what remains. A wait shorter than every tier goes to the shortest
    /// and is late by at most that; only a ladder without any tier answers `0s`.
    pub fn tier_for(&self, remaining: Duration) -> Duration {
        let fitting = self.tiers.partition_point(|&tier| tier <= remaining);
        self.tiers.get(fitting.saturating_sub(1)).copied().unwrap_or(Duration::ZERO)
    }

    /// The tiers above `0s`, the shortest first.
    pub fn tiers(&self) -> impl Iterator<Item = Duration> {
        self.tiers.iter().copied()
    }

    /// The shortest tier above `0s`, if there is one: no wait of this length or less needs to be written.
    pub fn shortest(&self) -> Option<Duration> {
        self.tiers.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// `5s, 15s, 1m, 5m, 15m, 1h, 4h`, and the default `hold`.
    const DEFAULT: [u64; 7] = [5, 15, 60, 300, 900, 3600, 14_400];
    const HOLD: Duration = seconds(5);
    /// What a hop adds: being produced, read and looked at.
    const HOP: Duration = Duration::from_millis(20);

    fn ladder(tiers: &[u64]) -> Ladder {
        Ladder::new(tiers.iter().map(|&tier| seconds(tier)))
    }

    /// Writes until the rest is held in memory, and how late it then is.
    fn walk(ladder: &Ladder, wait: Duration) -> (u32, Duration) {
        let (mut now, mut writes) = (Duration::ZERO, 0);
        while wait.saturating_sub(now) > HOLD {
            let tier = ladder.tier_for(wait - now);
            now += tier + HOP;
            writes += 1;
        }
        (writes, now.saturating_sub(wait))
    }

    #[test]
    fn the_longest_tier_that_fits() {
        let rows = [
            (&[5, 15, 60][..], 0, 5),
            (&[5, 15, 60], 4, 5),
            (&[5, 15, 60], 5, 5),
            (&[5, 15, 60], 14, 5),
            (&[5, 15, 60], 15, 15),
            (&[5, 15, 60], 59, 15),
            (&[5, 15, 60], 86_400, 60),
            (&[60, 0, 5, 60, 15], 59, 15),
            (&[0, 30], 1, 30),
            (&[], 10, 0),
        ];
        for (tiers, remaining, expected) in rows {
            let got = ladder(tiers).tier_for(seconds(remaining));
            assert_eq!(got, seconds(expected), "{tiers:?} for {remaining}");
        }
    }

    #[test]
    fn zero_is_never_the_shortest() {
        assert_eq!(ladder(&[60, 0, 5]).shortest(), Some(seconds(5)));
        assert_eq!(ladder(&[0]).shortest(), None);
    }

    #[test]
    fn a_wait_is_written_a_handful_of_times_and_never_late_by_more_than_its_hops() {
        let ladder = ladder(&DEFAULT);
        let check = |longest: u64, mean: f64, most: u32| {
            let waits = (6..=longest).step_by(7).map(seconds);
            let writes: Vec<u32> = waits
                .map(|wait| {
                    let (writes, late) = walk(&ladder, wait);
                    assert!(late <= HOP, "{wait:?} is late by {late:?}");
                    writes
                })
                .collect();
            let average = f64::from(writes.iter().sum::<u32>()) / writes.len() as f64;
            assert!(average <= mean, "{average} writes on average up to {longest} s");
            assert!(writes.iter().max() <= Some(&most), "{:?} up to {longest} s", writes.iter().max());
        };
        check(1_800, 7.0, 13);
        check(86_400, 12.0, 22);
    }
}
