//! Where reading begins: the state topic, start records, and what to do when the log changed under us.
//!
//! Everything here blocks its thread and runs on threads of its own, never on a runtime worker.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    ledger::metadata::{self, Position},
    markers::Markers,
    own::{MovedOut, Reads},
    state::{self, Entry, State},
    switches::{self, Switches},
};
use crate::{
    app::tasks::Tasks,
    config::settings,
    kafka::{
        consumer::{self, Consumer, TopicPartition},
        observer::{Followed, Observer},
        producer::{Outgoing, Producer},
        topics::{notices_topic, parse_tier, state_topic},
    },
    metrics::{Metrics, Reset},
};

mod marks;
mod queues;

/// Between tries of what the brokers did not answer.
const BACKOFF: Duration = Duration::from_millis(500);
/// Longest wait for the state topic to be read, or for a record of ours to come back.
const STATE_DEADLINE: Duration = Duration::from_secs(60);
/// One look at the state topic.
const LOOK: Duration = Duration::from_millis(50);

/// Why reading must not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two groups cannot share retry topics.
    #[error(
        "the topics {prefix:?}.* belong to the group {owner:?}, this is the group {group:?}; give it a prefix of its own (topics.prefix)"
    )]
    Owned {
        /// The prefix.
        prefix: String,
        /// Whose it is.
        owner: String,
        /// Who we are.
        group: String,
    },
    /// The group's offsets are gone.
    #[error(
        "the group {group:?} has read before, but the brokers have none of its offsets any more (they expire when a group stands still); decide where it goes on with: arauto offsets --reset earliest|latest|TIME"
    )]
    Expired {
        /// The group.
        group: String,
    },
    /// The brokers do not answer.
    #[error("the state topic cannot be read: {0}")]
    State(String),
    /// Kafka.
    #[error(transparent)]
    Kafka(#[from] consumer::Error),
}

/// Where one partition begins.
#[derive(Debug)]
pub struct Start {
    /// The position.
    pub position: Position,
    /// Was a position committed and noted down before?
    pub begun: bool,
}

/// What a [`Positions`] is made of.
pub struct Options {
    /// Prefix of our topics.
    pub prefix: String,
    /// Our group.
    pub group: String,
    /// Where a new group begins.
    pub start: settings::Start,
    /// A client beside the group's consumer.
    pub observer: Observer,
    /// Writes state records.
    pub producer: Producer,
    /// Takes in what the state topic says of endpoints.
    pub switches: Switches,
    /// Takes in what it says of that which waits on tiers.
    pub markers: Markers,
    /// The runtime that state records are sent on.
    pub runtime: Handle,
    /// Where work is spawned.
    pub tasks: Tasks,
    /// Where resets are counted.
    pub metrics: Metrics,
    /// Called while brokers are asked again and again where to begin, which the polling thread waits for.
    pub alive: Box<dyn Fn() + Send + Sync>,
    /// Cancelled when the process stops.
    pub stop: CancellationToken,
}

/// Knows the state topic and decides where reading begins.
pub struct Positions {
    options: Options,
    state: Mutex<State>,
    /// Held while the state topic is looked at, until what was found is taken in.
    looking: Mutex<()>,
    moved_out: RwLock<Arc<MovedOut>>,
}

impl Positions {
    /// Nothing is known yet.
    pub fn new(options: Options) -> Self {
        Self { options, state: Mutex::default(), looking: Mutex::default(), moved_out: RwLock::default() }
    }

