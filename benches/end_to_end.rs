//! How fast the real binary is, beside what the same machine can do without it: a table of ratios.
//!
//! In one run, with everything of Arauto switched on: (a) a bare `reqwest` loop without Kafka, (b) a throw-away consumer →
//! `reqwest` pipe without ledger, signing, retries or metrics, (c) Arauto. Events are of 1 KiB, 64 requests in flight.
//! The receiver is a process of its own, counts every event once and takes the time from its first to its last request.
//! Nothing counts that did not arrive and was not answered 2xx. Ratios count; absolute figures are the machine's.
//!
//! `cargo bench --bench end_to_end`, or with `-- --quick` in about a minute. It starts a real broker where
//! `tests/kafka/fetch` has brought Kafka's jars, takes the one `KAFKA_BROKERS` names, or else the embedded one
//! (`-- --embedded` takes that in any case). `ARAUTO_BENCH_EVENTS` (200000; quick 40000) and `ARAUTO_BENCH_RUNS` (3; quick 1)
//! change the size; retries are half as many, 60,000 at least. Latencies have four times as many runs, of 5 s, and there each
//! event goes through the pipe and through Arauto at once. A name behind `--` runs the rows whose name contains it.
//! `ARAUTO_BENCH_PROPERTIES` and `ARAUTO_BENCH_LIMITS` are lines for those sections of the configuration.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods)]

use std::{
    env,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, StreamConsumer},
};
use tokio::sync::Semaphore;

#[path = "rig/rig.rs"]
#[allow(dead_code)] // What one bench has no use for another has.
mod rig;

use rig::{
    Event,
    broker::{self, Broker},
    endpoint, head, median, number,
    process::{self, Killed, wait_for},
    receiver::{self, Stats},
    unique,
};

const IN_FLIGHT: usize = 64;
const LATENCY_RATE: u64 = 1_000;
/// How long they are measured at a time, in seconds.
const LATENCY_RUN: u64 = 5;
/// Passes over a full topic before anything counts, and as many before anything counts that is written to another.
const WARM_UPS: usize = 3;
/// How long a process at rest is left alone.
const REST: Duration = Duration::from_secs(10);

fn main() {
    rustls::crypto::ring::default_provider().install_default().expect("it is the first");
    // The process runs itself again for its other roles.
    match env::var(process::ROLE).as_deref() {
        Ok("receiver") => rig::runtime().block_on(receiver::serve()),
        Ok("loop") => rig::runtime().block_on(bare_loop()),
        Ok("pipe") => rig::runtime().block_on(pipe()),
        _ => Bench::new().run(),
    }
}

// ---- the table ----

struct Bench {
    broker: Broker,
    events: u64,
    runs: u64,
    quick: bool,
    only: Option<String>,
}

/// One measurement.
#[derive(Debug, Clone, Default)]
struct Figure {
    per_second: f64,
    cpu_micros: f64,
    peak_mib: f64,
    stats: Stats,
    /// What only this row counts.
    own: f64,
}

type Reading = fn(&Figure) -> f64;

const RATE: Reading = |figure| figure.per_second;
const CPU: Reading = |figure| figure.cpu_micros;
const PEAK: Reading = |figure| figure.peak_mib;
const P50: Reading = |figure| figure.stats.p50 as f64 / 1e3;
const P99: Reading = |figure| figure.stats.p99 as f64 / 1e3;
const OWN: Reading = |figure| figure.own;

impl Bench {
    fn new() -> Self {
        let arguments: Vec<String> = env::args().skip(1).collect();
        let quick = arguments.iter().any(|argument| argument == "--quick");
        Self {
            broker: Broker::start(arguments.iter().any(|argument| argument == "--embedded")),
            events: number("ARAUTO_BENCH_EVENTS", if quick { 40_000 } else { 200_000 }),
            runs: number("ARAUTO_BENCH_RUNS", if quick { 1 } else { 3 }),
            quick,
            only: arguments.into_iter().find(|argument| !argument.starts_with("--")),
        }
    }

