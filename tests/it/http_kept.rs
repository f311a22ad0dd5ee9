//! Kept connections of HTTP/1.1: used again while they are good, replaced when they are not, and never twice for what a
//! receiver may have worked on.

use std::{
    future::{Future as _, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use arauto::{
    http::{Client, Target, guard::Guard},
    pipeline::outcome::{Attempt, AttemptResult},
};
use bytes::Bytes;
use http_types::HeaderMap;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Barrier, Notify},
    task::{JoinSet, coop},
    time::Instant,
};

use crate::{
    raw::{Server, Then, certificate, read},
    support::{PATIENCE, until},
};

/// Long enough for a loaded machine where an answer comes, short where none does.
const PATIENT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(400);
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn client() -> Client {
    Client::new(Guard::new(&["127.0.0.0/8".parse().unwrap()])).unwrap()
}

fn target(server: &Server, timeout: Duration) -> Target {
    Target::new(&format!("http://{}/", server.addr).parse().unwrap(), timeout).unwrap()
}

async fn post(client: &Client, target: &Target, body: impl Into<Bytes>) -> Attempt {
    client.attempt(target, HeaderMap::new(), body.into()).await
}

/// How a receiver gives up a connection.
#[derive(Debug, Clone, Copy)]
enum End {
    Close,
    Reset,
    /// As some do when nothing more comes over a connection.
    TimedOut,
}

