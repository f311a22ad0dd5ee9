//! The partitions that are ours: how they begin, and the written sequence in which they are given up.
//!
//! Giving up: stop intake → take back what waits (handed on through Kafka if it was attempted, left owed if not) →
//! wait for what is under way, bounded → commit → fence. A shutdown does the same with all partitions at once.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    commit::Committer,
    decode::Decoder,
    delivery::Delivery,
    lane::lanes::Lanes,
    ledger::metadata::Position,
    markers::Markers,
    own::Reads,
    positions::{self, Start},
    settle::Settler,
    source::Source,
    ticket::Partition,
    window::Window,
};
use crate::{
    admin::health::Health,
    app::tasks::Tasks,
    kafka::{
        consumer::{Consumer, Queue, Rebalance, TopicPartition},
        topics::parse_tier,
    },
    metrics::{Metrics, Rebalance as Kind},
    otel::Tracer,
    registry::Registry,
};

/// Reopenings of partitions within a minute that end the process: something is wrong that opening anew cannot heal.
const REOPENINGS: usize = 3;
const REOPENINGS_WITHIN: Duration = Duration::from_secs(60);

/// What every source of one group works with. All of it but `reads` and `committer` is the same for all groups.
pub struct Shared {
    /// Whom the group reads for.
    pub reads: Reads,
    /// The endpoints.
    pub registry: Arc<Registry>,
    /// Finds an event's facts.
    pub decoder: Arc<Decoder>,
    /// The lanes.
    pub lanes: Arc<Lanes>,
    /// Where deliveries end or go on.
    pub settler: Settler,
    /// What memory is bounded by.
    pub window: Arc<Window>,
    /// Where reading begins.
    pub positions: positions::Shared,
    /// What operators have released or cancelled.
    pub markers: Markers,
    /// What is committed.
    pub committer: Arc<Committer>,
    /// Where work is spawned.
    pub tasks: Tasks,
    /// Where it is counted.
    pub metrics: Metrics,
    /// Begins traces, where there are any.
    pub tracer: Option<Tracer>,
    /// A wait this short stays in memory.
    pub hold: Duration,
    /// Time between commits.
    pub commit_interval: Duration,
    /// Numbers of lives.
    pub epochs: Arc<AtomicU64>,
    /// When partitions were opened again because of a lost ticket.
    pub reopened: Arc<Mutex<Vec<Instant>>>,
}

impl Shared {
    /// The same for the group of an endpoint with a queue of its own.
    pub fn for_endpoint(&self, endpoint: &Arc<str>) -> Self {
        Self {
            reads: Reads::Endpoint(Arc::clone(endpoint)),
            registry: Arc::clone(&self.registry),
            decoder: Arc::clone(&self.decoder),
            lanes: Arc::clone(&self.lanes),
            settler: self.settler.clone(),
            window: Arc::clone(&self.window),
            positions: Arc::clone(&self.positions),
            markers: self.markers.clone(),
            committer: Arc::new(Committer::new(Arc::clone(&self.positions), self.metrics.clone())),
            tasks: self.tasks.clone(),
            metrics: self.metrics.clone(),
            tracer: self.tracer.clone(),
            hold: self.hold,
            commit_interval: self.commit_interval,
            epochs: Arc::clone(&self.epochs),
            reopened: Arc::clone(&self.reopened),
        }
    }

