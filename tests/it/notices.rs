//! What people must hear of is an event: on a topic of its own, as a webhook to whoever asks, and few in a storm.

use std::{collections::BTreeSet, time::Duration};

use arauto::date::rfc3339;
use serde_json::Value;

use crate::{
    raw::{Server, certificate_ending},
    support::{
        PATIENCE, Rig,
        arauto::Arauto,
        config::{ConfigFile, Endpoint, SECRET},
        eventually,
        hook::{Hook, Reply, Request},
        metrics::Metrics,
        never, now_ms,
        records::NewRecord,
    },
};

/// Every notice there is, each checked to be a CloudEvent about the endpoint that is its key.
async fn notices(rig: &Rig) -> Vec<Value> {
    let records = rig.cluster.read(&rig.notices()).await;
    let notices = records.iter().map(|record| {
        assert!(record.header("content-type").unwrap().starts_with("application/cloudevents+json"));
        let notice: Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
        assert_eq!((&notice["specversion"], &notice["source"]), (&"1.0".into(), &source(rig).into()));
        assert_eq!(notice["subject"].as_str().map(str::as_bytes), record.key.as_deref(), "{notice}");
        assert_eq!(notice["data"]["endpoint"], notice["subject"]);
        notice
    });
    let notices: Vec<Value> = notices.collect();
    let ids: BTreeSet<&str> = notices.iter().map(|notice| notice["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), notices.len());
    notices
}

fn source(rig: &Rig) -> String {
    format!("arauto/{}", rig.group)
}

/// `kind endpoint` of a notice.
fn about(notice: &Value) -> String {
    let kind = notice["type"].as_str().unwrap().strip_prefix("arauto.").unwrap();
    format!("{kind} {}", notice["subject"].as_str().unwrap_or("several"))
}

/// Waits until the topic has exactly these notices, in any order; they are returned in the order that was asked for.
async fn wait_for(rig: &Rig, expected: &[&str]) -> Vec<Value> {
    let told = eventually(PATIENCE, &format!("the notices {expected:?}"), async || {
        Some(notices(rig).await).filter(|told| told.len() >= expected.len())
    })
    .await;
    let mut left: Vec<Value> = told.clone();
    let found = expected.iter().map(|expected| {
        let at = left.iter().position(|notice| about(notice) == *expected);
        left.swap_remove(at.unwrap_or_else(|| panic!("no {expected} in {told:#?}")))
    });
    let found: Vec<Value> = found.collect();
    assert!(left.is_empty(), "{left:#?} besides {expected:?}");
    found
}

fn verified(request: &Request) -> Value {
    standardwebhooks::Webhook::new(SECRET).unwrap().verify(&request.body, &request.headers).unwrap();
    serde_json::from_slice(&request.body).unwrap()
}

async fn produce(rig: &Rig, event_type: &str, count: usize) {
    let records: Vec<_> = (0..count)
        .map(|n| NewRecord::new(&rig.topic, format!("{n}")).header("ce_type", event_type))
        .collect();
    rig.cluster.produce(&records).await;
}

fn count(metrics: &Metrics, kind: &str, result: &str) -> f64 {
    metrics.sum("arauto_notices_total", &[("kind", kind), ("result", result)])
}

/// How many things these stand for.
fn sum(told: &[Value]) -> u64 {
    told.iter().map(|notice| notice["data"]["count"].as_u64().unwrap()).sum()
}

/// An endpoint that gets only events of the type that is its id.
fn only(id: &str, url: &str) -> Endpoint {
    Endpoint::new(id, url).set("types", vec![id])
}

/// How long the certificate is valid.
const SOON: i64 = 3 * 86_400_000;

/// Receivers that make trouble of each kind, and those that hear of it.
struct Receivers {
    hook: Hook,
    tls: Server,
    root: String,
    /// The day on which the certificate ends.
    ends: String,
    team: Hook,
    own: Hook,
    everyone: Hook,
}

impl Receivers {
    /// One for each.
    const KINDS: [&str; 5] = ["refused", "gone", "breaker", "failing", "tls"];

    async fn new() -> Self {
        let hook = Hook::start(|request| match request.uri.path() {
            "/gone" => Reply::status(410),
            "/refused" => Reply::status(404).body("no such customer"),
            "/breaker" if request.nth <= 3 => Reply::status(500),
            "/failing" if request.nth <= 5 => Reply::status(503).body("busy"),
            _ => Reply::ok(),
        })
        .await;
        let ends = rfc3339(now_ms() + SOON)[..10].to_owned();
        let part = |range: std::ops::Range<usize>| ends[range].parse::<u8>().unwrap();
        let day = (ends[..4].parse().unwrap(), part(5..7), part(8..10));
        let (tls, root) = certificate_ending("127.0.0.1", &[], day);
        let tls = Server::tls(tls, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let [team, own, everyone] =
            [Hook::accepting().await, Hook::accepting().await, Hook::accepting().await];
        Self { hook, tls, root, ends, team, own, everyone }
    }

    /// Runs an instance for them.
    async fn run(&self, rig: &Rig) -> (ConfigFile, Arauto) {
        let at = |id: &str| only(id, &format!("http://{}/{id}", self.hook.address()));
        let retried = |id: &str| at(id).set("retry.schedule", vec!["1s"; 9]);
        let file = rig
            .config()
            .endpoint(at("refused").set("retry.dead_on", vec![404]))
            .endpoint(at("gone"))
            .endpoint(retried("breaker").set("breaker.minimum", 3).set("breaker.open_for", "1s"))
            // A quarter of this is how long it has to fail.
            .endpoint(retried("failing").set("disable_after", "8s"))
            .endpoint(only("tls", &format!("https://{}/", self.tls.addr)))
            .endpoint(Endpoint::new("team", &self.team.url()).set("topics", vec!["@notices"]))
            .endpoint(
                Endpoint::new("own", &self.own.url())
                    .set("topics", vec!["@notices"])
                    .set("types", vec!["arauto.endpoint.*"])
                    .set("queue", "own"),
            )
            .endpoint(Endpoint::new("everyone", &self.everyone.url()))
            .write();
        let roots = file.dir().join("roots.pem");
        std::fs::write(&roots, &self.root).unwrap();
        let arauto = Arauto::run_trusting(&file.path(), &roots).await;
        (file, arauto)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_is_told_on_the_topic_and_to_whoever_asks_and_to_nobody_else() {
    let rig = Rig::new("notices", 1).await;
    let receivers = Receivers::new().await;
    let (_file, mut arauto) = receivers.run(&rig).await;
    for kind in Receivers::KINDS {
        produce(&rig, kind, 1).await;
    }
    let told = wait_for(
        &rig,
        &[
            "delivery.dead refused",
            "delivery.dead gone",
            "endpoint.disabled gone",
            "breaker.opened breaker",
            "endpoint.failing failing",
            "endpoint.recovered failing",
            "certificate.expiring tls",
        ],
    )
    .await;
    check_what_they_say(&rig, &told).await;
    assert_eq!(told[6]["data"]["until"], format!("{}T00:00:00Z", receivers.ends));
    let metrics = arauto.metrics().await;
    let left = metrics.value("arauto_certificate_expiry_seconds", &[("endpoint", "tls")]).unwrap();
    assert!(left > (SOON / 1000 - 86_400) as f64 - 60.0 && left <= (SOON / 1000) as f64, "{left}");
    assert_eq!(count(&metrics, "delivery.dead", "ok"), 2.0);
    check_who_got_them(&receivers, &told).await;
    assert_eq!(arauto.stop().await, 0);
}

async fn check_who_got_them(Receivers { team, own, everyone, .. }: &Receivers, told: &[Value]) {
    team.wait_for(told.len(), PATIENCE).await;
    let by_webhook: BTreeSet<String> =
        team.requests().iter().map(|request| verified(request).to_string()).collect();
    assert_eq!(by_webhook, told.iter().map(Value::to_string).collect());
    own.wait_for(3, PATIENCE).await;
    let states: BTreeSet<String> = own.requests().iter().map(|request| about(&verified(request))).collect();
    let expected = ["endpoint.disabled gone", "endpoint.failing failing", "endpoint.recovered failing"];
    assert_eq!(states, expected.map(str::to_owned).into());
    everyone.wait_for(Receivers::KINDS.len(), PATIENCE).await;
    let more = async || everyone.count() > Receivers::KINDS.len();
    never(Duration::from_millis(300), "notices to one that did not ask", more).await;
    assert_eq!((own.count(), team.count()), (3, told.len()));
}

/// The first six, in the order asked for.
async fn check_what_they_say(rig: &Rig, told: &[Value]) {
    let data = |of: usize| &told[of]["data"];
    let letters = rig.cluster.read(&rig.dead()).await;
    let letter = letters.iter().find(|letter| letter.header("arauto-endpoint") == Some("refused")).unwrap();
    let delivery = &data(0)["delivery"];
    assert_eq!(delivery["id"], letter.header("arauto-id").unwrap());
    assert_eq!(delivery["letter"], format!("{}:{}", letter.partition, letter.offset));
    assert_eq!(delivery["event"], format!("{}:0:0", rig.topic));
    assert_eq!((&delivery["type"], &delivery["attempts"]), (&"refused".into(), &1.into()));
    let said = |of: usize, name: &str| data(of)[name].as_str().unwrap_or_default().to_owned();
    assert_eq!((said(0, "reason"), said(0, "error")), ("rejected".to_owned(), "no such customer".to_owned()));
    assert_eq!((&data(0)["status"], &data(0)["count"]), (&404.into(), &1.into()));
    assert_eq!((said(1, "reason"), said(2, "reason")), ("gone".to_owned(), "gone".to_owned()));
    assert_eq!(data(3)["status"], 500);
    assert!(*said(3, "until") >= *told[3]["time"].as_str().unwrap(), "{}", told[3]);
    assert_eq!((&data(4)["status"], said(4, "error")), (&503.into(), "busy".to_owned()));
    assert!(!said(4, "since").is_empty() && said(4, "since") == said(5, "since"), "{} {}", told[4], told[5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_makes_few_whose_counts_add_up() {
    const EVENTS: usize = 500;
    let rig = Rig::new("notices-storm", 1).await;
    let hook = Hook::refusing(404).await;
    let endpoint = |id: &str| Endpoint::new(id, &hook.url()).set("retry.dead_on", vec![404]);
    let file = rig.config().endpoint(endpoint("a")).endpoint(endpoint("b")).write();
    let mut arauto = Arauto::run(&file.path()).await;
    produce(&rig, "x", EVENTS).await;
    let left_out = 2.0 * EVENTS as f64 - 2.0;
    let metrics = arauto
        .wait_for_metrics("all letters", |metrics| count(metrics, "delivery.dead", "suppressed") == left_out)
        .await;
    assert_eq!(metrics.sum("arauto_dead_total", &[]), 2.0 * EVENTS as f64);
    let told = wait_for(&rig, &["delivery.dead a", "delivery.dead b"]).await;
    assert!(told.iter().all(|notice| notice["data"]["count"] == 1), "{told:?}");

    assert_eq!(arauto.stop().await, 0);
    let four = ["delivery.dead a", "delivery.dead b"].repeat(2);
    let told = wait_for(&rig, &four).await;
    for (one, other) in [(0, 2), (1, 3)] {
        assert_eq!(sum(&[told[one].clone(), told[other].clone()]), EVENTS as u64, "{told:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_is_told_at_the_end_of_the_while() {
    let rig = Rig::new("notices-repeat", 1).await;
    let hook = Hook::refusing(404).await;
    let endpoint = Endpoint::new("crm", &hook.url()).set("retry.dead_on", vec![404]);
    let file = rig.config().set("notices.repeat", "3s").endpoint(endpoint).write();
    let arauto = Arauto::run(&file.path()).await;
    produce(&rig, "x", 50).await;
    let sum =
        |told: &[Value]| told.iter().map(|notice| notice["data"]["count"].as_u64().unwrap()).sum::<u64>();
    let told = eventually(PATIENCE, "all to be told", async || {
        Some(notices(&rig).await).filter(|told| sum(told) >= 50)
    })
    .await;
    assert!(sum(&told) == 50 && (2..10).contains(&told.len()), "{told:?}");
    drop(arauto);
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_notices_makes_none() {
    let rig = Rig::new("notices-trouble", 1).await;
    let [hook, team] = [Hook::refusing(404).await, Hook::refusing(404).await];
    let refusing = |id: &str, hook: &Hook| Endpoint::new(id, &hook.url()).set("retry.dead_on", vec![404]);
    let failing = Endpoint::new("failing", &format!("{}?failing", team.url()))
        .set("topics", vec!["@notices"])
        .set("retry.schedule", vec!["1s"; 50])
        .set("disable_after", "4s")
        .set("breaker.minimum", 2);
    let both = refusing("both", &team).set("topics", vec![rig.topic.as_str(), "@notices"]);
    let file = rig
        .config()
        .set("notices.repeat", "1s")
        .endpoint(refusing("crm", &hook).set("types", vec!["x"]))
        .endpoint(refusing("team", &team).set("topics", vec!["@notices"]))
        .endpoint(both.set("types", vec!["arauto.*"]))
        .endpoint(failing)
        .write();
    let mut arauto = Arauto::run(&file.path()).await;
    produce(&rig, "x", 1).await;
    arauto
        .wait_for_metrics("trouble of every kind", |metrics| {
            count(metrics, "delivery.dead", "suppressed") == 3.0
                && count(metrics, "breaker.opened", "suppressed") >= 1.0
                && count(metrics, "endpoint.failing", "suppressed") == 1.0
                && count(metrics, "endpoint.disabled", "suppressed") == 1.0
        })
        .await;
    assert_eq!(arauto.stop().await, 0);
    wait_for(&rig, &["delivery.dead crm"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_after_a_reload_hears_of_what_happens_from_then_on() {
    let rig = Rig::new("notices-reload", 1).await;
    let [hook, team] = [Hook::refusing(404).await, Hook::accepting().await];
    let refusing = |id: &str| only(id, &hook.url()).set("retry.dead_on", vec![404]);
    let config = rig.config().endpoint(refusing("old")).endpoint(refusing("new"));
    let file = config.write();
    let mut arauto = Arauto::run(&file.path()).await;
    produce(&rig, "old", 1).await;
    wait_for(&rig, &["delivery.dead old"]).await;

    file.rewrite(&config.endpoint(Endpoint::new("team", &team.url()).set("topics", vec!["@notices"])));
    arauto.signal("HUP");
    arauto
        .wait_for_metrics("the notices to be read", |metrics| {
            metrics.value("arauto_assigned_partitions", &[("topic", &rig.notices())]) == Some(1.0)
        })
        .await;
    produce(&rig, "new", 1).await;
    team.wait_for(1, PATIENCE).await;
    assert_eq!(about(&verified(&team.requests()[0])), "delivery.dead new");
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(team.count(), 1);
    wait_for(&rig, &["delivery.dead old", "delivery.dead new"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_their_topic_everything_else_goes_on() {
    let rig = Rig::new("notices-missing", 1).await;
    let hook = Hook::accepting().await;
    let config = rig.config().endpoint(Endpoint::new("crm", &hook.url()));
    let off = config.clone().set("notices.enabled", false).write();
    let mut arauto = Arauto::run(&off.path()).await;
    assert_eq!(arauto.stop().await, 0);
    assert!(!rig.cluster.topics().await.contains_key(&rig.notices()), "nobody wants it");

    let config = config.set("topics.create", false);
    let mut arauto = Arauto::run(&config.write().path()).await;
    arauto.wait_for_log("topic is missing, notices are not written").await;
    produce(&rig, "x", 1).await;
    hook.wait_for(1, PATIENCE).await;
    assert_eq!(arauto.stop().await, 0);

    // Not when somebody would wait for them in vain.
    let asking = config.endpoint(Endpoint::new("team", &hook.url()).set("topics", vec!["@notices"])).write();
    let path = asking.path();
    let mut arauto = Arauto::spawn(["run", "--config", path.to_str().unwrap()]);
    assert_eq!(arauto.ended(PATIENCE).await.code(), Some(1));
    let told = arauto.output().join("\n");
    assert!(told.contains(&format!("topics are missing: {}", rig.notices())), "{told}");
}