    fn run(&self) {
        let cores = std::thread::available_parallelism().unwrap();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        println!("{} on {cores} cores, Linux {}", self.broker.kind(), kernel.trim());
        println!(
            "{} events of {} B, {IN_FLIGHT} in flight, median of {} [spread]\n",
            self.events,
            rig::SIZE,
            self.runs
        );
        self.warm_up();
        self.wanted("plain", || self.plain());
        self.wanted("latency", || self.latency());
        self.wanted("fan-out", || self.fan_out());
        self.wanted("retry", || self.retry());
        self.wanted("two processes", || self.two_processes());
        self.wanted("start", || self.start());
        if !self.quick {
            self.wanted("https", || self.tls("https"));
            self.wanted("http2", || self.tls("http2"));
            self.wanted("ordered", || self.ordered());
            self.wanted("memory", || self.memory());
            // The embedded broker keeps too little of an attempt log.
            if !self.broker.is_embedded() {
                self.wanted("observed", || self.observed());
            }
        }
    }

    /// A broker that was just started compiles its own code while it runs, which is not what is measured. Commits come as
    /// fast as they are answered: minutes of them in seconds.
    fn warm_up(&self) {
        if !self.broker.is_embedded() {
            let topic = self.filled();
            for _ in 0..WARM_UPS {
                let mut case = self.case(&topic, "http", &["/ok/0"], "");
                if !case.config.contains("commit_interval") {
                    case.config = case.config.replace("[limits]", "[limits]\ncommit_interval = \"1ms\"");
                }
                Self::one(&case, self.held(&topic), |_| 0.0);
            }
        }
    }

    /// The same with what the broker has not done until then.
    fn warm_up_with<T>(&self, pass: impl Fn() -> T) {
        if !self.broker.is_embedded() {
            let passes = if self.quick { 1 } else { WARM_UPS };
            for _ in 0..passes {
                pass();
            }
        }
    }

    fn wanted(&self, name: &str, row: impl FnOnce()) {
        if self.only.as_deref().is_none_or(|only| name.contains(only)) {
            row();
        }
    }

    /// Measures all of them in turn, as often as asked.
    fn compare<const N: usize>(&self, each: [&dyn Fn() -> Figure; N]) -> [Vec<Figure>; N] {
        let mut all = [const { Vec::new() }; N];
        for _ in 0..self.runs {
            for (figures, measure) in all.iter_mut().zip(each) {
                figures.push(measure());
            }
        }
        all
    }
}

fn show(name: &str, figures: &[Figure], reading: Reading, unit: &str) {
    let all: Vec<f64> = figures.iter().map(reading).collect();
    let (low, high) = spread(&all);
    println!("{name:48} {:>10.1} {unit:12} [{low:.1} … {high:.1}]", median(all));
}

fn spread(all: &[f64]) -> (f64, f64) {
    all.iter().fold((f64::MAX, 0.0), |(low, high), &one| (low.min(one), one.max(high)))
}

/// Each is compared with the one measured beside it: what else the machine did in that minute, it did to both.
fn ratio(name: &str, (of, by): (&[Figure], &[Figure]), reading: Reading, target: Option<&str>) {
    let all: Vec<f64> = of.iter().zip(by).map(|(of, by)| reading(of) / reading(by)).collect();
    let (low, high) = spread(&all);
    let target = target.map_or_else(String::new, |target| format!(" target {target}"));
    println!("{name:48} {:>10.2} {:12} [{low:.2} … {high:.2}]{target}", median(all), "");
}

// ---- the rows ----

impl Bench {
    fn plain(&self) {
        let topic = self.filled();
        let [bare, pipe, arauto] = self.compare([&|| self.bare("http"), &|| self.piped(&topic), &|| {
            self.arauto(&topic, "http", &["/ok/0"], "", 1)
        }]);
        for (name, figures) in [("bare loop", &bare), ("pipe", &pipe), ("arauto", &arauto)] {
            show(name, figures, RATE, "deliveries/s");
            show(&format!("{name}: CPU"), figures, CPU, "µs each");
            show(&format!("{name}: memory"), figures, PEAK, "MiB peak");
        }
        ratio("arauto ÷ pipe: deliveries/s", (&arauto, &pipe), RATE, Some("≥ 1.0"));
        ratio("arauto ÷ bare loop: deliveries/s", (&arauto, &bare), RATE, Some("≥ 0.80"));
        ratio("arauto ÷ bare loop: CPU", (&arauto, &bare), CPU, Some("≤ 1.5"));
        ratio("arauto ÷ pipe: CPU", (&arauto, &pipe), CPU, None);
    }

