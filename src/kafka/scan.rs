//! Reads given stretches of topics once, for commands: no group is joined, nothing is committed, and it ends.
//!
//! Records are shown borrowed from the client's buffer, so that whoever looks for a few among millions copies only
//! those. What is fetched ahead is bounded, whatever the number of partitions. Every call blocks its thread.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers as _},
};
use tokio::time::Instant;

use super::{
    Context, client_config,
    consumer::{TopicPartition, copy, intern},
};
use crate::{config::settings::Kafka, pipeline::Record};

/// Longest wait of one look-up.
const LOOK_UP: Duration = Duration::from_secs(15);
/// Longest wait of one poll; also how often a caller hears that nothing came.
const POLL: Duration = Duration::from_millis(100);
/// A stretch that should have records is given up when none came for so long: a failed-over leader is back by then.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes fetched ahead, for all partitions together.
const PREFETCH: usize = 32 << 20;
/// Bytes of one partition in one answer: small enough that many partitions share what is fetched ahead.
const FETCH: usize = 2 << 20;

/// Why a topic cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client could not be made: a property is wrong.
    #[error("the Kafka client cannot be made (kafka.properties): {0}")]
    Create(#[source] KafkaError),
    /// The brokers did not answer.
    #[error("the brokers do not answer (kafka.brokers): {0}")]
    Unreachable(#[source] KafkaError),
    /// One partition's offsets are not to be had.
    #[error("the offsets of {topic}:{partition} cannot be looked up: {error}")]
    LookUp {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// What the brokers said.
        #[source]
        error: KafkaError,
    },
    /// The log is shorter than the stretch: it was truncated, or the topic made anew.
    #[error("{topic}:{partition} ends at offset {end}, before {to}: was the topic made anew?")]
    Short {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// Where it ends.
        end: i64,
        /// Where it should have been read to.
        to: i64,
    },
    /// Nothing came for long, although more is to come.
    #[error("{topic}:{partition} could be read to offset {at} only, not to {to}: {trouble}")]
    Stalled {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// How far it was read.
        at: i64,
        /// Where it should have been read to.
        to: i64,
        /// The last that went wrong.
        trouble: String,
    },
    /// Reading is not allowed, or the client is broken.
    #[error("the topic cannot be read: {0}")]
    Refused(#[source] KafkaError),
}

/// A stretch of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The first offset that is read.
    pub from: i64,
    /// The first offset that is not read any more; [`Span::FOREVER`] follows what comes.
    pub to: i64,
}

impl Span {
    /// An end that is never reached.
    pub const FOREVER: i64 = i64::MAX;

    /// How many offsets it covers: as many records at most.
    pub fn len(&self) -> u64 {
        u64::try_from(self.to.saturating_sub(self.from)).unwrap_or(0)
    }

    /// Is there nothing in it?
    pub fn is_empty(&self) -> bool {
        self.from >= self.to
    }

    /// Its partition.
    pub fn of(&self) -> TopicPartition {
        TopicPartition { topic: Arc::clone(&self.topic), partition: self.partition }
    }
}

/// A client that reads without being a member of a group.
pub struct Scanner(BaseConsumer<Context>);

impl Scanner {
    /// Makes the client; the brokers are asked later.
    pub fn new(kafka: &Kafka) -> Result<Self, Error> {
        let mut config = client_config(kafka);
        config
            // The client wants a name, although the group is neither joined nor committed to.
            .set("group.id", &kafka.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            // Retention may remove the front while it is read; then it goes on at what is left.
            .set("auto.offset.reset", "earliest")
            // One queue for all partitions, so this bounds them all.
            .set("queued.max.messages.kbytes", (PREFETCH / 1024).to_string())
            .set("fetch.message.max.bytes", FETCH.to_string())
            .set("fetch.max.bytes", PREFETCH.to_string())
            // A full queue is looked at again this soon; the default of one second saws (librdkafka issue 3662).
            .set("fetch.queue.backoff.ms", "10");
        if config.get("fetch.wait.max.ms").is_none() {
            config.set("fetch.wait.max.ms", "100");
        }
        config.create_with_context(Context).map(Self).map_err(Error::Create)
    }

    /// Every topic there is with the numbers of its partitions. All are asked for at once: brokers that make topics by
    /// themselves would take a question about one for a wish.
    pub fn topics(&self) -> Result<BTreeMap<String, Vec<i32>>, Error> {
        let metadata = self.0.fetch_metadata(None, LOOK_UP).map_err(Error::Unreachable)?;
        let readable = metadata.topics().iter().filter(|topic| topic.error().is_none());
        let partitions = |topic: &rdkafka::metadata::MetadataTopic| {
            let mut partitions: Vec<i32> = topic.partitions().iter().map(|p| p.id()).collect();
            partitions.sort_unstable();
            partitions
        };
        Ok(readable.map(|topic| (topic.name().to_owned(), partitions(topic))).collect())
    }

    /// The first offset of a partition and the end of what can be read: that of the oldest transaction under way.
    pub fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), Error> {
        self.0.fetch_watermarks(&of.topic, of.partition, LOOK_UP).map_err(|error| look_up(of, error))
    }

    /// The first offset at or after a time (unix milliseconds): all records before it are older. The end when there is
    /// none.
    pub fn offset_at(&self, of: &TopicPartition, millis: i64) -> Result<i64, Error> {
        let ask = || {
            let mut list = TopicPartitionList::with_capacity(1);
            // Negative ones would have a meaning of their own.
            list.add_partition_offset(&of.topic, of.partition, Offset::Offset(millis.max(0)))?;
            self.0.offsets_for_times(list, LOOK_UP)
        };
        let answer = ask().map_err(|error| look_up(of, error))?;
        match answer.elements().first().map(|element| element.offset()) {
            Some(Offset::Offset(offset)) => Ok(offset),
            _ => Ok(self.watermarks(of)?.1),
        }
    }

    /// Begins to read stretches, at most one of a partition. What retention has removed of them is passed over.
    pub fn begin<'s>(&'s mut self, spans: &[Span]) -> Result<Reading<'s>, Error> {
        let mut unread = Vec::with_capacity(spans.len());
        for span in spans.iter().filter(|span| !span.is_empty()) {
            let (first, end) = self.watermarks(&span.of())?;
            if span.to != Span::FOREVER && end < span.to {
                let topic = Arc::clone(&span.topic);
                return Err(Error::Short { topic, partition: span.partition, end, to: span.to });
            }
            let span = Span { from: span.from.max(first), ..span.clone() };
            unread.extend((!span.is_empty()).then_some(span));
        }
        let consumer = &self.0;
        assign(consumer, &unread).map_err(Error::Refused)?;
        Ok(Reading { consumer, unread, last: Instant::now(), trouble: None })
    }

    /// The timestamp (unix milliseconds) of the first record in each stretch; `None` where there is none. No more is
    /// read of them.
    pub fn first_timestamps(&mut self, spans: &[Span]) -> Result<Vec<Option<i64>>, Error> {
        let mut firsts = vec![None; spans.len()];
        let mut reading = self.begin(spans)?;
        loop {
            match reading.step()? {
                Step::Record(seen) => {
                    let (of, timestamp) = ((seen.topic(), seen.partition()), seen.timestamp());
                    let is_of = |span: &Span| (&*span.topic, span.partition) == of;
                    let asked = spans.iter().zip(&mut firsts).find(|(span, _)| is_of(span));
                    asked.into_iter().for_each(|(_, first)| *first = Some(timestamp).filter(|ms| *ms >= 0));
                    if let Some(at) = reading.unread.iter().position(is_of) {
                        reading.finish(at)?;
                    }
                }
                Step::Nothing => {}
                Step::End => return Ok(firsts),
            }
        }
    }

    /// Reads stretches to their end; `visit` may break off.
    pub fn read(
        &mut self,
        spans: &[Span],
        mut visit: impl FnMut(&Seen<'_>) -> std::ops::ControlFlow<()>,
    ) -> Result<(), Error> {
        let mut reading = self.begin(spans)?;
        loop {
            match reading.step()? {
                Step::Record(seen) if visit(&seen).is_break() => return Ok(()),
                Step::Record(_) | Step::Nothing => {}
                Step::End => return Ok(()),
            }
        }
    }
}

