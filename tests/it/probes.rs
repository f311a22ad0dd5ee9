//! `/readyz` and `/livez` as Kubernetes reads them: each condition of being ready, and that none of them kills.

use rdkafka::{
    mocking::MockCluster,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use serde_json::Value;

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    broker::Broker,
    cluster::Cluster,
    config::{Config, Endpoint},
    hook::{Hook, Reply},
    records::NewRecord,
    until,
};

const TOPIC: &str = "orders";
const OWN: [&str; 5] =
    ["arauto.state", "arauto.dead", "arauto.retry.0s", "arauto.retry.1s", "arauto.retry.3s"];

/// Waits until `/readyz` answers like this; whatever it answers, the process is alive.
async fn told(arauto: &Arauto, what: &str, ready: bool, like: impl Fn(&Value) -> bool) {
    until(PATIENCE * 2, what, async || {
        let (alive, _) = arauto.get("/livez").await.expect("the admin server answers");
        assert_eq!(alive, 200, "{what}");
        let (status, body) = arauto.get("/readyz").await.expect("the admin server answers");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["ready"] == true, status == 200, "{body}");
        (status == 200) == ready && like(&body)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_as_a_member_whose_brokers_answer_and_until_it_stops() {
    let mut broker = Broker::start().await;
    let cluster = Cluster::at(broker.address());
    cluster.create_topic(TOPIC, 1, &[]).await;
    let hook = Hook::start(|_| Reply::ok().when_woken()).await;
    let config = Config::new(broker.address(), "arauto", "arauto", &[TOPIC])
        .endpoint(Endpoint::new("shop", &hook.url()));
    let file = config.write();
    broker.stop().await;

    let mut arauto = Arauto::start(&file.path()).await;
    let waits = |body: &Value| body["state"] == "starting" && body["joined"] == false;
    told(&arauto, "to wait for brokers", false, waits).await;
    broker.restart().await;
    told(&arauto, "to be a member", true, |body| body["state"] == "running" && body["joined"] == true).await;
    broker.signal("STOP");
    told(&arauto, "to miss the brokers", false, |body| body["brokers"]["reachable"] == false).await;
    broker.signal("CONT");
    told(&arauto, "to have them back", true, |_| true).await;

    cluster.produce(&[NewRecord::new(TOPIC, "under way")]).await;
    hook.wait_for_requests(1, PATIENCE).await;
    arauto.sigterm();
    told(&arauto, "to stop", false, |body| body["state"] == "stopping").await;
    hook.wake();
    assert_eq!(arauto.ended(PATIENCE).await.code(), Some(0));
    assert_eq!(hook.accepted_bodies(), ["under way".to_owned()].into());
}

/// Whoever rolls out a new version takes an instance that was ready once for one that delivers.
#[tokio::test(flavor = "multi_thread")]
async fn once_ready_it_stays_ready() {
    let rig = Rig::new("ready", 1).await;
    let hook = Hook::start(|_| Reply::ok().when_woken()).await;
    let file = rig.config().endpoint(Endpoint::new("shop", &hook.url())).write();
    let mut arauto = Arauto::run(&file.path()).await;
    // Lag is seen with the same look that tells whether it is a member: three of them.
    for record in 1..=3 {
        rig.cluster.produce(&[NewRecord::new(&rig.topic, format!("order {record}"))]).await;
        until(PATIENCE, "the record to be seen", async || {
            let (status, body) = arauto.get("/readyz").await.expect("the admin server answers");
            assert_eq!(status, 200, "{body}");
            let lag = [("topic", rig.topic.as_str()), ("partition", "0")];
            arauto.metrics().await.value("arauto_partition_lag", &lag) == Some(f64::from(record))
        })
        .await;
    }
    hook.script(|_| Reply::ok());
    hook.wake();
    hook.wait_for(3, PATIENCE).await;
    assert_eq!(arauto.stop().await, 0);
}

/// On the embedded broker, because a real one cannot be told to refuse.
#[tokio::test]
async fn it_is_not_ready_while_records_are_refused_but_with_a_rejected_configuration() {
    let mock = MockCluster::new(1).unwrap();
    for topic in OWN.iter().chain(&[TOPIC]) {
        mock.create_topic(topic, 1, 1).unwrap();
    }
    let cluster = Cluster::at(mock.bootstrap_servers());
    let hook = Hook::start(|_| Reply::status(500).when_woken()).await;
    let endpoint = Endpoint::new("shop", &hook.url()).set("retry.schedule", vec!["3s"; 20]);
    let config = Config::new(cluster.brokers(), "arauto", "arauto", &[TOPIC])
        // The embedded broker has no other.
        .set("kafka.protocol", "classic")
        .endpoint(endpoint);
    let file = config.write();
    let mut arauto = Arauto::run(&file.path()).await;
    cluster.produce(&[NewRecord::new(TOPIC, "refused").partition(0)]).await;
    hook.wait_for_requests(1, PATIENCE).await;
    let refusals = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 10_000];
    mock.request_errors(RDKafkaApiKey::Produce, &refusals);
    hook.wake();
    let trouble = |body: &Value| {
        body["produce_trouble"].as_str().is_some_and(|trouble| trouble.contains("arauto.retry.3s"))
    };
    told(&arauto, "to have trouble", false, trouble).await;
    hook.script(|_| Reply::ok());
    mock.clear_request_errors(RDKafkaApiKey::Produce);
    told(&arauto, "to be out of it", true, |body| body["produce_trouble"].is_null()).await;

    file.rewrite(&config.set("limits.in_flight", "many"));
    arauto.signal("HUP");
    told(&arauto, "to keep the last good one", true, |body| body["last_reload"]["ok"] == false).await;
    assert_eq!(arauto.stop().await, 0);
}
