//! Guarantee 4: an endpoint that is dead, or that never answers, delays nobody else's first attempts, and loses
//! nothing itself.
//!
//! The window is small, so that a stuck endpoint's backlog is many times what may be held of it.

use std::{collections::HashSet, time::Duration};

use arauto::registry::endpoint_hash;
use tokio::time::Instant;

use crate::{
    at_least_once::is_settled,
    few_duplicates::positions,
    support::{
        Rig,
        arauto::Arauto,
        config::{Config, Endpoint},
        hook::{Hook, Reply, vacant},
        records::NewRecord,
    },
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

/// Healthy ones, each of which gets every event.
async fn healthy(count: usize) -> Vec<Hook> {
    let mut hooks = Vec::new();
    for _ in 0..count {
        hooks.push(Hook::accepting().await);
    }
    hooks
}

/// What was ever written to a retry topic: endpoint and body.
async fn on_tiers(rig: &Rig) -> HashSet<(String, String)> {
    let mut parked = HashSet::new();
    for tier in ["0s", "5s", "15s", "1m", "5m", "15m", "1h", "4h"] {
        for record in rig.cluster.read(&rig.tier(tier)).await {
            let body = String::from_utf8(record.value.clone().unwrap()).unwrap();
            parked.insert((record.header("arauto-endpoint").unwrap().to_owned(), body));
        }
    }
    parked
}

#[tokio::test(flavor = "multi_thread")]
async fn five_that_are_sick_each_in_its_own_way_delay_none_of_five_that_are_well() {
    /// 50,000 deliveries for those that are well.
    const EVENTS: usize = 10_000;
    let rig = Rig::new("isolation-ten", PARTITIONS).await;
    let well = healthy(5).await;
    let sick = [
        ("silent", Hook::start(|_| Reply::never()).await),
        ("failing", Hook::refusing(503).await),
        ("slow", Hook::start(|_| Reply::ok().after(Duration::from_secs(2))).await),
        ("limited", Hook::accepting().await),
    ];
    let mut config = rig
        .config()
        .without("defaults.breaker.minimum")
        .without("topics.tiers")
        .set("log.level", "info,arauto::pipeline::source=debug")
        .without("limits.hold");
    config = config.endpoint(Endpoint::new("refusing", &format!("http://{}/", vacant().await)));
    for (id, hook) in &sick {
        let endpoint = Endpoint::new(id, &hook.url()).set("timeout", "10s");
        config = config.endpoint(if *id == "limited" { endpoint.set("rate", "5/s") } else { endpoint });
    }
    for (n, hook) in well.iter().enumerate() {
        config = config.endpoint(Endpoint::new(&format!("well-{n}"), &hook.url()));
    }
    let records: Vec<_> = (0..EVENTS)
        .map(|n| NewRecord::new(&rig.topic, format!("event {n}")).partition(n as i32 % PARTITIONS))
        .collect();
    let places = rig.cluster.produce(&records).await;
    let file = config.write();
    let begun = Instant::now();
    let mut arauto = Arauto::run(&file.path()).await;
    for hook in &well {
        hook.wait_for_requests(EVENTS, 3 * LONG).await;
    }
    let took = begun.elapsed();
    let metrics = arauto.metrics().await;
    let parked = |id: &str| metrics.sum("arauto_parked_total", &[("endpoint", id)]);
    let ids = ["refusing", "silent", "failing", "slow", "limited", "well-0"];
    let stops = arauto.log().iter().filter(|line| line.to_string().contains("intake stops")).count();
    eprintln!("{took:?}; parked: {:?}; {stops} stops of intake", ids.map(|id| (id, parked(id))));
    arauto.kill().await;
    for hook in &well {
        assert_eq!((hook.count(), hook.accepted_bodies().len()), (EVENTS, EVENTS));
    }
    let limited = &sick[3].1;
    assert!(limited.count() < EVENTS / 4, "it was throttled all the time");

    // Whatever the brokers take to be settled for a sick one was delivered, or waits on a retry topic.
    let positions = positions(&rig).await;
    let mut safe = on_tiers(&rig).await;
    for (id, hook) in &sick {
        safe.extend(hook.accepted_bodies().into_iter().map(|body| (id.to_string(), body)));
    }
    for id in &ids[..5] {
        let settled = (0..EVENTS).filter(|n| is_settled(&positions, &places[*n], endpoint_hash(id)));
        let settled: Vec<_> = settled.map(|n| (id.to_string(), format!("event {n}"))).collect();
        assert!(settled.len() > EVENTS / 2, "only {} of {id} are settled", settled.len());
        let lost: Vec<_> = settled.iter().filter(|delivery| !safe.contains(*delivery)).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_that_hang_change_nothing_for_five_that_are_well() {
    const EACH: usize = 500;
    let rig = Rig::new("isolation-fifty", PARTITIONS).await;
    let records: Vec<_> = (0..EACH)
        .map(|n| NewRecord::new(&rig.topic, format!("event {n}")).partition(n as i32 % PARTITIONS))
        .collect();
    rig.cluster.produce(&records).await;
    let mut took = Vec::new();
    for hanging in [0, 50] {
        let (well, silent) = (healthy(5).await, Hook::start(|_| Reply::never()).await);
        let mut config = rig
            .config()
            .set("kafka.group", format!("{}-{hanging}", rig.group))
            .set("topics.prefix", format!("{}-{hanging}", rig.prefix))
            .set("limits.drain", "30s");
        for n in 0..hanging {
            let endpoint = Endpoint::new(&format!("silent-{n}"), &silent.url()).set("timeout", "30s");
            config = config.endpoint(endpoint);
        }
        for (n, hook) in well.iter().enumerate() {
            config = config.endpoint(Endpoint::new(&format!("well-{n}"), &hook.url()));
        }
        let file = config.write();
        let mut arauto = Arauto::run(&file.path()).await;
        let begun = Instant::now();
        for hook in &well {
            hook.wait_for_requests(EACH, LONG).await;
            assert_eq!(hook.accepted_bodies().len(), EACH);
        }
        took.push(begun.elapsed());
        arauto.kill().await;
    }
    eprintln!("alone, and beside fifty that hang: {took:?}");
    // 25,000 deliveries are parked on the same two cores meanwhile; nothing waits for a time-out.
    assert!(took[1] < took[0] * 10 + Duration::from_secs(25), "{took:?}");
}
