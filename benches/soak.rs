//! Does memory grow? One process for twenty minutes and more, under a steady rate, beside everything that goes wrong.
//!
//! Events go to a receiver that answers, one that fails each event once, one that always answers 503, one that never
//! answers, a slow one and a throttled one. Every minute the broker stands still for five seconds, and in between the
//! receiver of half of the endpoints does, so that connections pile up and break. Resident memory is sampled; what is
//! printed is the slope of a line through the samples after the first quarter (least squares), and their range.
//!
//! `cargo bench --bench soak`; `ARAUTO_BENCH_SECONDS` (1200) and `ARAUTO_BENCH_RATE` (100 events/s) change the size.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods)]

use std::{
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

#[path = "rig/rig.rs"]
#[allow(dead_code)] // What one bench has no use for another has.
mod rig;

use rig::{
    Event,
    broker::{self, Broker},
    endpoint, head, number,
    process::{self, Killed},
    receiver, unique,
};

const SAMPLES_EVERY: Duration = Duration::from_secs(5);
const FAULTS_EVERY: Duration = Duration::from_secs(30);
const STILL: Duration = Duration::from_secs(5);

fn main() {
    rustls::crypto::ring::default_provider().install_default().expect("it is the first");
    if std::env::var(process::ROLE).is_ok() {
        return rig::runtime().block_on(receiver::serve());
    }
    let (seconds, rate) = (number("ARAUTO_BENCH_SECONDS", 1_200), number("ARAUTO_BENCH_RATE", 100));
    let broker = Broker::start(false);
    let topic = unique("soak");
    broker.create(&topic, 8);
    let (_steady, address) = process::receiver("http", Path::new(""));
    let (troubled, other) = process::receiver("http", Path::new(""));
    let arauto =
        process::arauto(&std::env::temp_dir().join(&topic), &config(&broker, &topic, &address, &other));
    println!("{}, {rate} events/s to six endpoints for {seconds} s", broker.kind());

    let over = AtomicBool::new(false);
    let stopped = [broker.process(), Some(troubled.0.id())];
    let samples = thread::scope(|scope| {
        scope.spawn(|| faults(&stopped, &over));
        let samples = scope.spawn(|| sample(&arauto, &over));
        broker::feed(&broker.producer(5), (&topic, 8), (seconds * rate, rate), Event::new);
        over.store(true, Ordering::Relaxed);
        samples.join().unwrap()
    });
    let delivered = receiver::report(&address).paths.get("/ok/0").map_or(0, |stats| stats.unique);
    assert!(delivered > seconds * rate / 2, "only {delivered} events arrived where nothing is wrong");
    tell(&samples, delivered);
}

fn config(broker: &Broker, topic: &str, address: &str, other: &str) -> String {
    let prefix = format!("{topic}-own");
    broker.create_own(&prefix);
    let mut config = head(broker, topic, &prefix);
    // Who is hopeless gives up after a while, so that as much ends as begins and the broker's disk is not what is filled.
    let retry = "retry = { schedule = [\"2s\", \"10s\", \"10s\"], max_age = \"1m\" }";
    config += &endpoint("healthy", &format!("{address}/ok/0"), "");
    config += &endpoint("stands-still", &format!("{other}/ok/1"), &format!("timeout = \"3s\"\n{retry}"));
    config += &endpoint("fails-once", &format!("{other}/once"), retry);
    config += &endpoint("fails", &format!("{address}/503"), retry);
    config += &endpoint("silent", &format!("{address}/silent"), &format!("timeout = \"5s\"\n{retry}"));
    config += &endpoint("throttled", &format!("{address}/ok/throttled"), "rate = \"100/s\"");
    config
}

/// Stops one process after the other for a while.
fn faults(processes: &[Option<u32>], over: &AtomicBool) {
    for process in processes.iter().cycle() {
        pass(FAULTS_EVERY, over);
        let Some(process) = process else { continue };
        signal("-STOP", *process);
        pass(STILL, over);
        signal("-CONT", *process);
        if over.load(Ordering::Relaxed) {
            return;
        }
    }
}

fn signal(signal: &str, process: u32) {
    Command::new("kill").args([signal, &process.to_string()]).status().expect("kill is there");
}

fn pass(time: Duration, over: &AtomicBool) {
    let begun = Instant::now();
    while begun.elapsed() < time && !over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(100));
    }
}

/// Seconds since the begin, and MiB resident.
fn sample(arauto: &Killed, over: &AtomicBool) -> Vec<(f64, f64)> {
    let begun = Instant::now();
    let mut samples = Vec::new();
    while !over.load(Ordering::Relaxed) {
        pass(SAMPLES_EVERY, over);
        samples.push((begun.elapsed().as_secs_f64(), arauto.usage().resident));
        eprint!("\r{:>6.0} s  {:.1} MiB  ", samples[samples.len() - 1].0, samples[samples.len() - 1].1);
    }
    samples
}

fn tell(samples: &[(f64, f64)], delivered: u64) {
    let settled = &samples[samples.len() / 4..];
    let mean = |of: fn(&(f64, f64)) -> f64| settled.iter().map(of).sum::<f64>() / settled.len() as f64;
    let (time, memory) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let slope = settled.iter().map(|(at, mib)| (at - time) * (mib - memory)).sum::<f64>()
        / settled.iter().map(|(at, _)| (at - time).powi(2)).sum::<f64>();
    let least = settled.iter().map(|(_, mib)| *mib).fold(f64::MAX, f64::min);
    let most = settled.iter().map(|(_, mib)| *mib).fold(0.0, f64::max);
    println!("{delivered} events arrived where nothing is wrong");
    println!("memory after the first quarter: {least:.1} to {most:.1} MiB, mean {memory:.1} MiB");
    println!("slope: {:.2} MiB per hour", slope * 3_600.0);
    for quarter in samples.chunks(samples.len().div_ceil(8)) {
        let mean = quarter.iter().map(|(_, mib)| mib).sum::<f64>() / quarter.len() as f64;
        println!("  until {:>5.0} s: {mean:.1} MiB", quarter.last().unwrap().0);
    }
}
