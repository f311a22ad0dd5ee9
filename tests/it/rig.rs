//! The rig itself, against the real broker and without Arauto: what the other modules trust is tried here.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::Timestamp;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    PATIENCE, Rig,
    arauto::field,
    broker::Broker,
    cluster::{Cluster, End},
    config::{Config, Endpoint},
    hook::{Hook, Reply},
    metrics::Metrics,
    raw::{Raw, Step},
    records::{Committed, NewRecord},
    unique, until,
};

#[tokio::test]
async fn records_come_back_as_they_were_written() {
    let rig = Rig::new("rig-records", 3).await;
    let record = NewRecord::new(&rig.topic, [0, 159, 146, 150])
        .key("a key")
        .partition(2)
        .timestamp(1_700_000_000_123)
        .header("text", "value")
        .header("empty", "")
        .header("binary", [255, 0])
        .null_header("null")
        .header("text", "again");
    let tombstone = NewRecord::tombstone(&rig.topic).partition(0);
    let positions = rig.cluster.produce(&[record.clone(), tombstone]).await;

    let read = rig.cluster.read(&rig.topic).await;
    assert_eq!(read.len(), 2);
    assert_eq!((read[0].partition, read[0].offset), (positions[1].partition, positions[1].offset));
    assert_eq!((&read[0].key, &read[0].value, read[0].headers.len()), (&None, &None, 0));
    assert_eq!((read[1].partition, read[1].offset), (2, 0));
    assert_eq!((&read[1].key, &read[1].value), (&record.key, &record.value));
    assert_eq!(read[1].headers, record.headers);
    assert_eq!(read[1].header("text"), Some("value"));
    assert_eq!(read[1].timestamp, Timestamp::CreateTime(1_700_000_000_123));
}

#[tokio::test]
async fn many_records_are_produced_and_read_quickly() {
    let rig = Rig::new("rig-many", 8).await;
    let records: Vec<_> = (0..20_000)
        .map(|n| NewRecord::new(&rig.topic, format!("event {n}")).partition(n % 8).key(format!("{n}")))
        .collect();
    let positions = rig.cluster.produce(&records).await;
    assert!(
        positions
            .iter()
            .zip(0..)
            .all(|(position, n)| (position.partition, position.offset) == (n % 8, i64::from(n / 8)))
    );
    assert_eq!(rig.cluster.read(&rig.topic).await.len(), records.len());
}

#[tokio::test]
async fn aborted_transactions_are_not_read() {
    let rig = Rig::new("rig-transactions", 1).await;
    let record = |value: &str| [NewRecord::new(&rig.topic, value).partition(0)];
    rig.cluster.produce_in_transaction(&record("aborted"), End::Abort).await;
    rig.cluster.produce_in_transaction(&record("committed"), End::Commit).await;
    let read = rig.cluster.read(&rig.topic).await;
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].value.as_deref(), Some(&b"committed"[..]));
    // Both records and both end markers are in the log.
    assert_eq!(rig.cluster.watermarks(&rig.topic, 0).await, (0, 4));
}

#[tokio::test]
async fn topics_change_as_told() {
    let rig = Rig::new("rig-topics", 2).await;
    let name = unique("rig-stamped");
    let config = [("message.timestamp.type", "LogAppendTime"), ("retention.ms", "60000")];
    rig.cluster.create_topic(&name, 1, &config).await;
    assert_eq!(rig.cluster.topic_config(&name).await["retention.ms"], "60000");
    rig.cluster.produce(&[NewRecord::new(&name, "stamped").timestamp(1)]).await;
    assert!(matches!(rig.cluster.read(&name).await[0].timestamp, Timestamp::LogAppendTime(ms) if ms > 1));

    rig.cluster.add_partitions(&rig.topic, 5).await;
    assert_eq!(rig.cluster.topics().await[&rig.topic], 5);

    let records: Vec<_> = (0..10).map(|_| NewRecord::new(&rig.topic, "x").partition(4)).collect();
    rig.cluster.produce(&records).await;
    rig.cluster.delete_records(&rig.topic, 4, 7).await;
    assert_eq!(rig.cluster.watermarks(&rig.topic, 4).await, (7, 10));
    assert_eq!(rig.cluster.read(&rig.topic).await.len(), 3);

    rig.cluster.delete_topic(&name).await;
    until(PATIENCE, "the topic to be gone", async || !rig.cluster.topics().await.contains_key(&name)).await;
}

#[tokio::test]
async fn group_offsets_are_seen_with_their_metadata() {
    let rig = Rig::new("rig-offsets", 2).await;
    let records: Vec<_> = (0..6).map(|n| NewRecord::new(&rig.topic, "x").partition(n % 2)).collect();
    rig.cluster.produce(&records).await;
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 6);

    rig.cluster.commit(&rig.group, &rig.topic, 1, 2, "what is owed").await;
    let none = Committed { partition: 0, offset: None, metadata: String::new() };
    let two = Committed { partition: 1, offset: Some(2), metadata: "what is owed".to_owned() };
    assert_eq!(rig.cluster.committed(&rig.group, &rig.topic).await, [none.clone(), two]);
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 4);

    rig.cluster.delete_group(&rig.group).await;
    assert_eq!(rig.cluster.committed(&rig.group, &rig.topic).await[1], Committed { partition: 1, ..none });
}

