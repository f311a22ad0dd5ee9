//! The command line: what each command prints, for people and for programs, and how it exits.

use std::path::Path;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    command::{Output, arauto, arauto_reading},
    config::{Config, Endpoint, SECRET},
    eventually,
    hook::Hook,
    records::NewRecord,
};

const ORDER: &str = r#"{"type":"order.paid","id":"7"}"#;

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary directories have readable names")
}

fn offline() -> Config {
    Config::new("localhost:1", "g", "p", &["orders"])
}

#[tokio::test]
async fn check_says_whether_a_file_is_valid() {
    let valid = offline().endpoint(Endpoint::new("crm", "https://crm.example.com/")).write();
    let broken = offline()
        .set("limits.in_flihgt", 5)
        .endpoint(Endpoint::new("crm", "ftp://crm.example.com/"))
        .endpoint(Endpoint::new("local", "http://10.0.0.7/"))
        .write();
    let check =
        async |file: &str, json: &[&str]| arauto(&[&["check", "--config", file], json].concat()).await;

    let output = check(text(&valid.path()), &[]).await;
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(output.stdout, format!("✓ {} is valid: 1 endpoint\n", valid.path().display()));
    let output = check(text(&valid.path()), &["--json"]).await;
    assert_eq!((output.code, output.json()), (0, json!({ "valid": true, "endpoints": 1 })));

    let output = check(text(&broken.path()), &[]).await;
    assert_eq!(output.code, 2, "{output:?}");
    for told in ["did you mean \"in_flight\"?", "neither http:// nor https://", "not public (private)"] {
        assert!(output.stdout.contains(told), "{told}: {output:?}");
    }
    let output = check(text(&broken.path()), &["--json"]).await;
    let mistakes = output.json()["mistakes"].as_array().unwrap().clone();
    assert_eq!((output.code, mistakes.len(), &output.json()["valid"]), (2, 3, &false.into()));
    assert!(mistakes.iter().all(|mistake| mistake["line"].as_u64().unwrap() > 0), "{mistakes:?}");
}

#[tokio::test]
async fn check_explains_where_an_event_goes() {
    let endpoint = |id: &str| Endpoint::new(id, "https://example.com/");
    let file = offline()
        .endpoint(endpoint("all"))
        .endpoint(endpoint("paid").set("types", vec!["order.paid"]))
        .endpoint(endpoint("refunds").set("types", vec!["refund.*"]))
        .endpoint(endpoint("acme").set("tenant", "acme"))
        .endpoint(endpoint("off").set("enabled", false))
        .write();
    let event = file.dir().join("event.json");
    std::fs::write(&event, ORDER).unwrap();
    let path = file.path();
    let check = |file: &'static str, more: &'static [&str]| {
        let file = if file == "-" { file.to_owned() } else { text(&event).to_owned() };
        let fixed = ["check", "--config", text(&path), "--topic", "orders", "--event"].map(str::to_owned);
        let words: Vec<_> =
            fixed.into_iter().chain([file]).chain(more.iter().map(|w| (*w).to_owned())).collect();
        async move { arauto_reading(&words.iter().map(String::as_str).collect::<Vec<_>>(), ORDER).await }
    };
    let verdicts = |output: &Output| -> Vec<String> {
        let json = output.json();
        let lines = json["event"]["endpoints"].as_array().unwrap();
        lines.iter().map(|line| line["verdict"].as_str().unwrap().to_owned()).collect()
    };

    let output = check("file", &[]).await;
    assert_eq!(output.code, 0, "{output:?}");
    for told in
        ["type    order.paid", "✓ paid ", "✗ refunds  wants types [refund.*]", "2 of 5 endpoints get it"]
    {
        assert!(output.stdout.contains(told), "{told}: {output:?}");
    }
    let output = check("-", &["--json", "--header", "tenant=acme", "--header", "ce_type=refund.made"]).await;
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(verdicts(&output), ["wanted", "not_type", "wanted", "wanted", "disabled"]);

    // Half of it is wrong usage.
    for words in
        [&["check", "--topic", "orders"][..], &["check", "--event", "-"], &["check", "--header", "x"]]
    {
        assert_eq!(arauto(words).await.code, 2, "{words:?}");
    }
    let gone = file.dir().join("gone.json");
    let words = ["check", "--config", text(&path), "--topic", "orders", "--event", text(&gone)];
    let output = arauto(&words).await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("reading the event from"), "{output:?}");
}

