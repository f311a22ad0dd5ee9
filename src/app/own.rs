//! Queues of endpoints' own: a consumer group for each, beside the main one, and the same pipeline behind it.
//!
//! The group's lag is the queue. It reads the source topics that its endpoint selects, never retry tiers: what an
//! endpoint without an ordering has to try again later goes to the tiers and comes back through the main group.
//! How an endpoint moves into its own queue, and out of it, is told in `moves.rs`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(super) use self::moves::Error;
use super::{
    group::{self, Group},
    pulse::Pulse,
    startup,
};
use crate::{
    admin::health::Health,
    config::settings::{Endpoint, Kafka, Queue, Settings},
    kafka::{
        consumer::{Budget, Consumer, TopicPartition},
        observer::Observer,
        topics::{Admin, notices_topic},
    },
    pipeline::{
        assignment::{Assignment, Shared},
        commit::Committer,
        own::group_of,
        ticket::Partition,
    },
};

mod moves;

/// Between tries of what the brokers did not answer.
const BACKOFF: Duration = Duration::from_secs(1);

/// Topics with the numbers of their partitions.
type Topics = BTreeMap<String, Vec<i32>>;

/// What [`OwnQueues`] are made of.
pub(super) struct Options {
    /// What the process started with; the endpoints among it may be others by now.
    pub(super) settings: Arc<Settings>,
    /// What the main group works with.
    pub(super) shared: Arc<Shared>,
    /// Looks at the cluster.
    pub(super) observer: Observer,
    /// Deletes groups that are left for good.
    pub(super) admin: Admin,
    /// The process's.
    pub(super) health: Health,
    /// Cancelled when the process stops.
    pub(super) stop: CancellationToken,
    /// The runtime.
    pub(super) runtime: Handle,
}

/// The own queues of this process. Cheap to clone. All but [`ended`](Self::ended) block their thread.
#[derive(Clone)]
pub(super) struct OwnQueues(Arc<Inner>);

struct Inner {
    options: Options,
    queues: Mutex<HashMap<Arc<str>, OwnQueue>>,
    /// Held while queues are changed.
    changing: Mutex<()>,
}

/// One endpoint's group.
#[derive(Clone)]
struct OwnQueue {
    group: Group,
    committer: Arc<Committer>,
    stop: CancellationToken,
    /// Cancelled when it is not to be left after all.
    stays: Option<CancellationToken>,
}

/// One own queue as it is looked at from beside.
pub(super) struct Seen {
    pub(super) endpoint: Arc<str>,
    pub(super) consumer: Option<Consumer>,
    pub(super) lives: Vec<(TopicPartition, Arc<Partition>)>,
}

impl OwnQueues {
    /// None yet.
    pub(super) fn new(options: Options) -> Self {
        Self(Arc::new(Inner { options, queues: Mutex::default(), changing: Mutex::default() }))
    }

    /// Goes on with the endpoints there are now: joins and leaves groups. [`prepare`](Self::prepare) came before.
    pub(super) fn reconcile(&self, endpoints: &[Arc<Endpoint>]) {
        let _alone = self.change();
        self.stop_removed(endpoints);
        while let Err(error) = self.try_reconcile(endpoints) {
            if self.0.options.stop.is_cancelled() {
                return;
            }
            warn!(%error, "own queues are not as they should be yet, trying again");
            self.rest(BACKOFF);
        }
    }

    fn try_reconcile(&self, endpoints: &[Arc<Endpoint>]) -> Result<(), Error> {
        let known = self.0.options.shared.positions.queues();
        let running: HashSet<Arc<str>> = self.lock().keys().cloned().collect();
        let (own, shared): (Vec<_>, Vec<_>) =
            endpoints.iter().partition(|endpoint| endpoint.queue == Queue::Own);
        if own.is_empty() && known.is_empty() && running.is_empty() {
            return Ok(());
        }
        let all = self.topics()?;
        for endpoint in own {
            self.join(endpoint, &all)?;
        }
        for endpoint in shared {
            let given_up = known.get(&*endpoint.id).filter(|queue| !queue.own);
            if given_up.is_some() || running.contains(&endpoint.id) {
                let from = given_up.map(|queue| queue.from.clone()).unwrap_or_default();
                self.leave(endpoint, &from, &all)?;
            }
        }
        Ok(())
    }

    /// There may be other topics now; before the main group reads them. False when it has to be asked again.
    pub(super) fn follow_topics(&self, all: &Topics) -> Result<bool, Error> {
        // A reload may take its time; lag is to be looked at meanwhile.
        let Ok(_alone) = self.0.changing.try_lock() else { return Ok(false) };
        let snapshot = self.0.options.shared.registry.snapshot();
        let running: Vec<_> = self.lock().keys().cloned().collect();
        let own = running.iter().filter_map(|id| snapshot.by_id(id));
        for endpoint in own.filter(|endpoint| endpoint.queue == Queue::Own) {
            self.cover(endpoint, all)?;
            self.join(endpoint, all)?;
        }
        Ok(true)
    }

