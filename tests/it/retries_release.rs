//! An operator's word about what waits on retry topics: what is released is sent at once, what is cancelled becomes a
//! dead letter, each exactly once, whatever is killed meanwhile, and all others wait on.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    command::{Output, arauto},
    config::{Config, ConfigFile, Endpoint},
    hook::{Hook, Reply},
    now_ms,
    records::NewRecord,
    until,
};

const HOUR: i64 = 3_600_000;

/// Two endpoints, for both of which every event waits for an hour and a half; their receivers answer well from now on.
struct Waiting {
    rig: Rig,
    shop: Hook,
    other: Hook,
    file: ConfigFile,
    arauto: Arauto,
    ids: BTreeSet<String>,
}

fn config(rig: &Rig, hooks: [(&str, &Hook); 2]) -> Config {
    let config = rig.config().set("topics.tiers", vec!["1s", "3s", "1h"]).set("events.id", vec!["header:id"]);
    hooks.into_iter().fold(config, |config, (id, hook)| {
        let endpoint = Endpoint::new(id, &hook.url()).set("retry.jitter", 0.0);
        config.endpoint(endpoint.set("retry.schedule", vec!["90m"]))
    })
}

impl Waiting {
    async fn new(events: usize, bytes: usize) -> Self {
        let rig = Rig::new("release", 1).await;
        let (shop, other) = (Hook::failing_first(1, 503).await, Hook::failing_first(1, 503).await);
        let file = config(&rig, [("shop", &shop), ("other", &other)]).write();
        let ids: BTreeSet<String> = (0..events).map(|n| format!("event-{n}")).collect();
        let record = |id: &String| NewRecord::new(&rig.topic, "x".repeat(bytes)).header("id", id.as_str());
        rig.cluster.produce(&ids.iter().map(record).collect::<Vec<_>>()).await;
        let arauto = Arauto::run(&file.path()).await;
        let waiting = Self { rig, shop, other, file, arauto, ids };
        let all = i64::try_from(2 * events).unwrap();
        until(PATIENCE, "everything to wait", async || waiting.end("1h").await == all).await;
        waiting
    }

    async fn end(&self, tier: &str) -> i64 {
        self.rig.cluster.watermarks(&self.rig.tier(tier), 0).await.1
    }

    async fn retries(&self, arguments: &[&str]) -> Output {
        let path = self.file.path();
        arauto(&[&["retries"], arguments, &["--config", path.to_str().unwrap()]].concat()).await
    }

    /// Says it, and what came of it.
    async fn say(&self, arguments: &[&str]) -> Value {
        let output = self.retries(&[arguments, &["--yes", "--json"]].concat()).await;
        assert_eq!(output.code, 0, "{output:?}");
        let told = output.json();
        assert_eq!((&told["left"], &told["uncertain"]), (&0.into(), &0.into()), "{told}");
        told
    }

