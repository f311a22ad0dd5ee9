//! Commits what the ledgers allow: every interval, and for the last time when partitions are taken away.
//!
//! Commits block their thread, so they never run on a runtime worker. One lock serialises them: after the last commit
//! of a life nothing of that life can reach the brokers any more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{positions, ticket::Partition};
use crate::{
    app::tasks::Tasks,
    kafka::consumer::{self, Consumer, TopicPartition},
    metrics::Metrics,
};

/// Between tries of a commit that was refused as stale; heart-beats bring the new epoch meanwhile.
const STALE_BACKOFF: Duration = Duration::from_millis(50);

/// A partition's next offset and the metadata beside it.
type Offset = (TopicPartition, i64, String);

/// The partitions that are ours, and their commits.
pub struct Committer {
    partitions: Mutex<HashMap<TopicPartition, Arc<Partition>>>,
    /// Held while a commit is under way.
    committing: Mutex<()>,
    positions: positions::Shared,
    metrics: Metrics,
}

impl Committer {
    /// No partitions yet.
    pub fn new(positions: positions::Shared, metrics: Metrics) -> Self {
        Self { partitions: Mutex::default(), committing: Mutex::default(), positions, metrics }
    }

    /// A partition begins a life; an earlier one of it must have been fenced.
    pub fn add(&self, partition: &Arc<Partition>) {
        let of = TopicPartition { topic: Arc::clone(&partition.topic), partition: partition.id };
        self.lock().insert(of, Arc::clone(partition));
    }

    /// A partition is ours no more.
    pub fn remove(&self, of: &TopicPartition) -> Option<Arc<Partition>> {
        self.lock().remove(of)
    }

    /// The partitions that are ours.
    pub fn assigned(&self) -> Vec<(TopicPartition, Arc<Partition>)> {
        self.lock().iter().map(|(of, partition)| (of.clone(), Arc::clone(partition))).collect()
    }

    /// Commits every interval while there is something new.
    pub async fn run(
        self: Arc<Self>,
        consumer: Consumer,
        interval: Duration,
        tasks: Tasks,
        stop: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            if !self.is_due() {
                continue;
            }
            let (committer, consumer) = (Arc::clone(&self), consumer.clone());
            let commit = tasks.spawn_blocking("commit", move || committer.commit(&consumer, None));
            if let Err(error) = commit.await {
                warn!(%error, "a commit did not end as it should");
            }
        }
    }

    /// Commits what is new of all partitions, or of some. A failure leaves it new.
    pub fn commit(
        &self,
        consumer: &Consumer,
        only: Option<&[TopicPartition]>,
    ) -> Result<(), consumer::Error> {
        let _alone = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        let (list, lives) = self.due(only);
        if list.is_empty() {
            return Ok(());
        }
        let committed = consumer.commit(&list);
        self.metrics.commit(committed.is_ok());
        match committed {
            Ok(()) => {
                for ((of, offset, _), life) in list.iter().zip(&lives) {
                    life.acknowledged(*offset);
                    if life.tier.is_none() && !life.begun.swap(true, Ordering::AcqRel) {
                        self.positions.note_begun(of);
                    }
                }
                Ok(())
            }
            Err(error) => {
                if error.is_stale() {
                    debug!(%error, "commit refused as stale, trying again");
                } else {
                    warn!(%error, "commit failed, trying again");
                }
                lives.iter().for_each(|life| life.ledger().touch());
                Err(error)
            }
        }
    }

    /// The last commit of partitions that are taken away: tried again until it gets through, can never get through,
    /// or the time is up.
    pub fn commit_finally(&self, consumer: &Consumer, of: &[TopicPartition], deadline: Instant) -> bool {
        while let Err(error) = self.commit(consumer, Some(of)) {
            if error.is_fenced() || Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(STALE_BACKOFF);
        }
        true
    }

    /// Waits until the commit under way, if there is one, has its answer: the client may hold it back until it knows
    /// the coordinator again, and would then send it for whatever member we are by then. Blocks its thread.
    pub fn wait_for_commit(&self) {
        drop(self.committing.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A thread is not worth waking for nothing.
    fn is_due(&self) -> bool {
        self.lock().values().any(|life| !life.is_fenced() && life.ledger().is_dirty())
    }

    fn due(&self, only: Option<&[TopicPartition]>) -> (Vec<Offset>, Vec<Arc<Partition>>) {
        let partitions = self.lock();
        let wanted = |of: &TopicPartition| only.is_none_or(|only| only.contains(of));
        partitions
            .iter()
            .filter(|(of, life)| wanted(of) && !life.is_fenced())
            .filter_map(|(of, life)| {
                let commit = life.ledger().take_commit()?;
                Some(((of.clone(), commit.offset, commit.metadata), Arc::clone(life)))
            })
            .unzip()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TopicPartition, Arc<Partition>>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
