//! Which of its deliveries a lane parks, when back-pressure says so.

use std::sync::MutexGuard;

use super::{Lane, State};
use crate::pipeline::delivery::{Delivery, now};

impl Lane {
    /// Parks the oldest it holds until it is below half of its share, or all but one to probe with when it cannot
    /// send for long; what is under way stays. Is there room now?
    pub fn park_oldest(&self) -> bool {
        let bounds = self.bounds();
        let state = self.lock();
        let held = state.core.held();
        let half = bounds.share.div_ceil(2);
        let kept = if state.core.is_blocked(bounds.hold, now()) { 1 } else { half.saturating_sub(1) };
        let parked = self.park_some(state, held.saturating_sub(kept));
        held - parked < bounds.share
    }

    /// Makes way for one that came back: fresh ones are parked before it, and those that are due later. Is there room?
    pub fn make_way(&self) -> bool {
        let bounds = self.bounds();
        let state = self.lock();
        !state.core.is_blocked(bounds.hold, now()) && self.park_some(state, 1) > 0
    }

    /// Parks so many, if so many are not under way; how many?
    fn park_some(&self, mut state: MutexGuard<'_, State>, count: usize) -> usize {
        let endpoint = self.endpoint();
        let shed = state.core.queue.shed(count);
        let parked: Vec<_> = shed
            .into_iter()
            .map(|mut delivery| {
                let why = state.core.park(&mut delivery, &endpoint, self.shared.jitter(), now());
                (delivery, why)
            })
            .collect();
        self.show(&state);
        drop(state);
        let count = parked.len();
        parked.into_iter().for_each(|(delivery, why)| self.shared.settler.park(delivery, why));
        count
    }

    /// Parks what has not been taken in.
    pub fn pass_by(&self, mut delivery: Delivery) {
        let endpoint = self.endpoint();
        let why = self.lock().core.park(&mut delivery, &endpoint, self.shared.jitter(), now());
        self.shared.settler.park(delivery, why);
    }
}
