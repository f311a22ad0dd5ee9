//! Traces: what becomes of an event, as spans for OpenTelemetry. Only this module and `http/collector.rs` name it.
//!
//! ```text
//! the producer's span            by the event's traceparent
//! └─ deliver ENDPOINT            one per delivery, child of the producer's span and linked to it
//!    ├─ POST                     one per attempt; its context is the traceparent that the receiver gets
//!    │  ├─ dns, connect, tls     of the attempt that first uses a connection
//!    │  └─ first_byte            from the connection to the status line
//!    └─ POST                     a retry: another attempt, another day, perhaps another instance
//! ```
//!
//! * The delivery is a child, not only linked, because the producer's trace is where people look for what became of an
//!   event, and because what is recorded follows from it. The link is what the conventions for messaging ask for.
//! * A delivery of an event without a (valid) `traceparent` begins a trace of its own; `sample_ratio` says how many of
//!   those are recorded. All others are recorded if the producer's trace is. What is not recorded hands its context on
//!   all the same, so that the receiver records nothing either.
//! * A delivery's span is sent when it has ended, with its true beginning. Its id is drawn when it begins and goes along
//!   on retry and dead-letter records (`arauto-traceparent`).
//! * A replay is a new delivery in the same trace, linked to the one that died; without a producer's span it is its child.
//! * A delivery that begins anew because an instance died, or because a partition in an order changed hands, has a new
//!   span; that of the one forgotten is never sent, its attempts are.
//!
//! Without `[otel]` a delivery carries an empty pointer, and looks at it a handful of times.

use std::sync::Arc;

use http_types::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::InstrumentationScope;
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample as _,
};

use self::{context::Context, export::Spans};
use crate::{
    config::settings,
    http::{Target, timed::Times},
    kafka::headers::Envelope,
    metrics::Metrics,
    pipeline::{
        Event,
        delivery::Delivery,
        outcome::{self, Reason},
    },
};

pub mod context;
pub mod export;
mod span;

/// The headers of W3C Trace Context.
const PARENT: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");

/// Begins traces and takes finished spans; cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spans: Spans,
    sampler: Sampler,
    scope: InstrumentationScope,
}

/// The trace of one delivery; travels with it.
#[derive(Debug)]
pub struct Trace {
    /// The delivery's own span.
    pub own: Context,
    /// The span of the delivery that this one replays.
    pub replayed: Option<Context>,
    /// `None`: there are no spans here, but whoever reads its retry record next may make some.
    tracer: Option<Tracer>,
}

/// What is told of a delivery that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// Its event.
    pub event: &'a Event,
    /// Its endpoint.
    pub endpoint: &'a Arc<str>,
    /// Attempts made.
    pub attempts: u32,
    /// How often it was replayed.
    pub replays: u32,
    /// When it was first seen, in unix milliseconds.
    pub first_seen: i64,
}

/// What ends a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It arrived.
    Delivered,
    /// Its dead letter is written.
    Dead(Reason),
    /// Nobody wants it any more.
    Dropped,
    /// Its endpoint's own queue delivers it.
    Moved,
}

/// One attempt of a delivery that has a trace.
#[derive(Debug)]
pub struct Attempt<'a> {
    trace: &'a Trace,
    tracer: &'a Tracer,
    own: Context,
}

impl Tracer {
    /// A tracer, and the service that sends what it takes.
    pub fn new(
        settings: &settings::Otel,
        metrics: &Metrics,
    ) -> Result<(Self, export::Service), export::Error> {
        let (spans, service) = Spans::new(settings, metrics)?;
        let scope = InstrumentationScope::builder("arauto").with_version(env!("CARGO_PKG_VERSION")).build();
        let sampler = Sampler::TraceIdRatioBased(settings.sample_ratio);
        Ok((Self(Arc::new(Inner { spans, sampler, scope })), service))
    }

    /// Where finished spans are.
    pub fn spans(&self) -> &Spans {
        &self.0.spans
    }

    fn begin(&self, event: &Event, replayed: Option<Context>) -> Trace {
        let known = producer(event).or(replayed);
        let own = known.map_or_else(|| self.root(), |known| known.with_span(new_span()));
        Trace { own, replayed, tracer: Some(self.clone()) }
    }