fn look_up(of: &TopicPartition, error: KafkaError) -> Error {
    Error::LookUp { topic: Arc::clone(&of.topic), partition: of.partition, error }
}

fn assign(consumer: &BaseConsumer<Context>, spans: &[Span]) -> Result<(), KafkaError> {
    let mut list = TopicPartitionList::with_capacity(spans.len());
    for span in spans {
        list.add_partition_offset(&span.topic, span.partition, Offset::Offset(span.from))?;
    }
    // A pause outlives the assignment it was made in.
    consumer.resume(&list)?;
    consumer.assign(&list)
}

/// What reading has next.
#[derive(Debug)]
pub enum Step<'s> {
    /// A record.
    Record(Seen<'s>),
    /// Nothing came for a moment.
    Nothing,
    /// Everything was read.
    End,
}

/// Stretches being read. Records of one partition come in their order, partitions in any.
pub struct Reading<'s> {
    consumer: &'s BaseConsumer<Context>,
    /// What is left: `from` is what comes next.
    unread: Vec<Span>,
    /// When something came last.
    last: Instant,
    trouble: Option<KafkaError>,
}

impl<'s> Reading<'s> {
    /// What comes next.
    pub fn step(&mut self) -> Result<Step<'s>, Error> {
        loop {
            if self.unread.is_empty() {
                return Ok(Step::End);
            }
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    let seen = Seen(message);
                    if self.is_wanted(&seen)? {
                        return Ok(Step::Record(seen));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => self.reached_end(partition)?,
                Some(Err(error)) => self.judge(error)?,
                None => {
                    self.check_patience()?;
                    return Ok(Step::Nothing);
                }
            }
        }
    }

    fn is_wanted(&mut self, seen: &Seen<'_>) -> Result<bool, Error> {
        let (partition, offset) = (seen.partition(), seen.offset());
        let of = |span: &Span| span.partition == partition && *span.topic == *seen.topic();
        let Some(at) = self.unread.iter().position(of) else { return Ok(false) };
        self.last = Instant::now();
        let span = &mut self.unread[at];
        let wanted = (span.from..span.to).contains(&offset);
        span.from = span.from.max(offset + 1);
        if span.is_empty() {
            self.finish(at)?;
        }
        Ok(wanted)
    }

    /// Transactions end with records that are never shown, so a stretch may end without its last offset being seen.
    /// The client does not say of which topic it has reached the end.
    fn reached_end(&mut self, partition: i32) -> Result<(), Error> {
        let positions = self.consumer.position().map_err(Error::Refused)?;
        for at in (0..self.unread.len()).rev() {
            let span = &mut self.unread[at];
            if span.partition != partition {
                continue;
            }
            let position = positions.find_partition(&span.topic, partition).map(|element| element.offset());
            if let Some(Offset::Offset(position)) = position {
                span.from = span.from.max(position);
            }
            if span.is_empty() {
                self.finish(at)?;
            }
        }
        Ok(())
    }

    /// Nothing more of it shall be fetched, while others are still read.
    fn finish(&mut self, at: usize) -> Result<(), Error> {
        let span = self.unread.swap_remove(at);
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&span.topic, span.partition);
        self.consumer.pause(&list).map_err(Error::Refused)
    }

    /// Most trouble is a broker that is away for a while.
    fn judge(&mut self, error: KafkaError) -> Result<(), Error> {
        use RDKafkaErrorCode::{ClusterAuthorizationFailed, TopicAuthorizationFailed};
        let code = error.rdkafka_error_code();
        let refused = matches!(code, Some(TopicAuthorizationFailed | ClusterAuthorizationFailed));
        if refused || self.consumer.client().fatal_error().is_some() {
            return Err(Error::Refused(error));
        }
        self.trouble = Some(error);
        self.check_patience()
    }

    fn check_patience(&mut self) -> Result<(), Error> {
        let late = self.last.elapsed() > PATIENCE;
        let Some(span) = self.unread.iter().find(|span| late && span.to != Span::FOREVER) else {
            return Ok(());
        };
        let trouble = self.trouble.as_ref().map_or("nothing came any more".to_owned(), ToString::to_string);
        let Span { topic, partition, from: at, to } = span.clone();
        Err(Error::Stalled { topic, partition, at, to, trouble })
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        // Whatever was fetched is forgotten with it.
        if let Err(error) = self.consumer.unassign() {
            tracing::debug!(%error, "the assignment could not be given up");
        }
    }
}