    /// How many wait, by endpoint.
    async fn listed(&self) -> BTreeMap<String, usize> {
        let output = self.retries(&["list", "--json"]).await;
        assert_eq!(output.code, 0, "{output:?}");
        let mut listed = BTreeMap::new();
        for row in output.json_lines() {
            *listed.entry(row["endpoint"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        listed
    }

    async fn no_lag(&self) {
        for tier in ["0s", "1s", "3s", "1h"] {
            let tier = self.rig.tier(tier);
            let what = format!("no lag on {tier}");
            until(PATIENCE, &what, async || self.rig.cluster.lag(&self.rig.group, &tier).await == 0).await;
        }
    }

    /// Markers that are not forgotten.
    async fn markers(&self) -> usize {
        let mut keys = BTreeMap::new();
        for record in self.rig.cluster.read(&self.rig.state()).await {
            let key = String::from_utf8(record.key.unwrap()).unwrap();
            keys.insert(key, record.value.is_some());
        }
        keys.iter().filter(|(key, alive)| key.starts_with("retries/") && **alive).count()
    }

    /// The ids of dead letters, which all say the same reason and endpoint.
    async fn cancelled(&self, endpoint: &str) -> BTreeSet<String> {
        let dead = self.rig.cluster.read(&self.rig.dead()).await;
        let ids: BTreeSet<_> = dead
            .iter()
            .map(|letter| {
                let said = (letter.header("arauto-endpoint"), letter.header("arauto-reason"));
                assert_eq!(said, (Some(endpoint), Some("cancelled")));
                assert_eq!(
                    (letter.header("arauto-status"), letter.number("arauto-attempts")),
                    (Some("503"), 1)
                );
                letter.header("arauto-id").unwrap().to_owned()
            })
            .collect();
        assert_eq!(ids.len(), dead.len(), "a delivery died twice");
        ids
    }

    /// Exactly one request per id was accepted.
    fn all_accepted_once(&self, hook: &Hook) {
        for id in &self.ids {
            let accepted = hook.requests_of(id).iter().filter(|request| request.accepted()).count();
            assert_eq!(accepted, 1, "{id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_meant_goes_once_and_all_others_wait_on() {
    let mut waiting = Waiting::new(12, 10).await;
    let both = |shop, other| {
        let counts = [("shop", shop), ("other", other)].into_iter().filter(|(_, count)| *count > 0);
        counts.map(|(id, count)| (id.to_owned(), count)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(waiting.listed().await, both(12, 12));
    let output = waiting.retries(&["list", "--endpoint", "sh*", "--limit", "3"]).await;
    assert!(
        output.stdout.contains("status 503") && output.stdout.contains("12 deliveries wait, 3 shown"),
        "{output:?}"
    );
    let shown = waiting.retries(&["show", "event-3", "--endpoint", "shop", "--json"]).await.json();
    assert_eq!((&shown["id"], &shown["body"]), (&"event-3".into(), &"x".repeat(10).into()));
    let due = shown["due"].as_i64().unwrap() - now_ms();
    assert!((HOUR..2 * HOUR).contains(&due), "{shown}");
    assert_eq!(waiting.retries(&["show", "event-99"]).await.code, 1);
    let unasked = waiting.retries(&["release", "--endpoint", "shop"]).await;
    assert!(unasked.code == 2 && unasked.stderr.contains("--yes"), "{unasked:?}");
    let unknown = waiting.retries(&["release", "--endpoint", "shpo", "--yes"]).await;
    assert!(unknown.code == 2 && unknown.stderr.contains("did you mean \"shop\"?"), "{unknown:?}");

    // One of them.
    let told = waiting.say(&["release", "--endpoint", "shop", "--id", "event-3"]).await;
    assert_eq!(told["taken"], 1, "{told}");
    waiting.shop.wait_for(1, PATIENCE).await;
    assert_eq!(waiting.shop.accepted(), ["event-3".to_owned()].into());
    assert_eq!(waiting.listed().await, both(11, 12));

    // The rest, twice in a row.
    assert_eq!(waiting.say(&["release", "--endpoint", "shop"]).await["taken"], 11);
    assert_eq!(waiting.say(&["release", "--endpoint", "shop"]).await["taken"], 0);
    waiting.shop.wait_for(12, PATIENCE).await;
    assert_eq!(waiting.listed().await, both(0, 12));

    // The originals are still there when it starts again.
    assert_eq!(waiting.arauto.stop().await, 0);
    assert!(waiting.markers().await > 0);
    waiting.arauto = Arauto::run(&waiting.file.path()).await;
    assert_eq!(waiting.listed().await, both(0, 12));
    assert_eq!(waiting.say(&["cancel", "--endpoint", "other"]).await["taken"], 12);
    assert_eq!(waiting.say(&["cancel", "--endpoint", "other"]).await["taken"], 0);
    assert_eq!(waiting.cancelled("other").await, waiting.ids);

    // Whoever meets the originals settles them, counts what was cancelled, and forgets the markers.
    waiting.no_lag().await;
    until(PATIENCE, "the markers to be forgotten", async || waiting.markers().await == 0).await;
    let metrics = waiting.arauto.metrics().await;
    let dead = metrics.value("arauto_dead_total", &[("endpoint", "other"), ("reason", "cancelled")]);
    assert_eq!(dead, Some(12.0));
    assert_eq!(metrics.sum("arauto_dead_total", &[]).to_string(), "12");
    waiting.all_accepted_once(&waiting.shop);
    assert_eq!((waiting.shop.count(), waiting.other.count()), (24, 12));
    assert_eq!(waiting.cancelled("other").await, waiting.ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_need_be_running() {
    let mut waiting = Waiting::new(6, 10).await;
    assert_eq!(waiting.arauto.stop().await, 0);
    assert_eq!(waiting.say(&["cancel", "--endpoint", "other", "--id", "event-1"]).await["taken"], 1);
    assert_eq!(waiting.say(&["release", "--endpoint", "shop"]).await["taken"], 6);
    // Neither the originals nor the copies, which are due but not read yet.
    let told = waiting.say(&["release", "--endpoint", "shop"]).await;
    assert_eq!((&told["taken"], &told["due_soon"]), (&0.into(), &6.into()));
    assert_eq!(waiting.say(&["cancel", "--endpoint", "other"]).await["taken"], 5);
    waiting.arauto = Arauto::run(&waiting.file.path()).await;
    waiting.shop.wait_for(6, PATIENCE).await;
    waiting.no_lag().await;
    waiting.all_accepted_once(&waiting.shop);
    assert_eq!((waiting.shop.count(), waiting.other.count()), (12, 6));
    assert_eq!(waiting.cancelled("other").await, waiting.ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_nothing_goes_twice_or_is_lost() {
    // So large that they take more than one transaction.
    let mut waiting = Waiting::new(40, 250_000).await;
    waiting.shop.script(|_| Reply::never());
    let path = waiting.file.path();
    let release = ["retries", "release", "--endpoint", "shop", "--yes", "--config", path.to_str().unwrap()];

    // The command, between its first batch and its end, or a little later.
    let mut command = Arauto::spawn(release);
    until(PATIENCE, "the first copies", async || waiting.end("0s").await > 0 || command.has_ended()).await;
    command.kill().await;
    // The instance, with requests under way.
    waiting.shop.wait_for_requests(41, PATIENCE).await;
    waiting.arauto.kill().await;
    waiting.shop.script(|_| Reply::ok());
    let mut command = Arauto::spawn(release);
    waiting.arauto = Arauto::run(&path).await;
    assert!(command.ended(PATIENCE).await.success());

    waiting.shop.wait_for(40, PATIENCE).await;
    assert_eq!(waiting.listed().await, [("other".to_owned(), 40)].into());
    assert_eq!(waiting.say(&["cancel", "--endpoint", "other"]).await["taken"], 40);
    waiting.no_lag().await;
    waiting.all_accepted_once(&waiting.shop);
    assert_eq!((waiting.other.count(), waiting.cancelled("other").await), (40, waiting.ids.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_about_to_be_looked_at_is_left_to_its_reader() {
    let rig = Rig::new("release-soon", 1).await;
    let (shop, other) = (Hook::accepting().await, Hook::accepting().await);
    let file = config(&rig, [("shop", &shop), ("other", &other)]).write();
    let _arauto = Arauto::run(&file.path()).await;
    let waits = |id: &str, delay: &str, wait: i64| {
        let (now, due) = (now_ms(), now_ms() + wait);
        let headers = [
            ("arauto-id", id.to_owned()),
            ("arauto-endpoint", "shop".to_owned()),
            ("arauto-source-topic", rig.topic.clone()),
            ("arauto-source-partition", "0".to_owned()),
            ("arauto-source-offset", "0".to_owned()),
            ("arauto-source-timestamp", now.to_string()),
            ("arauto-attempts", "1".to_owned()),
            ("arauto-first-seen", now.to_string()),
            ("arauto-due", due.to_string()),
            ("arauto-reason", "status".to_owned()),
        ];
        let record = NewRecord::new(&rig.tier(delay), "x").partition(0).key("shop");
        headers.into_iter().fold(record, |record, (name, value)| record.header(name, value))
    };
    // On its way to the tier of an hour; due in a moment; far ahead.
    let records =
        [waits("moving", "3s", 2 * HOUR), waits("soon", "3s", 2_500), waits("later", "1h", 2 * HOUR)];
    rig.cluster.produce(&records).await;
    let path = file.path();
    let words = ["retries", "release", "--endpoint", "shop", "--yes", "--json", "--config"];
    let output = arauto(&[&words[..], &[path.to_str().unwrap()]].concat()).await;
    assert_eq!(output.code, 0, "{output:?}");
    let told = output.json();
    assert_eq!((&told["taken"], &told["left"]), (&2.into(), &0.into()), "{output:?}");
    shop.wait_for(3, PATIENCE).await;
    for tier in ["0s", "3s", "1h"] {
        let tier = rig.tier(tier);
        until(PATIENCE, "no lag", async || rig.cluster.lag(&rig.group, &tier).await == 0).await;
    }
    assert_eq!((shop.count(), shop.duplicates()), (3, 0));
}
