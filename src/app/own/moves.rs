//! How an endpoint moves into a queue of its own, and out of it, without a loss.
//!
//! **In.** Before the endpoints are swapped (or, at a start, before any group is joined) its group is given offsets:
//! those the main group has committed, with what is owed to this endpoint alone. Then the state topic says that the
//! queue is its own, and then the main group stops to deliver to it. Whatever the main group commits of the endpoint's
//! events from then on, its own group began at or below them. What the main group holds of them and has not sent is
//! left to the own group; what is under way may arrive twice.
//!
//! **Out.** Refused until the own group has settled what was in the log when it was asked. Then the state topic says
//! that the main group delivers from the log's ends on, the endpoints are swapped, and the own group goes on until it
//! has passed the log's ends as they were after that: what the main group read before the swap is below them. Then the
//! group is left, and deleted when nobody else is in it. What arrives in between may arrive twice. A start that finds
//! this half done goes on with it. When the main group has committed past all of that, the state topic forgets it.
//!
//! **Other instances** do the same when they take the configuration over: until then they deliver by what they know,
//! which repeats deliveries and loses none. An endpoint that is removed leaves its group and its offsets behind.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Options, OwnQueues, Topics};
use crate::{
    config::settings::{Endpoint, Queue},
    kafka::consumer::{self, Consumer, TopicPartition},
    pipeline::{
        ledger::metadata,
        positions,
        state::{self, Offsets},
    },
    registry::endpoint_hash,
};

/// A stream that flows has this long to be settled up to where it was when it was asked.
const CATCH_UP: Duration = Duration::from_secs(10);
/// A group that others are leaving has this long to become empty.
const EMPTY: Duration = Duration::from_secs(10);
/// Between looks while something is waited for.
const LOOK: Duration = Duration::from_millis(200);
/// The same where nobody waits.
const IDLE_LOOK: Duration = Duration::from_secs(2);
/// Clients made at once to look at as many groups.
const AT_ONCE: usize = 8;

