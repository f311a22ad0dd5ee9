//! A webhook receiver that verifies, counts, and can be told to fail or dawdle.
//!
//! For `arauto dev`, `arauto listen`, tests and benches; never part of a delivery. It trusts nothing it receives,
//! and its memory is bounded by its options. `GET /stats` answers with the counts; all else is taken for a webhook.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    convert::Infallible,
    future::Future,
    hash::{BuildHasher, RandomState},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    response::Response,
    routing::get,
    serve::ListenerExt,
};
use http_types::{HeaderMap, Method, StatusCode, Uri};
use serde::Serialize;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::script::{Step, Steps};
use crate::{
    http::forward::{Forwarder, NoAnswer},
    pipeline::sign::{self, verify},
};

/// Larger than any record a broker takes by default (1 MB), small enough to hold a few.
const LARGEST_BODY: usize = 64 * 1024 * 1024;

/// What to listen on and how to behave.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub addr: SocketAddr,
    /// Keys to verify with; without any nothing is verified.
    pub keys: Vec<verify::Key>,
    /// How to answer.
    pub script: Script,
    /// How to answer on these paths instead.
    pub paths: HashMap<String, Script>,
    /// How many of the last requests to keep whole.
    pub keep: usize,
    /// How many ids to remember for telling duplicates; the oldest are forgotten.
    pub remember: usize,
    /// Where to tell of each request when it is answered, or known not to be. A full channel loses the telling, never
    /// the request.
    pub tell: Option<mpsc::Sender<Arc<Received>>>,
    /// Who answers instead of the scripts; gets only what verifies, if there are keys.
    pub forward: Option<Forwarder>,
}

/// How requests are answered, counted per script. What fails is answered with `fail_status`.
#[derive(Debug, Clone)]
pub struct Script {
    /// The status of what does not fail.
    pub status: u16,
    /// The status of what fails.
    pub fail_status: u16,
    /// The first this many requests fail.
    pub fail_first: u64,
    /// This share of requests fails, 0 to 100; which ones looks random and is the same in every run.
    pub fail_percent: u8,
    /// Time before the answer.
    pub delay: Duration,
    /// Takes requests and never answers.
    pub never: bool,
    /// Headers of every answer, e.g. `retry-after`.
    pub headers: Vec<(String, String)>,
    /// Answers step by step, instead of all the above.
    pub steps: Option<Steps>,
}

/// One webhook as it came in.
#[derive(Debug, Clone)]
pub struct Received {
    /// When it was complete, unix milliseconds.
    pub at_ms: i64,
    /// Path and query.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// What verifying said; `None` without keys.
    pub verified: Option<Result<(), verify::Refused>>,
    /// The status it is answered with; `None`: it is not answered.
    pub status: Option<u16>,
    /// Why it was not forwarded, or what came of that.
    pub note: Option<String>,
    /// Was its id answered with 2xx on this path before?
    pub duplicate: bool,
}

/// Counts since the start. Ids are told apart per path, since one event has the same id at every endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests received whole.
    pub received: u64,
    /// Different ids among them.
    pub unique: u64,
    /// Requests whose id had been answered with 2xx before: a retry of what failed is none.
    pub duplicates: u64,
    /// Requests whose signature is good.
    pub verified: u64,
    /// Requests whose signature is not.
    pub failed_verification: u64,
    /// Answers by status.
    pub answered: BTreeMap<u16, u64>,
}

/// The server; does nothing until it is run.
pub struct Receiver {
    listener: TcpListener,
    shared: Arc<Shared>,
}

/// Asks a receiver what it has seen.
#[derive(Clone)]
pub struct Handle {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    hasher: RandomState,
    seen: Mutex<Seen>,
    changed: Notify,
    stop: CancellationToken,
}

#[derive(Default)]
struct Seen {
    stats: Stats,
    /// Requests so far by the path their script is for; `""` is every other path.
    numbers: HashMap<String, u64>,
    /// Hash of path and id, and whether it was answered with 2xx.
    ids: HashMap<u64, bool>,
    /// The same in the order they came, to forget the oldest.
    order: VecDeque<u64>,
    last: VecDeque<Arc<Received>>,
}

impl Options {
    /// Answers 200 at once, verifies nothing, keeps the last 1,000 requests and a million ids.
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            keys: Vec::new(),
            script: Script::default(),
            paths: HashMap::new(),
            keep: 1_000,
            remember: 1_000_000,
            tell: None,
            forward: None,
        }
    }
}

impl Default for Script {
    fn default() -> Self {
        Self {
            status: 200,
            fail_status: 500,
            fail_first: 0,
            fail_percent: 0,
            delay: Duration::ZERO,
            never: false,
            headers: Vec::new(),
            steps: None,
        }
    }
}

impl Script {
    /// What the `number`th request (from 0) gets.
    fn step(&self, number: u64) -> Step {
        match &self.steps {
            Some(steps) => steps.at(number).clone(),
            None => Step {
                status: (!self.never).then(|| self.status(number)),
                delay: self.delay,
                headers: self.headers.clone(),
            },
        }
    }

