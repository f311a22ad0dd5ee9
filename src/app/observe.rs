//! Looks at the cluster from beside, on a thread of its own: the state topic, topics that come, lag, brokers.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    endpoints::Endpoints,
    group::Group,
    own::{OwnQueues, Seen},
    pulse::Pulse,
    startup,
};
use crate::{
    admin::health::Health,
    config::settings::Settings,
    kafka::{
        consumer::{self, TopicPartition},
        observer::Observer,
        topics::wants_notices,
    },
    pipeline::{assignment::Shared, delivery::now, positions::Positions},
};

/// The state topic is looked at this often.
const STATE: Duration = Duration::from_millis(500);
/// Lag and the brokers are looked at this often.
const LAG: Duration = Duration::from_secs(2);
/// New topics are looked for this often.
const TOPICS: Duration = Duration::from_secs(5);

/// Of own queues one in so many is compared with the brokers at each look.
const TURNS: usize = 15;

/// The ends of partitions' logs.
type Ends = HashMap<TopicPartition, i64>;

/// The observer's work.
pub(super) struct Observation {
    pub(super) settings: Arc<Settings>,
    pub(super) observer: Observer,
    pub(super) positions: Arc<Positions>,
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) group: Group,
    pub(super) own: OwnQueues,
    pub(super) pulse: Pulse,
}

impl Observation {
    /// Starts to look, until the stop.
    pub(super) fn start(self, shared: &Arc<Shared>, health: &Health, stop: CancellationToken) {
        let (shared_, health) = (Arc::clone(shared), health.clone());
        shared.tasks.spawn_blocking_needed("observer", move || self.run(&shared_, &health, &stop));
    }

    fn run(&self, shared: &Shared, health: &Health, stop: &CancellationToken) {
        let (mut lag, mut topics) = (Instant::now(), Instant::now() + TOPICS);
        let mut turn = 0;
        while !stop.is_cancelled() {
            // It may write to the state topic, for as long as it takes.
            self.pulse.rest();
            self.positions.follow();
            self.pulse.beat();
            self.endpoints.tell();
            if Instant::now() >= lag {
                let mut ends = Ends::new();
                self.report(health, self.look_at_lag(shared, &mut ends, stop));
                self.look_at_own(shared, ends, turn);
                turn += 1;
                self.tell_membership(health);
                lag = Instant::now() + LAG;
            }
            if Instant::now() >= topics {
                self.report(health, self.look_for_topics(shared));
                topics = Instant::now() + TOPICS;
            }
            std::thread::sleep(STATE);
        }
        self.pulse.rest();
    }

    fn tell_membership(&self, health: &Health) {
        health.joined(self.group.is_member());
        // It may have become one meanwhile, and said so before this did.
        if self.group.is_member() {
            health.joined(true);
        }
    }

    fn report(&self, health: &Health, looked: Result<(), consumer::Error>) {
        match looked {
            Ok(()) => health.brokers(true, None),
            Err(error) => {
                warn!(brokers = self.settings.kafka.brokers, %error, "the brokers do not answer");
                health.brokers(false, Some(error.to_string()));
            }
        }
    }

    fn look_at_lag(
        &self,
        shared: &Shared,
        ends: &mut Ends,
        stop: &CancellationToken,
    ) -> Result<(), consumer::Error> {
        let assigned = shared.committer.assigned();
        if assigned.is_empty() {
            return self.observer.topics().map(drop);
        }
        let partitions: Vec<_> = assigned.iter().map(|(of, _)| of.clone()).collect();
        // Before the brokers are asked: commits go on meanwhile.
        let believed: Vec<_> = assigned.iter().map(|(_, life)| life.believed_committed()).collect();
        let committed = self.observer.committed(&partitions)?;
        *ends = self.ends(&partitions);
        for (((of, life), believed), committed) in assigned.into_iter().zip(believed).zip(committed) {
            if stop.is_cancelled() {
                return Ok(());
            }
            self.pulse.beat();
            let Some(high) = ends.get(&of).copied() else { continue };
            life.see_end(high);
            let committed = match committed {
                Some((committed, _)) => {
                    self.positions.forget_passed(&of, committed);
                    committed
                }
                None => match self.observer.watermarks(&of) {
                    Ok((low, _)) => low,
                    Err(error) => {
                        debug!(topic = %of.topic, partition = of.partition, %error, "bounds unknown");
                        continue;
                    }
                },
            };
            life.compare_committed(believed, committed);
            // It may have been taken away meanwhile, and its series with it.
            let Some(gauges) = shared.metrics.partition(&of.topic, of.partition) else { continue };
            gauges.lag((high - committed).max(0));
            let oldest = life.oldest_timestamp().map_or(0, |timestamp| now() - timestamp);
            gauges.oldest_unsettled(Duration::from_millis(u64::try_from(oldest).unwrap_or(0)));
        }
        Ok(())
    }

