//! HTTP/2: one connection for all attempts, whatever the receiver does with it, and nothing sent twice that it may have
//! worked on.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use arauto::{
    http::{Client, Target, guard::Guard},
    pipeline::outcome::{Attempt, AttemptResult},
};
use bytes::Bytes;
use http_types::{HeaderMap, Response};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use crate::{
    frames::{Came, Frames, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM},
    raw::{Server, certificate},
};

/// Long enough for a loaded machine.
const PATIENT: Duration = Duration::from_secs(20);
const AT_ONCE: usize = 24;

fn client(root: String) -> Client {
    Client::with_roots(Guard::new(&["127.0.0.0/8".parse().unwrap()]), &[root]).unwrap()
}

fn target(server: &Server) -> Target {
    Target::new(&format!("https://{}/", server.addr).parse().unwrap(), PATIENT).unwrap()
}

async fn post(client: &Client, target: &Target, body: impl Into<Bytes>) -> Attempt {
    client.attempt(target, HeaderMap::new(), body.into()).await
}

async fn all_at_once(client: &Client, target: &Target, attempts: usize) -> Vec<AttemptResult> {
    let mut running = JoinSet::new();
    for _ in 0..attempts {
        let (client, target) = (client.clone(), target.clone());
        running.spawn(async move { post(&client, &target, "{}").await.result });
    }
    running.join_all().await
}

/// What the receiver does with the second request over its first connection.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// It has worked on what came up to this stream, and ends the connection for this reason.
    GoAway(u32, u32),
    /// The same, and the next connection refuses it.
    GoAwayAndRefuse(u32, u32),
    /// As `GoAway`, and answers first what it still may.
    AnswerAndGoAway,
    /// It resets the stream, the next ones too if this says so.
    Reset(u32, usize),
    /// The end of the connection.
    Close,
}

/// Answers all requests but the second one, and counts them.
async fn one_goes_wrong(then: Then) -> (Server, String, Arc<AtomicUsize>) {
    let (config, root) = certificate("127.0.0.1", &["h2"]);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let server = Server::with(move |stream, _| {
        let (acceptor, requests) = (acceptor.clone(), Arc::clone(&counted));
        async move {
            let mut frames = Frames::accept(&acceptor, stream, None).await.unwrap();
            while let Some(stream) = frames.request().await {
                let nth = requests.fetch_add(1, SeqCst) + 1;
                match then {
                    Then::GoAway(last, code) | Then::GoAwayAndRefuse(last, code) if nth == 2 => {
                        frames.go_away(last, code).await;
                        return frames.close().await;
                    }
                    Then::AnswerAndGoAway if nth == 2 => {
                        frames.go_away(stream, NO_ERROR).await;
                        frames.answer(stream).await;
                    }
                    Then::GoAwayAndRefuse(..) if nth == 3 => frames.reset(stream, REFUSED_STREAM).await,
                    Then::Reset(code, times) if (2..2 + times).contains(&nth) => {
                        frames.reset(stream, code).await;
                    }
                    Then::Close if nth == 2 => return frames.close().await,
                    _ => frames.answer(stream).await,
                }
            }
        }
    })
    .await;
    (server, root, requests)
}

#[tokio::test]
async fn only_what_the_receiver_has_not_looked_at_is_sent_again() {
    const OK: AttemptResult = AttemptResult::Status(200);
    const RESET: AttemptResult = AttemptResult::Reset;
    let rows = [
        // The first request is stream 1, the second one stream 3.
        (Then::GoAway(1, NO_ERROR), OK, (3, 2)),
        (Then::GoAway(3, NO_ERROR), RESET, (2, 1)),
        (Then::GoAway(1, INTERNAL_ERROR), RESET, (2, 1)),
        (Then::AnswerAndGoAway, OK, (2, 1)),
        (Then::Reset(REFUSED_STREAM, 1), OK, (3, 1)),
        // Once more, but not for ever.
        (Then::Reset(REFUSED_STREAM, 2), RESET, (3, 1)),
        // By two connections, each for a reason of its own.
        (Then::GoAwayAndRefuse(1, NO_ERROR), OK, (4, 2)),
        (Then::Reset(INTERNAL_ERROR, 1), RESET, (2, 1)),
        (Then::Close, RESET, (2, 1)),
    ];
    for (then, expected, counts) in rows {
        let (server, root, requests) = one_goes_wrong(then).await;
        let (client, target) = (client(root), target(&server));
        assert_eq!(post(&client, &target, "{}").await.result, OK, "{then:?}");
        let attempt = post(&client, &target, "{}").await;
        assert_eq!(attempt.result, expected, "{then:?}: {attempt:?}");
        assert_eq!((requests.load(SeqCst), server.connections()), counts, "{then:?}");
        // Whatever it was, it does not stand in the way of the next attempt.
        assert_eq!(post(&client, &target, "{}").await.result, OK, "{then:?}");
    }
}

