//! Spans in the form the library sends. Names follow the semantic conventions for
//! [messaging](https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/) and
//! [HTTP](https://opentelemetry.io/docs/specs/semconv/http/http-spans/); what is ours begins with `arauto.`.

use std::{
    borrow::Cow,
    str::FromStr as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    KeyValue,
    trace::{Link, SpanId, SpanKind, Status, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use url::Url;

use super::{Attempt, End, Ended, STATE, Trace, Tracer, context::Context, new_span, producer};
use crate::{
    http::{
        Target,
        timed::{Phase, Times},
    },
    pipeline::{
        Event,
        delivery::Delivery,
        outcome::{self, AttemptResult},
    },
};

/// A delivery from when it was first seen until now.
pub(super) fn delivery(tracer: &Tracer, trace: &Trace, ended: &Ended<'_>, end: End) -> SpanData {
    let event = ended.event;
    let producer = producer(event);
    let parent = producer.or(trace.replayed).filter(|parent| parent.trace == trace.own.trace);
    let state = state(event, producer, trace);
    let mut span = SpanData {
        span_context: trace.own.exported(false, state.clone()),
        parent_span_id: parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.span)),
        parent_span_is_remote: parent.is_some(),
        span_kind: SpanKind::Consumer,
        name: format!("deliver {}", ended.endpoint).into(),
        start_time: wall(ended.first_seen),
        end_time: SystemTime::now(),
        attributes: about(ended, end),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: match end {
            End::Dead(reason) => Status::error(reason.as_str()),
            End::Delivered | End::Dropped | End::Moved => Status::Unset,
        },
        instrumentation_scope: tracer.0.scope.clone(),
    };
    let linked = producer.map(|linked| (linked, state)).into_iter();
    let linked = linked.chain(trace.replayed.map(|linked| (linked, TraceState::NONE)));
    span.links.links =
        linked.map(|(linked, state)| Link::with_context(linked.exported(true, state))).collect();
    span
}

