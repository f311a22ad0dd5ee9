//! An event's whole story can be told afterwards: from the attempt log, from what waits and from the dead letters. The log
//! costs nothing when it is off, and no delivery waits for it when it is on.

use serde_json::{Value, json};

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    command::{Output, arauto},
    config::{Config, ConfigFile, Endpoint},
    eventually,
    hook::{Hook, Reply},
    now_ms,
    records::NewRecord,
    until,
};

/// The attempt log's topic.
fn log(rig: &Rig) -> String {
    format!("{}.attempts", rig.prefix)
}

fn config(rig: &Rig) -> Config {
    rig.config().set("attempts.topic", log(rig))
}

async fn trace(config: &ConfigFile, id: &str, more: &[&str]) -> Output {
    let path = config.path();
    arauto(&[&["trace", id, "--config", path.to_str().unwrap()], more].concat()).await
}

/// What is known of an id, as soon as that is as wanted; the log is written in batches.
async fn told(config: &ConfigFile, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(PATIENCE, "the story to be told", async || {
        let output = trace(config, id, &["--json"]).await;
        (output.code == 0).then(|| output.json()).filter(&wanted)
    })
    .await
}

/// The story for an endpoint.
fn of<'a>(told: &'a Value, endpoint: &str) -> &'a Value {
    let stories = told["endpoints"].as_array().unwrap();
    stories.iter().find(|story| story["endpoint"] == endpoint).unwrap_or(&Value::Null)
}

/// What happened, in a word each, with the outcome of attempts.
fn steps(story: &Value) -> Vec<String> {
    let word = |step: &Value| match (step["what"].as_str().unwrap(), &step["attempt"]) {
        ("attempt", Value::Null) => format!("{} without", step["outcome"].as_str().unwrap()),
        ("attempt", attempt) => format!("{attempt} {}", step["outcome"].as_str().unwrap()),
        (what, _) => what.to_owned(),
    };
    story["steps"].as_array().map(|steps| steps.iter().map(word).collect()).unwrap_or_default()
}

fn is(told: &Value, endpoint: &str, state: &str) -> bool {
    of(told, endpoint)["state"] == state
}

