//! `arauto lag` and `arauto offsets`: where every group stands is told as it is, and only what was asked for is set.

use serde_json::{Value, json};

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    command::{Output, arauto},
    config::{ConfigFile, Endpoint},
    hook::Hook,
    now_ms,
    records::NewRecord,
    unique, until,
};

const HOUR: i64 = 3_600_000;

/// Two source topics, one endpoint in the main group and one with a queue of its own; everything was delivered once
/// and nothing runs any more.
struct Delivered {
    rig: Rig,
    other: String,
    file: ConfigFile,
    own_group: String,
}

impl Delivered {
    async fn new() -> Self {
        let rig = Rig::new("lag", 1).await;
        let other = unique("lag-other");
        rig.cluster.create_topic(&other, 1, &[]).await;
        let hook = Hook::accepting().await;
        let own =
            Endpoint::new("own", &hook.url()).set("queue", "own").set("topics", vec![rig.topic.clone()]);
        let config = rig.config().set("kafka.topics", vec![rig.topic.clone(), other.clone()]);
        let file = config.endpoint(Endpoint::new("shared", &hook.url())).endpoint(own).write();
        rig.cluster.produce(&[NewRecord::new(&rig.topic, "first"), NewRecord::new(&other, "first")]).await;
        let mut arauto = Arauto::run(&file.path()).await;
        hook.wait_for_requests(3, PATIENCE).await;
        let own_group = format!("{}.own", rig.group);
        let groups = [(&rig.group, &rig.topic), (&rig.group, &other), (&own_group, &rig.topic)];
        for (group, topic) in groups {
            until(PATIENCE, "no lag", async || rig.cluster.lag(group, topic).await == 0).await;
        }
        assert_eq!(arauto.stop().await, 0);
        Self { rig, other, file, own_group }
    }

    async fn arauto(&self, arguments: &[&str]) -> Output {
        let path = self.file.path();
        arauto(&[arguments, &["--config", path.to_str().unwrap()]].concat()).await
    }

    /// What `offsets` or `lag` say of a topic, as JSON.
    async fn rows(&self, arguments: &[&str], topic: &str) -> Vec<Value> {
        let output = self.arauto(&[arguments, &["--json"]].concat()).await;
        assert_eq!(output.code, 0, "{output:?}");
        output.json().as_array().unwrap().iter().filter(|row| row["topic"] == *topic).cloned().collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_group_is_shown_with_the_age_of_what_it_has_not_settled() {
    let delivered = Delivered::new().await;
    let Delivered { rig, own_group, .. } = &delivered;
    for row in delivered.rows(&["lag"], &rig.topic).await {
        assert_eq!((&row["lag"], &row["oldest"]), (&json!(0), &Value::Null), "{row}");
    }
    let at = |ms| NewRecord::new(&rig.topic, "x").timestamp(ms);
    let oldest = now_ms() - HOUR;
    rig.cluster.produce(&[at(oldest), at(oldest + 1), at(oldest + 2)]).await;

    let rows = delivered.rows(&["lag", "--behind"], &rig.topic).await;
    assert_eq!(rows.len(), 2, "{rows:?}");
    for (row, group) in rows.iter().zip([&rig.group, own_group]) {
        let told = (&row["group"], &row["committed"], &row["end"], &row["lag"], &row["oldest"]);
        assert_eq!(told, (&json!(group), &json!(1), &json!(4), &json!(3), &json!(oldest)), "{row}");
        let age = row["age_ms"].as_i64().unwrap();
        assert!((HOUR..2 * HOUR).contains(&age), "{row}");
    }
    let output = delivered.arauto(&["lag"]).await;
    let own = output.stdout.lines().find(|line| line.starts_with(own_group)).expect("a line");
    let cells: Vec<_> = own.split_whitespace().collect();
    assert_eq!(cells[4..7], ["4", "3", "1h"], "{}", output.stdout);
    assert!(output.stdout.contains(&rig.tier("3s")), "{}", output.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_named_is_reset() {
    let delivered = Delivered::new().await;
    let Delivered { rig, other, own_group, .. } = &delivered;
    let committed = async |group: &str, topic: &str| rig.cluster.committed(group, topic).await[0].offset;

    let output = delivered.arauto(&["offsets", "--reset", "earliest", "--topic", &rig.topic]).await;
    assert_eq!(output.code, 0, "{output:?}");
    let change = output.stderr.lines().find(|line| line.contains("delivers 1 again")).expect("the change");
    assert!(change.contains(&rig.topic) && !output.stderr.contains(other.as_str()), "{output:?}");
    assert_eq!(committed(&rig.group, &rig.topic).await, Some(0));
    assert_eq!(committed(&rig.group, other).await, Some(1));
    assert_eq!(committed(own_group, &rig.topic).await, Some(1));

    let rows =
        delivered.rows(&["offsets", "--reset", "1970-01-01T00:00:00Z", "--endpoint", "own"], &rig.topic);
    assert_eq!(rows.await[0]["committed"], 0);
    assert_eq!(committed(own_group, &rig.topic).await, Some(0));

    let tier = rig.tier("1s");
    for (wrong, told) in [
        (&["--endpoint", "shared"][..], "has no queue of its own"),
        (&["--endpoint", "onw"], "did you mean \"own\"?"),
        (&["--topic", "nothing"], "is no topic that the group reads"),
        (&["--reset", "latest", "--topic", &tier], "is a retry topic"),
        (&["--reset", "someday"], "is no position"),
    ] {
        let output = delivered.arauto(&[&["offsets"], wrong].concat()).await;
        assert_eq!(output.code, 2, "{output:?}");
        assert!(output.stderr.contains(told), "{output:?}");
    }
}
