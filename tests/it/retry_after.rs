//! `Retry-After` pauses the whole lane until then, in both of its forms, no longer than `retry.max_pause`; 429 and 503
//! with it are not charged, and no other endpoint notices.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    config::Endpoint,
    hook::{Hook, Reply, Request},
    now_ms,
    records::NewRecord,
};

const EVENTS: usize = 60;
/// Deliveries before the receiver asks for a pause.
const BEFORE: usize = 20;

/// A receiver that asks for a pause when it has had some, once.
async fn pausing(pause: impl Fn() -> Reply + Send + Sync + 'static) -> Hook {
    let before = std::sync::atomic::AtomicUsize::new(0);
    Hook::start(move |_| {
        match before.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            BEFORE => pause(),
            // Slower than the pause takes to be understood.
            _ => Reply::ok().after(Duration::from_millis(5)),
        }
    })
    .await
}

fn date(seconds: u64) -> String {
    httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(seconds))
}

/// When the pause was asked for, and the requests that came more than a moment later: what was under way or on its
/// way just then is not meant.
fn around(hook: &Hook) -> (i64, Vec<Arc<Request>>) {
    let requests = hook.requests();
    let asked = requests.iter().find(|request| !request.accepted()).expect("it asked for a pause").at_ms;
    let later = requests.into_iter().filter(|request| request.at_ms > asked + 1_500).collect();
    (asked, later)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lane_pauses_as_long_as_it_is_asked_to_and_nobody_else_does() {
    let rig = Rig::new("retry-after", 2).await;
    let seconds = pausing(|| Reply::status(429).header("retry-after", "6")).await;
    let dated = pausing(|| Reply::status(503).header("retry-after", &date(7))).await;
    let capped = pausing(|| Reply::status(429).header("retry-after", "86400")).await;
    let free = Hook::accepting().await;
    // A schedule without a step: one that was charged would be dead.
    let endpoint = |id: &str, hook: &Hook| {
        Endpoint::new(id, &hook.url()).set("retry.schedule", Vec::<String>::new()).set("concurrency", 4)
    };
    let file = rig
        .config()
        .endpoint(endpoint("seconds", &seconds))
        .endpoint(endpoint("dated", &dated))
        .endpoint(endpoint("capped", &capped).set("retry.max_pause", "4s"))
        .endpoint(endpoint("free", &free))
        .write();
    let mut arauto = Arauto::run(&file.path()).await;
    let records: Vec<_> = (0..EVENTS).map(|n| NewRecord::new(&rig.topic, format!("event {n}"))).collect();
    rig.cluster.produce(&records).await;
    free.wait_for(EVENTS, PATIENCE).await;
    let free_at = now_ms();
    for hook in [&seconds, &dated, &capped] {
        hook.wait_for(EVENTS, PATIENCE).await;
    }
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(rig.cluster.read(&rig.dead()).await.len(), 0);

    // The date has no fractions: it lies up to a second before the seventh one.
    for (name, hook, least) in
        [("seconds", &seconds, 6_000), ("dated", &dated, 6_000), ("capped", &capped, 4_000)]
    {
        assert_eq!(hook.count(), EVENTS + 1, "{name}: one was refused");
        let (asked, later) = around(hook);
        assert!(later.len() > EVENTS / 4, "{name}: {} came later", later.len());
        let early: Vec<_> = later.iter().filter(|request| request.at_ms < asked + least).collect();
        assert!(early.is_empty(), "{name}: asked at {asked}, {early:?}");
        assert!(free_at < asked + least, "{name}: the free one waited");
    }
}
