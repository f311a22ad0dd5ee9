//! The client against receivers that misbehave: every attempt ends in time, with the result that is true.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use arauto::{
    http::{Client, Target, guard::Guard},
    pipeline::outcome::{Attempt, AttemptResult, RetryAfter},
};
use bytes::Bytes;
use http_types::{HeaderMap, HeaderValue};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

use crate::raw::{Server, Then, certificate, certificate_until};

/// Long enough for a loaded machine where an answer comes, short where none does.
const PATIENT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(400);

fn local() -> Guard {
    Guard::new(&["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()])
}

fn client() -> Client {
    Client::new(local()).unwrap()
}

async fn post(client: &Client, url: &str, timeout: Duration) -> Attempt {
    let target = Target::new(&url.parse().unwrap(), timeout).unwrap();
    client.attempt(&target, HeaderMap::new(), Bytes::from_static(b"{}")).await
}

/// One attempt against a server that answers with these bytes.
async fn check(answer: &str, then: Then, timeout: Duration, expected: AttemptResult) -> Attempt {
    let server = Server::start(answer, then).await;
    let attempt = post(&client(), &format!("http://{}/", server.addr), timeout).await;
    assert_eq!(attempt.result, expected, "{answer:?} then {then:?}: {attempt:?}");
    attempt
}

#[tokio::test]
async fn what_is_sent_is_what_was_given() {
    let server = Server::start("HTTP/1.1 204 No Content\r\n\r\n", Then::Keep).await;
    let body = Bytes::from((0..=255).cycle().take(100_000).collect::<Vec<u8>>());
    let headers = HeaderMap::from_iter([(
        http_types::HeaderName::from_static("webhook-id"),
        HeaderValue::from_static("msg_1"),
    )]);
    let url = format!("http://{}/a%20b?c=d", server.addr).parse().unwrap();
    let target = Target::new(&url, PATIENT).unwrap();
    let attempt = client().attempt(&target, headers, body.clone()).await;
    assert_eq!((attempt.result, attempt.detail.as_str()), (AttemptResult::Status(204), ""));
    let [request] = &server.requests()[..] else { panic!("one request") };
    assert!(request.head.starts_with("POST /a%20b?c=d HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.header("webhook-id"), Some("msg_1"));
    assert_eq!(request.header("accept-encoding"), None);
    assert_eq!(request.header("host"), Some(&*server.addr.to_string()));
    assert!(request.body == body);
}

#[tokio::test]
async fn a_redirect_is_an_answer_not_a_direction() {
    let elsewhere = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Then::Keep).await;
    for status in [301, 302, 303, 307, 308] {
        let answer = format!(
            "HTTP/1.1 {status} Moved\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n",
            elsewhere.addr
        );
        check(&answer, Then::Keep, PATIENT, AttemptResult::Status(status)).await;
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn connections_are_used_again_after_bodies_below_the_cap() {
    let client = client();
    let body = "x".repeat(60 * 1024);
    let rows = [
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned(),
        format!("HTTP/1.1 500 Oops\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
    ];
    for answer in rows {
        let server = Server::start(answer.clone(), Then::Keep).await;
        for _ in 0..5 {
            post(&client, &format!("http://{}/", server.addr), PATIENT).await;
        }
        assert_eq!((server.requests().len(), server.connections()), (5, 1), "{answer:.40}");
    }
}

#[tokio::test]
async fn a_connection_closed_after_its_answer_is_not_used_again() {
    let server = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Then::Close).await;
    let client = client();
    for _ in 0..20 {
        let attempt = post(&client, &format!("http://{}/", server.addr), PATIENT).await;
        // Writing into a connection at the moment it closes is a race no client can win.
        assert!(matches!(attempt.result, AttemptResult::Status(200) | AttemptResult::Reset), "{attempt:?}");
    }
    assert!(server.connections() >= server.requests().len());
}

#[tokio::test]
async fn a_huge_body_is_cut_and_its_beginning_kept() {
    for head in ["HTTP/1.1 200 OK\r\n", "HTTP/1.1 500 Oops\r\n"] {
        for length in ["content-length: 1000000000\r\n\r\n", "\r\n"] {
            let status = head[9..12].parse().unwrap();
            let answer = format!("{head}{length}");
            let attempt = check(&answer, Then::Flood, PATIENT, AttemptResult::Status(status)).await;
            assert_eq!(attempt.detail, "x".repeat(2048));
            assert!(attempt.duration < PATIENT / 2, "{:?}", attempt.duration);
        }
    }
}

#[tokio::test]
async fn the_timeout_covers_the_body_and_a_2xx_counts_all_the_same() {
    let rows = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n", Then::Drip, AttemptResult::Status(200)),
        ("HTTP/1.1 202 OK\r\ncontent-length: 10000\r\n\r\n", Then::Hang, AttemptResult::Status(202)),
        ("HTTP/1.1 500 Oops\r\ncontent-length: 10000\r\n\r\n", Then::Drip, AttemptResult::Timeout),
        ("HTTP/1.1 404 Oops\r\ncontent-length: 10000\r\n\r\n", Then::Hang, AttemptResult::Timeout),
        ("", Then::Hang, AttemptResult::Timeout),
        ("HTTP/1.1 200 OK\r\nx-half: a", Then::Drip, AttemptResult::Timeout),
        ("HTTP/1.1 100 Continue\r\n\r\n", Then::Hang, AttemptResult::Timeout),
    ];
    for (answer, then, expected) in rows {
        let attempt = check(answer, then, SHORT, expected).await;
        assert!(attempt.duration >= SHORT, "{answer:?} ended after {:?}", attempt.duration);
        assert!(attempt.duration < SHORT + PATIENT / 2, "{answer:?} took {:?}", attempt.duration);
    }
}

#[tokio::test]
async fn a_connection_that_breaks() {
    let rows = [
        // Before a status line there is no answer; behind it there is.
        ("", AttemptResult::Reset),
        ("HTTP/1.1 20", AttemptResult::Reset),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello", AttemptResult::Status(200)),
        ("HTTP/1.1 500 Oops\r\ncontent-length: 100\r\n\r\nhello", AttemptResult::Status(500)),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", AttemptResult::Status(200)),
        ("HTTP/1.1 200 OK\r\n\r\nuntil the end", AttemptResult::Status(200)),
    ];
    for (answer, expected) in rows {
        check(answer, Then::Close, PATIENT, expected).await;
    }
}

#[tokio::test]
async fn what_is_not_http() {
    let rows = [
        "SSH-2.0-OpenSSH_9.9\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "\0\0\0\0\r\n\r\n",
    ];
    for answer in rows {
        check(answer, Then::Close, PATIENT, AttemptResult::Reset).await;
    }
}

#[tokio::test]
async fn surplus_bytes_are_not_the_next_answer() {
    let surplus = "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n";
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{surplus}");
    let server = Server::start(answer, Then::Keep).await;
    let client = client();
    for _ in 0..10 {
        let attempt = post(&client, &format!("http://{}/", server.addr), PATIENT).await;
        assert_eq!((attempt.result, attempt.detail.as_str()), (AttemptResult::Status(200), "ok"));
    }
}

#[tokio::test]
async fn interim_answers_are_not_the_answer() {
    let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let rows = [("201 Created", AttemptResult::Status(201)), ("503 Busy", AttemptResult::Status(503))];
    for (status, expected) in rows {
        let answer = format!("{early}HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        check(&answer, Then::Keep, PATIENT, expected).await;
    }
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    check(switch, Then::Close, PATIENT, AttemptResult::Status(101)).await;
}

#[tokio::test]
async fn bodies_are_not_decoded() {
    // The eight bytes say gzip, the header says gzip, and nobody looks inside.
    let answer = "HTTP/1.1 400 Bad\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x0b\x08.";
    let attempt = check(answer, Then::Keep, PATIENT, AttemptResult::Status(400)).await;
    assert_eq!(attempt.detail, "   .");
}

#[tokio::test]
async fn retry_after_is_read_in_both_forms() {
    let rows = [
        ("retry-after: 120\r\n", Some(RetryAfter::After(Duration::from_secs(120)))),
        ("Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n", Some(RetryAfter::At(946_684_799_000))),
        ("retry-after: later\r\n", None),
        ("", None),
    ];
    for (header, expected) in rows {
        let answer = format!("HTTP/1.1 503 Busy\r\n{header}content-length: 0\r\n\r\n");
        let attempt = check(&answer, Then::Keep, PATIENT, AttemptResult::Status(503)).await;
        assert_eq!(attempt.retry_after, expected, "{header:?}");
    }
}

#[tokio::test]
async fn no_connection_and_no_name() {
    let gone = Server::start("", Then::Close).await.addr;
    // The server was dropped, and with it goes its port.
    let deadline = Instant::now() + PATIENT;
    while tokio::net::TcpStream::connect(gone).await.is_ok() && Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    let attempt = post(&client(), &format!("http://{gone}/"), PATIENT).await;
    assert_eq!(attempt.result, AttemptResult::Connect, "{attempt:?}");
    assert!(!attempt.detail.contains("http://"), "the url may hold secrets: {}", attempt.detail);

    // A label of more than 63 characters resolves nowhere, and no name server is asked.
    let name = "x".repeat(64);
    let attempt = post(&client(), &format!("http://{name}.example/"), PATIENT).await;
    assert_eq!(attempt.result, AttemptResult::Dns, "{attempt:?}");
}

#[tokio::test]
async fn tls_that_cannot_be_trusted() {
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let (config, _) = certificate("127.0.0.1", &[]);
    let self_signed = Server::tls(config, OK).await;
    let (config, other) = certificate("other.example", &[]);
    let wrong_name = Server::tls(config, OK).await;
    let plain = Server::start("HTTP/1.1 400 Bad\r\ncontent-length: 0\r\n\r\n", Then::Close).await;
    let closing = Server::with(|stream, _| async move { drop(stream) }).await;
    let trusting = Client::with_roots(local(), &[other]).unwrap();
    let plain_talk = Server::with(|mut stream, _| async move {
        use tokio::io::AsyncWriteExt as _;
        stream.write_all(b"HTTP/1.1 400 Bad\r\n\r\n").await.unwrap();
        std::future::pending().await
    })
    .await;
    for server in [&self_signed, &wrong_name, &closing, &plain_talk] {
        let attempt = post(&trusting, &format!("https://{}/", server.addr), PATIENT).await;
        assert_eq!(attempt.result, AttemptResult::Tls, "{attempt:?}");
    }
    // One that waits for the end of a head that never comes.
    let attempt = post(&trusting, &format!("https://{}/", plain.addr), SHORT).await;
    assert!(matches!(attempt.result, AttemptResult::Timeout | AttemptResult::Tls), "{attempt:?}");
    assert!(self_signed.requests().is_empty() && wrong_name.requests().is_empty());
}

#[tokio::test]
async fn tls_with_a_trusted_root() {
    let (config, root) = certificate("127.0.0.1", &["http/1.1"]);
    let server = Server::tls(config, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let client = Client::with_roots(local(), &[root]).unwrap();
    for _ in 0..3 {
        let attempt = post(&client, &format!("https://{}/", server.addr), PATIENT).await;
        assert_eq!(attempt.result, AttemptResult::Status(200), "{attempt:?}");
    }
    assert_eq!((server.requests().len(), server.connections()), (3, 1));
}

/// Answers over HTTP/2 with 200; the path `/reset` is reset after its headers, `/refuse` before them.
async fn http2(bodies: Arc<Mutex<Vec<Bytes>>>) -> (Server, String) {
    let (config, root) = certificate("127.0.0.1", &["h2", "http/1.1"]);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = Server::with(move |stream, _| {
        let (acceptor, bodies) = (acceptor.clone(), Arc::clone(&bodies));
        async move {
            let stream = acceptor.accept(stream).await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((mut request, mut answer))) = connection.accept().await {
                if let Some(Ok(body)) = request.body_mut().data().await {
                    bodies.lock().unwrap().push(body);
                }
                let path = request.uri().path().to_owned();
                if path == "/refuse" {
                    answer.send_reset(h2::Reason::INTERNAL_ERROR);
                    continue;
                }
                let mut stream = answer.send_response(http_types::Response::new(()), path == "/").unwrap();
                if path == "/reset" {
                    // A reset drops what was not written yet; asking for a request that never comes writes it.
                    let written = timeout(SHORT, connection.accept()).await;
                    assert!(written.is_err());
                    stream.send_reset(h2::Reason::INTERNAL_ERROR);
                }
            }
        }
    })
    .await;
    (server, root)
}

#[tokio::test]
async fn http2_where_the_receiver_offers_it() {
    let bodies = Arc::default();
    let (server, root) = http2(Arc::clone(&bodies)).await;
    let client = Client::with_roots(local(), &[root]).unwrap();
    let rows = [
        ("/", AttemptResult::Status(200)),
        ("/reset", AttemptResult::Status(200)),
        ("/refuse", AttemptResult::Reset),
        ("/", AttemptResult::Status(200)),
    ];
    for (path, expected) in rows {
        let attempt = post(&client, &format!("https://{}{path}", server.addr), PATIENT).await;
        assert_eq!(attempt.result, expected, "{path}: {attempt:?}");
    }
    assert_eq!(server.connections(), 1);
    assert_eq!(*bodies.lock().unwrap(), vec![Bytes::from_static(b"{}"); 4]);
}

#[tokio::test]
async fn until_when_a_certificate_is_valid_is_known_from_the_connections_there_are() {
    let (config, root) = certificate("127.0.0.1", &["http/1.1"]);
    let valid = Server::tls(config, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let (config, old) = certificate_until("127.0.0.1", &[], 2021);
    let expired = Server::tls(config, "").await;
    let (config, _) = certificate("127.0.0.1", &[]);
    let refused = Server::tls(config, "").await;
    let client = Client::with_roots(local(), &[root, old]).unwrap();
    let servers = [&valid, &expired, &refused];
    let urls = servers.map(|server| format!("https://{}/hook", server.addr).parse::<url::Url>().unwrap());
    let ends = || urls.each_ref().map(|url| client.expiry().of(url));
    assert_eq!(ends(), [None; 3]);
    for url in urls.iter().flat_map(|url| [url; 3]) {
        post(&client, url.as_str(), PATIENT).await;
    }
    // 2099-12-31 and 2021-12-31; what is not trusted says nothing.
    assert_eq!(ends(), [Some(4_102_358_400_000), Some(1_640_908_800_000), None]);
    assert_eq!((client.expiry().changes(), valid.connections()), (2, 1));
}
