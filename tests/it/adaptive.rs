//! How many attempts are in flight follows what the receiver can take: no more than it works on and a few that queue,
//! all there may be when nothing queues, and up again after trouble.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    config::Endpoint,
    eventually,
    hook::{Hook, Reply},
    metrics::Metrics,
    records::NewRecord,
};

async fn produce(rig: &Rig, events: usize) {
    let records: Vec<_> = (0..events).map(|n| NewRecord::new(&rig.topic, format!("event {n}"))).collect();
    rig.cluster.produce(&records).await;
}

fn limit(metrics: &Metrics) -> f64 {
    metrics.value("arauto_lane_concurrency_limit", &[("endpoint", "crm")]).unwrap_or_default()
}

/// A receiver's workers, each busy until then, and a queue before them.
struct Workers(Mutex<Vec<Instant>>);

impl Workers {
    fn new(count: usize) -> Self {
        Self(Mutex::new(vec![Instant::now(); count]))
    }

    /// The time until a request that comes now is answered.
    fn work(&self, takes: Duration) -> Duration {
        let (mut workers, now) = (self.0.lock().unwrap(), Instant::now());
        let first = workers.iter_mut().min().expect("there are workers");
        *first = now.max(*first) + takes;
        *first - now
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_with_eight_workers_is_driven_at_about_eight() {
    /// With 64 at once each would be answered after 2.4 s.
    const TAKES: Duration = Duration::from_millis(300);
    const TIMEOUT: &str = "2s";
    /// Many round trips.
    const CONVERGED: usize = 150;
    const EVENTS: usize = 400;
    let rig = Rig::new("adaptive-workers", 1).await;
    let workers = Workers::new(8);
    let hook = Hook::start(move |_| Reply::ok().after(workers.work(TAKES))).await;
    produce(&rig, EVENTS).await;
    let endpoint = Endpoint::new("crm", &hook.url()).set("timeout", TIMEOUT).set("concurrency", 64);
    let file = rig.config().endpoint(endpoint).write();
    let arauto = Arauto::run(&file.path()).await;

    hook.wait_for(CONVERGED, PATIENCE).await;
    let mut seen = Vec::new();
    eventually(PATIENCE, "almost all of the events", async || {
        seen.push(limit(&arauto.metrics().await));
        (hook.accepted().len() >= EVENTS - 20).then_some(())
    })
    .await;
    assert!(seen.iter().all(|limit| (6.0..=12.0).contains(limit)), "{seen:?}");
    hook.wait_for(EVENTS, PATIENCE).await;
    // Not even while it was finding out.
    assert_eq!(arauto.metrics().await.sum("arauto_attempts_total", &[("result", "timeout")]), 0.0);
    assert_eq!(hook.count(), EVENTS);
    assert!((8..=20).contains(&hook.most_at_once()), "{} at once", hook.most_at_once());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_takes_all_gets_all_there_may_be_and_no_more() {
    const MOST: usize = 24;
    let rig = Rig::new("adaptive-all", 1).await;
    let hook = Hook::start(|_| Reply::ok().after(Duration::from_millis(200))).await;
    produce(&rig, 1_000).await;
    let endpoint = Endpoint::new("crm", &hook.url()).set("concurrency", MOST as i64);
    let file = rig.config().endpoint(endpoint).write();
    let arauto = Arauto::run(&file.path()).await;
    let most = format!("{MOST} at once");
    arauto.wait_for_metrics(&most, |metrics| limit(metrics) as usize == MOST).await;
    hook.wait_for(1_000, PATIENCE).await;
    assert_eq!(hook.most_at_once(), MOST);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_trouble_it_goes_up_again() {
    let rig = Rig::new("adaptive-again", 1).await;
    let trouble = Arc::new(AtomicBool::new(false));
    let troubled = Arc::clone(&trouble);
    let hook = Hook::start(move |_| {
        let status = if troubled.load(Ordering::Relaxed) { 503 } else { 200 };
        Reply::status(status).after(Duration::from_millis(50))
    })
    .await;
    produce(&rig, 3_000).await;
    let endpoint =
        Endpoint::new("crm", &hook.url()).set("concurrency", 16).set("retry.schedule", vec!["1s"; 200]);
    let file = rig.config().endpoint(endpoint).write();
    let arauto = Arauto::run(&file.path()).await;
    for (down, reached) in [(false, 16.0), (true, 1.0), (false, 16.0)] {
        trouble.store(down, Ordering::Relaxed);
        let what = format!("a limit of {reached}");
        arauto.wait_for_metrics(&what, |metrics| (limit(metrics) - reached).abs() < 0.5).await;
    }
}