#[tokio::test]
async fn a_broker_of_its_own_keeps_its_data_over_stop_and_kill() {
    let mut broker = Broker::start().await;
    let cluster = Cluster::at(broker.address());
    cluster.create_topic("kept", 1, &[]).await;
    for stop_first in [true, false] {
        cluster.produce(&[NewRecord::new("kept", "x")]).await;
        if stop_first {
            broker.stop().await;
        } else {
            broker.kill().await;
        }
        broker.restart().await;
    }
    assert_eq!(cluster.read("kept").await.len(), 2);
}

#[tokio::test]
async fn a_hook_answers_as_scripted_and_remembers() {
    let hook = Hook::failing_first(1, 503).await;
    let send = async |id: &str| exchange(hook.address(), &request(id, "hello")).await;
    assert!(send("a").await.starts_with("HTTP/1.1 503 "));
    assert!(send("a").await.starts_with("HTTP/1.1 200 "));
    assert!(send("a").await.starts_with("HTTP/1.1 200 "));
    hook.script(|_| {
        Reply::status(429).header("retry-after", "2").body("slower").after(Duration::from_millis(5))
    });
    let answer = send("b").await;
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("retry-after: 2"), "{answer}");
    assert!(answer.ends_with("slower"), "{answer}");

    hook.wait_for(1, PATIENCE).await;
    assert_eq!((hook.count(), hook.duplicates(), hook.most_at_once()), (4, 1, 1));
    assert_eq!(hook.accepted(), ["a".to_owned()].into());
    assert_eq!(hook.accepted_bodies(), ["hello".to_owned()].into());
    let first = &hook.requests_of("a")[0];
    assert_eq!((first.nth, first.status, first.header("webhook-id")), (1, Some(503), Some("a")));
}

#[tokio::test]
async fn a_raw_receiver_breaks_http_as_told() {
    let lying = Raw::answering("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort").await;
    assert!(exchange(lying.address(), &request("a", "")).await.ends_with("short"));
    assert_eq!(lying.connections(), 1);

    let dripping =
        Raw::start(vec![Step::ReadHead, Step::Drip(b"x".to_vec(), Duration::from_millis(1))]).await;
    let mut stream = tokio::net::TcpStream::connect(dripping.address()).await.unwrap();
    stream.write_all(request("a", "").as_bytes()).await.unwrap();
    let mut some = [0; 20];
    stream.read_exact(&mut some).await.unwrap();
    assert_eq!(some, [b'x'; 20]);

    let resetting = Raw::resetting().await;
    let mut stream = tokio::net::TcpStream::connect(resetting.address()).await.unwrap();
    stream.write_all(request("a", "").as_bytes()).await.unwrap();
    let error = stream.read(&mut some).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_configuration_is_written_key_by_key() {
    let endpoint = Endpoint::new("crm", "http://127.0.0.1:1/").set("retry.schedule", vec!["1s"]);
    let config = Config::new("localhost:1", "g", "p", &["orders"])
        .set("limits.in_flight", 10)
        .property("session.timeout.ms", "6000")
        .without("topics.tiers")
        .endpoint(endpoint);
    let file = config.write();
    let written: toml::Table = std::fs::read_to_string(file.path()).unwrap().parse().unwrap();
    assert_eq!(written["limits"]["in_flight"], 10.into());
    assert_eq!(written["kafka"]["properties"]["session.timeout.ms"], "6000".into());
    assert_eq!(written["endpoints"][0]["retry"]["schedule"][0], "1s".into());
    assert!(!written["topics"].as_table().unwrap().contains_key("tiers"));
}

#[test]
fn a_page_of_metrics_is_taken_apart() {
    let page = r##"
# HELP a_total Things.
# TYPE a_total counter
a_total{e="x",r="q\"},{"} 2
a_total{e="y"} 3.5
# TYPE b gauge
b 1e3
"##;
    let metrics = Metrics::parse(page);
    assert_eq!(metrics.types()["a_total"], "counter");
    assert_eq!(metrics.sum("a_total", &[]).to_string(), "5.5");
    assert_eq!(metrics.value("a_total", &[("r", "q\"},{")]), Some(2.0));
    assert_eq!((metrics.value("b", &[]), metrics.value("c", &[])), (Some(1000.0), None));
    assert_eq!(metrics.label_values("a_total", "e"), ["x", "y"].into());
    assert_eq!(metrics.series("a_total")[1].0, &BTreeMap::from([("e".to_owned(), "y".to_owned())]));
}

#[test]
fn a_field_of_a_log_line_is_found_nested_and_flat() {
    let nested = json!({ "level": "INFO", "fields": { "message": "m", "address": "a" } });
    let flat = json!({ "level": "INFO", "message": "m", "address": "a" });
    for line in [&nested, &flat] {
        assert_eq!((field(line, "message"), field(line, "address")), (Some("m"), Some("a")));
    }
}

fn request(id: &str, body: &str) -> String {
    let length = body.len();
    let fixed = "POST /hook HTTP/1.1\r\nhost: x\r\nconnection: close";
    format!("{fixed}\r\nwebhook-id: {id}\r\ncontent-length: {length}\r\n\r\n{body}")
}

async fn exchange(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
