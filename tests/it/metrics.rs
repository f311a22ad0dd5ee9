//! `/metrics` is a contract: names, types and labels are fixed, and the books balance.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    config::Endpoint,
    hook::{Hook, Reply},
    metrics::Metrics,
    now_ms,
    records::NewRecord,
    until,
};

/// Copied from the contract, without `arauto_certificate_expiry_seconds`, which only an https endpoint has (`notices`),
/// and `arauto_own_queue_lag`, which only one with a queue of its own has (`prometheus`).
const CONTRACT: &[(&str, &str, &[&str])] = &[
    ("arauto_assigned_partitions", "gauge", &["topic"]),
    ("arauto_attempt_duration_seconds", "histogram", &["endpoint"]),
    ("arauto_attempt_log_dropped_total", "counter", &[]),
    ("arauto_attempts_total", "counter", &["endpoint", "result"]),
    ("arauto_breaker_state", "gauge", &["endpoint"]),
    ("arauto_broker_requests_waiting", "gauge", &["broker", "client"]),
    ("arauto_broker_round_trip_seconds", "gauge", &["broker", "client"]),
    ("arauto_build_info", "gauge", &["revision", "version"]),
    ("arauto_clock_skew_seconds", "gauge", &[]),
    ("arauto_commits_total", "counter", &["result"]),
    ("arauto_config_last_reload_success", "gauge", &[]),
    ("arauto_config_reloads_total", "counter", &["result"]),
    ("arauto_dead_total", "counter", &["endpoint", "reason"]),
    ("arauto_deliveries_opened_total", "counter", &["endpoint", "from"]),
    ("arauto_deliveries_total", "counter", &["endpoint", "outcome"]),
    ("arauto_delivery_latency_seconds", "histogram", &["endpoint"]),
    ("arauto_endpoint_disabled", "gauge", &["endpoint", "reason"]),
    ("arauto_endpoint_enabled", "gauge", &["endpoint"]),
    ("arauto_endpoints", "gauge", &[]),
    ("arauto_events_lost_total", "counter", &["topic"]),
    ("arauto_events_total", "counter", &["topic"]),
    ("arauto_events_unmatched_total", "counter", &["reason", "topic"]),
    ("arauto_in_flight", "gauge", &[]),
    ("arauto_in_flight_bytes", "gauge", &[]),
    ("arauto_lane_concurrency_limit", "gauge", &["endpoint"]),
    ("arauto_lane_in_flight", "gauge", &["endpoint"]),
    ("arauto_lane_queued", "gauge", &["endpoint"]),
    ("arauto_lane_waiting", "gauge", &["endpoint"]),
    ("arauto_notices_total", "counter", &["kind", "result"]),
    ("arauto_parked_total", "counter", &["endpoint", "reason"]),
    ("arauto_partition_lag", "gauge", &["partition", "topic"]),
    ("arauto_partition_oldest_unsettled_seconds", "gauge", &["partition", "topic"]),
    ("arauto_partition_resets_total", "counter", &["reason"]),
    ("arauto_produce_pending", "gauge", &[]),
    ("arauto_produced_total", "counter", &["result", "topic"]),
    ("arauto_rebalances_total", "counter", &["kind"]),
    ("arauto_retries_total", "counter", &["endpoint", "reason"]),
    ("arauto_spans_dropped_total", "counter", &[]),
    ("arauto_stalled", "gauge", &[]),
    ("arauto_throttled_total", "counter", &["endpoint"]),
    ("arauto_tickets_lost_total", "counter", &[]),
    ("arauto_window_used_ratio", "gauge", &[]),
];

/// The tier that is longer than any test.
const LONG_TIER: &str = "1h";

/// Endpoints whose deliveries end in every way, or do not end.
struct Fates {
    hook: Hook,
    silent: Hook,
}

impl Fates {
    /// How many events each of them gets.
    const EVENTS: usize = 120;
    /// How many of them go to the one that never answers, and to the one that is gone.
    const FEW: usize = 10;

    async fn new() -> Self {
        let hook = Hook::start(|request| match request.uri.path() {
            "/refused" => Reply::status(404),
            "/later" => Reply::status(503),
            "/flaky" if request.nth == 1 => Reply::status(503),
            "/gone" => Reply::status(410),
            _ => Reply::ok(),
        })
        .await;
        Self { hook, silent: Hook::start(|_| Reply::never()).await }
    }