    fn latency(&self) {
        // Who is late and how often changes by the second with what else the machine does: few long runs measure that.
        let times = if self.quick { self.runs } else { 4 * self.runs };
        // Nobody has produced a record at a time yet: what waits for the broker is as late through one as through the other.
        self.warm_up_with(|| self.side_by_side());
        let (pipe, arauto): (Vec<_>, Vec<_>) = (0..times).map(|_| self.side_by_side().into()).unzip();
        for (name, figures) in [("pipe", &pipe), ("arauto", &arauto)] {
            let row = format!("{name}: {times} × {LATENCY_RUN} s at {LATENCY_RATE}/s");
            show(&format!("{row}, latency p50"), figures, P50, "ms");
            show(&format!("{row}, latency p99"), figures, P99, "ms");
        }
        ratio("arauto ÷ pipe: p50", (&arauto, &pipe), P50, Some("≤ 1.2"));
        ratio("arauto ÷ pipe: p99", (&arauto, &pipe), P99, Some("≤ 1.2"));
    }

    fn fan_out(&self) {
        let (one, ten) = (self.filled(), self.filled_with(self.events / 10, Event::new));
        let paths: Vec<String> = (0..10).map(|n| format!("/ok/{n}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let [single, many] = self.compare([&|| self.arauto(&one, "http", &["/ok/0"], "", 1), &|| {
            let case = self.case(&ten, "http", &paths, "");
            Self::one(&case, 10 * self.held(&ten), |_| case.counted("arauto_parked_total"))
        }]);
        show("1 event → 10 endpoints", &many, RATE, "deliveries/s");
        show("1 event → 10 endpoints: parked", &many, OWN, "deliveries");
        ratio("fan-out ÷ one endpoint: deliveries/s", (&many, &single), RATE, Some("≥ 1.0"));
        ratio("fan-out ÷ one endpoint: CPU", (&many, &single), CPU, None);
    }

    fn retry(&self) {
        // The first ones are answered 2xx and not counted: how many may be in flight is known then, for failures say
        // nothing of that.
        let warm = 1_000;
        let number = |n: u64| if n < warm { rig::WARM + n } else { n - warm };
        // Enough that there is something to do while the first ones wait, or their wait is what is measured.
        let events = (self.events / 2).max(60_000);
        let topic = self.filled_with(warm + events, |n| Event::new(number(n)));
        // As by default: the first wait is the shortest tier's and up to a fifth longer.
        let more = "breaker = { failures = 1.0, minimum = 1000000 }\nretry = { schedule = [\"1s\"] }";
        let fails_once = || {
            let case = self.case(&topic, "http", &["/once"], more);
            let written = || case.counted("arauto_produced_total");
            Self::one(&case, self.held(&topic), |deliveries| 100.0 * written() / deliveries)
        };
        // Nobody has produced records with headers to this broker yet.
        self.warm_up_with(fails_once);
        let [plain, failing] =
            self.compare([&|| self.arauto(&topic, "http", &["/ok/0"], "", 1), &fails_once]);
        show("each fails once, then a tier", &failing, RATE, "finished/s");
        show("each fails once, then a tier: written there", &failing, OWN, "%");
        show("each fails once, then a tier: CPU", &failing, CPU, "µs each");
        ratio("failing once ÷ plain: finished/s", (&failing, &plain), RATE, Some("≥ 0.4"));
        ratio("failing once ÷ plain: CPU", (&failing, &plain), CPU, None);
    }

    fn two_processes(&self) {
        let topic = self.filled();
        let [one, two] = self.compare([&|| self.arauto(&topic, "http", &["/ok/0"], "", 1), &|| {
            self.arauto(&topic, "http", &["/ok/0"], "", 2)
        }]);
        ratio("two processes ÷ one: CPU per delivery", (&two, &one), CPU, Some("≤ 1.1"));
    }

    fn start(&self) {
        let topic = self.filled_with(self.events.min(100_000), Event::new);
        let [started] = self.compare([&|| self.first_delivery(&topic)]);
        show("partitions assigned → first delivery", &started, RATE, "ms");
    }

    fn tls(&self, scheme: &str) {
        let topic = self.filled();
        let [bare, arauto] =
            self.compare([&|| self.bare(scheme), &|| self.arauto(&topic, scheme, &["/ok/0"], "", 1)]);
        show(&format!("{scheme}: bare loop"), &bare, RATE, "deliveries/s");
        show(&format!("{scheme}: arauto"), &arauto, RATE, "deliveries/s");
        ratio(&format!("{scheme}: arauto ÷ bare loop"), (&arauto, &bare), RATE, Some("≥ 0.80"));
    }

    fn ordered(&self) {
        let keyed = |n: u64| Event { key: Some(format!("key-{}", n % 1_000).into_bytes()), ..Event::new(n) };
        let topic = self.filled_with(self.events, keyed);
        let [plain, ordered] = self
            .compare([&|| self.arauto(&topic, "http", &["/ok/0"], "queue = \"own\"", 1), &|| {
                self.arauto(&topic, "http", &["/ok/0"], "ordering = \"key\"", 1)
            }]);
        show("ordering = \"key\", 1,000 keys", &ordered, RATE, "deliveries/s");
        ratio("ordered ÷ unordered: deliveries/s", (&ordered, &plain), RATE, Some("≥ 0.8"));
    }

    /// Idle, and with a backlog of a million that a limit keeps waiting.
    fn memory(&self) {
        let topic = self.filled_with(1_000_000, Event::new);
        let rest = |what: &str| {
            let begun = Instant::now();
            wait_for(what, || begun.elapsed() > REST);
        };
        let at_rest = |name: &str, topic: &str, more: &str| {
            let case = self.case(topic, "http", &["/ok/0"], more);
            let arauto = case.arauto();
            case.wait_until_assigned();
            rest("things to settle");
            let settled = arauto.usage();
            rest("a while to pass");
            let used = arauto.usage();
            let share = 100.0 * (used.cpu - settled.cpu) / REST.as_secs_f64();
            println!("{:48} {:>10.1} MiB resident", format!("memory: {name}"), used.resident);
            println!("{:48} {share:>10.1} % of a core", format!("CPU: {name}"));
        };
        at_rest("idle", &self.topic(0), "");
        at_rest("1,000,000 events behind, 50/s", &topic, "rate = \"50/s\"");
    }
}