/// A record in the client's buffer.
#[derive(Debug)]
pub struct Seen<'s>(BorrowedMessage<'s>);

impl Seen<'_> {
    /// Its topic.
    pub fn topic(&self) -> &str {
        self.0.topic()
    }

    /// Its partition.
    pub fn partition(&self) -> i32 {
        self.0.partition()
    }

    /// Its offset.
    pub fn offset(&self) -> i64 {
        self.0.offset()
    }

    /// Its timestamp in unix milliseconds; -1 when it has none.
    pub fn timestamp(&self) -> i64 {
        self.0.timestamp().to_millis().unwrap_or(-1)
    }

    /// Its key, absent when null.
    pub fn key(&self) -> Option<&[u8]> {
        self.0.key()
    }

    /// Its value, absent when null.
    pub fn value(&self) -> Option<&[u8]> {
        self.0.payload()
    }

    /// Its headers in their order; one whose name cannot be read is left out.
    pub fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        let theirs = self.0.headers();
        theirs.into_iter().flat_map(|theirs| {
            (0..theirs.count()).filter_map(move |index| {
                // rdkafka panics on a header name that is not UTF-8, which no well-behaved producer can write.
                let header = catch_unwind(AssertUnwindSafe(|| theirs.get(index))).ok()?;
                Some((header.key, header.value))
            })
        })
    }

    /// Copies it out of the client's buffer.
    pub fn record(&self, names: &mut Names) -> Record {
        let topic = intern(&mut names.topics, 0, self.topic());
        copy(&self.0, &topic, &mut names.headers)
    }
}

