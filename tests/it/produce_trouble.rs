//! Guarantee 7: a retry record that cannot be written holds the offset, is visible, is tried for as long as it takes,
//! and never turns into a commit.

use std::{collections::BTreeSet, time::Duration};

use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use serde_json::Value;

use crate::support::{
    PATIENCE,
    arauto::Arauto,
    broker::Broker,
    cluster::Cluster,
    config::{Config, ConfigFile, Endpoint},
    hook::{Hook, Reply},
    never,
    records::NewRecord,
    until,
};

const EVENTS: usize = 30;
const TOPIC: &str = "orders";
const GROUP: &str = "arauto";
const OWN: [&str; 5] =
    ["arauto.state", "arauto.dead", "arauto.retry.0s", "arauto.retry.1s", "arauto.retry.3s"];

/// Why `/readyz` says that records are not acknowledged; `None` when it does not.
async fn trouble(arauto: &Arauto) -> Option<String> {
    let (status, body) = arauto.get("/readyz").await.expect("the admin server answers");
    let body: Value = serde_json::from_str(&body).unwrap();
    let trouble = body["produce_trouble"].as_str().map(str::to_owned);
    assert!(trouble.is_none() || status == 503, "{body}");
    trouble
}

fn events() -> BTreeSet<String> {
    (0..EVENTS).map(|n| format!("event {n}")).collect()
}

async fn produce(cluster: &Cluster) {
    let records: Vec<_> =
        events().into_iter().map(|event| NewRecord::new(TOPIC, event).partition(0)).collect();
    cluster.produce(&records).await;
}

/// Produces the events for a receiver that answers none, and waits until all of them are read.
async fn produce_unanswered(cluster: &Cluster, hook: &Hook, arauto: &Arauto) {
    produce(cluster).await;
    // One goes at a time until something is known of the endpoint; the others follow when this one is answered.
    hook.wait_for_requests(1, PATIENCE).await;
    arauto
        .wait_for_metrics("all of them to be read", |metrics| {
            metrics.value("arauto_in_flight", &[]) == Some(EVENTS as f64)
        })
        .await;
}

async fn committed(cluster: &Cluster) -> Option<i64> {
    cluster.committed(GROUP, TOPIC).await[0].offset
}

/// Arauto on the embedded broker, with all events read and none answered.
async fn begin_unanswered(
    mock: &MockCluster<'_, DefaultProducerContext>,
) -> (Cluster, Hook, Arauto, ConfigFile) {
    for topic in OWN.iter().chain(&[TOPIC]) {
        mock.create_topic(topic, 1, 1).unwrap();
    }
    let cluster = Cluster::at(mock.bootstrap_servers());
    let hook = Hook::start(|_| Reply::never()).await;
    let endpoint = Endpoint::new("shop", &hook.url()).set("retry.schedule", vec!["3s"; 20]);
    let config = Config::new(cluster.brokers(), GROUP, "arauto", &[TOPIC])
        // The embedded broker has no other.
        .set("kafka.protocol", "classic")
        .endpoint(endpoint);
    let file = config.write();
    let arauto = Arauto::run(&file.path()).await;
    produce_unanswered(&cluster, &hook, &arauto).await;
    (cluster, hook, arauto, file)
}

