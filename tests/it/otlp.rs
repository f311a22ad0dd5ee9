//! What becomes of an event can be followed, span by span: from its producer over every attempt, tier and instance to
//! each receiver; and whoever watches never stands in the way.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    collector::{Collector, Span},
    command::arauto,
    config::{Config, Endpoint},
    hook::{Hook, Reply, Request, vacant},
    records::NewRecord,
    until,
};

/// A producer's trace and span.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn producer(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

fn traced(rig: &Rig, collector: &Collector) -> Config {
    rig.config().set("otel.endpoint", collector.url())
}

/// What the receiver was told of the trace: trace, span, flags.
fn context(request: &Request) -> (String, String, String) {
    let parts: Vec<&str> = request.header("traceparent").expect("a traceparent").split('-').collect();
    let [_, trace, span, flags] = parts[..] else { panic!("{parts:?}") };
    (trace.to_owned(), span.to_owned(), flags.to_owned())
}

/// The spans right below one, by their beginning.
fn below<'a>(spans: &'a [Span], above: &Span) -> Vec<&'a Span> {
    let mut below: Vec<_> = spans.iter().filter(|span| span.parent == above.id).collect();
    below.sort_by_key(|span| span.start);
    below
}

fn names<'a>(spans: &[&'a Span]) -> Vec<&'a str> {
    spans.iter().map(|span| &*span.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_followed_from_its_producer_to_each_receiver() {
    let rig = Rig::new("otlp", 1).await;
    let (collector, hook) = (Collector::start().await, Hook::accepting().await);
    let secret = format!("{}/s3cret?token=s3cret", hook.url());
    let config = traced(&rig, &collector)
        .set("otel.service_name", "shop-webhooks")
        .set("otel.headers.x-key", "file:key")
        .endpoint(Endpoint::new("crm", &hook.url()))
        .endpoint(Endpoint::new("erp", &secret).set("concurrency", 1));
    let file = config.write();
    std::fs::write(file.dir().join("key"), "k-123").unwrap();
    let mut arauto = Arauto::run(&file.path()).await;
    let event = |value: &str| {
        NewRecord::new(&rig.topic, value)
            .partition(0)
            .header("traceparent", producer("01"))
            .header("tracestate", "vendor=1,other=2")
    };
    rig.cluster.produce(&[event("first")]).await;
    hook.wait_for_requests(2, PATIENCE).await;
    rig.cluster.produce(&[event("second")]).await;
    let deliveries = collector.wait_for("deliver ", 4).await;
    let spans = collector.spans();

    for delivery in &deliveries {
        assert_eq!((&*delivery.trace, &*delivery.parent, delivery.kind), (TRACE, SPAN, SpanKind::Consumer));
        assert_eq!(delivery.links, [(TRACE.to_owned(), SPAN.to_owned())]);
        assert_eq!((delivery.get("messaging.destination.name"), delivery.failed), (&*rig.topic, false));
        assert_eq!((delivery.get("arauto.outcome"), delivery.get("arauto.attempts")), ("delivered", "1"));
        assert_eq!(delivery.name, format!("deliver {}", delivery.get("arauto.endpoint")));
        assert_eq!(
            (&*delivery.state, &*delivery.resource["service.name"]),
            ("vendor=1,other=2", "shop-webhooks")
        );
        let [attempt] = below(&spans, delivery)[..] else { panic!("one attempt: {spans:#?}") };
        assert_eq!((&*attempt.name, &*attempt.trace, attempt.kind), ("POST", TRACE, SpanKind::Client));
        assert_eq!(attempt.get("http.response.status_code"), "200");
        assert_eq!(attempt.get("url.full"), format!("http://{}/REDACTED", hook.address()));
        assert!(delivery.start <= attempt.start && attempt.end <= delivery.end, "{delivery:?} {attempt:?}");
        assert_eq!(names(&below(&spans, attempt)).last(), Some(&"first_byte"));
        // The receiver continues where the attempt is.
        let told = hook.requests().into_iter().find(|request| context(request).1 == attempt.id).unwrap();
        assert_eq!((context(&told).0, context(&told).2), (TRACE.to_owned(), "01".to_owned()));
        assert_eq!(told.header("tracestate"), Some("vendor=1,other=2"));
        assert_eq!(
            (&*told.id, &*told.id),
            (delivery.get("messaging.message.id"), attempt.get("messaging.message.id"))
        );
    }
    let offsets: BTreeSet<_> = deliveries.iter().map(|span| span.get("messaging.kafka.offset")).collect();
    assert_eq!(offsets, ["0", "1"].into());
    // One connection at least was opened, none of them shown twice.
    let opened = spans.iter().filter(|span| span.name == "connect").count();
    assert!((1..=4).contains(&opened), "{opened}");
    assert!(spans.iter().all(|span| !format!("{span:?}").contains("s3cret")));
    let requests = collector.requests();
    assert!(
        requests.iter().all(|request| request.path == "/v1/traces" && request.headers["x-key"] == "k-123")
    );
    assert_eq!(arauto.metrics().await.value("arauto_spans_dropped_total", &[]), Some(0.0));
    assert_eq!(arauto.stop().await, 0);
    assert!(!arauto.output().iter().any(|line| line.contains("k-123")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_by_another_instance_is_in_the_same_delivery() {
    let rig = Rig::new("otlp-retry", 1).await;
    let (collector, hook) = (Collector::start().await, Hook::failing_first(1, 503).await);
    let endpoint = Endpoint::new("crm", &hook.url()).set("retry.schedule", vec!["3s"]);
    let file = traced(&rig, &collector).endpoint(endpoint).write();
    let mut first = Arauto::run(&file.path()).await;
    rig.cluster.produce(&[NewRecord::new(&rig.topic, "event")]).await;
    hook.wait_for_requests(1, PATIENCE).await;
    until(PATIENCE, "the delivery to wait on a tier", async || {
        !rig.cluster.read(&rig.tier("3s")).await.is_empty()
    })
    .await;
    // What it has to tell it tells before it ends.
    assert_eq!(first.stop().await, 0);
    assert_eq!(collector.wait_for("POST", 1).await.len(), 1);
    assert!(!collector.spans().iter().any(|span| span.name.starts_with("deliver")), "it has not ended");

    let mut second = Arauto::run(&file.path()).await;
    let [delivery] = &collector.wait_for("deliver crm", 1).await[..] else { panic!("one delivery") };
    let spans = collector.spans();
    let attempts = below(&spans, delivery);
    assert_eq!((names(&attempts), &*delivery.parent, delivery.links.len()), (vec!["POST", "POST"], "", 0));
    assert!(delivery.start <= attempts[0].start && attempts[1].end <= delivery.end);
    assert!(attempts.iter().all(|attempt| attempt.trace == delivery.trace));
    assert_ne!(attempts[0].resource["service.instance.id"], attempts[1].resource["service.instance.id"]);
    let [failed, made] = [0, 1].map(|n| attempts[n]);
    assert_eq!((failed.failed, failed.get("error.type"), made.failed), (true, "503", false));
    assert_eq!((failed.get("http.request.resend_count"), made.get("http.request.resend_count")), ("", "1"));
    let own = format!("00-{}-{}-01", delivery.trace, delivery.id);
    for record in rig.cluster.read(&rig.tier("3s")).await {
        assert_eq!(record.header("arauto-traceparent"), Some(&*own));
    }
    let told: Vec<_> = hook.requests().iter().map(|request| context(request).1).collect();
    assert_eq!(told, [&*failed.id, &*made.id]);
    assert_eq!(second.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_cancels_ends_with_its_span() {
    let rig = Rig::new("otlp-cancel", 1).await;
    let (collector, hook) = (Collector::start().await, Hook::refusing(500).await);
    let endpoint = Endpoint::new("crm", &hook.url()).set("retry.schedule", vec!["1h"]);
    let file = traced(&rig, &collector).endpoint(endpoint).write();
    let mut running = Arauto::run(&file.path()).await;
    let event = NewRecord::new(&rig.topic, "event").header("traceparent", producer("01"));
    rig.cluster.produce(&[event]).await;
    until(PATIENCE, "the delivery to wait on a tier", async || {
        !rig.cluster.read(&rig.tier("3s")).await.is_empty()
    })
    .await;
    assert_eq!(running.stop().await, 0);
    let path = file.path();
    let words = ["retries", "cancel", "--endpoint", "crm", "--yes", "--config", path.to_str().unwrap()];
    let output = arauto(&words).await;
    assert_eq!(output.code, 0, "{output:?}");

    let mut running = Arauto::run(&path).await;
    let [delivery] = &collector.wait_for("deliver crm", 1).await[..] else { panic!("one delivery") };
    assert_eq!((delivery.get("arauto.outcome"), delivery.get("arauto.reason")), ("dead", "cancelled"));
    assert_eq!((&*delivery.trace, &*delivery.parent, delivery.get("arauto.attempts")), (TRACE, SPAN, "1"));
    assert_eq!(names(&below(&collector.spans(), delivery)), ["POST"]);
    assert_eq!(running.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_producer_does_not_record_nobody_does() {
    let rig = Rig::new("otlp-sampling", 1).await;
    let (collector, hook) = (Collector::start().await, Hook::accepting().await);
    let endpoint = Endpoint::new("crm", &hook.url()).set("ordering", "endpoint");
    let file = traced(&rig, &collector).set("otel.sample_ratio", 0).endpoint(endpoint).write();
    let mut arauto = Arauto::run(&file.path()).await;
    let event = |value: &str| NewRecord::new(&rig.topic, value).partition(0);
    let events = [
        event("not recorded").header("traceparent", producer("00")),
        event("none"),
        event("broken").header("traceparent", "00-nonsense").header("tracestate", "vendor=1"),
        event("recorded").header("traceparent", producer("01")),
    ];
    rig.cluster.produce(&events).await;
    hook.wait_for_requests(4, PATIENCE).await;
    collector.wait_for("deliver ", 1).await;
    assert_eq!(arauto.stop().await, 0);

    let sent: Vec<_> = collector.spans().into_iter().map(|span| span.name).collect();
    assert_eq!(sent.iter().filter(|name| name.starts_with("deliver")).count(), 1, "{sent:?}");
    assert_eq!(sent.iter().filter(|name| *name == "POST").count(), 1, "{sent:?}");
    let told = hook.requests();
    let flags: Vec<_> = told.iter().map(|request| context(request).2).collect();
    assert_eq!(flags, ["00", "00", "00", "01"]);
    assert_eq!((context(&told[0]).0, context(&told[3]).0), (TRACE.to_owned(), TRACE.to_owned()));
    let spans: BTreeSet<_> = told.iter().map(|request| context(request).1).collect();
    assert!(spans.len() == 4 && !spans.contains(SPAN), "{spans:?}");
    // A state without its parent says nothing.
    assert_eq!(told[2].header("tracestate"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_a_delivery_of_its_own_linked_to_the_one_that_died() {
    let rig = Rig::new("otlp-replay", 1).await;
    let (collector, hook) = (Collector::start().await, Hook::refusing(500).await);
    let endpoint = Endpoint::new("crm", &hook.url()).set("retry.schedule", Vec::<String>::new());
    let file = traced(&rig, &collector).endpoint(endpoint).write();
    let mut running = Arauto::run(&file.path()).await;
    let events = [
        NewRecord::new(&rig.topic, "a"),
        NewRecord::new(&rig.topic, "b").header("traceparent", producer("01")),
    ];
    rig.cluster.produce(&events).await;
    let died = collector.wait_for("deliver crm", 2).await;
    for delivery in &died {
        assert!(delivery.failed);
        assert_eq!((delivery.get("arauto.outcome"), delivery.get("arauto.reason")), ("dead", "exhausted"));
    }
    hook.script(|_| Reply::ok());
    let output = arauto(&["dlq", "replay", "--config", file.path().to_str().unwrap()]).await;
    assert_eq!(output.code, 0, "{output:?}");
    let all = collector.wait_for("deliver crm", 4).await;
    assert_eq!(running.stop().await, 0);

    let replays: Vec<_> = all.iter().filter(|span| !span.get("arauto.replays").is_empty()).collect();
    assert_eq!(replays.len(), 2, "{all:#?}");
    for replay in replays {
        let old = died.iter().find(|old| old.trace == replay.trace).expect("the same trace");
        assert!(replay.id != old.id && !replay.failed && replay.start >= old.start);
        assert_eq!(replay.links.last(), Some(&(old.trace.clone(), old.id.clone())));
        // Without a producer's span it is below the one it replays.
        let (parent, links) = if old.trace == TRACE { (SPAN, 2) } else { (&*old.id, 1) };
        assert_eq!((&*replay.parent, replay.links.len()), (parent, links));
    }
}

/// Delivers with this endpoint for spans, until so many were dropped and then once more.
async fn dropped(promise: &str, endpoint: &str, spans: f64) {
    const EVENTS: usize = 30;
    let rig = Rig::new(promise, 1).await;
    let hook = Hook::accepting().await;
    let config = rig.config().set("otel.endpoint", endpoint).set("otel.timeout", "2s");
    let mut arauto = Arauto::run(&config.endpoint(Endpoint::new("crm", &hook.url())).write().path()).await;
    let events: Vec<_> = (0..EVENTS).map(|n| NewRecord::new(&rig.topic, format!("{n}"))).collect();
    rig.cluster.produce(&events).await;
    hook.wait_for(EVENTS, PATIENCE).await;
    arauto
        .wait_for_metrics("spans to be dropped", |metrics| {
            metrics.value("arauto_spans_dropped_total", &[]).is_some_and(|dropped| dropped >= spans)
        })
        .await;
    arauto.wait_for_log("spans dropped, the collector does not take them").await;
    rig.cluster.produce(&[NewRecord::new(&rig.topic, "the last")]).await;
    hook.wait_for(EVENTS + 1, PATIENCE).await;
    assert_eq!(arauto.stop().await, 0);
    assert!(arauto.logged("tasks were still at work").is_none());
    assert_eq!((hook.count(), hook.duplicates()), (EVENTS + 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_deliveries_go_on_and_what_is_lost_is_counted() {
    let nobody = format!("http://{}", vacant().await);
    dropped("otlp-nobody", &nobody, 90.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_refuses_is_counted() {
    let collector = Collector::start().await;
    collector.answer(400);
    dropped("otlp-refused", collector.url(), 90.0).await;
    assert!(collector.spans().is_empty() && !collector.requests().is_empty());
}
