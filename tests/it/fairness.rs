//! Memory is shared fairly: neither large events, nor one partition, nor one lane takes it from the others.

use std::time::Duration;

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    config::{Config, Endpoint},
    hook::{Hook, Reply},
    records::NewRecord,
    until,
};

/// Longer than any test waits.
const STUCK: &str = "10m";

/// Two endpoints: one for large events, one for small ones.
fn two(config: Config, large: &Hook, small: &Hook) -> Config {
    let endpoint = |id: &str, hook: &Hook| Endpoint::new(id, &hook.url()).set("types", vec![id]);
    config
        .endpoint(endpoint("large", large).set("timeout", STUCK))
        .endpoint(endpoint("small", small).set("concurrency", 4))
}

fn records(topic: &str, of: &str, partition: i32, count: usize, size: usize) -> Vec<NewRecord> {
    let body = |n: usize| format!("{n} {}", "x".repeat(size))[..size].to_owned();
    let record = |n| NewRecord::new(topic, body(n)).header("ce_type", of).partition(partition);
    (0..count).map(record).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_of_large_events_does_not_slow_one_of_small_ones() {
    const LARGE: usize = 40;
    const SMALL: usize = 3_000;
    const LIMIT: f64 = 8.0 * 1024.0 * 1024.0;
    let rig = Rig::new("fairness", 2).await;
    let (large, small) = (Hook::start(|_| Reply::never()).await, Hook::accepting().await);
    rig.cluster.produce(&records(&rig.topic, "large", 0, LARGE, 1_000_000)).await;
    let config = rig.config().set("limits.in_flight_bytes", "8MiB").set("limits.drain", STUCK);
    let file = two(config, &large, &small).write();
    let mut arauto = Arauto::run(&file.path()).await;
    // As much as there may be of the large ones is held, and the first is never answered.
    large.wait_for_requests(1, PATIENCE).await;
    let held = arauto
        .wait_for_metrics("large events to be held", |metrics| {
            metrics.sum("arauto_in_flight_bytes", &[]) > 3e6
        })
        .await;
    assert!(held.sum("arauto_in_flight_bytes", &[]) <= LIMIT);
    rig.cluster.produce(&records(&rig.topic, "small", 1, SMALL, 1_000)).await;
    let mut most: f64 = 0.0;
    until(PATIENCE, "all small ones", async || {
        most = most.max(arauto.metrics().await.sum("arauto_in_flight_bytes", &[]));
        small.accepted().len() >= SMALL
    })
    .await;
    assert!(most <= LIMIT, "{most} bytes in flight");
    assert!(large.accepted().is_empty());
    large.script(|_| Reply::ok());
    large.wake();
    large.wait_for(LARGE, PATIENCE).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!((large.accepted_bodies().len(), small.count()), (LARGE, SMALL));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_larger_than_the_window_goes_alone_and_blocks_nobody_for_ever() {
    const LARGE: usize = 4;
    const SIZE: usize = 2 << 20;
    const SMALL: usize = 1_000;
    let rig = Rig::new("fairness-larger", 1).await;
    let topic = format!("{}-large", rig.topic);
    rig.cluster.create_topic(&topic, 2, &[("max.message.bytes", "4194304")]).await;
    let large = Hook::accepting().await;
    let small = Hook::start(|_| Reply::ok().after(Duration::from_millis(5))).await;
    let mut all = records(&topic, "small", 1, SMALL, 10_000);
    all.extend(records(&topic, "large", 0, LARGE, SIZE));
    rig.cluster.produce(&all).await;
    let config = rig.config().set("kafka.topics", vec![topic.as_str()]).set("limits.in_flight_bytes", "1MiB");
    let file = two(config, &large, &small).write();
    let mut arauto = Arauto::run(&file.path()).await;
    small.wait_for(SMALL, PATIENCE).await;
    large.wait_for(LARGE, PATIENCE).await;
    let last = |hook: &Hook| hook.requests().iter().map(|request| request.at).max().unwrap();
    assert!(
        last(&large) < last(&small),
        "the large ones did not have to wait until there were no small ones"
    );
    assert_eq!(large.most_at_once(), 1);
    assert!(large.requests().iter().all(|request| request.body.len() == SIZE));
    assert_eq!(arauto.stop().await, 0);
    assert_eq!((large.count(), small.count()), (LARGE, SMALL));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lane_takes_half_of_the_window_at_most() {
    const EACH: usize = 1_000;
    const PARTITIONS: i32 = 4;
    const WINDOW: usize = 400;
    let rig = Rig::new("fairness-lane", PARTITIONS + 1).await;
    let (stuck, healthy) = (Hook::start(|_| Reply::never()).await, Hook::accepting().await);
    let endpoint = |id: &str, hook: &Hook| Endpoint::new(id, &hook.url()).set("types", vec![id]);
    let config = rig
        .config()
        .set("limits.in_flight", WINDOW as i64)
        .endpoint(endpoint("stuck", &stuck).set("timeout", STUCK))
        .endpoint(endpoint("healthy", &healthy));
    let backlog = (0..PARTITIONS).flat_map(|partition| records(&rig.topic, "stuck", partition, EACH, 10));
    rig.cluster.produce(&backlog.collect::<Vec<_>>()).await;
    let arauto = Arauto::run(&config.write().path()).await;
    let half = (WINDOW / 2) as f64;
    let held = async || {
        let metrics = arauto.metrics().await;
        let of_it = |name| metrics.sum(name, &[("endpoint", "stuck")]);
        of_it("arauto_lane_queued") + of_it("arauto_lane_in_flight")
    };
    // Alone it takes a third of the half.
    until(PATIENCE, "the lane to be full", async || held().await >= (half / 3.0).floor()).await;
    rig.cluster.produce(&records(&rig.topic, "healthy", PARTITIONS, EACH, 10)).await;
    let mut seen = Vec::new();
    until(PATIENCE, "all of the healthy one", async || {
        seen.push(held().await);
        healthy.accepted().len() >= EACH
    })
    .await;
    assert!(seen.iter().all(|held| *held <= half), "{seen:?} held");
    assert_eq!(stuck.most_at_once(), 1);
}