/// On the embedded broker, because a real one cannot be told to refuse.
#[tokio::test]
async fn a_refused_retry_record_holds_the_offset_until_it_is_taken() {
    let mock = MockCluster::new(1).unwrap();
    let (cluster, hook, mut arauto, _file) = begin_unanswered(&mock).await;

    hook.script(|_| Reply::status(500));
    let refusals = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 10_000];
    mock.request_errors(RDKafkaApiKey::Produce, &refusals);
    hook.wake();
    until(PATIENCE, "the trouble to be seen", async || trouble(&arauto).await.is_some()).await;
    arauto
        .wait_for_metrics("every record to be refused", |metrics| {
            metrics.value("arauto_produce_pending", &[]) == Some(EVENTS as f64)
        })
        .await;
    never(Duration::from_secs(3), "a commit, or being ready", async || {
        committed(&cluster).await.is_some_and(|offset| offset > 0) || arauto.is_ready().await
    })
    .await;
    let refused = [("topic", "arauto.retry.3s"), ("result", "error")];
    arauto
        .wait_for_metrics("each to be tried again and again", |metrics| {
            metrics.sum("arauto_produced_total", &refused) > 3.0 * EVENTS as f64
        })
        .await;
    assert!(trouble(&arauto).await.unwrap().contains("arauto.retry.3s"));
    assert_eq!(cluster.read("arauto.retry.3s").await.len(), 0);

    hook.script(|_| Reply::ok());
    mock.clear_request_errors(RDKafkaApiKey::Produce);
    arauto.wait_until_ready(PATIENCE).await;
    hook.wait_for(EVENTS, PATIENCE).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(hook.accepted_bodies(), events());
    // Each was written once, however often it was tried, and attempted once more.
    let written = cluster.read("arauto.retry.3s").await;
    assert_eq!((written.len(), hook.count()), (EVENTS, 2 * EVENTS));
    assert_eq!(committed(&cluster).await, Some(EVENTS as i64));
    for record in written {
        assert_eq!(
            (record.header("arauto-attempts"), record.header("arauto-reason")),
            (Some("1"), Some("status"))
        );
    }
}

/// On the embedded broker, because a real one cannot be told to: it loses count of the producer's records, which no client
/// survives, and refuses the first one that takes its place.
#[tokio::test]
async fn a_producer_that_has_given_up_is_replaced_and_its_records_are_sent_again() {
    let mock = MockCluster::new(1).unwrap();
    let (cluster, hook, mut arauto, _file) = begin_unanswered(&mock).await;

    hook.script(|_| Reply::status(500));
    mock.request_errors(
        RDKafkaApiKey::InitProducerId,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED],
    );
    mock.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER],
    );
    hook.wake();
    arauto.wait_for_log("the Kafka producer is replaced").await;
    hook.script(|_| Reply::ok());
    hook.wait_for(EVENTS, PATIENCE).await;
    let metrics = arauto.metrics().await;
    assert_eq!(metrics.value("arauto_tickets_lost_total", &[]), Some(0.0));
    assert_eq!(metrics.value("arauto_produce_pending", &[]), Some(0.0));
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(hook.accepted_bodies(), events());
    assert_eq!(committed(&cluster).await, Some(EVENTS as i64));
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_records_wait_for_a_broker_that_is_away() {
    let mut broker = Broker::start().await;
    let cluster = Cluster::at(broker.address());
    cluster.create_topic(TOPIC, 1, &[]).await;
    let hook = Hook::start(|_| Reply::never()).await;
    let endpoint = Endpoint::new("shop", &hook.url()).set("retry.schedule", vec!["3s"; 60]);
    let config = Config::new(cluster.brokers(), GROUP, "arauto", &[TOPIC]).endpoint(endpoint);
    let file = config.write();
    let mut arauto = Arauto::run(&file.path()).await;
    produce_unanswered(&cluster, &hook, &arauto).await;

    hook.script(|_| Reply::status(500));
    broker.stop().await;
    hook.wake();
    arauto
        .wait_for_metrics("records that wait for the broker", |metrics| {
            metrics.value("arauto_produce_pending", &[]) == Some(EVENTS as f64)
        })
        .await;
    until(PATIENCE, "arauto not to be ready", async || !arauto.is_ready().await).await;
    broker.restart().await;
    until(PATIENCE, "all of them to be committed", async || {
        let committed = committed(&cluster).await.unwrap_or(0);
        // Looked at afterwards: what an offset stands for has been written before it is committed.
        let written = cluster.read("arauto.retry.3s").await.len() as i64;
        assert!(committed <= written, "{committed} committed, {written} written");
        committed == EVENTS as i64
    })
    .await;
    hook.script(|_| Reply::ok());
    arauto.wait_until_ready(PATIENCE).await;
    hook.wait_for(EVENTS, PATIENCE).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(hook.accepted_bodies(), events());
    assert_eq!(cluster.lag(GROUP, TOPIC).await, 0);
}
