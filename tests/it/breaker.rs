//! The breaker: a share of failures opens it, single real deliveries probe ever more seldom while the endpoint is
//! dead, a run of successes closes it and the lane speeds up from one. What waits meanwhile is charged nothing and
//! written as often as its schedule has steps, however many probes there are.

use std::{collections::HashMap, time::Duration};

use rdkafka::Timestamp;
use tokio::time::Instant;

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    config::Endpoint,
    hook::{Hook, Reply, vacant},
    metrics::Metrics,
    records::{NewRecord, Record},
};

/// Everything here takes seconds; a starved machine may take minutes.
const LONG: Duration = Duration::from_secs(120);
/// A schedule in milliseconds: each step a little longer than a tier, so that it is one write and a wait in memory.
const STEPS: [i64; 4] = [1_500, 4_000, 10_000, 10_000];
const CLOSED: i64 = 0;
const OPEN: i64 = 2;

fn state(metrics: &Metrics, endpoint: &str) -> i64 {
    metrics.value("arauto_breaker_state", &[("endpoint", endpoint)]).unwrap_or(-1.0) as i64
}

async fn produce(rig: &Rig, events: usize) {
    let records: Vec<_> = (0..events).map(|n| NewRecord::new(&rig.topic, format!("event {n}"))).collect();
    rig.cluster.produce(&records).await;
}