    fn config(&self, rig: &Rig) -> crate::support::config::Config {
        let at = |path: &str| format!("http://{}/{path}", self.hook.address());
        rig.config()
            .set("on_removed", "drop")
            .set("topics.tiers", vec!["1s", LONG_TIER])
            // Small enough that the throttled one stands in the others' way.
            .set("limits.in_flight", 100)
            .endpoint(Endpoint::new("good", &at("good")))
            .endpoint(Endpoint::new("flaky", &at("flaky")).set("retry.schedule", vec!["1s"]))
            .endpoint(Endpoint::new("refused", &at("refused")).set("retry.dead_on", vec!["4xx"]))
            .endpoint(Endpoint::new("later", &at("later")).set("retry.schedule", vec![LONG_TIER]))
            .endpoint(Endpoint::new("throttled", &at("throttled")).set("rate", "30/s").set("burst", 1))
            .endpoint(Endpoint::new("gone", &at("gone")).set("types", ["s"].to_vec()))
            .endpoint(
                Endpoint::new("silent", &self.silent.url())
                    .set("concurrency", 4)
                    // Longer than the test: its first attempt is to be under way to the end.
                    .set("timeout", "10m")
                    .set("types", ["s"].to_vec()),
            )
    }

    /// For all of them; and as many as fit its lane for the one that never answers.
    async fn produce(rig: &Rig) {
        let for_silent = |n: usize| if n < Self::FEW { "s" } else { "x" };
        let records: Vec<_> = (0..Self::EVENTS)
            .map(|n| NewRecord::new(&rig.topic, format!("{n}")).header("ce_type", for_silent(n)))
            .collect();
        rig.cluster.produce(&records).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_types_and_labels_are_the_contract_and_the_books_balance() {
    let rig = Rig::new("metrics", 2).await;
    let fates = Fates::new().await;
    let config = fates.config(&rig);
    let file = config.write();
    let mut arauto = Arauto::run(&file.path()).await;
    Fates::produce(&rig).await;

    let ended = |metrics: &Metrics, id: &str, outcome: &str| {
        metrics.sum("arauto_deliveries_total", &[("endpoint", id), ("outcome", outcome)])
    };
    let all = Fates::EVENTS as f64;
    let few = Fates::FEW as f64;
    let expected =
        [("good", "delivered"), ("flaky", "delivered"), ("refused", "dead"), ("throttled", "delivered")];
    let metrics = arauto
        .wait_for_metrics("every delivery to come to rest", |metrics| {
            expected.iter().all(|(id, outcome)| ended(metrics, id, outcome) == all)
                // One of them dies of it, the others are dropped like those of any endpoint that is not there.
                && metrics.sum("arauto_deliveries_total", &[("endpoint", "gone")]) == few
                && metrics.sum("arauto_retries_total", &[("endpoint", "later")]) == all
                && metrics.value("arauto_produce_pending", &[]) == Some(0.0)
        })
        .await;
    check_contract(&metrics);
    check_what_is_measured(&metrics);
    let parked = |metrics: &Metrics| metrics.sum("arauto_parked_total", &[("endpoint", "throttled")]);
    assert!(parked(&metrics) > 0.0, "the test wants something parked");
    check_books(&rig, &metrics).await;
    // One that has never answered gets one at a time.
    let in_lane = [("arauto_lane_in_flight", 1.0), ("arauto_lane_queued", 9.0), ("arauto_lane_waiting", 0.0)];
    for (name, value) in in_lane {
        assert_eq!(metrics.value(name, &[("endpoint", "silent")]), Some(value), "{name}");
    }
    assert_eq!(metrics.value("arauto_in_flight", &[]), Some(few));
    assert_eq!(
        metrics.value("arauto_endpoint_disabled", &[("endpoint", "gone"), ("reason", "gone")]),
        Some(1.0)
    );
    assert_eq!(metrics.value("arauto_tickets_lost_total", &[]), Some(0.0));
    assert_eq!(metrics.sum("arauto_events_total", &[("topic", &rig.topic)]), all);
    assert_eq!(metrics.value("arauto_endpoints", &[]), Some(7.0));

    fates.silent.script(|_| Reply::ok());
    fates.silent.wake();
    assert_eq!(arauto.stop().await, 0);
}

/// Nothing that is not in the contract, and everything that is.
fn check_contract(metrics: &Metrics) {
    let mut contract: BTreeMap<&str, (&str, BTreeSet<&str>)> = BTreeMap::new();
    for (name, kind, labels) in CONTRACT {
        contract.insert(name, (kind, labels.iter().copied().collect()));
    }
    let ours: Vec<_> = metrics.types().iter().filter(|(name, _)| !name.starts_with("process_")).collect();
    let found: Vec<_> = ours.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
    let expected: Vec<_> = contract.iter().map(|(name, (kind, _))| (*name, *kind)).collect();
    assert_eq!(found, expected);
    for (name, (kind, labels)) in contract {
        let series = if kind == "histogram" { format!("{name}_count") } else { name.to_owned() };
        for (found, _) in metrics.series(&series) {
            let found: BTreeSet<&str> = found.keys().map(String::as_str).collect();
            assert_eq!(found, labels, "{name}");
        }
    }
}

/// The machine is its own broker: no answer takes long, and the clocks are one.
fn check_what_is_measured(metrics: &Metrics) {
    let round_trips = metrics.series("arauto_broker_round_trip_seconds");
    assert!(round_trips.iter().any(|(labels, _)| labels["client"] == "consumer"), "{round_trips:?}");
    for (labels, seconds) in round_trips {
        assert!(
            labels["broker"].parse::<u32>().is_ok() && seconds > 0.0 && seconds < 60.0,
            "{labels:?} {seconds}"
        );
    }
    // It is absent until it was measured, and measured in milliseconds: often there are none.
    let skew = metrics.value("arauto_clock_skew_seconds", &[]).unwrap();
    assert!(skew.abs() < 60.0, "{skew}");
}

/// For every endpoint: opened = delivered + dead + dropped + in its lane + on retry topics.
async fn check_books(rig: &Rig, metrics: &Metrics) {
    // Only the long tier still has any at rest, and nothing has come back from it.
    let on_tier = rig.cluster.read(&rig.tier(LONG_TIER)).await;
    let endpoints = metrics.label_values("arauto_deliveries_opened_total", "endpoint");
    assert_eq!(endpoints.len(), 7);
    for id in endpoints {
        let of = [("endpoint", id)];
        let opened = metrics.sum("arauto_deliveries_opened_total", &of);
        let ended = metrics.sum("arauto_deliveries_total", &of);
        let lane = ["arauto_lane_queued", "arauto_lane_in_flight", "arauto_lane_waiting"];
        let lane: f64 = lane.iter().map(|name| metrics.sum(name, &of)).sum();
        let waiting = on_tier.iter().filter(|record| record.header("arauto-endpoint") == Some(id)).count();
        assert!(opened > 0.0, "{id} got nothing");
        assert_eq!(
            opened,
            ended + lane + waiting as f64,
            "{id}: {ended} ended, {lane} in its lane, {waiting}"
        );
        let dead = metrics.sum("arauto_dead_total", &of);
        let ended_dead = metrics.sum("arauto_deliveries_total", &[("endpoint", id), ("outcome", "dead")]);
        assert_eq!(dead, ended_dead, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_disabled_endpoint_had_waiting_is_counted_as_dropped() {
    const EVENTS: usize = 20;
    let rig = Rig::new("metrics-dropped", 1).await;
    let hook = Hook::refusing(503).await;
    let endpoint = Endpoint::new("shop", &hook.url()).set("retry.schedule", vec!["3s"; 50]);
    let config = rig.config().set("on_removed", "drop");
    let file = config.clone().endpoint(endpoint.clone()).write();
    let mut arauto = Arauto::run(&file.path()).await;
    let records: Vec<_> = (0..EVENTS).map(|n| NewRecord::new(&rig.topic, format!("{n}"))).collect();
    rig.cluster.produce(&records).await;
    hook.wait_for_requests(EVENTS, PATIENCE).await;
    file.rewrite(&config.endpoint(endpoint.set("enabled", false)));
    arauto.signal("HUP");
    let metrics = arauto
        .wait_for_metrics("all to be dropped", |metrics| {
            metrics.value("arauto_deliveries_total", &[("outcome", "dropped")]) == Some(EVENTS as f64)
        })
        .await;
    assert_eq!(metrics.sum("arauto_deliveries_opened_total", &[]), EVENTS as f64);
    assert_eq!(metrics.sum("arauto_deliveries_total", &[]), EVENTS as f64);
    assert_eq!(metrics.value("arauto_endpoint_enabled", &[("endpoint", "shop")]), Some(0.0));
    assert_eq!(arauto.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_above_the_limit_share_a_series() {
    let rig = Rig::new("metrics-other", 1).await;
    let hook = Hook::accepting().await;
    let config = ["a", "b", "c", "d"].iter().fold(rig.config(), |config, id| {
        config.endpoint(Endpoint::new(id, &format!("http://{}/{id}", hook.address())))
    });
    let file = config.set("admin.max_endpoint_series", 2).write();
    let arauto = Arauto::run(&file.path()).await;
    rig.cluster.produce(&[NewRecord::new(&rig.topic, "x"), NewRecord::new(&rig.topic, "y")]).await;
    let delivered = |metrics: &Metrics, id: &str| {
        metrics.sum("arauto_deliveries_total", &[("endpoint", id), ("outcome", "delivered")])
    };
    let metrics = arauto
        .wait_for_metrics("all deliveries", |metrics| {
            ["a", "b", "_other"].map(|id| delivered(metrics, id)) == [2.0, 2.0, 4.0]
        })
        .await;
    for name in ["arauto_deliveries_opened_total", "arauto_attempts_total", "arauto_lane_queued"] {
        assert_eq!(metrics.label_values(name, "endpoint"), ["a", "b", "_other"].into(), "{name}");
    }
    assert_eq!(metrics.value("arauto_endpoints", &[]), Some(4.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_and_age_are_right_while_a_partition_is_not_read_and_go_to_zero() {
    const AGE: f64 = 3_600.0;
    let rig = Rig::new("metrics-lag", 2).await;
    let hook = Hook::start(|_| Reply::never()).await;
    // Room for two: the rest is not read.
    let config = rig.config().set("limits.in_flight", 2).endpoint(Endpoint::new("shop", &hook.url()));
    let file = config.write();
    let mut arauto = Arauto::run(&file.path()).await;
    let old = now_ms() - AGE as i64 * 1000;
    let records: Vec<_> = (0..60)
        .map(|n| NewRecord::new(&rig.topic, format!("{n}")).partition(i32::from(n >= 20)).timestamp(old))
        .collect();
    rig.cluster.produce(&records).await;
    let of = |name: &str, metrics: &Metrics, partition: &str| {
        metrics.value(name, &[("topic", &rig.topic), ("partition", partition)])
    };
    let lag = |metrics: &Metrics, partition: &str| of("arauto_partition_lag", metrics, partition);
    let age = |metrics: &Metrics, partition: &str| {
        of("arauto_partition_oldest_unsettled_seconds", metrics, partition)
    };
    arauto
        .wait_for_metrics("the lag and the age to be seen", |metrics| {
            ["0", "1"].map(|partition| lag(metrics, partition)) == [Some(20.0), Some(40.0)]
                && ["0", "1"].iter().all(|partition| age(metrics, partition) >= Some(AGE))
        })
        .await;
    hook.script(|_| Reply::ok());
    hook.wake();
    hook.wait_for(60, PATIENCE).await;
    arauto
        .wait_for_metrics("the lag and the age to be gone", |metrics| {
            ["0", "1"]
                .iter()
                .all(|partition| lag(metrics, partition) == Some(0.0) && age(metrics, partition) == Some(0.0))
        })
        .await;
    assert_eq!(arauto.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn series_of_a_partition_go_with_it() {
    let rig = Rig::new("metrics-partitions", 4).await;
    let hook = Hook::accepting().await;
    let file = rig.config().endpoint(Endpoint::new("shop", &hook.url())).write();
    let mut first = Arauto::run(&file.path()).await;
    // Four of the source topic, and one of each retry tier: which of them move is the group's affair.
    const ALL: usize = 7;
    let ours = |metrics: &Metrics| -> BTreeSet<(String, String)> {
        let series = metrics.series("arauto_partition_lag").into_iter();
        series.map(|(labels, _)| (labels["topic"].clone(), labels["partition"].clone())).collect()
    };
    first.wait_for_metrics("all partitions", |metrics| ours(metrics).len() == ALL).await;
    let mut second = Arauto::run(&file.path()).await;
    until(PATIENCE, "the partitions to be divided", async || {
        let both = [first.metrics().await, second.metrics().await];
        let [one, other] = both.each_ref().map(ours);
        let assigned = both.each_ref().map(|metrics| metrics.sum("arauto_assigned_partitions", &[]) as usize);
        one.is_disjoint(&other)
            && one.len() + other.len() == ALL
            && !other.is_empty()
            && assigned == [one.len(), other.len()]
    })
    .await;
    assert!(first.metrics().await.sum("arauto_rebalances_total", &[("kind", "revoke")]) >= 1.0);
    assert_eq!(second.stop().await, 0);
    first.wait_for_metrics("all partitions again", |metrics| ours(metrics).len() == ALL).await;
    assert_eq!(first.stop().await, 0);
}