#[tokio::test]
async fn run_with_a_wrong_configuration_ends_with_2_and_names_every_mistake() {
    let file = offline().set("limits.hold", "soon").endpoint(Endpoint::new("e", "http://[::1]/")).write();
    for words in [&["run", "--config", text(&file.path())][..], &["topics", "--config", text(&file.path())]] {
        let output = arauto(words).await;
        assert_eq!(output.code, 2, "{output:?}");
        for told in ["arauto: the configuration is wrong", "hold", "not public (loopback)"] {
            assert!(output.stderr.contains(told), "{told}: {output:?}");
        }
        assert_eq!(output.stdout, "");
    }
    let output = arauto(&["run", "--config", "/nowhere/arauto.toml"]).await;
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("name the file with --config or ARAUTO_CONFIG"), "{output:?}");
}

#[tokio::test]
async fn help_lists_every_command_and_the_exit_codes() {
    let output = arauto(&["--help"]).await;
    assert_eq!(output.code, 0);
    for command in
        ["run", "dev", "check", "topics", "send", "listen", "offsets", "lag", "lanes", "retries", "doctor"]
    {
        assert!(output.stdout.contains(&format!("\n  {command} ")), "{command}: {}", output.stdout);
        let help = arauto(&[command, "--help"]).await;
        assert_eq!(help.code, 0, "{command}");
        assert!(help.stdout.contains("--json") && help.stdout.contains("--config"), "{command}: {help:?}");
    }
    assert!(output.stdout.contains("Exit codes: 0 done, 1 failed, 2 wrong usage or configuration."));
    for words in [&[][..], &["dance"], &["run", "--loud"], &["dev", "--events", "0"]] {
        assert_eq!(arauto(words).await.code, 2, "{words:?}");
    }
}

#[tokio::test]
async fn topics_are_shown_created_and_compared() {
    let rig = Rig::new("cli-topics", 1).await;
    let file = rig.config().write();
    let path = file.path();
    let topics = async |more: &[&str]| arauto(&[&["topics", "--config", text(&path)], more].concat()).await;
    let state = |output: &Output, topic: &str| -> String {
        let lines = output.json();
        let line = lines.as_array().unwrap().iter().find(|line| line["topic"] == topic).cloned();
        line.map(|line| line["state"].as_str().unwrap().to_owned()).unwrap_or_default()
    };

    let output = topics(&[]).await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stdout.contains("`arauto topics --create` creates what is missing"), "{output:?}");
    let output = topics(&["--json"]).await;
    assert_eq!((output.code, state(&output, &rig.dead())), (1, "missing".to_owned()));
    assert_eq!(state(&output, &rig.topic), "ok");
    assert!(!rig.cluster.topics().await.contains_key(&rig.dead()), "asking creates nothing");

    let output = topics(&["--create", "--json"]).await;
    assert_eq!(output.code, 0, "{output:?}");
    for topic in [rig.tier("0s"), rig.tier("1s"), rig.tier("3s"), rig.dead(), rig.state()] {
        assert_eq!(state(&output, &topic), "ok", "{topic}");
    }
    let tier = rig.cluster.topic_config(&rig.tier("3s")).await;
    assert_eq!((&*tier["message.timestamp.type"], &*tier["retention.bytes"]), ("LogAppendTime", "-1"));
    assert_eq!(tier["retention.ms"], (3_000 + 14 * 86_400_000_i64).to_string());
    assert_eq!(rig.cluster.topic_config(&rig.state()).await["cleanup.policy"], "compact");
    assert_eq!(topics(&[]).await.code, 0);

    // What is wanted changes: creating again alters nothing.
    file.rewrite(&rig.config().set("topics.dead_retention", "31d"));
    let output = topics(&["--create"]).await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stdout.contains("differs: retention.ms is 2592000000, wanted 2678400000"), "{output:?}");
    assert_eq!(state(&topics(&["--json"]).await, &rig.dead()), "differs");
    assert_eq!(rig.cluster.topic_config(&rig.dead()).await["retention.ms"], "2592000000");

    file.rewrite(&rig.config().set("kafka.topics", vec![rig.topic.clone(), format!("{}x", rig.topic)]));
    let output = topics(&[]).await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stdout.contains("Source topics belong to their producers"), "{output:?}");
}

