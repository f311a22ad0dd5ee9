//! Where reading begins, and what happens when the log or the group's offsets change under us: nothing that is
//! there is passed over, what is gone is counted, and what only an operator can decide is refused with the command
//! that decides.

use std::{collections::BTreeSet, ffi::OsString, ops::Range, path::Path, time::Duration};

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    cluster::End,
    config::{Config, Endpoint},
    hook::{Hook, Reply},
    metrics::Metrics,
    records::NewRecord,
    until,
};

/// Events called by their number, in this partition.
fn events(topic: &str, partition: i32, numbers: Range<i32>) -> Vec<NewRecord> {
    numbers.map(|n| NewRecord::new(topic, format!("event {n}")).partition(partition)).collect()
}

/// The bodies of those events.
fn bodies(numbers: impl IntoIterator<Item = i32>) -> BTreeSet<String> {
    numbers.into_iter().map(|n| format!("event {n}")).collect()
}

/// One endpoint that wants everything.
fn config(rig: &Rig, hook: &Hook) -> Config {
    rig.config().endpoint(Endpoint::new("shop", &hook.url()))
}

async fn wait_for_bodies(hook: &Hook, expected: &BTreeSet<String>) {
    let what = format!("the bodies {expected:?}");
    until(PATIENCE, &what, async || hook.accepted_bodies().is_superset(expected)).await;
}

async fn wait_for_no_lag(rig: &Rig) {
    until(PATIENCE, "the lag to be 0", async || rig.cluster.lag(&rig.group, &rig.topic).await == 0).await;
}

/// Has a start record of this topic been written?
async fn has_start(rig: &Rig, topic: &str) -> bool {
    let key = format!("start/{topic}").into_bytes();
    let topics = rig.cluster.topics().await;
    topics.contains_key(&rig.state())
        && rig.cluster.read(&rig.state()).await.iter().any(|record| record.key.as_ref() == Some(&key))
}

/// `arauto` with a sub-command and this file, to its end: exit code and output.
async fn command(config: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let file = [OsString::from("--config"), config.as_os_str().to_owned()];
    let mut arauto = Arauto::spawn(arguments.iter().map(OsString::from).chain(file));
    let code = arauto.ended(PATIENCE).await.code();
    // The pipes are read by threads of their own; the last line may come after the end.
    let mut output = arauto.output();
    until(PATIENCE, "its output", async || {
        output = arauto.output();
        !output.is_empty()
    })
    .await;
    (code, output.join("\n"))
}

async fn recreate(rig: &Rig, partitions: i32) {
    rig.cluster.delete_topic(&rig.topic).await;
    until(PATIENCE, "the topic to be gone", async || !rig.cluster.topics().await.contains_key(&rig.topic))
        .await;
    rig.cluster.create_topic(&rig.topic, partitions, &[]).await;
}

