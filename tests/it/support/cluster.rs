//! A Kafka cluster as the tests' operator sees it: makes topics, produces, reads back, looks at groups.
//!
//! Speaks rdkafka itself and uses nothing of Arauto, so that a mistake in Arauto's Kafka code cannot hide
//! itself. Blocking calls of librdkafka run on blocking threads. Topics are not deleted afterwards: the
//! shared broker is thrown away with its data, and on a cluster of your own the random names do no harm.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{
        AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
    },
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::KafkaError,
    producer::{
        BaseRecord, DefaultProducerContext, FutureProducer, FutureRecord, Producer, ThreadedProducer,
    },
};
use tokio::time::Instant;

use super::{
    PATIENCE, broker,
    records::{Committed, NewRecord, Position, Record},
    unique,
};

/// Longest wait for one answer of a broker.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Commit,
    Abort,
}

/// A cluster, known by its address. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    brokers: String,
}

impl Cluster {
    /// The cluster all tests share.
    pub(crate) async fn shared() -> Self {
        Self::at(broker::shared().await)
    }

    /// The cluster at this address.
    pub(crate) fn at(brokers: impl Into<String>) -> Self {
        Self { brokers: brokers.into() }
    }

    /// Its address, as clients want it.
    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Makes a topic and waits until its partitions have leaders.
    pub(crate) async fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        let topic = config.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
        let results = self.admin().create_topics([&topic], &admin_options()).await.unwrap();
        results[0].as_ref().unwrap_or_else(|(name, code)| panic!("topic {name} was not made: {code}"));
        self.wait_for_partitions(name, partitions).await;
    }

    /// Deletes a topic.
    pub(crate) async fn delete_topic(&self, name: &str) {
        let results = self.admin().delete_topics(&[name], &admin_options()).await.unwrap();
        results[0].as_ref().unwrap_or_else(|(name, code)| panic!("topic {name} was not deleted: {code}"));
    }

    /// Gives a topic more partitions, `total` in the end.
    pub(crate) async fn add_partitions(&self, topic: &str, total: i32) {
        let partitions = NewPartitions::new(topic, usize::try_from(total).unwrap());
        let results = self.admin().create_partitions([&partitions], &admin_options()).await.unwrap();
        results[0].as_ref().unwrap_or_else(|(name, code)| panic!("{name} got no more partitions: {code}"));
        self.wait_for_partitions(topic, total).await;
    }

    /// Removes the records of a partition below `before`.
    pub(crate) async fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(before)).unwrap();
        let result = self.admin().delete_records(&list, &admin_options()).await.unwrap();
        for element in result.elements() {
            element.error().expect("records are removed");
        }
    }

    /// The configuration of a topic, defaults included.
    pub(crate) async fn topic_config(&self, topic: &str) -> BTreeMap<String, String> {
        let resource = ResourceSpecifier::Topic(topic);
        let mut results = self.admin().describe_configs([&resource], &admin_options()).await.unwrap();
        let config = results.remove(0).unwrap_or_else(|code| panic!("{topic} has no configuration: {code}"));
        config.entries.into_iter().map(|entry| (entry.name, entry.value.unwrap_or_default())).collect()
    }

    /// Puts this configuration of a topic in the place of all that was set for it.
    pub(crate) async fn configure_topic(&self, topic: &str, config: &[(&str, &str)]) {
        let alter = AlterConfig::new(ResourceSpecifier::Topic(topic));
        let alter = config.iter().fold(alter, |alter, (key, value)| alter.set(key, value));
        let results = self.admin().alter_configs([&alter], &admin_options()).await.unwrap();
        results[0].as_ref().unwrap_or_else(|(_, code)| panic!("{topic} was not configured: {code}"));
    }

    /// All topics and how many partitions they have.
    pub(crate) async fn topics(&self) -> BTreeMap<String, usize> {
        self.blocking(|cluster| {
            let metadata = cluster.consumer("").fetch_metadata(None, TIMEOUT).unwrap();
            metadata
                .topics()
                .iter()
                .map(|topic| (topic.name().to_owned(), topic.partitions().len()))
                .collect()
        })
        .await
    }

    /// Produces many records at once and waits until all are acknowledged; their positions, in the same
    /// order.
    pub(crate) async fn produce(&self, records: &[NewRecord]) -> Vec<Position> {
        let producer: FutureProducer = self.producer_config().create().unwrap();
        let sent: Vec<_> = records.iter().map(|record| send(&producer, record)).collect();
        let mut positions = Vec::with_capacity(sent.len());
        for delivery in sent {
            let delivery = delivery.await.expect("the producer lives");
            let delivery = delivery.unwrap_or_else(|(error, _)| panic!("a record was not produced: {error}"));
            positions.push(Position { partition: delivery.partition, offset: delivery.offset });
        }
        positions
    }

    /// Produces records in one transaction of their own and ends it.
    pub(crate) async fn produce_in_transaction(&self, records: &[NewRecord], end: End) {
        let records = records.to_vec();
        self.blocking(move |cluster| {
            let mut config = cluster.producer_config();
            config.set("transactional.id", unique("transaction"));
            let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
            producer.init_transactions(TIMEOUT).unwrap();
            producer.begin_transaction().unwrap();
            for record in &records {
                producer.send(base_record(record)).map_err(|(error, _)| error).unwrap();
            }
            // An abort purges what was not sent yet, and the test wants the records in the log.
            producer.flush(TIMEOUT).unwrap();
            match end {
                End::Commit => producer.commit_transaction(TIMEOUT).unwrap(),
                End::Abort => producer.abort_transaction(TIMEOUT).unwrap(),
            }
        })
        .await;
    }

    /// Every record of a topic from each partition's beginning to its end, partition by partition; without
    /// those of aborted transactions.
    pub(crate) async fn read(&self, topic: &str) -> Vec<Record> {
        let topic = topic.to_owned();
        self.blocking(move |cluster| cluster.read_blocking(&topic)).await
    }

    /// The first offset of a partition and the one its next record will have.
    pub(crate) async fn watermarks(&self, topic: &str, partition: i32) -> (i64, i64) {
        let topic = topic.to_owned();
        self.blocking(move |cluster| {
            cluster.consumer("").fetch_watermarks(&topic, partition, TIMEOUT).unwrap()
        })
        .await
    }

    /// What a group has committed, for every partition of a topic.
    pub(crate) async fn committed(&self, group: &str, topic: &str) -> Vec<Committed> {
        let (group, topic) = (group.to_owned(), topic.to_owned());
        self.blocking(move |cluster| {
            let consumer = cluster.consumer(&group);
            let mut list = TopicPartitionList::new();
            for partition in partitions(&consumer, &topic) {
                list.add_partition(&topic, partition);
            }
            let list = committed(&consumer, &list);
            let committed = list.elements().into_iter().map(|element| Committed {
                partition: element.partition(),
                offset: element.offset().to_raw().filter(|offset| *offset >= 0),
                metadata: element.metadata().to_owned(),
            });
            committed.collect()
        })
        .await
    }

    /// How many offsets of a topic a group has not committed yet; a partition without a commit counts from
    /// its beginning.
    pub(crate) async fn lag(&self, group: &str, topic: &str) -> i64 {
        let mut lag = 0;
        for committed in self.committed(group, topic).await {
            let (low, high) = self.watermarks(topic, committed.partition).await;
            lag += high - committed.offset.unwrap_or(low);
        }
        lag
    }

    /// Commits for a group that has no members, as another program could have.
    pub(crate) async fn commit(&self, group: &str, topic: &str, partition: i32, offset: i64, metadata: &str) {
        let (group, topic, metadata) = (group.to_owned(), topic.to_owned(), metadata.to_owned());
        self.blocking(move |cluster| {
            let mut list = TopicPartitionList::new();
            let mut element = list.add_partition(&topic, partition);
            element.set_offset(Offset::Offset(offset)).unwrap();
            element.set_metadata(metadata);
            cluster.consumer(&group).commit(&list, CommitMode::Sync).unwrap();
        })
        .await;
    }

    /// Deletes a group with its offsets. It must have no members.
    pub(crate) async fn delete_group(&self, group: &str) {
        let results = self.admin().delete_groups(&[group], &admin_options()).await.unwrap();
        results[0].as_ref().unwrap_or_else(|(name, code)| panic!("group {name} was not deleted: {code}"));
    }

    async fn wait_for_partitions(&self, topic: &str, partitions: i32) {
        let topic = topic.to_owned();
        self.blocking(move |cluster| {
            let consumer = cluster.consumer("");
            let deadline = Instant::now() + PATIENCE;
            while !has_leaders(&consumer, &topic, partitions) {
                assert!(Instant::now() < deadline, "topic {topic} got no leaders");
                std::thread::sleep(Duration::from_millis(20));
            }
        })
        .await;
    }

    fn read_blocking(&self, topic: &str) -> Vec<Record> {
        let consumer = self.consumer("");
        let mut list = TopicPartitionList::new();
        let mut unread = partitions(&consumer, topic);
        for partition in &unread {
            list.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let mut records = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while !unread.is_empty() {
            assert!(Instant::now() < deadline, "topic {topic} could not be read to its end");
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => records.push(Record::from_message(&message)),
                Some(Err(KafkaError::PartitionEOF(partition))) => unread.retain(|other| *other != partition),
                Some(Err(error)) => panic!("topic {topic} could not be read: {error}"),
                None => {}
            }
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> T + Send + 'static) -> T {
        let cluster = self.clone();
        match tokio::task::spawn_blocking(move || work(&cluster)).await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client_config().create().unwrap()
    }

    fn consumer(&self, group: &str) -> BaseConsumer {
        let mut config = self.client_config();
        config.set("enable.auto.commit", "false").set("enable.partition.eof", "true");
        config.set("isolation.level", "read_committed").set("auto.offset.reset", "earliest");
        // librdkafka wants a group for a consumer that joins none, too.
        config.set("group.id", if group.is_empty() { "tests" } else { group });
        config.create().unwrap()
    }

    fn producer_config(&self) -> ClientConfig {
        let mut config = self.client_config();
        config.set("enable.idempotence", "true").set("linger.ms", "5");
        // Room for a whole test's records at once; the defaults hold 100,000.
        config.set("queue.buffering.max.messages", "2000000").set("queue.buffering.max.kbytes", "1048576");
        // Some tests write records as large as their topic takes; the topic decides.
        config.set("message.max.bytes", "20000000");
        config
    }

    fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT))
}

