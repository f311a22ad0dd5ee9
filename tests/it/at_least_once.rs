//! Guarantee 1: no event is lost, whatever kills the process, and a kill repeats no more than it must.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use arauto::{pipeline::ledger::metadata, registry::endpoint_hash};

use crate::{
    few_duplicates::{positions, times},
    support::{
        Rig,
        arauto::Arauto,
        config::Endpoint,
        hook::{Hook, Reply},
        records::{self, NewRecord},
    },
};

/// Everything here takes seconds; a starved machine may take minutes.
const LONG: Duration = Duration::from_secs(180);
const EVENTS: usize = 20_000;
const KILLS: usize = 10;
const CONCURRENCY: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn events_are_delivered_signed_and_committed() {
    let rig = Rig::new("simple", 4).await;
    let hook = Hook::accepting().await;
    let config = rig.config().endpoint(Endpoint::new("shop", &hook.url())).write();
    let mut arauto = Arauto::run(&config.path()).await;
    let records: Vec<_> = (0..200).map(|n| NewRecord::new(&rig.topic, format!("{{\"n\":{n}}}"))).collect();
    rig.cluster.produce(&records).await;
    hook.wait_for(200, LONG).await;
    assert_eq!(hook.accepted_bodies().len(), 200);
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(hook.count(), 200);
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_nothing_and_repeats_only_what_it_must() {
    let rig = Rig::new("kill", 8).await;
    let mut hooks = Vec::new();
    for _ in 0..3 {
        // A little time under way, so that every kill finds requests in the middle.
        hooks.push(Hook::start(|_| Reply::ok().after(Duration::from_millis(5))).await);
    }
    // Nothing is parked: what is on a retry topic is settled where it was read, and sent from there.
    let mut config = rig.config().set("limits.in_flight", 200_000);
    for (number, hook) in hooks.iter().enumerate() {
        config = config.endpoint(
            Endpoint::new(&format!("endpoint-{number}"), &hook.url()).set("concurrency", CONCURRENCY as i64),
        );
    }
    let config = config.write();
    let records: Vec<_> = (0..EVENTS)
        .map(|n| NewRecord::new(&rig.topic, format!("event {n}")).partition(i32::try_from(n % 8).unwrap()))
        .collect();
    let places = rig.cluster.produce(&records).await;
    let mut settled: Vec<HashMap<String, usize>> = vec![HashMap::new(); hooks.len()];
    for kill in 1..=KILLS {
        let before: Vec<_> = hooks.iter().map(Hook::count).collect();
        let mut arauto = Arauto::start(&config.path()).await;
        // Somewhere else each time: after some hundreds of requests at one of the receivers.
        let more = 150 + (kill * 97) % 400;
        let hook = kill % hooks.len();
        hooks[hook].wait_for_requests(before[hook] + more, LONG).await;
        arauto.kill().await;
        // What the brokers know to be settled may never be sent again; all else is under way, or newer than that.
        let positions = positions(&rig).await;
        for (number, hook) in hooks.iter().enumerate() {
            let times = times(hook);
            let endpoint = endpoint_hash(&format!("endpoint-{number}"));
            let known = (0..EVENTS).filter(|n| is_settled(&positions, &places[*n], endpoint));
            settled[number]
                .extend(known.map(|n| format!("event {n}")).map(|body| (body.clone(), times[&body])));
        }
    }
    let mut arauto = Arauto::run(&config.path()).await;
    for hook in &hooks {
        hook.wait_for(EVENTS, LONG).await;
    }
    assert_eq!(arauto.stop().await, 0);
    for (hook, settled) in hooks.iter().zip(&settled) {
        assert_eq!(hook.accepted_bodies().len(), EVENTS);
        assert!(settled.len() > EVENTS / 100, "the kills came too early to prove anything");
        let times = times(hook);
        let again: Vec<_> = settled.iter().filter(|(body, before)| times[*body] > **before).collect();
        assert!(again.is_empty(), "settled when killed, and sent again: {again:?}");
    }
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
}

/// Is nothing of the event owed to the endpoint any more, as far as the brokers know?
pub(crate) fn is_settled(
    positions: &BTreeMap<i32, metadata::Position>,
    place: &records::Position,
    endpoint: u32,
) -> bool {
    let Some(position) = positions.get(&place.partition) else { return false };
    let run = position.owed.iter().find(|run| (run.first..=run.last).contains(&place.offset));
    let owed = run.is_some_and(|run| match &run.owed {
        metadata::Owed::All => true,
        metadata::Owed::To(endpoints) => endpoints.contains(&endpoint),
    });
    place.offset < position.base || (place.offset < position.horizon && !owed)
}