/// A delivery with spans has three at least: its own, that of an attempt, and the attempt's first byte.
const SPANS: f64 = 3.0;

impl Bench {
    /// What it costs to be watched.
    fn observed(&self) {
        let topic = self.filled();
        let [plain, log, all, few] = self.compare([
            &|| self.arauto(&topic, "http", &["/ok/0"], "", 1),
            &|| self.logged(&topic),
            &|| self.traced(&topic, 1.0),
            &|| self.traced(&topic, 0.01),
        ]);
        show("not observed: CPU", &plain, CPU, "µs each");
        for (name, figures) in [("attempt log", &log), ("all spans", &all), ("spans of 1 %", &few)] {
            show(&format!("{name}: CPU"), figures, CPU, "µs each");
            show(&format!("{name}: arrived, not dropped"), figures, OWN, "%");
            ratio(&format!("{name} ÷ not observed: deliveries/s"), (figures, &plain), RATE, None);
            ratio(&format!("{name} ÷ not observed: CPU"), (figures, &plain), CPU, None);
        }
    }

    /// With the attempt log on, and which share of it is there in the end.
    fn logged(&self, topic: &str) -> Figure {
        let mut case = self.case(topic, "http", &["/ok/0"], "");
        let log = format!("{}.attempts", case.prefix);
        case.config += &format!("[attempts]\ntopic = \"{log}\"\n");
        Self::one(&case, self.held(topic), |deliveries| {
            let written = settled("records of the attempt log", || self.held(&log));
            arrived(written, case.counted("arauto_attempt_log_dropped_total"), deliveries)
        })
    }

    /// With spans of this share of the deliveries, and which share of the spans arrived.
    fn traced(&self, topic: &str, ratio: f64) -> Figure {
        let (_collector, collector) = process::receiver("http", Path::new(""));
        let mut case = self.case(topic, "http", &["/ok/0"], "");
        case.config += &format!("[otel]\nendpoint = \"{collector}\"\nsample_ratio = {ratio:?}\n");
        Self::one(&case, self.held(topic), |deliveries| {
            let spans = settled("spans", || receiver::report(&collector).spans);
            // Which deliveries have some is drawn by lot.
            let least = if ratio < 1.0 { 0.5 } else { 1.0 } * SPANS * ratio * deliveries;
            arrived(spans, case.counted("arauto_spans_dropped_total"), least)
        })
    }
}

// ---- what is measured ----

/// One Arauto's surroundings: a receiver, a configuration, a directory.
struct Case {
    /// Its group, and what its topics begin with.
    prefix: String,
    address: String,
    receiver: Killed,
    dir: PathBuf,
    config: String,
}

impl Case {
    fn arauto(&self) -> Killed {
        process::arauto(&self.dir, &self.config)
    }

