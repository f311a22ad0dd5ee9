//! Instances come, go and freeze under load: nothing is lost, nothing is repeated when they go in order, and one
//! that was given up for dead cannot commit for what it lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
};

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    config::{Config, Endpoint},
    hook::{Hook, Reply},
    now_ms,
    records::NewRecord,
    until,
};

/// Everything here takes seconds; a starved machine may take minutes.
const LONG: Duration = Duration::from_secs(180);
const PARTITIONS: i32 = 6;
/// Events produced at each look: some hundreds a second, so that instances never run dry while something changes.
const WAVE: usize = 15;

/// What happens to a topic that is in use: more events at every look.
struct Load<'a> {
    rig: &'a Rig,
    produced: usize,
}

impl<'a> Load<'a> {
    fn on(rig: &'a Rig) -> Self {
        Self { rig, produced: 0 }
    }

    async fn more(&mut self) {
        let next = |n: usize| {
            let partition = i32::try_from(n).unwrap() % PARTITIONS;
            NewRecord::new(&self.rig.topic, format!("event {n}")).partition(partition)
        };
        let records: Vec<_> = (self.produced..self.produced + WAVE).map(next).collect();
        self.rig.cluster.produce(&records).await;
        self.produced += WAVE;
    }

    /// Goes on until something is so.
    async fn until(&mut self, what: &str, mut check: impl AsyncFnMut() -> bool) {
        until(LONG, what, async || {
            self.more().await;
            check().await
        })
        .await;
    }
}

/// Partitions of the source topic and the tiers that the instance has.
async fn assigned(arauto: &Arauto) -> f64 {
    arauto.metrics().await.sum("arauto_assigned_partitions", &[])
}

/// Partitions of the source topic that the instance has.
async fn sources(arauto: &Arauto, rig: &Rig) -> f64 {
    arauto.metrics().await.sum("arauto_assigned_partitions", &[("topic", &rig.topic)])
}

/// One receiver that is well, and one that refuses the first attempt of everything.
struct Receivers {
    steady: Hook,
    flaky: Hook,
}

impl Receivers {
    async fn start() -> Self {
        // A little time under way, so that every change finds requests in the middle.
        let after = Duration::from_millis(5);
        Self {
            steady: Hook::start(move |_| Reply::ok().after(after)).await,
            flaky: Hook::start(move |request| {
                if request.nth == 1 { Reply::status(500).after(after) } else { Reply::ok().after(after) }
            })
            .await,
        }
    }

    fn config(&self, rig: &Rig, protocol: &str) -> Config {
        let flaky = Endpoint::new("flaky", &self.flaky.url()).set("retry.schedule", vec!["1s"]);
        rig.config()
            .set("kafka.protocol", protocol)
            // Retries of the flaky one stay in memory, so that something waits there whenever partitions go.
            .set("limits.hold", "2s")
            .endpoint(Endpoint::new("steady", &self.steady.url()))
            .endpoint(flaky)
    }

    async fn wait_for(&self, events: usize) {
        self.steady.wait_for(events, LONG).await;
        self.flaky.wait_for(events, LONG).await;
    }
}

/// Is the group one of the older protocol? Its description names the assignor; of a KIP-848 group there is none.
fn is_classic(rig: &Rig) -> bool {
    let mut config = ClientConfig::new();
    let config = config.set("bootstrap.servers", rig.cluster.brokers()).set("group.id", "tests");
    let client: BaseConsumer = config.create().unwrap();
    let groups = client.fetch_group_list(Some(&rig.group), PATIENCE).unwrap();
    groups.groups().iter().any(|group| group.protocol() == "cooperative-sticky")
}