    /// The status for the `number`th request (from 0).
    fn status(&self, number: u64) -> u16 {
        let failed = number < self.fail_first || scatter(number) % 100 < u64::from(self.fail_percent);
        if failed { self.fail_status } else { self.status }
    }
}

impl Received {
    /// A header as text; empty when it is missing or no text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The `webhook-id`.
    pub fn id(&self) -> &str {
        self.header(sign::ID.as_str())
    }
}

impl Receiver {
    /// Binds the address.
    pub async fn bind(options: Options) -> io::Result<(Self, Handle)> {
        let listener = TcpListener::bind(options.addr).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            options,
            hasher: RandomState::new(),
            seen: Mutex::default(),
            changed: Notify::new(),
            stop: CancellationToken::new(),
        });
        Ok((Self { listener, shared: Arc::clone(&shared) }, Handle { addr, shared }))
    }

    /// Serves until told to stop; answers under way are given, delays cut short.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        let shared = self.shared;
        let routes = Router::new()
            .route("/stats", get(stats).fallback(webhook))
            .fallback(webhook)
            .layer(DefaultBodyLimit::max(LARGEST_BODY))
            .with_state(Arc::clone(&shared));
        // Without this an answer would wait for the other side's delayed acknowledgement.
        let listener = self.listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot switch off nagle's algorithm");
            }
        });
        let stopped = async move {
            stop.cancelled().await;
            shared.stop.cancel();
        };
        axum::serve(listener, routes).with_graceful_shutdown(stopped).await
    }
}

impl Handle {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its URL with a path (which begins with `/`).
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// The counts now.
    pub fn stats(&self) -> Stats {
        self.shared.seen().stats.clone()
    }

    /// The last requests, oldest first.
    pub fn last(&self) -> Vec<Arc<Received>> {
        self.shared.seen().last.iter().cloned().collect()
    }

    /// Waits until the counts are as asked; `false` when they are not by the deadline.
    pub async fn until(&self, longest: Duration, done: impl Fn(&Stats) -> bool) -> bool {
        let reached = async {
            loop {
                let changed = self.shared.changed.notified();
                tokio::pin!(changed);
                // Registered before looking, so that no change falls between.
                changed.as_mut().enable();
                if done(&self.shared.seen().stats) {
                    return;
                }
                changed.await;
            }
        };
        timeout(longest, reached).await.is_ok()
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The script for a path, and the name its requests are numbered under.
    fn script(&self, path: &str) -> (&str, &Script) {
        let own = self.options.paths.get_key_value(path);
        own.map_or(("", &self.options.script), |(path, script)| (path, script))
    }

    fn verify(&self, headers: &HeaderMap, body: &[u8], at_ms: i64) -> Option<Result<(), verify::Refused>> {
        let keys = &self.options.keys;
        (!keys.is_empty()).then(|| verify::verify(keys, headers, body, at_ms.div_euclid(1000)))
    }

    /// Counts a request and decides its answer.
    fn receive(&self, uri: &Uri, headers: HeaderMap, body: Bytes) -> (Received, u64, Step) {
        let at_ms = now_ms();
        let verified = self.verify(&headers, &body, at_ms);
        let id = headers.get(sign::ID).map(|value| value.as_bytes()).unwrap_or_default();
        let key = self.hasher.hash_one((uri.path(), id));
        let mut seen = self.seen();
        seen.stats.received += 1;
        match verified {
            Some(Ok(())) => seen.stats.verified += 1,
            Some(Err(_)) => seen.stats.failed_verification += 1,
            None => {}
        }
        let (name, script) = self.script(uri.path());
        let number = seen.number(name);
        let duplicate = seen.note(key, self.options.remember);
        let step = script.step(number);
        let path = uri.path_and_query().map_or_else(|| uri.path().to_owned(), ToString::to_string);
        let (status, note) = (step.status, None);
        (Received { at_ms, path, headers, body, verified, status, note, duplicate }, key, step)
    }

    /// Counts the answer and tells of it.
    fn answered(&self, received: Received, key: u64) {
        let received = Arc::new(received);
        let mut seen = self.seen();
        let status = received.status.unwrap_or_default();
        *seen.stats.answered.entry(status).or_default() += 1;
        if (200..300).contains(&status)
            && let Some(accepted) = seen.ids.get_mut(&key)
        {
            *accepted = true;
        }
        if self.options.keep > 0 {
            if seen.last.len() == self.options.keep {
                seen.last.pop_front();
            }
            seen.last.push_back(Arc::clone(&received));
        }
        // Still under the lock: whoever sees the counts finds in the channel what was counted.
        self.tell(received);
        drop(seen);
        self.changed.notify_waiters();
    }

    fn tell(&self, received: Arc<Received>) {
        if let Some(tell) = &self.options.tell
            && tell.try_send(received).is_err()
        {
            tracing::debug!("a webhook was counted but not shown");
        }
    }
}

impl Seen {
    /// Which request of this script it is, from 0.
    fn number(&mut self, script: &str) -> u64 {
        if let Some(number) = self.numbers.get_mut(script) {
            *number += 1;
            return *number;
        }
        self.numbers.insert(script.to_owned(), 0);
        0
    }

