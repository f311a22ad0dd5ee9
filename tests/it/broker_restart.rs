//! Brokers come and go: Arauto says that it is not ready, keeps trying, goes on by itself, and loses nothing.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;

use crate::support::{
    arauto::Arauto,
    broker::Broker,
    cluster::Cluster,
    config::{Config, Endpoint},
    hook::{Hook, Reply},
    records::NewRecord,
    until,
};

/// Clients find out and come back within seconds, with time-outs and back-offs of librdkafka in between; a starved
/// machine with several brokers takes longer.
const LONG: Duration = Duration::from_secs(120);
const TOPIC: &str = "orders";
const EVENTS: usize = 500;

/// A broker of its own, one topic, one endpoint.
struct Scene {
    broker: Broker,
    cluster: Cluster,
    hook: Hook,
    produced: usize,
}

impl Scene {
    async fn new() -> Self {
        let broker = Broker::start().await;
        let cluster = Cluster::at(broker.address());
        cluster.create_topic(TOPIC, 2, &[]).await;
        // Slow enough that trouble finds work under way.
        let hook = Hook::start(|_| Reply::ok().after(Duration::from_millis(20))).await;
        Self { broker, cluster, hook, produced: 0 }
    }

    fn config(&self) -> Config {
        Config::new(self.broker.address(), "arauto", "arauto", &[TOPIC])
            .endpoint(Endpoint::new("shop", &self.hook.url()).set("concurrency", 4))
    }

    async fn produce(&mut self) {
        let records: Vec<_> = (self.produced..self.produced + EVENTS)
            .map(|n| NewRecord::new(TOPIC, format!("event {n}")).partition(n as i32 % 2))
            .collect();
        self.cluster.produce(&records).await;
        self.produced += EVENTS;
    }

    /// Everything has arrived, and is committed at the end.
    async fn nothing_is_lost(&self, mut arauto: Arauto) {
        self.hook.wait_for(self.produced, LONG).await;
        assert_eq!(arauto.stop().await, 0);
        let bodies: BTreeSet<_> = (0..self.produced).map(|n| format!("event {n}")).collect();
        assert_eq!(self.hook.accepted_bodies(), bodies);
        assert_eq!(self.cluster.lag("arauto", TOPIC).await, 0);
    }
}

/// Waits until `/readyz` says 503, and why.
async fn not_ready(arauto: &Arauto) {
    until(LONG, "arauto not to be ready, and to say why", async || {
        let (status, body) = arauto.get("/readyz").await.expect("the admin server answers");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["ready"] == true, status == 200, "{body}");
        status == 503 && body["brokers"]["reachable"] == false && body["brokers"]["detail"].is_string()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_at_the_start_and_under_load() {
    let mut scene = Scene::new().await;
    scene.produce().await;
    let file = scene.config().write();
    scene.broker.stop().await;

    let mut arauto = Arauto::start(&file.path()).await;
    not_ready(&arauto).await;
    scene.broker.restart().await;
    arauto.wait_until_ready(LONG).await;
    scene.hook.wait_for_requests(100, LONG).await;

    scene.broker.stop().await;
    not_ready(&arauto).await;
    scene.broker.restart().await;
    arauto.wait_until_ready(LONG).await;
    scene.produce().await;
    scene.nothing_is_lost(arauto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_and_killed_under_load() {
    let mut scene = Scene::new().await;
    let file = scene.config().write();
    let mut arauto = Arauto::run(&file.path()).await;
    scene.produce().await;
    scene.hook.wait_for_requests(100, LONG).await;
    scene.broker.signal("STOP");
    not_ready(&arauto).await;
    scene.broker.signal("CONT");
    arauto.wait_until_ready(LONG).await;

    let before = scene.hook.count();
    scene.produce().await;
    scene.hook.wait_for_requests(before + 100, LONG).await;
    scene.broker.kill().await;
    not_ready(&arauto).await;
    scene.broker.restart().await;
    arauto.wait_until_ready(LONG).await;
    scene.produce().await;
    scene.nothing_is_lost(arauto).await;
}
