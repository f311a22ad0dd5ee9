//! The receiver of a bench, a process of its own: answers by path, counts every event once per path, and measures.
//!
//! `/ok/…` is answered 200 at once, `/once` with 500 the first time an event comes, `/503` with 503, `/slow` with 200
//! after two seconds, `/silent` never. `GET /stats` tells what arrived and was answered 2xx, `GET /arrived` only how many
//! events, `GET /arrived/ok/7` how many at `/ok/7`, at hardly any cost. It is a collector of spans as well.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    io::Write,
    path::Path,
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use http_types::{Request, Response, StatusCode};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde::{Deserialize, Serialize};
use tokio_rustls::{TlsAcceptor, rustls};

/// What arrived on one path and was answered 2xx.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Stats {
    /// Different events.
    pub(crate) unique: u64,
    /// Requests.
    pub(crate) requests: u64,
    /// From the first request, whatever it was answered with, to the last that was answered 2xx, in microseconds.
    pub(crate) micros: u64,
    /// When the first came, in microseconds since the epoch.
    pub(crate) first: u64,
    /// Time from an event's `at` to its first request, in microseconds: median and 99th percentile.
    pub(crate) p50: u64,
    /// See [`Stats::p50`].
    pub(crate) p99: u64,
}

impl Stats {
    /// Events per second.
    pub(crate) fn rate(&self) -> f64 {
        self.unique as f64 / (self.micros.max(1) as f64 / 1e6)
    }
}

/// What it tells of itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Over all paths.
    pub(crate) all: Stats,
    /// By path.
    pub(crate) paths: BTreeMap<String, Stats>,
    /// Requests that were not answered 2xx.
    pub(crate) refused: u64,
    /// Spans.
    pub(crate) spans: u64,
}

/// Events, one bit each in pages of 512 numbers: who only counts them should cost as little as can be.
#[derive(Default)]
struct Numbers {
    pages: HashMap<u64, [u64; 8]>,
    count: u64,
}

impl Numbers {
    /// Is it a new one?
    fn insert(&mut self, event: u64) -> bool {
        let page = self.pages.entry(event / 512).or_default();
        let (word, bit) = (&mut page[(event / 64 % 8) as usize], 1 << (event % 64));
        let new = *word & bit == 0;
        *word |= bit;
        self.count += u64::from(new);
        new
    }
}

#[derive(Default)]
struct Seen {
    events: Numbers,
    /// Those that were refused once.
    refused: Numbers,
    requests: u64,
    first: u64,
    last: u64,
    latencies: Vec<u32>,
}

impl Seen {
    fn refuse(&mut self, event: u64, now: u64) -> bool {
        if event >= super::WARM {
            return false;
        }
        if self.first == 0 {
            self.first = now;
        }
        self.refused.insert(event)
    }

    fn take(&mut self, event: u64, at: u64, now: u64) {
        if self.first == 0 {
            self.first = now;
        }
        (self.requests, self.last) = (self.requests + 1, now);
        if self.events.insert(event) && event < super::WARM {
            self.latencies.push(now.saturating_sub(at).min(u64::from(u32::MAX)) as u32);
        }
    }
}

fn stats<'a>(all: impl Iterator<Item = &'a Seen>) -> Stats {
    let mut total = Stats { first: u64::MAX, ..Stats::default() };
    let (mut last, mut latencies) = (0, Vec::new());
    for seen in all.filter(|seen| seen.requests > 0) {
        total.unique += seen.events.count;
        total.requests += seen.requests;
        (total.first, last) = (total.first.min(seen.first), last.max(seen.last));
        latencies.extend_from_slice(&seen.latencies);
    }
    latencies.sort_unstable();
    let at = |share: f64| {
        let last = latencies.len().saturating_sub(1);
        latencies.get((last as f64 * share) as usize).map_or(0, |micros| u64::from(*micros))
    };
    Stats { micros: last.saturating_sub(total.first), p50: at(0.5), p99: at(0.99), ..total }
}

#[derive(Default)]
struct Shared {
    paths: Mutex<BTreeMap<String, Seen>>,
    refused: Mutex<u64>,
    spans: Mutex<u64>,
}

/// Serves until it is killed; tells its address first. `scheme` is `https` or `http2`, anything else means plain HTTP.
/// Its certificate is then in the file that `SSL_CERT_FILE` names.
pub(crate) async fn serve() {
    let scheme = std::env::var(super::process::SCHEME).unwrap_or_default();
    let tls = match scheme.as_str() {
        "https" => Some(acceptor("http/1.1")),
        "http2" => Some(acceptor("h2")),
        _ => None,
    };
    let shared: Arc<Shared> = Arc::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    println!("{}://{address}", if tls.is_some() { "https" } else { "http" });
    std::io::stdout().flush().expect("somebody reads");
    loop {
        let (stream, _) = listener.accept().await.expect("connections come");
        stream.set_nodelay(true).expect("a socket takes options");
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => talk(TokioIo::new(stream), shared).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => talk(TokioIo::new(stream), shared).await,
                    Err(error) => eprintln!("the receiver could not shake hands: {error}"),
                },
            }
        });
    }
}