/// Names that repeat from record to record, kept by whoever copies many.
#[derive(Debug, Default)]
pub struct Names {
    topics: Vec<Arc<str>>,
    headers: Vec<Arc<str>>,
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use rdkafka::{
        mocking::MockCluster,
        producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _},
    };

    use super::*;
    use crate::config::settings::{Protocol, Start};

    #[test]
    fn a_span_counts_its_offsets() {
        for (from, to, len) in [(0, 0, 0), (3, 7, 4), (7, 3, 0), (1, Span::FOREVER, i64::MAX as u64 - 1)] {
            let span = span(0, from, to);
            assert_eq!((span.len(), span.is_empty()), (len, len == 0), "{from}..{to}");
        }
    }

    fn span(partition: i32, from: i64, to: i64) -> Span {
        Span { topic: "letters".into(), partition, from, to }
    }

    /// A topic of two partitions with ten records each.
    fn filled() -> (MockCluster<'static, DefaultProducerContext>, Scanner) {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("letters", 2, 1).unwrap();
        let producer: BaseProducer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .create()
            .unwrap();
        for n in 0..20 {
            let record = BaseRecord::<[u8], [u8]>::to("letters").partition(n % 2).payload(b"x");
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(Duration::from_secs(30)).unwrap();
        let kafka = Kafka {
            brokers: cluster.bootstrap_servers(),
            group: "scan".to_owned(),
            topics: Vec::new(),
            start: Start::Earliest,
            protocol: Protocol::Auto,
            properties: Vec::new(),
        };
        let scanner = Scanner::new(&kafka).unwrap();
        (cluster, scanner)
    }

    fn read(scanner: &mut Scanner, spans: &[Span]) -> Result<Vec<(i32, i64)>, Error> {
        let mut seen = Vec::new();
        scanner.read(spans, |record| {
            seen.push((record.partition(), record.offset()));
            ControlFlow::Continue(())
        })?;
        seen.sort_unstable();
        Ok(seen)
    }

    #[test]
    fn exactly_the_spans_are_read_again_and_again() {
        let (_cluster, mut scanner) = filled();
        assert_eq!(scanner.topics().unwrap()["letters"], [0, 1]);
        let of = span(1, 0, 0).of();
        assert_eq!(scanner.watermarks(&of).unwrap(), (0, 10));
        for (spans, expected) in [
            (vec![span(0, 0, 10), span(1, 8, 10)], (0..10).map(|n| (0, n)).chain([(1, 8), (1, 9)]).collect()),
            (vec![span(1, 3, 5)], vec![(1, 3), (1, 4)]),
            (vec![span(1, 5, 5)], vec![]),
            (vec![span(0, -4, 1)], vec![(0, 0)]),
        ] {
            assert_eq!(read(&mut scanner, &spans).unwrap(), expected, "{spans:?}");
        }
        let short = read(&mut scanner, &[span(0, 0, 11)]).unwrap_err().to_string();
        assert!(short.starts_with("letters:0 ends at offset 10, before 11"), "{short}");
    }

    #[test]
    fn who_looks_may_break_off() {
        let (_cluster, mut scanner) = filled();
        let mut seen = 0;
        let visit = |_: &Seen<'_>| {
            seen += 1;
            if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        scanner.read(&[span(0, 0, 10)], visit).unwrap();
        assert_eq!(seen, 3);
        // What was fetched for the one is not shown to the next.
        assert_eq!(read(&mut scanner, &[span(0, 9, 10)]).unwrap(), [(0, 9)]);
    }
}
