//! Guarantee 3: after kill -9 what is not owed is not sent again, however much settled out of order: through the
//! metadata of real commits.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use arauto::{
    pipeline::ledger::metadata::{self, Owed, Position},
    registry::endpoint_hash,
};

use crate::support::{
    Rig,
    arauto::Arauto,
    config::Endpoint,
    hook::{Hook, Reply},
    never,
    records::NewRecord,
    until,
};

/// Everything here takes seconds; a starved machine may take minutes.
const LONG: Duration = Duration::from_secs(180);

/// What the committed metadata says, by partition.
pub(crate) async fn positions(rig: &Rig) -> BTreeMap<i32, Position> {
    let committed = rig.cluster.committed(&rig.group, &rig.topic).await;
    let position = |offset: i64, text: &str| metadata::decode(offset, text).unwrap_or(Position::at(offset));
    committed.iter().filter_map(|c| Some((c.partition, position(c.offset?, &c.metadata)))).collect()
}

/// Waits until exactly these offsets of a partition (all below `end`) are owed, and to this endpoint only.
async fn wait_until_owed(rig: &Rig, partition: i32, end: i64, offsets: &BTreeSet<i64>, endpoint: &str) {
    let only = Owed::To(vec![endpoint_hash(endpoint)]);
    until(LONG, "a commit that says what is owed", async || {
        let positions = positions(rig).await;
        let Some(position) = positions.get(&partition) else { return false };
        let owed: BTreeSet<i64> = position.owed.iter().flat_map(|run| run.first..=run.last).collect();
        position.horizon == end && owed == *offsets && position.owed.iter().all(|run| run.owed == only)
    })
    .await;
}

