//! `dlq show` tells all there is about a letter, however it is named; `dlq tail` tells of letters as they die.

use std::cell::Cell;

use crate::support::{
    PATIENCE, Rig,
    command::{Output, arauto},
    config::{ConfigFile, Endpoint},
    letters::Letter,
    until,
};

async fn rig(name: &str) -> (Rig, ConfigFile) {
    let rig = Rig::new(name, 1).await;
    let dead = rig.dead();
    rig.cluster.create_topic(&dead, 1, &[]).await;
    let refused = Letter::new(&dead, "msg_1")
        .with("arauto-status", &503)
        .with("arauto-error", &"try \x1b[31mlater")
        .with("arauto-first-attempt", &1_700_000_000_005_i64)
        .header("x-region", "eu")
        .header("type", "order.paid")
        .value(r#"{"b":1.0,"it's":[]}"#);
    let other = Letter::new(&dead, "msg_1").with("arauto-endpoint", &"gone-since");
    let binary = Letter::new(&dead, "msg_2").with("arauto-source-offset", &8).value([0, 255, b'A']);
    rig.cluster.produce(&[refused.record(), other.record(), binary.record()]).await;
    let crm = Endpoint::new("crm", "http://127.0.0.1:9/hooks?a=1&b=2")
        .set("headers.x-api-key", "very secret")
        .set("forward", vec!["x-region"]);
    let config = rig.config().set("events.type", vec!["header:type"]).endpoint(crm).write();
    (rig, config)
}

async fn run(config: &ConfigFile, arguments: &[&str]) -> Output {
    let path = config.path();
    arauto(&[&["dlq", "--config", path.to_str().unwrap()], arguments].concat()).await
}

#[tokio::test]
async fn everything_is_told() {
    let (rig, config) = rig("dlq-show").await;
    let output = run(&config, &["show", "0:0"]).await;
    assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{output:?}");
    let dead = rig.dead();
    for line in [
        &format!("letter      {dead}:0:0"),
        "reason      exhausted",
        "status      503",
        "error       try \\u{1b}[31mlater",
        "endpoint    crm",
        "id          msg_1",
        "type        order.paid",
        "tenant      -",
        "key         null",
        "source      orders:0:7, 2023-11-14T22:13:20Z",
        "attempts    8",
        "  x-region: eu",
        "body  19 bytes, JSON",
        "  \"b\": 1.0,",
        "  \"it's\": []",
        r#"arauto sign --body '{"b":1.0,"it'\''s":[]}' --endpoint crm --id msg_1 |"#,
        r"  curl -i -X POST 'http://127.0.0.1:9/hooks?a=1&b=2' \",
        r"    -H @- \",
        r"    -H 'arauto-attempt: 8' \",
        r"    -H 'arauto-event-type: order.paid' \",
        r"    -H 'x-region: eu' \",
        r#"    -H "x-api-key: $X_API_KEY" \"#,
        r#"    --data-raw '{"b":1.0,"it'\''s":[]}'"#,
    ] {
        assert!(output.stdout.lines().any(|shown| shown == line), "{line}\n{}", output.stdout);
    }
    assert!(!output.stdout.contains("very secret") && !output.stdout.contains('\x1b'), "{output:?}");
}

#[tokio::test]
async fn a_letter_is_found_by_any_of_its_names() {
    let (rig, config) = rig("dlq-show-names").await;
    let show = async |which: &str| {
        let output = run(&config, &["show", which, "--json"]).await;
        assert_eq!(output.code, 0, "{which}: {output:?}");
        let offset = |line: &serde_json::Value| line["letter"]["offset"].as_i64().unwrap();
        output.json_lines().iter().map(offset).collect::<Vec<_>>()
    };
    assert_eq!(show("msg_1").await, [0, 1]);
    assert_eq!(show("0:2").await, [2]);
    assert_eq!(show(&format!("{}:0:1", rig.dead())).await, [1]);
    assert_eq!(show("orders:0:7").await, [0, 1]);
    assert_eq!(show("orders:0:8").await, [2]);

    let lines = run(&config, &["show", "msg_1", "--json"]).await.json_lines();
    assert_eq!(lines[0]["record"]["value"]["json"]["b"], 1.0);
    assert!(lines[0]["curl"].is_string() && lines[1]["curl"].is_null(), "{lines:?}");

    let output = run(&config, &["show", "msg_1"]).await;
    assert!(
        output.stdout.contains("2 of 2 letters") && output.stdout.contains("no request to repeat"),
        "{output:?}"
    );
    let output = run(&config, &["show", "0:2"]).await;
    assert!(output.stdout.contains("00000000  00 ff 41 "), "{output:?}");
    assert!(output.stdout.contains("arauto dlq show 0:2 --body > letter-0-2\n"), "{output:?}");

    for (which, code, said) in [
        ("msg_3", 1, "there is no letter msg_3 on "),
        ("0:3", 1, "there is no letter 0:3 on "),
        ("7:0", 1, "has no partition 7, only 0 to 0"),
        ("a b", 2, "names no letter; write a webhook id"),
    ] {
        let output = run(&config, &["show", which]).await;
        assert_eq!(output.code, code, "{which}: {output:?}");
        assert!(output.stderr.contains(said), "{which}: {output:?}");
    }
}

#[tokio::test]
async fn the_body_comes_alone() {
    let (_rig, config) = rig("dlq-show-body").await;
    let output = run(&config, &["show", "0:0", "--body"]).await;
    assert_eq!((output.code, output.stdout.as_str()), (0, r#"{"b":1.0,"it's":[]}"#), "{output:?}");
}

#[tokio::test]
async fn who_follows_hears_of_each_letter() {
    let (rig, config) = rig("dlq-tail").await;
    let (mut number, told) = (0, Cell::new(false));
    // From now on: what is there already is not told.
    let tail = async {
        let output = run(&config, &["tail", "--json", "--endpoint", "late", "--limit", "3"]).await;
        told.set(true);
        output
    };
    let dying = until(PATIENCE, "three letters to be told", async || {
        let late = Letter::new(&rig.dead(), &format!("msg_late_{number}")).with("arauto-endpoint", &"late");
        let other = Letter::new(&rig.dead(), "msg_other");
        rig.cluster.produce(&[late.record(), other.record()]).await;
        number += 1;
        told.get()
    });
    let (output, ()) = tokio::join!(tail, dying);
    let lines = output.json_lines();
    assert_eq!((output.code, lines.len()), (0, 3), "{output:?}");
    assert!(lines.iter().all(|line| line["endpoint"] == "late"), "{output:?}");
    let numbers: Vec<_> = lines.iter().map(|line| line["offset"].as_i64().unwrap()).collect();
    assert!(numbers.is_sorted() && numbers[2] - numbers[0] == 4, "one after the other: {numbers:?}");
}
