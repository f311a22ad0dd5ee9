//! Writes retry, dead-letter and state records: acknowledged by all replicas, idempotent, replaced when fatal.
//!
//! One try per call; whoever must not lose the record tries again for as long as it takes.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rdkafka::{
    ClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders, Timestamp},
    producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _, future_producer::Delivery},
};
use tracing::error;

use super::{Context, client_config};
use crate::{config::settings::Kafka, pipeline::Headers};

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
    client: Mutex<FutureProducer<Context>>,
    /// Sends every record in a batch of its own; made when it is needed first.
    alone: Mutex<Option<FutureProducer<Context>>>,
}

impl Producer {
    /// Makes the client; the settings safety stands on are set here and win over those of the configuration.
    pub fn new(kafka: &Kafka) -> Result<Self, Error> {
        let mut config = client_config(kafka);
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // A try that got no answer is given up after this long, so that trouble becomes visible.
            .set("message.timeout.ms", "30000")
            // Retry and dead-letter records are bounded by the window; the client's own bound must not be the lower.
            .set("queue.buffering.max.messages", "0")
            .set("linger.ms", "5")
            // Originals near the brokers' limit grow by our headers; the brokers decide what is too large.
            .set("message.max.bytes", "100000000");
        let client = config.create_with_context(Context).map_err(Error::Kafka)?;
        Ok(Self(Arc::new(Inner { config, client: Mutex::new(client), alone: Mutex::default() })))
    }

    /// Writes one record and waits until all replicas have it.
    pub async fn send(&self, record: &Outgoing) -> Result<Acknowledged, Error> {
        match self.send_with(self.client(), record).await {
            // The brokers measure batches and refuse a large one as a whole: only what is refused alone is too large.
            Err(Error::TooLarge) => self.send_with(self.alone()?, record).await,
            sent => sent,
        }
    }

    async fn send_with(
        &self,
        client: FutureProducer<Context>,
        record: &Outgoing,
    ) -> Result<Acknowledged, Error> {
        let sent = client.send_result(native(record)).map_err(|(error, _)| self.judge(error))?;
        // Not held while waiting: whoever drops the last handle of a replaced client waits for its threads.
        drop(client);
        self.acknowledged(sent).await
    }

    /// Hands a record to the client at once, in the order of the calls; [`Sent::acknowledged`] waits for the brokers.
    pub fn begin(&self, record: &Outgoing) -> Result<Sent, Error> {
        let delivery = self.client().send_result(native(record)).map_err(|(error, _)| self.judge(error))?;
        Ok(Sent { producer: self.clone(), delivery })
    }

    async fn acknowledged(&self, delivery: DeliveryFuture) -> Result<Acknowledged, Error> {
        match delivery.await {
            Ok(Ok(Delivery { partition, offset, timestamp })) => {
                Ok(Acknowledged { partition, offset, appended: appended(timestamp) })
            }
            Ok(Err((error, _))) => Err(self.judge(error)),
            Err(_) => Err(Error::Closed),
        }
    }

    /// Waits until nothing is under way; blocks its thread.
    pub fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        self.client().flush(timeout)
    }

    fn client(&self) -> FutureProducer<Context> {
        self.0.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn alone(&self) -> Result<FutureProducer<Context>, Error> {
        let mut alone = self.0.alone.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = alone.as_ref().filter(|client| client.client().fatal_error().is_none()) {
            return Ok(client.clone());
        }
        let mut config = self.0.config.clone();
        config.set("batch.num.messages", "1");
        let fresh: FutureProducer<Context> = config.create_with_context(Context).map_err(Error::Kafka)?;
        if let Some(old) = alone.replace(fresh.clone()) {
            std::thread::spawn(move || drop(old));
        }
        Ok(fresh)
    }

    fn judge(&self, error: KafkaError) -> Error {
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
            return Error::TooLarge;
        }
        if code == Some(RDKafkaErrorCode::QueueFull) {
            return Error::Full;
        }
        self.replace_if_fatal();
        Error::Kafka(error)
    }

    /// A producer in a fatal state never sends again; the records it still held fail and are sent again by a new one.
    fn replace_if_fatal(&self) {
        let mut client = self.0.client.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((code, reason)) = client.client().fatal_error() else { return };
        error!(%code, %reason, "the Kafka producer is replaced");
        match self.0.config.create_with_context(Context) {
            Ok(fresh) => {
                let old = std::mem::replace(&mut *client, fresh);
                // Closing waits for the client's threads; nobody may wait for that here.
                std::thread::spawn(move || drop(old));
            }
            Err(error) => error!(%error, "no new Kafka producer could be made"),
        }
    }
}

/// A record that the client has and the brokers may not have yet.
pub struct Sent {
    producer: Producer,
    delivery: DeliveryFuture,
}

impl Sent {
    /// Waits until all replicas have it.
    pub async fn acknowledged(self) -> Result<Acknowledged, Error> {
        self.producer.acknowledged(self.delivery).await
    }
}

pub(super) fn native(record: &Outgoing) -> FutureRecord<'_, [u8], [u8]> {
    let mut headers = OwnedHeaders::new_with_capacity(record.headers.0.len());
    for (name, value) in &record.headers.0 {
        headers = headers.insert(Header { key: name, value: value.as_deref() });
    }
    FutureRecord {
        topic: &record.topic,
        partition: None,
        payload: record.value.as_deref(),
        key: record.key.as_deref(),
        timestamp: None,
        headers: Some(headers),
    }
}

fn appended(timestamp: Timestamp) -> Option<i64> {
    match timestamp {
        Timestamp::LogAppendTime(millis) => Some(millis),
        Timestamp::NotAvailable | Timestamp::CreateTime(_) => None,
    }
}
