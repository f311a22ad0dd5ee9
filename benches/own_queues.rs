//! What queues of their own cost, idle: threads, memory, connections and CPU of a process with 0, 1 and 64 of them.
//!
//! `cargo bench --bench own_queues`; `KAFKA_BROKERS` and the rest as in the other benches.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods)]

use std::{
    path::Path,
    time::{Duration, Instant},
};

#[path = "rig/rig.rs"]
#[allow(dead_code)] // What one bench has no use for another has.
mod rig;

use rig::{
    broker::Broker,
    endpoint, head,
    process::{self, wait_for},
    receiver, unique,
};

/// Until clients have found their brokers and joined their groups, and then for measuring.
const SETTLE: Duration = Duration::from_secs(15);
const MEASURE: Duration = Duration::from_secs(20);

fn main() {
    rustls::crypto::ring::default_provider().install_default().expect("it is the first");
    if std::env::var(process::ROLE).is_ok() {
        return rig::runtime().block_on(receiver::serve());
    }
    let broker = Broker::start(std::env::args().any(|argument| argument == "--embedded"));
    let cores = std::thread::available_parallelism().unwrap();
    println!("{}, {cores} cores, 8 partitions, idle", broker.kind());
    println!("own queues   threads   resident   connections   CPU of one core");
    for count in [0, 1, 64] {
        measure(&broker, count);
    }
}

fn measure(broker: &Broker, count: usize) {
    let topic = unique("own-queues");
    broker.create(&topic, 8);
    let (_receiver, address) = process::receiver("http", Path::new(""));
    let prefix = format!("{topic}-own");
    broker.create_own(&prefix);
    let mut config = head(broker, &topic, &prefix);
    for n in 0..count {
        config += &endpoint(&format!("own-{n}"), &format!("{address}/ok/{n}"), "queue = \"own\"");
    }
    let dir = std::env::temp_dir().join(&prefix);
    let arauto = process::arauto(&dir, &config);
    wait_for("its groups to be joined", || {
        let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("partitions assigned")).count() > count
    });
    pass(SETTLE);
    let before = arauto.usage().cpu;
    pass(MEASURE);
    let usage = arauto.usage();
    let (threads, connections) = (arauto.threads(), arauto.sockets());
    let cpu = (usage.cpu - before) / MEASURE.as_secs_f64() * 100.0;
    println!("{count:>10} {threads:>9} {:>6.0} MiB {connections:>13} {cpu:>15.1} %", usage.resident);
}

fn pass(time: Duration) {
    let begun = Instant::now();
    wait_for("time to pass", || begun.elapsed() >= time);
}
