//! The group's consumer: one client, one queue per assigned partition, polled by a thread of its own.
//!
//! Hides what rdkafka forces on its users: the callback that cannot reach its consumer, queues that must be split
//! before the assignment takes effect, and a wake-up that is known to get lost. Knows nothing of deliveries.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak, mpsc},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{
        BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol,
        base_consumer::PartitionQueue,
    },
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers as _},
    types::RDKafkaRespErr,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{
    ahead::{self, Ahead},
    client_config,
    statistics::{Membership, Statistics, Watch},
};
use crate::{
    config::settings::Kafka,
    metrics::{Metrics, broker},
    pipeline::{Headers, Record},
};

/// How long one poll of the main queue waits; also how late a stop is noticed.
const POLL: Duration = Duration::from_millis(100);
/// The same for a group that is one of many.
const SPARING_POLL: Duration = Duration::from_millis(500);
/// A split queue can miss its wake-up (rust-rdkafka issue 840), so an idle one is looked at this often.
const WATCHDOG: Duration = Duration::from_secs(1);
/// Longest wait of one look-up; whoever needs the answer asks again.
const LOOK_UP: Duration = Duration::from_secs(10);
/// The same where a rebalance waits for one look-up per partition.
const QUICK_LOOK_UP: Duration = Duration::from_secs(3);
/// A sparing client fetches no less than this ahead.
const LEAST_PREFETCH: usize = 64 << 10;
/// Brokers answer a fetch as soon as there is anything. But there is one fetch at a time to each: a partition that had
/// fetched all it may when the fetch was sent, or was assigned just after it, waits until it is answered, for nothing
/// when the other partitions are idle. In that time a busy one must not run out of what it has fetched ahead: three
/// quarters of 1 MiB last this long at 30 MiB/s.
const FETCH_WAIT: Duration = Duration::from_millis(25);
/// The most one fetch brings, of all partitions together. It is in memory until all of it has been read.
const FETCH_BYTES: usize = 2 << 20;
/// What all queues may read ahead together beyond what their client does: what a busy one delivers in [`FETCH_WAIT`], so
/// that it is never out of work while a fetch waits for the idle ones.
const AHEAD_BYTES: usize = 2 << 20;
/// As many records are read ahead at once, so that nobody else waits for it.
const AHEAD_AT_ONCE: usize = 64;
/// How often the client tells whether it is a member of its group …
const STATISTICS: Duration = Duration::from_secs(1);
/// … and in so many of these, how its brokers answer.
const BROKERS: u32 = 15;

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
}

/// How members of the group agree on who reads what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupProtocol {
    /// KIP-848: the brokers assign.
    Consumer,
    /// The older one, with the cooperative assignor.
    Classic,
}

/// What a client may use of memory and processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// There is one of it; so many bytes are fetched ahead per partition.
    Ample(usize),
    /// There may be many of it: it wakes up seldom, and a quarter of that is fetched ahead.
    Sparing(usize),
}

/// What happens with the assignment. Called on the polling thread, which may block; heart-beats go on meanwhile.
pub trait Rebalance: Send + Sync + 'static {
    /// Where to begin: an explicit offset for every partition. `None` gives up, because the process stops.
    fn positions(&self, consumer: &Consumer, partitions: &[TopicPartition]) -> Option<Vec<i64>>;
    /// The partitions are ours and their queues are split.
    fn assigned(&self, queues: Vec<Queue>);
    /// The partitions are taken away; when this returns nothing of them may be committed any more.
    fn revoked(&self, partitions: &[TopicPartition], lost: bool);
}