    /// The time of day when its partitions were assigned, in microseconds, as its log says.
    fn wait_until_assigned(&self) -> u64 {
        let mut assigned = 0;
        wait_for("partitions to be assigned", || {
            let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            // Only whole lines.
            let lines = log.rsplit_once('\n').map_or("", |(lines, _)| lines).lines();
            assigned = { lines }.find(|line| line.contains("partitions assigned")).map_or(0, time_of_day);
            assigned > 0
        });
        assigned
    }

    /// The sum of a metric's series, as its Arauto tells it now.
    fn counted(&self, metric: &str) -> f64 {
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap();
        let line = log.lines().find(|line| line.contains("admin listening")).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let page = receiver::get(&format!("http://{}/metrics", line["address"].as_str().unwrap()));
        let series = page.lines().filter_map(|line| line.strip_prefix(metric)?.rsplit_once(' '));
        series.map(|(_, value)| value.parse::<f64>().unwrap()).fold(0.0, |sum, value| sum + value)
    }
}

/// A count once it stays what it is, longer than anything waits for company; something has to come.
fn settled(what: &str, count: impl Fn() -> u64) -> u64 {
    let mut seen = (0, Instant::now());
    wait_for(what, || {
        let now = count();
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        now > 0 && seen.1.elapsed() > Duration::from_secs(2)
    });
    seen.0
}

/// The share that arrived, in percent; what did not must have been counted as dropped.
fn arrived(arrived: u64, dropped: f64, least: f64) -> f64 {
    let all = arrived as f64 + dropped;
    assert!(all >= least, "{arrived} arrived and {dropped} were dropped, of at least {least}");
    100.0 * arrived as f64 / all
}

/// The time of day of a JSON log line (RFC 3339, UTC), in microseconds.
fn time_of_day(line: &str) -> u64 {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let (_, time) = line["timestamp"].as_str().unwrap().split_once('T').unwrap();
    let mut parts = time.trim_end_matches('Z').split([':', '.']);
    let mut next = || parts.next().unwrap().parse::<u64>().unwrap();
    let seconds = next() * 3_600 + next() * 60 + next();
    seconds * 1_000_000 + next()
}

impl Bench {
    fn topic(&self, events: u64) -> String {
        let topic = unique("end-to-end");
        self.broker.create(&topic, self.broker.partitions(events));
        topic
    }

    fn filled(&self) -> String {
        self.filled_with(self.events, Event::new)
    }

    /// A topic that holds so many events.
    fn filled_with(&self, events: u64, make: impl Fn(u64) -> Event) -> String {
        let topic = self.topic(events);
        self.broker.fill(&topic, self.broker.partitions(events), events, make);
        topic
    }

    fn case(&self, topic: &str, scheme: &str, paths: &[&str], more: &str) -> Case {
        let prefix = unique("arauto");
        let dir = env::temp_dir().join(&prefix);
        std::fs::create_dir_all(&dir).unwrap();
        let (receiver, address) = process::receiver(scheme, &process::certificate(&dir));
        self.broker.create_own(&prefix);
        let mut config = head(&self.broker, topic, &prefix);
        for (n, path) in paths.iter().enumerate() {
            let more = format!("concurrency = {IN_FLIGHT}\n{more}");
            config += &endpoint(&format!("e{n}"), &format!("{address}{path}"), &more);
        }
        Case { prefix, address, receiver, dir, config }
    }

    /// So many Arautos of one group on a full topic, until everything has arrived.
    fn arauto(&self, topic: &str, scheme: &str, paths: &[&str], more: &str, processes: usize) -> Figure {
        let case = self.case(topic, scheme, paths, more);
        let deliveries = self.held(topic) * paths.len() as u64;
        let mut senders: Vec<_> = (0..processes).map(|_| case.arauto()).collect();
        finished(&case.address, deliveries, &mut senders, more)
    }

    /// One Arauto until everything has arrived, and then what this row counts of so many deliveries.
    fn one(case: &Case, deliveries: u64, own: impl FnOnce(f64) -> f64) -> Figure {
        let mut arauto = [case.arauto()];
        let figure = finished(&case.address, deliveries, &mut arauto, "");
        Figure { own: own(deliveries as f64), ..figure }
    }

