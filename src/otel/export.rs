//! Finished spans on their way to the collector: a bounded queue, batches, and one request at a time.
//!
//! Nobody ever waits for it: what finds the queue full is dropped and counted, and so is what the collector does not
//! take in time.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkError,
    resource::EnvResourceDetector,
    trace::{SpanData, SpanExporter as _},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tracing::{info, warn};

use crate::{config::settings, http::collector, metrics::Metrics};

/// Spans waiting at most: about 10 MiB, and a quarter of a second of 10,000 deliveries/s without a collector.
const QUEUE: usize = 8 * 1024;
/// Spans of one request at most, as the SDKs of OpenTelemetry have it.
const BATCH: usize = 512;
/// A batch that is not full leaves after this long: traces should be there when somebody looks.
const DELAY: Duration = Duration::from_secs(1);

/// Where finished spans are put; cheap to clone.
#[derive(Debug, Clone)]
pub struct Spans {
    queue: mpsc::Sender<SpanData>,
    flush: mpsc::Sender<oneshot::Sender<()>>,
    metrics: Metrics,
}

/// Sends them.
#[derive(Debug)]
pub struct Service {
    exporter: SpanExporter,
    queue: mpsc::Receiver<SpanData>,
    flush: mpsc::Receiver<oneshot::Sender<()>>,
    timeout: Duration,
    metrics: Metrics,
    /// Where they go, as far as it may be shown.
    collector: String,
    batch: Vec<SpanData>,
    failing: bool,
}

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no HTTP client.
    #[error("no http client for the collector")]
    Client(#[from] crate::http::Error),
    /// The library refuses what it was given, by us or by its own environment variables.
    #[error("the exporter cannot be made (see [otel] and the OTEL_EXPORTER_OTLP_… environment variables)")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

impl Spans {
    /// A queue, and the service that empties it.
    pub fn new(settings: &settings::Otel, metrics: &Metrics) -> Result<(Self, Service), Error> {
        let (queue, queued) = mpsc::channel(QUEUE);
        let (flush, flushes) = mpsc::channel(1);
        let service = Service {
            exporter: exporter(settings)?,
            queue: queued,
            flush: flushes,
            timeout: settings.timeout,
            metrics: metrics.clone(),
            collector: settings.endpoint.origin().ascii_serialization(),
            batch: Vec::new(),
            failing: false,
        };
        Ok((Self { queue, flush, metrics: metrics.clone() }, service))
    }

    /// Makes a span and puts it in; where there is no room for it, it is not even made, and counts as dropped.
    pub(super) fn put(&self, span: impl FnOnce() -> SpanData) {
        match self.queue.try_reserve() {
            Ok(room) => room.send(span()),
            Err(_) => self.metrics.spans_dropped(1),
        }
    }

    /// Returns when everything put in before has been sent or dropped, or when it is too late.
    pub async fn flush(&self, deadline: Instant) {
        let (done, flushed) = oneshot::channel();
        let flush = async {
            if self.flush.send(done).await.is_ok() {
                flushed.await.ok();
            }
        };
        timeout_at(deadline, flush).await.ok();
    }
}

impl Service {
    /// Sends until it is dropped.
    pub async fn run(mut self) {
        let mut due = None;
        loop {
            let room = BATCH - self.batch.len();
            tokio::select! {
                received = self.queue.recv_many(&mut self.batch, room) => {
                    if received == 0 {
                        return;
                    }
                    due.get_or_insert_with(|| Instant::now() + DELAY);
                    if self.batch.len() < BATCH {
                        continue;
                    }
                    self.send().await;
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.send().await,
                Some(done) = self.flush.recv() => {
                    timeout(self.timeout, self.send_all()).await.ok();
                    done.send(()).ok();
                }
            }
            due = None;
        }
    }

    async fn send_all(&mut self) {
        while !self.batch.is_empty() || !self.queue.is_empty() {
            let room = BATCH - self.batch.len();
            if room > 0 && !self.queue.is_empty() {
                self.queue.recv_many(&mut self.batch, room).await;
            }
            self.send().await;
        }
    }

    async fn send(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let lost = Lost { spans: batch.len() as u64, metrics: self.metrics.clone() };
        // The exporter begins no repetition later than this, but may be waiting for an answer.
        let sent = timeout(self.timeout, self.exporter.export(batch)).await;
        match sent.unwrap_or(Err(OTelSdkError::Timeout(self.timeout))) {
            Ok(()) => {
                lost.none();
                if std::mem::take(&mut self.failing) {
                    info!(collector = self.collector, "the collector takes spans again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    let Lost { spans, .. } = lost;
                    warn!(collector = self.collector, %error, spans, "spans dropped, the collector does not take them");
                }
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.metrics.spans_dropped((self.queue.len() + self.batch.len()) as u64);
    }
}

/// Spans on the wire: counted as dropped unless they arrive, also when nobody waits for that any more.
struct Lost {
    spans: u64,
    metrics: Metrics,
}

impl Lost {
    fn none(mut self) {
        self.spans = 0;
    }
}

impl Drop for Lost {
    fn drop(&mut self) {
        self.metrics.spans_dropped(self.spans);
    }
}

fn exporter(settings: &settings::Otel) -> Result<SpanExporter, Error> {
    let headers = settings.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned()));
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(collector::client(settings.timeout)?)
        .with_headers(headers.collect())
        .with_endpoint(settings.endpoint.as_str())
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .with_timeout(settings.timeout)
        .build()?;
    exporter.set_resource(&resource(settings));
    Ok(exporter)
}

/// Who we are: <https://opentelemetry.io/docs/specs/semconv/resource/service/>.
fn resource(settings: &settings::Otel) -> Resource {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let host = host.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    let (host, process) = (host.trim(), std::process::id());
    let instance = if host.is_empty() { process.to_string() } else { format!("{host}-{process}") };
    Resource::builder_empty()
        .with_attributes([KeyValue::new("service.instance.id", instance)])
        .with_detector(Box::new(EnvResourceDetector::new()))
        .with_attributes([
            KeyValue::new("service.name", settings.service_name.clone()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build()
}

#[cfg(test)]
mod tests {
    use std::{
        future::IntoFuture as _,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status};

    use super::*;

    fn span() -> SpanData {
        SpanData {
            span_context: SpanContext::empty_context(),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: "x".into(),
            start_time: std::time::SystemTime::UNIX_EPOCH,
            end_time: std::time::SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: Status::Unset,
            instrumentation_scope: Default::default(),
        }
    }

    fn settings(timeout: Duration) -> settings::Otel {
        settings::Otel {
            endpoint: "http://127.0.0.1:1/v1/traces".parse().unwrap(),
            sample_ratio: 1.0,
            headers: Vec::new(),
            service_name: "arauto".to_owned(),
            timeout,
        }
    }

    fn dropped(metrics: &Metrics) -> u64 {
        let page = metrics.render();
        let line = page.lines().find_map(|line| line.strip_prefix("arauto_spans_dropped_total "));
        line.unwrap().parse().unwrap()
    }

    #[test]
    fn a_full_queue_drops_and_nobody_waits() {
        let metrics = Metrics::new(1);
        let (spans, service) = Spans::new(&settings(DELAY), &metrics).unwrap();
        for _ in 0..QUEUE {
            spans.put(span);
        }
        assert_eq!(dropped(&metrics), 0);
        spans.put(|| panic!("a span is made that there is no room for"));
        assert_eq!(dropped(&metrics), 1);
        drop(service);
        assert_eq!(dropped(&metrics), QUEUE as u64 + 1);
    }

    #[tokio::test]
    async fn a_flush_sends_what_is_there_and_waits_for_no_more() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        let take = move || async move {
            count.fetch_add(1, Ordering::SeqCst);
        };
        let collector = axum::serve(listener, axum::Router::new().fallback(take));
        let metrics = Metrics::new(1);
        let mut settings = settings(Duration::from_secs(20));
        settings.endpoint = format!("http://{address}/v1/traces").parse().unwrap();
        let (spans, service) = Spans::new(&settings, &metrics).unwrap();
        // Two full batches and a part of one, which would wait for more.
        for _ in 0..2 * BATCH + 3 {
            spans.put(span);
        }
        tokio::select! {
            () = service.run() => panic!("it runs until it is dropped"),
            served = collector.into_future() => panic!("it serves until it is dropped: {served:?}"),
            () = spans.flush(Instant::now() + Duration::from_secs(20)) => {}
        }
        assert_eq!((dropped(&metrics), requests.load(Ordering::SeqCst)), (0, 3));
    }

    #[tokio::test]
    async fn a_flush_ends_in_time_and_what_was_not_sent_is_counted() {
        let metrics = Metrics::new(1);
        let (spans, service) = Spans::new(&settings(Duration::from_millis(200)), &metrics).unwrap();
        let running = service.run();
        for _ in 0..QUEUE {
            spans.put(span);
        }
        let flush = spans.flush(Instant::now() + Duration::from_secs(30));
        tokio::select! {
            () = running => panic!("it runs until it is dropped"),
            () = flush => {}
        }
        assert_eq!(dropped(&metrics), QUEUE as u64);
    }
}
