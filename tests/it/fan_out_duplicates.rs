//! Guarantee 3 under load: an event goes to ten endpoints, one of them is slow, and whatever ends the process, the nine
//! others do not receive everything again.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use arauto::registry::endpoint_hash;

use crate::{
    at_least_once::is_settled,
    few_duplicates::{positions, times},
    support::{
        Rig,
        arauto::Arauto,
        config::{ConfigFile, Endpoint},
        hook::{Hook, Reply},
        records::{NewRecord, Position},
    },
};

const LONG: Duration = Duration::from_secs(180);
const PARTITIONS: i32 = 4;
const ENDPOINTS: usize = 10;
const CONCURRENCY: usize = 8;

/// Ten endpoints of which the first one is slow, and events for all of them.
struct Ten {
    hooks: Vec<Hook>,
    file: ConfigFile,
    places: Vec<Position>,
}

impl Ten {
    async fn new(rig: &Rig, events: usize) -> Self {
        let mut hooks = vec![Hook::start(|_| Reply::ok().after(Duration::from_millis(100))).await];
        let mut config = rig.config().set("limits.in_flight", 1_000);
        for n in 0..ENDPOINTS {
            if n > 0 {
                hooks.push(Hook::start(|_| Reply::ok().after(Duration::from_millis(5))).await);
            }
            let endpoint = Endpoint::new(&format!("endpoint-{n}"), &hooks[n].url());
            config = config.endpoint(endpoint.set("concurrency", CONCURRENCY as i64));
        }
        let record =
            |n: usize| NewRecord::new(&rig.topic, format!("event {n}")).partition(n as i32 % PARTITIONS);
        let records: Vec<_> = (0..events).map(record).collect();
        let places = rig.cluster.produce(&records).await;
        Self { hooks, file: config.write(), places }
    }

    fn quick(&self) -> &[Hook] {
        &self.hooks[1..]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_repeats_only_what_was_under_way_or_settled_since_the_last_commit() {
    const EVENTS: usize = 2_000;
    const KILLS: usize = 4;
    let rig = Rig::new("fan-out-kill", PARTITIONS).await;
    let ten = Ten::new(&rig, EVENTS).await;
    // What the brokers knew to be settled at a kill, and how often it had come by then.
    let mut known: Vec<HashMap<String, usize>> = vec![HashMap::new(); ENDPOINTS];
    for kill in 1..=KILLS {
        let before = ten.hooks[kill].count();
        let mut arauto = Arauto::start(&ten.file.path()).await;
        ten.hooks[kill].wait_for_requests(before + 200 + kill * 37 % 100, LONG).await;
        arauto.kill().await;
        let positions = positions(&rig).await;
        for (n, hook) in ten.hooks.iter().enumerate() {
            let (times, hash) = (times(hook), endpoint_hash(&format!("endpoint-{n}")));
            let settled = (0..EVENTS).filter(|event| is_settled(&positions, &ten.places[*event], hash));
            // What was parked for the slow one is settled as well, and never came.
            let settled = settled.map(|event| format!("event {event}"));
            known[n].extend(settled.filter_map(|body| times.get(&body).map(|times| (body.clone(), *times))));
        }
    }
    let mut arauto = Arauto::run(&ten.file.path()).await;
    for hook in ten.quick() {
        hook.wait_for(EVENTS, LONG).await;
    }
    assert_eq!(arauto.stop().await, 0);
    let repeated: Vec<usize> = ten.quick().iter().map(|hook| hook.count() - EVENTS).collect();
    eprintln!("repeated by {KILLS} kills for each quick one, of {EVENTS}: {repeated:?}");
    // What was parked is settled where it was read, and sent when it comes back.
    let parked = parked(&rig).await;
    for (n, (hook, known)) in ten.hooks.iter().zip(&known).enumerate().skip(1) {
        let times = times(hook);
        let was_parked = |body: &String| parked.contains(&(format!("endpoint-{n}"), body.clone()));
        let known: Vec<_> = known.iter().filter(|(body, _)| !was_parked(body)).collect();
        assert!(known.len() > EVENTS / 20, "the kills came too early to prove anything");
        let again: Vec<_> = known.iter().filter(|(body, before)| times[*body] > **before).collect();
        assert!(again.is_empty(), "settled when killed, and sent again: {again:?}");
        assert!(hook.count() < EVENTS * 3 / 2, "{} requests for {EVENTS} events", hook.count());
    }
}

/// What was ever written to a retry topic: endpoint and body.
async fn parked(rig: &Rig) -> HashSet<(String, String)> {
    let mut parked = HashSet::new();
    for tier in ["0s", "1s", "3s"] {
        for record in rig.cluster.read(&rig.tier(tier)).await {
            let body = String::from_utf8(record.value.clone().unwrap()).unwrap();
            parked.insert((record.header("arauto-endpoint").unwrap().to_owned(), body));
        }
    }
    parked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_and_a_rebalance_repeat_nothing() {
    const EVENTS: usize = 600;
    let rig = Rig::new("fan-out-stop", PARTITIONS).await;
    let ten = Ten::new(&rig, EVENTS).await;
    let path = ten.file.path();
    // A stop in the middle, then two share the partitions, then the first of them leaves.
    let mut first = Arauto::run(&path).await;
    ten.hooks[5].wait_for_requests(100, LONG).await;
    assert_eq!(first.stop().await, 0);
    let mut second = Arauto::run(&path).await;
    ten.hooks[5].wait_for_requests(250, LONG).await;
    let mut third = Arauto::run(&path).await;
    ten.hooks[5].wait_for_requests(400, LONG).await;
    assert_eq!(second.stop().await, 0);
    for hook in &ten.hooks {
        hook.wait_for(EVENTS, LONG).await;
    }
    assert_eq!(third.stop().await, 0);
    for (n, hook) in ten.hooks.iter().enumerate() {
        assert_eq!((hook.count(), hook.accepted_bodies().len()), (EVENTS, EVENTS), "endpoint {n}");
    }
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
}