/// Why the consumer cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The brokers do not offer the KIP-848 protocol.
    #[error("the brokers do not offer the consumer group protocol (KIP-848)")]
    ProtocolUnsupported,
    /// Something that can never heal.
    #[error("the Kafka consumer cannot go on: {0}")]
    Fatal(String),
    /// The client could not be made: a property is wrong.
    #[error("the Kafka consumer cannot be made: {0}")]
    Create(#[source] KafkaError),
    /// The partition was taken away meanwhile.
    #[error("the partition was taken away")]
    Gone,
    /// Any other error of one call.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

impl Error {
    /// Was a commit refused because the member's epoch or generation is not the group's? It may still get through.
    pub fn is_stale(&self) -> bool {
        use RDKafkaErrorCode::{IllegalGeneration, RebalanceInProgress, StaleMemberEpoch};
        matches!(
            self,
            Self::Kafka(KafkaError::ConsumerCommit(
                IllegalGeneration | RebalanceInProgress | StaleMemberEpoch
            ))
        )
    }

    /// Was a commit refused because the group has gone on without this member? It never gets through.
    pub fn is_fenced(&self) -> bool {
        use RDKafkaErrorCode::{FencedInstanceId, FencedMemberEpoch, UnknownMemberId};
        matches!(
            self,
            Self::Kafka(KafkaError::ConsumerCommit(FencedInstanceId | FencedMemberEpoch | UnknownMemberId))
        )
    }
}

/// The group's consumer. Cheap to clone.
#[derive(Clone)]
pub struct Consumer(Arc<BaseConsumer<Context>>);

impl Consumer {
    /// Makes the client of the group that `kafka` names; joins nothing yet. How its brokers answer goes to `metrics`.
    pub fn new(
        kafka: &Kafka,
        protocol: GroupProtocol,
        budget: Budget,
        rebalance: Arc<dyn Rebalance>,
        metrics: Option<Metrics>,
    ) -> Result<Self, Error> {
        let context = Context {
            rebalance,
            watch: metrics.map(|metrics| Watch::new(metrics, broker::Client::Consumer, BROKERS)),
            consumer: OnceLock::new(),
            membership: Membership::none(),
            ahead: ahead::Budget::new(AHEAD_BYTES),
            restarts: Mutex::default(),
            poll: match budget {
                Budget::Ample(_) => POLL,
                Budget::Sparing(_) => SPARING_POLL,
            },
        };
        let config = config(kafka, protocol, budget);
        let consumer: BaseConsumer<Context> = config.create_with_context(context).map_err(Error::Create)?;
        let consumer = Arc::new(consumer);
        let known = consumer.context().consumer.set(Arc::downgrade(&consumer));
        assert!(known.is_ok(), "the consumer is made known to its context once");
        Ok(Self(consumer))
    }

    /// A client of a group that never joins it: it looks at the group's offsets, and sets them while the group has no
    /// members.
    pub fn bystander(kafka: &Kafka) -> Result<Self, Error> {
        Self::new(kafka, GroupProtocol::Classic, Budget::Sparing(0), Arc::new(Bystander), None)
    }

    /// Is the process a member of the group, with or without partitions, as far as the client knows?
    pub fn is_member(&self) -> bool {
        self.0.context().membership.holds()
    }

    /// Subscribes to exactly these topics, instead of those before. An empty list leaves the group.
    pub fn subscribe(&self, topics: &[String]) -> Result<(), Error> {
        if topics.is_empty() {
            self.0.unsubscribe();
            return Ok(());
        }
        Ok(self.0.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())?)
    }

    /// Serves the client's callbacks until stopped, and says so before each; blocks its thread.
    pub fn poll_until(&self, stop: &CancellationToken, polls: impl Fn()) -> Result<(), Error> {
        while !stop.is_cancelled() {
            polls();
            match self.0.poll(self.0.context().poll) {
                // Nothing is left in the queue, so no rebalance waits for its answer.
                None => self.serve_restarts(),
                // Queues are split before the assignment takes effect, so nothing should arrive here.
                Some(Ok(message)) if !stop.is_cancelled() => {
                    error!(
                        topic = message.topic(),
                        partition = message.partition(),
                        "record on the main queue"
                    );
                    return Err(Error::Fatal("a record arrived outside its partition's queue".to_owned()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => self.judge(&error)?,
            }
        }
        Ok(())
    }

    /// Leaves the group and closes the client; blocks its thread. Every queue must be gone.
    pub fn close(self) {
        self.0.unsubscribe();
        drop(self.0);
    }

    /// Commits and waits for the answer; blocks its thread.
    pub fn commit(&self, commits: &[(TopicPartition, i64, String)]) -> Result<(), Error> {
        let mut list = TopicPartitionList::with_capacity(commits.len());
        for (of, offset, metadata) in commits {
            let mut element = list.add_partition(&of.topic, of.partition);
            element.set_offset(Offset::Offset(*offset))?;
            element.set_metadata(metadata);
        }
        Ok(self.0.commit(&list, CommitMode::Sync)?)
    }

    /// The group's committed offsets and their metadata; `None` where there is none. Blocks its thread.
    pub fn committed(&self, of: &[TopicPartition]) -> Result<Vec<Option<(i64, String)>>, Error> {
        committed(&self.0, of)
    }

    /// The first and the end offset of a partition, as a reader of committed records sees them. Blocks its thread.
    pub fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), Error> {
        Ok(self.0.fetch_watermarks(&of.topic, of.partition, QUICK_LOOK_UP)?)
    }

    /// Goes on reading at an offset; what was fetched before is forgotten. Blocks its thread.
    pub fn seek(&self, of: &TopicPartition, offset: i64) -> Result<(), Error> {
        Ok(self.0.seek(&of.topic, of.partition, Offset::Offset(offset), LOOK_UP)?)
    }

    /// Begins anew at an offset, also when the client gave the partition up because its position was not in the log:
    /// it refuses to seek then, and only an assignment makes it fetch again. That is left to the polling thread, for
    /// while a rebalance waits for its answer the client would take it for that. The partition's queue stays the same.
    /// Blocks its thread, until `stop` at the longest.
    pub fn restart(&self, of: &TopicPartition, offset: i64, stop: &CancellationToken) -> Result<(), Error> {
        self.resume(of)?;
        if self.seek(of, offset).is_ok() {
            return Ok(());
        }
        let (done, answer) = mpsc::sync_channel(1);
        let restart = Restart { of: of.clone(), offset, stop: stop.clone(), done };
        self.0.context().restarts().push(restart);
        while !stop.is_cancelled() {
            match answer.recv_timeout(POLL) {
                Ok(done) => return Ok(done?),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        Err(Error::Gone)
    }

    fn serve_restarts(&self) {
        let restarts = std::mem::take(&mut *self.0.context().restarts());
        for Restart { of, offset, stop, done } in restarts {
            if stop.is_cancelled() {
                continue;
            }
            let restarted = self.assign_again(&of, offset);
            if done.send(restarted).is_err() {
                warn!(topic = %of.topic, partition = of.partition, "nobody waits for this partition any more");
            }
        }
    }

    fn assign_again(&self, of: &TopicPartition, offset: i64) -> Result<(), KafkaError> {
        // Refused when the partition is not ours any more.
        self.0.incremental_unassign(&one(of))?;
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&of.topic, of.partition, Offset::Offset(offset))?;
        self.0.incremental_assign(&list)
    }

    /// One more than the offset of the last thing that was taken out of the partition's queue: a record, or one of
    /// the control records that are never shown. `None` when nothing was.
    pub fn position(&self, of: &TopicPartition) -> Result<Option<i64>, Error> {
        let positions = self.0.position()?;
        let position = positions.find_partition(&of.topic, of.partition).map(|element| element.offset());
        Ok(match position {
            Some(Offset::Offset(offset)) => Some(offset),
            _ => None,
        })
    }

    /// Stops fetching a partition and forgets what was fetched: for long waits only.
    pub fn pause(&self, of: &TopicPartition) -> Result<(), Error> {
        Ok(self.0.pause(&one(of))?)
    }

    /// Fetches a paused partition again.
    pub fn resume(&self, of: &TopicPartition) -> Result<(), Error> {
        Ok(self.0.resume(&one(of))?)
    }

    fn judge(&self, error: &KafkaError) -> Result<(), Error> {
        if let Some((code, reason)) = self.0.client().fatal_error() {
            return Err(match code {
                RDKafkaErrorCode::UnsupportedVersion | RDKafkaErrorCode::UnsupportedFeature => {
                    Error::ProtocolUnsupported
                }
                _ => Error::Fatal(reason),
            });
        }
        if let Some(RDKafkaErrorCode::GroupAuthorizationFailed) = error.rdkafka_error_code() {
            warn!(%error, "the group may not be joined with these credentials");
        } else {
            warn!(%error, "kafka consumer error");
        }
        Ok(())
    }
}

/// Everything set here the commit logic relies on; the configuration refuses these keys.
fn config(kafka: &Kafka, protocol: GroupProtocol, budget: Budget) -> ClientConfig {
    let mut config = client_config(kafka);
    let prefetch = match budget {
        Budget::Ample(prefetch) => prefetch,
        Budget::Sparing(prefetch) => (prefetch / 4).max(LEAST_PREFETCH),
    };
    config
        .set("group.id", &kafka.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Every start position is given explicitly; one that is not in the log is an event, not a guess.
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        // Per partition, because each has a queue of its own. A fetch that arrives while the queue is just below its
        // bound adds to it; both together are what is asked for. The bound is the larger part by far: a queue that is
        // at it when the next fetch is sent has to last until that is answered ([`FETCH_WAIT`]).
        .set("queued.max.messages.kbytes", (prefetch * 3 / 4 / 1024).max(1).to_string())
        .set("queued.min.messages", "10000")
        .set("fetch.message.max.bytes", (prefetch / 4).clamp(1024, 1_000_000_000).to_string())
        // Raised by the client where a message may be larger.
        .set("fetch.max.bytes", prefetch.clamp(FETCH_BYTES, 1_000_000_000).to_string())
        // A full queue is looked at again this soon; the default of one second saws (librdkafka issue 3662).
        .set("fetch.queue.backoff.ms", "20")
        .set("statistics.interval.ms", STATISTICS.as_millis().to_string());
    if config.get("fetch.wait.max.ms").is_none() {
        config.set("fetch.wait.max.ms", FETCH_WAIT.as_millis().to_string());
    }
    if matches!(budget, Budget::Sparing(_)) {
        config
            // Nobody asks it whether it is a member.
            .set("statistics.interval.ms", "0")
            // Brokers answer a fetch as soon as there is anything; without, only this often.
            .set("fetch.wait.max.ms", "1000")
            .set("fetch.queue.backoff.ms", "100");
    }
    match protocol {
        GroupProtocol::Consumer => config.set("group.protocol", "consumer"),
        GroupProtocol::Classic => {
            config.set("group.protocol", "classic").set("partition.assignment.strategy", "cooperative-sticky")
        }
    };
    config
}

/// See [`Consumer::committed`]; for any consumer of the group.
pub(super) fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    of: &[TopicPartition],
) -> Result<Vec<Option<(i64, String)>>, Error> {
    let mut list = TopicPartitionList::with_capacity(of.len());
    for one in of {
        list.add_partition(&one.topic, one.partition);
    }
    let answer = consumer.committed_offsets(list, LOOK_UP)?;
    let position = |one: &TopicPartition| match answer.find_partition(&one.topic, one.partition) {
        Some(element) => {
            element.error()?;
            // rdkafka panics on metadata that is not UTF-8; foreign metadata is as good as none.
            let metadata =
                catch_unwind(AssertUnwindSafe(|| element.metadata().to_owned())).unwrap_or_default();
            Ok(match element.offset() {
                Offset::Offset(offset) => Some((offset, metadata)),
                _ => None,
            })
        }
        None => Ok(None),
    };
    of.iter().map(position).collect()
}

fn one(of: &TopicPartition) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition(&of.topic, of.partition);
    list
}

/// What a queue has next.
#[derive(Debug)]
pub enum Next {
    /// A record.
    Record(Record),
    /// The position is not in the log any more.
    OutOfRange,
    /// The log was truncated below the position.
    Truncated,
}

/// One assigned partition's records.
pub struct Queue {
    /// The partition.
    pub of: TopicPartition,
    /// Where it begins.
    pub position: i64,
    /// The consumer it belongs to.
    pub consumer: Consumer,
    queue: PartitionQueue<Context>,
    /// What was taken out of it already.
    ahead: Ahead<Next>,
    filled: Arc<Notify>,
    names: Vec<Arc<str>>,
}

impl Queue {
    /// What comes next; `None` when nothing came for a while. Cancel-safe.
    pub async fn next(&mut self) -> Option<Next> {
        loop {
            if let Some(next) = self.try_next() {
                return Some(next);
            }
            if tokio::time::timeout(WATCHDOG, self.filled.notified()).await.is_err() {
                return self.try_next();
            }
        }
    }

    /// What is there at once.
    pub fn try_next(&mut self) -> Option<Next> {
        self.ahead.pop().or_else(|| self.take())
    }

    /// Takes out of the client what there is, up to the first that is not `wanted` yet. The client fetches on then: it
    /// leaves a partition out of a fetch while it holds much of it, and that fetch may wait for all others in vain.
    pub fn read_ahead(&mut self, wanted: impl Fn(&Record) -> bool) {
        let goes_on = |last: &Next| matches!(last, Next::Record(record) if wanted(record));
        for _ in 0..AHEAD_AT_ONCE {
            if !self.ahead.has_room() || !self.ahead.last().is_none_or(goes_on) {
                return;
            }
            let Some(next) = self.take() else { return };
            let size = if let Next::Record(record) = &next { record.size() } else { 1 };
            self.ahead.push(next, size);
        }
    }

    /// Forgets what was read ahead: the partition begins anew somewhere else.
    pub fn forget(&mut self) {
        self.ahead.clear();
    }

    fn take(&mut self) -> Option<Next> {
        loop {
            return Some(match self.queue.poll(Duration::ZERO)? {
                Ok(message) => Next::Record(copy(&message, &self.of.topic, &mut self.names)),
                Err(error) => match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                        Next::OutOfRange
                    }
                    Some(RDKafkaErrorCode::LogTruncation) => Next::Truncated,
                    _ => {
                        warn!(topic = %self.of.topic, partition = self.of.partition, %error, "partition cannot be read");
                        continue;
                    }
                },
            });
        }
    }
}

