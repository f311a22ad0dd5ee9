//! Writes retry, dead-letter and state records: acknowledged by all replicas, idempotent, replaced when fatal.
//!
//! One try per call; whoever must not lose the record tries again for as long as it takes.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use rdkafka::{
    ClientConfig, ClientContext, Message as _,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders, Timestamp},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext},
};
use tokio::sync::oneshot;
use tracing::error;

use super::{
    Context, client_config, polled,
    statistics::{Statistics, Watch},
};
use crate::{
    config::settings::Kafka,
    metrics::{Metrics, broker},
    pipeline::Headers,
};

/// Room for this many headers is made at once: ours and some of the event's.
const HEADERS: usize = 16;
/// How often the client tells how its brokers answer, when anybody listens.
const STATISTICS: Duration = Duration::from_secs(15);

/// A record to write. The partition follows from the key.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The topic.
    pub topic: String,
    /// The key.
    pub key: Option<Bytes>,
    /// The value.
    pub value: Option<Bytes>,
    /// The headers.
    pub headers: Headers,
}

/// The same as the client takes it: borrowed, and the headers are its own already.
pub struct Native<'a> {
    pub(super) topic: &'a str,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: OwnedHeaders,
}

impl<'a> Native<'a> {
    /// A record with what `write` puts into its headers.
    pub fn new(
        topic: &'a str,
        (key, value): (Option<&'a [u8]>, Option<&'a [u8]>),
        write: impl FnOnce(&mut dyn FnMut(&str, Option<&[u8]>)),
    ) -> Self {
        let mut headers = Some(OwnedHeaders::new_with_capacity(HEADERS));
        write(&mut |key, value| {
            headers = headers.take().map(|headers| headers.insert(Header { key, value }))
        });
        Self { topic, key, value, headers: headers.expect("it is always put back") }
    }

    fn with(self, answer: Answer) -> BaseRecord<'a, [u8], [u8], Box<Answer>> {
        let Self { topic, key, value, headers } = self;
        BaseRecord {
            topic,
            partition: None,
            payload: value,
            key,
            timestamp: None,
            headers: Some(headers),
            delivery_opaque: Box::new(answer),
        }
    }
}

impl<'a> From<&'a Outgoing> for Native<'a> {
    fn from(record: &'a Outgoing) -> Self {
        let Outgoing { topic, key, value, headers } = record;
        Self::new(topic, (key.as_deref(), value.as_deref()), |put| {
            headers.0.iter().for_each(|(name, value)| put(name, value.as_deref()));
        })
    }
}

/// What the brokers said of a record that is safe.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledged {
    /// The partition it is in.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// The time the brokers appended it, in unix milliseconds, where the topic keeps that.
    pub appended: Option<i64>,
}

/// Why a record is not safe.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is larger than the client or the brokers take.
    #[error("the record is larger than the topic takes")]
    TooLarge,
    /// The client holds as much as it may; there is room when something it holds has been acknowledged.
    #[error("the client's queue is full")]
    Full,
    /// It may get through another time.
    #[error(transparent)]
    Kafka(KafkaError),
    /// The client went away in the middle.
    #[error("the producer was closed")]
    Closed,
}

/// The producer. Cheap to clone.
#[derive(Clone)]
pub struct Producer(Arc<Inner>);

struct Inner {
    config: ClientConfig,
    watch: Option<Arc<Watch>>,
    /// Always one, but for the time in which it is made: it tells us of its errors.
    client: ArcSwapOption<BaseProducer<Answering>>,
    replacing: Mutex<()>,
    /// Sends every record in a batch of its own; made when it is needed first.
    alone: Mutex<Option<Client>>,
}

type Client = Arc<BaseProducer<Answering>>;

/// What is done with the brokers' answer, on the client's own thread: it must not block.
type Answer = Box<dyn FnOnce(Result<Acknowledged, Error>) + Send + Sync>;

impl Producer {
    /// Makes the client; the settings safety stands on are set here and win over those of the configuration.
    pub fn new(kafka: &Kafka) -> Result<Self, Error> {
        Self::made(kafka, None)
    }

    /// The same, and how its brokers answer goes to `metrics`.
    pub fn watched(kafka: &Kafka, metrics: Metrics) -> Result<Self, Error> {
        Self::made(kafka, Some(Watch::new(metrics, broker::Client::Producer, 1)))
    }

    fn made(kafka: &Kafka, watch: Option<Watch>) -> Result<Self, Error> {
        let mut config = client_config(kafka);
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // A try that got no answer is given up after this long, so that trouble becomes visible.
            .set("message.timeout.ms", "30000")
            // Retry and dead-letter records are bounded by the window; the client's own bound must not be the lower.
            .set("queue.buffering.max.messages", "0")
            // Many records a batch: each batch costs the brokers as much as dozens of records, and nobody waits for one.
            .set("linger.ms", "20")
            // Originals near the brokers' limit grow by our headers; the brokers decide what is too large.
            .set("message.max.bytes", "100000000");
        if watch.is_some() {
            config.set("statistics.interval.ms", STATISTICS.as_millis().to_string());
        }
        let watch = watch.map(Arc::new);
        let (client, replacing, alone) = Default::default();
        let inner = Arc::new(Inner { config, watch, client, replacing, alone });
        inner.client.store(Some(inner.make(&inner.config, inner.watch.clone()).map_err(Error::Kafka)?));
        Ok(Self(inner))
    }

