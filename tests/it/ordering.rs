//! Whoever asks for an order gets it: per key, or per partition, no event arrives for the first time before its
//! predecessor was delivered or dead-lettered, whatever the receiver answers and whoever kills the process.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Duration,
};

use sha2::{Digest, Sha256};

use crate::support::{
    Rig,
    arauto::{Arauto, field},
    config::{Config, Endpoint},
    hook::{Hook, Reply, Request},
    records::NewRecord,
    until,
};

/// Everything here takes seconds; a starved machine may take minutes.
const LONG: Duration = Duration::from_secs(120);
const PARTITIONS: usize = 4;
/// Two keys on each partition.
const KEYS: usize = 8;
/// Published before each kill, and before the rebalance.
const WAVE: usize = 160;
const KILLS: usize = 5;
const EVENTS: usize = (KILLS + 2) * WAVE;
/// The first attempt and the retries.
const ATTEMPTS: usize = 3;

/// The how manieth event of all this is, by its body.
fn number(request: &Request) -> usize {
    std::str::from_utf8(&request.body).unwrap().parse().unwrap()
}

/// Fails a third of the attempts, some events three times in a row; the same ones in every run.
async fn flaky() -> Hook {
    Hook::start(|request| {
        let hash = Sha256::digest(format!("{} {}", number(request), request.nth));
        let reply = if hash[0] < 85 { Reply::status(500) } else { Reply::ok() };
        reply.after(Duration::from_millis(2))
    })
    .await
}

fn config(rig: &Rig, hook: &Hook, ordering: &str) -> Config {
    let endpoint = Endpoint::new("ordered", &hook.url())
        .set("ordering", ordering)
        .set("retry.schedule", vec!["20ms", "50ms"])
        .set("retry.jitter", 0.0);
    rig.config().endpoint(endpoint)
}

async fn publish(rig: &Rig, events: Range<usize>) {
    let record = |n: usize| {
        NewRecord::new(&rig.topic, n.to_string())
            .key(format!("key {}", n % KEYS))
            .partition(i32::try_from(n % PARTITIONS).unwrap())
    };
    rig.cluster.produce(&events.map(record).collect::<Vec<_>>()).await;
}

/// When each event was dead-lettered first, in unix milliseconds.
async fn dead(rig: &Rig) -> BTreeMap<usize, i64> {
    let mut dead = BTreeMap::new();
    for record in rig.cluster.read(&rig.dead()).await {
        let body: usize = String::from_utf8(record.value.unwrap()).unwrap().parse().unwrap();
        let at = record.timestamp.to_millis().unwrap();
        dead.entry(body).and_modify(|first: &mut i64| *first = at.min(*first)).or_insert(at);
    }
    dead
}

/// Has every event ended?
async fn all_ended(rig: &Rig, hook: &Hook) -> bool {
    let accepted: BTreeSet<usize> = hook.accepted_bodies().iter().map(|body| body.parse().unwrap()).collect();
    if accepted.len() + hook.count() / ATTEMPTS < EVENTS {
        return false;
    }
    let dead = dead(rig).await;
    (0..EVENTS).all(|n| accepted.contains(&n) || dead.contains_key(&n))
}

/// Proves the order of every `lines`th event: those are in order among themselves.
async fn assert_in_order(rig: &Rig, hook: &Hook, lines: usize) {
    let dead = dead(rig).await;
    let (mut seen, mut accepted) = (BTreeSet::new(), BTreeSet::new());
    for request in hook.requests() {
        let n = number(&request);
        if seen.insert(n)
            && let Some(before) = n.checked_sub(lines)
        {
            let is_dead = dead.get(&before).is_some_and(|at| *at <= request.at_ms);
            assert!(accepted.contains(&before) || is_dead, "{n} came although {before} had not ended");
        }
        if request.accepted() {
            accepted.insert(n);
        }
    }
    assert!(!dead.is_empty(), "the receiver was meant to fail some events for good");
}

/// Waits until the instance reads partitions for the endpoint alone.
async fn wait_until_it_reads(arauto: &Arauto) {
    until(LONG, "partitions of the own queue", async || {
        let reads = |line: &serde_json::Value| {
            field(line, "message") == Some("partitions assigned")
                && field(line, "reads").is_some_and(|reads| reads.contains("ordered"))
        };
        arauto.log().iter().any(reads)
    })
    .await;
}

async fn order_is_kept(ordering: &str, lines: usize) {
    let rig = Rig::new("ordering", i32::try_from(PARTITIONS).unwrap()).await;
    let hook = flaky().await;
    let file = config(&rig, &hook, ordering).write();
    for kill in 0..KILLS {
        publish(&rig, kill * WAVE..(kill + 1) * WAVE).await;
        let before = hook.count();
        let mut arauto = Arauto::start(&file.path()).await;
        hook.wait_for_requests(before + 20 + (kill * 37) % 50, LONG).await;
        arauto.kill().await;
    }
    // Two share the work, one of them goes in order, the other one takes its configuration anew.
    let mut first = Arauto::run(&file.path()).await;
    let mut second = Arauto::start(&file.path()).await;
    publish(&rig, KILLS * WAVE..EVENTS).await;
    wait_until_it_reads(&second).await;
    second.signal("HUP");
    second.wait_for_log("configuration taken over").await;
    assert_eq!(first.stop().await, 0);
    until(LONG, "every event to end", async || all_ended(&rig, &hook).await).await;
    assert_eq!(second.stop().await, 0);
    assert_in_order(&rig, &hook, lines).await;
    assert_eq!(rig.cluster.lag(&format!("{}.ordered", rig.group), &rig.topic).await, 0);
    assert!(rig.cluster.read(&rig.tier("1s")).await.is_empty(), "it waits where it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_key_stay_in_order_whatever_happens() {
    order_is_kept("key", KEYS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_partition_stay_in_order_whatever_happens() {
    order_is_kept("endpoint", PARTITIONS).await;
}

/// From one at a time per key to one at a time per partition: the new order holds from its first event on, and what
/// was in order stays so.
#[tokio::test(flavor = "multi_thread")]
async fn another_order_begins_when_the_old_one_is_settled() {
    let rig = Rig::new("reordering", i32::try_from(PARTITIONS).unwrap()).await;
    let hook = flaky().await;
    let file = config(&rig, &hook, "key").write();
    let mut arauto = Arauto::run(&file.path()).await;
    publish(&rig, 0..EVENTS).await;
    hook.wait_for_requests(100, LONG).await;
    file.rewrite(&config(&rig, &hook, "endpoint"));
    arauto.signal("HUP");
    arauto.wait_for_log("configuration taken over").await;
    until(LONG, "every event to end", async || all_ended(&rig, &hook).await).await;
    assert_eq!(arauto.stop().await, 0);
    assert_in_order(&rig, &hook, KEYS).await;
}
