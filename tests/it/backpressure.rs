//! Back-pressure first, parking only where it helps: what cannot be sent waits on the source topic when its endpoint is
//! alone, and is written a bounded number of times when it stands in another's way.

use std::{collections::HashMap, time::Duration};

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    config::Endpoint,
    hook::{Hook, Reply},
    records::{NewRecord, Record},
};

/// Everything here takes seconds; a starved machine may take minutes.
const LONG: Duration = Duration::from_secs(180);

/// How often each delivery for an endpoint was written to these tiers, by its id.
async fn writes(rig: &Rig, tiers: &[&str], endpoint: &str) -> HashMap<String, usize> {
    let mut writes = HashMap::new();
    for tier in tiers {
        let written = rig.cluster.read(&rig.tier(tier)).await;
        let of_the_endpoint = |record: &&Record| record.header("arauto-endpoint") == Some(endpoint);
        for record in written.iter().filter(of_the_endpoint) {
            *writes.entry(record.header("arauto-id").unwrap().to_owned()).or_default() += 1;
        }
    }
    writes
}

fn most_and_mean(writes: &HashMap<String, usize>) -> (usize, f64) {
    let most = writes.values().max().copied().unwrap_or(0);
    (most, writes.values().sum::<usize>() as f64 / writes.len().max(1) as f64)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_endpoint_that_is_alone_is_neither_parked_nor_held_in_memory() {
    /// 1 KiB each: a multiple of what may be grown by.
    const BACKLOG: usize = 100_000;
    const GROWTH: u64 = 24 << 20;
    let rig = Rig::new("rate-alone", 4).await;
    let hook = Hook::accepting().await;
    let endpoint = Endpoint::new("limited", &hook.url()).set("rate", "50/s").set("burst", 1);
    let config = rig
        .config()
        .set("limits.in_flight", 1_000)
        .set("limits.in_flight_bytes", "4MiB")
        .set("limits.prefetch", "256KiB")
        .endpoint(endpoint);
    let file = config.write();
    let mut arauto = Arauto::run(&file.path()).await;
    let idle = arauto.resident_bytes();
    let value = vec![b'x'; 1024];
    let records: Vec<_> = (0..BACKLOG).map(|_| NewRecord::new(&rig.topic, value.clone())).collect();
    rig.cluster.produce(&records).await;
    hook.wait_for(250, PATIENCE).await;
    let requests = hook.requests();
    let took = (requests[249].at - requests[0].at).as_secs_f64();
    // 50 a second; a starved machine may be slower, nothing makes it faster.
    assert!((4.5..20.0).contains(&took), "250 deliveries took {took} s");

    let metrics = arauto.metrics().await;
    let grown = arauto.resident_bytes().saturating_sub(idle);
    assert!(grown < GROWTH, "{} MiB more than before the backlog", grown >> 20);
    assert_eq!(metrics.sum("arauto_parked_total", &[]), 0.0);
    assert!(metrics.value("arauto_throttled_total", &[("endpoint", "limited")]) > Some(100.0));
    // Waiting is nobody's trouble: a stop leaves the backlog where it is.
    assert_eq!(arauto.stop().await, 0);
    for tier in ["0s", "1s", "3s"] {
        assert_eq!(rig.cluster.read(&rig.tier(tier)).await.len(), 0, "tier {tier}");
    }
    let delivered = hook.count();
    assert!(rig.cluster.lag(&rig.group, &rig.topic).await >= (BACKLOG - delivered) as i64);
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_free_endpoint_a_throttled_record_is_written_a_handful_of_times() {
    const EVENTS: usize = 1_000;
    let rig = Rig::new("rate-beside", 2).await;
    let limited = Hook::accepting().await;
    // About two to three times as fast as the throttled one, so that reading goes on long after what was parked first
    // has come back.
    let free = Hook::start(|_| Reply::ok().after(Duration::from_millis(10))).await;
    let config = rig
        .config()
        // The default ladder and hold, five times as fast.
        .set("topics.tiers", vec!["1s", "3s", "12s"])
        .set("limits.in_flight", 200)
        .endpoint(Endpoint::new("limited", &limited.url()).set("rate", "70/s"))
        .endpoint(Endpoint::new("free", &free.url()).set("concurrency", 2));
    let records: Vec<_> = (0..EVENTS).map(|n| NewRecord::new(&rig.topic, format!("event {n}"))).collect();
    rig.cluster.produce(&records).await;
    let file = config.write();
    let mut arauto = Arauto::run(&file.path()).await;
    free.wait_for(EVENTS, PATIENCE).await;
    assert!(limited.accepted().len() < EVENTS * 2 / 3, "the free one did not wait for the throttled one");
    limited.wait_for(EVENTS, PATIENCE).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!((limited.count(), free.count()), (EVENTS, EVENTS));

    let writes = writes(&rig, &["0s", "1s", "3s", "12s"], "limited").await;
    assert!(writes.len() > EVENTS / 2, "only {} were parked", writes.len());
    let (most, mean) = most_and_mean(&writes);
    eprintln!("{} of {EVENTS} were parked, {most} writes at most, {mean:.1} on average", writes.len());
    assert!(most <= 13 && mean <= 7.0, "written {most} times at most, {mean} on average");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_is_written_as_often_as_its_schedule_has_steps_not_at_each_probe() {
    const EVENTS: usize = 5_000;
    const PROBES: usize = 10;
    const BEFORE_IT_OPENS: usize = 5;
    /// The default ladder five times as fast; the steps double.
    const TIERS: [u64; 4] = [1, 3, 12, 60];
    const STEPS: [u64; 6] = [2, 4, 8, 16, 32, 64];
    let rig = Rig::new("backpressure-dead", 4).await;
    let (dead, healthy) = (Hook::refusing(500).await, Hook::accepting().await);
    let seconds = |seconds: &[u64]| seconds.iter().map(|s| format!("{s}s")).collect::<Vec<_>>();
    let endpoint = Endpoint::new("dead", &dead.url())
        .set("retry.schedule", seconds(&STEPS))
        .set("retry.jitter", 0.0)
        .set("breaker.minimum", BEFORE_IT_OPENS as i64)
        .set("breaker.open_for", "2s")
        .set("breaker.max_open", "2s");
    let config = rig
        .config()
        .set("topics.tiers", seconds(&TIERS))
        .set("limits.in_flight", 2_000)
        .endpoint(endpoint)
        .endpoint(Endpoint::new("healthy", &healthy.url()));
    let records: Vec<_> = (0..EVENTS).map(|n| NewRecord::new(&rig.topic, format!("event {n}"))).collect();
    rig.cluster.produce(&records).await;
    let file = config.write();
    let mut arauto = Arauto::run(&file.path()).await;
    let begun = tokio::time::Instant::now();
    healthy.wait_for_requests(EVENTS, LONG).await;
    dead.wait_for_requests(BEFORE_IT_OPENS + PROBES, LONG).await;
    let lasted = begun.elapsed().as_secs();
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(healthy.count(), EVENTS);

    // A step may end as early as what may be held in memory, and each is composed of the longest tiers that fit.
    let hops = |wait: u64| {
        let (mut left, mut hops) = (wait, 0);
        while left > 0 {
            left -= TIERS.iter().rfind(|tier| **tier <= left).unwrap();
            hops += 1;
        }
        hops
    };
    let (mut at, mut most_allowed) = (0, 1);
    for step in STEPS {
        if at <= lasted {
            most_allowed += hops(step);
        }
        at += step - 1;
    }
    let names: Vec<String> = ["0s".to_owned()].into_iter().chain(seconds(&TIERS)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let writes = writes(&rig, &names, "dead").await;
    let (most, mean) = most_and_mean(&writes);
    eprintln!(
        "{} parked in {lasted} s, {most} writes at most ({most_allowed} allowed), {mean:.1} on average",
        writes.len()
    );
    assert!(most <= most_allowed, "written {most} times within {lasted} s, {most_allowed} allowed");
    assert!(writes.len() > EVENTS * 9 / 10, "only {} were parked", writes.len());
}