/// What the group has committed.
fn committed(consumer: &BaseConsumer, of: &TopicPartitionList) -> TopicPartitionList {
    insist("the group's committed offsets", || consumer.committed_offsets(of.clone(), TIMEOUT))
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Vec<i32> {
    let metadata = insist("a topic's partitions", || consumer.fetch_metadata(Some(topic), TIMEOUT));
    metadata.topics()[0].partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect()
}

/// Asks until there is an answer: a broker that has just come back refuses connections for a while, and is not its
/// group's coordinator at once.
fn insist<T>(what: &str, ask: impl Fn() -> Result<T, KafkaError>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match ask() {
            Err(error) if Instant::now() > deadline => panic!("no answer about {what}: {error}"),
            Err(_) => std::thread::yield_now(),
            Ok(answer) => return answer,
        }
    }
}

fn has_leaders(consumer: &BaseConsumer, topic: &str, partitions: i32) -> bool {
    let Ok(metadata) = consumer.fetch_metadata(Some(topic), TIMEOUT) else {
        return false;
    };
    let found = metadata.topics()[0].partitions();
    found.len() == usize::try_from(partitions).unwrap()
        && found.iter().all(|partition| partition.leader() >= 0)
}

fn send(producer: &FutureProducer, record: &NewRecord) -> rdkafka::producer::DeliveryFuture {
    let future_record = FutureRecord {
        topic: &record.topic,
        partition: record.partition,
        key: record.key.as_ref(),
        payload: record.value.as_ref(),
        timestamp: record.timestamp,
        headers: Some(record.rdkafka_headers()),
    };
    producer.send_result(future_record).map_err(|(error, _)| error).expect("room in the producer's queue")
}

fn base_record(record: &NewRecord) -> BaseRecord<'_, Vec<u8>, Vec<u8>> {
    let mut base = BaseRecord::to(&record.topic).headers(record.rdkafka_headers());
    base.partition = record.partition;
    base.key = record.key.as_ref();
    base.payload = record.value.as_ref();
    base.timestamp = record.timestamp;
    base
}
