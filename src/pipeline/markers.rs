//! The markers as this process knows them, and how recent that knowledge is.
//!
//! A reader that acted on an original whose marker has not reached it yet would make its delivery twice. So it asks how
//! recent what it knows is, and waits for the state topic to be read up to now when that is longer ago than a marker
//! may be late. That costs nothing but a look at a number, and a question to the brokers every few seconds while there
//! is something to act on.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use tokio::sync::{Mutex, MutexGuard, Notify};

use super::{
    delivery::millis,
    marker::{Act, KNOWN_WITHIN, Marked, Original},
};

/// Brokers that did not tell are not asked again for so many milliseconds: who cannot read the state topic can hardly
/// write it, and retries must go on without it.
const GIVEN_UP: i64 = 10_000;

/// The markers. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Markers(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Are there any? Asked with every record of a tier.
    any: AtomicBool,
    marked: RwLock<Marked>,
    /// Up to when all is known, in unix milliseconds.
    known_at: AtomicI64,
    changed: Notify,
    asking: Mutex<()>,
}

impl Markers {
    /// Takes in one record of the state topic.
    pub fn take_in(&self, key: &str, value: Option<&[u8]>) {
        let mut marked = self.0.marked.write().unwrap_or_else(PoisonError::into_inner);
        if marked.apply(key, value) {
            self.0.any.store(!marked.is_empty(), Ordering::Release);
            drop(marked);
            self.0.changed.notify_waiters();
        }
    }

    /// Resolves when there are others than at the time of the call.
    pub fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.0.changed.notified()
    }

    /// What became of this record of a tier's partition, if an operator has decided that.
    pub fn act(&self, of: (&str, i32), original: &Original<'_>) -> Option<Act> {
        if !self.0.any.load(Ordering::Acquire) {
            return None;
        }
        self.0.marked.read().unwrap_or_else(PoisonError::into_inner).act(of, original)
    }

    /// The numbers of markers that cover nothing of a partition from this offset on.
    pub fn passed(&self, of: (&str, i32), committed: i64) -> Vec<u64> {
        if !self.0.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.0.marked.read().unwrap_or_else(PoisonError::into_inner).passed(of, committed)
    }

    /// Is all known that was said until a moment ago, and until `since`?
    pub fn are_known(&self, now: i64, since: i64) -> bool {
        let known_at = self.0.known_at.load(Ordering::Acquire);
        // Not below: a clock that was set back must not stop the questions.
        (-GIVEN_UP..millis(KNOWN_WITHIN)).contains(&(now - known_at)) && known_at >= since.min(now)
    }

    /// All is known that was said until then.
    pub fn know(&self, at: i64) {
        self.0.known_at.store(at, Ordering::Release);
    }

    /// It could not be found out; not asked again for a while.
    pub fn give_up(&self, now: i64) {
        self.know(now + GIVEN_UP - millis(KNOWN_WITHIN));
    }

    /// The turn to ask: one question is enough for all who wait.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.asking.lock().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knowledge_ages() {
        let markers = Markers::default();
        let now = 1_000_000;
        assert!(!markers.are_known(now, 0), "nothing is known at first");
        markers.know(now);
        for (later, since, expected) in [
            (0, 0, true),
            (1_999, 0, true),
            (2_000, 0, false),
            // A partition that was assigned since: others may have acted on it until then.
            (500, now + 400, false),
            (500, now, true),
            // The clock was set back.
            (-500, 0, true),
            (-3_600_000, 0, false),
            (-500, now, true),
        ] {
            assert_eq!(markers.are_known(now + later, since), expected, "{later} {since}");
        }
        markers.give_up(now);
        assert!(markers.are_known(now + 9_999, now + 5_000) && !markers.are_known(now + 10_000, now));
    }
}