/// Copies a record out of the client's buffer: one allocation for all its bytes.
pub(crate) fn copy(message: &BorrowedMessage<'_>, topic: &Arc<str>, names: &mut Vec<Arc<str>>) -> Record {
    let mut headers: Vec<(Arc<str>, Option<&[u8]>)> = Vec::new();
    let theirs = message.headers();
    for (index, theirs) in
        theirs.iter().flat_map(|theirs| (0..theirs.count()).map(move |index| (index, theirs)))
    {
        // rdkafka panics on a header name that is not UTF-8, which no well-behaved producer can write.
        match catch_unwind(AssertUnwindSafe(|| theirs.get(index))) {
            Ok(header) => headers.push((intern(names, index, header.key), header.value)),
            Err(_) => {
                warn!(%topic, offset = message.offset(), index, "header without a readable name left out")
            }
        }
    }
    let size = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    let total = size(message.key())
        + size(message.payload())
        + headers.iter().map(|(_, value)| size(*value)).sum::<usize>();
    let mut buffer = BytesMut::with_capacity(total);
    let mut take = |bytes: Option<&[u8]>| -> Option<Bytes> {
        bytes.map(|bytes| {
            buffer.extend_from_slice(bytes);
            buffer.split().freeze()
        })
    };
    Record {
        topic: Arc::clone(topic),
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or(-1),
        key: take(message.key()),
        value: take(message.payload()),
        headers: Headers(headers.into_iter().map(|(name, value)| (name, take(value))).collect()),
    }
}

