//! Endpoints change without a restart; what is wrong or half written changes nothing; no secret shows anywhere.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::support::{
    PATIENCE, Rig,
    arauto::{Arauto, field},
    config::{Config, Endpoint, SECRET},
    eventually,
    hook::{Hook, Reply},
    metrics::Metrics,
    never,
    records::NewRecord,
    until,
};

const TAKEN_OVER: &str = "configuration taken over";
const REFUSED: &str = "configuration not taken over, the last good one stays";
/// Long enough for a change to be noticed, had it been acted upon: two seconds of quiet and a look.
const UNNOTICED: Duration = Duration::from_secs(4);

/// The log lines with this message about reloads this asked for: `Signal` or `FileChange`.
fn told(arauto: &Arauto, message: &str, trigger: &str) -> Vec<Value> {
    let wanted =
        |line: &Value| field(line, "message") == Some(message) && field(line, "trigger") == Some(trigger);
    arauto.log().into_iter().filter(wanted).collect()
}

/// Waits for the how manieth such line.
async fn wait(arauto: &Arauto, message: &str, trigger: &str, times: usize) -> Value {
    let what = format!("{message} ({trigger}), {times} times");
    eventually(PATIENCE, &what, async || told(arauto, message, trigger).into_iter().nth(times - 1)).await
}

fn reloads(metrics: &Metrics) -> [f64; 3] {
    let times = |result| metrics.sum("arauto_config_reloads_total", &[("result", result)]);
    [times("ok"), times("rejected"), metrics.sum("arauto_config_last_reload_success", &[])]
}

/// Publishes one event and answers its body.
async fn publish(rig: &Rig, body: &str) {
    rig.cluster.produce(&[NewRecord::new(&rig.topic, body)]).await;
}

async fn arrives(hook: &Hook, body: &str) {
    let what = format!("{body} to arrive");
    until(PATIENCE, &what, async || hook.accepted_bodies().contains(body)).await;
}

