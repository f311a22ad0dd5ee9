//! A webhook receiver on port 0 that answers as a test tells it to and remembers every request it got.
//!
//! It verifies nothing and de-duplicates nothing: what came is what [`Hook::requests`] shows. Receivers that
//! break HTTP itself are in `raw.rs`.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle, time::Instant};

use super::{eventually, now_ms};

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// `webhook-id`; empty if there was none.
    pub(crate) id: String,
    /// The how manieth request with this id this is, from 1.
    pub(crate) nth: usize,
    /// When its last byte had arrived.
    pub(crate) at: Instant,
    /// The same moment in unix milliseconds.
    pub(crate) at_ms: i64,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// What it was answered with; `None`: not at all.
    pub(crate) status: Option<u16>,
}

impl Request {
    /// A header as text; `None` if there is none.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a header of text"))
    }

    /// Was it answered with a 2xx?
    pub(crate) fn accepted(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

/// What to answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// `None`: never answer.
    status: Option<u16>,
    headers: Vec<(String, String)>,
    body: Bytes,
    delay: Duration,
    /// Not before [`Hook::wake`].
    held: bool,
}

impl Reply {
    /// 200 at once.
    pub(crate) fn ok() -> Self {
        Self::status(200)
    }

    /// This status at once.
    pub(crate) fn status(status: u16) -> Self {
        let (headers, body) = (Vec::new(), Bytes::new());
        Self { status: Some(status), headers, body, delay: Duration::ZERO, held: false }
    }

    /// No answer until [`Hook::wake`]; the connection stays open.
    pub(crate) fn never() -> Self {
        Self { status: None, ..Self::ok() }
    }

    /// Only after [`Hook::wake`].
    pub(crate) fn when_woken(mut self) -> Self {
        self.held = true;
        self
    }

