//! Signs of life of the parts without which a process is dead although it runs, and for how long each may give none.
//!
//! A part that ends or panics ends the process anyhow (`tasks.rs`). This is about one that hangs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// One part's sign of life; clones are the same part's. A beat is an atomic store.
#[derive(Debug, Clone)]
pub(super) struct Pulse {
    begun: Instant,
    /// Milliseconds from then to the last beat, plus one; zero before the first.
    last: Arc<AtomicU64>,
}

impl Pulse {
    /// No beat yet: a part that has not begun has not stopped.
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), last: Arc::default() }
    }

    /// It lives.
    pub(super) fn beat(&self) {
        self.beat_at(Instant::now());
    }

    /// The same for whoever need not know what it is.
    pub(super) fn beats(&self) -> Box<dyn Fn() + Send + Sync> {
        let pulse = self.clone();
        Box::new(move || pulse.beat())
    }

    fn beat_at(&self, now: Instant) {
        self.last.store(millis(now.duration_since(self.begun)) + 1, Ordering::Relaxed);
    }

    /// It has ended as it should.
    pub(super) fn rest(&self) {
        self.last.store(0, Ordering::Relaxed);
    }

    /// How long ago it beat last; nothing before the first time, and when it rests.
    fn silence(&self, now: Instant) -> Option<Duration> {
        let last = self.last.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(millis(now.duration_since(self.begun)).saturating_sub(last)))
    }
}

/// The parts.
#[derive(Debug, Clone)]
pub(super) struct Pulses {
    /// A task that wakes up every second: the runtime's workers and its clock.
    pub(super) runtime: Pulse,
    /// The thread that polls the group's client.
    pub(super) polling: Pulse,
    /// The thread that looks at the cluster from beside, and so knows whether we are ready.
    pub(super) observer: Pulse,
}

/// The runtime does nothing that takes longer than some milliseconds; a starved machine does.
const RUNTIME: Duration = Duration::from_secs(30);
/// The client leaves the group by itself when it was not polled for this long
/// (<https://docs.confluent.io/platform/current/installation/configuration/consumer-configs.html#max-poll-interval-ms>).
/// Giving partitions up takes `limits.drain` besides, and some seconds for the last commit.
const POLLING: Duration = Duration::from_secs(300);
/// Each of its questions is answered within seconds, or is not; there may be one per partition.
const OBSERVER: Duration = Duration::from_secs(300);

impl Pulses {
    /// None has begun.
    pub(super) fn new() -> Self {
        Self { runtime: Pulse::new(), polling: Pulse::new(), observer: Pulse::new() }
    }

    /// The part that gives no sign of life any more, and for how long. A silence counts from `since` at the earliest: the
    /// process itself may have been frozen. Whoever talks to brokers may wait for some that do not answer; its silence
    /// counts from when they answered again. Giving partitions up may take `drain`, and the thread that polls does it.
    pub(super) fn stopped(
        &self,
        since: Instant,
        answering: Option<Instant>,
        drain: Duration,
        now: Instant,
    ) -> Option<String> {
        let rows = [
            ("the runtime", &self.runtime, RUNTIME, Some(since)),
            ("the polling thread", &self.polling, POLLING + drain, answering),
            ("the observing thread", &self.observer, OBSERVER, answering),
        ];
        rows.into_iter().find_map(|(name, pulse, most, from)| {
            let silence = pulse.silence(now)?.min(now.duration_since(since.max(from?)));
            (silence > most).then(|| format!("{name} has given no sign of life for {} s", silence.as_secs()))
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_hangs_is_named() {
        // Which of the parts have begun (all at second 0), when it is looked, since when it is watched, since when brokers
        // answer.
        type Row<'a> = (&'a [&'a str], u64, u64, Option<u64>, Option<&'a str>);
        const DRAIN: u64 = 20;
        let rows: [Row<'_>; 12] = [
            (&[], 10_000, 0, Some(0), None),
            (&["runtime", "polling", "observer"], 30, 0, Some(0), None),
            (&["runtime", "polling", "observer"], 31, 0, None, Some("the runtime")),
            (&["runtime"], 31, 5, Some(0), None),
            (&["runtime"], 36, 5, Some(0), Some("the runtime")),
            (&["polling"], 320, 0, Some(0), None),
            (&["polling"], 321, 0, Some(0), Some("the polling thread")),
            (&["polling"], 10_000, 0, None, None),
            (&["polling"], 10_000, 0, Some(9_900), None),
            (&["observer"], 301, 0, Some(0), Some("the observing thread")),
            (&["observer"], 301, 0, Some(1), None),
            (&["observer"], 10_000, 0, None, None),
        ];
        for (begun, at, since, answering, expected) in rows {
            let pulses = Pulses::new();
            let all =
                [("runtime", &pulses.runtime), ("polling", &pulses.polling), ("observer", &pulses.observer)];
            let zero = pulses.observer.begun;
            all.iter().filter(|(name, _)| begun.contains(name)).for_each(|(_, pulse)| pulse.beat_at(zero));
            let moment = |second| zero + Duration::from_secs(second);
            let (at, drain) = (moment(at), Duration::from_secs(DRAIN));
            let stopped = pulses.stopped(moment(since), answering.map(moment), drain, at);
            let name = |told: &String| told.split(" has given").next().map(str::to_owned);
            assert_eq!(stopped.as_ref().and_then(name).as_deref(), expected, "{begun:?} at {at:?}");
        }
    }

    #[test]
    fn a_beat_ends_a_silence_and_so_does_rest() {
        let pulse = Pulse::new();
        let mut now = pulse.begun;
        assert_eq!(pulse.silence(now), None);
        for _ in 0..3 {
            pulse.beat_at(now);
            now += Duration::from_secs(7);
            assert_eq!(pulse.silence(now), Some(Duration::from_secs(7)));
        }
        pulse.rest();
        assert_eq!(pulse.silence(now), None);
    }
}