    /// Remembers an id; answers whether it had been answered with 2xx.
    fn note(&mut self, key: u64, remember: usize) -> bool {
        if let Some(&accepted) = self.ids.get(&key) {
            self.stats.duplicates += u64::from(accepted);
            return accepted;
        }
        self.stats.unique += 1;
        if self.order.len() >= remember
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        self.ids.insert(key, false);
        self.order.push_back(key);
        false
    }
}

async fn stats(State(shared): State<Arc<Shared>>) -> Json<Stats> {
    Json(shared.seen().stats.clone())
}

async fn webhook(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (mut received, key, step) = shared.receive(&uri, headers, body);
    shared.changed.notify_waiters();
    if let Some(forwarder) = &shared.options.forward {
        let answer = hand_on(forwarder, method, &mut received).await;
        shared.answered(received, key);
        return answer;
    }
    let Some(status) = step.status else {
        shared.tell(Arc::new(received));
        or_stopped(&shared.stop, std::future::pending::<Infallible>()).await;
        return answer(503, &[]);
    };
    if !step.delay.is_zero() {
        or_stopped(&shared.stop, tokio::time::sleep(step.delay)).await;
    }
    let answer = answer(status, &step.headers);
    shared.answered(received, key);
    answer
}

/// Lets another server answer, if the request is what it says it is.
async fn hand_on(forwarder: &Forwarder, method: Method, received: &mut Received) -> Response {
    let (status, note) = if matches!(received.verified, Some(Err(_))) {
        (StatusCode::UNAUTHORIZED, "not forwarded".to_owned())
    } else {
        let body = received.body.clone();
        match forwarder.forward(method, &received.path, &received.headers, body).await {
            Ok(forwarded) => {
                received.status = Some(forwarded.status.as_u16());
                let mut answer = Response::new(Body::from(forwarded.body));
                *answer.status_mut() = forwarded.status;
                *answer.headers_mut() = forwarded.headers;
                return answer;
            }
            Err(error @ NoAnswer::Failed(_)) => (StatusCode::BAD_GATEWAY, error.to_string()),
            Err(error @ NoAnswer::TooLate) => (StatusCode::GATEWAY_TIMEOUT, error.to_string()),
        }
    };
    received.status = Some(status.as_u16());
    let mut answer = Response::new(Body::from(note.clone()));
    *answer.status_mut() = status;
    received.note = Some(note);
    answer
}

async fn or_stopped<T>(stop: &CancellationToken, work: impl Future<Output = T>) {
    tokio::select! {
        _ = work => {}
        () = stop.cancelled() => {}
    }
}

fn answer(status: u16, headers: &[(String, String)]) -> Response {
    let mut answer = Response::builder().status(StatusCode::from_u16(status).unwrap_or(StatusCode::OK));
    for (name, value) in headers {
        answer = answer.header(name, value);
    }
    // A script with an illegal header is the writer's mistake; it shows as 500 instead of ending the receiver.
    answer.body(Body::empty()).unwrap_or_else(|error| {
        tracing::warn!(%error, "the receiver's script has an illegal header");
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        answer
    })
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// `SplitMix64`'s finaliser (<https://prng.di.unimi.it/splitmix64.c>): neighbours give unrelated numbers.
fn scatter(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_decide_by_number() {
        let check = |script: &Script, expected: &[u16]| {
            let got: Vec<u16> = (0..).take(expected.len()).map(|number| script.status(number)).collect();
            assert_eq!(got, expected);
        };
        check(&Script { status: 204, ..Script::default() }, &[204, 204]);
        check(&Script { fail_first: 2, fail_status: 503, ..Script::default() }, &[503, 503, 200, 200]);
        check(&Script { fail_percent: 100, ..Script::default() }, &[500, 500, 500]);
        let third = Script { fail_percent: 30, ..Script::default() };
        let failed = (0..10_000).filter(|&number| third.status(number) == 500).count();
        assert!((2_850..3_150).contains(&failed), "{failed}");
    }

    #[test]
    fn ids_are_forgotten_oldest_first() {
        let mut seen = Seen::default();
        for key in [1, 2, 3] {
            assert!(!seen.note(key, 2));
            seen.ids.insert(key, true);
        }
        assert!(seen.note(3, 2) && seen.note(2, 2));
        assert!(!seen.note(1, 2), "forgotten");
        assert_eq!((seen.stats.unique, seen.stats.duplicates), (4, 2));
        assert_eq!(seen.ids.len(), 2);
    }
}
