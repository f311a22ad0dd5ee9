//! Watched attempts: the same results as the client's, and what was seen on the way is true.

use std::time::Duration;

use arauto::{
    http::{
        Client, Target,
        guard::Guard,
        probe::{Prober, Seen},
    },
    pipeline::outcome::{Attempt, AttemptResult},
};
use bytes::Bytes;
use http_types::HeaderMap;

use crate::{
    raw::{Server, Then, certificate, certificate_until},
    support::raw::{Raw, refused_url},
};

const PATIENT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(400);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const BODY: Bytes = Bytes::from_static(b"{}");

fn local() -> Guard {
    Guard::new(&["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()])
}

fn target(url: &str, timeout: Duration) -> Target {
    Target::new(&url.parse().unwrap(), timeout).unwrap()
}

async fn post(roots: &[String], url: &str, timeout: Duration) -> (Attempt, Seen) {
    let prober = Prober::with_roots(local(), roots).unwrap();
    prober.attempt(&target(url, timeout), HeaderMap::new(), BODY).await.unwrap()
}

/// Connecting alone comes to this.
async fn reach(roots: &[String], url: &str, timeout: Duration) -> (Option<AttemptResult>, Seen) {
    let prober = Prober::with_roots(local(), roots).unwrap();
    let (reached, seen) = prober.reach(&target(url, timeout)).await.unwrap();
    (reached.err().map(|trouble| trouble.result), seen)
}

#[tokio::test]
async fn every_part_is_timed_and_together_they_are_the_whole() {
    let (config, root) = certificate("localhost", &["http/1.1"]);
    let server = Server::tls(config, OK).await;
    let url = format!("https://localhost:{}/", server.addr.port());
    let (attempt, seen) = post(std::slice::from_ref(&root), &url, PATIENT).await;
    assert_eq!((attempt.result, attempt.detail.as_str()), (AttemptResult::Status(200), "ok"));
    let phases = seen.phases;
    let parts = [phases.dns, phases.connect, phases.tls, phases.first_byte].map(Option::unwrap);
    assert!(parts.iter().all(|part| !part.is_zero()), "{phases:?}");
    assert!(parts.iter().sum::<Duration>() <= attempt.duration, "{phases:?} {attempt:?}");
    assert!(seen.addresses.contains(&server.addr.ip()), "{seen:?}");
    assert_eq!((seen.peer, seen.tls, seen.http2), (Some(server.addr), Some("TLS 1.3"), false));
    let certificate = seen.certificate.unwrap();
    assert_eq!((certificate.subject.as_str(), certificate.issuer.as_str()), ("a receiver", "a receiver"));
    assert_eq!(certificate.names, ["localhost"]);
    // 2099-12-31 and 2020-01-01.
    assert_eq!((certificate.not_after, certificate.not_before), (4_102_358_400_000, 1_577_836_800_000));

    // Connecting alone sees the same, but no answer, and asks for none.
    let (trouble, seen) = reach(&[root], &url, PATIENT).await;
    assert_eq!((trouble, seen.phases.first_byte), (None, None));
    assert!(seen.phases.tls.is_some() && seen.certificate.is_some_and(|seen| seen == certificate));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn what_does_not_take_place_takes_no_time() {
    let server = Server::start(OK, Then::Keep).await;
    let (attempt, seen) = post(&[], &format!("http://{}/", server.addr), PATIENT).await;
    assert_eq!(attempt.result, AttemptResult::Status(200));
    assert_eq!((seen.phases.dns, seen.phases.tls, seen.tls, seen.certificate), (None, None, None, None));
    assert!(seen.phases.connect.is_some() && seen.phases.first_byte.is_some());
    assert!(seen.addresses.is_empty());
}

#[tokio::test]
async fn the_certificate_is_seen_though_it_is_not_trusted() {
    let (config, other) = certificate("other.example", &[]);
    let (wrong_name, roots) = (Server::tls(config, OK).await, [other]);
    let (config, _) = certificate("127.0.0.1", &[]);
    let self_signed = Server::tls(config, OK).await;
    let (config, old) = certificate_until("127.0.0.1", &[], 2021);
    let (expired, old) = (Server::tls(config, OK).await, [old]);
    let rows = [
        (&wrong_name, &roots[..], "not valid for name"),
        (&self_signed, &[], "UnknownIssuer"),
        (&expired, &old, "expired"),
    ];
    for (server, roots, told) in rows {
        let url = format!("https://{}/", server.addr);
        let (attempt, seen) = post(roots, &url, PATIENT).await;
        assert_eq!(attempt.result, AttemptResult::Tls, "{attempt:?}");
        assert!(attempt.detail.contains(told), "{attempt:?}");
        assert!(seen.certificate.is_some() && seen.phases.tls.is_none(), "{seen:?}");
        assert_eq!(reach(roots, &url, PATIENT).await.0, Some(AttemptResult::Tls));
    }
    let (_, seen) = post(&old, &format!("https://{}/", expired.addr), PATIENT).await;
    assert_eq!(seen.certificate.unwrap().not_after, 1_640_908_800_000);
}

/// A probe of what fails says what a client says of it, word for word.
#[tokio::test]
async fn failures_are_those_of_an_attempt() {
    let silent = Raw::silent().await;
    let resetting = Raw::resetting().await;
    let no_name = format!("http://{}.example/", "x".repeat(64));
    let rows = [
        (silent.url(), AttemptResult::Timeout, None),
        (resetting.url(), AttemptResult::Reset, None),
        (refused_url(), AttemptResult::Connect, Some(AttemptResult::Connect)),
        (no_name, AttemptResult::Dns, Some(AttemptResult::Dns)),
        ("http://10.0.0.1/".to_owned(), AttemptResult::Blocked, Some(AttemptResult::Blocked)),
        (silent.url().replace("http:", "https:"), AttemptResult::Timeout, Some(AttemptResult::Timeout)),
    ];
    let client = Client::new(local()).unwrap();
    for (url, expected, connecting) in rows {
        let (attempt, seen) = post(&[], &url, SHORT).await;
        let same = client.attempt(&target(&url, SHORT), HeaderMap::new(), BODY).await;
        assert_eq!((attempt.result, &attempt.detail), (expected, &same.detail), "{url}");
        assert_eq!(same.result, expected, "{url}");
        assert_eq!(seen.phases.first_byte, None, "{url}");
        assert_eq!(reach(&[], &url, SHORT).await.0, connecting, "{url}");
    }
    // Names are judged by what they resolve to.
    let prober = Prober::new(Guard::new(&[])).unwrap();
    let url = target("http://localhost:1/", PATIENT);
    let (reached, seen) = prober.reach(&url).await.unwrap();
    assert_eq!(reached.unwrap_err().result, AttemptResult::Blocked);
    assert_eq!(seen.phases.dns, None, "what is refused was not resolved");
}

#[tokio::test]
async fn http2_is_seen_where_it_is_spoken() {
    let (config, root) = certificate("127.0.0.1", &["h2"]);
    let server = Server::tls(config, "").await;
    let (trouble, seen) = reach(&[root], &format!("https://{}/", server.addr), PATIENT).await;
    assert_eq!((trouble, seen.http2), (None, true));
}
