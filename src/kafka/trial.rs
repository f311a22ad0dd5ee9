//! Tries the rights Arauto uses, each in a way that leaves nothing behind that matters: reading begins at the end,
//! writing is taken back, and what is asked to be removed is not there. Every call blocks its thread.

use std::{
    pin::pin,
    task::{Context as TaskContext, Poll, Waker},
    time::{Duration, SystemTime},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::Timestamp,
    producer::{FutureProducer, FutureRecord, Producer as _},
};
use tokio::time::Instant;

use super::{Context, client_config, transaction};
use crate::config::settings::Kafka;

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest wait for a group's offset; without the right to it, all of it.
const COORDINATOR: Duration = Duration::from_secs(5);
/// One poll.
const POLL: Duration = Duration::from_millis(100);

/// Was it refused for want of a right? Anything else says nothing about rights.
pub fn is_refusal(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        ClusterAuthorizationFailed, GroupAuthorizationFailed, TopicAuthorizationFailed,
        TransactionalIdAuthorizationFailed,
    };
    let refusals = [
        ClusterAuthorizationFailed,
        GroupAuthorizationFailed,
        TopicAuthorizationFailed,
        TransactionalIdAuthorizationFailed,
    ];
    error.rdkafka_error_code().is_some_and(|code| refusals.contains(&code))
}

/// Tries to read.
pub struct Reader(BaseConsumer<Context>);

impl Reader {
    /// Makes the client.
    pub fn new(kafka: &Kafka) -> Result<Self, KafkaError> {
        let mut config = client_config(kafka);
        config
            .set("group.id", &kafka.group)
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "100");
        config.create_with_context(Context).map(Self)
    }

    /// Reads at the end of a topic's first partition.
    pub fn read(&self, topic: &str) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(topic, 0, Offset::End)?;
        self.0.assign(&list)?;
        let deadline = Instant::now() + ANSWER;
        let mut last = None;
        while Instant::now() < deadline {
            match self.0.poll(POLL) {
                Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) if is_refusal(&error) => return Err(error),
                Some(Err(error)) => last = Some(error),
                None => {}
            }
        }
        let late = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
        Err(last.unwrap_or(late))
    }
}

/// Asks for a group's offset on a topic, which needs the right to read in the group.
pub fn group(kafka: &Kafka, topic: &str) -> Result<(), KafkaError> {
    let Reader(client) = Reader::new(kafka)?;
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition(topic, 0);
    let asked = client.committed_offsets(list, COORDINATOR);
    let answered = asked.and_then(|list| list.elements().iter().try_for_each(|element| element.error()));
    let Err(error) = answered else { return Ok(()) };
    // Who may not read in a group is not told where its coordinator is; the client tells why when it is polled.
    while let Some(told) = client.poll(POLL) {
        match told {
            Err(error) if is_refusal(&error) => return Err(error),
            _ => {}
        }
    }
    Err(error)
}

/// Tries to write.
pub struct Writer(FutureProducer<Context>);

impl Writer {
    /// Becomes the writer of a name of transactions, which needs a right of its own.
    pub fn begin(kafka: &Kafka, transactional_id: &str) -> Result<Self, KafkaError> {
        let client: FutureProducer<Context> =
            transaction::config(kafka, transactional_id).create_with_context(Context)?;
        client.init_transactions(ANSWER)?;
        Ok(Self(client))
    }

    /// Writes an empty record and takes it back; tells how far the brokers' clock is ahead of ours, in milliseconds,
    /// where the topic keeps the brokers' time.
    pub fn write(&self, topic: &str) -> Result<Option<i64>, KafkaError> {
        self.0.begin_transaction()?;
        let written = self.write_once(topic);
        self.0.abort_transaction(ANSWER)?;
        written
    }

    fn write_once(&self, topic: &str) -> Result<Option<i64>, KafkaError> {
        let begun = unix_millis();
        let record = FutureRecord::<[u8], [u8]> {
            topic,
            partition: Some(0),
            payload: None,
            key: Some(b"doctor"),
            timestamp: None,
            headers: None,
        };
        let sent = self.0.send_result(record).map_err(|(error, _)| error)?;
        self.0.flush(ANSWER)?;
        let ended = unix_millis();
        // It was flushed, so it has been answered.
        match pin!(sent).poll(&mut TaskContext::from_waker(Waker::noop())) {
            Poll::Ready(Ok(Ok(delivery))) => Ok(match delivery.timestamp {
                Timestamp::LogAppendTime(at) => Some(at - i64::midpoint(begun, ended)),
                Timestamp::NotAvailable | Timestamp::CreateTime(_) => None,
            }),
            Poll::Ready(Ok(Err((error, _)))) => Err(error),
            Poll::Ready(Err(_)) | Poll::Pending => {
                Err(KafkaError::MessageProduction(RDKafkaErrorCode::OperationTimedOut))
            }
        }
    }
}

fn unix_millis() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_right_is_a_refusal() {
        use RDKafkaErrorCode::{
            GroupAuthorizationFailed, NotLeaderForPartition, TopicAuthorizationFailed,
            UnknownTopicOrPartition,
        };
        for (error, expected) in [
            (KafkaError::MessageConsumption(TopicAuthorizationFailed), true),
            (KafkaError::ConsumerCommit(GroupAuthorizationFailed), true),
            (KafkaError::MessageProduction(NotLeaderForPartition), false),
            (KafkaError::AdminOp(UnknownTopicOrPartition), false),
        ] {
            assert_eq!(is_refusal(&error), expected, "{error}");
        }
    }
}
