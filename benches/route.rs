//! What routing and decoding cost per event. Run: `cargo bench --bench route`.

use std::{sync::Arc, time::Duration};

use arauto::{
    config::settings::{
        Breaker, Endpoint, Events, FactSource, IdSource, Ordering, Priority, Queue, Retry, Signature,
        TopicSelector,
    },
    pipeline::{Event, Headers, Record, decode::Decoder},
    registry::Snapshot,
};
use bytes::Bytes;
use divan::{AllocProfiler, Bencher};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// One of the endpoints wants the event, whatever their number.
#[divan::bench(args = [10, 1_000, 100_000])]
fn route_to_one_of(bencher: Bencher<'_, '_>, endpoints: usize) {
    let one_each = |n: usize| endpoint(n, &format!("tenant-{n}"));
    let snapshot = Snapshot::new((0..endpoints).map(one_each).collect(), 1);
    let event = event(&format!("tenant-{}", endpoints / 2));
    let mut out = Vec::new();
    bencher.bench_local(|| {
        out.clear();
        snapshot.route(divan::black_box(&event), &mut out);
        assert_eq!(out.len(), 1);
    });
}

/// Ten of the endpoints want the event, whatever their number.
#[divan::bench(args = [10, 1_000, 100_000])]
fn route_to_ten_of(bencher: Bencher<'_, '_>, endpoints: usize) {
    let ten_each = |n: usize| endpoint(n, &format!("tenant-{}", n / 10));
    let snapshot = Snapshot::new((0..endpoints).map(ten_each).collect(), 1);
    let event = event("tenant-0");
    let mut out = Vec::new();
    bencher.bench_local(|| {
        out.clear();
        snapshot.route(divan::black_box(&event), &mut out);
        assert_eq!(out.len(), 10);
    });
}

/// A reload of 100,000 endpoints.
#[divan::bench(sample_count = 10)]
fn index_100_000(bencher: Bencher<'_, '_>) {
    let endpoints: Vec<_> = (0..100_000).map(|n| endpoint(n, &format!("tenant-{n}"))).collect();
    bencher.with_inputs(|| endpoints.clone()).bench_local_values(|endpoints| Snapshot::new(endpoints, 1));
}

/// An event of 1 KiB with its type in the value, tenant and id as by default.
#[divan::bench]
fn decode_json_1_kib(bencher: Bencher<'_, '_>) {
    let decoder = decoder();
    let record = record(&[("tenant", "acme")]);
    bencher.with_inputs(|| record.clone()).bench_local_values(|record| decoder.decode(record));
}

/// The same as a binary `CloudEvents` event: the value is not looked at.
#[divan::bench]
fn decode_cloudevent_1_kib(bencher: Bencher<'_, '_>) {
    let decoder = decoder();
    let record =
        record(&[("ce_type", "order.paid"), ("ce_source", "/shop"), ("ce_id", "17"), ("tenant", "acme")]);
    bencher.with_inputs(|| record.clone()).bench_local_values(|record| decoder.decode(record));
}

fn decoder() -> Decoder {
    let events = Events {
        event_type: vec![FactSource::Header("ce_type".into()), FactSource::Json("/type".into())],
        id: vec![IdSource::CloudEvents],
        namespace: None,
        tenant: vec![FactSource::Header("tenant".into())],
        priority: vec![FactSource::Header("priority".into())],
    };
    Decoder::new(&events, "prod".into())
}

fn record(headers: &[(&str, &'static str)]) -> Record {
    let line = r#"{"sku": "A-17", "quantity": 2, "price": 19.90, "tags": ["a", "b"]},"#;
    let mut value = format!(r#"{{"order": 4711, "lines": [{}"#, line.repeat(14));
    value.truncate(value.len() - 1);
    value.push_str(r#"], "type": "order.created"}"#);
    let header =
        |(name, value): &(&str, &'static str)| (Arc::from(*name), Some(Bytes::from_static(value.as_bytes())));
    Record {
        topic: "orders".into(),
        partition: 3,
        offset: 1_234_567,
        timestamp: 1_700_000_000_000,
        key: Some(Bytes::from_static(b"4711")),
        value: Some(value.into()),
        headers: Headers(headers.iter().map(header).collect()),
    }
}

fn event(tenant: &str) -> Event {
    Event { tenant: Some(tenant.into()), ..decoder().decode(record(&[])) }
}

fn endpoint(n: usize, tenant: &str) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        id: format!("endpoint-{n}").into(),
        url: "https://example.com/hooks".parse().expect("a URL"),
        topics: Some(vec![TopicSelector::Name("orders".into())]),
        types: Some(vec!["order.*".into(), format!("payment.{}", n % 100)]),
        tenant: Some(tenant.into()),
        keys: Vec::new(),
        enabled: true,
        paused: false,
        headers: Vec::new(),
        forward: Vec::new(),
        timeout: Duration::from_secs(15),
        concurrency: 64,
        rate: None,
        burst: 1,
        queue: Queue::Shared,
        ordering: Ordering::None,
        signature: Signature::None,
        priority: Priority::Normal,
        retry: Retry {
            schedule: Vec::new(),
            jitter: 0.2,
            max_age: Duration::from_secs(259_200),
            max_pause: Duration::from_secs(3_600),
            dead_on: Vec::new(),
        },
        breaker: Breaker {
            failures: 0.5,
            minimum: 20,
            open_for: Duration::from_secs(30),
            max_open: Duration::from_secs(600),
        },
        disable_after: None,
    })
}