    /// How many events a topic holds.
    fn held(&self, topic: &str) -> u64 {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.broker.address())
            .set("group.id", "bench-look")
            .create()
            .unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
        let partitions = metadata.topics()[0].partitions();
        let end = |partition: i32| {
            let (low, high) = consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)).unwrap();
            (high - low) as u64
        };
        partitions.iter().map(|partition| end(partition.id())).sum()
    }

    fn bare(&self, scheme: &str) -> Figure {
        let dir = env::temp_dir().join(unique("loop"));
        std::fs::create_dir_all(&dir).unwrap();
        let certificate = process::certificate(&dir);
        let (_receiver, address) = process::receiver(scheme, &certificate);
        let mut command = process::again("loop");
        command.env("URL", format!("{address}/ok/0")).env("EVENTS", self.events.to_string());
        if scheme != "http" {
            command.env("SSL_CERT_FILE", certificate);
        }
        finished(&address, self.events, &mut [Killed(command.spawn().unwrap())], "")
    }

    fn piped(&self, topic: &str) -> Figure {
        let (_receiver, address) = process::receiver("http", Path::new(""));
        finished(&address, self.held(topic), &mut [Killed(self.pipe(&address, "/ok/0", topic))], "")
    }

    fn pipe(&self, address: &str, path: &str, topic: &str) -> Child {
        let mut command: Command = process::again("pipe");
        command.env("URL", format!("{address}{path}")).env("TOPIC", topic);
        command.env("BROKERS", self.broker.address()).spawn().unwrap()
    }

    /// Events at a steady rate, each through the pipe and through Arauto at once: the machine is as busy for one as it is
    /// for the other.
    fn side_by_side(&self) -> [Figure; 2] {
        let events = LATENCY_RATE * LATENCY_RUN;
        let topic = self.topic(events);
        let case = self.case(&topic, "http", &["/ok/arauto"], "");
        let mut senders = [Killed(self.pipe(&case.address, "/ok/pipe", &topic)), case.arauto()];
        let (producer, partitions) = (self.broker.producer(0), self.broker.partitions(events) as u64);
        // Groups are joined, connections made and limits found before it counts.
        let warm = LATENCY_RATE * 3;
        for n in 0..partitions {
            broker::send(&producer, &topic, n as i32, &Event::new(rig::WARM + n));
        }
        wait_for("the first events", || {
            producer.poll(Duration::ZERO);
            receiver::arrived(&case.address) == 2 * partitions
        });
        let number = |n: u64| if n < warm { rig::WARM + partitions + n } else { n - warm };
        broker::feed(&producer, (&topic, partitions as i32), (warm + events, LATENCY_RATE), |n| {
            Event::new(number(n))
        });
        let all = partitions + warm + events;
        finished(&case.address, 2 * all, &mut senders, "");
        let report = receiver::report(&case.address);
        ["/ok/pipe", "/ok/arauto"].map(|path| {
            let stats = report.paths[path].clone();
            assert_eq!(stats.unique, all, "everything arrived at {path}");
            Figure { stats, ..Figure::default() }
        })
    }

    /// The milliseconds from the assignment to the first request, with a full topic.
    fn first_delivery(&self, topic: &str) -> Figure {
        let case = self.case(topic, "http", &["/ok/0"], "");
        let arauto = case.arauto();
        let assigned = case.wait_until_assigned();
        let Figure { stats, .. } = finished(&case.address, self.held(topic), &mut [arauto], "");
        drop(case.receiver);
        let first = stats.first % Duration::from_secs(86_400).as_micros() as u64;
        let millis = first.saturating_sub(assigned) as f64 / 1e3;
        Figure { per_second: millis, stats, ..Figure::default() }
    }
}

/// Waits until everything arrived, and checks that it did.
fn finished(address: &str, deliveries: u64, senders: &mut [Killed], more: &str) -> Figure {
    wait_for("everything to arrive", || {
        let ended = senders.iter_mut().any(Killed::has_ended);
        let arrived = receiver::arrived(address);
        assert!(!ended || arrived >= deliveries, "a sender ended early");
        arrived >= deliveries
    });
    let used: Vec<_> = senders.iter().map(Killed::usage).collect();
    let report = receiver::report(address);
    let stats = report.all;
    assert_eq!((stats.unique, report.refused), (deliveries, 0), "everything arrived, and was answered 2xx");
    assert!(stats.requests < deliveries + deliveries / 100 + 10, "{} requests, {more}", stats.requests);
    Figure {
        per_second: stats.rate(),
        cpu_micros: used.iter().map(|used| used.cpu).sum::<f64>() * 1e6 / deliveries as f64,
        peak_mib: used.iter().map(|used| used.peak).fold(0.0, f64::max),
        stats,
        own: 0.0,
    }
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
                    post(&client, &url, Event::new(event).body).await;
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
