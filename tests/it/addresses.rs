//! No webhook reaches an address that is not public, however the URL spells it, unless it is allowed.

use std::time::Duration;

use arauto::{
    http::{Client, Target, guard::Guard},
    pipeline::outcome::{Attempt, AttemptResult},
};
use bytes::Bytes;
use http_types::HeaderMap;

use crate::raw::{Server, Then};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

async fn post(allow: &[&str], scheme: &str, host: &str, port: u16) -> Attempt {
    let allow: Vec<_> = allow.iter().map(|net| net.parse().unwrap()).collect();
    let client = Client::new(Guard::new(&allow)).unwrap();
    let url = format!("{scheme}://{host}:{port}/").parse().unwrap();
    let target = Target::new(&url, Duration::from_secs(20)).unwrap();
    client.attempt(&target, HeaderMap::new(), Bytes::new()).await
}

#[tokio::test]
async fn literal_addresses_are_refused_without_a_connection() {
    let server = Server::start(OK, Then::Keep).await;
    let hosts = [
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "127.0.0.1.",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "169.254.169.254",
        "10.0.0.1",
        "[fd00:ec2::254]",
    ];
    for host in hosts {
        for scheme in ["http", "https"] {
            let attempt = post(&["192.168.0.0/16"], scheme, host, server.addr.port()).await;
            assert_eq!(attempt.result, AttemptResult::Blocked, "{host}: {attempt:?}");
            assert!(attempt.detail.contains("security.allow"), "{}", attempt.detail);
        }
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_name_that_resolves_to_a_private_address_is_refused() {
    let server = Server::start(OK, Then::Keep).await;
    for host in ["localhost", "LOCALHOST"] {
        for scheme in ["http", "https"] {
            let attempt = post(&["10.0.0.0/8"], scheme, host, server.addr.port()).await;
            assert_eq!(attempt.result, AttemptResult::Blocked, "{host}: {attempt:?}");
            assert!(attempt.detail.contains("(loopback)"), "{}", attempt.detail);
        }
    }
    // With its dot it is the same name to some resolvers and unknown to others.
    let attempt = post(&[], "http", "localhost.", server.addr.port()).await;
    assert!(matches!(attempt.result, AttemptResult::Blocked | AttemptResult::Dns), "{attempt:?}");
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn allowed_networks_are_reached_by_name_and_by_address() {
    let server = Server::start(OK, Then::Keep).await;
    for host in ["localhost", "127.0.0.1", "2130706433", "[::ffff:127.0.0.1]"] {
        let attempt = post(&["127.0.0.0/8", "::1/128"], "http", host, server.addr.port()).await;
        assert_eq!(attempt.result, AttemptResult::Status(200), "{host}: {attempt:?}");
    }
    assert_eq!(server.requests().len(), 4);
}
