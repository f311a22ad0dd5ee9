//! How late this process is with its own work. What a round trip takes longer because of that is not the receiver's doing.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// A wake-up is asked for this often, and measured. Cheap, and often enough to see a burst.
const EVERY: Duration = Duration::from_millis(20);
/// Weight of the newest in the mean, as a divisor: about half a second is remembered.
const NEWEST: u64 = 16;
/// What timers are late by although nothing is to be done: they tick in milliseconds.
const TICK: Duration = Duration::from_millis(1);
/// How often a round trip waits for its turn in this process: to be sent, to be written, to be read, to go on.
const TURNS: u32 = 4;

/// The mean lateness.
#[derive(Debug, Default)]
pub(super) struct Lateness(AtomicU64);

impl Lateness {
    /// What is to be taken off the duration of a round trip now.
    pub(super) fn of_round_trip(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed)) * TURNS
    }

    /// Measures for ever.
    pub(super) async fn measure(&self) {
        loop {
            let begun = Instant::now();
            sleep(EVERY).await;
            self.note(begun.elapsed().saturating_sub(EVERY + TICK));
        }
    }

    fn note(&self, late: Duration) {
        let mean = self.0.load(Ordering::Relaxed);
        let late = u64::try_from(late.as_micros()).unwrap_or(u64::MAX / NEWEST);
        self.0.store((mean * (NEWEST - 1) + late) / NEWEST, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_and_forgets() {
        let lateness = Lateness::default();
        assert_eq!(lateness.of_round_trip(), Duration::ZERO);
        (0..100).for_each(|_| lateness.note(Duration::from_millis(10)));
        assert!(lateness.of_round_trip() > Duration::from_millis(38));
        (0..200).for_each(|_| lateness.note(Duration::ZERO));
        assert!(lateness.of_round_trip() < Duration::from_micros(100));
    }
}
