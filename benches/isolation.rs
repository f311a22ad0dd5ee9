//! Whatever one receiver does, the others do not notice; and what 10, 1,000 and 100,000 endpoints cost.
//!
//! First: five healthy endpoints get events that come at a steady rate, alone, and then beside sick ones on the same
//! topic. Five: one refuses connections, one never answers (time-out 30 s), one answers 503, one takes 2 s, one is
//! limited to 5/s. Or fifty that never answer, at a fifth of the rate. What the healthy five get per second, and how late
//! the latest hundredth of it is, are compared. The same with a backlog drained as fast as it goes, where what the sick
//! ones' events cost in CPU shows.
//!
//! Then: 10, 1,000 and 100,000 endpoints, each of a tenant of its own, the events spread over all of them.
//!
//! `cargo bench --bench isolation`; `ARAUTO_BENCH_RUNS` (3), `ARAUTO_BENCH_RATE` (500 events/s for 20 s),
//! `ARAUTO_BENCH_EVENTS` (20000) and `ARAUTO_BENCH_ENDPOINTS` (100000) change the size,
//! `KAFKA_BROKERS` the broker; `-- sick` or `-- many` runs one part.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods)]

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

#[path = "rig/rig.rs"]
#[allow(dead_code)] // What one bench has no use for another has.
mod rig;

use rig::{
    Event,
    broker::{self, Broker},
    endpoint, head, median, number,
    process::{self, wait_for},
    receiver::{self, Stats},
    unique,
};

const HEALTHY: u64 = 5;
const SECONDS: u64 = 20;
/// Events per second when there are many endpoints: below what saturates the machine, so that no crowd of connections
/// is measured.
const MANY_RATE: u64 = 2_000;

fn main() {
    rustls::crypto::ring::default_provider().install_default().expect("it is the first");
    if std::env::var(process::ROLE).is_ok() {
        return rig::runtime().block_on(receiver::serve());
    }
    let broker = Broker::start(std::env::args().any(|argument| argument == "--embedded"));
    let (runs, cores) = (number("ARAUTO_BENCH_RUNS", 3), std::thread::available_parallelism().unwrap());
    println!("{}, {cores} cores, events of {} B, median of {runs} runs", broker.kind(), rig::SIZE);
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let wanted = |part: &str| only.as_deref().is_none_or(|only| part.contains(only));
    if wanted("sick") {
        beside_sick_ones(&broker, runs);
    }
    if wanted("many") {
        many_endpoints(&broker);
    }
}

// ---- healthy ones beside sick ones ----

fn beside_sick_ones(broker: &Broker, runs: u64) {
    let mut all: [Vec<[Stats; 3]>; 2] = Default::default();
    let mut stops = 0;
    for _ in 0..runs {
        for (beside, figures) in
            [[Sick::None; 3], [Sick::Five, Sick::Fifty, Sick::Five]].into_iter().zip(&mut all)
        {
            let (rate, mut stopped) = (number("ARAUTO_BENCH_RATE", 500), [0; 3]);
            figures.push([
                steady(broker, beside[0], rate, &mut stopped[0]),
                steady(broker, beside[1], rate / 5, &mut stopped[1]),
                drained(broker, beside[2], &mut stopped[2]),
            ]);
            stops += stopped.iter().sum::<usize>();
        }
    }
    let of = |sick: usize, at: usize, figure: fn(&Stats) -> f64| {
        median(all[sick].iter().map(|stats| figure(&stats[at])))
    };
    let ratio = |at, figure| of(1, at, figure) / of(0, at, figure);
    let [p50, p99]: [fn(&Stats) -> f64; 2] = [|stats| stats.p50 as f64 / 1e3, |stats| stats.p99 as f64 / 1e3];
    println!(
        "\nfive healthy endpoints, deliveries/s and latency in ms    alone    beside five sick ones    ratio"
    );
    let row = |name: &str, at, figure| {
        println!(
            "{name:<55} {:>7.1} {:>24.1} {:>8.2}",
            of(0, at, figure),
            of(1, at, figure),
            ratio(at, figure)
        );
    };
    row("five sick, steady: deliveries/s", 0, Stats::rate);
    row("five sick, steady: p50", 0, p50);
    row("five sick, steady: p99", 0, p99);
    row("fifty that hang, steady: deliveries/s", 1, Stats::rate);
    row("fifty that hang, steady: p50", 1, p50);
    row("fifty that hang, steady: p99", 1, p99);
    row("five sick, backlog: deliveries/s (all cores busy)", 2, Stats::rate);
    println!("intake stopped because of crowded metadata {stops} times in all runs");
}

