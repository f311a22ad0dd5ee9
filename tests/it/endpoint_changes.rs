//! An endpoint changes while its deliveries wait or are under way: the next attempt is made as it is now, and the lane
//! forgets what means nothing any more, and only that.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    PATIENCE, Rig,
    arauto::{Arauto, field},
    config::{Config, ConfigFile, Endpoint, SECRET},
    eventually,
    hook::{Hook, Reply, Request},
    never,
    records::NewRecord,
    until,
};

const OTHER_SECRET: &str = "whsec_b3RoZXIgc2VjcmV0LCBvdGhlciBrZXku";
/// Long enough for an attempt that must not be made.
const QUIET: Duration = Duration::from_secs(2);

async fn publish(rig: &Rig, bodies: impl IntoIterator<Item = String>) {
    let records: Vec<_> = bodies.into_iter().map(|body| NewRecord::new(&rig.topic, body)).collect();
    rig.cluster.produce(&records).await;
}

/// Takes over another configuration at once.
async fn change(arauto: &Arauto, file: &ConfigFile, config: &Config) {
    let taken_over = || {
        let is = |line: &Value| field(line, "message") == Some("configuration taken over");
        arauto.log().iter().filter(|line| is(line)).count()
    };
    let before = taken_over();
    file.rewrite(config);
    arauto.signal("HUP");
    until(PATIENCE, "the change to be taken over", async || taken_over() > before).await;
}

/// The endpoint's lane as `/lanes` shows it.
async fn lane(arauto: &Arauto, endpoint: &str) -> Option<Value> {
    let (_, body) = arauto.get("/lanes").await?;
    let body: Value = serde_json::from_str(&body).unwrap();
    body["lanes"].as_array().unwrap().iter().find(|lane| lane["endpoint"] == endpoint).cloned()
}

