//! What the log says of deliveries, that a flood of warnings does not become a flood of lines, and that its levels
//! change while everything runs.

use serde_json::{Value, json};

use crate::support::{
    PATIENCE, Rig,
    arauto::{Arauto, field},
    command::arauto as arauto_command,
    config::{Config, Endpoint},
    hook::{Hook, Reply},
    records::NewRecord,
    until,
};

async fn publish(rig: &Rig, count: usize) {
    let records: Vec<_> = (0..count).map(|n| NewRecord::new(&rig.topic, format!("event {n}"))).collect();
    rig.cluster.produce(&records).await;
}

fn config(rig: &Rig, hook: &Hook) -> Config {
    let endpoint = Endpoint::new("crm", &hook.url()).set("retry.schedule", Vec::<String>::new());
    rig.config().endpoint(endpoint)
}

/// Ended deliveries, as logged at debug.
fn finished(arauto: &Arauto) -> Vec<Value> {
    arauto.logged_all("delivery finished")
}

#[tokio::test]
async fn a_dead_letter_is_told_and_not_what_the_receiver_said() {
    let rig = Rig::new("logs-dead", 1).await;
    let hook = Hook::start(|_| Reply::status(422).body("no such order")).await;
    let file = config(&rig, &hook).write();
    let mut arauto = Arauto::run(&file.path()).await;
    publish(&rig, 1).await;
    let line = arauto.wait_for_log("dead letter").await;
    let id = hook.requests()[0].id.clone();
    for (name, expected) in [
        ("level", json!("WARN")),
        ("id", json!(id)),
        ("endpoint", json!("crm")),
        ("reason", json!("exhausted")),
        ("attempts", json!(1)),
        ("status", json!(422)),
        // What a receiver says may repeat what it was sent: it is in the letter only.
        ("error", Value::Null),
    ] {
        assert_eq!(line[name], expected, "{name} of {line}");
    }
    assert!(!line.to_string().contains("no such order"), "{line}");
    assert_eq!(arauto.stop().await, 0);
}

#[tokio::test]
async fn levels_change_while_it_runs() {
    let rig = Rig::new("logs-levels", 1).await;
    let hook = Hook::accepting().await;
    let file = config(&rig, &hook).write();
    let mut arauto = Arauto::run(&file.path()).await;
    let told =
        async |level: &str| arauto.get("/log").await == Some((200, json!({ "level": level }).to_string()));
    assert!(told("info").await);
    publish(&rig, 1).await;
    hook.wait_for(1, PATIENCE).await;
    // It is logged before it is committed, if it is.
    until(PATIENCE, "it to be settled", async || rig.cluster.lag(&rig.group, &rig.topic).await == 0).await;

    let (status, answer) = arauto.put("/log", "", "arauto=debug\n").await;
    assert_eq!((status, answer), (200, json!({ "level": "arauto=debug" })));
    publish(&rig, 1).await;
    until(PATIENCE, "a delivery to be logged", async || !finished(&arauto).is_empty()).await;
    let lines = finished(&arauto);
    assert_eq!(lines.len(), 1, "only since then: {lines:?}");
    let line = &lines[0];
    let text = ["level", "endpoint", "outcome", "id"].map(|name| field(line, name));
    assert_eq!(text, [Some("DEBUG"), Some("crm"), Some("delivered"), Some(&*hook.requests()[1].id)]);
    assert_eq!((&line["attempts"], &line["status"]), (&json!(1), &json!(200)));
    assert!(line["duration_ms"].is_u64() && line["latency_ms"].is_u64(), "{line}");

    for (level, why) in
        [("inof", "did you mean \"info\"?"), ("arauto=loud", "write a filter"), ("", "write a level")]
    {
        let (status, answer) = arauto.put("/log", "", level).await;
        let error = answer["error"].as_str().unwrap();
        assert!(
            status == 400 && error.contains(&format!("{level:?}")) && error.contains(why),
            "{status} {answer}"
        );
    }
    assert_eq!(arauto.put("/log", "origin: null\r\n", "trace").await.0, 403);
    assert!(told("arauto=debug").await, "what was refused changed nothing");

    let command = async |words: &[&str]| {
        arauto_command(&[&["log", "--admin", arauto.admin_address()], words].concat()).await
    };
    let shown = format!("{} logs arauto=debug\n", arauto.admin_address());
    assert_eq!(command(&[]).await.stdout, shown);
    assert_eq!(command(&["arauto=trace", "--json"]).await.json(), json!({ "level": "arauto=trace" }));
    assert_eq!(command(&["arauto=debug"]).await.stdout, shown);
    let refused = command(&["inof"]).await;
    assert!(refused.code == 2 && refused.stderr.contains("did you mean"), "{refused:?}");

    // A reload with another level takes it over; one with the same level leaves what was put.
    arauto.signal("HUP");
    arauto.wait_for_log("configuration taken over").await;
    assert!(told("arauto=debug").await);
    file.rewrite(&config(&rig, &hook).set("log.level", "warn"));
    arauto.signal("HUP");
    until(PATIENCE, "the level of the file", async || told("warn").await).await;
    assert_eq!(arauto.stop().await, 0);
}

#[tokio::test]
async fn a_flood_of_dead_letters_becomes_a_few_lines_and_a_count() {
    const LETTERS: usize = 500;
    let rig = Rig::new("logs-flood", 1).await;
    let hook = Hook::refusing(422).await;
    let file = config(&rig, &hook).write();
    let mut arauto = Arauto::run(&file.path()).await;
    publish(&rig, LETTERS).await;
    let dead = |metrics: &crate::support::metrics::Metrics| metrics.sum("arauto_dead_total", &[]) as usize;
    arauto.wait_for_metrics("all dead letters", |metrics| dead(metrics) == LETTERS).await;
    // What goes on is told of at the end.
    assert_eq!(arauto.stop().await, 0);
    let (lines, told) = (arauto.logged_all("dead letter"), arauto.logged_all("warnings left out"));
    let told: Vec<_> =
        told.iter().filter(|line| field(line, "message_repeated") == Some("dead letter")).collect();
    let left_out: u64 = told.iter().map(|line| line["left_out"].as_u64().unwrap()).sum();
    assert_eq!(lines.len() + usize::try_from(left_out).unwrap(), LETTERS, "every one is told or counted");
    assert_eq!(field(told[0], "about"), Some("endpoint=crm"));
    // Ten in ten seconds; a starved machine may need several times ten.
    assert!(lines.len() <= LETTERS / 5, "{} lines", lines.len());
}