fn many(config: Config, ids: std::ops::Range<usize>, url: &str) -> Config {
    ids.fold(config, |config, n| config.endpoint(Endpoint::new(&format!("e{n}"), url)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_endpoint_gets_events_and_a_changed_one_its_new_url_and_secret() {
    let rig = Rig::new("reload", 2).await;
    let (first, second) = (Hook::accepting().await, Hook::accepting().await);
    let file = rig.config().endpoint(Endpoint::new("old", &first.url())).write();
    let arauto = Arauto::run(&file.path()).await;
    publish(&rig, "one").await;
    arrives(&first, "one").await;

    // By a file that has changed and then been quiet.
    file.rewrite(
        &rig.config()
            .endpoint(Endpoint::new("old", &first.url()))
            .endpoint(Endpoint::new("new", &second.url())),
    );
    wait(&arauto, TAKEN_OVER, "FileChange", 1).await;
    publish(&rig, "two").await;
    arrives(&first, "two").await;
    arrives(&second, "two").await;
    assert_eq!(second.accepted_bodies(), ["two".to_owned()].into(), "what was before it is not its");

    // By a signal, at once: other URL, other secret.
    let secret = "whsec_b3RoZXIgc2VjcmV0LCBvdGhlciBrZXku";
    let moved = Endpoint::new("old", &second.url().replace("/hook", "/moved")).set("secrets", vec![secret]);
    file.rewrite(&rig.config().endpoint(moved));
    arauto.signal("HUP");
    wait(&arauto, TAKEN_OVER, "Signal", 1).await;
    publish(&rig, "three").await;
    arrives(&second, "three").await;
    let requests = second.requests();
    let request = requests.iter().find(|request| request.body == "three").unwrap();
    assert_eq!(request.uri.path(), "/moved");
    let verifies = |secret: &str| {
        let webhook = standardwebhooks::Webhook::new(secret).unwrap();
        webhook.verify(&request.body, &request.headers).is_ok()
    };
    assert!(verifies(secret) && !verifies(SECRET));
    assert_eq!(first.accepted_bodies().len(), 2);
    let [ok, rejected, last] = reloads(&arauto.metrics().await);
    assert!(ok >= 2.0 && rejected < 1.0 && last > 0.0, "{ok} {rejected} {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_keeps_the_last_good_set_and_says_so_everywhere() {
    let rig = Rig::new("bad-reload", 1).await;
    let hook = Hook::accepting().await;
    let good = rig.config().endpoint(Endpoint::new("shop", &hook.url()));
    let file = good.write();
    let arauto = Arauto::run(&file.path()).await;

    file.rewrite(&good.clone().endpoint(Endpoint::new("shop", "nonsense")));
    arauto.signal("HUP");
    let line = wait(&arauto, REFUSED, "Signal", 1).await;
    let reason = field(&line, "reason").unwrap();
    assert!(reason.contains("url is no URL") && reason.contains("is taken already"), "{reason}");
    // It may not be a member of the group yet.
    until(PATIENCE, "it to be ready", async || arauto.get("/readyz").await.unwrap().0 == 200).await;
    let (_, page) = arauto.get("/readyz").await.unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["last_reload"]["ok"], false, "{page}");
    assert!(page["last_reload"]["error"].as_str().unwrap().contains("url is no URL"), "{page}");
    let [_, rejected, last] = reloads(&arauto.metrics().await);
    assert!(rejected >= 1.0 && last < 1.0, "{rejected} {last}");
    publish(&rig, "still").await;
    arrives(&hook, "still").await;

    // An address that only a restart would allow is refused now, not dead-lettered later.
    let private = Endpoint::new("private", "http://10.1.2.3/");
    file.rewrite(&good.clone().set("security.allow", vec!["127.0.0.0/8", "10.0.0.0/8"]).endpoint(private));
    arauto.signal("HUP");
    let line = wait(&arauto, REFUSED, "Signal", 2).await;
    assert!(field(&line, "reason").unwrap().contains("not public (private)"), "{line}");

    file.rewrite(&good);
    arauto.signal("HUP");
    wait(&arauto, TAKEN_OVER, "Signal", 1).await;
    let (_, page) = arauto.get("/readyz").await.unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["last_reload"], serde_json::json!({ "ok": true, "error": null }));
    assert_eq!(reloads(&arauto.metrics().await)[2].to_string(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_removals_wait_for_a_signal() {
    let rig = Rig::new("removals", 1).await;
    let hook = Hook::accepting().await;
    let file = many(rig.config(), 0..12, &hook.url()).write();
    let arauto = Arauto::run(&file.path()).await;

    // One in twelve is no more than one.
    file.rewrite(&many(rig.config(), 0..11, &hook.url()));
    wait(&arauto, TAKEN_OVER, "FileChange", 1).await;
    file.rewrite(&many(rig.config(), 0..9, &hook.url()));
    let line = wait(&arauto, REFUSED, "FileChange", 1).await;
    assert!(field(&line, "reason").unwrap().contains("2 of 11 endpoints would be removed"), "{line}");
    publish(&rig, "to all").await;
    hook.wait_for_requests(11, PATIENCE).await;

    arauto.signal("HUP");
    wait(&arauto, TAKEN_OVER, "Signal", 1).await;
    publish(&rig, "to those left").await;
    hook.wait_for_requests(20, PATIENCE).await;
    never(Duration::from_secs(1), "a removed endpoint gets events", async || hook.count() > 20).await;
}

/// Once the change that SIGHUP was sent for was read again when its files had become quiet.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_signal_has_read_is_not_read_again() {
    let rig = Rig::new("once", 1).await;
    let hook = Hook::accepting().await;
    let file = many(rig.config(), 0..1, &hook.url()).write();
    let arauto = Arauto::run(&file.path()).await;
    let changed = Instant::now();
    file.rewrite(&many(rig.config(), 0..2, &hook.url()));
    arauto.signal("HUP");
    wait(&arauto, TAKEN_OVER, "Signal", 1).await;
    let in_time = changed.elapsed() < Duration::from_secs(2);
    let again = async || in_time && !told(&arauto, TAKEN_OVER, "FileChange").is_empty();
    never(UNNOTICED, "the same change is read again", again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_keeps_changing_is_not_read() {
    let rig = Rig::new("restless", 1).await;
    let hook = Hook::accepting().await;
    let file = many(rig.config(), 0..1, &hook.url()).write();
    let arauto = Arauto::run(&file.path()).await;
    let (mut length, mut last, mut longest) = (1, Instant::now(), Duration::ZERO);
    never(UNNOTICED, "a restless file is read", async || {
        length += 1;
        file.rewrite(&many(rig.config(), 0..length, &hook.url()));
        longest = longest.max(last.elapsed());
        last = Instant::now();
        // On a starved machine the file may have been quiet after all.
        longest < Duration::from_secs(1) && !told(&arauto, TAKEN_OVER, "FileChange").is_empty()
    })
    .await;
    let read =
        async || told(&arauto, TAKEN_OVER, "FileChange").pop().filter(|line| line["endpoints"] == length);
    eventually(PATIENCE, "the file at rest to be read", read).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_removed_endpoint_is_dead_lettered_after_its_grace() {
    let reasons = remove_while_waiting("dead", "dead").await;
    assert_eq!(reasons, ["unknown_endpoint"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_removed_endpoint_is_dropped_after_its_grace() {
    let reasons = remove_while_waiting("drop", "dropped").await;
    assert_eq!(reasons, [""; 0]);
}

/// Removes an endpoint one of whose deliveries waits for its next attempt; the reasons of the dead letters in the end.
async fn remove_while_waiting(on_removed: &str, outcome: &str) -> Vec<String> {
    let rig = Rig::new(&format!("removed-{on_removed}"), 1).await;
    let hook = Hook::start(|_| Reply::status(503)).await;
    let config = rig.config().set("on_removed", on_removed).set("unknown_grace", "2s");
    let gone = Endpoint::new("gone", &hook.url()).set("retry.schedule", vec!["3s", "3s", "3s", "3s"]);
    let file = config.clone().endpoint(gone).write();
    let mut arauto = Arauto::run(&file.path()).await;
    publish(&rig, "waits").await;
    hook.wait_for_requests(1, PATIENCE).await;

    file.rewrite(&config);
    arauto.signal("HUP");
    wait(&arauto, TAKEN_OVER, "Signal", 1).await;
    let attempts = hook.count();
    // Its own series went with it.
    let ended = |metrics: &Metrics| metrics.sum("arauto_deliveries_total", &[("outcome", outcome)]) > 0.0;
    arauto.wait_for_metrics("the delivery to end", ended).await;
    assert!(hook.count() <= attempts + 1, "at most one was under way");
    let dead = rig.cluster.read(&rig.dead()).await;
    assert_eq!(arauto.stop().await, 0);
    for record in &dead {
        let grace = record.timestamp.to_millis().unwrap() - record.number("arauto-unknown-since");
        assert!(grace >= 2_000, "{grace} ms");
    }
    dead.iter().map(|record| record.header("arauto-reason").unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_appear_nowhere() {
    const NEEDLE: &str = "Tm9ib2R5IHNlZXMgdGhpcyBzZWNyZXQh";
    let rig = Rig::new("secrets", 1).await;
    let hook = Hook::accepting().await;
    let shop = |secret: &str| {
        let headers =
            toml::Table::from_iter([("authorization".to_owned(), format!("Bearer {NEEDLE}").into())]);
        Endpoint::new("shop", &hook.url()).set("secrets", vec![secret]).set("headers", headers)
    };
    // One property is right and secret, and everything that can be logged is.
    let config = rig.config().property("sasl.password", NEEDLE).set("log.level", "trace");
    let good = config.clone().endpoint(shop(&format!("whsec_{NEEDLE}")));
    let file = good.write();
    let mut arauto = Arauto::run(&file.path()).await;
    publish(&rig, "{}").await;
    arrives(&hook, "{}").await;
    // Wrong in several ways, each beside the secret.
    let wrong = shop(&format!("whsec_{NEEDLE}_")).set("url", format!("https://user:{NEEDLE}@example.com/"));
    file.rewrite(&config.endpoint(wrong.set("tenant", vec![NEEDLE])));
    arauto.signal("HUP");
    wait(&arauto, REFUSED, "Signal", 1).await;
    for path in ["/readyz", "/livez", "/metrics", "/config"] {
        let (_, page) = arauto.get(path).await.unwrap();
        assert!(!page.contains(NEEDLE), "{path}: {page}");
    }
    assert_eq!(arauto.stop().await, 0);
    let told: Vec<_> = arauto.output().into_iter().filter(|line| line.contains(NEEDLE)).collect();
    assert!(told.is_empty(), "{told:#?}");
    assert!(arauto.output().len() > 20, "there was something to look at");
}