    /// Runs what blocks on a thread of its own; `None` when it panicked.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.tasks.spawn_blocking(name, work).await.ok()
    }

    /// Ends a life and begins the next one of the same partition. `None` when it was taken away meanwhile, or when
    /// it was reopened too often.
    pub(super) fn next_life(&self, old: &Arc<Partition>, fresh: Option<i64>) -> Option<Arc<Partition>> {
        if old.stop.is_cancelled() {
            return None;
        }
        if fresh.is_none() && self.reopened_too_often() {
            let times = REOPENINGS;
            self.tasks
                .fail(anyhow::anyhow!("tickets were lost {times} times within a minute, this is a bug"));
            return None;
        }
        let position = {
            // Nothing settles in the old life after its position was copied.
            let ledger = old.ledger();
            old.fence();
            fresh.map_or_else(|| ledger.position(), Position::at)
        };
        for delivery in self.lanes.take_back(old.epoch) {
            match fresh {
                None => delivery.ticket.hand_back(),
                // Its event may be gone from the log; this is the last copy of it.
                Some(_) => self.settler.pass_on(delivery),
            }
        }
        let begun = old.begun.load(Ordering::Acquire);
        Some(self.life(
            (Arc::clone(&old.topic), old.id),
            old.tier,
            Start { position, begun },
            old.stop.clone(),
        ))
    }

    fn life(
        &self,
        of: (Arc<str>, i32),
        tier: Option<Duration>,
        start: Start,
        stop: CancellationToken,
    ) -> Arc<Partition> {
        let epoch = self.epochs.fetch_add(1, Ordering::Relaxed);
        let kind = (tier, self.reads.is_own());
        let life = Partition::new(of, kind, epoch, start.position, stop, self.metrics.clone());
        life.begun.store(start.begun, Ordering::Release);
        // The position is committed at once, whether or not anything comes.
        life.ledger().touch();
        let life = Arc::new(life);
        self.committer.add(&life);
        life
    }

    fn reopened_too_often(&self) -> bool {
        let mut reopened = self.reopened.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        reopened.retain(|at| now.duration_since(*at) < REOPENINGS_WITHIN);
        reopened.push(now);
        reopened.len() >= REOPENINGS
    }
}

/// Reacts to the group's rebalances; lives on the polling thread.
pub struct Assignment {
    shared: Arc<Shared>,
    prefix: String,
    drain: Duration,
    runtime: Handle,
    health: Health,
    consumer: Mutex<Option<Consumer>>,
    starts: Mutex<HashMap<TopicPartition, Start>>,
    sources: Mutex<HashMap<TopicPartition, JoinHandle<()>>>,
    stopping: AtomicBool,
}

impl Assignment {
    /// Nothing is assigned yet. `drain` bounds the wait for attempts under way.
    pub fn new(
        shared: Arc<Shared>,
        prefix: String,
        drain: Duration,
        runtime: Handle,
        health: Health,
    ) -> Self {
        Self {
            shared,
            prefix,
            drain,
            runtime,
            health,
            consumer: Mutex::default(),
            starts: Mutex::default(),
            sources: Mutex::default(),
            stopping: AtomicBool::new(false),
        }
    }

    /// The consumer that commits; it is known only after this was made.
    pub fn set_consumer(&self, consumer: &Consumer) {
        *self.consumer.lock().unwrap_or_else(PoisonError::into_inner) = Some(consumer.clone());
    }

