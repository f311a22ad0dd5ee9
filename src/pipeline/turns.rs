//! Whose turn it is, by weight: smooth weighted round robin over a few classes. Pure.
//!
//! The algorithm is nginx's for upstream servers: every class that could go earns its weight, the richest goes and
//! pays what all earned. It never starves one, and it mixes: 16 : 1 is not sixteen in a row
//! (<https://github.com/nginx/nginx/commit/52327e0627f49dbda1e8db695e63a4b0af4448b1>).

use crate::config::settings::Priority;

/// Weights of the priorities.
const HIGH: i64 = 16;
const NORMAL: i64 = 4;
const LOW: i64 = 1;
/// A fresh delivery weighs this many times a retry of the same priority: one step of the priorities.
const FRESH: i64 = 4;

const WEIGHTS: [i64; Turns::CLASSES] = [HIGH * FRESH, HIGH, NORMAL * FRESH, NORMAL, LOW * FRESH, LOW];

/// Turns of the classes: priority × (fresh, retry).
#[derive(Debug, Clone, Default)]
pub struct Turns {
    earned: [i64; Self::CLASSES],
}

impl Turns {
    /// How many classes there are.
    pub const CLASSES: usize = 6;

    /// The class of a priority; a retry is one of its own.
    pub fn class(priority: Priority, retry: bool) -> usize {
        let of = match priority {
            Priority::High => 0,
            Priority::Normal => 2,
            Priority::Low => 4,
        };
        of + usize::from(retry)
    }

    /// The next of those that could go; `None` when none could.
    pub fn next(&mut self, could: impl Fn(usize) -> bool) -> Option<usize> {
        let mut sum = 0;
        let mut richest: Option<usize> = None;
        for class in (0..Self::CLASSES).filter(|class| could(*class)) {
            sum += WEIGHTS[class];
            self.earned[class] += WEIGHTS[class];
            if richest.is_none_or(|other| self.earned[class] > self.earned[other]) {
                richest = Some(class);
            }
        }
        self.earned[richest?] -= sum;
        richest
    }
}

/// The weight of an endpoint's share of the window.
pub fn weight(priority: Priority) -> usize {
    let weight = match priority {
        Priority::High => HIGH,
        Priority::Normal => NORMAL,
        Priority::Low => LOW,
    };
    weight.unsigned_abs() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_shared_by_weight_and_nobody_starves() {
        let rows: [(&[usize], &[usize]); 4] = [
            (&[0, 2, 4], &[16, 4, 1]),
            (&[2, 3], &[4, 1]),
            (&[5], &[1]),
            (&[0, 1, 2, 3, 4, 5], &[64, 16, 16, 4, 4, 1]),
        ];
        for (present, expected) in rows {
            let mut turns = Turns::default();
            let total: usize = expected.iter().sum();
            for _ in 0..3 {
                let mut went = [0; Turns::CLASSES];
                (0..total).for_each(|_| went[turns.next(|class| present.contains(&class)).unwrap()] += 1);
                let went: Vec<usize> = present.iter().map(|class| went[*class]).collect();
                assert_eq!(went, expected, "{present:?}");
            }
        }
        assert_eq!(Turns::default().next(|_| false), None);
    }

    #[test]
    fn they_are_mixed() {
        let mut turns = Turns::default();
        let first: Vec<usize> =
            (0..5).map(|_| turns.next(|class| class == 2 || class == 3).unwrap()).collect();
        assert_eq!(first, [2, 2, 3, 2, 2]);
    }

    #[test]
    fn who_was_away_has_earned_nothing() {
        let mut turns = Turns::default();
        (0..1000).for_each(|_| assert_eq!(turns.next(|class| class == 5), Some(5)));
        let low = (0..20).filter(|_| turns.next(|class| class == 0 || class == 4) == Some(4)).count();
        assert!(low <= 2);
    }
}
