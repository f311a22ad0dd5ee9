//! While an endpoint is paused nothing is sent, nothing is charged and nothing is lost: everything waits, nobody else
//! notices, and all of it follows when the endpoint goes on.

use std::{collections::BTreeSet, time::Duration};

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    command,
    config::{Config, Endpoint},
    hook::Hook,
    metrics::Metrics,
    never,
    records::NewRecord,
};

/// Parked deliveries look again after 5, 10, 20 … seconds.
const LONG: Duration = Duration::from_secs(120);
/// Long enough for something to be sent, were it to be sent.
const A_WHILE: Duration = Duration::from_secs(2);

async fn produce(rig: &Rig, events: std::ops::Range<usize>) {
    let records: Vec<_> = events.map(|n| NewRecord::new(&rig.topic, format!("event {n}"))).collect();
    rig.cluster.produce(&records).await;
}

/// Everything came once, as a first attempt.
fn check(hook: &Hook, events: usize) {
    let expected: BTreeSet<_> = (0..events).map(|n| format!("event {n}")).collect();
    assert_eq!(hook.accepted_bodies(), expected);
    assert_eq!(hook.count(), events, "each once");
    for request in hook.requests() {
        assert_eq!(request.header("arauto-attempt"), Some("1"), "nothing is charged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_configuration_pauses_waits_and_another_endpoint_does_not() {
    const EVENTS: usize = 300;
    let rig = Rig::new("paused", 2).await;
    let (held, free) = (Hook::accepting().await, Hook::accepting().await);
    let config = |paused: bool| -> Config {
        // A schedule without a step: one that was charged would be dead.
        let held = Endpoint::new("held", &held.url())
            .set("paused", paused)
            .set("retry.schedule", Vec::<String>::new());
        let config = rig.config().set("limits.in_flight", 40);
        config.endpoint(held).endpoint(Endpoint::new("free", &free.url()))
    };
    let file = config(true).write();
    let mut arauto = Arauto::run(&file.path()).await;
    produce(&rig, 0..EVENTS).await;
    free.wait_for(EVENTS, PATIENCE).await;
    assert_eq!(arauto.stop().await, 0);
    let mut arauto = Arauto::run(&file.path()).await;
    never(A_WHILE, "something is sent", async || held.count() > 0).await;
    let (status, answer) = arauto.post("/endpoints/held/resume", "").await;
    let told = answer["error"].as_str().unwrap();
    assert!(status == 409 && told.contains("paused = true"), "{status} {told}");
    let path = file.path();
    let output = command::arauto(&["endpoints", "--config", path.to_str().unwrap(), "resume", "held"]).await;
    assert!(output.code == 1 && output.stderr.contains("paused = true"), "{output:?}");
    assert_eq!(held.count(), 0);

    file.rewrite(&config(false));
    arauto.signal("HUP");
    held.wait_for(EVENTS, LONG).await;
    assert_eq!(arauto.stop().await, 0);
    check(&held, EVENTS);
    assert_eq!((free.count(), rig.cluster.read(&rig.dead()).await.len()), (EVENTS, 0));
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
    let parked: BTreeSet<_> = rig
        .cluster
        .read(&rig.tier("3s"))
        .await
        .iter()
        .map(|record| record.header("arauto-endpoint").unwrap().to_owned())
        .collect();
    assert_eq!(parked, ["held".to_owned()].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_pauses_waits_on_every_instance_and_over_restarts() {
    const EVENTS: usize = 200;
    const PARTITIONS: i32 = 6;
    let rig = Rig::new("paused-by", PARTITIONS).await;
    let hook = Hook::accepting().await;
    let file = rig.config().endpoint(Endpoint::new("crm", &hook.url())).write();
    let mut both = [Arauto::run(&file.path()).await, Arauto::run(&file.path()).await];
    for arauto in &both {
        let assigned = |metrics: &Metrics| {
            metrics.value("arauto_assigned_partitions", &[("topic", &rig.topic)]) > Some(0.0)
        };
        arauto.wait_for_metrics("partitions for each", assigned).await;
    }
    let event = |n: i32| NewRecord::new(&rig.topic, format!("event {n}")).partition(n % PARTITIONS);
    rig.cluster.produce(&(0..20).map(event).collect::<Vec<_>>()).await;
    hook.wait_for(20, PATIENCE).await;

    let (status, answer) = both[0].post("/endpoints/crm/pause", "").await;
    assert_eq!((status, &answer["paused"]["by"]), (200, &"operator".into()), "{answer}");
    // The other one is told through the state topic.
    both[1].wait_for_log("lane switched").await;
    produce(&rig, 20..EVENTS).await;
    never(A_WHILE, "something is sent", async || hook.count() > 20).await;
    let path = file.path();
    let words = ["endpoints", "--config", path.to_str().unwrap(), "pause", "crm"];
    let output = command::arauto(&words).await;
    assert!(output.code == 0 && output.stdout.starts_with("crm was paused since 20"), "{output:?}");

    both[0].kill().await;
    assert_eq!(both[1].stop().await, 0);
    let mut arauto = Arauto::run(&file.path()).await;
    never(A_WHILE, "something is sent", async || hook.count() > 20).await;
    // Nobody stands behind it, so nothing was parked: Kafka is the queue.
    assert_eq!(arauto.metrics().await.sum("arauto_parked_total", &[]), 0.0);
    let output = command::arauto(&["endpoints", "--config", path.to_str().unwrap(), "resume", "crm"]).await;
    assert!(output.code == 0 && output.stdout.ends_with("; it is enabled now\n"), "{output:?}");
    hook.wait_for(EVENTS, PATIENCE).await;
    assert_eq!(arauto.stop().await, 0);
    check(&hook, EVENTS);
    for tier in ["0s", "1s", "3s"] {
        assert_eq!(rig.cluster.read(&rig.tier(tier)).await.len(), 0, "tier {tier}");
    }
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
}