async fn two_three_two(protocol: &str, classic: bool) {
    let rig = Rig::new("rebalance", PARTITIONS).await;
    let receivers = Receivers::start().await;
    let config = receivers.config(&rig, protocol).write();
    let mut load = Load::on(&rig);
    let mut first = Arauto::run(&config.path()).await;
    let mut second = Arauto::run(&config.path()).await;
    load.until("both to have partitions", async || {
        sources(&first, &rig).await > 0.0 && sources(&second, &rig).await > 0.0
    })
    .await;
    assert_eq!(is_classic(&rig), classic);

    let mut third = Arauto::start(&config.path()).await;
    load.until("the third to have partitions", async || sources(&third, &rig).await > 0.0).await;
    let all = f64::from(PARTITIONS);
    load.until("all to be shared out", async || {
        sources(&first, &rig).await + sources(&second, &rig).await + sources(&third, &rig).await == all
    })
    .await;
    assert_eq!(third.stop().await, 0);
    load.until("two to have all again", async || {
        sources(&first, &rig).await + sources(&second, &rig).await == all
    })
    .await;
    receivers.wait_for(load.produced).await;
    assert_eq!(first.stop().await, 0);
    assert_eq!(second.stop().await, 0);

    assert_eq!(receivers.steady.count(), load.produced, "each event once");
    assert_eq!(receivers.flaky.count(), 2 * load.produced, "each event twice: refused, accepted");
    assert_eq!((receivers.steady.duplicates(), receivers.flaky.duplicates()), (0, 0));
    for request in receivers.flaky.requests() {
        assert_eq!(request.header("arauto-attempt"), Some(request.nth.to_string().as_str()));
    }
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_three_two_instances_lose_and_repeat_nothing_with_kip_848() {
    two_three_two("consumer", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_three_two_instances_lose_and_repeat_nothing_with_the_classic_protocol() {
    two_three_two("classic", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_joins_with_kip_848_where_the_brokers_offer_it() {
    let rig = Rig::new("auto", PARTITIONS).await;
    let receivers = Receivers::start().await;
    let config = receivers.config(&rig, "auto").write();
    let mut arauto = Arauto::run(&config.path()).await;
    rig.cluster.produce(&[NewRecord::new(&rig.topic, "event")]).await;
    receivers.wait_for(1).await;
    assert!(!is_classic(&rig));
    assert_eq!(arauto.stop().await, 0);
}

/// A frozen instance is missed after this long; with KIP-848 the brokers say (`server.properties`).
fn missed_soon(config: Config) -> Config {
    config.property("session.timeout.ms", "6000").property("heartbeat.interval.ms", "1000")
}

/// Committed offsets by partition; whoever looks twice must never see one go back.
#[derive(Default)]
struct Committed(BTreeMap<i32, i64>);

impl Committed {
    async fn look(&mut self, rig: &Rig) {
        for committed in rig.cluster.committed(&rig.group, &rig.topic).await {
            let Some(offset) = committed.offset else { continue };
            let before = self.0.insert(committed.partition, offset);
            assert!(before <= Some(offset), "partition {}: {before:?} → {offset}", committed.partition);
        }
    }
}

async fn a_frozen_instance(config: impl FnOnce(Config) -> Config, protocol: &str) {
    let rig = Rig::new("frozen", PARTITIONS).await;
    let receivers = Receivers::start().await;
    let config = config(receivers.config(&rig, protocol)).write();
    let mut load = Load::on(&rig);
    let mut frozen = Arauto::run(&config.path()).await;
    let mut other = Arauto::run(&config.path()).await;
    load.until("both to have partitions and work", async || {
        sources(&frozen, &rig).await > 0.0
            && sources(&other, &rig).await > 0.0
            && frozen.metrics().await.sum("arauto_lane_waiting", &[]) > 0.0
    })
    .await;
    frozen.freeze();
    let all = f64::from(PARTITIONS);
    load.until("the other to have everything", async || sources(&other, &rig).await == all).await;
    receivers.wait_for(load.produced).await;
    let before = load.produced;
    let mut committed = Committed::default();
    committed.look(&rig).await;

    frozen.thaw();
    load.until("the frozen one to have noticed", async || {
        committed.look(&rig).await;
        let lost = [("kind", "lost")];
        frozen.metrics().await.sum("arauto_rebalances_total", &lost) > 0.0
    })
    .await;
    load.until("the frozen one to be back", async || {
        committed.look(&rig).await;
        sources(&frozen, &rig).await > 0.0 && sources(&other, &rig).await < all
    })
    .await;
    receivers.wait_for(load.produced).await;
    assert_eq!(frozen.stop().await, 0);
    assert_eq!(other.stop().await, 0);
    committed.look(&rig).await;

    // What the frozen one had in memory it may have sent again before it knew; nothing of later.
    let old: BTreeSet<String> = (0..before).map(|n| format!("event {n}")).collect();
    for hook in [&receivers.steady, &receivers.flaky] {
        assert_eq!(hook.accepted().len(), load.produced);
        let mut accepted = BTreeSet::new();
        for request in hook.requests().iter().filter(|request| request.accepted()) {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            let new = accepted.insert(request.id.clone());
            assert!(new || old.contains(&body), "{body} was repeated");
        }
    }
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_instance_loses_nothing_and_commits_nothing_it_lost_with_kip_848() {
    a_frozen_instance(|config| config, "consumer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_instance_loses_nothing_and_commits_nothing_it_lost_with_the_classic_protocol() {
    a_frozen_instance(missed_soon, "classic").await;
}

/// Its last commit is refused for good, so it must not try until its grace is over.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_given_up_for_dead_stops_at_once() {
    let rig = Rig::new("given-up", PARTITIONS).await;
    let receivers = Receivers::start().await;
    let config = missed_soon(receivers.config(&rig, "classic")).set("limits.shutdown_grace", "5m").write();
    let mut frozen = Arauto::run(&config.path()).await;
    let mut other = Arauto::run(&config.path()).await;
    let mut load = Load::on(&rig);
    load.until("both to have partitions and work", async || {
        sources(&frozen, &rig).await > 0.0 && assigned(&other).await > 0.0
    })
    .await;
    frozen.freeze();
    load.until("the other to have everything", async || sources(&other, &rig).await == f64::from(PARTITIONS))
        .await;
    frozen.sigterm();
    frozen.thaw();
    let asked = now_ms();
    let status = frozen.ended(LONG).await;
    assert!(status.success(), "{status}");
    assert!(now_ms() - asked < 60_000, "it must not use up its grace of five minutes");
    receivers.wait_for(load.produced).await;
    assert_eq!(other.stop().await, 0);
}