/// Ends its first connection after one answer. Later it refuses what is above its limit, and answers as late as it can.
async fn limited(limit: u32, attempts: usize) -> (Server, String, Arc<AtomicUsize>) {
    let (config, root) = certificate("127.0.0.1", &["h2"]);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (most, first) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let server = Server::with(move |stream, _| {
        let (acceptor, most, first) = (acceptor.clone(), Arc::clone(&seen), Arc::clone(&first));
        async move {
            let mut frames = Frames::accept(&acceptor, stream, Some(limit)).await.unwrap();
            if first.fetch_add(1, SeqCst) == 0 {
                let stream = frames.request().await.unwrap();
                frames.answer(stream).await;
                frames.go_away(stream, NO_ERROR).await;
                return frames.close().await;
            }
            let (mut open, mut taken, mut refused) = (Vec::new(), 0, Vec::new());
            while let Some(came) = frames.next().await {
                match came {
                    Came::Begun(stream) if open.len() < limit as usize => {
                        open.push(stream);
                        taken += 1;
                        most.fetch_max(open.len(), SeqCst);
                    }
                    Came::Begun(stream) => {
                        refused.push(stream);
                        frames.reset(stream, REFUSED_STREAM).await;
                    }
                    Came::Ended(stream) if refused.contains(&stream) => {}
                    // As late as it can: when there is room for no more, or there will be no more.
                    Came::Ended(_) if open.len() == limit as usize || taken == attempts => {
                        for stream in open.drain(..) {
                            frames.answer(stream).await;
                        }
                    }
                    Came::Ended(_) => {}
                }
            }
        }
    })
    .await;
    (server, root, most)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_is_made_for_all_that_begin_at_once_and_no_more_streams_than_allowed() {
    for limit in [1, 3, 100] {
        let (server, root, most) = limited(limit, AT_ONCE).await;
        let (client, target) = (client(root), target(&server));
        assert_eq!(post(&client, &target, "{}").await.result, AttemptResult::Status(200));
        let results = all_at_once(&client, &target, AT_ONCE).await;
        assert_eq!(results, vec![AttemptResult::Status(200); AT_ONCE], "{limit}");
        assert_eq!(server.connections(), 2, "{limit}");
        assert_eq!(most.load(SeqCst), AT_ONCE.min(limit as usize), "{limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_both_ways_through_small_windows() {
    const UP: usize = 1024 * 1024;
    let answer = Bytes::from(vec![b'x'; 64 * 1024]);
    let (config, root) = certificate("127.0.0.1", &["h2"]);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&bodies);
    let server = Server::with(move |stream, _| {
        let (acceptor, bodies, answer) = (acceptor.clone(), Arc::clone(&seen), answer.clone());
        async move {
            let mut windows = h2::server::Builder::new();
            windows.initial_window_size(5_000).initial_connection_window_size(65_535);
            let stream = acceptor.accept(stream).await.unwrap();
            let mut connection = windows.handshake::<_, Bytes>(stream).await.unwrap();
            let mut running = JoinSet::new();
            while let Some(Ok((mut request, mut respond))) = connection.accept().await {
                let (bodies, answer) = (Arc::clone(&bodies), answer.clone());
                running.spawn(async move {
                    let mut body = Vec::new();
                    while let Some(Ok(part)) = request.body_mut().data().await {
                        body.extend_from_slice(&part);
                        request.body_mut().flow_control().release_capacity(part.len()).unwrap();
                    }
                    bodies.lock().unwrap().push(body);
                    let failed = Response::builder().status(500).body(()).unwrap();
                    respond.send_response(failed, false).unwrap().send_data(answer, true).unwrap();
                });
            }
        }
    })
    .await;
    let (client, target) = (client(root), target(&server));
    // Over one connection, so the first one makes it.
    post(&client, &target, "").await;
    let mut running = JoinSet::new();
    for nth in 0..8_u8 {
        let (client, target) = (client.clone(), target.clone());
        let body: Vec<u8> = (0..UP).map(|at| (at / 251) as u8 ^ at as u8 ^ nth).collect();
        running.spawn(async move { (post(&client, &target, body.clone()).await, body) });
    }
    let ended = running.join_all().await;
    let bodies = bodies.lock().unwrap();
    for (attempt, body) in ended {
        assert_eq!((attempt.result, attempt.detail.len()), (AttemptResult::Status(500), 2048), "{attempt:?}");
        assert!(bodies.contains(&body), "a body has changed on its way");
    }
    assert_eq!((bodies.len(), server.connections()), (9, 1));
}

/// Speaks what `speaks` says at the time.
async fn changing(speaks: Arc<Mutex<ServerConfig>>) -> Server {
    Server::with(move |stream, _| {
        let acceptor = TlsAcceptor::from(Arc::new(speaks.lock().unwrap().clone()));
        async move { serve(acceptor, stream).await }
    })
    .await
}

/// Answers one request over a connection and ends it.
async fn serve(acceptor: TlsAcceptor, stream: TcpStream) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    if acceptor.config().alpn_protocols == [b"h2"] {
        let mut frames = Frames::accept(&acceptor, stream, None).await.unwrap();
        let stream = frames.request().await.unwrap();
        frames.go_away(stream, NO_ERROR).await;
        frames.answer(stream).await;
        return frames.close().await;
    }
    let mut stream = acceptor.accept(stream).await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n{}") {
        request.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    stream.shutdown().await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_may_change_to_http1_and_back() {
    let (http2, root) = certificate("127.0.0.1", &["h2"]);
    let mut http1 = http2.clone();
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    let speaks = Arc::new(Mutex::new(http2.clone()));
    let server = changing(Arc::clone(&speaks)).await;
    let (client, target) = (client(root), target(&server));
    for (config, at_once) in [(&http2, 1), (&http1, AT_ONCE), (&http2, 1), (&http1, 1), (&http2, 1)] {
        *speaks.lock().unwrap() = config.clone();
        let results = all_at_once(&client, &target, at_once).await;
        assert_eq!(results, vec![AttemptResult::Status(200); at_once], "{:?}", config.alpn_protocols);
    }
}

#[tokio::test]
async fn one_that_waits_for_a_connection_in_vain_does_not_hold_up_the_others() {
    let (config, root) = certificate("127.0.0.1", &["h2"]);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let connections = Arc::new(AtomicUsize::new(0));
    let server = Server::with(move |stream, _| {
        let (acceptor, connections) = (acceptor.clone(), Arc::clone(&connections));
        async move {
            let nth = connections.fetch_add(1, SeqCst) + 1;
            if nth == 2 {
                // It is taken, and nothing comes of it.
                std::future::pending::<()>().await;
            }
            let mut frames = Frames::accept(&acceptor, stream, None).await.unwrap();
            while let Some(stream) = frames.request().await {
                frames.answer(stream).await;
                if nth == 1 {
                    frames.go_away(stream, NO_ERROR).await;
                    return frames.close().await;
                }
            }
        }
    })
    .await;
    let client = client(root);
    let target = Target::new(target(&server).url(), PATIENT / 2).unwrap();
    assert_eq!(post(&client, &target, "{}").await.result, AttemptResult::Status(200));
    let mut results = all_at_once(&client, &target, AT_ONCE).await;
    results.retain(|result| *result != AttemptResult::Status(200));
    assert_eq!(results, [AttemptResult::Timeout], "only the one whose connection it was");
}
