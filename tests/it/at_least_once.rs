//! Guarantee 1: no event is lost, whatever kills the process, and a kill repeats no more than it must.

use std::{collections::HashMap, time::Duration};

use crate::support::{
    Rig,
    arauto::Arauto,
    config::Endpoint,
    hook::{Hook, Reply},
    records::NewRecord,
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
    let mut config = rig.config();
    for (number, hook) in hooks.iter().enumerate() {
        config = config.endpoint(
            Endpoint::new(&format!("endpoint-{number}"), &hook.url()).set("concurrency", CONCURRENCY as i64),
        );
    }
    let config = config.write();
    let records: Vec<_> = (0..EVENTS)
        .map(|n| NewRecord::new(&rig.topic, format!("event {n}")).partition(i32::try_from(n % 8).unwrap()))
        .collect();
    rig.cluster.produce(&records).await;
    for kill in 1..=KILLS {
        let before: Vec<_> = hooks.iter().map(Hook::count).collect();
        let mut arauto = Arauto::start(&config.path()).await;
        // Somewhere else each time: after some hundreds of requests at one of the receivers.
        let more = 150 + (kill * 97) % 400;
        let hook = kill % hooks.len();
        hooks[hook].wait_for_requests(before[hook] + more, LONG).await;
        arauto.kill().await;
    }
    let mut arauto = Arauto::run(&config.path()).await;
    for hook in &hooks {
        hook.wait_for(EVENTS, LONG).await;
    }
    assert_eq!(arauto.stop().await, 0);
    for hook in &hooks {
        assert_eq!(hook.accepted().len(), EVENTS);
        assert_eq!(hook.accepted_bodies().len(), EVENTS);
        let mut times: HashMap<&str, usize> = HashMap::new();
        let requests = hook.requests();
        for request in &requests {
            *times.entry(&request.id).or_default() += 1;
        }
        let repeated: usize = times.values().map(|times| times - 1).sum();
        // Per kill: what was under way, and what settled in the 100 ms (and a slow commit) since the last commit,
        // at 5 ms each.
        let most = KILLS * (CONCURRENCY + CONCURRENCY * 400 / 5);
        assert!(repeated <= most, "{repeated} repeated, at most {most} expected");
    }
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
}