/// Header names repeat from record to record, mostly at the same place, so the latest are kept.
pub(crate) fn intern(names: &mut Vec<Arc<str>>, place: usize, name: &str) -> Arc<str> {
    /// More names than most producers use; odd records push the oldest out.
    const KEPT: usize = 32;
    let same = |known: &&Arc<str>| &***known == name;
    if let Some(known) = names.get(place).filter(same).or_else(|| names.iter().find(same)) {
        return Arc::clone(known);
    }
    if names.len() == KEPT {
        names.remove(0);
    }
    let name: Arc<str> = name.into();
    names.push(Arc::clone(&name));
    name
}

/// Nothing is ever assigned to who does not subscribe.
struct Bystander;

impl Rebalance for Bystander {
    fn positions(&self, _: &Consumer, _: &[TopicPartition]) -> Option<Vec<i64>> {
        None
    }

    fn assigned(&self, _: Vec<Queue>) {}

    fn revoked(&self, _: &[TopicPartition], _: bool) {}
}

/// What rdkafka calls back into.
struct Context {
    rebalance: Arc<dyn Rebalance>,
    watch: Option<Watch>,
    consumer: OnceLock<Weak<BaseConsumer<Self>>>,
    membership: Membership,
    ahead: ahead::Budget,
    /// Partitions to begin anew, for the polling thread.
    restarts: Mutex<Vec<Restart>>,
    poll: Duration,
}