    /// The ends of partitions, as far as the brokers tell them. One that they do not know fails the request for all, so
    /// then each is asked for alone.
    fn ends(&self, of: &[TopicPartition]) -> Ends {
        self.pulse.beat();
        self.observer.ends(of).unwrap_or_else(|error| {
            debug!(%error, "the ends of partitions are not told together");
            let one = |of: &TopicPartition| {
                self.pulse.beat();
                let (_, end) = self.observer.watermarks(of).ok()?;
                Some((of.clone(), end))
            };
            of.iter().filter_map(one).collect()
        })
    }

    /// The partitions of own queues are those of the main group once more, so their ends are mostly known.
    fn look_at_own(&self, shared: &Shared, mut ends: Ends, turn: usize) {
        let mut lags = HashMap::new();
        let seen = self.own.seen();
        let all = seen.iter().flat_map(|Seen { lives, .. }| lives.iter().map(|(of, _)| of));
        let unknown: HashSet<_> = all.filter(|of| !ends.contains_key(*of)).cloned().collect();
        ends.extend(self.ends(&unknown.into_iter().collect::<Vec<_>>()));
        for (number, Seen { endpoint, consumer, lives }) in seen.into_iter().enumerate() {
            let mut lag = 0;
            for (of, life) in &lives {
                let Some(end) = ends.get(of).copied() else { continue };
                life.see_end(end);
                lag += (end - life.ledger().base()).max(0);
            }
            lags.insert(endpoint, lag);
            if let Some(consumer) = consumer.filter(|_| number % TURNS == turn % TURNS) {
                let partitions: Vec<_> = lives.iter().map(|(of, _)| of.clone()).collect();
                let believed: Vec<_> = lives.iter().map(|(_, life)| life.believed_committed()).collect();
                self.pulse.beat();
                let Ok(committed) = consumer.committed(&partitions) else { continue };
                for (((_, life), believed), committed) in lives.iter().zip(believed).zip(committed) {
                    life.compare_committed(believed, committed.map_or(-1, |(offset, _)| offset));
                }
            }
        }
        shared.metrics.own_queue_lags(lags.iter().map(|(endpoint, lag)| (&**endpoint, *lag)));
        shared.lanes.set_own_lags(lags);
    }

    fn look_for_topics(&self, shared: &Shared) -> Result<(), consumer::Error> {
        // The starts of new topics are written down, for as long as it takes; the next look is the next sign of life.
        self.pulse.rest();
        let all = self.observer.topics()?;
        let snapshot = shared.registry.snapshot();
        let notices = wants_notices(&self.settings.topics.prefix, snapshot.endpoints());
        let sources = startup::sources(&self.settings, &all, notices);
        if let Err(error) = self.positions.ensure_starts(&sources) {
            warn!(%error, "the start of a new topic could not be noted down, it is not read yet");
            return Ok(());
        }
        // First those with a queue of their own: what the main group has read is not for them any more.
        match self.own.follow_topics(&all) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                warn!(%error, "new topics are not read by own queues yet, nor by the group");
                return Ok(());
            }
        }
        self.group.subscribe(startup::subscribed(&self.settings, &all, notices))
    }
}
