//! A collector of spans on port 0: takes OTLP over HTTP as protobuf, answers as it is told to, and remembers every span.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span as Sent, span::SpanKind, status::StatusCode as Outcome},
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{PATIENCE, eventually};

/// A collector. Dropping it closes its port.
pub(crate) struct Collector {
    url: String,
    shared: Arc<Mutex<Shared>>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    status: u16,
    spans: Vec<Span>,
    requests: Vec<Request>,
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) spans: usize,
}

/// One span as it arrived; ids are in hexadecimal, as a `traceparent` has them, and empty when there are none.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) state: String,
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    /// Nanoseconds since 1970.
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Every attribute as text.
    pub(crate) attributes: BTreeMap<String, String>,
    /// Trace and span of each link.
    pub(crate) links: Vec<(String, String)>,
    pub(crate) failed: bool,
    /// The attributes of the process that sent it.
    pub(crate) resource: BTreeMap<String, String>,
}

impl Span {
    /// An attribute; empty when there is none.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

impl Collector {
    /// A collector that takes everything.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Mutex::new(Shared { status: 200, ..Shared::default() }));
        let app = Router::new().fallback(take).with_state(shared.clone());
        let serve = async move { axum::serve(listener, app).await.expect("the collector serves") };
        #[expect(clippy::disallowed_methods, reason = "ends with the test, not with the application's tasks")]
        let server = tokio::spawn(serve);
        Self { url, shared, server }
    }

    /// What `otel.endpoint` is set to.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// From now on answers with this status, and takes nothing unless it is 200.
    pub(crate) fn answer(&self, status: u16) {
        lock(&self.shared).status = status;
    }

    /// Every span so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        lock(&self.shared).spans.clone()
    }

    /// Every request so far, taken or not.
    pub(crate) fn requests(&self) -> Vec<Request> {
        lock(&self.shared).requests.clone()
    }

    /// Waits until so many spans whose names begin like this have come; all of them, by their beginning.
    pub(crate) async fn wait_for(&self, name: &str, count: usize) -> Vec<Span> {
        self.wait_within(PATIENCE, name, count).await
    }

    async fn wait_within(&self, within: Duration, name: &str, count: usize) -> Vec<Span> {
        let mut found = eventually(within, &format!("{count} spans named {name:?}"), async || {
            let named: Vec<Span> =
                self.spans().into_iter().filter(|span| span.name.starts_with(name)).collect();
            (named.len() >= count).then_some(named)
        })
        .await;
        found.sort_by_key(|span| span.start);
        found
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(
    State(shared): State<Arc<Mutex<Shared>>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Vec<u8>) {
    let sent = ExportTraceServiceRequest::decode(body).expect("protobuf of OTLP");
    let mut spans = Vec::new();
    for group in sent.resource_spans {
        let resource = attributes(group.resource.map(|resource| resource.attributes).unwrap_or_default());
        let sent = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.extend(sent.map(|sent| span(sent, &resource)));
    }
    let mut shared = lock(&shared);
    shared.requests.push(Request { path: uri.path().to_owned(), headers, spans: spans.len() });
    if shared.status == 200 {
        shared.spans.extend(spans);
    }
    (StatusCode::from_u16(shared.status).unwrap(), Vec::new())
}

fn span(sent: Sent, resource: &BTreeMap<String, String>) -> Span {
    Span {
        kind: sent.kind(),
        trace: hex(&sent.trace_id),
        id: hex(&sent.span_id),
        parent: hex(&sent.parent_span_id),
        state: sent.trace_state,
        name: sent.name,
        start: sent.start_time_unix_nano,
        end: sent.end_time_unix_nano,
        attributes: attributes(sent.attributes),
        links: sent.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        failed: sent.status.is_some_and(|status| status.code() == Outcome::Error),
        resource: resource.clone(),
    }
}

fn attributes(sent: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => format!("{other:?}"),
    };
    let pair = |pair: KeyValue| {
        let value = pair.value.and_then(|value| value.value).map(text).unwrap_or_default();
        (pair.key, value)
    };
    sent.into_iter().map(pair).collect()
}

fn hex(id: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(id)
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
