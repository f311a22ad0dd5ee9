//! Work that nothing holds back and that does not move is seen from inside and shown; what waits for a reason is not.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    PATIENCE, Rig,
    arauto::{Arauto, field},
    broker::Broker,
    cluster::Cluster,
    config::{Config, Endpoint},
    hook::{Hook, Reply},
    never,
    proxy::Proxy,
    records::NewRecord,
    until,
};

const TOPIC: &str = "orders";

async fn readyz(arauto: &Arauto) -> (u16, Value) {
    let (status, body) = arauto.get("/readyz").await.expect("the admin server answers");
    (status, serde_json::from_str(&body).unwrap())
}

/// The broker answers everything but fetches: records wait, and do not come.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_do_not_come_are_seen() {
    let proxy = Proxy::new().await;
    let broker = Broker::start_with(&format!("advertised.listeners=PLAINTEXT://{}", proxy.address())).await;
    proxy.pass_on_to(broker.address());
    let cluster = Cluster::at(proxy.address());
    cluster.create_topic(TOPIC, 1, &[]).await;
    let hook = Hook::accepting().await;
    let config = Config::new(&proxy.address(), "arauto", "arauto", &[TOPIC])
        .set("admin.stalled_after", "4s")
        .endpoint(Endpoint::new("shop", &hook.url()));
    let file = config.write();
    let mut arauto = Arauto::run(&file.path()).await;
    cluster.produce(&[NewRecord::new(TOPIC, "before")]).await;
    hook.wait_for(1, PATIENCE).await;
    assert_eq!(arauto.metrics().await.value("arauto_stalled", &[]), Some(0.0));

    // The consumer, and who follows the state topic.
    proxy.hold_fetches(2).await;
    let waiting: Vec<_> = (0..5).map(|n| NewRecord::new(TOPIC, format!("waiting {n}"))).collect();
    cluster.produce(&waiting).await;
    arauto
        .wait_for_metrics("the stall to be counted", |metrics| {
            metrics.value("arauto_stalled", &[]) == Some(1.0)
        })
        .await;
    let (status, body) = readyz(&arauto).await;
    assert_eq!((status, &body["brokers"]["reachable"], &body["joined"]), (503, &true.into(), &true.into()));
    let stalled = body["stalled"][0].as_str().expect("what stands still");
    assert!(stalled.starts_with("reading orders/0: 5 waiting, nothing has moved for "), "{body}");
    assert_eq!(body["stalled"].as_array().unwrap().len(), 1, "{body}");
    // A new start would not mend it.
    assert_eq!(arauto.get("/livez").await.unwrap().0, 200);
    let line = arauto.wait_for_log("work stands still that nothing holds back").await;
    assert_eq!((field(&line, "part"), line["level"].as_str()), (Some("reading orders/0"), Some("ERROR")));

    proxy.release();
    hook.wait_for(6, PATIENCE).await;
    arauto.wait_until_ready(PATIENCE).await;
    arauto.wait_for_log("work stands still no longer, or for a reason").await;
    assert_eq!(arauto.metrics().await.value("arauto_stalled", &[]), Some(0.0));
    assert_eq!((arauto.stop().await, hook.count()), (0, 6));
}

/// A receiver within its time-out, a pause, a limit, an open breaker, waits for a due time, and a full window.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_reason_is_none() {
    let rig = Rig::new("stall-none", 2).await;
    let slow = Hook::start(|_| Reply::never()).await;
    let broken = Hook::refusing(500).await;
    let sound = Hook::accepting().await;
    let config = rig
        .config()
        .set("admin.stalled_after", "1s")
        .set("limits.in_flight", 30)
        .endpoint(Endpoint::new("slow", &slow.url()).set("timeout", "50s").set("concurrency", 2))
        .endpoint(Endpoint::new("paused", &sound.url()).set("paused", true))
        .endpoint(Endpoint::new("limited", &sound.url()).set("rate", "1/m").set("burst", 1))
        .endpoint(
            Endpoint::new("shut", &broken.url()).set("breaker.minimum", 1).set("breaker.open_for", "1h"),
        )
        .endpoint(Endpoint::new("later", &broken.url()).set("retry.schedule", vec!["1h"]));
    let file = config.write();
    let mut arauto = Arauto::run(&file.path()).await;
    let events: Vec<_> = (0..60).map(|n| NewRecord::new(&rig.topic, "x").partition(n % 2)).collect();
    rig.cluster.produce(&events).await;
    slow.wait_for_requests(1, PATIENCE).await;
    arauto
        .wait_for_metrics("every kind of wait", |metrics| {
            let of = |name: &str, endpoint: &str| metrics.sum(name, &[("endpoint", endpoint)]);
            of("arauto_lane_in_flight", "slow") > 0.0
                && of("arauto_lane_queued", "limited") > 0.0
                && of("arauto_lane_queued", "paused") > 0.0
                && of("arauto_breaker_state", "shut") > 0.0
                && of("arauto_retries_total", "later") > 0.0
        })
        .await;
    never(Duration::from_secs(6), "a stall", async || {
        let (_, body) = readyz(&arauto).await;
        body["stalled"].as_array().is_none_or(|stalled| !stalled.is_empty())
    })
    .await;
    assert!(arauto.is_ready().await);
    until(PATIENCE, "lag", async || rig.cluster.lag(&rig.group, &rig.topic).await > 0).await;
    slow.script(|_| Reply::ok());
    slow.wake();
    assert_eq!(arauto.stop().await, 0);
}