/// Who is beside the healthy ones.
#[derive(Clone, Copy, PartialEq)]
enum Sick {
    None,
    Five,
    Fifty,
}

/// A receiver, and an Arauto with the five and those beside them.
struct Five {
    _receiver: process::Killed,
    address: String,
    arauto: process::Killed,
    dir: PathBuf,
}

fn five(broker: &Broker, topic: &str, sick: Sick) -> Five {
    let (receiver, address) = process::receiver("http", Path::new(""));
    let prefix = format!("{topic}-own");
    broker.create_own(&prefix);
    let mut config = head(broker, topic, &prefix);
    for n in 0..HEALTHY {
        config += &endpoint(&format!("healthy-{n}"), &format!("{address}/ok/{n}"), "");
    }
    let silent = format!("{address}/silent");
    if sick == Sick::Fifty {
        for n in 0..50 {
            config += &endpoint(&format!("hangs-{n}"), &silent, "timeout = \"30s\"");
        }
    }
    if sick == Sick::Five {
        config += &endpoint("refuses", "http://127.0.0.1:9/", "timeout = \"30s\"");
        config += &endpoint("hangs", &silent, "timeout = \"30s\"");
        config += &endpoint("fails", &format!("{address}/503"), "");
        config += &endpoint("slow", &format!("{address}/slow"), "");
        config += &endpoint("throttled", &format!("{address}/ok/throttled"), "rate = \"5/s\"");
    }
    // Tiers as they are by default, where they can be made.
    let by_default = ["tiers = [\"1s\", \"5s\", \"1m\"]\n", "hold = \"1s\"\n"];
    if !broker.is_embedded() {
        config = by_default.iter().fold(config, |config, line| config.replace(line, ""));
    }
    // A partition that is not read because of its metadata says so.
    let config = config.replace("arauto=info", "arauto=info,arauto::pipeline::source=debug");
    let dir = std::env::temp_dir().join(&prefix);
    let arauto = process::arauto(&dir, &config);
    Five { _receiver: receiver, address, arauto, dir }
}

impl Five {
    fn stops(&self) -> usize {
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("intake stops until less is owed")).count()
    }
}

/// The stats of the healthy ones together, once each has all events.
fn healthy(address: &str, events: u64, arauto: &mut process::Killed) -> Stats {
    let paths = || (0..HEALTHY).map(|n| format!("/ok/{n}"));
    wait_for("all events at the healthy endpoints", || {
        assert!(!arauto.has_ended(), "arauto ended");
        paths().all(|path| receiver::arrived_at(address, &path) >= events)
    });
    let report = receiver::report(address).paths;
    let each: Vec<Stats> = paths().map(|path| report[&path].clone()).collect();
    let sum = |figure: fn(&Stats) -> u64| each.iter().map(figure).sum::<u64>();
    let mean = |figure: fn(&Stats) -> u64| sum(figure) / HEALTHY;
    let stats = Stats {
        unique: sum(|stats| stats.unique),
        requests: sum(|stats| stats.requests),
        micros: each.iter().map(|stats| stats.micros).max().unwrap_or(0),
        first: each.iter().map(|stats| stats.first).min().unwrap_or(0),
        p50: mean(|stats| stats.p50),
        p99: mean(|stats| stats.p99),
    };
    assert_eq!(stats.unique, events * HEALTHY, "nothing arrives that was not sent");
    assert!(stats.requests < stats.unique + stats.unique / 100, "{stats:?}");
    stats
}

/// Events at a steady rate for a while.
fn steady(broker: &Broker, sick: Sick, rate: u64, stops: &mut usize) -> Stats {
    let topic = unique("steady");
    let partitions = broker.partitions(rate * SECONDS);
    broker.create(&topic, partitions);
    let mut five = five(broker, &topic, sick);
    let producer = broker.producer(0);
    // The group is joined, and it is known who is sick, before it counts.
    let warm = rate * 5;
    broker::send(&producer, &topic, 0, &Event::new(rig::WARM));
    wait_for("the group to be joined", || {
        producer.poll(Duration::ZERO);
        receiver::arrived_at(&five.address, "/ok/0") > 0
    });
    let number = |n: u64| if n < warm { rig::WARM + 1 + n } else { n - warm };
    broker::feed(&producer, (&topic, partitions), (warm + rate * SECONDS, rate), |n| Event::new(number(n)));
    let stats = healthy(&five.address, warm + rate * SECONDS + 1, &mut five.arauto);
    *stops += five.stops();
    stats
}