fn verifies(request: &Request, secret: &str) -> bool {
    standardwebhooks::Webhook::new(secret).unwrap().verify(&request.body, &request.headers).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_goes_to_the_new_url_with_the_new_secret() {
    let rig = Rig::new("change-url", 1).await;
    let (old, new) = (Hook::refusing(503).await, Hook::accepting().await);
    // One waits in memory, two on retry topics.
    let endpoint = |url: &str| Endpoint::new("crm", url).set("retry.schedule", vec!["1s", "4s", "4s", "4s"]);
    let file = rig.config().endpoint(endpoint(&old.url())).write();
    let arauto = Arauto::run(&file.path()).await;
    publish(&rig, ["one".into(), "two".into(), "three".into()]).await;
    old.wait_for_requests(3, PATIENCE).await;

    let moved = endpoint(&new.url()).set("secrets", vec![OTHER_SECRET]);
    change(&arauto, &file, &rig.config().endpoint(moved)).await;
    let at_the_old = old.count();
    new.wait_for(3, PATIENCE).await;
    assert_eq!(old.count(), at_the_old, "no attempt was made at the old url after the change");
    for request in new.requests() {
        assert!(verifies(&request, OTHER_SECRET) && !verifies(&request, SECRET));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_limits_hold_from_the_next_attempt_on() {
    const EVENTS: usize = 40;
    const TAKES: Duration = Duration::from_millis(150);
    let rig = Rig::new("change-limits", 1).await;
    let hook = Hook::start(|_| Reply::ok().after(TAKES)).await;
    let endpoint = || Endpoint::new("crm", &hook.url()).set("burst", 1).set("retry.schedule", vec!["1s"; 9]);
    let limited = rig.config().endpoint(endpoint().set("rate", "1/h"));
    let file = limited.write();
    let arauto = Arauto::run(&file.path()).await;
    publish(&rig, (0..EVENTS).map(|n| format!("event {n}"))).await;
    hook.wait_for(1, PATIENCE).await;
    arauto
        .wait_for_metrics("the rate to be felt", |metrics| metrics.sum("arauto_lane_queued", &[]) > 0.0)
        .await;

    // The rate: whoever waits for a place an hour ahead wakes up. The concurrency: no more than three at once.
    let faster = rig.config().endpoint(endpoint().set("concurrency", 3));
    change(&arauto, &file, &faster).await;
    hook.wait_for(EVENTS, PATIENCE).await;
    assert_eq!(hook.most_at_once(), 3);

    // The time-out: what is under way keeps the one it began with, its next attempt has the new one.
    hook.script(|_| Reply::never());
    publish(&rig, ["late".to_owned()]).await;
    hook.wait_for_requests(EVENTS + 1, PATIENCE).await;
    change(&arauto, &file, &rig.config().endpoint(endpoint().set("timeout", "200ms"))).await;
    hook.wake();
    let timeouts = &[("result", "timeout")][..];
    arauto
        .wait_for_metrics("a time-out", |metrics| metrics.sum("arauto_attempts_total", timeouts) > 0.0)
        .await;
    assert!(hook.count() >= EVENTS + 2);
    hook.script(|_| Reply::ok());
    hook.wait_for(EVENTS + 1, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limiter_and_the_breaker_remember_until_there_is_another_receiver() {
    let rig = Rig::new("change-kept", 1).await;
    let (old, new) = (Hook::refusing(503).await, Hook::accepting().await);
    let limited = Hook::accepting().await;
    let config = |url: &str, secret: &str| {
        let down = Endpoint::new("down", url)
            .set("types", vec!["down"])
            .set("breaker.minimum", 3)
            .set("breaker.open_for", "10m");
        let limited = Endpoint::new("limited", &limited.url()).set("types", vec!["limited"]).set("burst", 1);
        rig.config()
            .endpoint(down.set("secrets", vec![secret]))
            .endpoint(limited.set("rate", "1/h").set("secrets", vec![secret]))
    };
    let file = config(&old.url(), SECRET).write();
    let arauto = Arauto::run(&file.path()).await;
    let record = |of: &str, n: usize| NewRecord::new(&rig.topic, format!("{of} {n}")).header("ce_type", of);
    let records: Vec<_> = (0..8).flat_map(|n| ["down", "limited"].map(|of| record(of, n))).collect();
    rig.cluster.produce(&records).await;
    limited.wait_for(1, PATIENCE).await;
    let is_open = async || lane(&arauto, "down").await.is_some_and(|lane| lane["breaker"] == "open");
    until(PATIENCE, "the breaker to open", is_open).await;

    // Another secret is no other receiver.
    change(&arauto, &file, &config(&old.url(), OTHER_SECRET)).await;
    let before = old.count();
    never(QUIET, "an attempt", async || old.count() > before || limited.count() > 1).await;
    assert!(is_open().await);

    // Another url is.
    change(&arauto, &file, &config(&new.url(), OTHER_SECRET)).await;
    new.wait_for(1, PATIENCE).await;
    let closed = async || lane(&arauto, "down").await.is_none_or(|lane| lane["breaker"] == "closed");
    until(PATIENCE, "the breaker to be closed", closed).await;
    assert!(new.requests().iter().all(|request| verifies(request, OTHER_SECRET)));
    assert_eq!(old.count(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_more_is_sent_to_a_removed_endpoint_whatever_is_under_way() {
    const EVENTS: usize = 5;
    let rig = Rig::new("change-removed", 1).await;
    let (removed, stays) = (Hook::start(|_| Reply::never()).await, Hook::accepting().await);
    let config = || rig.config().set("unknown_grace", "1s").endpoint(Endpoint::new("stays", &stays.url()));
    // Its first attempt fails after it was removed, and would be made again within the time that is held in memory.
    let goes = Endpoint::new("removed", &removed.url()).set("retry.schedule", vec!["300ms"; 9]);
    let file = config().endpoint(goes).write();
    let mut arauto = Arauto::run(&file.path()).await;
    publish(&rig, (0..EVENTS).map(|n| format!("event {n}"))).await;
    stays.wait_for(EVENTS, PATIENCE).await;
    removed.wait_for_requests(1, PATIENCE).await;

    change(&arauto, &file, &config()).await;
    removed.wake();
    let dead = eventually(PATIENCE, "everything of it to be dead", async || {
        Some(rig.cluster.read(&rig.dead()).await).filter(|dead| dead.len() >= EVENTS)
    })
    .await;
    assert_eq!(dead.len(), EVENTS);
    for record in &dead {
        let of = (record.header("arauto-endpoint"), record.header("arauto-reason"));
        assert_eq!(of, (Some("removed"), Some("unknown_endpoint")));
    }
    let attempts: i64 = dead.iter().map(|record| record.number("arauto-attempts")).sum();
    assert_eq!((attempts, removed.count()), (1, 1));
    assert_eq!(arauto.stop().await, 0);
}
