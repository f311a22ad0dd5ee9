//! Are the brokers reachable: those of the configuration, and each under the name it calls itself by?

use std::time::Duration;

use tokio::{net::TcpStream, task::spawn_blocking, time::timeout};

use super::{Area, Finding};
use crate::{
    config::settings::Kafka,
    kafka::reach::{self, Broker, Obstacle, Trouble},
};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// Can anything else be asked of them? And what was found.
pub(super) async fn look(kafka: &Kafka) -> (bool, Vec<Finding>) {
    let asked = kafka.clone();
    let found = match spawn_blocking(move || reach::brokers(&asked)).await {
        Ok(found) => found,
        Err(error) => return (false, vec![unreachable(kafka, &lost(&error.to_string()))]),
    };
    match found {
        Ok(brokers) => {
            let how = protocol(kafka);
            let told = format!("{}, over {how}", super::topics::counted(brokers.len(), "broker"));
            let mut findings = vec![Finding::ok(Area::Brokers, &kafka.brokers, told)];
            for broker in &brokers {
                findings.extend(advertised(broker).await);
            }
            (true, findings)
        }
        Err(trouble) => (false, vec![unreachable(kafka, &trouble)]),
    }
}

fn lost(detail: &str) -> Trouble {
    Trouble { obstacle: Obstacle::Network, detail: detail.to_owned() }
}

fn unreachable(kafka: &Kafka, Trouble { obstacle, detail }: &Trouble) -> Finding {
    let mend = match obstacle {
        Obstacle::Property => "correct kafka.properties",
        Obstacle::Name => "correct the host names in kafka.brokers, or this machine's DNS",
        Obstacle::Network => {
            "see that a broker listens there (kafka.brokers), that no firewall is between, and that security.protocol (kafka.properties) is what its listener speaks"
        }
        Obstacle::Tls => {
            "see that the listener speaks TLS, and that ssl.ca.location (kafka.properties) holds the authority that signed its certificate"
        }
        Obstacle::Authentication => {
            "correct sasl.mechanism, sasl.username and sasl.password (kafka.properties)"
        }
    };
    let what = match obstacle {
        Obstacle::Property => "a property is wrong",
        Obstacle::Name => "the name cannot be resolved",
        Obstacle::Network => "not reachable",
        Obstacle::Tls => "the TLS handshake failed",
        Obstacle::Authentication => "authentication failed",
    };
    Finding::problem(Area::Brokers, &kafka.brokers, format!("{what}: {detail}"), mend)
}

/// Clients are sent on to the address a broker advertises; it may be another one than that which answered.
async fn advertised(broker: &Broker) -> Option<Finding> {
    let Broker { id, host, port } = broker;
    let address = format!("{host}:{port}");
    let trouble = match timeout(CONNECT, TcpStream::connect(&address)).await {
        Ok(Ok(_)) => return None,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no connection within {} s", CONNECT.as_secs()),
    };
    let mend = "this is where the broker sends its clients (advertised.listeners): correct it there, or make the address reachable from here";
    Some(Finding::problem(Area::Brokers, format!("broker {id} at {address}"), trouble, mend))
}

fn protocol(kafka: &Kafka) -> String {
    let property = |name: &str| {
        let found = kafka.properties.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.expose().to_lowercase())
    };
    match property("security.protocol").as_deref() {
        None | Some("plaintext") => "plain text, without authentication".to_owned(),
        Some("ssl") => "TLS".to_owned(),
        Some(protocol) => {
            let mechanism = property("sasl.mechanism").or_else(|| property("sasl.mechanisms"));
            let tls = if protocol == "sasl_ssl" { "TLS" } else { "plain text" };
            format!("{tls}, authenticated by {}", mechanism.unwrap_or_else(|| "SASL".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        secret::Secret,
        settings::{Protocol, Start},
    };

    #[test]
    fn how_it_is_connected_is_said_without_secrets() {
        for (properties, expected) in [
            (&[][..], "plain text, without authentication"),
            (&[("security.protocol", "SSL")], "TLS"),
            (
                &[("security.protocol", "SASL_SSL"), ("sasl.mechanism", "PLAIN")],
                "TLS, authenticated by plain",
            ),
            (&[("security.protocol", "sasl_plaintext")], "plain text, authenticated by SASL"),
        ] {
            let secret = |(key, value): &(&str, &str)| ((*key).to_owned(), Secret::new((*value).to_owned()));
            let kafka = Kafka {
                brokers: "localhost:9092".to_owned(),
                group: "arauto".to_owned(),
                topics: Vec::new(),
                start: Start::Latest,
                protocol: Protocol::Auto,
                properties: properties.iter().map(secret).collect(),
            };
            assert_eq!(protocol(&kafka), expected);
        }
    }
}