    /// With one more header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a body.
    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Only after this long.
    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

type Script = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

/// A receiver. Dropping it closes its port and its connections.
pub(crate) struct Hook {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    server: JoinHandle<()>,
}

struct Shared {
    script: Script,
    requests: Vec<Arc<Request>>,
    seen: HashMap<String, usize>,
    open: usize,
    most_open: usize,
    woken: Arc<Notify>,
}

impl Hook {
    /// A receiver that answers each request with what `script` says of it.
    pub(crate) async fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    /// The same at a given address: one that [`vacant`] told, to come up late.
    pub(crate) async fn start_at(
        address: SocketAddr,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared {
            script: Arc::new(script),
            requests: Vec::new(),
            seen: HashMap::new(),
            open: 0,
            most_open: 0,
            woken: Arc::default(),
        }));
        let app =
            Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(shared.clone());
        let serve = async move { axum::serve(listener, app).await.expect("the receiver serves") };
        #[expect(clippy::disallowed_methods, reason = "ends with the hook, not with the application's tasks")]
        let server = tokio::spawn(serve);
        Self { address, shared, server }
    }

    /// A receiver that answers everything with 200.
    pub(crate) async fn accepting() -> Self {
        Self::start(|_| Reply::ok()).await
    }

    /// A receiver that answers everything with this status.
    pub(crate) async fn refusing(status: u16) -> Self {
        Self::start(move |_| Reply::status(status)).await
    }

    /// A receiver that answers the first `times` requests of each id with this status, and then 200.
    pub(crate) async fn failing_first(times: usize, status: u16) -> Self {
        Self::start(move |request| if request.nth <= times { Reply::status(status) } else { Reply::ok() })
            .await
    }

    /// From now on answers what `script` says.
    pub(crate) fn script(&self, script: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        self.lock().script = Arc::new(script);
    }

    /// Answers what was to wait for this, and, with 503, what would never have been answered.
    pub(crate) fn wake(&self) {
        self.lock().woken.notify_waiters();
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Its address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far, in order of arrival.
    pub(crate) fn requests(&self) -> Vec<Arc<Request>> {
        self.lock().requests.clone()
    }

    /// How many requests came so far.
    pub(crate) fn count(&self) -> usize {
        self.lock().requests.len()
    }

    /// The requests with this id, in order of arrival.
    pub(crate) fn requests_of(&self, id: &str) -> Vec<Arc<Request>> {
        self.lock().requests.iter().filter(|request| request.id == id).cloned().collect()
    }

    /// The ids that were answered with a 2xx.
    pub(crate) fn accepted(&self) -> BTreeSet<String> {
        let shared = self.lock();
        shared
            .requests
            .iter()
            .filter(|request| request.accepted())
            .map(|request| request.id.clone())
            .collect()
    }

    /// How many requests came for an id that had been answered with a 2xx before, as its receiver would have
    /// to de-duplicate.
    pub(crate) fn duplicates(&self) -> usize {
        let shared = self.lock();
        let mut accepted = BTreeSet::new();
        let mut duplicates = 0;
        for request in &shared.requests {
            duplicates += usize::from(accepted.contains(request.id.as_str()));
            if request.accepted() {
                accepted.insert(request.id.as_str());
            }
        }
        duplicates
    }

    /// The bodies that were answered with a 2xx, as text, each once.
    pub(crate) fn accepted_bodies(&self) -> BTreeSet<String> {
        let shared = self.lock();
        let accepted = shared.requests.iter().filter(|request| request.accepted());
        accepted.map(|request| String::from_utf8_lossy(&request.body).into_owned()).collect()
    }

    /// The most requests that were under way at the same time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.lock().most_open
    }

    /// Waits until `ids` different ids have been answered with a 2xx.
    pub(crate) async fn wait_for(&self, ids: usize, within: Duration) {
        let what = format!("{ids} different ids to be accepted by {}", self.address);
        eventually(within, &what, async || (self.accepted().len() >= ids).then_some(())).await;
    }

    /// Waits until `count` requests have come.
    pub(crate) async fn wait_for_requests(&self, count: usize, within: Duration) {
        let what = format!("{count} requests at {}", self.address);
        eventually(within, &what, async || (self.count() >= count).then_some(())).await;
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An address where nobody listens: connections are refused until a hook starts there. Of the loopback network, but
/// not 127.0.0.1, where outgoing connections of this machine may take the port at any time.
pub(crate) async fn vacant() -> SocketAddr {
    TcpListener::bind("127.0.7.1:0").await.expect("a free port").local_addr().unwrap()
}

/// A script that panics (a failed assertion in it) must not hide behind a poisoned lock.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Counts a request as under way until it is answered or given up.
struct Open(Arc<Mutex<Shared>>);

impl Open {
    fn new(shared: &Arc<Mutex<Shared>>) -> Self {
        let mut now = lock(shared);
        now.open += 1;
        now.most_open = now.most_open.max(now.open);
        Self(shared.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        lock(&self.0).open -= 1;
    }
}

async fn answer(
    State(shared): State<Arc<Mutex<Shared>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let _open = Open::new(&shared);
    let woken = lock(&shared).woken.clone();
    let woken = woken.notified();
    let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    let reply = {
        let mut shared = lock(&shared);
        let nth = shared.seen.entry(id.clone()).and_modify(|seen| *seen += 1).or_insert(1);
        let nth = *nth;
        let (at, at_ms) = (Instant::now(), now_ms());
        let mut request = Request { id, nth, at, at_ms, method, uri, headers, body, status: None };
        let reply = (shared.script)(&request);
        request.status = reply.status;
        shared.requests.push(Arc::new(request));
        reply
    };
    let Some(status) = reply.status else {
        woken.await;
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    if reply.held {
        woken.await;
    }
    tokio::time::sleep(reply.delay).await;
    let mut response = (StatusCode::from_u16(status).unwrap(), reply.body).into_response();
    for (name, value) in reply.headers {
        let name: axum::http::HeaderName = name.parse().expect("a header name");
        response.headers_mut().append(name, value.parse().expect("a header value"));
    }
    response
}