struct Restart {
    of: TopicPartition,
    offset: i64,
    /// Cancelled when the partition is taken away.
    stop: CancellationToken,
    done: mpsc::SyncSender<Result<(), KafkaError>>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::Context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        super::Context.error(error, reason);
    }

    fn stats_raw(&self, json: &[u8]) {
        let Some(told) = Statistics::read(json) else { return };
        if let Some(member) = told.is_member() {
            self.membership.told(member);
        }
        self.watch.iter().for_each(|watch| watch.take_in(&told));
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, base: &BaseConsumer<Self>, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<TopicPartition> = list
            .elements()
            .iter()
            .map(|element| TopicPartition { topic: element.topic().into(), partition: element.partition() })
            .collect();
        let done = if kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assign(base, list, &partitions)
        } else {
            self.rebalance.revoked(&partitions, base.assignment_lost());
            match base.rebalance_protocol() {
                RebalanceProtocol::Cooperative => base.incremental_unassign(list),
                RebalanceProtocol::Eager | RebalanceProtocol::None => base.unassign(),
            }
        };
        if let Err(error) = done {
            error!(%error, "the assignment could not be changed");
        }
    }
}

impl Context {
    fn restarts(&self) -> MutexGuard<'_, Vec<Restart>> {
        self.restarts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn assign(
        &self,
        base: &BaseConsumer<Self>,
        list: &mut TopicPartitionList,
        partitions: &[TopicPartition],
    ) -> Result<(), KafkaError> {
        let consumer = self.consumer.get().and_then(Weak::upgrade).map(Consumer);
        let positions = consumer.as_ref().and_then(|consumer| self.rebalance.positions(consumer, partitions));
        let mut queues = Vec::with_capacity(partitions.len());
        if let (Some(consumer), Some(positions)) = (&consumer, positions) {
            for (of, position) in partitions.iter().zip(positions) {
                if let Some(mut element) = list.find_partition(&of.topic, of.partition) {
                    element.set_offset(Offset::Offset(position))?;
                }
                // Before the assignment takes effect: nothing can reach the main queue in between.
                queues.extend(split(consumer, of, position));
            }
        }
        // A pause outlives the assignment it was made in.
        base.resume(list)?;
        match base.rebalance_protocol() {
            RebalanceProtocol::Cooperative => base.incremental_assign(list)?,
            RebalanceProtocol::Eager | RebalanceProtocol::None => base.assign(list)?,
        }
        self.membership.assigned();
        self.rebalance.assigned(queues);
        Ok(())
    }
}

