//! Can the brokers be reached, and if not, what is in the way: the name, the network, TLS, or who we say we are.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::client_config;
use crate::config::settings::Kafka;

/// Longest wait for the brokers' answer; a name that is looked up and a handshake take a second at most.
const ANSWER: Duration = Duration::from_secs(6);

/// What is there to be told comes within this.
const SERVE: Duration = Duration::from_millis(50);

/// A broker as it calls itself to its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its id.
    pub id: i32,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: i32,
}

/// What is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// A property of the client is wrong.
    Property,
    /// A name stands for nothing.
    Name,
    /// Nobody listens there, or what listens does not speak as it was told.
    Network,
    /// The TLS handshake.
    Tls,
    /// They do not believe who we say we are.
    Authentication,
}

/// Why they cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What is in the way.
    pub obstacle: Obstacle,
    /// What the client said of it.
    pub detail: String,
}

/// Asks the brokers who they are; blocks its thread.
pub fn brokers(kafka: &Kafka) -> Result<Vec<Broker>, Trouble> {
    let context = Listener::default();
    let heard = Arc::clone(&context.0);
    let mut config = client_config(kafka);
    config.set("group.id", &kafka.group);
    let made: Result<BaseConsumer<Listener>, _> = config.create_with_context(context);
    let client = made.map_err(|error| Trouble { obstacle: Obstacle::Property, detail: error.to_string() })?;
    let failed = match client.fetch_metadata(None, ANSWER) {
        Ok(metadata) => {
            let broker = |broker: &rdkafka::metadata::MetadataBroker| Broker {
                id: broker.id(),
                host: broker.host().to_owned(),
                port: broker.port(),
            };
            return Ok(metadata.brokers().iter().map(broker).collect());
        }
        Err(error) => error,
    };
    // What went wrong meanwhile is told by its callbacks, which are called when it is polled.
    while client.poll(SERVE).is_some() {}
    let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    Err(judge(&heard, &failed))
}

/// Of all that was said the most telling.
fn judge(heard: &[(RDKafkaErrorCode, String)], failed: &KafkaError) -> Trouble {
    use RDKafkaErrorCode::{Authentication, BrokerTransportFailure, Resolve, SSL};
    let kinds = [
        (Authentication, Obstacle::Authentication),
        (SSL, Obstacle::Tls),
        (Resolve, Obstacle::Name),
        (BrokerTransportFailure, Obstacle::Network),
    ];
    for (kind, obstacle) in kinds {
        if let Some((_, reason)) = heard.iter().find(|(code, _)| *code == kind) {
            return Trouble { obstacle, detail: reason.clone() };
        }
    }
    let detail = heard.last().map_or_else(|| failed.to_string(), |(_, reason)| reason.clone());
    Trouble { obstacle: Obstacle::Network, detail }
}

/// Keeps what the client says.
#[derive(Default)]
struct Listener(Arc<Mutex<Vec<(RDKafkaErrorCode, String)>>>);

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        tracing::debug!(target: "rdkafka", ?level, facility, line, "client log");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((code, reason.to_owned()));
    }
}

impl ConsumerContext for Listener {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_telling_counts() {
        use RDKafkaErrorCode::{AllBrokersDown, Authentication, BrokerTransportFailure, Resolve, SSL};
        let failed = KafkaError::MetadataFetch(BrokerTransportFailure);
        for (codes, expected) in [
            (&[BrokerTransportFailure, AllBrokersDown][..], Obstacle::Network),
            (&[AllBrokersDown, Resolve], Obstacle::Name),
            (&[BrokerTransportFailure, SSL], Obstacle::Tls),
            (&[BrokerTransportFailure, Authentication, AllBrokersDown], Obstacle::Authentication),
            (&[], Obstacle::Network),
        ] {
            let heard: Vec<_> = codes.iter().map(|code| (*code, format!("{code:?}"))).collect();
            assert_eq!(judge(&heard, &failed).obstacle, expected, "{codes:?}");
        }
    }
}
