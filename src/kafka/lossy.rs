//! Writes records that may be lost: what the client has no room for, or the brokers do not take, is dropped and told.
//!
//! A client of its own, so that nothing else waits behind such records. Never blocks, never tries anything again that the
//! client has given up.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::KafkaError,
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig},
};
use tracing::{debug, warn};

use super::{Context, client_config, polled};
use crate::config::settings::Kafka;

/// Records the client holds at most: a second of brokers that do not answer, at what two cores deliver.
const MOST: &str = "50000";
/// Their bytes, in KiB.
const MOST_KIBIBYTES: &str = "32768";

/// Dropping what is under way waits for nobody else, so no longer than this.
const DROPPING: Duration = Duration::from_secs(1);

/// Why there is no such client.
#[derive(Debug, thiserror::Error)]
#[error("the Kafka client of the attempt log cannot be made (kafka.properties): {0}")]
pub struct Error(#[from] KafkaError);

/// Writes to one topic. Cheap to clone.
#[derive(Clone)]
pub struct Producer(Arc<Inner>);

struct Inner {
    client: Arc<BaseProducer<Telling>>,
    topic: String,
}

impl Producer {
    /// Makes the client; `dropped` is told of every record that is lost, on any thread, and must not block.
    pub fn new(
        kafka: &Kafka,
        topic: &str,
        dropped: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let mut config = client_config(kafka);
        let compressed =
            ["compression.codec", "compression.type"].iter().any(|key| config.get(key).is_some());
        if !compressed {
            // The cheapest, and records of a batch are much alike.
            config.set("compression.type", "lz4");
        }
        config
            .set("acks", "1")
            .set("linger.ms", "100")
            // As Java's clients do it, so that others can compute where an id is; librdkafka's default is another one.
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.messages", MOST)
            .set("queue.buffering.max.kbytes", MOST_KIBIBYTES)
            .set("message.timeout.ms", "30000")
            // What got through needs no word on its way back.
            .set("delivery.report.only.error", "true");
        let client = polled::producer(&config, Telling(Box::new(dropped)))?;
        Ok(Self(Arc::new(Inner { client, topic: topic.to_owned() })))
    }

    /// Hands a record to the client if that has room.
    pub fn send(&self, key: &[u8], value: &[u8]) {
        let Inner { client, topic } = &*self.0;
        if let Err((error, _)) = client.send(BaseRecord::to(topic).key(key).payload(value)) {
            client.context().dropped(&error);
        }
    }

    /// Waits until nothing is under way, but no longer than that, and drops what still is; blocks its thread.
    pub fn flush(&self, longest: Duration) {
        let client = &self.0.client;
        if let Err(error) = client.flush(longest) {
            debug!(%error, "not every record got through in time");
            client.purge(PurgeConfig::default().queue().inflight());
            if let Err(error) = client.flush(DROPPING) {
                debug!(%error, "not every record that was dropped is counted");
            }
        }
    }
}

/// Tells of what is lost.
struct Telling(Box<dyn Fn() + Send + Sync>);

impl Telling {
    fn dropped(&self, error: &KafkaError) {
        (self.0)();
        warn!(%error, "record of the attempt log dropped");
    }
}

impl ClientContext for Telling {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        Context.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Context.error(error, reason);
    }

    fn stats_raw(&self, json: &[u8]) {
        Context.stats_raw(json);
    }
}

impl ProducerContext for Telling {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.dropped(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::config::settings::{Protocol, Start};

    #[test]
    fn what_there_is_no_room_for_is_dropped_at_once_and_the_rest_at_the_end() {
        // Nobody listens there.
        let kafka = Kafka {
            brokers: "127.0.0.1:1".to_owned(),
            group: "lossy".to_owned(),
            topics: Vec::new(),
            start: Start::Latest,
            protocol: Protocol::Auto,
            properties: Vec::new(),
        };
        let most: usize = MOST.parse().unwrap();
        let dropped = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&dropped);
        let count = move || {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        let producer = Producer::new(&kafka, "attempts", count).unwrap();
        for _ in 0..most + 7 {
            producer.send(b"msg_1", b"{}");
        }
        assert_eq!(dropped.load(Ordering::Relaxed), 7);
        producer.flush(Duration::from_millis(1));
        assert_eq!(dropped.load(Ordering::Relaxed), most + 7, "nothing is lost uncounted");
    }
}