async fn new_group(start: &str, expected: BTreeSet<String>) {
    let rig = Rig::new(start, 2).await;
    let hook = Hook::accepting().await;
    let both =
        |first: i32| [events(&rig.topic, 0, first..first + 2), events(&rig.topic, 1, first + 2..first + 4)];
    rig.cluster.produce(&both(0).concat()).await;
    let mut arauto = Arauto::run(&config(&rig, &hook).set("kafka.start", start).write().path()).await;
    rig.cluster.produce(&both(4).concat()).await;
    wait_for_bodies(&hook, &expected).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(hook.accepted_bodies(), expected, "{start}");
    assert_eq!(hook.duplicates(), 0);
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_begins_where_it_is_told_to() {
    tokio::join!(new_group("earliest", bodies(0..8)), new_group("latest", bodies(4..8)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_dies_before_its_first_commit_leaves_its_start() {
    let rig = Rig::new("first-commit", 1).await;
    let hook = Hook::start(|_| Reply::never()).await;
    rig.cluster.produce(&events(&rig.topic, 0, 0..3)).await;
    // It would commit in a minute.
    let config = config(&rig, &hook).set("kafka.start", "latest");
    let mut first = Arauto::run(&config.clone().set("limits.commit_interval", "1m").write().path()).await;
    rig.cluster.produce(&events(&rig.topic, 0, 3..6)).await;
    hook.wait_for_requests(1, PATIENCE).await;
    first.kill().await;
    assert_eq!(rig.cluster.committed(&rig.group, &rig.topic).await[0].offset, None);
    rig.cluster.produce(&events(&rig.topic, 0, 6..9)).await;
    hook.script(|_| Reply::ok());
    let mut second = Arauto::start(&config.write().path()).await;
    wait_for_bodies(&hook, &bodies(3..9)).await;
    assert_eq!(second.stop().await, 0);
    assert_eq!(hook.accepted_bodies(), bodies(3..9));
}

async fn partition_added(protocol: &str) {
    let rig = Rig::new("added", 1).await;
    let hook = Hook::accepting().await;
    let config = config(&rig, &hook).set("kafka.start", "latest").set("kafka.protocol", protocol);
    // With the classic protocol it is the client that looks for new partitions, every five minutes.
    let config = config.property("topic.metadata.refresh.interval.ms", "1000");
    let mut arauto = Arauto::run(&config.write().path()).await;
    rig.cluster.add_partitions(&rig.topic, 3).await;
    rig.cluster.produce(&events(&rig.topic, 2, 0..5)).await;
    wait_for_bodies(&hook, &bodies(0..5)).await;
    assert_eq!(arauto.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_added_later_begins_at_its_beginning() {
    tokio::join!(partition_added("consumer"), partition_added("classic"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_first_used_by_another_instance_is_read() {
    let rig = Rig::new("tier", 1).await;
    let hook = Hook::failing_first(1, 503).await;
    let endpoint = Endpoint::new("shop", &hook.url()).set("retry.schedule", vec!["4s"]);
    let config = rig.config().set("kafka.start", "latest").endpoint(endpoint);
    // Alone with the topic's one partition when the event comes.
    let mut with = Arauto::run(&config.clone().set("topics.tiers", vec!["1s", "4s"]).write().path()).await;
    rig.cluster.produce(&events(&rig.topic, 0, 0..1)).await;
    let parked = async || !rig.cluster.read(&rig.tier("4s")).await.is_empty();
    until(PATIENCE, "the event on the tier", parked).await;
    let mut without = Arauto::run(&config.set("topics.tiers", vec!["1s"]).write().path()).await;
    with.kill().await;
    hook.wait_for(1, PATIENCE).await;
    assert_eq!(without.stop().await, 0);
    // What is on a tier is not passed over because the group begins with the latest events.
    assert_eq!(rig.cluster.lag(&rig.group, &rig.tier("4s")).await, 0);
}

async fn offsets_lost(position: &str, expected: BTreeSet<String>) {
    let rig = Rig::new("expired", 1).await;
    let hook = Hook::accepting().await;
    let file = config(&rig, &hook).write();
    rig.cluster.produce(&events(&rig.topic, 0, 0..3)).await;
    let mut arauto = Arauto::run(&file.path()).await;
    hook.wait_for(3, PATIENCE).await;
    assert_eq!(arauto.stop().await, 0);
    rig.cluster.delete_group(&rig.group).await;
    rig.cluster.produce(&events(&rig.topic, 0, 3..5)).await;

    let (code, output) = command(&file.path(), &["run"]).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("arauto offsets --reset"), "{output}");
    assert_eq!(hook.count(), 3);

    let (code, output) = command(&file.path(), &["offsets", "--reset", position]).await;
    assert_eq!(code, Some(0), "{output}");
    let mut arauto = Arauto::run(&file.path()).await;
    if position == "latest" {
        rig.cluster.produce(&events(&rig.topic, 0, 5..6)).await;
    }
    wait_for_bodies(&hook, &expected).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(hook.accepted_bodies(), expected, "{position}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_group_offsets_are_refused_until_somebody_decides() {
    tokio::join!(
        offsets_lost("earliest", bodies(0..5)),
        offsets_lost("latest", bodies((0..3).chain(5..6))),
        offsets_lost("1h", bodies(0..5))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_not_reset_under_a_running_instance() {
    let rig = Rig::new("reset-running", 1).await;
    let hook = Hook::accepting().await;
    let file = config(&rig, &hook).write();
    rig.cluster.produce(&events(&rig.topic, 0, 0..3)).await;
    let _arauto = Arauto::run(&file.path()).await;
    hook.wait_for(3, PATIENCE).await;
    wait_for_no_lag(&rig).await;
    let (code, output) = command(&file.path(), &["offsets", "--reset", "earliest"]).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("still running"), "{output}");
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
}

async fn made_again_while_stopped(old: i32, new: i32) {
    let rig = Rig::new("made-again", 1).await;
    let hook = Hook::accepting().await;
    let file = config(&rig, &hook).set("kafka.start", "latest").write();
    let mut arauto = Arauto::run(&file.path()).await;
    rig.cluster.produce(&events(&rig.topic, 0, 0..old)).await;
    hook.wait_for(usize::try_from(old).unwrap(), PATIENCE).await;
    assert_eq!(arauto.stop().await, 0);
    recreate(&rig, 1).await;
    rig.cluster.produce(&events(&rig.topic, 0, 100..100 + new)).await;
    let mut arauto = Arauto::run(&file.path()).await;
    wait_for_bodies(&hook, &bodies(100..100 + new)).await;
    let reset = |m: &Metrics| m.sum("arauto_partition_resets_total", &[]) >= 1.0;
    arauto.wait_for_metrics("the reset to be counted", reset).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(hook.accepted_bodies(), bodies((0..old).chain(100..100 + new)));
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_again_while_stopped_is_read_from_its_beginning() {
    // Fewer, as many, and more events than the old topic had.
    tokio::join!(
        made_again_while_stopped(5, 2),
        made_again_while_stopped(3, 3),
        made_again_while_stopped(3, 8)
    );
}

async fn made_again_while_running(protocol: &str, new: i32, unnoticed: bool) {
    let rig = Rig::new("made-again-live", 1).await;
    let hook = Hook::accepting().await;
    let config = config(&rig, &hook).set("kafka.start", "latest").set("kafka.protocol", protocol);
    let file = config.property("topic.metadata.refresh.interval.ms", "1000").write();
    let mut arauto = Arauto::run(&file.path()).await;
    rig.cluster.produce(&events(&rig.topic, 0, 0..5)).await;
    hook.wait_for(5, PATIENCE).await;
    wait_for_no_lag(&rig).await;
    if unnoticed {
        arauto.freeze();
    }
    recreate(&rig, 1).await;
    rig.cluster.produce(&events(&rig.topic, 0, 100..100 + new)).await;
    if unnoticed {
        arauto.thaw();
    }
    wait_for_bodies(&hook, &bodies(100..100 + new)).await;
    let reset = |m: &Metrics| m.sum("arauto_partition_resets_total", &[]) >= 1.0;
    arauto.wait_for_metrics("the reset to be counted", reset).await;
    // It goes on from there.
    rig.cluster.produce(&events(&rig.topic, 0, 200..203)).await;
    wait_for_bodies(&hook, &bodies(200..203)).await;
    assert_eq!(arauto.stop().await, 0);
    let all = bodies((0..5).chain(100..100 + new).chain(200..203));
    assert_eq!(hook.accepted_bodies(), all, "{protocol}, {new}");
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_again_while_running_is_read_from_its_beginning() {
    // The old topic had 5 events; the position is beyond the end of the new one, or in the middle of it.
    tokio::join!(
        made_again_while_running("consumer", 2, false),
        made_again_while_running("consumer", 8, true),
        made_again_while_running("classic", 2, false),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn records_removed_below_the_position_while_stopped_are_counted_as_lost() {
    let rig = Rig::new("removed", 1).await;
    let hook = Hook::accepting().await;
    let file = config(&rig, &hook).write();
    rig.cluster.produce(&events(&rig.topic, 0, 0..3)).await;
    let mut arauto = Arauto::run(&file.path()).await;
    hook.wait_for(3, PATIENCE).await;
    assert_eq!(arauto.stop().await, 0);
    rig.cluster.produce(&events(&rig.topic, 0, 3..13)).await;
    rig.cluster.delete_records(&rig.topic, 0, 8).await;
    let mut arauto = Arauto::run(&file.path()).await;
    wait_for_bodies(&hook, &bodies(8..13)).await;
    let metrics = arauto.metrics().await;
    assert_eq!(metrics.sum("arauto_events_lost_total", &[("topic", &rig.topic)]).to_string(), "5");
    let resets = metrics.sum("arauto_partition_resets_total", &[("reason", "out_of_range")]);
    assert_eq!(resets.to_string(), "1");
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(hook.accepted_bodies(), bodies((0..3).chain(8..13)));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_removed_below_the_position_while_running_are_delivered_or_counted_as_lost() {
    const EVENTS: i32 = 400;
    let rig = Rig::new("removed-live", 1).await;
    let hook = Hook::start(|_| Reply::ok().after(Duration::from_secs(3600))).await;
    let endpoint = Endpoint::new("shop", &hook.url()).set("concurrency", 2).set("timeout", "3s");
    // So little is read ahead that most of it is still with the broker when it is removed.
    let config = rig.config().set("limits.in_flight", 20).set("limits.prefetch", "16KiB").endpoint(endpoint);
    let mut arauto = Arauto::run(&config.write().path()).await;
    let large = |n: i32| NewRecord::new(&rig.topic, format!("{n:04}{}", "x".repeat(8_000))).partition(0);
    rig.cluster.produce(&(0..EVENTS).map(large).collect::<Vec<_>>()).await;
    hook.wait_for_requests(2, PATIENCE).await;
    rig.cluster.delete_records(&rig.topic, 0, i64::from(EVENTS) - 10).await;
    hook.script(|_| Reply::ok());
    wait_for_no_lag(&rig).await;
    let metrics = arauto.metrics().await;
    let lost = metrics.sum("arauto_events_lost_total", &[("topic", &rig.topic)]);
    assert!(lost > 0.0, "nothing was lost, so nothing was proven");
    let all = |_: &()| hook.accepted().len() + lost as usize == usize::try_from(EVENTS).unwrap();
    until(PATIENCE, "every event to be delivered or counted as lost", async || all(&())).await;
    assert!(metrics.sum("arauto_partition_resets_total", &[("reason", "out_of_range")]) >= 1.0);
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(hook.accepted().len() + lost as usize, usize::try_from(EVENTS).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_group_with_the_same_prefix_is_refused() {
    let rig = Rig::new("owner", 1).await;
    let hook = Hook::accepting().await;
    let mut owner = Arauto::run(&config(&rig, &hook).write().path()).await;
    let other = config(&rig, &hook).set("kafka.group", "another-group").write();
    for _ in ["while the owner runs", "and when it does not"] {
        let (code, output) = command(&other.path(), &["run"]).await;
        assert_eq!(code, Some(1), "{output}");
        for part in [&rig.prefix, &rig.group, "another-group", "topics.prefix"] {
            assert!(output.contains(part), "{part} is not in: {output}");
        }
        if !owner.has_ended() {
            assert_eq!(owner.stop().await, 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_that_matches_our_own_topics_is_refused() {
    let rig = Rig::new("own", 1).await;
    let hook = Hook::accepting().await;
    for pattern in ["^.*".to_owned(), format!("^{}.*", rig.prefix), format!("^.*{}", &rig.dead()[4..])] {
        let file = config(&rig, &hook).set("kafka.topics", vec![pattern.clone()]).write();
        let (code, output) = command(&file.path(), &["run"]).await;
        assert_eq!(code, Some(2), "{pattern}: {output}");
        assert!(output.contains(&pattern) && output.contains("arauto.toml:"), "{output}");
    }
    assert!(!rig.cluster.topics().await.contains_key(&rig.state()), "nothing was touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_come_to_match_a_pattern_are_read() {
    let rig = Rig::new("pattern", 1).await;
    let hook = Hook::accepting().await;
    let pattern = format!("^{}.*", rig.topic);
    let mut arauto =
        Arauto::run(&config(&rig, &hook).set("kafka.topics", vec![pattern]).write().path()).await;
    rig.cluster.produce(&events(&rig.topic, 0, 0..1)).await;
    let more = [format!("{}-more", rig.topic), format!("x{}", rig.topic)];
    for topic in &more {
        rig.cluster.create_topic(topic, 1, &[]).await;
    }
    rig.cluster.produce(&events(&more[1], 0, 10..11)).await;
    rig.cluster.produce(&events(&more[0], 0, 1..3)).await;
    wait_for_bodies(&hook, &bodies(0..3)).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(hook.accepted_bodies(), bodies(0..3), "a pattern is anchored at both ends");
    assert!(has_start(&rig, &more[0]).await);
}

async fn two_at_once() {
    let rig = Rig::new("race", 4).await;
    let hook = Hook::accepting().await;
    let file = config(&rig, &hook).set("kafka.start", "latest").write();
    let path = file.path();
    let (mut one, mut other) = tokio::join!(Arauto::start(&path), Arauto::start(&path));
    until(PATIENCE, "one of them to be ready", async || one.is_ready().await || other.is_ready().await).await;
    let records: Vec<_> = (0..4).flat_map(|p| events(&rig.topic, p, p * 10..p * 10 + 10)).collect();
    rig.cluster.produce(&records).await;
    wait_for_bodies(&hook, &bodies(0..40)).await;
    assert_eq!((one.stop().await, other.stop().await), (0, 0));
    assert_eq!(hook.accepted_bodies(), bodies(0..40));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_instances_that_begin_at_once_none_begins_too_late() {
    tokio::join!(two_at_once(), two_at_once(), two_at_once());
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_leave_no_lag_and_aborted_events_are_not_delivered() {
    let rig = Rig::new("transactions", 1).await;
    let hook = Hook::accepting().await;
    let file = config(&rig, &hook).write();
    let mut arauto = Arauto::run(&file.path()).await;
    rig.cluster.produce_in_transaction(&events(&rig.topic, 0, 0..3), End::Commit).await;
    wait_for_no_lag(&rig).await;
    rig.cluster.produce_in_transaction(&events(&rig.topic, 0, 10..13), End::Abort).await;
    wait_for_no_lag(&rig).await;
    assert_eq!(arauto.stop().await, 0);
    // The same from a standing start.
    rig.cluster.produce_in_transaction(&events(&rig.topic, 0, 13..15), End::Abort).await;
    let mut arauto = Arauto::run(&file.path()).await;
    wait_for_no_lag(&rig).await;
    let no_lag = |m: &Metrics| {
        m.value("arauto_partition_lag", &[("topic", &rig.topic), ("partition", "0")]) == Some(0.0)
    };
    arauto.wait_for_metrics("no lag to be shown", no_lag).await;
    rig.cluster.produce(&events(&rig.topic, 0, 3..4)).await;
    wait_for_bodies(&hook, &bodies(0..4)).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(hook.accepted_bodies(), bodies(0..4));
    assert_eq!(hook.duplicates(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_commit_metadata_is_as_good_as_none() {
    let junk = [
        String::new(),
        "what is this".to_owned(),
        "arauto1:".to_owned(),
        "arauto1:AAAAAAAA".to_owned(),
        "arauto9:AAAAAAAAAAAA".to_owned(),
        "ü\u{0}\u{feff}".to_owned(),
        "x".repeat(4096),
    ];
    let rig = Rig::new("metadata", i32::try_from(junk.len()).unwrap()).await;
    let hook = Hook::accepting().await;
    let partitions = || (0..).zip(&junk);
    for (partition, metadata) in partitions() {
        rig.cluster.produce(&events(&rig.topic, partition, partition * 10..partition * 10 + 5)).await;
        rig.cluster.commit(&rig.group, &rig.topic, partition, 2, metadata).await;
    }
    let expected = bodies(partitions().flat_map(|(partition, _)| partition * 10 + 2..partition * 10 + 5));
    let mut arauto = Arauto::run(&config(&rig, &hook).write().path()).await;
    wait_for_bodies(&hook, &expected).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(hook.accepted_bodies(), expected);
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
}
