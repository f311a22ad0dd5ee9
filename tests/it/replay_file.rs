//! `arauto send --replay-file`: recorded events are published byte for byte, and a wrong line publishes nothing.

use std::fs;

use serde_json::json;

use crate::support::{
    Rig,
    command::{arauto, arauto_reading},
};

#[tokio::test]
async fn recorded_events_are_published_in_their_order() {
    let rig = Rig::new("replay-file", 1).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events.jsonl");
    let file = file.to_str().unwrap();
    let brokers = rig.cluster.brokers().to_owned();
    let topic = rig.topic.as_str();
    let by_hand = json!({ "topic": topic, "key": "7", "headers": { "ce_type": "order.paid" }, "value": { "text": "{ }" } });
    let dead = json!({
        "v": 1, "topic": "gone.dead", "partition": 0, "offset": 7, "died": 9, "key": { "text": "crm" },
        "headers": [
            { "name": "arauto-source-topic", "text": topic }, { "name": "arauto-key", "base64": "/w==" },
            { "name": "own", "base64": "AP8=" }, { "name": "null" },
        ],
        "value": { "base64": "/wA=" },
    });
    fs::write(file, format!("{by_hand}\n\n{dead}\n")).unwrap();
    let send = ["send", "--brokers", &brokers, "--json", "--replay-file"];
    let output = arauto(&[&send[..], &[file]].concat()).await;
    assert_eq!(output.code, 0, "{output:?}");
    let last = json!({ "topic": topic, "partition": 0, "offset": 1 });
    assert_eq!(output.json(), json!({ "topic": topic, "sent": 2, "failed": 0, "errors": {}, "last": last }));
    let records = rig.cluster.read(topic).await;
    assert_eq!(records.len(), 2);
    assert_eq!(
        (records[0].key.as_deref(), records[0].value.as_deref()),
        (Some(&b"7"[..]), Some(&b"{ }"[..]))
    );
    assert_eq!(records[0].header("ce_type"), Some("order.paid"));
    assert_eq!(
        (records[1].key.as_deref(), records[1].value.as_deref()),
        (Some(&[255][..]), Some(&[255, 0][..]))
    );
    assert_eq!(
        records[1].original_headers(),
        [("own".to_owned(), Some(vec![0, 255])), ("null".to_owned(), None)]
    );

    // A line in the middle is wrong, or its topic is not there: nothing is sent.
    for (wrong, told) in
        [("{}", "line 2 of"), (r#"{"topic":"no-such-topic","value":null}"#, "`no-such-topic`")]
    {
        fs::write(file, format!("{by_hand}\n{wrong}\n{by_hand}\n")).unwrap();
        let output = arauto(&[&send[..], &[file]].concat()).await;
        assert_eq!(output.code, 1, "{output:?}");
        assert!(output.stderr.contains(told), "{told}: {output:?}");
    }
    assert_eq!(rig.cluster.read(topic).await.len(), 2);

    // What is piped can be read only once; what came before the wrong line is told of.
    let received =
        r#"{"event_type":"order.made","headers":{"content-type":"a/b","authorization":"s3cret"},"body":"x"}"#;
    let piped = format!("{{\"listening\":\"x\"}}\n{received}\n{{}}\n");
    let output = arauto_reading(&[&send[..], &["-", "--topic", topic]].concat(), &piped).await;
    assert_eq!((output.code, output.json()["sent"].as_u64()), (1, Some(1)), "{output:?}");
    assert!(output.stderr.contains("line 3 of -: it has neither value nor body"), "{output:?}");
    let records = rig.cluster.read(topic).await;
    assert_eq!(
        (records[2].header("ce_type"), records[2].header("authorization")),
        (Some("order.made"), None)
    );

    let output = arauto(&[&send[..], &[file, "--key", "k"]].concat()).await;
    assert_eq!(output.code, 2, "{output:?}");
}