/// The log is for others, too: keyed by the id, one JSON object each.
async fn check_log(rig: &Rig, id: &str, count: usize) {
    let records = rig.cluster.read(&log(rig)).await;
    assert_eq!(records.len(), count);
    for record in records {
        assert_eq!(record.key.as_deref(), Some(id.as_bytes()));
        let entry: Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
        assert_eq!(
            (&entry["id"], &entry["type"], &entry["source_topic"]),
            (&json!(id), &json!("order.paid"), &json!(rig.topic))
        );
        assert!(entry["duration_ms"].is_u64() && entry["time"].is_u64(), "{entry}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_told_for_each_endpoint_until_it_was_delivered() {
    let rig = Rig::new("trace-delivered", 1).await;
    let (crm, erp) = (
        Hook::start(|request| match request.nth {
            1 | 2 => Reply::status(503).body("busy"),
            _ => Reply::ok(),
        })
        .await,
        Hook::accepting().await,
    );
    let schedule = vec!["100ms", "1200ms"];
    let file = config(&rig)
        .endpoint(Endpoint::new("crm", &crm.url()).set("retry.schedule", schedule))
        .endpoint(Endpoint::new("erp", &erp.url()))
        .write();
    let mut running = Arauto::run(&file.path()).await;
    let before = now_ms();
    let event = NewRecord::new(&rig.topic, r#"{"type":"order.paid"}"#).key("k1").timestamp(before);
    let position = rig.cluster.produce(&[event]).await[0];
    crm.wait_for(1, PATIENCE).await;
    erp.wait_for(1, PATIENCE).await;
    let id = erp.requests()[0].id.clone();
    let told = told(&file, &id, |told| is(told, "crm", "delivered") && is(told, "erp", "delivered")).await;

    assert_eq!(
        (&told["id"], &told["type"], &told["attempt_log"]),
        (&json!(id), &json!("order.paid"), &json!(log(&rig)))
    );
    let place = json!({
        "topic": rig.topic, "partition": 0, "offset": position.offset, "timestamp": before,
        "found": true, "key": "k1", "bytes": 21,
    });
    assert_eq!(told["events"], json!([place]));
    assert_eq!(steps(of(&told, "erp")), ["1 delivered"]);
    assert_eq!(steps(of(&told, "crm")), ["1 retry", "2 retry", "3 delivered"]);
    let first = &of(&told, "crm")["steps"][0];
    let facts = ["status", "reason", "error"].map(|name| &first[name]);
    assert_eq!(facts, [&json!(503), &json!("status"), &json!("busy")]);
    let (at, due) = (first["at"].as_i64().unwrap(), first["due"].as_i64().unwrap());
    assert!(before <= at && at + 100 <= due, "{first}");

    let text = trace(&file, &id, &[]).await;
    for line in [
        "event ",
        "key k1",
        "crm  delivered",
        "attempt 2: 503 in ",
        "retry (status), due again ",
        "attempt 3: 200 in ",
    ] {
        assert!(text.code == 0 && text.stdout.contains(line), "{line}: {text:?}");
    }

    check_log(&rig, &id, 4).await;
    let since = trace(&file, &id, &["--since", "2100-01-01"]).await;
    assert_eq!((since.code, since.stdout.as_str()), (1, ""), "{since:?}");
    let unknown = trace(&file, "msg_nobody", &[]).await;
    assert!(unknown.code == 1 && unknown.stderr.contains("nothing is known of msg_nobody"), "{unknown:?}");
    assert_eq!(trace(&file, "no id", &[]).await.code, 2);
    assert_eq!(running.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_died_and_was_replayed_and_what_ended_without_an_attempt_is_told() {
    let rig = Rig::new("trace-dead", 1).await;
    let (crm, old) = (Hook::refusing(422).await, Hook::refusing(503).await);
    let file = config(&rig)
        .endpoint(Endpoint::new("crm", &crm.url()).set("retry.dead_on", vec![422]))
        .endpoint(
            Endpoint::new("old", &old.url()).set("retry.schedule", vec!["3s"]).set("retry.max_age", "1s"),
        )
        .write();
    let mut running = Arauto::run(&file.path()).await;
    rig.cluster.produce(&[NewRecord::new(&rig.topic, "{}")]).await;
    crm.wait_for_requests(1, PATIENCE).await;
    let id = crm.requests()[0].id.clone();
    let story = told(&file, &id, |told| is(told, "crm", "dead") && is(told, "old", "dead")).await;
    assert_eq!(steps(of(&story, "crm")), ["1 dead", "dead_letter"]);
    let letter = &of(&story, "crm")["steps"][1];
    assert_eq!(
        (&letter["reason"], &letter["status"], &letter["attempts"]),
        (&json!("rejected"), &json!(422), &json!(1))
    );
    assert_eq!(steps(of(&story, "old")), ["1 retry", "dead without", "dead_letter"]);
    assert_eq!(of(&story, "old")["steps"][1]["reason"], "expired");

    crm.script(|_| Reply::ok());
    let path = file.path();
    let replay = ["dlq", "replay", "--yes", "--name", "again", "--endpoint", "crm"];
    let replayed = arauto(&[&replay[..], &["--config", path.to_str().unwrap()]].concat()).await;
    assert_eq!(replayed.code, 0, "{replayed:?}");
    let story = told(&file, &id, |told| is(told, "crm", "delivered")).await;
    assert_eq!(steps(of(&story, "crm")), ["1 dead", "dead_letter", "replayed", "1 delivered"]);
    assert_eq!(of(&story, "crm")["steps"][2]["by"], "again");
    assert_eq!(running.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_attempt_log_what_waits_is_told_and_nothing_is_written() {
    let rig = Rig::new("trace-off", 1).await;
    let (crm, erp) = (Hook::refusing(503).await, Hook::accepting().await);
    let file = rig
        .config()
        .endpoint(
            Endpoint::new("crm", &crm.url()).set("retry.schedule", vec!["1h"]).set("types", vec!["late"]),
        )
        .endpoint(Endpoint::new("erp", &erp.url()).set("types", vec!["good"]))
        .write();
    let mut running = Arauto::run(&file.path()).await;
    let event = |kind: &str| NewRecord::new(&rig.topic, format!(r#"{{"type":"{kind}"}}"#));
    rig.cluster.produce(&[event("late"), event("good")]).await;
    erp.wait_for(1, PATIENCE).await;
    crm.wait_for_requests(1, PATIENCE).await;
    let (late, good) = (crm.requests()[0].id.clone(), erp.requests()[0].id.clone());
    let story = told(&file, &late, |told| is(told, "crm", "waiting")).await;
    assert_eq!(steps(of(&story, "crm")), ["waiting"]);
    let wait = &of(&story, "crm")["steps"][0];
    assert_eq!(
        (&wait["reason"], &wait["status"], &wait["attempts"]),
        (&json!("status"), &json!(503), &json!(1))
    );
    assert!(wait["due"].as_i64().unwrap() > now_ms() + 3_000_000, "{wait}");
    assert_eq!(story["attempt_log"], Value::Null);
    let text = trace(&file, &late, &[]).await.stdout;
    assert!(text.contains("crm  waits, due ") && text.contains("There is no attempt log"), "{text}");

    let unknown = trace(&file, &good, &[]).await;
    assert!(unknown.code == 1 && unknown.stderr.contains("there is no attempt log"), "{unknown:?}");
    assert!(!rig.cluster.topics().await.contains_key(&log(&rig)));
    assert_eq!(running.metrics().await.value("arauto_attempt_log_dropped_total", &[]), Some(0.0));
    assert_eq!(running.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_takes_nothing_is_counted_and_no_delivery_notices() {
    const EVENTS: usize = 500;
    let rig = Rig::new("trace-broken", 1).await;
    // No record fits.
    rig.cluster.create_topic(&log(&rig), 1, &[("max.message.bytes", "20")]).await;
    let hook = Hook::accepting().await;
    let file = config(&rig).endpoint(Endpoint::new("crm", &hook.url())).write();
    let mut running = Arauto::run(&file.path()).await;
    let records: Vec<_> = (0..EVENTS).map(|n| NewRecord::new(&rig.topic, format!("event {n}"))).collect();
    rig.cluster.produce(&records).await;
    hook.wait_for(EVENTS, PATIENCE).await;
    running
        .wait_for_metrics("all records to be dropped", |metrics| {
            metrics.value("arauto_attempt_log_dropped_total", &[]) == Some(EVENTS as f64)
        })
        .await;
    assert!(running.is_ready().await);
    until(PATIENCE, "everything to be settled", async || rig.cluster.lag(&rig.group, &rig.topic).await == 0)
        .await;
    running.wait_for_log("record of the attempt log dropped").await;
    assert_eq!(running.stop().await, 0);
    assert_eq!((hook.count(), rig.cluster.read(&log(&rig)).await.len()), (EVENTS, 0));
    let lines = running.logged_all("record of the attempt log dropped").len();
    assert!(lines <= EVENTS / 10, "the same warning {lines} times");
}
