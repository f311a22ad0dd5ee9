//! Membership in a consumer group: one thread that polls, and what it does when the client cannot go on.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{pulse::Pulse, tasks::Tasks};
use crate::{
    config::settings::{Kafka, Protocol},
    kafka::consumer::{self, Budget, Consumer, GroupProtocol},
    metrics::Metrics,
    pipeline::{assignment::Assignment, commit::Committer},
};

/// Before a client that could not go on is replaced: authorisations may be mended meanwhile.
const BACKOFF: Duration = Duration::from_secs(2);
/// One look whether the process stops, while waiting.
const LOOK: Duration = Duration::from_millis(100);

/// Our membership. Cheap to clone.
#[derive(Clone)]
pub(super) struct Group(Arc<Inner>);

/// What a [`Group`] is made of.
pub(super) struct Options {
    /// The cluster, and the name of the group.
    pub(super) kafka: Kafka,
    /// What its client may use.
    pub(super) budget: Budget,
    /// How long giving everything up may take at the end.
    pub(super) grace: Duration,
    /// Time between commits.
    pub(super) commit_interval: Duration,
    /// What to subscribe to at first.
    pub(super) topics: Vec<String>,
    /// Where it is shown how the brokers answer it.
    pub(super) metrics: Option<Metrics>,
    /// The sign of life of the thread that polls.
    pub(super) pulse: Pulse,
}

struct Inner {
    kafka: Kafka,
    budget: Budget,
    grace: Duration,
    commit_interval: Duration,
    metrics: Option<Metrics>,
    assignment: Arc<Assignment>,
    topics: Mutex<Vec<String>>,
    consumer: Mutex<Option<Consumer>>,
    pulse: Pulse,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Group {
    /// Not joined yet; it is left at the stop.
    pub(super) fn new(options: Options, assignment: Arc<Assignment>, stop: CancellationToken) -> Self {
        let Options { kafka, budget, grace, commit_interval, topics, metrics, pulse } = options;
        Self(Arc::new(Inner {
            kafka,
            budget,
            grace,
            commit_interval,
            metrics,
            assignment,
            topics: Mutex::new(topics),
            consumer: Mutex::default(),
            pulse,
            stop,
            ended: CancellationToken::new(),
        }))
    }

    /// Joins, and stays until the stop; then everything is given up and the group is left.
    pub(super) fn start(&self, tasks: &Tasks, committer: &Arc<Committer>) {
        let (group, tasks_, committer) = (self.clone(), tasks.clone(), Arc::clone(committer));
        tasks.spawn_blocking_needed("consumer", move || {
            // However this thread ends, whoever waits for the end must not wait for ever.
            let _ended = group.0.ended.clone().drop_guard();
            if let Err(failure) = group.stay(&tasks_, &committer) {
                tasks_.fail(failure.into());
            }
        });
    }

    /// Resolves when the group has been left.
    pub(super) async fn ended(&self) {
        self.0.ended.cancelled().await;
    }

    /// Reads these topics from now on.
    pub(super) fn subscribe(&self, topics: Vec<String>) -> Result<(), consumer::Error> {
        let mut current = lock(&self.0.topics);
        if *current == topics {
            return Ok(());
        }
        info!(?topics, "reading another set of topics");
        if let Some(consumer) = &*lock(&self.0.consumer) {
            consumer.subscribe(&topics)?;
        }
        *current = topics;
        Ok(())
    }

    /// Its client, while there is one: an own group's offsets can be asked and set as a member only.
    pub(super) fn consumer(&self) -> Option<Consumer> {
        lock(&self.0.consumer).clone()
    }

    /// Is the process a member of the group?
    pub(super) fn is_member(&self) -> bool {
        lock(&self.0.consumer).as_ref().is_some_and(Consumer::is_member)
    }

    fn stay(&self, tasks: &Tasks, committer: &Arc<Committer>) -> Result<(), consumer::Error> {
        let Inner { kafka, stop, .. } = &*self.0;
        let mut protocol = match kafka.protocol {
            Protocol::Auto | Protocol::Consumer => GroupProtocol::Consumer,
            Protocol::Classic => GroupProtocol::Classic,
        };
        while !stop.is_cancelled() {
            let Err(error) = self.membership(protocol, tasks, committer) else { return Ok(()) };
            match error {
                consumer::Error::ProtocolUnsupported if kafka.protocol == Protocol::Auto => {
                    info!("the brokers do not offer KIP-848, joining with the classic protocol");
                    protocol = GroupProtocol::Classic;
                    continue;
                }
                error @ (consumer::Error::Create(_) | consumer::Error::ProtocolUnsupported) => {
                    return Err(error);
                }
                error => error!(%error, "the Kafka consumer is made anew"),
            }
            let waits = BACKOFF.div_duration_f64(LOOK) as u32;
            (0..waits).take_while(|_| !stop.is_cancelled()).for_each(|_| std::thread::sleep(LOOK));
        }
        Ok(())
    }

    /// One client's life: until the stop, or until it cannot go on.
    fn membership(
        &self,
        protocol: GroupProtocol,
        tasks: &Tasks,
        committer: &Arc<Committer>,
    ) -> Result<(), consumer::Error> {
        let Inner { kafka, budget, assignment, topics, stop, .. } = &*self.0;
        let rebalance = Arc::clone(assignment);
        let consumer = Consumer::new(kafka, protocol, *budget, rebalance, self.0.metrics.clone())?;
        assignment.set_consumer(&consumer);
        {
            // Held until the consumer is known: another set of topics comes either before, or finds it.
            let topics = lock(topics);
            consumer.subscribe(&topics)?;
            *lock(&self.0.consumer) = Some(consumer.clone());
        }
        let over = CancellationToken::new();
        let commits =
            Arc::clone(committer).run(consumer.clone(), self.0.commit_interval, tasks.clone(), over.clone());
        let commits = tasks.spawn("commits", commits);
        let polled = consumer.poll_until(stop, || self.0.pulse.beat());
        // From here on it is bounded by the grace, or beats again as another client.
        self.0.pulse.rest();
        match &polled {
            Ok(()) => {
                let grace = self.0.grace;
                assignment.give_up_all(grace - grace / super::KEPT_OF_GRACE);
            }
            Err(_) => assignment.lose_all(),
        }
        over.cancel();
        *lock(&self.0.consumer) = None;
        assignment.runtime().block_on(async { commits.await.ok() });
        consumer.close();
        polled
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