    fn root(&self) -> Context {
        let trace = RandomIdGenerator::default().new_trace_id();
        let kind = opentelemetry::trace::SpanKind::Consumer;
        let sampled = self.0.sampler.should_sample(None, trace, "", &kind, &[], &[]).decision;
        let sampled = sampled == SamplingDecision::RecordAndSample;
        Context { trace: u128::from_be_bytes(trace.to_bytes()), span: new_span(), sampled }
    }
}

/// The trace of a delivery that begins.
pub fn begin(tracer: Option<&Tracer>, event: &Event) -> Option<Box<Trace>> {
    tracer.map(|tracer| Box::new(tracer.begin(event, None)))
}

/// The trace of a delivery read from a retry topic: the one it had, or one that begins.
pub fn go_on(tracer: Option<&Tracer>, event: &Event, envelope: &Envelope) -> Option<Box<Trace>> {
    let replayed = envelope.replayed_trace;
    let trace = match (envelope.trace, tracer) {
        (Some(own), tracer) => Trace { own, replayed, tracer: tracer.cloned() },
        (None, Some(tracer)) => tracer.begin(event, replayed),
        (None, None) => return None,
    };
    Some(Box::new(trace))
}

impl Trace {
    /// An attempt that begins; `None` when there are no spans here.
    pub fn attempt(&self) -> Option<Attempt<'_>> {
        let tracer = self.tracer.as_ref()?;
        Some(Attempt { trace: self, tracer, own: self.own.with_span(new_span()) })
    }

    /// The delivery has ended.
    pub fn ended(&self, what: &Ended<'_>, end: End) {
        if let Some(tracer) = self.tracer.as_ref().filter(|_| self.own.sampled) {
            tracer.0.spans.put(|| span::delivery(tracer, self, what, end));
        }
    }
}

impl Attempt<'_> {
    /// Is it worth a look at the clock?
    pub fn is_recorded(&self) -> bool {
        self.own.sampled
    }

    /// Puts its context into a request, in place of the producer's.
    pub fn carry(&self, headers: &mut HeaderMap) {
        let theirs = headers.get(PARENT).and_then(|value| Context::parse(value.to_str().ok()?));
        // What belongs to a context that is not continued must not be handed on.
        if theirs.is_none_or(|theirs| theirs.trace != self.own.trace) {
            headers.remove(STATE);
        }
        let own = HeaderValue::try_from(self.own.to_string()).expect("digits and - are legal in a header");
        headers.insert(PARENT, own);
    }

    /// It is over.
    pub fn ended(&self, delivery: &Delivery, target: &Target, attempt: &outcome::Attempt, times: &Times) {
        let spans = &self.tracer.0.spans;
        for phase in &times.phases {
            spans.put(|| span::phase(self, phase, times));
        }
        spans.put(|| span::attempt(self, delivery, target, (attempt, times)));
    }
}

/// The producer's span, if the event names one.
fn producer(event: &Event) -> Option<Context> {
    event.headers.text_ignore_case(PARENT.as_str()).and_then(Context::parse)
}

