//! SIGTERM: what is under way ends, what waits is handed on with its count and its due time, nothing is lost and
//! nothing repeated; and it ends within its grace, whatever the brokers do. A second SIGTERM changes nothing.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    broker::Broker,
    cluster::Cluster,
    config::{Config, Endpoint},
    hook::{Hook, Reply},
    now_ms,
    records::{NewRecord, Record},
    until,
};

/// Everything here takes seconds; a starved machine may take minutes.
const LONG: Duration = Duration::from_secs(180);

/// The records of all these tiers.
async fn parked(rig: &Rig, tiers: &[&str]) -> Vec<(String, Record)> {
    let mut parked = Vec::new();
    for tier in tiers {
        let records = rig.cluster.read(&rig.tier(tier)).await;
        parked.extend(records.into_iter().map(|record| ((*tier).to_owned(), record)));
    }
    parked
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_under_load_lose_and_repeat_nothing() {
    const EVENTS: usize = 3_000;
    const RESTARTS: usize = 4;
    let rig = Rig::new("restarts", 4).await;
    let after = Duration::from_millis(5);
    let steady = Hook::start(move |_| Reply::ok().after(after)).await;
    let flaky = Hook::start(move |request| {
        if request.nth == 1 { Reply::status(500).after(after) } else { Reply::ok().after(after) }
    })
    .await;
    let config = rig
        .config()
        .set("limits.hold", "2s")
        .endpoint(Endpoint::new("steady", &steady.url()).set("concurrency", 16))
        .endpoint(
            Endpoint::new("flaky", &flaky.url()).set("concurrency", 16).set("retry.schedule", vec!["1s"]),
        )
        .write();
    let records: Vec<_> = (0..EVENTS)
        .map(|n| NewRecord::new(&rig.topic, format!("event {n}")).partition(i32::try_from(n).unwrap() % 4))
        .collect();
    rig.cluster.produce(&records).await;
    let mut parked = 0.0;
    for restart in 1..=RESTARTS {
        let mut arauto = Arauto::start(&config.path()).await;
        let steady_goes_on = steady.count() + 200 < EVENTS;
        let (hook, more) = if restart % 2 == 0 && steady_goes_on { (&steady, 200) } else { (&flaky, 300) };
        hook.wait_for_requests(hook.count() + more, LONG).await;
        parked += arauto.metrics().await.sum("arauto_lane_waiting", &[]);
        assert_eq!(arauto.stop().await, 0);
        assert!(arauto.logged("ticket lost, this is a bug; partition is opened again").is_none());
    }
    assert!(parked > 0.0, "something waited in memory at some stop");
    let mut arauto = Arauto::run(&config.path()).await;
    steady.wait_for(EVENTS, LONG).await;
    flaky.wait_for(EVENTS, LONG).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(steady.count(), EVENTS, "each event once");
    assert_eq!(flaky.count(), 2 * EVENTS, "each event twice: refused, accepted");
    assert_eq!((steady.duplicates(), flaky.duplicates()), (0, 0));
    for request in flaky.requests() {
        assert_eq!(request.header("arauto-attempt"), Some(request.nth.to_string().as_str()));
    }
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_under_way_finish_also_after_a_second_sigterm() {
    let rig = Rig::new("under-way", 1).await;
    let hook = Hook::start(|_| Reply::ok().after(Duration::from_secs(3))).await;
    let config = rig.config().endpoint(Endpoint::new("slow", &hook.url())).write();
    let mut arauto = Arauto::run(&config.path()).await;
    rig.cluster.produce(&[NewRecord::new(&rig.topic, "first")]).await;
    hook.wait_for_requests(1, LONG).await;
    arauto.sigterm();
    arauto.wait_for_log("stopping").await;
    assert_eq!(arauto.stop().await, 0);
    assert!(arauto.logged("stopped").is_some());
    assert!(arauto.logged("the last commit did not get through, deliveries may be repeated").is_none());
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);

    hook.script(|_| Reply::ok());
    rig.cluster.produce(&[NewRecord::new(&rig.topic, "second")]).await;
    let mut arauto = Arauto::run(&config.path()).await;
    hook.wait_for(2, LONG).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(hook.count(), 2, "the first was settled");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_memory_is_parked_with_its_count_and_due_time() {
    let rig = Rig::new("parked", 1).await;
    let hook = Hook::failing_first(1, 503).await;
    let endpoint = Endpoint::new("crm", &hook.url()).set("retry.schedule", vec!["5s"]);
    let config = rig.config().set("limits.hold", "10s").endpoint(endpoint).write();
    let mut arauto = Arauto::run(&config.path()).await;
    rig.cluster.produce(&[NewRecord::new(&rig.topic, "body").key("key").header("kept", "yes")]).await;
    arauto
        .wait_for_metrics("a delivery that waits", |metrics| metrics.sum("arauto_lane_waiting", &[]) == 1.0)
        .await;
    assert_eq!(arauto.stop().await, 0);

    let parked = parked(&rig, &["0s", "1s", "3s"]).await;
    assert_eq!(parked.len(), 1, "{parked:?}");
    let (tier, record) = &parked[0];
    // Late in the wait, on a starved machine, it may be the shorter tier.
    assert!(["1s", "3s"].contains(&tier.as_str()), "{tier}");
    let first = &hook.requests()[0];
    assert_eq!(record.header("arauto-reason"), Some("shutdown"));
    assert_eq!((record.number("arauto-attempts"), record.number("arauto-status")), (1, 503));
    assert_eq!(record.header("arauto-id"), Some(first.id.as_str()));
    assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(&b"crm"[..]), Some(&b"body"[..])));
    let due = record.number("arauto-due");
    assert!(due >= first.at_ms + 5_000, "{due} is before {} + 5 s", first.at_ms);
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);

    let mut arauto = Arauto::run(&config.path()).await;
    hook.wait_for(1, LONG).await;
    assert_eq!(arauto.stop().await, 0);
    let requests = hook.requests();
    assert_eq!(requests.len(), 2);
    let second = &requests[1];
    assert_eq!((&second.id, second.header("arauto-attempt")), (&first.id, Some("2")));
    assert!(second.at_ms >= due, "{} is before it was due, {due}", second.at_ms);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_attempted_and_is_due_is_parked_on_0s() {
    let rig = Rig::new("due", 1).await;
    // The first event is refused at once; the second keeps the only place until after the first is due again.
    let hook = Hook::start(|request| match (&request.body[..], request.nth) {
        (b"first", 1) => Reply::status(500),
        (b"second", 1) => Reply::ok().after(Duration::from_secs(6)),
        _ => Reply::ok(),
    })
    .await;
    let endpoint = Endpoint::new("narrow", &hook.url())
        .set("concurrency", 1)
        .set("retry.schedule", vec!["1s"])
        .set("retry.jitter", 0.0);
    let config = rig.config().endpoint(endpoint).write();
    let mut arauto = Arauto::run(&config.path()).await;
    rig.cluster.produce(&["first", "second"].map(|body| NewRecord::new(&rig.topic, body))).await;
    hook.wait_for_requests(2, LONG).await;
    let refused = hook.requests()[0].at_ms;
    until(PATIENCE, "the first to be due again", async || now_ms() > refused + 2_000).await;
    assert_eq!(arauto.stop().await, 0);

    let parked = parked(&rig, &["0s", "1s", "3s"]).await;
    assert_eq!(parked.len(), 1, "{parked:?}");
    let (tier, record) = &parked[0];
    assert_eq!((tier.as_str(), record.header("arauto-reason")), ("0s", Some("shutdown")));
    assert_eq!((record.value.as_deref(), record.number("arauto-attempts")), (Some(&b"first"[..]), 1));

    let mut arauto = Arauto::run(&config.path()).await;
    hook.wait_for(2, LONG).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(hook.count(), 3);
    assert_eq!(hook.requests()[2].header("arauto-attempt"), Some("2"));
}