    /// Writes one record and waits until all replicas have it.
    pub async fn send<'a>(&self, record: impl Into<Native<'a>> + Copy) -> Result<Acknowledged, Error> {
        match self.begin(record)?.acknowledged().await {
            // The brokers measure batches and refuse a large one as a whole: only what is refused alone is too large.
            Err(Error::TooLarge) => self.send_alone(record).await,
            sent => sent,
        }
    }

    /// The same in a batch of its own: what is too large then is so by itself.
    pub async fn send_alone<'a>(&self, record: impl Into<Native<'a>>) -> Result<Acknowledged, Error> {
        let sent = self.0.begin(&*self.0.alone()?, record.into())?;
        sent.acknowledged().await
    }

    /// Hands a record to the client at once, in the order of the calls; [`Sent::acknowledged`] waits for the brokers. What
    /// is under way when the last producer is dropped is [`Error::Closed`].
    pub fn begin<'a>(&self, record: impl Into<Native<'a>>) -> Result<Sent, Error> {
        self.0.with_client(|client| self.0.begin(client, record.into()))
    }

    /// The same, and nobody waits: what the brokers say is told to `answer`, on the client's thread, which it must not
    /// block and which is in no runtime; at once if the client does not take the record. [`Error::TooLarge`] may mean its
    /// batch.
    pub fn begin_then<'a>(
        &self,
        record: impl Into<Native<'a>>,
        answer: impl FnOnce(Result<Acknowledged, Error>) + Send + Sync + 'static,
    ) {
        let record = record.into().with(Box::new(answer));
        let handed = self.0.with_client(|client| {
            client.send(record).map_err(|(error, record)| (error, record.delivery_opaque))
        });
        if let Err((error, answer)) = handed {
            answer(Err(self.0.judge(error)));
        }
    }

    /// Waits until nothing is under way; blocks its thread.
    pub fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        self.0.with_client(|client| client.flush(timeout))
    }
}

impl Inner {
    fn with_client<T>(&self, act: impl FnOnce(&BaseProducer<Answering>) -> T) -> T {
        act(self.client.load().as_ref().expect("a producer has a client"))
    }

    fn begin(self: &Arc<Self>, client: &BaseProducer<Answering>, record: Native<'_>) -> Result<Sent, Error> {
        let (tell, told) = oneshot::channel();
        // Who does not wait any more need not be told.
        let handed = client.send(record.with(Box::new(move |answer| drop(tell.send(answer)))));
        handed.map(|()| Sent(told)).map_err(|(error, _)| self.judge(error))
    }

    fn alone(self: &Arc<Self>) -> Result<Client, Error> {
        let mut alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = alone.as_ref().filter(|client| client.client().fatal_error().is_none()) {
            return Ok(Arc::clone(client));
        }
        let mut config = self.config.clone();
        config.set("batch.num.messages", "1").set("statistics.interval.ms", "0");
        let fresh = self.make(&config, None).map_err(Error::Kafka)?;
        *alone = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    fn make(
        self: &Arc<Self>,
        config: &ClientConfig,
        watch: Option<Arc<Watch>>,
    ) -> Result<Client, KafkaError> {
        polled::producer(config, Answering { producer: Arc::downgrade(self), watch })
    }

    fn judge(self: &Arc<Self>, error: KafkaError) -> Error {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => Error::TooLarge,
            Some(RDKafkaErrorCode::QueueFull) => Error::Full,
            _ => {
                self.replace_if_fatal();
                Error::Kafka(error)
            }
        }
    }

    /// A producer in a fatal state never sends again; the records it still held fail and are sent again by a new one.
    fn replace_if_fatal(self: &Arc<Self>) {
        let _alone = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let fatal = self.with_client(|client| client.client().fatal_error());
        let Some((code, reason)) = fatal else { return };
        error!(%code, %reason, "the Kafka producer is replaced");
        match self.make(&self.config, self.watch.clone()) {
            Ok(fresh) => self.client.store(Some(fresh)),
            Err(error) => error!(%error, "no new Kafka producer could be made"),
        }
    }
}

/// A record that the client has and the brokers may not have yet.
pub struct Sent(oneshot::Receiver<Result<Acknowledged, Error>>);

impl Sent {
    /// Waits until all replicas have it.
    pub async fn acknowledged(self) -> Result<Acknowledged, Error> {
        self.0.await.unwrap_or(Err(Error::Closed))
    }
}

/// Passes the brokers' answers on.
struct Answering {
    producer: Weak<Inner>,
    watch: Option<Arc<Watch>>,
}

impl ClientContext for Answering {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        Context.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Context.error(error, reason);
    }

    fn stats_raw(&self, json: &[u8]) {
        let Some(watch) = &self.watch else { return };
        Statistics::read(json).iter().for_each(|told| watch.take_in(told));
    }
}

impl ProducerContext for Answering {
    type DeliveryOpaque = Box<Answer>;

    fn delivery(&self, result: &DeliveryResult<'_>, answer: Self::DeliveryOpaque) {
        let answered = || match result {
            Ok(message) => answer(Ok(Acknowledged {
                partition: message.partition(),
                offset: message.offset(),
                appended: appended(message.timestamp()),
            })),
            // When the producer has gone nobody is left to send it by another client.
            Err((error, _)) => answer(Err(match self.producer.upgrade() {
                Some(producer) => producer.judge(error.clone()),
                None => Error::Closed,
            })),
        };
        // Without this thread nobody would ever be told anything again.
        if catch_unwind(AssertUnwindSafe(answered)).is_err() {
            error!("taking in the brokers' answer panicked");
        }
    }
}

fn appended(timestamp: Timestamp) -> Option<i64> {
    match timestamp {
        Timestamp::LogAppendTime(millis) => Some(millis),
        Timestamp::NotAvailable | Timestamp::CreateTime(_) => None,
    }
}
