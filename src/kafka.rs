//! The only place that names rdkafka: clients, and the settings the commit logic relies on.

use rdkafka::{
    ClientConfig,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
};
use tracing::{debug, error, info, warn};

use crate::config::settings::Kafka;

pub mod consumer;
pub mod observer;
pub mod producer;

/// What every client of ours starts from: the brokers and the properties that are passed through.
pub fn client_config(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("client.id", "arauto");
    for (name, value) in &kafka.properties {
        config.set(name, value.expose());
    }
    config.set("bootstrap.servers", &kafka.brokers);
    config.set_log_level(RDKafkaLogLevel::Info);
    config
}

fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            // What the client calls an error is a broken connection as a rule: odd, nothing lost.
            warn!(target: "rdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Warning => warn!(target: "rdkafka", facility, "{message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => info!(target: "rdkafka", facility, "{message}"),
        RDKafkaLogLevel::Debug => debug!(target: "rdkafka", facility, "{message}"),
    }
}

fn report(error: &KafkaError, reason: &str) {
    match error.rdkafka_error_code() {
        Some(code @ (RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed)) => {
            error!(%code, reason, "the brokers refuse our credentials");
        }
        code => warn!(?code, reason, "kafka client error"),
    }
}