/// Why own queues cannot be as they should.
#[derive(Debug, thiserror::Error)]
pub(in crate::app) enum Error {
    /// The order would be lost, or what waits would flood the others.
    #[error(
        "endpoint {endpoint:?} cannot give up its own queue yet: {lag} of its events are not settled; keep queue = \"own\" (or its ordering) until its lag is 0"
    )]
    Lag {
        /// Which endpoint.
        endpoint: String,
        /// How many events of its topics its group has not settled.
        lag: i64,
    },
    /// The state topic.
    #[error(transparent)]
    Positions(#[from] positions::Error),
    /// Kafka.
    #[error(transparent)]
    Kafka(#[from] consumer::Error),
}

/// Partitions with the offsets that are to be committed.
type Ends = Vec<(TopicPartition, i64)>;

impl OwnQueues {
    /// Makes sure that these endpoints can be swapped in; changes nothing of what is delivered to whom now.
    pub(in crate::app) fn prepare(&self, endpoints: &[Arc<Endpoint>]) -> Result<(), Error> {
        let _alone = self.change();
        let known = self.0.options.shared.positions.queues();
        let own: Vec<_> = endpoints.iter().filter(|endpoint| endpoint.queue == Queue::Own).collect();
        let leaving: Vec<_> = endpoints
            .iter()
            .filter(|endpoint| endpoint.queue == Queue::Shared)
            .filter_map(|endpoint| Some((&endpoint.id, known.get(&*endpoint.id).filter(|queue| queue.own)?)))
            .collect();
        if own.is_empty() && leaving.is_empty() {
            return Ok(());
        }
        let all = self.topics()?;
        for (id, queue) in &leaving {
            self.wait_until_settled(id, &of_topics(&queue.topics, &all))?;
        }
        for some in own.chunks(AT_ONCE) {
            std::thread::scope(|scope| {
                let each: Vec<_> =
                    some.iter().map(|endpoint| scope.spawn(|| self.cover(endpoint, &all))).collect();
                each.into_iter().try_for_each(|one| one.join().expect("covering does not panic"))
            })?;
        }
        for (id, queue) in leaving {
            let from = offsets(self.ends(&of_topics(&queue.topics, &all))?);
            info!(endpoint = %id, "own queue is given up");
            let queue = state::Queue { own: false, from, ..state::Queue::default() };
            self.0.options.shared.positions.note_queue(id, &queue)?;
        }
        Ok(())
    }

    /// Makes sure that the endpoint's own group has, for every topic it selects, offsets to begin at.
    pub(super) fn cover(&self, endpoint: &Endpoint, all: &Topics) -> Result<(), Error> {
        let positions = &self.0.options.shared.positions;
        let selected = self.selected(endpoint, all);
        // Of the notices, when this is the first who asks for them, nobody has noted down where they begin.
        positions.ensure_starts(&selected)?;
        let noted = positions.queues().remove(&*endpoint.id);
        let running = self.stay(&endpoint.id);
        let (is_new, known) = (noted.is_none(), noted.unwrap_or_default());
        let covered = |topic: &String| known.own && known.topics.contains(topic);
        if known.own && running && selected.keys().all(covered) {
            return Ok(());
        }
        let client = self.client(&endpoint.id)?;
        let partitions = of_topics(selected.keys(), all);
        let committed = client.0.committed(&partitions)?;
        let forgotten = known.own && !partitions.is_empty() && committed.iter().all(Option::is_none);
        if forgotten && !running {
            warn!(endpoint = %endpoint.id, "the brokers have no offsets of the own queue any more, it begins anew");
        }
        // A queue that was being given up goes on where its group stands: nobody else delivers what is above.
        let anew = !running && (is_new || forgotten);
        let begin: Vec<_> = partitions
            .into_iter()
            .zip(committed)
            .filter(|(of, committed)| anew || (committed.is_none() && !covered(&of.topic.to_string())))
            .map(|(of, _)| of)
            .collect();
        self.pin(endpoint, &client.0, (&begin, &known.from), anew)?;
        let topics = selected.into_keys().chain(known.topics.into_iter().filter(|_| known.own)).collect();
        let queue = state::Queue { own: true, topics, from: Offsets::new() };
        Ok(positions.note_queue(&endpoint.id, &queue)?)
    }

    /// Commits where the main group stands for the endpoint's own group.
    fn pin(
        &self,
        endpoint: &Endpoint,
        client: &Consumer,
        (partitions, from): (&[TopicPartition], &Offsets),
        anew: bool,
    ) -> Result<(), Error> {
        let positions = &self.0.options.shared.positions;
        let deadline = Instant::now() + EMPTY;
        loop {
            let narrowed = positions.narrowed(partitions, endpoint_hash(&endpoint.id), from)?;
            let commit = |(of, position): (&TopicPartition, Option<metadata::Position>)| {
                let position = position?;
                Some((of.clone(), position.base, metadata::encode(&position).0))
            };
            let commits: Vec<_> = partitions.iter().zip(narrowed).filter_map(commit).collect();
            if commits.is_empty() {
                return Ok(());
            }
            let Err(error) = client.commit(&commits) else {
                info!(endpoint = %endpoint.id, partitions = commits.len(), "own queue begins where the main group stands");
                return Ok(());
            };
            // Another instance is in the group: it has done this, or is about to leave.
            let done = positions.queues().get(&*endpoint.id).is_some_and(|queue| queue.own);
            if done {
                return Ok(());
            }
            if !anew || Instant::now() > deadline || self.0.options.stop.is_cancelled() {
                return Err(error.into());
            }
            positions.follow();
            self.rest(LOOK);
        }
    }

    /// Waits until the group has settled what is in the log now.
    fn wait_until_settled(&self, id: &Arc<str>, partitions: &[TopicPartition]) -> Result<(), Error> {
        let client = self.client(id)?;
        let ends = self.ends(partitions)?;
        let deadline = Instant::now() + CATCH_UP;
        loop {
            let lag = self.lag(&client.0, &ends)?;
            if lag == 0 {
                return Ok(());
            }
            if Instant::now() > deadline || self.0.options.stop.is_cancelled() {
                return Err(Error::Lag { endpoint: id.to_string(), lag });
            }
            self.rest(LOOK);
        }
    }

    /// Sees an own queue out that its endpoint has given up.
    pub(super) fn leave(&self, endpoint: &Endpoint, from: &Offsets, all: &Topics) -> Result<(), Error> {
        let id = &endpoint.id;
        // When others have finished before us, nothing is known of it any more.
        let topics: Vec<String> = match from.is_empty() {
            true => self.selected(endpoint, all).into_keys().collect(),
            false => from.keys().cloned().collect(),
        };
        let partitions = of_topics(&topics, all);
        let stays = CancellationToken::new();
        let running = {
            let mut queues = self.lock();
            let queue = queues.get_mut(id);
            if queue.as_ref().is_some_and(|queue| queue.stays.is_some()) {
                return Ok(());
            }
            queue.map(|queue| queue.stays = Some(stays.clone())).is_some()
        };
        let until = if running { self.ends(&partitions)? } else { self.half_done(&partitions, from)? };
        if !running && self.is_there(id, &until)? {
            self.start(id, topics);
            self.lock().get_mut(id).into_iter().for_each(|queue| queue.stays = Some(stays.clone()));
        }
        let (queues, id, from) = (self.clone(), Arc::clone(id), from.clone());
        self.0.options.shared.tasks.spawn_blocking("leave own queue", move || {
            if queues.go_on_until(&id, &until, &stays) {
                queues.forget(&id, &partitions, &from);
            }
        });
        Ok(())
    }

    /// How far the own group has to go when the change was interrupted: to where the main group had read without
    /// delivering to the endpoint.
    fn half_done(&self, partitions: &[TopicPartition], from: &Offsets) -> Result<Ends, Error> {
        let main = self.0.options.shared.positions.main(partitions)?;
        let until = |(of, main): (&TopicPartition, Option<metadata::Position>)| {
            let from = from.get(&*of.topic)?.get(&of.partition).copied()?;
            Some((of.clone(), main.map_or(from, |main| main.horizon.max(from))))
        };
        Ok(partitions.iter().zip(main).filter_map(until).collect())
    }

    /// Is there a group that is behind?
    fn is_there(&self, id: &str, until: &Ends) -> Result<bool, Error> {
        let client = self.client(id)?;
        let partitions: Vec<_> = until.iter().map(|(of, _)| of.clone()).collect();
        let committed = client.0.committed(&partitions)?;
        Ok(committed.iter().any(Option::is_some) && self.lag(&client.0, until)? > 0)
    }

    /// Leaves the group when it has come that far; false when it stays, or the process stops.
    fn go_on_until(&self, id: &Arc<str>, until: &Ends, stays: &CancellationToken) -> bool {
        let Options { admin, runtime, stop, .. } = &self.0.options;
        loop {
            let queue = self.lock().get(id).cloned();
            let Some(queue) = queue else { break };
            let settled = queue.group.consumer().map(|consumer| self.lag(&consumer, until));
            if matches!(settled, Some(Ok(0))) {
                break;
            }
            self.rest(LOOK);
            if stays.is_cancelled() || stop.is_cancelled() {
                return false;
            }
        }
        let queue = {
            // Under the lock: whoever wants it to stay comes either before, or waits until it is gone.
            let queues = self.lock();
            if stays.is_cancelled() {
                return false;
            }
            let queue = queues.get(id).cloned();
            queue.iter().for_each(|queue| queue.stop.cancel());
            queue
        };
        if let Some(queue) = queue {
            runtime.block_on(queue.group.ended());
        }
        if stop.is_cancelled() {
            return false;
        }
        match runtime.block_on(admin.delete_group(&self.kafka(id).group)) {
            Ok(()) => info!(endpoint = %id, "own queue left, its group is deleted"),
            Err(error) => info!(endpoint = %id, %error, "own queue left, its group is not deleted"),
        }
        self.lock().remove(id);
        true
    }

    /// Waits until the main group is past all that the own one delivered; then nothing of it needs to be known.
    fn forget(&self, id: &Arc<str>, partitions: &[TopicPartition], from: &Offsets) {
        let Options { shared, stop, .. } = &self.0.options;
        let is_past = |(of, main): (&TopicPartition, Option<metadata::Position>)| {
            let from = from.get(&*of.topic).and_then(|offsets| offsets.get(&of.partition));
            main.is_some_and(|main| from.is_none_or(|from| main.base >= *from))
        };
        while !stop.is_cancelled() {
            let left = shared.positions.queues().get(&**id).is_some_and(|queue| queue.from == *from);
            if !left {
                return;
            }
            let main = shared.positions.main(partitions);
            if main.is_ok_and(|main| partitions.iter().zip(main).all(is_past)) {
                if let Err(error) = shared.positions.forget_queue(id) {
                    warn!(endpoint = %id, %error, "own queue not forgotten, a later start does it");
                }
                return;
            }
            self.rest(IDLE_LOOK);
        }
    }

    /// Keeps a group that goes on; waits for one that is already being left. Is there one that goes on?
    fn stay(&self, id: &str) -> bool {
        loop {
            match self.lock().get_mut(id) {
                None => return false,
                Some(queue) if !queue.stop.is_cancelled() => {
                    queue.stays.take().into_iter().for_each(|stays| stays.cancel());
                    return true;
                }
                Some(_) if self.0.options.stop.is_cancelled() => return true,
                Some(_) => {}
            }
            self.rest(LOOK);
        }
    }

    /// Sleeps, until the stop at the longest.
    pub(super) fn rest(&self, time: Duration) {
        let Options { runtime, stop, .. } = &self.0.options;
        runtime.block_on(async { tokio::time::timeout(time, stop.cancelled()).await.is_ok() });
    }

    /// The client of the endpoint's group, or one for this look.
    fn client(&self, id: &str) -> Result<Client, Error> {
        let running = self.lock().get(id).and_then(|queue| queue.group.consumer());
        match running {
            Some(consumer) => Ok(Client(consumer)),
            None => Ok(Client(Consumer::bystander(&self.kafka(id))?)),
        }
    }

    fn ends(&self, partitions: &[TopicPartition]) -> Result<Ends, Error> {
        let end = |of: &TopicPartition| Ok((of.clone(), self.0.options.observer.watermarks(of)?.1));
        partitions.iter().map(end).collect()
    }

    /// How far the group is from having settled all below these offsets.
    fn lag(&self, client: &Consumer, ends: &Ends) -> Result<i64, Error> {
        let partitions: Vec<_> = ends.iter().map(|(of, _)| of.clone()).collect();
        let mut lag = 0;
        for ((of, end), committed) in ends.iter().zip(client.committed(&partitions)?) {
            let committed = match committed {
                Some((offset, _)) => offset,
                None => self.0.options.observer.watermarks(of)?.0,
            };
            lag += (end - committed).max(0);
        }
        Ok(lag)
    }
}

/// A client of an endpoint's group, as a member or beside it.
struct Client(Consumer);

fn of_topics<'a>(topics: impl IntoIterator<Item = &'a String>, all: &Topics) -> Vec<TopicPartition> {
    let partitions = topics.into_iter().filter_map(|topic| Some((topic, all.get(topic)?)));
    let each = partitions.flat_map(|(topic, partitions)| {
        let topic: Arc<str> = topic.as_str().into();
        partitions
            .iter()
            .map(move |partition| TopicPartition { topic: Arc::clone(&topic), partition: *partition })
    });
    each.collect()
}

fn offsets(ends: Ends) -> Offsets {
    let mut offsets = Offsets::new();
    for (of, end) in ends {
        offsets.entry(of.topic.to_string()).or_default().insert(of.partition, end);
    }
    offsets
}