/// Attempts that outlast the grace are given up; their events stay owed.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_outlast_the_grace_stay_owed() {
    let rig = Rig::new("outlast", 1).await;
    let hook = Hook::start(|_| Reply::never()).await;
    let config = rig
        .config()
        .set("limits.drain", "60s")
        .set("limits.shutdown_grace", "2s")
        .endpoint(Endpoint::new("silent", &hook.url()).set("timeout", "60s"))
        .write();
    let mut arauto = Arauto::run(&config.path()).await;
    rig.cluster.produce(&[NewRecord::new(&rig.topic, "event")]).await;
    hook.wait_for_requests(1, LONG).await;
    let asked = Instant::now();
    assert_eq!(arauto.stop().await, 0);
    assert!(asked.elapsed() < Duration::from_secs(30), "it took {:?}", asked.elapsed());
    assert!(arauto.logged("ticket lost, this is a bug; partition is opened again").is_none());
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 1);

    hook.script(|_| Reply::ok());
    let mut arauto = Arauto::run(&config.path()).await;
    hook.wait_for(1, LONG).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(hook.count(), 2);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Killed,
    Frozen,
}

/// Neither the last commit nor the record of what waits can get through, and nobody may wait for them for ever.
async fn ends_without_brokers(trouble: Trouble) {
    let mut broker = Broker::start().await;
    let cluster = Cluster::at(broker.address());
    cluster.create_topic("events", 2, &[]).await;
    let hook = Hook::start(|request| match &request.body[..] {
        b"refused" => Reply::status(500),
        b"slow" => Reply::ok().after(Duration::from_secs(2)),
        _ => Reply::ok(),
    })
    .await;
    let config = Config::new(broker.address(), "group", "own", &["events"])
        .set("limits.shutdown_grace", "4s")
        .set("limits.hold", "60s")
        .endpoint(Endpoint::new("crm", &hook.url()).set("retry.schedule", vec!["30s", "1s"]))
        .write();
    let mut arauto = Arauto::run(&config.path()).await;
    let event = |body: &str, partition| NewRecord::new("events", body).partition(partition);
    cluster.produce(&[event("refused", 0), event("accepted", 1)]).await;
    hook.wait_for(1, LONG).await;
    arauto
        .wait_for_metrics("a delivery that waits", |metrics| metrics.sum("arauto_lane_waiting", &[]) == 1.0)
        .await;
    until(PATIENCE, "what was accepted to be committed", async || {
        cluster.committed("group", "events").await[1].offset == Some(1)
    })
    .await;
    // Delivered when nothing can be committed any more.
    cluster.produce(&[event("slow", 1)]).await;
    hook.wait_for_requests(3, LONG).await;
    match trouble {
        Trouble::Killed => broker.kill().await,
        Trouble::Frozen => broker.signal("STOP"),
    }
    let slow = hook.requests()[2].at_ms;
    until(PATIENCE, "the slow one to be delivered", async || now_ms() > slow + 3_000).await;
    let asked = Instant::now();
    assert_eq!(arauto.stop().await, 0);
    assert!(asked.elapsed() < Duration::from_secs(30), "it took {:?}", asked.elapsed());
    assert!(arauto.logged("ticket lost, this is a bug; partition is opened again").is_none());

    match trouble {
        Trouble::Killed => broker.restart().await,
        Trouble::Frozen => broker.signal("CONT"),
    }
    hook.script(|_| Reply::ok());
    let mut arauto = Arauto::run(&config.path()).await;
    hook.wait_for(3, LONG).await;
    assert_eq!(arauto.stop().await, 0);
    let bodies: Vec<_> = hook.requests().iter().map(|request| request.body.clone()).collect();
    let times = |body: &str| bodies.iter().filter(|other| *other == body).count();
    assert_eq!((times("refused"), times("accepted")), (2, 1));
    assert!(times("slow") <= 2, "what could not be committed may come again");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_within_its_grace_when_the_brokers_are_dead() {
    ends_without_brokers(Trouble::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_within_its_grace_when_the_brokers_do_not_answer() {
    ends_without_brokers(Trouble::Frozen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_during_the_start_ends_it() {
    let rig = Rig::new("starting", 1).await;
    let hook = Hook::accepting().await;
    let reachable = rig.config().endpoint(Endpoint::new("crm", &hook.url()));
    // Nobody listens there.
    let unreachable = reachable.clone().set("kafka.brokers", "127.0.0.1:1");
    for (config, moment) in [
        (&unreachable, "admin listening"),
        (&unreachable, "the brokers do not answer, trying again"),
        (&reachable, "admin listening"),
        (&reachable, "first sight of a source topic, its start is noted down"),
        (&reachable, "running"),
        (&reachable, "partitions assigned"),
    ] {
        let config = config.write();
        let mut arauto = Arauto::start(&config.path()).await;
        if moment != "first sight of a source topic, its start is noted down" {
            arauto.wait_for_log(moment).await;
        }
        assert_eq!(arauto.stop().await, 0, "{moment}");
        assert!(arauto.logged("stopped").is_some(), "{moment}");
    }
    // The reachable starts and stops above left everything in order.
    rig.cluster.produce(&[NewRecord::new(&rig.topic, "event")]).await;
    let config = reachable.write();
    let mut arauto = Arauto::run(&config.path()).await;
    hook.wait_for(1, LONG).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(hook.count(), 1);
}