    /// Reads the state topic fully and claims the prefix for our group.
    pub fn load(&self) -> Result<(), Error> {
        self.options.observer.follow(&state_topic(&self.options.prefix))?;
        self.read_until("be read to its end", |_, at_end| at_end)?;
        if self.state().owner().is_none() {
            self.write(state::owner(&self.options.group));
            self.read_until("tell the owner", |state, _| state.owner().is_some())?;
        }
        match self.state().owner() {
            Some(owner) if owner != self.options.group => Err(Error::Owned {
                prefix: self.options.prefix.clone(),
                owner: owner.to_owned(),
                group: self.options.group.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Takes in what is new on the state topic; blocks for a moment at most.
    pub fn follow(&self) {
        while !self.options.stop.is_cancelled() {
            match self.look() {
                Followed::Entry(_) => {}
                Followed::Trouble(trouble) => return debug!(error = %trouble, "state topic not readable now"),
                Followed::Nothing | Followed::End => return,
            }
        }
    }

    /// Writes the start record of every source topic that has none.
    pub fn ensure_starts(&self, topics: &BTreeMap<String, Vec<i32>>) -> Result<(), Error> {
        for (topic, partitions) in topics {
            if self.state().has_start(topic) {
                continue;
            }
            let is_notices = *topic == notices_topic(&self.options.prefix);
            let mut offsets = BTreeMap::new();
            for partition in partitions {
                let of = TopicPartition { topic: topic.as_str().into(), partition: *partition };
                let (low, high) = self.options.observer.watermarks(&of)?;
                offsets.insert(
                    *partition,
                    match self.options.start {
                        // What was told before anybody listened is no news any more.
                        _ if is_notices => high,
                        settings::Start::Earliest => low,
                        settings::Start::Latest => high,
                    },
                );
            }
            info!(%topic, ?offsets, "first sight of a source topic, its start is noted down");
            self.write(state::start(topic, &offsets));
            // Ours too, not only that of another instance that looked at the same time: the lower one counts.
            let known = |state: &State, (partition, offset): (&i32, &i64)| {
                state.start(topic, *partition).is_some_and(|start| start <= *offset)
            };
            self.read_until("tell the start of a topic", |state, _| {
                offsets.iter().all(|one| known(state, one))
            })?;
        }
        Ok(())
    }

    /// Refuses to go on when the group has read before and none of its offsets is left.
    pub fn check_not_expired(&self, partitions: &[TopicPartition]) -> Result<(), Error> {
        let begun = partitions.iter().any(|of| self.state().is_begun(&of.topic, of.partition));
        if !begun {
            return Ok(());
        }
        let committed = self.options.observer.committed(partitions)?;
        if committed.iter().any(Option::is_some) {
            return Ok(());
        }
        Err(Error::Expired { group: self.options.group.clone() })
    }

    /// Where assigned partitions begin; asks until the brokers answer, `None` when the process stops meanwhile.
    pub fn starts(
        &self,
        consumer: &Consumer,
        partitions: &[TopicPartition],
        reads: &Reads,
    ) -> Option<Vec<Start>> {
        loop {
            (self.options.alive)();
            match self.try_starts(consumer, partitions, reads) {
                Ok(starts) => return Some(starts),
                Err(_) if self.options.stop.is_cancelled() => return None,
                Err(trouble) => warn!(error = %trouble, "start positions unknown yet, asking again"),
            }
            std::thread::sleep(BACKOFF);
        }
    }

    /// Where a partition goes on whose position is not in the log any more, or whose log is another one.
    pub fn after_reset(&self, consumer: &Consumer, of: &TopicPartition, read_up_to: i64) -> Option<i64> {
        loop {
            (self.options.alive)();
            match consumer.watermarks(of) {
                Ok((low, high)) => {
                    let why = if read_up_to < low { Reset::OutOfRange } else { Reset::Truncated };
                    return Some(self.reset(of, read_up_to, (low, high), why));
                }
                Err(_) if self.options.stop.is_cancelled() => return None,
                Err(trouble) => warn!(error = %trouble, "the log's bounds are unknown yet, asking again"),
            }
            std::thread::sleep(BACKOFF);
        }
    }

    /// Notes down that a partition's position has been committed; does not block.
    pub fn note_begun(self: &Arc<Self>, of: &TopicPartition) {
        let entry = state::begun(&of.topic, of.partition);
        self.state().apply(&entry.key, Some(&entry.value));
        let positions = Arc::clone(self);
        self.options.tasks.spawn_blocking("note begun", move || positions.write(entry));
    }

    fn try_starts(
        &self,
        consumer: &Consumer,
        partitions: &[TopicPartition],
        reads: &Reads,
    ) -> Result<Vec<Start>, consumer::Error> {
        let committed = consumer.committed(partitions)?;
        let mut starts = Vec::with_capacity(partitions.len());
        for (of, committed) in partitions.iter().zip(committed) {
            (self.options.alive)();
            // One partition without a leader must not keep the others waiting; when it can be read, a position that
            // is not in its log shows.
            let bounds = consumer.watermarks(of).inspect_err(|error| {
                warn!(topic = %of.topic, partition = of.partition, %error, "bounds of the log unknown");
            });
            let begun = self.state().is_begun(&of.topic, of.partition);
            let position = match committed {
                Some((offset, metadata)) => self.committed_start(of, offset, &metadata, bounds.ok()),
                // Of an own group nothing is noted down; that its partition is another one now, the main group shows.
                None if begun && reads.is_own() => {
                    let main = self.options.observer.committed(std::slice::from_ref(of))?;
                    let recreated = main.iter().all(Option::is_none);
                    Position::at(self.first_start(of, recreated, bounds.ok()))
                }
                None => Position::at(self.first_start(of, begun, bounds.ok())),
            };
            debug!(topic = %of.topic, partition = of.partition, ?position, "start position");
            starts.push(Start { position, begun: begun || reads.is_own() });
        }
        Ok(starts)
    }

    fn committed_start(
        &self,
        of: &TopicPartition,
        offset: i64,
        metadata: &str,
        bounds: Option<(i64, i64)>,
    ) -> Position {
        let decoded = metadata::decode(offset, metadata).unwrap_or(Position::at(offset));
        match bounds {
            None => decoded,
            Some((low, high)) if offset < low => {
                Position::at(self.reset(of, offset, (low, high), Reset::OutOfRange))
            }
            Some((low, high)) if offset > high => {
                Position::at(self.reset(of, offset, (low, high), Reset::Truncated))
            }
            // A horizon beyond the log's end belongs to another log.
            Some((_, high)) if decoded.horizon > high => Position::at(offset),
            Some(_) => decoded,
        }
    }

    fn first_start(&self, of: &TopicPartition, begun: bool, bounds: Option<(i64, i64)>) -> i64 {
        let tier = parse_tier(&self.options.prefix, &of.topic).is_some();
        let start = self.state().start(&of.topic, of.partition).filter(|_| !tier && !begun);
        let Some((low, high)) = bounds else { return start.unwrap_or(0) };
        if !tier && begun {
            // The brokers forget a topic's offsets when it is deleted: this is another topic of the same name.
            return self.reset(of, low, (low, high), Reset::Recreated);
        }
        match start {
            Some(start) if start < low => self.reset(of, start, (low, high), Reset::OutOfRange),
            Some(start) if start > high => self.reset(of, start, (low, high), Reset::Recreated),
            Some(start) => start,
            None => low,
        }
    }

    /// A new life begins at the log's start: nothing that is there is passed over.
    fn reset(&self, of: &TopicPartition, position: i64, (low, high): (i64, i64), why: Reset) -> i64 {
        let lost = u64::try_from(low - position).unwrap_or(0);
        let TopicPartition { topic, partition } = of;
        error!(%topic, partition, position, low, high, lost, ?why, "the log changed under us, reading goes on at its start");
        self.options.metrics.partition_reset(why);
        self.options.metrics.topic(topic).lost(lost);
        low
    }

    fn read_until(&self, what: &str, done: impl Fn(&State, bool) -> bool) -> Result<(), Error> {
        let deadline = Instant::now() + STATE_DEADLINE;
        let mut at_end = false;
        let mut last_trouble = None;
        while !done(&self.state(), at_end) {
            match self.look() {
                Followed::Entry(_) => {}
                Followed::End => at_end = true,
                Followed::Trouble(trouble) => last_trouble = Some(trouble.to_string()),
                Followed::Nothing => {}
            }
            if self.options.stop.is_cancelled() || Instant::now() > deadline {
                let trouble = last_trouble.unwrap_or_else(|| "no answer".to_owned());
                return Err(Error::State(format!("it did not {what}: {trouble}")));
            }
        }
        Ok(())
    }

    /// One look at the state topic. Nobody else looks before what was found is known: so the client's position is never
    /// ahead of that.
    fn look(&self) -> Followed {
        let mut again = None;
        let followed = {
            let _alone = self.looking();
            let followed = self.options.observer.next(LOOK);
            if let Followed::Entry((key, value)) = &followed {
                again = self.take(key, value.as_deref());
            }
            followed
        };
        again.into_iter().for_each(|entry| self.write(entry));
        followed
    }

    /// Takes in one record; returns what has to be written again.
    fn take(&self, key: &str, value: Option<&[u8]>) -> Option<Entry> {
        self.options.markers.take_in(key, value);
        let again = self.options.switches.take_in(key, value);
        again.or_else(|| {
            let mut state = self.state();
            let again = state.apply(key, value);
            if Self::is_queue(key) {
                self.see_queues(&state);
            }
            again
        })
    }

    fn write(&self, entry: Entry) {
        self.send(&switches::record(&state_topic(&self.options.prefix), entry));
    }

    /// Writes a state record, for as long as it takes.
    fn send(&self, record: &Outgoing) {
        while let Err(trouble) = self.options.runtime.block_on(self.options.producer.send(record)) {
            if self.options.stop.is_cancelled() {
                return;
            }
            warn!(topic = %record.topic, error = %trouble, "state record not written, trying again");
            std::thread::sleep(BACKOFF);
        }
    }

    fn looking(&self) -> MutexGuard<'_, ()> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shared by the poll thread, the commit loop and the observer.
pub type Shared = Arc<Positions>;