/// How often each body came.
pub(crate) fn times(hook: &Hook) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for request in hook.requests() {
        *times.entry(String::from_utf8_lossy(&request.body).into_owned()).or_default() += 1;
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn one_slow_endpoint_among_ten_repeats_nothing_for_the_nine() {
    const EVENTS: usize = 200;
    let rig = Rig::new("fan-out", 2).await;
    let slow = Hook::start(|_| Reply::never()).await;
    let mut quick = Vec::new();
    // Nothing times out while this lasts.
    let endpoint = Endpoint::new("slow", &slow.url()).set("concurrency", 4).set("timeout", "10m");
    let mut config = rig.config().set("limits.drain", "10m").endpoint(endpoint);
    for number in 0..9 {
        let hook = Hook::accepting().await;
        config = config.endpoint(Endpoint::new(&format!("quick-{number}"), &hook.url()));
        quick.push(hook);
    }
    let config = config.write();
    let records: Vec<_> = (0..EVENTS)
        .map(|n| NewRecord::new(&rig.topic, format!("event {n}")).partition(i32::try_from(n % 2).unwrap()))
        .collect();
    rig.cluster.produce(&records).await;

    // The second process reads everything again and skips what the first one's commits say.
    for _ in 0..2 {
        let before = slow.count();
        let mut arauto = Arauto::run(&config.path()).await;
        slow.wait_for_requests(before + 1, LONG).await;
        for hook in &quick {
            hook.wait_for(EVENTS, LONG).await;
        }
        for partition in 0..2 {
            wait_until_owed(&rig, partition, 100, &(0..100).collect(), "slow").await;
        }
        arauto.kill().await;
    }
    slow.script(|_| Reply::ok());
    let mut arauto = Arauto::run(&config.path()).await;
    slow.wait_for(EVENTS, LONG).await;
    assert_eq!(arauto.stop().await, 0);
    for hook in &quick {
        assert_eq!(hook.count(), EVENTS, "each event once, whatever the slow one did");
    }
    assert_eq!(slow.duplicates(), 0);
    assert_eq!(slow.accepted_bodies().len(), EVENTS);
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_settled_out_of_order_is_not_sent_again() {
    const EVENTS: i64 = 1_000;
    let rig = Rig::new("scattered", 1).await;
    // When many go at once already, some get no answer: nothing but the metadata tells of all those behind them.
    let owed: BTreeSet<i64> = (EVENTS / 2..EVENTS).step_by(60).collect();
    let hanging = owed.clone();
    let hangs =
        move |body: &[u8]| hanging.contains(&std::str::from_utf8(body).unwrap().parse::<i64>().unwrap());
    let hook =
        Hook::start(move |request| if hangs(&request.body) { Reply::never() } else { Reply::ok() }).await;
    // Nothing times out while this lasts.
    let endpoint = Endpoint::new("crm", &hook.url()).set("timeout", "10m");
    let config = rig.config().set("limits.drain", "10m").endpoint(endpoint).write();
    let records: Vec<_> = (0..EVENTS).map(|n| NewRecord::new(&rig.topic, n.to_string())).collect();
    rig.cluster.produce(&records).await;
    let accepted = usize::try_from(EVENTS).unwrap() - owed.len();

    let mut arauto = Arauto::run(&config.path()).await;
    hook.wait_for(accepted, LONG).await;
    wait_until_owed(&rig, 0, EVENTS, &owed, "crm").await;
    arauto.kill().await;
    let before = times(&hook);
    assert!(before.values().all(|times| *times == 1), "{before:?}");

    // Killed again as soon as it has begun: what the first one knew must survive the second one's commits.
    let mut arauto = Arauto::run(&config.path()).await;
    arauto
        .wait_for_metrics("the partition", |metrics| {
            metrics.sum("arauto_assigned_partitions", &[("topic", &rig.topic)]) == 1.0
                && metrics.sum("arauto_commits_total", &[("result", "ok")]) > 0.0
        })
        .await;
    arauto.kill().await;

    hook.script(|_| Reply::ok());
    let mut arauto = Arauto::run(&config.path()).await;
    hook.wait_for(usize::try_from(EVENTS).unwrap(), LONG).await;
    assert_eq!(arauto.stop().await, 0);
    for (body, times) in times(&hook) {
        let was_owed = owed.contains(&body.parse().unwrap());
        assert!(if was_owed { times >= 2 } else { times == 1 }, "event {body} came {times} times");
    }
    assert_eq!(hook.duplicates(), 0);
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
}

/// More scattered than the metadata's 4,096 bytes can say: repeats are allowed then, losses are not, and what is said
/// stays within the limit, or the brokers would refuse every commit.
#[tokio::test(flavor = "multi_thread")]
async fn too_scattered_for_the_metadata_loses_nothing() {
    const EVENTS: usize = 24_000;
    let rig = Rig::new("crowded", 1).await;
    let hung = Hook::start(|_| Reply::never()).await;
    let well = Hook::accepting().await;
    let endpoint = |id: &str, hook: &Hook| Endpoint::new(id, &hook.url()).set("types", vec![id]);
    // As much in memory as it takes: the window is not what stops the reading here.
    let config = rig
        .config()
        .set("limits.in_flight", 200_000)
        .endpoint(endpoint("well", &well))
        .endpoint(endpoint("hung", &hung))
        .write();
    // In no order: nothing else takes so much space.
    let kinds: Vec<_> = (0..EVENTS as u64)
        .map(|n| if n.wrapping_mul(0x9e37_79b9_7f4a_7c15).count_ones() % 2 == 0 { "hung" } else { "well" })
        .collect();
    let hung_events = kinds.iter().filter(|kind| **kind == "hung").count();
    let record =
        |(n, kind): (usize, &&str)| NewRecord::new(&rig.topic, n.to_string()).header("ce_type", *kind);
    let records: Vec<_> = kinds.iter().enumerate().map(record).collect();
    rig.cluster.produce(&records).await;
    let mut arauto = Arauto::run(&config.path()).await;
    // Reading stops when the metadata is nearly full.
    hung.wait_for_requests(1, LONG).await;
    until(LONG, "the metadata to fill", async || {
        let committed = rig.cluster.committed(&rig.group, &rig.topic).await;
        committed[0].metadata.len() > 3_000
    })
    .await;
    never(Duration::from_secs(2), "a commit that the brokers refuse", async || {
        arauto.metrics().await.sum("arauto_commits_total", &[("result", "error")]) > 0.0
    })
    .await;
    arauto.kill().await;
    hung.script(|_| Reply::ok());
    let mut arauto = Arauto::run(&config.path()).await;
    hung.wait_for(hung_events, LONG).await;
    well.wait_for(EVENTS - hung_events, LONG).await;
    assert_eq!(arauto.stop().await, 0);
    let accepted = (hung.accepted_bodies().len(), well.accepted_bodies().len());
    assert_eq!(accepted, (hung_events, EVENTS - hung_events));
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
}