fn split(consumer: &Consumer, of: &TopicPartition, position: i64) -> Option<Queue> {
    let mut queue = consumer.0.split_partition_queue(&of.topic, of.partition)?;
    let filled = Arc::new(Notify::new());
    let wake = Arc::clone(&filled);
    queue.set_nonempty_callback(move || wake.notify_one());
    let (of, consumer, ahead) =
        (of.clone(), consumer.clone(), Ahead::new(consumer.0.context().ahead.clone()));
    Some(Queue { of, position, consumer, queue, ahead, filled, names: Vec::new() })
}

#[cfg(test)]
mod tests {
    use rdkafka::{
        mocking::MockCluster,
        producer::{BaseProducer, BaseRecord, Producer as _},
    };

    use super::*;
    use crate::config::settings::{Protocol, Start};

    /// Passes on what is assigned; reading begins at offset 0.
    struct Beginner(mpsc::SyncSender<Queue>);

    impl Rebalance for Beginner {
        fn positions(&self, _: &Consumer, partitions: &[TopicPartition]) -> Option<Vec<i64>> {
            Some(vec![0; partitions.len()])
        }

        fn assigned(&self, queues: Vec<Queue>) {
            queues.into_iter().for_each(|queue| self.0.send(queue).unwrap());
        }

        fn revoked(&self, _: &[TopicPartition], _: bool) {}
    }