    /// Gives everything up within a time, at a shutdown; blocks its thread. Nothing is begun afterwards.
    pub fn give_up_all(&self, grace: Duration) {
        self.stopping.store(true, Ordering::Release);
        let all: Vec<_> = self.shared.committer.assigned().into_iter().map(|(of, _)| of).collect();
        self.give_up(&all, grace);
        *self.consumer.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Everything is lost at once because the client cannot go on; blocks its thread.
    pub fn lose_all(&self) {
        let all: Vec<_> = self.shared.committer.assigned().into_iter().map(|(of, _)| of).collect();
        self.changed(Kind::Lost);
        self.lost(&all);
        if !self.shared.reads.is_own() {
            self.health.joined(false);
        }
        *self.consumer.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The runtime its work is spawned on.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    fn give_up(&self, partitions: &[TopicPartition], within: Duration) {
        let deadline = Instant::now() + within;
        let lives = self.stop_intake(partitions);
        if lives.is_empty() {
            // At a stop everything is given up before the group is left, which revokes it once more.
            return;
        }
        for life in &lives {
            self.shared.lanes.take_back(life.epoch).into_iter().for_each(|delivery| self.hand_on(delivery));
        }
        let all_back = async {
            for life in &lives {
                life.all_back().await;
            }
        };
        // The deadline's timer belongs to the runtime, this thread does not.
        if self.runtime.block_on(async { timeout_at(deadline, all_back).await }).is_err() {
            warn!(?within, "attempts still under way, their events stay owed");
        }
        let consumer = self.consumer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // At least one try, however long the drain took.
        let deadline = deadline.max(Instant::now() + Duration::from_secs(1));
        let committed = consumer
            .is_some_and(|consumer| self.shared.committer.commit_finally(&consumer, partitions, deadline));
        if !committed {
            warn!("the last commit did not get through, deliveries may be repeated");
        }
        self.forget(partitions);
    }

    /// Nothing is read any more when this returns.
    fn stop_intake(&self, partitions: &[TopicPartition]) -> Vec<Arc<Partition>> {
        let lives = || -> Vec<Arc<Partition>> {
            let assigned = self.shared.committer.assigned();
            assigned.into_iter().filter(|(of, _)| partitions.contains(of)).map(|(_, life)| life).collect()
        };
        lives().iter().for_each(|life| life.stop.cancel());
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        for source in partitions.iter().filter_map(|of| sources.remove(of)) {
            if let Err(error) = self.runtime.block_on(source) {
                warn!(%error, "a source did not end as it should");
            }
        }
        // A source may have begun a new life until it ended.
        lives()
    }

    /// What was attempted is handed on with its count; what was not stays owed, and so does what is in an order: on a
    /// retry topic it would lose its place, and the next one would arrive before it.
    fn hand_on(&self, delivery: Delivery) {
        if delivery.attempts > 0 && delivery.line.is_none() {
            self.shared.settler.pass_on(delivery);
        } else {
            delivery.ticket.hand_back();
        }
    }

    fn forget(&self, partitions: &[TopicPartition]) {
        for of in partitions {
            if let Some(life) = self.shared.committer.remove(of) {
                life.fence();
            }
            self.show(of, false);
        }
        self.shared.committer.wait_for_commit();
        self.count_partitions();
    }

    /// What is shown of partitions is the main group's: those of own queues are the same ones, read once more.
    fn show(&self, of: &TopicPartition, ours: bool) {
        let metrics = &self.shared.metrics;
        match &self.shared.reads {
            Reads::Endpoint(_) => {}
            Reads::Everyone if ours => drop(metrics.add_partition(&of.topic, of.partition)),
            Reads::Everyone => metrics.remove_partition(&of.topic, of.partition),
        }
    }

    fn count_partitions(&self) {
        if !self.shared.reads.is_own() {
            self.shared.lanes.set_partitions(self.shared.committer.assigned().len());
        }
    }

    fn changed(&self, kind: Kind) {
        if !self.shared.reads.is_own() {
            self.shared.metrics.rebalance(kind);
        }
    }

    fn lost(&self, partitions: &[TopicPartition]) {
        for life in self.stop_intake(partitions) {
            life.fence();
            self.shared
                .lanes
                .take_back(life.epoch)
                .into_iter()
                .for_each(|delivery| delivery.ticket.hand_back());
        }
        self.forget(partitions);
    }
}

impl Rebalance for Assignment {
    fn positions(&self, consumer: &Consumer, partitions: &[TopicPartition]) -> Option<Vec<i64>> {
        if self.stopping.load(Ordering::Acquire) {
            return None;
        }
        let starts = self.shared.positions.starts(consumer, partitions, &self.shared.reads)?;
        let offsets = starts.iter().map(|start| start.position.base).collect();
        let mut known = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(partitions.iter().cloned().zip(starts));
        Some(offsets)
    }

    fn assigned(&self, queues: Vec<Queue>) {
        if !self.shared.reads.is_own() {
            self.health.joined(true);
        }
        self.changed(Kind::Assign);
        info!(partitions = queues.len(), reads = ?self.shared.reads, "partitions assigned");
        let mut starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        for queue in queues {
            let of = queue.of.clone();
            let start =
                starts.remove(&of).unwrap_or(Start { position: Position::at(queue.position), begun: false });
            let tier = parse_tier(&self.prefix, &of.topic);
            let life = self.shared.life(
                (Arc::clone(&of.topic), of.partition),
                tier,
                start,
                CancellationToken::new(),
            );
            self.show(&of, true);
            let source = Source::new(Arc::clone(&self.shared), queue, life);
            let _runtime = self.runtime.enter();
            sources.insert(of, self.shared.tasks.spawn_needed("source", source.run()));
        }
        self.count_partitions();
    }

    fn revoked(&self, partitions: &[TopicPartition], lost: bool) {
        info!(partitions = partitions.len(), lost, reads = ?self.shared.reads, "partitions revoked");
        self.changed(if lost { Kind::Lost } else { Kind::Revoke });
        if lost {
            self.lost(partitions);
        } else {
            self.give_up(partitions, self.drain);
        }
    }
}
