//! Rates are kept in every window of time, and what a rate holds back waits in Kafka: on the source topic when the
//! endpoint is alone, on retry topics, written a bounded number of times, when it stands in another's way.

use std::{collections::HashMap, time::Duration};

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    config::Endpoint,
    hook::{Hook, Reply, Request},
    records::{NewRecord, Record},
};

#[tokio::test(flavor = "multi_thread")]
async fn never_more_than_burst_plus_rate_in_any_window() {
    const RATE: usize = 30;
    const BURST: usize = 10;
    const EVENTS: usize = 180;
    let rig = Rig::new("rate", 2).await;
    // Every third event fails at first: attempts count, not deliveries.
    let fails = |request: &Request| request.nth == 1 && request.body.ends_with(b"0");
    let hook = Hook::start(move |request| Reply::status(if fails(request) { 503 } else { 200 })).await;
    let endpoint = Endpoint::new("limited", &hook.url())
        .set("rate", format!("{RATE}/s"))
        .set("burst", BURST as i64)
        .set("retry.schedule", vec!["1s"; 10]);
    let records: Vec<_> =
        (0..EVENTS).map(|n| NewRecord::new(&rig.topic, format!("event {n} {}", n % 3))).collect();
    rig.cluster.produce(&records).await;
    let file = rig.config().endpoint(endpoint).write();
    let mut arauto = Arauto::run(&file.path()).await;
    hook.wait_for(EVENTS, PATIENCE).await;
    assert_eq!(arauto.stop().await, 0);

    let requests = hook.requests();
    assert_eq!(requests.len(), EVENTS + EVENTS / 3);
    for (first, early) in requests.iter().enumerate() {
        for (last, late) in requests.iter().enumerate().skip(first) {
            let seen = last - first + 1;
            // They were sent at the rate; here they are timed at their arrival. On a busy machine one that was sent
            // at the beginning of a window may be seen this much later, so that the window looks shorter.
            const LATE: Duration = Duration::from_millis(500);
            let window = late.at - early.at + LATE;
            let most = BURST as f64 + RATE as f64 * window.as_secs_f64();
            assert!(seen as f64 <= most, "{seen} within {window:?}, at most {most} expected");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_endpoint_that_is_alone_is_neither_parked_nor_held_in_memory() {
    /// 1 KiB each: a multiple of what may be grown by.
    const BACKLOG: usize = 100_000;
    const GROWTH: u64 = 24 << 20;
    let rig = Rig::new("rate-alone", 4).await;
    let hook = Hook::accepting().await;
    let endpoint = Endpoint::new("limited", &hook.url()).set("rate", "50/s").set("burst", 1);
    let config = rig
        .config()
        .set("limits.in_flight", 1_000)
        .set("limits.in_flight_bytes", "4MiB")
        .set("limits.prefetch", "256KiB")
        .endpoint(endpoint);
    let file = config.write();
    let mut arauto = Arauto::run(&file.path()).await;
    let idle = arauto.resident_bytes();
    let value = vec![b'x'; 1024];
    let records: Vec<_> = (0..BACKLOG).map(|_| NewRecord::new(&rig.topic, value.clone())).collect();
    rig.cluster.produce(&records).await;
    hook.wait_for(250, PATIENCE).await;

    let metrics = arauto.metrics().await;
    let grown = arauto.resident_bytes().saturating_sub(idle);
    assert!(grown < GROWTH, "{} MiB more than before the backlog", grown >> 20);
    assert_eq!(metrics.sum("arauto_parked_total", &[]), 0.0);
    assert!(metrics.value("arauto_throttled_total", &[("endpoint", "limited")]) > Some(100.0));
    // Waiting is nobody's trouble: a stop leaves the backlog where it is.
    assert_eq!(arauto.stop().await, 0);
    for tier in ["0s", "1s", "3s"] {
        assert_eq!(rig.cluster.read(&rig.tier(tier)).await.len(), 0, "tier {tier}");
    }
    let delivered = hook.count();
    assert!(rig.cluster.lag(&rig.group, &rig.topic).await >= (BACKLOG - delivered) as i64);
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_free_endpoint_a_throttled_record_is_written_a_handful_of_times() {
    const EVENTS: usize = 1_000;
    let rig = Rig::new("rate-beside", 2).await;
    let limited = Hook::accepting().await;
    // About two to three times as fast as the throttled one, so that reading goes on long after what was parked first
    // has come back.
    let free = Hook::start(|_| Reply::ok().after(Duration::from_millis(10))).await;
    let config = rig
        .config()
        // The default ladder and hold, five times as fast.
        .set("topics.tiers", vec!["1s", "3s", "12s"])
        .set("limits.in_flight", 200)
        .endpoint(Endpoint::new("limited", &limited.url()).set("rate", "70/s"))
        .endpoint(Endpoint::new("free", &free.url()).set("concurrency", 2));
    let records: Vec<_> = (0..EVENTS).map(|n| NewRecord::new(&rig.topic, format!("event {n}"))).collect();
    rig.cluster.produce(&records).await;
    let file = config.write();
    let mut arauto = Arauto::run(&file.path()).await;
    free.wait_for(EVENTS, PATIENCE).await;
    assert!(limited.accepted().len() < EVENTS * 2 / 3, "the free one did not wait for the throttled one");
    limited.wait_for(EVENTS, PATIENCE).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!((limited.count(), free.count()), (EVENTS, EVENTS));

    let mut writes: HashMap<String, usize> = HashMap::new();
    for tier in ["0s", "1s", "3s", "12s"] {
        let written = rig.cluster.read(&rig.tier(tier)).await;
        let of_the_limited = |record: &&Record| record.header("arauto-endpoint") == Some("limited");
        for record in written.iter().filter(of_the_limited) {
            *writes.entry(record.header("arauto-id").unwrap().to_owned()).or_default() += 1;
        }
    }
    assert!(writes.len() > EVENTS / 2, "only {} were parked", writes.len());
    let most = writes.values().max().unwrap();
    let mean = writes.values().sum::<usize>() as f64 / writes.len() as f64;
    assert!(*most <= 13 && mean <= 7.0, "written {most} times at most, {mean} on average");
}