    async fn offset(queue: &mut Queue) -> i64 {
        loop {
            match queue.next().await {
                Some(Next::Record(record)) => return record.offset,
                Some(other) => panic!("{other:?} instead of a record"),
                None => {}
            }
        }
    }

    #[test]
    fn what_is_read_ahead_comes_in_order_and_is_forgotten_by_who_begins_anew() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("tier", 1, 1).unwrap();
        let brokers = cluster.bootstrap_servers();
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
        for _ in 0..300 {
            let record = BaseRecord::<[u8], [u8]>::to("tier").payload(b"x");
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(Duration::from_secs(30)).unwrap();
        let kafka = Kafka {
            brokers,
            group: "ahead".to_owned(),
            topics: Vec::new(),
            start: Start::Earliest,
            protocol: Protocol::Auto,
            properties: Vec::new(),
        };
        let (give, given) = mpsc::sync_channel(1);
        let ample = Budget::Ample(1 << 20);
        let consumer =
            Consumer::new(&kafka, GroupProtocol::Classic, ample, Arc::new(Beginner(give)), None).unwrap();
        consumer.subscribe(&["tier".to_owned()]).unwrap();
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        std::thread::scope(|scope| {
            let polling = scope.spawn(|| consumer.poll_until(&stop, || {}));
            let stopping = stop.clone().drop_guard();
            let mut queue = given.recv_timeout(Duration::from_secs(30)).unwrap();
            let read = async {
                // Up to one that is not wanted yet, in more than one go.
                let held = loop {
                    queue.read_ahead(|record| record.offset < 99);
                    if queue.ahead.len() == 100 {
                        break queue.ahead.len();
                    }
                    tokio::task::yield_now().await;
                };
                queue.read_ahead(|record| record.offset < 99);
                assert_eq!(queue.ahead.len(), held, "nothing is read beyond it");
                for expected in 0..150 {
                    assert_eq!(offset(&mut queue).await, expected);
                }
                queue.read_ahead(|_| true);
                let (of, stop) = (queue.of.clone(), CancellationToken::new());
                queue.forget();
                consumer.restart(&of, 10, &stop).unwrap();
                for expected in 10..300 {
                    queue.read_ahead(|_| true);
                    assert_eq!(offset(&mut queue).await, expected);
                }
            };
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), read).await }).unwrap();
            drop((queue, stopping));
            polling.join().unwrap().unwrap();
        });
        consumer.close();
    }
}
