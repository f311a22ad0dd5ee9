//! Attempts that fail are made again, never before they are due, with the same id and the next number: whatever the
//! schedule, whatever the receiver asks for, and over restarts.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rdkafka::Timestamp;

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    config::{Config, Endpoint},
    eventually,
    hook::{Hook, Reply, Request},
    now_ms,
    records::{NewRecord, Record},
    until,
};

/// Everything here takes seconds; a starved machine may take minutes.
const LONG: Duration = Duration::from_secs(180);

/// When the brokers appended it, in unix milliseconds.
fn appended(record: &Record) -> i64 {
    match record.timestamp {
        Timestamp::LogAppendTime(ms) => ms,
        Timestamp::NotAvailable | Timestamp::CreateTime(_) => panic!("a tier stamps its records itself"),
    }
}

/// What every later attempt must have in common with the first, and what it must not.
fn check_attempts(attempts: &[Arc<Request>]) {
    for (request, number) in attempts.iter().zip(1..) {
        assert_eq!(request.header("arauto-attempt"), Some(format!("{number}").as_str()));
        assert_eq!((&request.id, &request.body), (&attempts[0].id, &attempts[0].body));
        let stamped: i64 = request.header("webhook-timestamp").unwrap().parse().unwrap();
        assert!(stamped * 1_000 <= request.at_ms, "signed at {stamped} s, sent at {} ms", request.at_ms);
    }
    for pair in attempts.windows(2) {
        let stamped = |n: usize| pair[n].header("webhook-timestamp").unwrap().parse::<i64>().unwrap();
        // Signed anew: not before the last one had arrived.
        assert!(stamped(1) >= pair[0].at_ms / 1_000, "{pair:?}");
        assert!(pair[1].at_ms - pair[0].at_ms < 1_000 || stamped(1) > stamped(0), "{pair:?}");
    }
}

