//! Deliveries per second, CPU and memory of the real binary, beside what the same machine can do without it.
//!
//! In one run, at 1 KiB events and 64 requests in flight: (a) a bare `reqwest` loop, (b) a throw-away consumer →
//! `reqwest` pipe without ledger, signing, retries or metrics, (c) Arauto with everything on. The receiver is a process
//! of its own, counts unique bodies answered 2xx and takes the time from its first to its last request. Ratios count;
//! absolute figures are the machine's.
//!
//! `cargo bench --bench end_to_end` uses the embedded broker; with `KAFKA_BROKERS` a real one. `ARAUTO_BENCH_EVENTS`
//! (200000) and `ARAUTO_BENCH_RUNS` (3) change the size.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods)]

use std::{
    collections::HashSet,
    env, fs,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, extract::State, routing::get};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{Consumer, StreamConsumer},
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, Producer},
};
use tokio::sync::Semaphore;

const IN_FLIGHT: usize = 64;
const SIZE: usize = 1024;
/// The embedded broker keeps 5 MiB per partition.
const PARTITIONS: i32 = 64;
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn main() {
    rustls::crypto::ring::default_provider().install_default().expect("it is the first");
    // The process runs itself again for its other roles.
    match env::var("ARAUTO_BENCH_ROLE").as_deref() {
        Ok("receiver") => runtime().block_on(receiver()),
        Ok("loop") => runtime().block_on(bare_loop()),
        Ok("pipe") => runtime().block_on(pipe()),
        _ => bench(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

// ---- the bench ----

#[derive(Debug, Clone, Copy)]
struct Figure {
    per_second: f64,
    cpu_micros: f64,
    peak_mib: f64,
}

fn bench() {
    let events = number("ARAUTO_BENCH_EVENTS", 200_000);
    let runs = number("ARAUTO_BENCH_RUNS", 3);
    let (_embedded, brokers, kind) = match env::var("KAFKA_BROKERS") {
        Ok(brokers) => (None, brokers, "real broker"),
        Err(_) => {
            let cluster = MockCluster::new(1).unwrap();
            let brokers = cluster.bootstrap_servers();
            (Some(cluster), brokers, "embedded broker")
        }
    };
    println!("{events} events of {SIZE} B, {IN_FLIGHT} in flight, {kind}, {runs} runs; median [all runs]");
    let mut all: [Vec<Figure>; 3] = Default::default();
    for run in 0..runs {
        let topic = format!("bench-{}-{run}", std::process::id());
        fill(&brokers, &topic, events, _embedded.as_ref());
        all[0].push(measure(events, |url| child("loop", url, events, "", "")));
        all[1].push(measure(events, |url| child("pipe", url, events, &brokers, &topic)));
        let prefix = format!("{topic}-own");
        if let Some(cluster) = &_embedded {
            for own in ["retry.0s", "retry.5s", "dead", "state"] {
                cluster.create_topic(&format!("{prefix}.{own}"), 1, 1).unwrap();
            }
        }
        all[2].push(measure(events, |url| arauto(url, &brokers, &topic, &prefix, _embedded.is_some())));
    }
    for (name, figures) in ["bare reqwest loop", "throw-away pipe", "arauto"].iter().zip(&all) {
        print(name, figures);
    }
    let ratio = |of: usize, by: usize, figure: fn(&Figure) -> f64| {
        median(&all[of], figure) / median(&all[by], figure)
    };
    println!("arauto ÷ throw-away pipe: {:.2} deliveries/s, {:.2} CPU", ratio(2, 1, rate), ratio(2, 1, cpu));
    println!("arauto ÷ bare loop:       {:.2} deliveries/s, {:.2} CPU", ratio(2, 0, rate), ratio(2, 0, cpu));
}

fn rate(figure: &Figure) -> f64 {
    figure.per_second
}

fn cpu(figure: &Figure) -> f64 {
    figure.cpu_micros
}

fn median(figures: &[Figure], figure: impl Fn(&Figure) -> f64) -> f64 {
    let mut values: Vec<f64> = figures.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print(name: &str, figures: &[Figure]) {
    let all: Vec<String> = figures.iter().map(|figure| format!("{:.0}", figure.per_second)).collect();
    println!(
        "{name:20} {:>8.0}/s [{}]  {:>6.1} µs CPU each  {:>6.1} MiB peak",
        median(figures, rate),
        all.join(" "),
        median(figures, cpu),
        median(figures, |figure| figure.peak_mib),
    );
}

/// Starts a receiver and a sender, waits until everything arrived, and checks that it did.
fn measure(events: u64, sender: impl FnOnce(&str) -> Child) -> Figure {
    let mut receiver = Killed(again("receiver").stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(receiver.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().to_owned();
    let mut child = Killed(sender(&url));
    let deadline = Instant::now() + Duration::from_secs(600);
    let stats = loop {
        std::thread::sleep(Duration::from_millis(50));
        let stats = stats(&url);
        if stats.0 >= events {
            break stats;
        }
        assert!(Instant::now() < deadline, "only {} of {events} arrived", stats.0);
        assert!(child.0.try_wait().unwrap().is_none() || stats.0 >= events, "the sender ended early");
    };
    let (cpu, peak_mib) = usage(child.0.id());
    drop((child, receiver));
    let (unique, requests, micros) = stats;
    assert_eq!(unique, events, "every event arrived, and was answered 2xx");
    assert!(requests < events + events / 100, "{requests} requests for {events} events");
    Figure {
        per_second: requests as f64 / (micros as f64 / 1e6),
        cpu_micros: cpu * 1e6 / events as f64,
        peak_mib,
    }
}

/// A child that does not outlive the measurement, however that ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// CPU seconds so far and peak resident memory in MiB: proc(5).
fn usage(pid: u32) -> (f64, f64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: f64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    // USER_HZ is 100 on every Linux that runs Rust.
    (ticks / 100.0, kib / 1024.0)
}

fn again(role: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.env("ARAUTO_BENCH_ROLE", role);
    command
}

fn child(role: &str, url: &str, events: u64, brokers: &str, topic: &str) -> Child {
    let mut command = again(role);
    command.env("URL", url).env("EVENTS", events.to_string()).env("BROKERS", brokers).env("TOPIC", topic);
    command.spawn().unwrap()
}

fn arauto(url: &str, brokers: &str, topic: &str, prefix: &str, embedded: bool) -> Child {
    let dir = env::temp_dir().join(prefix);
    fs::create_dir_all(&dir).unwrap();
    let config = dir.join("arauto.toml");
    // The embedded broker always waits for the whole of fetch.wait.max.ms, and cannot create topics.
    let (wait, create) = if embedded { (10, false) } else { (500, true) };
    let text = format!(
        r#"
[kafka]
brokers = "{brokers}"
group = "{prefix}"
topics = ["{topic}"]
start = "earliest"
[kafka.properties]
"fetch.wait.max.ms" = "{wait}"
[topics]
tiers = ["5s"]
partitions = 1
create = {create}
[security]
allow = ["127.0.0.0/8"]
[admin]
listen = "127.0.0.1:0"
[log]
level = "warn"
[[endpoints]]
id = "bench"
url = "{url}"
secrets = ["{SECRET}"]
concurrency = {IN_FLIGHT}
"#
    );
    fs::write(&config, text).unwrap();
    Command::new(env!("CARGO_BIN_EXE_arauto")).arg("run").arg("--config").arg(config).spawn().unwrap()
}

fn fill(
    brokers: &str,
    topic: &str,
    events: u64,
    embedded: Option<&MockCluster<'_, rdkafka::producer::DefaultProducerContext>>,
) {
    match embedded {
        Some(cluster) => cluster.create_topic(topic, PARTITIONS, 1).unwrap(),
        None => runtime().block_on(async {
            let admin: AdminClient<DefaultClientContext> =
                ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
            let new = NewTopic::new(topic, 8, TopicReplication::Fixed(-1));
            admin.create_topics([&new], &AdminOptions::new()).await.unwrap();
        }),
    }
    let partitions = if embedded.is_some() { PARTITIONS } else { 8 };
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("linger.ms", "20")
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .unwrap();
    for event in 0..events {
        let body = body(event);
        let partition = (event % partitions as u64) as i32;
        let mut record = BaseRecord::<(), _>::to(topic).payload(&body).partition(partition);
        while let Err((_, again)) = producer.send(record) {
            producer.poll(Duration::from_millis(10));
            record = again;
        }
        if event % 1_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(120)).unwrap();
}

/// A JSON event of 1 KiB that begins with its number.
fn body(event: u64) -> Vec<u8> {
    let mut body = format!("{{\"n\":{event:010},\"type\":\"order.created\",\"pad\":\"").into_bytes();
    body.resize(SIZE - 2, b'x');
    body.extend_from_slice(b"\"}");
    body
}

// ---- the receiver ----

#[derive(Default)]
struct Counts {
    seen: Mutex<HashSet<u64>>,
    requests: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
}

async fn receiver() {
    let counts = Arc::new(Counts::default());
    let begun = Instant::now();
    let post = move |State(counts): State<Arc<Counts>>, body: Bytes| async move {
        let number = std::str::from_utf8(&body[5..15]).unwrap().parse().unwrap();
        let now = begun.elapsed().as_micros() as u64;
        counts.first.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).ok();
        counts.last.fetch_max(now, Ordering::Relaxed);
        counts.requests.fetch_add(1, Ordering::Relaxed);
        counts.seen.lock().unwrap().insert(number);
    };
    let stats = |State(counts): State<Arc<Counts>>| async move {
        let micros = counts.last.load(Ordering::Relaxed) - counts.first.load(Ordering::Relaxed);
        format!("{} {} {micros}", counts.seen.lock().unwrap().len(), counts.requests.load(Ordering::Relaxed))
    };
    let app = Router::new().route("/", get(stats).post(post)).with_state(counts);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("http://{}/", listener.local_addr().unwrap());
    std::io::stdout().flush().unwrap();
    axum::serve(listener, app).await.unwrap();
}

/// Unique events, requests, and the microseconds from the first to the last.
fn stats(url: &str) -> (u64, u64, u64) {
    let text = runtime().block_on(async { reqwest::get(url).await.unwrap().text().await.unwrap() });
    let mut numbers = text.split(' ').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap(), numbers.next().unwrap())
}

// ---- what Arauto is compared with ----

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().tcp_nodelay(true).pool_max_idle_per_host(IN_FLIGHT).build().unwrap()
}

async fn post(client: &reqwest::Client, url: &reqwest::Url, body: Vec<u8>) {
    let response =
        client.post(url.clone()).header("content-type", "application/json").body(body).send().await.unwrap();
    assert!(response.status().is_success());
    response.bytes().await.unwrap();
}

async fn bare_loop() {
    let (client, url) = (client(), env::var("URL").unwrap().parse::<reqwest::Url>().unwrap());
    let events = number("EVENTS", 0);
    let next = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let (client, url, next) = (client.clone(), url.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let event = next.fetch_add(1, Ordering::Relaxed);
                    if event >= events {
                        break;
                    }
                    post(&client, &url, body(event)).await;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    // Whoever measures reads our CPU time, then ends us.
    std::future::pending::<()>().await;
}

async fn pipe() {
    let (client, url) = (client(), env::var("URL").unwrap().parse::<reqwest::Url>().unwrap());
    let topic = env::var("TOPIC").unwrap();
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", env::var("BROKERS").unwrap())
        .set("group.id", format!("{topic}-pipe"))
        .set("enable.auto.commit", "true")
        .set("fetch.wait.max.ms", "10")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(&topic), Duration::from_secs(10)).unwrap();
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        list.add_partition_offset(&topic, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let window = Arc::new(Semaphore::new(IN_FLIGHT));
    loop {
        let message = consumer.recv().await.unwrap();
        let body = message.payload().unwrap().to_vec();
        let permit = Arc::clone(&window).acquire_owned().await.unwrap();
        let (client, url) = (client.clone(), url.clone());
        tokio::spawn(async move {
            post(&client, &url, body).await;
            drop(permit);
        });
    }
}
