//! The way down: stop intake → finish what is under way → hand on what waits → commit → leave the group → flush → end.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::{App, LAST_TASKS, group::Group, own::OwnQueues};
use crate::{
    kafka::producer::Producer,
    notices::Notices,
    otel::Tracer,
    pipeline::{attempts, commit::Committer},
};

/// How long the end waits for the last notices, and for the last records of the attempt log: they come in less, or
/// probably not at all.
const LAST_TOLD: Duration = Duration::from_secs(1);
/// What the last spans have in any case.
const LAST_SPANS: Duration = Duration::from_millis(200);

/// What a started process has to end in order.
pub(super) struct Started {
    pub(super) group: Group,
    pub(super) own: OwnQueues,
    pub(super) producer: Producer,
    pub(super) attempts: attempts::Log,
    pub(super) committer: Arc<Committer>,
    pub(super) tracer: Option<Tracer>,
    pub(super) notices: Notices,
}

impl App {
    /// Ends what was started, within the grace.
    pub(super) async fn take_down(&self, started: Option<Started>) -> anyhow::Result<()> {
        self.health.stopping();
        self.watch.supervisor().stopping();
        self.stop.cancel();
        let deadline = Instant::now() + self.settings.limits.shutdown_grace;
        if let Some(Started { group, own, producer, attempts, committer, tracer, notices }) = started {
            // Without brokers the client holds a last commit back for a whole session.
            let ended = async { tokio::join!(group.ended(), own.ended()) };
            if timeout_at(deadline, ended).await.is_err() {
                warn!("the group could not be left in time, deliveries may be repeated");
                // What is still out stays owed.
                committer.assigned().iter().for_each(|(_, life)| life.fence());
                own.fence();
            }
            let flush = move || {
                let left = || deadline.saturating_duration_since(Instant::now());
                let flushed = producer.flush(left());
                notices.end(left().min(LAST_TOLD));
                attempts.flush(left().min(LAST_TOLD));
                flushed
            };
            let flushed = self.tasks.spawn_blocking("flush", flush).await;
            if !matches!(flushed, Ok(Ok(()))) {
                warn!("not every record was acknowledged in time, their offsets are not committed");
            }
            if let Some(tracer) = tracer {
                tracer.spans().flush(deadline.max(Instant::now() + LAST_SPANS)).await;
            }
        }
        let left = self.tasks.close_and_wait(deadline.max(Instant::now() + LAST_TASKS)).await;
        if left > 0 {
            warn!(left, "tasks were still at work");
        }
        self.log.tell_all();
        match self.tasks.take_failure() {
            Some(failure) => Err(failure),
            None => {
                info!("stopped");
                Ok(())
            }
        }
    }
}