async fn talk(io: impl hyper::rt::Read + hyper::rt::Write + Unpin + 'static + Send, shared: Arc<Shared>) {
    let service = service_fn(|request| answer(Arc::clone(&shared), request));
    // Whoever sent may be killed at any time.
    auto::Builder::new(TokioExecutor::new()).serve_connection(io, service).await.ok();
}

fn acceptor(alpn: &str) -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let path = std::env::var("SSL_CERT_FILE").expect("where to write the certificate");
    std::fs::write(Path::new(&path), made.cert.pem()).expect("it can be written");
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .expect("the key fits");
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let told = match path.as_str() {
        "/stats" => Some(tell(&shared)),
        path => path.strip_prefix("/arrived").map(|at| count(&shared, at)),
    };
    if let Some(told) = told {
        return Ok(Response::new(Full::new(Bytes::from(told))));
    }
    let mut response = Response::new(Full::default());
    // A sender that is killed in the middle is not answered.
    if let Ok(body) = request.into_body().collect().await {
        *response.status_mut() = judge(&shared, &path, &body.to_bytes()).await;
    }
    Ok(response)
}

async fn judge(shared: &Shared, path: &str, body: &[u8]) -> StatusCode {
    match path {
        "/silent" => std::future::pending().await,
        "/503" => {
            *shared.refused.lock().expect("nobody panics") += 1;
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        "/v1/traces" => {
            *shared.spans.lock().expect("nobody panics") += spans(body) as u64;
            return StatusCode::OK;
        }
        "/slow" => tokio::time::sleep(Duration::from_secs(2)).await,
        _ => {}
    }
    let ((event, at), now) = (super::Event::read(body), micros());
    let mut paths = shared.paths.lock().expect("nobody panics");
    let seen = match paths.get_mut(path) {
        Some(seen) => seen,
        None => paths.entry(path.to_owned()).or_default(),
    };
    if path == "/once" && seen.refuse(event, now) {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    seen.take(event, at, now);
    StatusCode::OK
}

/// How many spans a request holds. Decoding them would take time from what is measured, so only lengths are looked at:
/// `ExportTraceServiceRequest.resource_spans`, `ResourceSpans.scope_spans`, `ScopeSpans.spans`, of which no field is
/// anything but a message or text.
fn spans(request: &[u8]) -> usize {
    fields(request, 1).flat_map(|resource| fields(resource, 2)).flat_map(|scope| fields(scope, 2)).count()
}

/// The fields of that number in a message of protobuf.
fn fields(mut message: &[u8], wanted: u64) -> impl Iterator<Item = &[u8]> {
    let next = move || {
        let mut number = || prost::encoding::decode_varint(&mut message).ok();
        let (tag, length) = (number()?, number()?);
        let (field, rest) = message.split_at_checked(usize::try_from(length).ok()?)?;
        message = rest;
        Some((tag >> 3, field))
    };
    std::iter::from_fn(next).filter_map(move |(number, field)| (number == wanted).then_some(field))
}

fn tell(shared: &Shared) -> String {
    let paths = shared.paths.lock().expect("nobody panics");
    let refused = *shared.refused.lock().expect("nobody panics");
    let each = paths.iter().map(|(path, seen)| (path.clone(), stats([seen].into_iter())));
    // By path only while there are few.
    let by_path = if paths.len() <= 100 { each.collect() } else { BTreeMap::new() };
    let spans = *shared.spans.lock().expect("nobody panics");
    let report = Report { all: stats(paths.values()), paths: by_path, refused, spans };
    serde_json::to_string(&report).expect("plain values have a JSON form")
}

/// The events at one path, or at all of them.
fn count(shared: &Shared, at: &str) -> String {
    let paths = shared.paths.lock().expect("nobody panics");
    let events = |seen: &Seen| seen.events.count;
    let all = || paths.values().map(events).sum::<u64>();
    if at.is_empty() { all() } else { paths.get(at).map_or(0, events) }.to_string()
}

/// How many events a receiver at this address has answered 2xx, counted once per path: to be asked while it is measured.
pub(crate) fn arrived(address: &str) -> u64 {
    arrived_at(address, "")
}

/// The same at one path.
pub(crate) fn arrived_at(address: &str, path: &str) -> u64 {
    get(&format!("{address}/arrived{path}")).parse().expect("a number")
}

/// What a receiver at this address has seen. Latencies are sorted for it, which takes the receiver milliseconds.
pub(crate) fn report(address: &str) -> Report {
    serde_json::from_str(&get(&format!("{address}/stats"))).expect("a report")
}

/// What is at this URL.
pub(crate) fn get(url: &str) -> String {
    static ASKING: LazyLock<(tokio::runtime::Runtime, reqwest::Client)> = LazyLock::new(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        // The receiver is the only one that could have made its certificate.
        let client = reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true);
        // Whoever comes next at the same address is another one.
        let client = client.pool_max_idle_per_host(0).build();
        (runtime.expect("a runtime"), client.expect("a client"))
    });
    let (runtime, client) = &*ASKING;
    runtime.block_on(async {
        client.get(url).send().await.expect("it answers").text().await.expect("all of it")
    })
}

/// Microseconds since the epoch.
pub(crate) fn micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as u64
}