/// How many requests were under way when each came, itself included; each took this long.
fn at_once(arrivals: &[Instant], takes: Duration) -> Vec<usize> {
    let under_way = |(nth, at): (usize, &Instant)| {
        arrivals[..=nth].iter().filter(|earlier| at.duration_since(**earlier) < takes).count()
    };
    arrivals.iter().enumerate().map(under_way).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_opens_probes_ever_more_seldom_closes_and_speeds_up() {
    const EVENTS: usize = 200;
    const FINE: usize = 40;
    const TAKES: Duration = Duration::from_millis(200);
    /// Shorter than the shortest pause, longer than anything an attempt needs.
    const PAUSE: Duration = Duration::from_millis(900);
    let rig = Rig::new("breaker", 1).await;
    // A fifth fails, which is too little.
    let hook = Hook::start(|request| {
        let fails = request.nth == 1 && (request.body.ends_with(b"3") || request.body.ends_with(b"7"));
        Reply::status(if fails { 500 } else { 200 })
    })
    .await;
    let endpoint = Endpoint::new("crm", &hook.url())
        .set("breaker.failures", 0.5)
        .set("breaker.minimum", 10)
        .set("breaker.open_for", "1s")
        .set("breaker.max_open", "3s")
        .set("retry.schedule", vec!["1s"; 60]);
    let file = rig.config().endpoint(endpoint).write();
    let mut arauto = Arauto::run(&file.path()).await;
    produce(&rig, FINE).await;
    hook.wait_for(FINE, PATIENCE).await;
    assert_eq!(state(&arauto.metrics().await, "crm"), CLOSED);

    hook.script(|_| Reply::status(500));
    let down = hook.count();
    produce(&rig, EVENTS).await;
    arauto.wait_for_metrics("the breaker to open", |metrics| state(metrics, "crm") == OPEN).await;
    let opened = hook.count() - down;
    // Enough to see four probes: pauses of 1, 2, 3 and 3 seconds.
    let gaps = |requests: &[Instant]| -> Vec<Duration> {
        let gaps: Vec<_> = requests.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let first = gaps.iter().position(|gap| *gap >= PAUSE).unwrap_or(gaps.len());
        gaps[first..].to_vec()
    };
    let arrivals = |from: usize| -> Vec<Instant> { hook.requests()[from..].iter().map(|r| r.at).collect() };
    hook.wait_for_requests(down + opened + 4, LONG).await;
    let pauses = gaps(&arrivals(down));
    // They are pauses between the end of one attempt and the next; both ends are seen a little late.
    for (pause, at_least) in pauses.iter().zip([900, 1_900, 2_900, 2_900]) {
        assert!(*pause >= Duration::from_millis(at_least), "{pauses:?}");
    }
    assert!(pauses.len() >= 3, "nothing else was sent: {pauses:?}");

    hook.script(|_| Reply::ok().after(TAKES));
    let up = hook.count();
    hook.wait_for(FINE + EVENTS, LONG).await;
    assert_eq!(state(&arauto.metrics().await, "crm"), CLOSED);
    let at_once = at_once(&arrivals(up), TAKES);
    assert_eq!(at_once[..3], [1; 3], "probes go one at a time");
    assert!(*at_once[..12].iter().max().unwrap() <= 8, "it goes on slowly: {at_once:?}");
    assert!(*at_once.iter().max().unwrap() >= 16, "and becomes faster: {at_once:?}");
    assert_eq!(rig.cluster.read(&rig.dead()).await.len(), 0);
    assert_eq!(arauto.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoints_backlog_is_written_by_its_schedule_and_charged_nothing() {
    const EVENTS: usize = 2_000;
    const PROBES: usize = 9;
    let rig = Rig::new("breaker-backlog", 1).await;
    let (address, healthy) = (vacant().await, Hook::accepting().await);
    let dead = Endpoint::new("dead", &format!("http://{address}/"))
        .set("timeout", "1s")
        .set("breaker.minimum", 5)
        .set("breaker.open_for", "1s")
        .set("breaker.max_open", "1s")
        .set("retry.schedule", STEPS.map(|step| format!("{step}ms")).to_vec())
        .set("retry.jitter", 0.0);
    let config = rig
        .config()
        .set("topics.tiers", vec!["1s", "3s", "9s"])
        .set("limits.in_flight", 200)
        .endpoint(dead)
        .endpoint(Endpoint::new("healthy", &healthy.url()));
    produce(&rig, EVENTS).await;
    let file = config.write();
    let mut arauto = Arauto::run(&file.path()).await;
    let probed = |metrics: &Metrics| metrics.sum("arauto_attempts_total", &[("endpoint", "dead")]) as usize;
    arauto.wait_for_metrics("many probes", |metrics| probed(metrics) >= 5 + PROBES).await;
    let metrics = arauto.metrics().await;
    healthy.wait_for(EVENTS, LONG).await;

    let mut written: HashMap<String, Vec<Record>> = HashMap::new();
    for tier in ["0s", "1s", "3s", "9s"] {
        for record in rig.cluster.read(&rig.tier(tier)).await {
            assert_eq!(record.header("arauto-endpoint"), Some("dead"));
            written.entry(record.header("arauto-id").unwrap().to_owned()).or_default().push(record);
        }
    }
    assert!(written.len() > EVENTS / 2, "only {} were parked", written.len());
    // Those that were read when it was open already, and never attempted.
    written
        .retain(|_, records| records.iter().all(|record| record.header("arauto-reason") == Some("breaker")));
    assert!(written.len() > EVENTS / 10, "only {} were parked by the breaker alone", written.len());
    for records in written.values_mut() {
        records.sort_by_key(appended);
        assert!(records.iter().all(|record| record.header("arauto-attempts") == Some("0")));
        let (first, last) = (appended(&records[0]), appended(&records[records.len() - 1]));
        let allowed = 1 + steps_within(last - first);
        assert!(records.len() <= allowed, "{} writes in {} ms", records.len(), last - first);
    }
    let most = written.values().map(Vec::len).max().unwrap();
    assert!(most < PROBES / 2, "{most} writes during {} attempts", probed(&metrics));
    let parked = metrics.sum("arauto_parked_total", &[("endpoint", "dead"), ("reason", "breaker")]);
    assert!(parked > 0.0 && metrics.sum("arauto_parked_total", &[("endpoint", "healthy")]) < 1.0);

    let back = Hook::start_at(address, |_| Reply::ok()).await;
    back.wait_for(EVENTS, LONG).await;
    assert_eq!(rig.cluster.read(&rig.dead()).await.len(), 0, "parking is not charged");
    // Five opened it, the probes were single ones; nobody else was attempted in vain.
    let metrics = arauto.metrics().await;
    let failed = metrics.sum("arauto_attempts_total", &[("endpoint", "dead"), ("result", "connect")]);
    let before = |attempt: &str| attempt.parse::<f64>().unwrap() - 1.0;
    let requests = back.requests();
    let charged: f64 = requests.iter().map(|request| before(request.header("arauto-attempt").unwrap())).sum();
    assert!((failed - charged).abs() < 0.5, "{failed} failed attempts, {charged} counted by the deliveries");
    assert_eq!(arauto.stop().await, 0);
}

/// How many steps of the schedule can have passed. The last second of each is a wait in memory, which one that finds
/// the breaker open does not spend there.
fn steps_within(ms: i64) -> usize {
    let mut due = 0;
    let steps = STEPS.iter().chain(std::iter::repeat(&STEPS[3]));
    let passed = steps.take_while(|step| {
        due += **step - 1_000;
        due <= ms + 100
    });
    passed.count()
}

fn appended(record: &Record) -> i64 {
    match record.timestamp {
        Timestamp::LogAppendTime(at) => at,
        Timestamp::CreateTime(_) | Timestamp::NotAvailable => panic!("no append time: {record:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_does_not_hammer_a_dead_endpoint() {
    const EVENTS: usize = 300;
    let rig = Rig::new("breaker-restart", 2).await;
    let takes = Duration::from_millis(100);
    let hook = Hook::start(move |_| Reply::status(503).after(takes)).await;
    let endpoint = Endpoint::new("crm", &hook.url())
        .set("breaker.minimum", 4)
        .set("breaker.open_for", "1s")
        .set("breaker.max_open", "2s")
        .set("retry.schedule", vec!["1s"; 60]);
    produce(&rig, EVENTS).await;
    let file = rig.config().endpoint(endpoint).write();
    for _ in 0..2 {
        let mut arauto = Arauto::run(&file.path()).await;
        arauto.wait_for_metrics("the breaker to open", |metrics| state(metrics, "crm") == OPEN).await;
        arauto.kill().await;
    }
    assert_eq!(hook.most_at_once(), 1);
    // With the receiver back it speeds up.
    hook.script(move |_| Reply::ok().after(takes));
    let _arauto = Arauto::run(&file.path()).await;
    hook.wait_for(EVENTS, LONG).await;
    assert!(hook.most_at_once() >= 8);
}
