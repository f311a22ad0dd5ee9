//! The broker of a bench: the one named by `KAFKA_BROKERS`, else a real one of its own where Kafka's jars are
//! (`tests/kafka/fetch` brings them), else the embedded one.

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer},
};

/// A broker that lives as long as this value.
pub(crate) struct Broker {
    address: String,
    kind: &'static str,
    mock: Option<MockCluster<'static, DefaultProducerContext>>,
    child: Option<super::process::Killed>,
    _data: Option<tempfile::TempDir>,
}

impl Broker {
    /// Finds or starts one; `embedded` asks for the embedded one whatever there is.
    pub(crate) fn start(embedded: bool) -> Self {
        let jars = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.cache/kafka/.complete");
        if embedded || (env::var("KAFKA_BROKERS").is_err() && !jars.exists()) {
            let mock = MockCluster::new(1).expect("the embedded broker starts");
            let address = mock.bootstrap_servers();
            return Self { address, kind: "embedded broker", mock: Some(mock), child: None, _data: None };
        }
        if let Ok(address) = env::var("KAFKA_BROKERS") {
            return Self { address, kind: "real broker", mock: None, child: None, _data: None };
        }
        let data = tempfile::TempDir::with_prefix("arauto-bench-kafka-").expect("a temporary directory");
        let child = start_real(data.path());
        let address = std::fs::read_to_string(data.path().join("address")).expect("it wrote its address");
        let (kind, child) = ("real broker of its own", Some(super::process::Killed(child)));
        Self { address: address.trim().to_owned(), kind, mock: None, child, _data: Some(data) }
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The process of one that was started here.
    pub(crate) fn process(&self) -> Option<u32> {
        self.child.as_ref().map(|child| child.0.id())
    }

    /// What it is, for the head of a table.
    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }

    /// Is it the embedded one, which makes no topics by itself and always waits for the whole of `fetch.wait.max.ms`?
    pub(crate) fn is_embedded(&self) -> bool {
        self.mock.is_some()
    }

    /// The partitions for a topic of so many events of 1 KiB: the embedded broker keeps 5 MiB of each, on a real one they
    /// are 8, or as many as `ARAUTO_BENCH_PARTITIONS` says.
    pub(crate) fn partitions(&self, events: u64) -> i32 {
        if self.is_embedded() {
            (events / 3_000 + 8).min(1_000) as i32
        } else {
            super::number("ARAUTO_BENCH_PARTITIONS", 8) as i32
        }
    }

    /// Makes a topic.
    pub(crate) fn create(&self, topic: &str, partitions: i32) {
        if let Some(mock) = &self.mock {
            return mock.create_topic(topic, partitions, 1).expect("the topic is made");
        }
        super::runtime().block_on(async {
            let admin: AdminClient<DefaultClientContext> =
                ClientConfig::new().set("bootstrap.servers", &self.address).create().expect("a client");
            let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
            let made = admin.create_topics([&new], &AdminOptions::new()).await.expect("an answer");
            made.into_iter().for_each(|made| drop(made.expect("the topic is made")));
        });
    }

    /// Makes the topics an Arauto with this prefix needs, where it cannot do that itself.
    pub(crate) fn create_own(&self, prefix: &str) {
        if self.is_embedded() {
            let own = ["retry.0s", "retry.1s", "retry.5s", "retry.1m", "dead", "state"];
            own.iter().for_each(|name| self.create(&format!("{prefix}.{name}"), 1));
        }
    }

    /// A producer that batches.
    pub(crate) fn producer(&self, linger_ms: u32) -> BaseProducer {
        ClientConfig::new()
            .set("bootstrap.servers", &self.address)
            .set("linger.ms", linger_ms.to_string())
            .set("queue.buffering.max.messages", "1000000")
            .create()
            .expect("a producer")
    }

    /// Writes so many events round robin over the partitions and waits until the broker has them. `make` gives an
    /// event's headers and its body.
    pub(crate) fn fill(&self, topic: &str, partitions: i32, events: u64, make: impl Fn(u64) -> super::Event) {
        let producer = self.producer(20);
        for event in 0..events {
            send(&producer, topic, (event % partitions as u64) as i32, &make(event));
            if event % 1_000 == 0 {
                producer.poll(Duration::ZERO);
            }
        }
        producer.flush(Duration::from_secs(120)).expect("the broker takes everything");
    }
}

/// Hands over so many events at a steady rate, round robin over the partitions, and waits until the broker has them.
pub(crate) fn feed(
    producer: &BaseProducer,
    (topic, partitions): (&str, i32),
    (events, rate): (u64, u64),
    make: impl Fn(u64) -> super::Event,
) {
    let begun = Instant::now();
    for n in 0..events {
        // Asleep, not polling: what is measured shares the cores.
        std::thread::sleep(Duration::from_micros(n * 1_000_000 / rate).saturating_sub(begun.elapsed()));
        producer.poll(Duration::ZERO);
        send(producer, topic, (n % partitions as u64) as i32, &make(n));
    }
    producer.flush(Duration::from_secs(60)).expect("the broker takes everything");
}

/// Hands one event to the producer, waiting while its queue is full.
pub(crate) fn send(producer: &BaseProducer, topic: &str, partition: i32, event: &super::Event) {
    let mut record = BaseRecord::<[u8], [u8]>::to(topic).payload(&event.body).partition(partition);
    if let Some(key) = &event.key {
        record = record.key(key);
    }
    if let Some(tenant) = &event.tenant {
        let header = rdkafka::message::Header { key: "tenant", value: Some(tenant) };
        record = record.headers(rdkafka::message::OwnedHeaders::new().insert(header));
    }
    while let Err((_, again)) = producer.send(record) {
        producer.poll(Duration::from_millis(10));
        record = again;
    }
}

/// As Kafka's scripts start it (`bin/kafka-server-start.sh`, `bin/kafka-run-class.sh`).
const HEAP: &str = "-Xmx1G -Xms1G";
const JVM: &str = "-server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 \
                   -XX:+ExplicitGCInvokesConcurrent";
/// Kafka's defaults again, for what the tests hurry or keep small and would be measured here.
const PROPERTIES: &str = "\
broker.session.timeout.ms=9000
broker.heartbeat.interval.ms=2000
log.retention.check.interval.ms=300000
log.segment.delete.delay.ms=60000
log.cleaner.backoff.ms=15000
offsets.retention.check.interval.ms=600000
log.index.size.max.bytes=10485760
num.network.threads=3
num.io.threads=8
background.threads=10
";

fn start_real(dir: &Path) -> Child {
    std::fs::write(dir.join("more.properties"), PROPERTIES).expect("a file");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/broker");
    let mut child = Command::new(script)
        .arg(dir)
        .arg("--until-eof")
        .env("KAFKA_HEAP_OPTS", HEAP)
        .env("KAFKA_JVM_PERFORMANCE_OPTS", JVM)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the broker can be started");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("Kafka Server started")), "the broker ended before it was ready");
    // Read on, or it would stop when the pipe is full.
    std::thread::spawn(move || lines.for_each(drop));
    child
}