fn new_span() -> u64 {
    u64::from_be_bytes(RandomIdGenerator::default().new_span_id().to_bytes())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{config::settings::Otel, pipeline::Headers};

    const THEIRS: Context = Context { trace: 7, span: 8, sampled: true };

    fn tracer(sample_ratio: f64) -> (Tracer, export::Service) {
        let settings = Otel {
            endpoint: "http://127.0.0.1:1/v1/traces".parse().unwrap(),
            sample_ratio,
            headers: Vec::new(),
            service_name: "arauto".to_owned(),
            timeout: std::time::Duration::from_secs(1),
        };
        Tracer::new(&settings, &Metrics::new(1)).unwrap()
    }

    fn event(traceparent: Option<&str>) -> Event {
        let header = |text: &str| (Arc::from("Traceparent"), Some(Bytes::copy_from_slice(text.as_bytes())));
        Event {
            topic: "orders".into(),
            partition: 0,
            offset: 0,
            timestamp: 0,
            key: None,
            value: None,
            headers: Headers(traceparent.map(header).into_iter().collect()),
            id: "msg_1".into(),
            event_type: "t".into(),
            tenant: None,
            priority: None,
            notice: false,
        }
    }

    #[test]
    fn a_delivery_is_in_the_trace_it_belongs_to() {
        let unsampled = Context { sampled: false, ..THEIRS };
        let old = Context { trace: 9, span: 10, sampled: true };
        let old_unsampled = Context { sampled: false, ..old };
        // Producer's span, span of the replayed delivery, ratio; the trace (`None`: its own), and whether it is recorded.
        let rows = [
            (Some(THEIRS), None, 0.0, Some(7), true),
            (Some(unsampled), None, 1.0, Some(7), false),
            (Some(unsampled), Some(old), 1.0, Some(7), false),
            (None, Some(old), 0.0, Some(9), true),
            (None, Some(old_unsampled), 1.0, Some(9), false),
            (None, None, 1.0, None, true),
            (None, None, 0.0, None, false),
        ];
        for (producer, replayed, ratio, trace, sampled) in rows {
            let text = producer.map(|producer| producer.to_string());
            let (tracer, _service) = tracer(ratio);
            let began = tracer.begin(&event(text.as_deref()), replayed);
            let row = format!("{producer:?} {replayed:?} {ratio}: {began:?}");
            assert_eq!((began.own.sampled, began.replayed), (sampled, replayed), "{row}");
            assert!(began.own.trace != 0 && trace.is_none_or(|trace| began.own.trace == trace), "{row}");
            assert!(![0, 8, 10].contains(&began.own.span), "{row}");
        }
        let (tracer, _service) = tracer(1.0);
        let roots = [(), ()].map(|()| tracer.begin(&event(Some("00-junk")), None).own);
        assert!(roots[0].trace != roots[1].trace && roots[0].span != roots[1].span, "{roots:?}");
    }

    #[test]
    fn half_of_the_traces_is_about_half() {
        let (tracer, _service) = tracer(0.5);
        let recorded = (0..1_000).filter(|_| tracer.begin(&event(None), None).own.sampled).count();
        assert!((350..650).contains(&recorded), "{recorded}");
    }

    #[test]
    fn what_a_retry_record_says_goes_on_also_where_there_are_no_spans() {
        let event = event(None);
        let envelope = |trace| {
            let envelope = Envelope::new(&event, "crm".into(), Reason::Status, 0, 0);
            Envelope { trace, replayed_trace: Some(THEIRS), ..envelope }
        };
        let own = Context { trace: 9, span: 10, sampled: true };
        let (tracer, _service) = tracer(1.0);
        for tracer in [Some(&tracer), None] {
            let trace = go_on(tracer, &event, &envelope(Some(own))).unwrap();
            assert_eq!((trace.own, trace.replayed), (own, Some(THEIRS)));
            assert_eq!(trace.attempt().is_some(), tracer.is_some());
        }
        assert!(go_on(None, &event, &envelope(None)).is_none());
        let begun = go_on(Some(&tracer), &event, &envelope(None)).unwrap();
        assert_eq!((begun.own.trace, begun.replayed), (THEIRS.trace, Some(THEIRS)));
    }

    #[test]
    fn a_request_carries_the_attempt_and_no_state_of_another_trace() {
        let (tracer, _service) = tracer(1.0);
        for (theirs, state) in [(Some(THEIRS), Some("a=1")), (None, None)] {
            let text = theirs.map(|theirs| theirs.to_string());
            let trace = tracer.begin(&event(text.as_deref()), None);
            let attempt = trace.attempt().unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(PARENT, text.as_deref().unwrap_or("00-junk").parse().unwrap());
            headers.insert(STATE, "a=1".parse().unwrap());
            attempt.carry(&mut headers);
            assert_eq!(headers[PARENT], attempt.own.to_string());
            assert_eq!((attempt.own.trace, attempt.own.span != trace.own.span), (trace.own.trace, true));
            assert_eq!(headers.get(STATE).map(|state| state.to_str().unwrap()), state);
        }
    }

    #[test]
    fn without_spans_a_delivery_carries_a_pointer_more() {
        assert_eq!(size_of::<Option<Box<Trace>>>(), size_of::<usize>());
    }
}
