//! Guarantee 4 with many at once: of 200 endpoints 150 are dead, and the other 50 keep their pace.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;

use crate::support::{
    Rig,
    arauto::Arauto,
    config::{Config, Endpoint},
    hook::{Hook, Reply, vacant},
    records::NewRecord,
};

const LONG: Duration = Duration::from_secs(180);
const HEALTHY: usize = 50;
const DEAD: usize = 150;
/// Events for each endpoint alone, and events for all of them.
const EACH: usize = 20;
const ALL: usize = 20;

/// How long the healthy ones need for everything, in the company of so many dead ones.
async fn takes(rig: &Rig, company: usize) -> Duration {
    let (healthy, silent, refusing) =
        (Hook::accepting().await, Hook::start(|_| Reply::never()).await, vacant().await);
    let mut config: Config = rig
        .config()
        .set("kafka.group", format!("{}-{company}", rig.group))
        .set("topics.prefix", format!("{}-{company}", rig.prefix))
        .without("topics.tiers")
        .without("limits.hold")
        .set("limits.in_flight", 1_000)
        .set("limits.drain", "30s")
        .set("log.level", "info,arauto::pipeline::source=debug")
        .set("defaults.breaker.minimum", 5);
    // The dead ones come last: whoever is to be seen to have room was fed long before them.
    for n in 0..HEALTHY + company {
        let url = match n {
            n if n < HEALTHY => format!("{}/{n}", healthy.url()),
            n if n % 2 == 0 => format!("{}/{n}", silent.url()),
            _ => format!("http://{refusing}/{n}"),
        };
        let id = format!("endpoint-{n}");
        let endpoint = Endpoint::new(&id, &url).set("types", vec![id.as_str(), "all"]).set("timeout", "30s");
        config = config.endpoint(endpoint);
    }
    let file = config.write();
    let begun = Instant::now();
    let mut arauto = Arauto::run(&file.path()).await;
    let expected = HEALTHY * (EACH + ALL);
    healthy.wait_for_requests(expected, LONG).await;
    let took = begun.elapsed();
    let stops = arauto.log().iter().filter(|line| line.to_string().contains("intake stops")).count();
    let metrics = arauto.metrics().await;
    let parked = metrics.sum("arauto_parked_total", &[]);
    eprintln!(
        "beside {company} dead ones {expected} deliveries in {took:?}, {parked} parked, {stops} stops of intake"
    );
    arauto.kill().await;
    let requests = healthy.requests();
    let distinct: HashSet<_> = requests.iter().map(|request| (request.uri.path(), &request.id)).collect();
    assert_eq!((requests.len(), distinct.len()), (expected, expected), "each event once for each endpoint");
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_keep_their_pace_beside_a_hundred_and_fifty_dead_ones() {
    let rig = Rig::new("blocked-many", 2).await;
    // In no order, so that the dead ones' events are everywhere between the others.
    let of = |n: usize| {
        if n < EACH * (HEALTHY + DEAD) { format!("endpoint-{}", n / EACH) } else { "all".to_owned() }
    };
    let mut order: Vec<usize> = (0..EACH * (HEALTHY + DEAD) + ALL).collect();
    order.sort_by_key(|n| (*n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let record = |n: usize| NewRecord::new(&rig.topic, format!("event {n}")).header("ce_type", of(n));
    let records: Vec<_> = order.into_iter().map(|n| record(n).partition((n % 2) as i32)).collect();
    rig.cluster.produce(&records).await;
    let alone = takes(&rig, 0).await;
    let beside = takes(&rig, DEAD).await;
    // What the dead ones' events cost to be parked is on the same two cores; a stopped partition would wait for 30 s.
    assert!(beside < alone * 4 + Duration::from_secs(25), "{beside:?} instead of {alone:?}");
}
