//! How urgent a delivery is when not all can go: its priority, and whether it was attempted before.
//!
//! Says what each class weighs, and whose turn it is by weight; what a turn is good for is for others to know.

use crate::config::settings::Priority;

/// One step of urgency. Four makes a difference that is felt, and two of them leave the last enough to live on.
const STEP: i64 = 4;

/// The class of a delivery. The late ones were attempted before: whoever never had a first attempt goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // A priority, fresh unless it says late.
pub enum Class {
    High,
    HighLate,
    Normal,
    NormalLate,
    Low,
    LowLate,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::High, Self::HighLate, Self::Normal, Self::NormalLate, Self::Low, Self::LowLate];

    /// The class of a priority; `late` when an attempt was made before.
    pub fn new(priority: Priority, late: bool) -> Self {
        match (priority, late) {
            (Priority::High, false) => Self::High,
            (Priority::High, true) => Self::HighLate,
            (Priority::Normal, false) => Self::Normal,
            (Priority::Normal, true) => Self::NormalLate,
            (Priority::Low, false) => Self::Low,
            (Priority::Low, true) => Self::LowLate,
        }
    }

    /// What it gets of what becomes free, beside the other classes that wait: priorities are 16 : 4 : 1, and being
    /// late costs one step.
    pub fn weight(self) -> i64 {
        match self {
            Self::High => STEP * STEP * STEP,
            Self::HighLate | Self::Normal => STEP * STEP,
            Self::NormalLate | Self::Low => STEP,
            Self::LowLate => 1,
        }
    }
}

/// Turns by weight: smooth weighted round robin, as nginx has it (`ngx_http_upstream_get_peer`, commit 52327e0627). Each
/// class that could go gains its weight, the first of the richest goes and pays what all of them gained. So turns are in
/// proportion to weights and spread evenly, and every class that waits comes round.
///
/// What was gained is kept while a class has nothing to send: one of few deliveries has none each time it was served.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    gained: [i64; Class::ALL.len()],
}

impl Turns {
    /// Whose turn it is among those that could go.
    pub fn next(&self, could: impl Fn(Class) -> bool) -> Option<Class> {
        // The maximum that is found last wins, so the last comes first.
        let could = Class::ALL.into_iter().filter(|class| could(*class)).rev();
        could.max_by_key(|class| self.gained[*class as usize] + class.weight())
    }

    /// One of those that could go has had its turn.
    pub fn served(&mut self, served: Class, could: impl Fn(Class) -> bool) {
        let mut all = 0;
        for class in Class::ALL.into_iter().filter(|class| could(*class)) {
            self.gained[class as usize] += class.weight();
            all += class.weight();
        }
        self.gained[served as usize] -= all;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_shared_by_weight_and_nobody_starves() {
        use Class::{High, HighLate, Low, LowLate, Normal, NormalLate};
        let rows: [(&[Class], &[usize]); 4] = [
            (&[High, Normal, Low], &[16, 4, 1]),
            (&[Normal, NormalLate], &[4, 1]),
            (&[LowLate], &[1]),
            (&[High, HighLate, Normal, NormalLate, Low, LowLate], &[64, 16, 16, 4, 4, 1]),
        ];
        for (present, expected) in rows {
            let could = |class| present.contains(&class);
            let mut turns = Turns::default();
            for _ in 0..3 {
                let mut went = [0; Class::ALL.len()];
                for _ in 0..expected.iter().sum() {
                    let next = turns.next(could).unwrap();
                    turns.served(next, could);
                    went[next as usize] += 1;
                }
                let went: Vec<usize> = present.iter().map(|class| went[*class as usize]).collect();
                assert_eq!(went, expected, "{present:?}");
            }
        }
        assert_eq!(Turns::default().next(|_| false), None);
    }

    #[test]
    fn a_late_one_weighs_a_quarter() {
        for (priority, fresh, late) in
            [(Priority::High, 64, 16), (Priority::Normal, 16, 4), (Priority::Low, 4, 1)]
        {
            let weights = [false, true].map(|late| Class::new(priority, late).weight());
            assert_eq!(weights, [fresh, late], "{priority:?}");
        }
    }
}
