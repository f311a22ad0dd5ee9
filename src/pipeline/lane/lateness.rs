//! How late this process is with its own work. What a round trip takes longer because of that is not the receiver's doing.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    task::yield_now,
    time::{Instant, sleep},
};

/// A wake-up is asked for this often, and measured. Cheap, and often enough to see a burst.
const EVERY: Duration = Duration::from_millis(20);
/// Weight of the newest in a mean, as a divisor: about half a second of wake-ups is remembered, and of turns as little as
/// a busy process takes for as many.
const NEWEST: u64 = 16;
/// What timers are late by although nothing is to be done: they tick in milliseconds.
const TICK: Duration = Duration::from_millis(1);
/// How often a round trip waits for its turn in this process: to be sent, to be written, to be read, to go on.
const TURNS: u32 = 4;

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    wake_up: Mean,
    turn: Mean,
}

impl Lateness {
    /// What is to be taken off the duration of a round trip now; and how long whoever could go on waits for its turn,
    /// behind everybody else who could.
    pub(super) fn now(&self) -> (Duration, Duration) {
        (self.wake_up.get() * TURNS, self.turn.get())
    }

    /// Measures for ever.
    pub(super) async fn measure(&self) {
        loop {
            let begun = Instant::now();
            sleep(EVERY).await;
            self.wake_up.note(begun.elapsed().saturating_sub(EVERY + TICK));
            self.measure_turn().await;
        }
    }

    /// Lets everybody else go first, and measures how long that takes. For those who are busy: the mean then follows
    /// within a few round trips.
    pub(super) async fn measure_turn(&self) {
        let begun = Instant::now();
        yield_now().await;
        self.turn.note(begun.elapsed());
    }
}

/// A moving mean in microseconds. Of two notes at the same time one may be lost.
#[derive(Debug, Default)]
struct Mean(AtomicU64);

impl Mean {
    fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
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
        assert_eq!(lateness.now().0, Duration::ZERO);
        (0..100).for_each(|_| lateness.wake_up.note(Duration::from_millis(10)));
        assert!(lateness.now().0 > Duration::from_millis(38));
        (0..200).for_each(|_| lateness.wake_up.note(Duration::ZERO));
        assert!(lateness.now().0 < Duration::from_micros(100));
    }

    #[tokio::test]
    async fn a_turn_comes_after_all_others() {
        let lateness = Lateness::default();
        let mut busy = tokio::task::JoinSet::new();
        for _ in 0..100 {
            busy.spawn(async { std::thread::sleep(Duration::from_millis(1)) });
            lateness.measure_turn().await;
        }
        assert!(lateness.now().1 > Duration::from_micros(900), "{:?}", lateness.now().1);
    }
}
