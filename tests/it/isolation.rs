//! Guarantee 4: an endpoint that is dead, or that never answers, delays nobody else's first attempts, and loses
//! nothing itself.
//!
//! The window is small, so that a stuck endpoint's backlog is many times what may be held of it.

use std::time::Duration;

use crate::support::{
    Rig,
    arauto::Arauto,
    config::{Config, Endpoint},
    hook::{Hook, Reply, vacant},
    records::NewRecord,
};

/// Everything here takes seconds; a starved machine may take minutes.
const LONG: Duration = Duration::from_secs(60);
const EVENTS: usize = 1_500;
const PARTITIONS: i32 = 4;
/// Longer than the test waits: an endpoint that never answers frees its places only this late.
const STUCK: &str = "10m";

/// One endpoint refuses connections, one never answers, one is healthy.
struct Three {
    dead: std::net::SocketAddr,
    silent: Hook,
    healthy: Hook,
}

impl Three {
    async fn new() -> Self {
        let silent = Hook::start(|_| Reply::never()).await;
        Self { dead: vacant().await, silent, healthy: Hook::accepting().await }
    }

    /// With these filters of event types for them.
    fn config(&self, rig: &Rig, types: [&str; 3]) -> Config {
        let urls = [format!("http://{}/", self.dead), self.silent.url(), self.healthy.url()];
        let mut config = rig.config().set("limits.in_flight", 200).set("limits.drain", STUCK);
        for ((id, url), types) in ["dead", "silent", "healthy"].into_iter().zip(urls).zip(types) {
            let endpoint = Endpoint::new(id, &url)
                .set("types", vec![types])
                .set("timeout", STUCK)
                // Never used up while the endpoint is stuck, and soon after it has healed.
                .set("retry.schedule", vec!["2s"; 60]);
            config = config.endpoint(endpoint);
        }
        config
    }

    /// The healthy one gets `events` while the others are stuck, and they get them when they heal.
    async fn prove(self, rig: &Rig, config: Config, events: usize) {
        let file = config.write();
        let mut arauto = Arauto::run(&file.path()).await;
        self.healthy.wait_for(events, LONG).await;
        assert!(self.silent.accepted().is_empty(), "it was stuck all the time");

        let dead = Hook::start_at(self.dead, |_| Reply::ok()).await;
        self.silent.script(|_| Reply::ok());
        self.silent.wake();
        for hook in [&dead, &self.silent] {
            hook.wait_for(events, LONG).await;
        }
        assert_eq!(arauto.stop().await, 0);
        for hook in [&dead, &self.silent, &self.healthy] {
            assert_eq!((hook.accepted().len(), hook.accepted_bodies().len()), (events, events));
            assert_eq!(hook.duplicates(), 0);
        }
        // A first attempt was enough everywhere, so nothing was late by a retry.
        assert_eq!(self.healthy.count(), events);
        assert_eq!(rig.cluster.read(&rig.dead()).await.len(), 0);
        assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_for_all_three() {
    let rig = Rig::new("isolation-fan-out", PARTITIONS).await;
    let three = Three::new().await;
    let records: Vec<_> = (0..EVENTS)
        .map(|n| NewRecord::new(&rig.topic, format!("event {n}")).partition(n as i32 % PARTITIONS))
        .collect();
    rig.cluster.produce(&records).await;
    let config = three.config(&rig, ["*", "*", "*"]);
    three.prove(&rig, config, EVENTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_all_three_are_mixed_on_one_partition() {
    const EACH: usize = 750;
    let rig = Rig::new("isolation-mixed", 1).await;
    let three = Three::new().await;
    // In no order, so that the next event is often for the endpoint that has just had its share.
    let mut order: Vec<u64> = (0..3 * EACH as u64).collect();
    order.sort_by_key(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let records: Vec<_> = order
        .into_iter()
        .map(|n| {
            let of = ["dead", "silent", "healthy"][n as usize % 3];
            NewRecord::new(&rig.topic, format!("event {n}")).header("ce_type", of).partition(0)
        })
        .collect();
    rig.cluster.produce(&records).await;
    let config = three.config(&rig, ["dead", "silent", "healthy"]);
    three.prove(&rig, config, EACH).await;
}