/// The waits between attempts, in milliseconds.
fn waits(attempts: &[Arc<Request>]) -> Vec<i64> {
    attempts.windows(2).map(|pair| pair[1].at_ms - pair[0].at_ms).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_follow_the_schedule_and_are_never_early() {
    const EVENTS: usize = 40;
    let rig = Rig::new("schedule", 2).await;
    let hook = Hook::failing_first(3, 500).await;
    // The first wait is held in memory, the others go through tiers.
    let endpoint = Endpoint::new("crm", &hook.url())
        .set("retry.schedule", vec!["500ms", "1200ms", "3s"])
        .set("retry.jitter", 0.2);
    let config = rig.config().endpoint(endpoint).write();
    let records: Vec<_> = (0..EVENTS).map(|n| NewRecord::new(&rig.topic, format!("event {n}"))).collect();
    rig.cluster.produce(&records).await;
    let mut arauto = Arauto::run(&config.path()).await;
    hook.wait_for(EVENTS, LONG).await;
    let retries = arauto.metrics().await.sum("arauto_retries_total", &[("endpoint", "crm")]);
    assert_eq!(arauto.stop().await, 0);

    assert_eq!((hook.count(), retries), (4 * EVENTS, 3.0 * EVENTS as f64));
    for id in hook.accepted() {
        let attempts = hook.requests_of(&id);
        check_attempts(&attempts);
        let waits = waits(&attempts);
        assert!(waits[0] >= 500 && waits[1] >= 1_200 && waits[2] >= 3_000, "early: {waits:?}");
    }
}

/// What the records of a tier say is exact, so it can be held against the schedule without regard to how busy the
/// machine is: due at least the step after the attempt arrived, at most 20 % more after it was written down.
#[tokio::test(flavor = "multi_thread")]
async fn jitter_only_lengthens_and_by_a_fifth_at_most() {
    const EVENTS: usize = 200;
    const STEP: i64 = 3_500;
    let rig = Rig::new("jitter", 2).await;
    let hook = Hook::failing_first(1, 500).await;
    let endpoint =
        Endpoint::new("crm", &hook.url()).set("retry.schedule", vec!["3500ms"]).set("retry.jitter", 0.2);
    let config = rig.config().endpoint(endpoint).write();
    let records: Vec<_> = (0..EVENTS).map(|n| NewRecord::new(&rig.topic, format!("event {n}"))).collect();
    rig.cluster.produce(&records).await;
    let mut arauto = Arauto::run(&config.path()).await;
    hook.wait_for(EVENTS, LONG).await;
    assert_eq!(arauto.stop().await, 0);

    let parked = rig.cluster.read(&rig.tier("3s")).await;
    assert_eq!(parked.len(), EVENTS);
    let mut extra = Vec::new();
    for record in &parked {
        let attempts = hook.requests_of(record.header("arauto-id").unwrap());
        let due = record.number("arauto-due");
        assert!(due >= attempts[0].at_ms + STEP, "too early: {record:?}");
        assert!(due <= appended(record) + STEP + STEP / 5, "too late: {record:?}");
        assert!(attempts[1].at_ms >= due, "sent before it was due: {record:?}");
        assert_eq!(
            (record.header("arauto-reason"), record.header("arauto-status")),
            (Some("status"), Some("500"))
        );
        assert_eq!((record.number("arauto-attempts"), record.key.as_deref()), (1, Some(&b"crm"[..])));
        extra.push(due - attempts[0].at_ms - STEP);
    }
    // Drawn anew for each delivery: 200 of them do not all fall into a tenth of the range.
    let spread = extra.iter().max().unwrap() - extra.iter().min().unwrap();
    assert!(spread > STEP / 5 / 10, "{extra:?}");
}

/// One event, answered as `script` says at first and then accepted; its attempts and all tier records.
async fn one_event(
    name: &str,
    endpoint: impl FnOnce(Endpoint) -> Endpoint,
    config: impl FnOnce(Config) -> Config,
    tiers: &[&str],
    script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> (Vec<Arc<Request>>, BTreeMap<String, Vec<Record>>) {
    let rig = Rig::new(name, 1).await;
    let hook = Hook::start(script).await;
    let endpoint = endpoint(Endpoint::new("crm", &hook.url()).set("retry.jitter", 0.0));
    let config = config(rig.config().set("topics.tiers", tiers.to_vec())).endpoint(endpoint).write();
    rig.cluster.produce(&[NewRecord::new(&rig.topic, "event").key("key").header("kept", [0, 255])]).await;
    let mut arauto = Arauto::run(&config.path()).await;
    hook.wait_for(1, LONG).await;
    assert_eq!(arauto.stop().await, 0);
    let attempts = hook.requests();
    check_attempts(&attempts);
    let mut records = BTreeMap::new();
    for tier in tiers {
        let read = rig.cluster.read(&rig.tier(tier)).await;
        for record in &read {
            assert_eq!(
                (record.key.as_deref(), record.header("arauto-key")),
                (Some(&b"crm"[..]), Some("key"))
            );
            assert_eq!(record.original_headers(), [("kept".to_owned(), Some(vec![0, 255]))]);
        }
        records.insert((*tier).to_owned(), read);
    }
    (attempts, records)
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_in_seconds_is_obeyed_and_not_charged_for_429_and_503() {
    for status in [429, 503] {
        // Nothing in the schedule: if one of the three were charged, it would be dead.
        let (attempts, _) = one_event(
            "retry-after",
            |endpoint| endpoint.set("retry.schedule", Vec::<String>::new()),
            |config| config,
            &["1s", "3s"],
            move |request| match request.nth {
                1..=3 => Reply::status(status).header("retry-after", "2"),
                _ => Reply::ok(),
            },
        )
        .await;
        assert_eq!(attempts.len(), 4);
        let waits = waits(&attempts);
        assert!(waits.iter().all(|wait| *wait >= 2_000), "{status}: {waits:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_as_a_date_is_obeyed() {
    let in_seconds = |seconds: u64| SystemTime::now() + Duration::from_secs(seconds);
    let (attempts, records) = one_event(
        "retry-date",
        |endpoint| endpoint.set("retry.schedule", vec!["1s"]),
        |config| config,
        &["1s", "3s"],
        move |request| match request.nth {
            1 => {
                Reply::status(500).header("retry-after", &httpdate::fmt_http_date(in_seconds(5))).body("date")
            }
            _ => Reply::ok(),
        },
    )
    .await;
    // The date has no fractions, so the fifth second after the first attempt's own began.
    let date = (attempts[0].at_ms / 1_000 + 5) * 1_000;
    assert!(attempts[1].at_ms >= date, "{} is before {date}", attempts[1].at_ms);
    let due = records["3s"][0].number("arauto-due");
    assert!(attempts[1].at_ms >= due && due >= date, "{date} {due} {}", attempts[1].at_ms);
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_charged_for_other_statuses() {
    let rig = Rig::new("charged", 1).await;
    let hook = Hook::start(|_| Reply::status(500).header("retry-after", "1")).await;
    let endpoint = Endpoint::new("crm", &hook.url()).set("retry.schedule", vec!["100ms"]);
    let config = rig.config().endpoint(endpoint).write();
    rig.cluster.produce(&[NewRecord::new(&rig.topic, "event")]).await;
    let mut arauto = Arauto::run(&config.path()).await;
    let dead = eventually(LONG, "a dead letter", async || rig.cluster.read(&rig.dead()).await.pop()).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(dead.header("arauto-reason"), Some("exhausted"));
    assert_eq!((dead.number("arauto-attempts"), hook.count()), (2, 2));
    let requests = hook.requests();
    assert!(waits(&requests)[0] >= 1_000, "{:?}", waits(&requests));
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_obeyed_no_longer_than_max_pause() {
    let (attempts, records) = one_event(
        "max-pause",
        |endpoint| endpoint.set("retry.schedule", Vec::<String>::new()).set("retry.max_pause", "2s"),
        |config| config,
        &["1s", "3s"],
        |request| match request.nth {
            1 => Reply::status(429).header("retry-after", "86400"),
            _ => Reply::ok(),
        },
    )
    .await;
    assert!(waits(&attempts)[0] >= 2_000, "{:?}", waits(&attempts));
    let record = &records["1s"][0];
    assert!(record.number("arauto-due") <= appended(record) + 2_000, "{record:?}");
}

/// A wait that no tier has is composed: longest tier first, the rest in memory; the due time stays the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_matches_no_tier_is_composed_of_tiers() {
    for (tiers, wait, hops) in [
        (&["1s", "2s", "4s"][..], 8_000, [("4s", 1..=1), ("2s", 0..=1), ("1s", 0..=2)]),
        (&["1s", "2s", "4s"], 2_700, [("4s", 0..=0), ("2s", 1..=1), ("1s", 0..=0)]),
        (&["1s", "2s", "4s"], 1_500, [("4s", 0..=0), ("2s", 0..=0), ("1s", 1..=1)]),
    ] {
        let (attempts, records) = one_event(
            "composed",
            |endpoint| endpoint.set("retry.schedule", vec![format!("{wait}ms")]),
            |config| config.set("limits.hold", "1s"),
            tiers,
            |request| if request.nth == 1 { Reply::status(502) } else { Reply::ok() },
        )
        .await;
        assert_eq!(attempts.len(), 2);
        let first = &records[hops.iter().find(|(_, hops)| *hops.start() == 1).unwrap().0][0];
        let due = first.number("arauto-due");
        assert!(due >= attempts[0].at_ms + wait && due <= appended(first) + wait, "{first:?}");
        assert!(attempts[1].at_ms >= due, "{} is before {due}", attempts[1].at_ms);
        for (tier, expected) in hops {
            let records = &records[tier];
            assert!(expected.contains(&records.len()), "{wait} ms: {} records on {tier}", records.len());
            for record in records {
                assert_eq!((record.number("arauto-due"), record.number("arauto-attempts")), (due, 1));
                assert_eq!(record.header("arauto-reason"), Some("status"));
            }
        }
    }
}

async fn restart_while_parked(kill: bool) {
    let rig = Rig::new("restart", 1).await;
    let hook = Hook::failing_first(1, 500).await;
    let endpoint =
        Endpoint::new("crm", &hook.url()).set("retry.schedule", vec!["7s"]).set("retry.jitter", 0.0);
    let config = rig.config().endpoint(endpoint).write();
    rig.cluster.produce(&[NewRecord::new(&rig.topic, "event")]).await;
    let mut arauto = Arauto::run(&config.path()).await;
    let parked =
        eventually(LONG, "a parked delivery", async || rig.cluster.read(&rig.tier("3s")).await.pop()).await;
    until(PATIENCE, "the event to be committed", async || rig.cluster.lag(&rig.group, &rig.topic).await == 0)
        .await;
    let was_due = now_ms() >= parked.number("arauto-due");
    if kill {
        arauto.kill().await;
    } else {
        assert_eq!(arauto.stop().await, 0);
    }
    let mut arauto = Arauto::run(&config.path()).await;
    hook.wait_for(1, LONG).await;
    assert_eq!(arauto.stop().await, 0);
    let attempts = hook.requests();
    check_attempts(&attempts);
    assert!(was_due || attempts.len() == 2, "{attempts:?}");
    let due = parked.number("arauto-due");
    assert!(attempts[1].at_ms >= due, "{} is before {due}", attempts[1].at_ms);
    for record in rig.cluster.read(&rig.tier("3s")).await {
        assert_eq!((record.number("arauto-due"), record.number("arauto-attempts")), (due, 1));
    }
    assert_eq!(rig.cluster.lag(&rig.group, &rig.tier("3s")).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_delivery_survives_kill_9() {
    restart_while_parked(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_delivery_survives_sigterm() {
    restart_while_parked(false).await;
}
