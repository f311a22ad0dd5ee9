//! Writes records in transactions: all of a batch or none of it, and one writer per name at a time.
//!
//! Every call blocks its thread. A transaction is open for as long as its records take to reach the brokers and no
//! longer: readers of committed records wait behind an open one.

use std::time::Duration;

use rdkafka::{
    ClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{FutureProducer, FutureRecord, Producer as _},
};
use tokio::time::Instant;
use tracing::warn;

use super::{
    Context, client_config,
    producer::{Native, Outgoing},
};
use crate::config::settings::Kafka;

/// After this long the brokers abort what a writer that was killed has left open. Readers wait until then, so it is
/// short; a batch takes a fraction of it.
const OPEN_AT_MOST: &str = "15000";
/// Longest wait for one answer about a transaction; brokers that are merely slow are asked again until then.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a batch was not written. Nothing of it is seen by anybody then, except where [`Error::Unknown`] says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client could not be made: a property is wrong.
    #[error("the Kafka client cannot be made (kafka.properties): {0}")]
    Create(KafkaError),
    /// A later writer of the same name has taken over, or the brokers gave this one up for dead.
    #[error("another writer has taken over")]
    Fenced,
    /// A record is larger than its topic takes.
    #[error("a record is larger than its topic takes")]
    TooLarge,
    /// It may get through another time.
    #[error("the transaction was aborted: {0}")]
    Aborted(KafkaError),
    /// Nobody knows whether it got through; the next writer of this name will.
    #[error("the brokers did not say how the transaction ended: {0}")]
    Unknown(KafkaError),
}

/// The writer of a name.
pub struct Writer(FutureProducer<Context>);

impl Writer {
    /// Becomes the writer of this name. An earlier one is fenced: what it left open is aborted, what it committed is
    /// seen by whoever begins to read after this.
    pub fn begin(kafka: &Kafka, transactional_id: &str) -> Result<Self, Error> {
        let config = config(kafka, transactional_id);
        let writer = Self(config.create_with_context(Context).map_err(Error::Create)?);
        writer.insist(|client| client.init_transactions(PATIENCE)).map_err(|error| writer.judge(error))?;
        Ok(writer)
    }

    /// Writes all records or none of them.
    pub fn write(&self, records: &[Outgoing]) -> Result<(), Error> {
        self.0.begin_transaction().map_err(|error| self.judge(error))?;
        for record in records {
            if let Err((error, _)) = self.0.send_result(native(record)) {
                return Err(self.abort(error));
            }
        }
        match self.insist(|client| client.commit_transaction(PATIENCE)) {
            Ok(()) => Ok(()),
            Err(error) if must_abort(&error) => Err(self.abort(error)),
            Err(error) => match self.judge(error) {
                Error::Aborted(error) => Err(Error::Unknown(error)),
                other => Err(other),
            },
        }
    }

    /// Ends a transaction that failed, and says why it did.
    fn abort(&self, cause: KafkaError) -> Error {
        let aborted = self.insist(|client| client.abort_transaction(PATIENCE));
        // Only the next call to the brokers may find out that somebody else has the name now.
        match (self.judge(cause), aborted) {
            (Error::Fenced, _) => Error::Fenced,
            (cause, Ok(())) => cause,
            (_, Err(error)) => self.judge(error),
        }
    }

    /// Asks again as long as the client says that it helps.
    fn insist(
        &self,
        ask: impl Fn(&FutureProducer<Context>) -> Result<(), KafkaError>,
    ) -> Result<(), KafkaError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ask(&self.0) {
                Err(error) if may_be_asked_again(&error) && Instant::now() < deadline => {
                    warn!(%error, "the brokers are slow to answer, trying again");
                }
                answer => return answer,
            }
        }
    }

    fn judge(&self, error: KafkaError) -> Error {
        let fatal = self.0.client().fatal_error().map(|(code, _)| code);
        let codes = [error.rdkafka_error_code(), fatal];
        if codes.into_iter().flatten().any(is_fencing) {
            return Error::Fenced;
        }
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
            return Error::TooLarge;
        }
        Error::Aborted(error)
    }
}

/// What a client needs that writes in transactions.
pub(super) fn config(kafka: &Kafka, transactional_id: &str) -> ClientConfig {
    let mut config = client_config(kafka);
    config
        .set("transactional.id", transactional_id)
        .set("transaction.timeout.ms", OPEN_AT_MOST)
        // The client wants it to be no longer than the transaction.
        .set("message.timeout.ms", OPEN_AT_MOST)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "5")
        // Originals near the brokers' limit grow by our headers; the brokers decide what is too large.
        .set("message.max.bytes", "100000000");
    config
}

fn native(record: &Outgoing) -> FutureRecord<'_, [u8], [u8]> {
    let Native { topic, key, value, headers } = record.into();
    FutureRecord { topic, partition: None, payload: value, key, timestamp: None, headers: Some(headers) }
}

fn is_fencing(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{Fenced, InvalidProducerEpoch, ProducerFenced, TransactionCoordinatorFenced};
    matches!(code, Fenced | InvalidProducerEpoch | ProducerFenced | TransactionCoordinatorFenced)
}

fn must_abort(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.txn_requires_abort())
}

fn may_be_asked_again(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable() && !error.txn_requires_abort(),
        // The client's records have not all been answered yet; each of them is within its own time.
        KafkaError::Flush(_) => true,
        _ => false,
    }
}
