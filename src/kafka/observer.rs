//! Looks at the cluster beside the group's consumer: topics, watermarks, committed offsets, the state topic.
//!
//! Every call blocks its thread; none of them joins the group or moves an offset of a running one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
    time::Duration,
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::KafkaError,
};

use super::{
    Context, client_config,
    consumer::{Error, TopicPartition, committed},
};
use crate::config::settings::Kafka;

/// Longest wait of one look-up; whoever needs the answer asks again.
const LOOK_UP: Duration = Duration::from_secs(10);

/// A key and its value on a compacted topic; no value removes the key.
pub type Entry = (String, Option<Vec<u8>>);

/// A client that reads without being a member of the group.
#[derive(Clone)]
pub struct Observer(Arc<Inner>);

struct Inner {
    looks: BaseConsumer<Context>,
    /// Brokers answer the requests of one connection one after the other. So each look would wait until the fetch of
    /// the one that follows has been answered, half a second mostly.
    follows: OnceLock<BaseConsumer<Context>>,
    config: ClientConfig,
}

impl Observer {
    /// Makes the client, which looks at the offsets of the configured group.
    pub fn new(kafka: &Kafka) -> Result<Self, Error> {
        let mut config = client_config(kafka);
        config
            .set("group.id", &kafka.group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            // What a replay says stands in transactions; what was aborted was never said.
            .set("isolation.level", "read_committed")
            // It reads one small topic.
            .set("queued.max.messages.kbytes", "1024");
        if config.get("fetch.wait.max.ms").is_none() {
            // The end is told when a fetch comes back empty; commands wait for that.
            config.set("fetch.wait.max.ms", "100");
        }
        let looks = config.create_with_context(Context).map_err(Error::Create)?;
        Ok(Self(Arc::new(Inner { looks, follows: OnceLock::new(), config })))
    }

    /// The cluster's id; `None` when the brokers do not tell.
    pub fn cluster_id(&self) -> Option<String> {
        self.0.looks.client().fetch_cluster_id(LOOK_UP)
    }

    /// Every topic there is with the numbers of its partitions.
    pub fn topics(&self) -> Result<BTreeMap<String, Vec<i32>>, Error> {
        let metadata = self.0.looks.fetch_metadata(None, LOOK_UP)?;
        let readable = metadata.topics().iter().filter(|topic| topic.error().is_none());
        Ok(readable
            .map(|topic| (topic.name().to_owned(), topic.partitions().iter().map(|p| p.id()).collect()))
            .collect())
    }

    /// The first and the end offset of a partition.
    pub fn watermarks(&self, of: &TopicPartition) -> Result<(i64, i64), Error> {
        Ok(self.0.looks.fetch_watermarks(&of.topic, of.partition, LOOK_UP)?)
    }

    /// The ends of partitions, with one request to each broker that leads some of them; those that it does not tell are
    /// missing.
    pub fn ends(&self, of: &[TopicPartition]) -> Result<HashMap<TopicPartition, i64>, Error> {
        if of.is_empty() {
            return Ok(HashMap::new());
        }
        let mut list = TopicPartitionList::with_capacity(of.len());
        for of in of {
            // The time −1 asks for the end: <https://kafka.apache.org/protocol.html#The_Messages_ListOffsets>.
            list.add_partition_offset(&of.topic, of.partition, Offset::End)?;
        }
        let answer = self.0.looks.offsets_for_times(list, LOOK_UP)?;
        let told = |of: &TopicPartition| {
            let element = answer.find_partition(&of.topic, of.partition)?;
            let end = element.error().is_ok().then(|| element.offset().to_raw())??;
            (end >= 0).then(|| (of.clone(), end))
        };
        Ok(of.iter().filter_map(told).collect())
    }

    /// The end of a partition, if it is told in time.
    pub fn end_within(&self, of: &TopicPartition, time: Duration) -> Result<i64, Error> {
        Ok(self.0.looks.fetch_watermarks(&of.topic, of.partition, time)?.1)
    }

    /// Up to where a followed partition was read, control records that are never shown included.
    pub fn position(&self, of: &TopicPartition) -> Result<Option<i64>, Error> {
        let Some(follows) = self.0.follows.get() else { return Ok(None) };
        let positions = follows.position()?;
        let position = positions.find_partition(&of.topic, of.partition).map(|element| element.offset());
        Ok(match position {
            Some(Offset::Offset(offset)) => Some(offset),
            _ => None,
        })
    }

    /// The first offset at or after a time (unix milliseconds); the end when there is none.
    pub fn offset_at(&self, of: &TopicPartition, millis: i64) -> Result<i64, Error> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&of.topic, of.partition, Offset::Offset(millis))?;
        let answer = self.0.looks.offsets_for_times(list, LOOK_UP)?;
        match answer.elements().first().map(|element| element.offset()) {
            Some(Offset::Offset(offset)) => Ok(offset),
            _ => Ok(self.watermarks(of)?.1),
        }
    }

    /// The group's committed offsets and their metadata.
    pub fn committed(&self, of: &[TopicPartition]) -> Result<Vec<Option<(i64, String)>>, Error> {
        committed(&self.0.looks, of)
    }

    /// Sets the offsets of a group that nobody is a member of; the brokers refuse it otherwise.
    pub fn set_committed(&self, offsets: &[(TopicPartition, i64)]) -> Result<(), Error> {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (of, offset) in offsets {
            list.add_partition_offset(&of.topic, of.partition, Offset::Offset(*offset))?;
        }
        Ok(self.0.looks.commit(&list, CommitMode::Sync)?)
    }

    /// Is anybody a member of the group? The brokers take offsets from outside a group only while nobody is. What is
    /// set to find that out is a position on a partition that the group never reads.
    pub fn has_members(&self, never_read: &TopicPartition) -> Result<bool, Error> {
        match self.set_committed(&[(never_read.clone(), 0)]) {
            Ok(()) => Ok(false),
            Err(error) if error.is_stale() || error.is_fenced() => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Begins to read a compacted topic of one partition from its first record.
    pub fn follow(&self, topic: &str) -> Result<(), Error> {
        let follows = match self.0.follows.get() {
            Some(follows) => follows,
            None => {
                let follows = self.0.config.create_with_context(Context).map_err(Error::Create)?;
                self.0.follows.get_or_init(|| follows)
            }
        };
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(topic, 0, Offset::Beginning)?;
        Ok(follows.assign(&list)?)
    }

    /// What the followed topic has next.
    pub fn next(&self, timeout: Duration) -> Followed {
        let Some(follows) = self.0.follows.get() else { return Followed::Nothing };
        // Nothing is assigned to it; it is served, so that what it has to tell is logged and does not pile up.
        drop(self.0.looks.poll(Duration::ZERO));
        match follows.poll(timeout) {
            None => Followed::Nothing,
            Some(Err(KafkaError::PartitionEOF(_))) => Followed::End,
            Some(Err(error)) => Followed::Trouble(error.into()),
            Some(Ok(message)) => match message.key().map(String::from_utf8_lossy) {
                Some(key) => Followed::Entry((key.into_owned(), message.payload().map(<[u8]>::to_vec))),
                None => Followed::Nothing,
            },
        }
    }
}

/// One look at the followed topic.
#[derive(Debug)]
pub enum Followed {
    /// Nothing new.
    Nothing,
    /// A record.
    Entry(Entry),
    /// Everything there is has been read.
    End,
    /// It cannot be read now.
    Trouble(Error),
}
