//! Rates are kept in every window of time. What a rate holds back is the matter of `backpressure.rs`.

use std::time::Duration;

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    config::Endpoint,
    hook::{Hook, Reply, Request},
    records::NewRecord,
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
