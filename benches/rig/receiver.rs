//! The receiver of a bench, a process of its own: answers by path, counts every event once per path, and measures.
//!
//! `/ok/…` is answered 200 at once, `/503` with 503, `/slow` with 200 after two seconds, `/silent` never. `GET /stats`
//! tells what arrived and was answered 2xx.

use std::{
    collections::{BTreeMap, HashSet},
    io::Write,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, Uri},
    routing::get,
};
use serde::{Deserialize, Serialize};

/// What arrived on one path and was answered 2xx.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Stats {
    /// Different events.
    pub(crate) unique: u64,
    /// Requests.
    pub(crate) requests: u64,
    /// From the first request to the last, in microseconds.
    pub(crate) micros: u64,
    /// Time from an event's `at` to its first request, in microseconds: median and 99th percentile.
    pub(crate) p50: u64,
    /// See [`Stats::p50`].
    pub(crate) p99: u64,
}

impl Stats {
    /// Requests per second.
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / (self.micros.max(1) as f64 / 1e6)
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
}

#[derive(Default)]
struct Seen {
    events: HashSet<u64>,
    requests: u64,
    first: u64,
    last: u64,
    latencies: Vec<u32>,
}

impl Seen {
    fn take(&mut self, event: u64, latency: u64, now: u64) {
        if self.requests == 0 {
            self.first = now;
        }
        (self.requests, self.last) = (self.requests + 1, now);
        if self.events.insert(event) {
            self.latencies.push(latency.min(u64::from(u32::MAX)) as u32);
        }
    }
}

fn stats<'a>(all: impl Iterator<Item = &'a Seen>) -> Stats {
    let mut total = Stats::default();
    let (mut first, mut last, mut latencies) = (u64::MAX, 0, Vec::new());
    for seen in all.filter(|seen| seen.requests > 0) {
        total.unique += seen.events.len() as u64;
        total.requests += seen.requests;
        (first, last) = (first.min(seen.first), last.max(seen.last));
        latencies.extend_from_slice(&seen.latencies);
    }
    latencies.sort_unstable();
    let at = |share: f64| {
        let last = latencies.len().saturating_sub(1);
        latencies.get((last as f64 * share) as usize).map_or(0, |micros| u64::from(*micros))
    };
    Stats { micros: last.saturating_sub(first), p50: at(0.5), p99: at(0.99), ..total }
}

struct Shared {
    begun: Instant,
    paths: Mutex<BTreeMap<String, Seen>>,
    refused: Mutex<u64>,
}

/// Serves until it is killed; tells its address first.
pub(crate) async fn serve() {
    let shared =
        Arc::new(Shared { begun: Instant::now(), paths: Mutex::default(), refused: Mutex::default() });
    let tell = |State(shared): State<Arc<Shared>>| async move {
        let paths = shared.paths.lock().expect("nobody panics");
        let refused = *shared.refused.lock().expect("nobody panics");
        let each = paths.iter().map(|(path, seen)| (path.clone(), stats([seen].into_iter())));
        // By path only while there are few.
        let by_path = if paths.len() <= 100 { each.collect() } else { BTreeMap::new() };
        Json(Report { all: stats(paths.values()), paths: by_path, refused })
    };
    let app = Router::new().route("/stats", get(tell)).fallback(answer).with_state(shared);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!("http://{}", listener.local_addr().expect("it is bound"));
    std::io::stdout().flush().expect("somebody reads");
    axum::serve(listener, app).await.expect("it serves");
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri, body: Bytes) -> StatusCode {
    match uri.path() {
        "/silent" => std::future::pending().await,
        "/503" => {
            *shared.refused.lock().expect("nobody panics") += 1;
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        "/slow" => tokio::time::sleep(Duration::from_secs(2)).await,
        _ => {}
    }
    let (event, at) = super::Event::read(&body);
    let latency = micros().saturating_sub(at);
    let now = shared.begun.elapsed().as_micros() as u64;
    let mut paths = shared.paths.lock().expect("nobody panics");
    if let Some(seen) = paths.get_mut(uri.path()) {
        seen.take(event, latency, now);
    } else {
        paths.entry(uri.path().to_owned()).or_default().take(event, latency, now);
    }
    StatusCode::OK
}

/// What a receiver at this address has seen.
pub(crate) fn report(address: &str) -> Report {
    let url = format!("{address}/stats");
    super::runtime().block_on(async {
        let text = reqwest::get(url).await.expect("it answers").text().await.expect("all of it");
        serde_json::from_str(&text).expect("a report")
    })
}

/// Microseconds since the epoch.
pub(crate) fn micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as u64
}
