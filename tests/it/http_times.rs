//! Attempts with a clock on them: every part has its true time, and who first goes over a connection shows how it came
//! to be.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arauto::{
    http::{Client, Target, guard::Guard, timed::Times},
    pipeline::outcome::{Attempt, AttemptResult},
};
use bytes::Bytes;
use http_types::HeaderMap;

use crate::{
    raw::{Server, Then, certificate},
    support::hook::vacant,
};

const PATIENT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(400);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

fn client(roots: &[String]) -> Client {
    Client::with_roots(Guard::new(&["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]), roots)
        .unwrap()
}

/// One attempt, its parts in their order, those that did not come to an end with a `!`; their times fit together.
async fn attempt(client: &Client, url: &str, timeout: Duration) -> (Attempt, Vec<String>, Times) {
    let target = Target::new(&url.parse().unwrap(), timeout).unwrap();
    let before = SystemTime::now();
    let (attempt, times) = client.timed_attempt(&target, HeaderMap::new(), Bytes::from_static(b"{}")).await;
    assert!(before <= times.began() && times.wall(times.ended) <= SystemTime::now() + SHORT, "{times:?}");
    for phase in &times.phases {
        assert!(phase.from <= phase.to && phase.to <= times.ended, "{times:?}");
    }
    assert!(times.phases.windows(2).all(|pair| pair[0].to <= pair[1].from), "{times:?}");
    let parts =
        times.phases.iter().map(|phase| format!("{}{}", phase.name, if phase.done { "" } else { "!" }));
    (attempt, parts.collect(), times)
}

#[tokio::test]
async fn the_first_attempt_over_a_connection_shows_how_it_was_opened() {
    let (config, root) = certificate("localhost", &["http/1.1"]);
    let server = Server::tls(config, OK).await;
    let client = client(&[root]);
    let url = format!("https://localhost:{}/", server.addr.port());
    let (first, parts, times) = attempt(&client, &url, PATIENT).await;
    assert_eq!(first.result, AttemptResult::Status(200), "{first:?}");
    assert_eq!(parts, ["dns", "connect", "tls", "first_byte"]);
    assert!(times.wall(times.phases[0].from) >= times.began());
    assert_eq!(times.peer.map(|peer| peer.port()), Some(server.addr.port()));
    // A connection may not be back in the pool when it is wanted again; then there is another one, shown as well.
    let mut opened = 1;
    for _ in 0..10 {
        let (_, parts, times) = attempt(&client, &url, PATIENT).await;
        assert_eq!(times.peer.map(|peer| peer.port()), Some(server.addr.port()));
        assert_eq!(parts.last().map(String::as_str), Some("first_byte"));
        opened += usize::from(parts.len() > 1);
    }
    assert!(opened <= server.connections() && opened < 11, "{opened} of {}", server.connections());
}

#[tokio::test]
async fn a_part_that_failed_is_the_last_one() {
    let client = client(&[]);
    let (config, _) = certificate("localhost", &["http/1.1"]);
    let untrusted = Server::tls(config, OK).await;
    let silent = Server::start("", Then::Hang).await;
    let rows = [
        (format!("http://{}/", vacant().await), PATIENT, vec!["connect!"], AttemptResult::Connect),
        ("http://no-such-name.invalid/".to_owned(), PATIENT, vec!["dns!"], AttemptResult::Dns),
        (format!("https://{}/", untrusted.addr), PATIENT, vec!["connect", "tls!"], AttemptResult::Tls),
        (format!("http://{}/", silent.addr), SHORT, vec!["connect", "first_byte!"], AttemptResult::Timeout),
        ("http://10.1.2.3/".to_owned(), PATIENT, vec![], AttemptResult::Blocked),
    ];
    for (url, timeout, expected, result) in rows {
        let (attempt, parts, _) = attempt(&client, &url, timeout).await;
        assert_eq!(
            (parts, attempt.result),
            (expected.into_iter().map(str::to_owned).collect(), result),
            "{url}"
        );
    }
}

/// Attempts without a clock open connections nobody knows anything of; attempts with one share what they opened.
#[tokio::test(flavor = "multi_thread")]
async fn every_connection_is_shown_once_at_most() {
    const AT_ONCE: usize = 16;
    let server = Server::start(OK, Then::Keep).await;
    let client = client(&[]);
    let url: Arc<str> = format!("http://{}/", server.addr).into();
    let target = Target::new(&url.parse().unwrap(), PATIENT).unwrap();
    client.attempt(&target, HeaderMap::new(), Bytes::new()).await;
    let mut shown = 0;
    for at_once in [1, 1, 1, AT_ONCE, AT_ONCE, AT_ONCE] {
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..at_once {
            let (client, url) = (client.clone(), Arc::clone(&url));
            running.spawn(async move { attempt(&client, &url, PATIENT).await.1 });
        }
        for parts in running.join_all().await {
            assert_eq!(parts.last().map(String::as_str), Some("first_byte"));
            shown += usize::from(parts.len() == 2);
        }
    }
    // The first one was opened without a clock.
    assert!((1..server.connections()).contains(&shown), "{shown} of {} shown", server.connections());
}