fn about(ended: &Ended<'_>, end: End) -> Vec<KeyValue> {
    let event = ended.event;
    let (outcome, reason) = match end {
        End::Delivered => ("delivered", None),
        End::Dead(reason) => ("dead", Some(reason)),
        End::Dropped => ("dropped", None),
        End::Moved => ("moved", None),
    };
    let mut about = vec![
        KeyValue::new("messaging.system", "kafka"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.operation.name", "deliver"),
        KeyValue::new("messaging.destination.name", Arc::clone(&event.topic)),
        KeyValue::new("messaging.destination.partition.id", event.partition.to_string()),
        KeyValue::new("messaging.kafka.offset", event.offset),
        KeyValue::new("messaging.message.id", Arc::clone(&event.id)),
        KeyValue::new("arauto.endpoint", Arc::clone(ended.endpoint)),
        KeyValue::new("arauto.event_type", Arc::clone(&event.event_type)),
        KeyValue::new("arauto.attempts", i64::from(ended.attempts)),
        KeyValue::new("arauto.outcome", outcome),
    ];
    about.extend(reason.map(|reason| KeyValue::new("arauto.reason", reason.as_str())));
    if ended.replays > 0 {
        about.push(KeyValue::new("arauto.replays", i64::from(ended.replays)));
    }
    about
}

/// An attempt, between its parts and its delivery.
pub(super) fn attempt(
    attempt: &Attempt<'_>,
    delivery: &Delivery,
    target: &Target,
    (made, times): (&outcome::Attempt, &Times),
) -> SpanData {
    let (event, url) = (delivery.event(), target.url());
    let mut about = vec![
        KeyValue::new("http.request.method", "POST"),
        KeyValue::new("url.full", shown(url)),
        KeyValue::new("server.address", url.host_str().unwrap_or_default().to_owned()),
        KeyValue::new("messaging.message.id", Arc::clone(&event.id)),
        KeyValue::new("arauto.endpoint", Arc::clone(&delivery.endpoint)),
        KeyValue::new("arauto.attempt", i64::from(delivery.attempts) + 1),
    ];
    about.extend(url.port_or_known_default().map(|port| KeyValue::new("server.port", i64::from(port))));
    if let Some(peer) = times.peer {
        about.push(KeyValue::new("network.peer.address", peer.ip().to_string()));
        about.push(KeyValue::new("network.peer.port", i64::from(peer.port())));
    }
    if delivery.attempts > 0 {
        about.push(KeyValue::new("http.request.resend_count", i64::from(delivery.attempts)));
    }
    if let AttemptResult::Status(status) = made.result {
        about.push(KeyValue::new("http.response.status_code", i64::from(status)));
    }
    let error = error_type(made.result);
    let status = match &error {
        None => Status::Unset,
        // The status tells; the answer's body is nobody's business here.
        Some(_) if matches!(made.result, AttemptResult::Status(_)) => Status::error(""),
        Some(_) => Status::error(made.detail.clone()),
    };
    about.extend(error.map(|error| KeyValue::new("error.type", error)));
    let state = state(event, producer(event), attempt.trace);
    SpanData {
        span_kind: SpanKind::Client,
        attributes: about,
        status,
        ..child(
            attempt,
            attempt.own,
            attempt.trace.own,
            "POST",
            (times.began(), times.wall(times.ended)),
            state,
        )
    }
}

/// One part of an attempt.
pub(super) fn phase(attempt: &Attempt<'_>, phase: &Phase, times: &Times) -> SpanData {
    let own = attempt.own.with_span(new_span());
    let during = (times.wall(phase.from), times.wall(phase.to));
    let status = if phase.done { Status::Unset } else { Status::error("not completed") };
    SpanData { status, ..child(attempt, own, attempt.own, phase.name, during, TraceState::NONE) }
}

fn child(
    attempt: &Attempt<'_>,
    own: Context,
    parent: Context,
    name: &'static str,
    (start_time, end_time): (SystemTime, SystemTime),
    state: TraceState,
) -> SpanData {
    SpanData {
        span_context: own.exported(false, state),
        parent_span_id: SpanId::from(parent.span),
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: Cow::Borrowed(name),
        start_time,
        end_time,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: attempt.tracer.0.scope.clone(),
    }
}

/// The producer's `tracestate`, where its trace is continued.
fn state(event: &Event, producer: Option<Context>, trace: &Trace) -> TraceState {
    let text = producer
        .filter(|producer| producer.trace == trace.own.trace)
        .and_then(|_| event.headers.text_ignore_case(STATE.as_str()));
    text.and_then(|text| TraceState::from_str(text).ok()).unwrap_or_default()
}

/// A URL that may be shown: webhooks tend to have tokens in their paths and queries.
fn shown(url: &Url) -> String {
    let origin = url.origin().ascii_serialization();
    let whole = url.path() == "/" && url.query().is_none();
    if whole { format!("{origin}/") } else { format!("{origin}/REDACTED") }
}

/// Why an attempt failed; a closed set, but for statuses.
fn error_type(result: AttemptResult) -> Option<Cow<'static, str>> {
    Some(match result {
        AttemptResult::Status(200..=299) => return None,
        AttemptResult::Status(status) => status.to_string().into(),
        AttemptResult::Timeout => "timeout".into(),
        AttemptResult::Connect => "connect".into(),
        AttemptResult::Tls => "tls".into(),
        AttemptResult::Dns => "dns".into(),
        AttemptResult::Reset => "reset".into(),
        AttemptResult::Blocked => "blocked".into(),
    })
}

fn wall(unix_ms: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(unix_ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_url_only_the_origin_is_shown() {
        for (url, expected) in [
            ("https://example.com", "https://example.com/"),
            ("http://example.com:8080/", "http://example.com:8080/"),
            ("https://hooks.example.com/services/T0/B0/s3cret", "https://hooks.example.com/REDACTED"),
            ("https://example.com/?token=s3cret", "https://example.com/REDACTED"),
            ("https://user:s3cret@[2001:db8::1]/x", "https://[2001:db8::1]/REDACTED"),
        ] {
            assert_eq!(shown(&url.parse().unwrap()), expected);
        }
    }
}
