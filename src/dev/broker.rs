//! An embedded Kafka broker, librdkafka's mock: for trying things out, never for events anyone needs.
//!
//! It lives in memory and in this process; other processes reach it over TCP. It keeps 5 MiB per partition and
//! knows no topic configuration, so it proves nothing about retention, message sizes or transactions.

use std::{
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    mocking::MockCluster,
    producer::DefaultProducerContext,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    config::settings::Kafka,
    kafka::{Context, client_config, consumer::copy},
    pipeline::Record,
};

/// Longest wait for the next record; also how late the end is noticed.
const POLL: Duration = Duration::from_millis(100);
/// Making a topic takes far less, unless the mock has fallen asleep.
const NUDGE: Duration = Duration::from_millis(5);

/// The broker could not be made, or does not answer.
#[derive(Debug, thiserror::Error)]
#[error("the embedded broker: {0}")]
pub struct Error(#[from] KafkaError);

/// A running broker; it ends when dropped, which takes a moment and blocks.
pub struct Broker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Broker {
    /// Starts one on a free port of the loopback interface.
    pub fn start() -> Result<Self, Error> {
        Ok(Self { cluster: MockCluster::new(1)? })
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Makes topics of so many partitions; blocks its thread.
    ///
    /// The mock's thread now and then misses that it was asked something and then sleeps for a second. Any connection
    /// wakes it.
    pub fn create_topics(&self, topics: &[(String, i32)]) -> Result<(), Error> {
        let (address, made) = (self.address(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !made.load(Ordering::Acquire) {
                    std::thread::sleep(NUDGE);
                    drop(TcpStream::connect(&address));
                }
            });
            let create = |(name, partitions): &(String, i32)| self.cluster.create_topic(name, *partitions, 1);
            let created = topics.iter().try_for_each(create);
            made.store(true, Ordering::Release);
            Ok(created?)
        })
    }
}

/// Hands over every record of a topic of one partition, from its first on, until the stop and then what is there
/// already. Blocks its thread.
pub fn read(
    kafka: &Kafka,
    topic: &str,
    stop: &CancellationToken,
    mut each: impl FnMut(Record),
) -> Result<(), Error> {
    let mut config = client_config(kafka);
    // A group is asked for by the client although a reader that assigns itself never joins one.
    config.set("group.id", "arauto-dev-reader").set("enable.auto.commit", "false");
    let consumer: BaseConsumer<Context> = config.create_with_context(Context)?;
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&list)?;
    let (name, mut headers) = (topic.into(), Vec::new());
    loop {
        match consumer.poll(POLL) {
            Some(Ok(message)) => each(copy(&message, &name, &mut headers)),
            _ if stop.is_cancelled() => return Ok(()),
            // The client tries again by itself.
            Some(Err(error)) => warn!(topic, %error, "reading from the embedded broker"),
            None => {}
        }
    }
}