async fn end(mut stream: TcpStream, end: End) {
    match end {
        End::Close => {}
        End::Reset => stream.set_zero_linger().unwrap(),
        End::TimedOut => {
            stream.write_all(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n").await.unwrap();
        }
    }
}

/// Answers one request over each connection, and gives it up when it is told to.
struct OneEach {
    server: Server,
    give_up: Arc<Notify>,
    given_up: Arc<AtomicUsize>,
}

impl OneEach {
    async fn start(how: End) -> Self {
        let (give_up, given_up) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (told, counted) = (Arc::clone(&give_up), Arc::clone(&given_up));
        let server = Server::with(move |mut stream, log| {
            let (give_up, given_up) = (Arc::clone(&told), Arc::clone(&counted));
            async move {
                let Some(request) = read(&mut stream).await else { return };
                log.note(request);
                stream.write_all(OK).await.unwrap();
                give_up.notified().await;
                end(stream, how).await;
                given_up.fetch_add(1, SeqCst);
            }
        })
        .await;
        Self { server, give_up, given_up }
    }

    /// Gives up the connection there is, so that this process knows.
    async fn give_up(&self) {
        let before = self.given_up.load(SeqCst);
        self.give_up.notify_one();
        until(PATIENCE, "the end of a connection", async || self.given_up.load(SeqCst) > before).await;
        // The runtime is told of what happened to sockets in its order, so whoever knows of this one knows of that one.
        let later = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (there, here) = tokio::join!(TcpStream::connect(later.local_addr().unwrap()), later.accept());
        assert!(there.is_ok() && here.is_ok());
    }
}

/// Attempts, each over a connection that the receiver gives up afterwards; `before` comes before each.
async fn each_given_up(before: impl AsyncFn()) {
    for how in [End::Close, End::Reset, End::TimedOut] {
        let receiver = OneEach::start(how).await;
        let (client, target) = (client(), target(&receiver.server, PATIENT));
        for nth in 1..=10 {
            before().await;
            let attempt = post(&client, &target, "{}").await;
            assert_eq!(attempt.result, AttemptResult::Status(200), "{how:?}, attempt {nth}: {attempt:?}");
            assert_eq!(
                (receiver.server.requests().len(), receiver.server.connections()),
                (nth, nth),
                "{how:?}"
            );
            receiver.give_up().await;
        }
    }
}

#[tokio::test]
async fn a_kept_connection_the_receiver_gave_up_costs_no_attempt() {
    each_given_up(async || {}).await;
}

/// Takes all of the task's share of the runtime, so that nothing it asks its sockets is answered.
async fn use_up_the_share() {
    poll_fn(|context| {
        while pin!(coop::consume_budget()).poll(context).is_ready() {}
        Poll::Ready(())
    })
    .await;
}

/// Then nobody can look before a connection is handed out, and only what is sent finds it closed.
#[tokio::test]
async fn nor_does_one_whose_end_is_found_when_the_request_is_on_its_way() {
    each_given_up(use_up_the_share).await;
}

#[tokio::test]
async fn what_was_written_and_then_broken_off_is_not_sent_again() {
    for how in [End::Close, End::Reset] {
        // Read to its end by the receiver, or to the middle of its body.
        for (body, length) in [("{}".to_owned(), 2), ("x".repeat(8 << 20), 1000)] {
            let begun = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&begun);
            let server = Server::with(move |mut stream, log| {
                let begun = Arc::clone(&counted);
                async move {
                    let Some(request) = read(&mut stream).await else { return };
                    log.note(request);
                    stream.write_all(OK).await.unwrap();
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    begun.fetch_add(1, SeqCst);
                    stream.read_exact(&mut vec![0; length]).await.unwrap();
                    end(stream, how).await;
                }
            })
            .await;
            let (client, target) = (client(), target(&server, PATIENT));
            assert_eq!(post(&client, &target, "{}").await.result, AttemptResult::Status(200));
            let attempt = post(&client, &target, body).await;
            assert_eq!(attempt.result, AttemptResult::Reset, "{how:?}: {attempt:?}");
            let counts = (server.requests().len(), begun.load(SeqCst), server.connections());
            assert_eq!(counts, (1, 1, 1), "{how:?}");
            assert_eq!(post(&client, &target, "{}").await.result, AttemptResult::Status(200));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_attempts_as_there_are_at_a_time_make_no_more_connections() {
    const AT_ONCE: usize = 16;
    let server = Server::start(OK, Then::Keep).await;
    let (client, target) = (client(), target(&server, PATIENT));
    let mut running = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (client, target) = (client.clone(), target.clone());
        running.spawn(async move {
            for _ in 0..50 {
                assert_eq!(post(&client, &target, "{}").await.result, AttemptResult::Status(200));
            }
        });
    }
    running.join_all().await;
    assert_eq!(server.requests().len(), 50 * AT_ONCE);
    assert!(server.connections() <= AT_ONCE, "{} connections", server.connections());
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_is_the_answer() {
    const LARGE: usize = 32 << 20;
    let early = |closes: bool| {
        Server::with(move |mut stream, _| async move {
            stream.read_exact(&mut [0; 100]).await.unwrap();
            stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
            if !closes {
                std::future::pending::<()>().await;
            }
        })
    };
    let (client, body) = (client(), Bytes::from(vec![b'x'; LARGE]));
    let open = early(false).await;
    let target_open = target(&open, PATIENT);
    for connections in 1..=3 {
        let attempt = post(&client, &target_open, body.clone()).await;
        assert_eq!((attempt.result, &*attempt.detail), (AttemptResult::Status(413), "no"));
        // The rest of the request is still to come over it.
        assert_eq!(open.connections(), connections);
    }
    let closing = early(true).await;
    let attempt = post(&client, &target(&closing, PATIENT), body).await;
    // What was not read resets the connection, and that may be noticed by the next write before the answer is read.
    assert!(matches!(attempt.result, AttemptResult::Status(413) | AttemptResult::Reset), "{attempt:?}");
    assert_eq!(closing.connections(), 1);
}

#[tokio::test]
async fn the_late_answer_to_one_attempt_is_not_that_to_the_next() {
    let late = Arc::new(Notify::new());
    let holds = Arc::clone(&late);
    let server = Server::with(move |mut stream, log| {
        let late = Arc::clone(&holds);
        async move {
            while let Some(request) = read(&mut stream).await {
                let first = log.note(request) == 1;
                if first {
                    late.notified().await;
                    stream.write_all(b"HTTP/1.1 500 Late\r\ncontent-length: 0\r\n\r\n").await.ok();
                } else {
                    stream.write_all(OK).await.unwrap();
                }
            }
        }
    })
    .await;
    let client = client();
    let attempt = post(&client, &target(&server, SHORT), "{}").await;
    assert_eq!(attempt.result, AttemptResult::Timeout);
    for _ in 0..3 {
        late.notify_one();
        let attempt = post(&client, &target(&server, PATIENT), "{}").await;
        assert_eq!(attempt.result, AttemptResult::Status(200), "{attempt:?}");
    }
    assert_eq!(server.connections(), 2);
}

/// More than a task may find closed at a time, so that a sweep that is held to its share leaves some.
#[tokio::test]
async fn connections_that_receivers_closed_are_closed_within_one_sweep() {
    const KEPT: usize = 150;
    let (all, kept) = (Arc::new(Barrier::new(KEPT)), Arc::new(Barrier::new(KEPT + 1)));
    let gone = Arc::new(Mutex::new(Vec::new()));
    let (noted, known_kept) = (Arc::clone(&gone), Arc::clone(&kept));
    let server = Server::with(move |mut stream, _| {
        let (all, kept, gone) = (Arc::clone(&all), Arc::clone(&known_kept), Arc::clone(&noted));
        async move {
            read(&mut stream).await.unwrap();
            all.wait().await;
            stream.write_all(OK).await.unwrap();
            kept.wait().await;
            stream.shutdown().await.unwrap();
            // The other half ends when the other side notices.
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
            gone.lock().unwrap().push(Instant::now());
        }
    })
    .await;
    let (client, target) = (client(), target(&server, PATIENT));
    let mut running = JoinSet::new();
    for _ in 0..KEPT {
        let (client, target) = (client.clone(), target.clone());
        running.spawn(async move { post(&client, &target, "{}").await.result });
    }
    assert_eq!(running.join_all().await, vec![AttemptResult::Status(200); KEPT]);
    kept.wait().await;
    until(PATIENCE, "the end of all connections", async || gone.lock().unwrap().len() == KEPT).await;
    let gone = gone.lock().unwrap();
    let spread = *gone.iter().max().unwrap() - *gone.iter().min().unwrap();
    // A second sweep would be 5 s later.
    assert!(spread < Duration::from_secs(4), "{spread:?}");
}

#[tokio::test]
async fn clients_share_no_connections_though_they_share_a_target() {
    let (config, root) = certificate("127.0.0.1", &[]);
    let server = Server::tls(config, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let trusting = Client::with_roots(Guard::new(&["127.0.0.0/8".parse().unwrap()]), &[root]).unwrap();
    let url = format!("https://{}/", server.addr).parse().unwrap();
    let target = Target::new(&url, PATIENT).unwrap();
    for _ in 0..2 {
        assert_eq!(post(&trusting, &target, "{}").await.result, AttemptResult::Status(200));
        assert_eq!(post(&client(), &target, "{}").await.result, AttemptResult::Tls);
    }
    assert_eq!((server.requests().len(), server.connections()), (2, 3));
}
