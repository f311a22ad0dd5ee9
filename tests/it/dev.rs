//! `arauto dev`: one command, nothing installed, and every fate a delivery can have is seen and verified.

use serde_json::Value;

use crate::support::{
    PATIENCE,
    arauto::Arauto,
    command::{arauto, arauto_reading},
    eventually,
};

#[tokio::test]
async fn every_fate_is_seen_and_it_ends_by_itself() {
    let output = arauto(&["dev", "--events", "20", "--json"]).await;
    assert_eq!(output.code, 0, "{output:?}");
    let lines = output.json_lines();
    let of = |kind: &str| -> Vec<&Value> { lines.iter().filter(|line| line["kind"] == kind).collect() };
    assert_eq!(lines[0]["kind"], "started");
    assert!(lines[0]["metrics"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{}", lines[0]);

    let summary = lines.last().unwrap();
    let wanted = (20.into(), 20.into(), true.into());
    assert_eq!(
        (&summary["published"], &summary["ended"], &summary["verified"]),
        (&wanted.0, &wanted.1, &wanted.2)
    );
    let counts = |endpoint: &str| {
        let rows = summary["endpoints"].as_array().unwrap();
        let row = rows.iter().find(|row| row["endpoint"] == endpoint).unwrap();
        ["attempts", "failed", "delivered", "dead_letters", "unverified"]
            .map(|key| row[key].as_u64().unwrap())
    };
    // A story of five events: two creations, a payment, a cancellation, a shipment.
    assert_eq!(counts("healthy"), [20, 0, 20, 0, 0]);
    assert_eq!(counts("limited"), [20, 0, 20, 0, 0]);
    assert_eq!(counts("flaky"), [14, 2, 12, 0, 0]);
    assert_eq!(counts("refusing"), [12, 12, 0, 4, 0]);

    let attempts = of("attempt");
    assert_eq!(attempts.len(), 20 + 20 + 14 + 12);
    assert!(attempts.iter().all(|attempt| attempt["verified"] == true), "{attempts:?}");
    let dead = of("dead_letter");
    assert_eq!(dead.len(), 4);
    for letter in dead {
        let facts =
            ["endpoint", "event_type", "attempts", "reason", "status"].map(|key| letter[key].to_string());
        assert_eq!(facts, ["\"refusing\"", "\"order.cancelled\"", "3", "\"exhausted\"", "422"]);
    }
}

#[tokio::test]
async fn people_get_aligned_lines_and_a_table() {
    let output = arauto(&["dev", "--events", "2"]).await;
    assert_eq!(output.code, 0, "{output:?}");
    let column = |line: &str, text: &str| line.find(text).map(|at| line[..at].chars().count());
    let head = output.stdout.lines().find(|line| line.starts_with("TIME ")).unwrap();
    let lines: Vec<_> = output.stdout.lines().filter(|line| line.contains("verified ✓")).collect();
    assert!(lines.len() >= 6, "{output:?}");
    for line in &lines[..lines.len() - 1] {
        assert_eq!(column(line, "order."), column(head, "EVENT"), "{line}");
        let endpoint = ["healthy", "limited", "flaky"].into_iter().find_map(|id| column(line, id));
        assert_eq!(endpoint, column(head, "ENDPOINT"), "{line}");
    }
    assert!(output.stdout.contains("ENDPOINT  ATTEMPTS  FAILED"), "{output:?}");
    assert!(output.stdout.contains("2 events published, 2 at their end everywhere"), "{output:?}");
    // Not a terminal: no colours.
    assert!(!output.stdout.contains('\x1b'), "{output:?}");
}

/// A start and a clean stop have nothing to warn of: once every end of a partition, every property for another
/// client and every revoke at the stop did.
#[tokio::test]
async fn nothing_is_warned_of_that_is_no_trouble() {
    let output = arauto(&["dev", "--events", "1", "--json"]).await;
    for noise in ["PartitionEOF", "CONFWARN", "the last commit did not get through"] {
        assert!(!output.stderr.contains(noise), "{output:?}");
    }
}

#[tokio::test]
async fn an_event_of_ones_own_is_delivered_until_ctrl_c() {
    let mut dev = Arauto::spawn(["dev", "--json"]);
    let kind = |dev: &Arauto, kind: &str| dev.log().into_iter().find(|line| line["kind"] == kind);
    let started = eventually(PATIENCE, "dev to start", async || kind(&dev, "started")).await;
    let brokers = started["brokers"].as_str().unwrap();
    eventually(PATIENCE, "a delivery", async || kind(&dev, "attempt")).await;

    let send = ["send", "--brokers", brokers, "--topic", "orders"];
    let sent = arauto_reading(&send, r#"{"type":"my.own"}"#).await;
    assert_eq!(sent.code, 0, "{sent:?}");
    let mine = eventually(PATIENCE, "the event of one's own at its endpoint", async || {
        dev.log().into_iter().find(|line| line["event_type"] == "my.own" && line["endpoint"] == "healthy")
    })
    .await;
    assert_eq!(
        (&mine["status"], &mine["verified"], &mine["latency_ms"]),
        (&200.into(), &true.into(), &Value::Null)
    );

    dev.signal("INT");
    assert_eq!(dev.ended(PATIENCE).await.code(), Some(0));
    let summary = eventually(PATIENCE, "the summary", async || kind(&dev, "summary")).await;
    assert_eq!(summary["verified"], true);
}
