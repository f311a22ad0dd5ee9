//! How urgent a delivery is when places are short: its priority, and whether it was attempted before.
//!
//! Says what each class weighs; who gets what becomes free is for the pool.

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
    pub(super) const ALL: [Self; 6] =
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
    pub(super) fn weight(self) -> i64 {
        match self {
            Self::High => STEP * STEP * STEP,
            Self::HighLate | Self::Normal => STEP * STEP,
            Self::NormalLate | Self::Low => STEP,
            Self::LowLate => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
