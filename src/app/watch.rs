//! Watches the process from inside, on a thread that waits for nothing else: has a part stopped, does work stand still?
//!
//! What it sees it shows (`/livez`, `/readyz`, `arauto_stalled`, the log, the supervisor); it mends nothing. It asks no
//! broker and no runtime, so it sees their standing still as well.

use std::{
    collections::HashSet,
    sync::{
        Arc, OnceLock,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tracing::{error, info};

use super::{own::OwnQueues, pulse::Pulses, supervisor::Supervisor, tasks::Tasks};
use crate::{
    admin::health::Health,
    metrics::Metrics,
    pipeline::{
        assignment::Shared,
        stall::{Detector, Part, Sight, Stalled},
    },
};

/// It looks at signs of life this often; a supervisor's time-out of a second is kept.
const LOOK: Duration = Duration::from_millis(250);
/// Looking at every partition and lane costs more: this often, for a patience of a minute …
const STALLS: Duration = Duration::from_secs(5);
/// … and for a shorter one so often within it.
const LOOKS: u32 = 10;
/// A pause between two looks that is longer was not ours: the process did not run.
const FROZEN: Duration = Duration::from_secs(10);
/// The runtime gives a sign of life this often.
const BEAT: Duration = Duration::from_secs(1);

/// Watches one process. Cheap to clone.
#[derive(Clone)]
pub(super) struct Watch(Arc<Inner>);

struct Inner {
    health: Health,
    metrics: Metrics,
    patience: Duration,
    drain: Duration,
    pulses: Pulses,
    supervisor: Supervisor,
    pipeline: OnceLock<(Arc<Shared>, OwnQueues)>,
}

impl Watch {
    /// Looks at nothing yet. Work that has not moved for `patience` is stalled; giving partitions up takes `drain`.
    pub(super) fn new(health: Health, metrics: Metrics, patience: Duration, drain: Duration) -> Self {
        Self(Arc::new(Inner {
            health,
            metrics,
            patience,
            drain,
            pulses: Pulses::new(),
            supervisor: Supervisor::new(),
            pipeline: OnceLock::new(),
        }))
    }

    /// Whose beats it listens to.
    pub(super) fn pulses(&self) -> &Pulses {
        &self.0.pulses
    }

    /// Whom it tells.
    pub(super) fn supervisor(&self) -> &Supervisor {
        &self.0.supervisor
    }

    /// There is a pipeline now.
    pub(super) fn fill(&self, shared: Arc<Shared>, own: OwnQueues) {
        self.0.pipeline.get_or_init(|| (shared, own));
    }

    /// Begins to look, until all tasks are to end.
    pub(super) fn start(&self, tasks: &Tasks) {
        let (ended, end) = mpsc::channel::<()>();
        let (token, pulse) = (tasks.token().clone(), self.0.pulses.runtime.clone());
        tasks.spawn_needed("pulse", async move {
            let _ended = ended;
            loop {
                pulse.beat();
                if token.run_until_cancelled(sleep(BEAT)).await.is_none() {
                    return;
                }
            }
        });
        let inner = Arc::clone(&self.0);
        tasks.spawn_blocking_needed("watch", move || inner.run(&end));
    }
}

impl Inner {
    fn run(&self, end: &mpsc::Receiver<()>) {
        let mut stalls = Stalls::new(self.patience);
        let (mut since, mut last, mut told) = (Instant::now(), Instant::now(), None);
        let mut answering = None;
        while end.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            let now = Instant::now();
            if now.duration_since(last) > FROZEN {
                since = now;
                stalls.detector.forget();
            }
            last = now;
            answering = self.health.are_brokers_reachable().then(|| answering.unwrap_or(now));
            let alive = self.look_at_parts(since, answering, now);
            if let Some(pipeline) = self.pipeline.get().filter(|_| stalls.are_due(now)) {
                self.look_for_stalls(&mut stalls, pipeline, now);
            }
            self.tell(alive, &mut told, now);
        }
    }

    /// Do all parts give signs of life?
    fn look_at_parts(&self, since: Instant, answering: Option<Instant>, now: Instant) -> bool {
        let stopped = self.pulses.stopped(since, answering, self.drain, now);
        if let Some(stopped) = stopped.as_ref().filter(|_| self.health.stopped(now).is_none()) {
            error!(stopped, "a part of the process has stopped");
        }
        let alive = stopped.is_none();
        self.health.looked(stopped, now);
        alive
    }

    fn look_for_stalls(&self, stalls: &mut Stalls, (shared, own): &(Arc<Shared>, OwnQueues), now: Instant) {
        // Without brokers nothing can move for long, and `/readyz` names them.
        let judged = self.health.are_brokers_reachable() && !self.health.is_stopping();
        let sights = if judged { sights(shared, own) } else { Vec::new() };
        let stalled = stalls.look(sights, now);
        self.metrics.stalled(!stalled.is_empty());
        self.health.stalled(&stalled);
    }

    fn tell(&self, alive: bool, told: &mut Option<Instant>, now: Instant) {
        if self.health.is_ready() {
            self.supervisor.ready();
        }
        self.supervisor.status(&self.health.summary());
        let due = |every: Duration| told.is_none_or(|told| now.duration_since(told) + LOOK > every);
        if alive && self.supervisor.every().is_some_and(due) {
            self.supervisor.alive();
            *told = Some(now);
        }
    }
}

/// Everything that could go on.
fn sights(shared: &Shared, own: &OwnQueues) -> Vec<Sight> {
    let mut sights = shared.lanes.sights();
    for (_, life) in shared.committer.assigned() {
        sights.extend(life.reading(None));
        sights.extend(life.commits(None));
    }
    for seen in own.seen() {
        for (_, life) in seen.lives {
            sights.extend(life.reading(Some(&seen.endpoint)));
            sights.extend(life.commits(Some(&seen.endpoint)));
        }
    }
    sights
}

/// What stands still, and what has been said of it.
struct Stalls {
    detector: Detector,
    every: Duration,
    next: Option<Instant>,
    said: HashSet<Part>,
}

impl Stalls {
    fn new(patience: Duration) -> Self {
        let every = STALLS.min(patience / LOOKS);
        Self { detector: Detector::new(patience), every, next: None, said: HashSet::new() }
    }

    fn are_due(&mut self, now: Instant) -> bool {
        let due = self.next.is_none_or(|next| now >= next);
        if due {
            self.next = Some(now + self.every);
        }
        due
    }

    fn look(&mut self, sights: Vec<Sight>, now: Instant) -> Vec<Stalled> {
        let stalled = self.detector.look(sights, now);
        for Stalled { part, still, waiting } in &stalled {
            if self.said.insert(part.clone()) {
                let seconds = still.as_secs();
                error!(%part, waiting, seconds, "work stands still that nothing holds back");
            }
        }
        self.said.retain(|part| {
            let still = stalled.iter().any(|stalled| stalled.part == *part);
            if !still {
                info!(%part, "work stands still no longer, or for a reason");
            }
            still
        });
        stalled
    }
}
