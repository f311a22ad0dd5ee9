//! How fast dead letters are read: a million of them with a filter, by the library as the commands use it.
//!
//! The claim: at least 200,000 records a second on one core, and memory that does not grow with the topic. A real broker
//! is needed, because the embedded one forgets after 5 MiB.
//!
//! ```text
//! cargo bench --bench dlq_scan
//! ARAUTO_BENCH_LETTERS=100000 cargo bench --bench dlq_scan
//! ```
#![allow(clippy::print_stdout, clippy::disallowed_types, clippy::disallowed_methods)]

use std::{
    env, fs,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use arauto::{
    app::load,
    kafka::scan::{Scanner, Span},
    letters::{filter::Filter, matcher::Matcher, spans},
    pipeline::decode::Decoder,
};
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, Producer},
};

#[path = "rig/rig.rs"]
#[allow(dead_code)] // What one bench has no use for another has.
mod rig;

/// What a process that reads is told: its configuration, the dead-letter topic, and which of the filters.
const CONFIG: &str = "ARAUTO_BENCH_CONFIG";
const TOPIC: &str = "ARAUTO_BENCH_TOPIC";
const FILTER: &str = "ARAUTO_BENCH_FILTER";

fn main() {
    if env::var(rig::process::ROLE).is_ok() {
        return measure();
    }
    let letters = rig::number("ARAUTO_BENCH_LETTERS", 1_000_000);
    let broker = rig::broker::Broker::start(false);
    if broker.is_embedded() {
        println!("dlq_scan needs a real broker: tests/kafka/fetch, or KAFKA_BROKERS");
        return;
    }
    let prefix = rig::unique("scan");
    let topic = format!("{prefix}.dead");
    let partitions = broker.partitions(letters);
    broker.create(&topic, partitions);
    fill(&broker, (&topic, partitions), letters);
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let config = dir.path().join("arauto.toml");
    fs::write(&config, rig::head(&broker, "orders", &prefix)).expect("a file");
    println!("{letters} dead letters of 1 KiB, {partitions} partitions, {}", broker.kind());
    println!("{:44} {:>10} {:>9} {:>12} {:>10}", "filter", "letters/s", "matched", "CPU µs each", "peak MiB");
    for filter in 0..filters().len() {
        // A process for each: memory is that of reading alone.
        let mut reader = rig::process::again("read");
        reader.env(CONFIG, &config).env(TOPIC, &topic).env(FILTER, filter.to_string());
        assert!(reader.status().expect("it can be started").success());
    }
}

/// Those that headers answer, and those that need the body.
fn filters() -> Vec<(&'static str, Filter)> {
    let words = |word: &str| vec![word.to_owned()];
    let expression = |text: &str| Filter { expression: Some(text.to_owned()), ..Filter::default() };
    vec![
        (
            "--endpoint crm-7 --status 5xx",
            Filter { endpoints: words("crm-7"), statuses: vec![(500, 599)], ..Filter::default() },
        ),
        ("--id msg_999", Filter { ids: words("msg_999"), ..Filter::default() }),
        (
            "--endpoint crm-7 --where value.n == 7",
            Filter { endpoints: words("crm-7"), ..expression("value.n == 7") },
        ),
        ("--type order.refunded", Filter { types: words("order.refunded"), ..Filter::default() }),
        ("--where value.n == 7", expression("value.n == 7")),
    ]
}

/// Letters of a hundred endpoints, as Arauto writes them.
fn fill(broker: &rig::broker::Broker, (topic, partitions): (&str, i32), letters: u64) {
    let producer = broker.producer(20);
    let now = rig::receiver::micros() / 1000;
    for n in 0..letters {
        let event = rig::Event::new(n);
        let endpoint = format!("crm-{}", n % 100);
        let status = if n.is_multiple_of(3) { "404" } else { "503" };
        let (id, offset, now) = (format!("msg_{n}"), n.to_string(), now.to_string());
        let headers = [
            ("content-type", "application/json"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("arauto-id", &id),
            ("arauto-endpoint", &endpoint),
            ("arauto-source-topic", "orders"),
            ("arauto-source-partition", "3"),
            ("arauto-source-offset", &offset),
            ("arauto-source-timestamp", &now),
            ("arauto-attempts", "8"),
            ("arauto-first-seen", &now),
            ("arauto-due", &now),
            ("arauto-reason", "exhausted"),
            ("arauto-replays", "0"),
            ("arauto-status", status),
            ("arauto-error", "upstream connect error or disconnect before headers"),
        ];
        let all = headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |all, (key, value)| {
            all.insert(Header { key, value: Some(*value) })
        });
        let mut record = BaseRecord::<[u8], [u8]>::to(topic)
            .key(endpoint.as_bytes())
            .payload(&event.body)
            .partition((n % partitions as u64) as i32)
            .headers(all);
        while let Err((_, again)) = producer.send(record) {
            producer.poll(Duration::from_millis(10));
            record = again;
        }
    }
    producer.flush(Duration::from_secs(300)).expect("the broker takes everything");
}

fn measure() {
    let told = |name| env::var(name).expect("it is told");
    let filter = told(FILTER).parse().ok().and_then(|at: usize| filters().into_iter().nth(at));
    let (name, filter) = filter.expect("there is such a filter");
    let settings = load::file(told(CONFIG).as_ref()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let decoder = Arc::new(Decoder::new(&settings.events, "".into()));
    let mut scanner = Scanner::new(&settings.kafka).expect("a client");
    let spans = spans::of(&scanner, &told(TOPIC), &filter).expect("the topic is there");
    let total: u64 = spans.iter().map(Span::len).sum();
    let mut matcher = Matcher::new(filter, decoder).expect("a right expression");
    let (mut read, mut matched) = (0_u64, 0_u64);
    let (begun, before) = (Instant::now(), rig::process::own());
    let visit = |seen: &arauto::kafka::scan::Seen<'_>| {
        read += 1;
        matched += u64::from(matcher.pick(seen).is_some());
        ControlFlow::Continue(())
    };
    scanner.read(&spans, visit).expect("the topic can be read");
    let (wall, after) = (begun.elapsed().as_secs_f64(), rig::process::own());
    assert_eq!(read, total, "every letter is looked at");
    let cpu = (after.cpu - before.cpu) * 1e6 / read as f64;
    println!("{name:44} {:>10.0} {matched:>9} {cpu:>12.2} {:>10.0}", read as f64 / wall, after.peak);
}