#[tokio::test]
async fn send_waits_for_every_acknowledgement() {
    let rig = Rig::new("cli-send", 1).await;
    let file = rig.config().write();
    let (path, event) = (file.path(), file.dir().join("event.json"));
    std::fs::write(&event, ORDER).unwrap();
    let (brokers, topic) = (rig.cluster.brokers().to_owned(), rig.topic.clone());

    let words = ["send", "--config", text(&path), "--topic", &topic, "--key", "k", text(&event)];
    let output = arauto(&words).await;
    assert_eq!((output.code, output.stdout), (0, format!("sent to {topic}, partition 0, offset 0\n")));
    let fixed = ["send", "--brokers", &brokers, "--topic", &topic];
    let more = ["--header", "a=b=c", "--header", "empty=", "--count", "25", "--json", "-"];
    let output = arauto_reading(&[&fixed[..], &more[..]].concat(), "from\nstdin").await;
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(
        output.json(),
        json!({ "topic": topic, "sent": 25, "failed": 0, "errors": {}, "last": { "topic": topic, "partition": 0, "offset": 25 } })
    );
    let records = rig.cluster.read(&topic).await;
    assert_eq!(records.len(), 26);
    assert_eq!(
        (records[0].key.as_deref(), records[0].value.as_deref()),
        (Some(&b"k"[..]), Some(ORDER.as_bytes()))
    );
    let last = &records[25];
    assert_eq!((&last.key, last.value.as_deref()), (&None, Some(&b"from\nstdin"[..])));
    assert_eq!((last.header("a"), last.header("empty")), (Some("b=c"), Some("")));

    let output = arauto(&["send", "--brokers", &brokers, "--topic", "no-such-topic", text(&event)]).await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("topic `no-such-topic` does not exist on"), "{output:?}");
    assert!(!rig.cluster.topics().await.contains_key("no-such-topic"), "asking made it");
    for wrong in [&["--rate", "fast"][..], &["--header", "x"], &["--count", "many"]] {
        assert_eq!(arauto(&[&fixed[..], wrong].concat()).await.code, 2, "{wrong:?}");
    }
    assert_eq!(arauto(&["send", "--config", "/nowhere", "--topic", &topic]).await.code, 2);
}

#[tokio::test]
async fn offsets_show_where_the_group_stands_and_set_it_only_without_members() {
    let rig = Rig::new("cli-offsets", 2).await;
    let hook = Hook::accepting().await;
    let file = rig.config().endpoint(Endpoint::new("e", &hook.url())).write();
    let path = file.path();
    let offsets = async |more: &[&str]| arauto(&[&["offsets", "--config", text(&path)], more].concat()).await;
    let records: Vec<_> = (0..10).map(|n| NewRecord::new(&rig.topic, "x").partition(n % 2)).collect();
    rig.cluster.produce(&records).await;
    let mut run = Arauto::run(&path).await;
    hook.wait_for(10, PATIENCE).await;

    let output = offsets(&["--reset", "earliest"]).await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("is an instance of the group still running?"), "{output:?}");
    assert_eq!(run.stop().await, 0);
    let rows = |output: &Output| -> Vec<Value> {
        let of = |row: &&Value| row["topic"] == *rig.topic;
        output.json().as_array().unwrap().iter().filter(of).cloned().collect()
    };
    let row = |partition: i32, committed: i64| {
        json!({ "topic": rig.topic, "partition": partition, "committed": committed, "first": 0, "end": 5,
                "lag": 5 - committed })
    };
    assert_eq!(rows(&offsets(&["--json"]).await), [row(0, 5), row(1, 5)]);
    let output = offsets(&["--json", "--reset", "earliest"]).await;
    assert_eq!((output.code, rows(&output)), (0, vec![row(0, 0), row(1, 0)]));
    assert_eq!(rows(&offsets(&["--json", "--reset", "latest"]).await), [row(0, 5), row(1, 5)]);
    assert_eq!(rows(&offsets(&["--json", "--reset", "1h"]).await), [row(0, 0), row(1, 0)]);
    let output = offsets(&[]).await;
    assert!(output.stdout.starts_with("TOPIC ") && output.stdout.contains(&rig.topic), "{output:?}");
    let output = offsets(&["--reset", "someday"]).await;
    assert_eq!(output.code, 2, "{output:?}");

    // It goes on where it was told to.
    let _run = Arauto::run(&path).await;
    hook.wait_for_requests(20, PATIENCE).await;
}

