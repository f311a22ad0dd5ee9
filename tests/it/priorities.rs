//! When not all can go, what is urgent goes more often, by weight: 16 : 4 : 1 for high, normal and low, a quarter for
//! what was attempted before; nobody starves.
//!
//! Shares are taken over a stretch in which all of them have something waiting, and judged by a wide margin.

use std::time::Duration;

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    config::Endpoint,
    eventually,
    hook::{Hook, Reply},
    records::NewRecord,
};

const PRIORITIES: [&str; 3] = ["high", "normal", "low"];
/// A step in priority is a factor of four; more than a half and less than twice that is taken for it.
const STEP: std::ops::Range<f64> = 2.0..8.0;

/// Events of each priority, each on a partition of its own.
async fn produce(rig: &Rig, header: &str, each: usize) {
    let record = |(partition, priority): (i32, &str), n: usize| {
        NewRecord::new(&rig.topic, format!("{priority} {n}")).header(header, priority).partition(partition)
    };
    let of = |n| (0..).zip(PRIORITIES).map(move |of| record(of, n));
    rig.cluster.produce(&(0..each).flat_map(of).collect::<Vec<_>>()).await;
}

fn assert_by_weight(delivered: [usize; 3]) {
    for pair in delivered.windows(2) {
        let ratio = pair[0] as f64 / pair[1] as f64;
        assert!(STEP.contains(&ratio), "{delivered:?} of high, normal and low");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_share_a_saturated_process_by_their_priority() {
    const EACH: usize = 3_000;
    let rig = Rig::new("priorities", 3).await;
    let mut config = rig.config().set("limits.in_flight", 84);
    let mut hooks = Vec::new();
    for priority in PRIORITIES {
        let hook = Hook::start(|_| Reply::ok().after(Duration::from_millis(200))).await;
        let endpoint = Endpoint::new(priority, &hook.url()).set("types", vec![priority]);
        config = config.endpoint(endpoint.set("priority", priority));
        hooks.push(hook);
    }
    produce(&rig, "ce_type", EACH).await;
    let arauto = Arauto::run(&config.write().path()).await;
    let counts = || [0, 1, 2].map(|n: usize| hooks[n].count());
    let after = async |high: usize| {
        let what = format!("{high} of high priority");
        eventually(PATIENCE, &what, async || Some(counts()).filter(|counts| counts[0] >= high)).await
    };
    // Lanes begin with one in flight.
    let (from, to) = (after(300).await, after(1_100).await);
    assert_by_weight([0, 1, 2].map(|n| to[n] - from[n]));
    assert_eq!(arauto.metrics().await.sum("arauto_parked_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_endpoint_go_by_the_priority_they_ask_for() {
    const EACH: usize = 1_500;
    const FROM: usize = 100;
    const TO: usize = 700;
    let rig = Rig::new("priorities-events", 3).await;
    let hook = Hook::start(|_| Reply::ok().after(Duration::from_millis(100))).await;
    let config = rig
        .config()
        .set("limits.in_flight", 600)
        .set("events.priority", vec!["header:priority"])
        .endpoint(Endpoint::new("crm", &hook.url()).set("concurrency", 10));
    produce(&rig, "priority", EACH).await;
    let _arauto = Arauto::run(&config.write().path()).await;
    hook.wait_for(TO, PATIENCE).await;
    let of = |priority: &str| {
        let requests = &hook.requests()[FROM..TO];
        requests.iter().filter(|request| request.body.starts_with(priority.as_bytes())).count()
    };
    assert_by_weight(PRIORITIES.map(of));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_retries_does_not_starve_fresh_events() {
    const RETRIES: usize = 300;
    const FRESH: usize = 600;
    const LOOKED_AT: usize = 150;
    let rig = Rig::new("priorities-storm", 1).await;
    let hook = Hook::refusing(500).await;
    let endpoint = Endpoint::new("crm", &hook.url())
        .set("concurrency", 5)
        .set("retry.schedule", vec!["3s"; 20])
        .set("retry.jitter", 0.0);
    let config = rig.config().set("limits.in_flight", 2_000).endpoint(endpoint);
    let produce = async |of: &str, count: usize| {
        let records: Vec<_> = (0..count).map(|n| NewRecord::new(&rig.topic, format!("{of} {n}"))).collect();
        rig.cluster.produce(&records).await;
    };
    produce("late", RETRIES).await;
    let _arauto = Arauto::run(&config.write().path()).await;
    hook.wait_for_requests(RETRIES, PATIENCE).await;
    hook.script(|_| Reply::ok().after(Duration::from_millis(100)));
    produce("fresh", FRESH).await;

    // From the first retry on both have something waiting.
    let accepted = eventually(PATIENCE, "retries among what is accepted", async || {
        let bodies: Vec<_> = hook.requests()[RETRIES..].iter().map(|request| request.body.clone()).collect();
        let first = bodies.iter().position(|body| body.starts_with(b"late"))?;
        bodies.get(first..first + LOOKED_AT).map(<[_]>::to_vec)
    })
    .await;
    let fresh = accepted.iter().filter(|body| body.starts_with(b"fresh")).count();
    // Four fifths by weight.
    assert!((LOOKED_AT / 2..LOOKED_AT - 5).contains(&fresh), "{fresh} of {LOOKED_AT} were fresh");
    hook.wait_for(RETRIES + FRESH, PATIENCE).await;
}