    /// The queues as they are now.
    pub(super) fn seen(&self) -> Vec<Seen> {
        let seen = |(endpoint, queue): (&Arc<str>, &OwnQueue)| Seen {
            endpoint: Arc::clone(endpoint),
            consumer: queue.group.consumer(),
            lives: queue.committer.assigned(),
        };
        self.lock().iter().map(seen).collect()
    }

    /// Resolves when every group has been left.
    pub(super) async fn ended(&self) {
        let groups: Vec<_> = self.lock().values().map(|queue| queue.group.clone()).collect();
        for group in groups {
            group.ended().await;
        }
    }

    /// Nothing of any of them settles any more.
    pub(super) fn fence(&self) {
        let lives = self.seen().into_iter().flat_map(|seen| seen.lives);
        lives.for_each(|(_, life)| life.fence());
    }

    /// Joins the endpoint's group, or reads other topics in it.
    fn join(&self, endpoint: &Endpoint, all: &Topics) -> Result<(), Error> {
        let topics: Vec<String> = self.selected(endpoint, all).into_keys().collect();
        let running = {
            let mut queues = self.lock();
            let running = queues.get_mut(&endpoint.id);
            running.map(|queue| {
                queue.stays.take().into_iter().for_each(|stays| stays.cancel());
                queue.group.clone()
            })
        };
        match running {
            Some(group) => Ok(group.subscribe(topics)?),
            None => {
                self.start(&endpoint.id, topics);
                Ok(())
            }
        }
    }

    fn start(&self, id: &Arc<str>, topics: Vec<String>) {
        let Options { settings, shared, health, stop, runtime, .. } = &self.0.options;
        let limits = &settings.limits;
        let own = Arc::new(shared.for_endpoint(id));
        let prefix = settings.topics.prefix.clone();
        let assignment =
            Assignment::new(Arc::clone(&own), prefix, limits.drain, runtime.clone(), health.clone());
        let options = group::Options {
            kafka: self.kafka(id),
            budget: Budget::Sparing(limits.prefetch),
            grace: limits.shutdown_grace,
            commit_interval: limits.commit_interval,
            topics,
            // There may be many of it, and it has the brokers of the main one.
            metrics: None,
            // Not watched: where it hangs, work stands still.
            pulse: Pulse::new(),
        };
        let stop = stop.child_token();
        let group = Group::new(options, Arc::new(assignment), stop.clone());
        info!(endpoint = %id, "own queue joined");
        group.start(&shared.tasks, &own.committer);
        let committer = Arc::clone(&own.committer);
        self.lock().insert(Arc::clone(id), OwnQueue { group, committer, stop, stays: None });
    }

    /// The group of a removed endpoint is left as it stands: should the endpoint come back, it goes on there.
    fn stop_removed(&self, endpoints: &[Arc<Endpoint>]) {
        let kept: HashSet<&str> = endpoints.iter().map(|endpoint| &*endpoint.id).collect();
        let removed: Vec<_> = {
            let queues = self.lock();
            let removed = queues.iter().filter(|(id, _)| !kept.contains(&***id));
            removed.map(|(id, queue)| (Arc::clone(id), queue.clone())).collect()
        };
        removed.iter().for_each(|(_, queue)| queue.stop.cancel());
        for (id, queue) in removed {
            self.0.options.runtime.block_on(queue.group.ended());
            self.lock().remove(&id);
            info!(endpoint = %id, "own queue left, its endpoint was removed");
        }
    }

    /// The source topics that the endpoint selects.
    fn selected(&self, endpoint: &Endpoint, all: &Topics) -> Topics {
        let settings = &self.0.options.settings;
        let notices = endpoint.asks_for(&notices_topic(&settings.topics.prefix));
        let mut sources = startup::sources(settings, all, notices);
        if let Some(topics) = &endpoint.topics {
            sources.retain(|name, _| topics.iter().any(|topic| topic.matches(name)));
        }
        sources
    }

    fn topics(&self) -> Result<Topics, Error> {
        Ok(self.0.options.observer.topics()?)
    }

    /// The cluster, and the endpoint's group.
    fn kafka(&self, endpoint: &str) -> Kafka {
        let kafka = &self.0.options.settings.kafka;
        Kafka { group: group_of(&kafka.group, endpoint), ..kafka.clone() }
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.0.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, OwnQueue>> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