/// Sends one webhook to a listener; the status of its answer.
async fn post(address: &str, id: &str, signed_with: Option<&str>) -> u16 {
    let mut head = format!("POST /hook HTTP/1.0\r\ncontent-length: 2\r\nwebhook-id: {id}\r\n");
    if let Some(secret) = signed_with {
        let at = crate::support::now_ms() / 1000;
        let signature = standardwebhooks::Webhook::new(secret).unwrap().sign(id, at, b"{}").unwrap();
        head += &format!("webhook-timestamp: {at}\r\nwebhook-signature: {signature}\r\n");
    }
    let answer = exchange(address, &format!("{head}\r\n{{}}")).await;
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line")
}

async fn exchange(address: &str, request: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn listen(more: &[&str]) -> (Arauto, String) {
    let listener = Arauto::spawn([&["listen", "--json", "--addr", "127.0.0.1:0"], more].concat());
    let address = eventually(PATIENCE, "the listener", async || {
        listener.log().iter().find_map(|line| line["listening"].as_str().map(str::to_owned))
    })
    .await;
    (listener, address)
}

#[tokio::test]
async fn listen_verifies_counts_and_ends_with_what_it_found() {
    const OTHER: &str = "whsec_b3RoZXIgc2VjcmV0LCBvdGhlciBrZXku";
    let (mut listener, address) = listen(&["--secret", SECRET, "--count", "3", "--status", "202"]).await;
    assert_eq!(post(&address, "one", Some(SECRET)).await, 202);
    assert_eq!(post(&address, "one", Some(SECRET)).await, 202);
    let page = exchange(&address, "GET /stats HTTP/1.0\r\n\r\n").await;
    let stats: Value = serde_json::from_str(page.split_once("\r\n\r\n").unwrap().1).unwrap();
    let counts = ["received", "unique", "duplicates", "verified", "failed_verification"];
    assert_eq!(counts.map(|count| stats[count].as_u64().unwrap()), [2, 1, 1, 2, 0]);
    assert_eq!(post(&address, "two", Some(SECRET)).await, 202);
    assert_eq!(listener.ended(PATIENCE).await.code(), Some(0));
    let log = eventually(PATIENCE, "the summary", async || {
        Some(listener.log()).filter(|log| log.last().is_some_and(|line| !line["summary"].is_null()))
    })
    .await;
    let duplicates: Vec<_> = log.iter().filter_map(|line| line["duplicate"].as_bool()).collect();
    assert_eq!(duplicates, [false, true, false]);

    for wrong in [None, Some(OTHER)] {
        let (mut listener, address) = listen(&["--secret", SECRET, "--count", "1"]).await;
        post(&address, "one", wrong).await;
        assert_eq!(listener.ended(PATIENCE).await.code(), Some(1), "{wrong:?}");
    }
    let (mut listener, address) = listen(&["--count", "2", "--fail-percent", "100"]).await;
    assert_eq!(post(&address, "one", None).await, 500);
    assert_eq!(post(&address, "one", None).await, 500);
    assert_eq!(listener.ended(PATIENCE).await.code(), Some(0), "nothing was to be verified");
    for wrong in [["--status", "99"], ["--fail-percent", "101"], ["--addr", "here"], ["--delay", "soon"]] {
        assert_eq!(arauto(&[&["listen"], &wrong[..]].concat()).await.code, 2, "{wrong:?}");
    }
}