/// A backlog, as fast as it goes.
fn drained(broker: &Broker, sick: Sick, stops: &mut usize) -> Stats {
    let (topic, events) = (unique("drained"), number("ARAUTO_BENCH_EVENTS", 20_000));
    let partitions = broker.partitions(events);
    broker.create(&topic, partitions);
    broker.fill(&topic, partitions, events, Event::new);
    let mut five = five(broker, &topic, sick);
    let stats = healthy(&five.address, events, &mut five.arauto);
    *stops += five.stops();
    stats
}

// ---- many endpoints ----

struct Many {
    endpoints: u64,
    cpu_micros: f64,
    idle_mib: f64,
    active_mib: f64,
    loaded: Duration,
    joined: Duration,
}

fn many_endpoints(broker: &Broker) {
    let most = number("ARAUTO_BENCH_ENDPOINTS", 100_000);
    let figures: Vec<Many> = [10, 1_000, most].into_iter().map(|endpoints| many(broker, endpoints)).collect();
    let cpu = |many: &Many| many.cpu_micros / figures[0].cpu_micros;
    println!(
        "\nendpoints   CPU/delivery   ÷ 10 endpoints   loaded   joined   resident idle   per idle endpoint   active, peak"
    );
    for many in &figures {
        let Many { endpoints, cpu_micros, idle_mib, active_mib, loaded, joined } = many;
        let each = (idle_mib - figures[0].idle_mib) * 1024.0 / *endpoints as f64;
        println!(
            "{endpoints:>9} {cpu_micros:>11.1} µs {:>16.2} {:>6.2} s {:>6.2} s {idle_mib:>11.1} MiB {each:>15.2} KiB {active_mib:>8.1} MiB",
            cpu(many),
            loaded.as_secs_f64(),
            joined.as_secs_f64(),
        );
    }
}

/// The cost of so many endpoints: idle, then with events spread over all of them.
fn many(broker: &Broker, endpoints: u64) -> Many {
    let (topic, events) = (unique("many"), MANY_RATE * SECONDS);
    let partitions = broker.partitions(events);
    broker.create(&topic, partitions);
    let (_receiver, address) = process::receiver("http", Path::new(""));
    let prefix = format!("{topic}-own");
    broker.create_own(&prefix);
    let mut config = head(broker, &topic, &prefix);
    for n in 0..endpoints {
        write!(
            config,
            "{}",
            endpoint(&format!("e{n}"), &format!("{address}/ok/{n}"), &format!("tenant = \"t{n}\""))
        )
        .unwrap();
    }
    let dir = std::env::temp_dir().join(&prefix);
    let begun = Instant::now();
    let mut arauto = process::arauto(&dir, &config);
    let log = dir.join("log");
    let mut wait_for_line = |line: &str| {
        wait_for(line, || {
            assert!(!arauto.has_ended(), "arauto ended");
            std::fs::read_to_string(&log).is_ok_and(|log| log.contains(line))
        });
        begun.elapsed()
    };
    // Before it asks Kafka anything, and when it has joined its group.
    let [loaded, joined] = ["admin listening", "partitions assigned"].map(&mut wait_for_line);
    let idle = arauto.usage();
    broker::feed(&broker.producer(0), (&topic, partitions), (events, MANY_RATE), |n| Event {
        // In no order, as tenants come.
        tenant: Some(format!("t{}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % endpoints)),
        ..Event::new(n)
    });
    wait_for("all events", || {
        assert!(!arauto.has_ended(), "arauto ended");
        receiver::arrived(&address) == events
    });
    let report = receiver::report(&address);
    assert_eq!((report.all.requests, report.refused), (events, 0));
    let active = arauto.usage();
    Many {
        endpoints,
        cpu_micros: (active.cpu - idle.cpu) * 1e6 / events as f64,
        idle_mib: idle.resident,
        active_mib: active.peak,
        loaded,
        joined,
    }
}
