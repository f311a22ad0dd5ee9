//! Everything that names `rdkafka`: client settings, what the clients tell us, and (below) our own topics.
//!
//! Knows records and topics, never events, deliveries or endpoints.

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};
use tracing::{Level, debug, enabled, error, info, warn};

use crate::config::settings;

mod ahead;
pub mod consumer;
pub mod headers;
pub mod lossy;
pub mod observer;
mod polled;
pub mod producer;
pub mod reach;
pub mod rights;
pub mod scan;
mod statistics;
pub mod topics;
pub mod transaction;
pub mod trial;

/// What every client begins with: the brokers, then the properties passed through. Whoever makes a client sets after
/// them what its correctness relies on.
pub fn client_config(kafka: &settings::Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("client.id", "arauto");
    for (key, value) in &kafka.properties {
        config.set(key, value.expose());
    }
    config.set("bootstrap.servers", &kafka.brokers);
    config.set_log_level(log_level());
    config
}

/// librdkafka leaves out below this level what nobody would see, before it makes the text.
fn log_level() -> RDKafkaLogLevel {
    if enabled!(target: "rdkafka", Level::DEBUG) {
        RDKafkaLogLevel::Debug
    } else if enabled!(target: "rdkafka", Level::INFO) {
        RDKafkaLogLevel::Info
    } else {
        RDKafkaLogLevel::Warning
    }
}

/// Passes on what clients log, and their errors. For contexts of consumers and producers to build on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context;

impl ConsumerContext for Context {}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            // All clients get all properties of the configuration; each uses what concerns it.
            _ if facility == "CONFWARN"
                && (line.contains("is a consumer") || line.contains("is a producer")) =>
            {
                debug!(target: "rdkafka", facility, line, "client log");
            }
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                error!(target: "rdkafka", facility, line, "client log");
            }
            // Its errors are mostly lost connections, which it makes again by itself.
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                warn!(target: "rdkafka", facility, line, "client log");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                info!(target: "rdkafka", facility, line, "client log");
            }
            RDKafkaLogLevel::Debug => debug!(target: "rdkafka", facility, line, "client log"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The end of a partition is no trouble, although the client reports it here as well.
        if matches!(error, KafkaError::PartitionEOF(_))
            || error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF)
        {
            return;
        }
        let code = error.rdkafka_error_code().map(tracing::field::debug);
        warn!(target: "rdkafka", code, reason, "client error");
    }

    // Read by nobody but those who have a context of their own for that; parsing them costs.
    fn stats_raw(&self, _: &[u8]) {}
}
