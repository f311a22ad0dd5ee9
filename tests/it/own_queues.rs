//! An endpoint with a queue of its own is its own business: nothing of it is parked, nobody else notices it, and it
//! moves into its queue and out of it while events flow, without a loss, whoever kills the process meanwhile.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use crate::support::{
    Rig,
    arauto::{Arauto, field},
    config::{Config, ConfigFile, Endpoint},
    eventually,
    hook::{Hook, Reply},
    records::NewRecord,
    until,
};

/// Everything here takes seconds; a starved machine may take minutes.
const LONG: Duration = Duration::from_secs(120);
const PARTITIONS: i32 = 4;
/// Events that flow in a second, however starved the machine is: five times what the throttled endpoint takes.
const RATE: f64 = 100.0;
const TAKEN_OVER: &str = "configuration taken over";
const REFUSED: &str = "configuration not taken over, the last good one stays";

/// Events that flow, and who gets them.
struct Flow {
    rig: Rig,
    /// Has, or gets, a queue of its own.
    own: Hook,
    /// Has the one of the group.
    shared: Hook,
    produced: usize,
    flowed: Instant,
}

impl Flow {
    async fn start(promise: &str) -> Self {
        let reply = || Reply::ok().after(Duration::from_millis(3));
        Self {
            rig: Rig::new(promise, PARTITIONS).await,
            own: Hook::start(move |_| reply()).await,
            shared: Hook::start(move |_| reply()).await,
            produced: 0,
            flowed: Instant::now(),
        }
    }

    fn config(&self, queue: &str, rate: &str) -> Config {
        let own = Endpoint::new("own", &self.own.url()).set("queue", queue).set("rate", rate);
        self.rig.config().endpoint(own).endpoint(Endpoint::new("shared", &self.shared.url()))
    }

    async fn produce(&mut self, count: usize) {
        let record = |n: usize| {
            let partition = i32::try_from(n).unwrap() % PARTITIONS;
            NewRecord::new(&self.rig.topic, format!("event {n}")).partition(partition)
        };
        let records: Vec<_> = (self.produced..self.produced + count).map(record).collect();
        self.rig.cluster.produce(&records).await;
        self.produced += count;
    }

    /// Goes on until something is so.
    async fn until(&mut self, what: &str, mut check: impl AsyncFnMut(&Self) -> bool) {
        self.flowed = Instant::now();
        until(LONG, what, async || {
            let more = (self.flowed.elapsed().as_secs_f64() * RATE) as usize;
            if more > 0 {
                self.flowed = Instant::now();
                self.produce(more).await;
            }
            check(self).await
        })
        .await;
    }

    /// Waits until everybody has everything.
    async fn all_arrived(&self) {
        self.shared.wait_for(self.produced, LONG).await;
        self.own.wait_for(self.produced, LONG).await;
    }

    /// Events the endpoint's own group has not settled.
    async fn lag(&self) -> i64 {
        self.rig.cluster.lag(&self.group(), &self.rig.topic).await
    }

    fn group(&self) -> String {
        format!("{}.own", self.rig.group)
    }

    /// What the state topic says of the queue.
    async fn noted(&self) -> Option<Value> {
        let records = self.rig.cluster.read(&self.rig.state()).await;
        let last = records.into_iter().rfind(|record| record.key.as_deref() == Some(b"queue/own"))?;
        last.value.map(|value| serde_json::from_slice(&value).unwrap())
    }

    /// Changes the configuration and waits for the answer while events flow; why it was refused, if it was.
    async fn change(&mut self, arauto: &Arauto, file: &ConfigFile, config: &Config) -> Option<String> {
        let answers = |arauto: &Arauto| -> Vec<Value> {
            let is_answer = |line: &Value| {
                matches!(field(line, "message"), Some(TAKEN_OVER | REFUSED))
                    && field(line, "trigger") == Some("Signal")
            };
            arauto.log().into_iter().filter(is_answer).collect()
        };
        let before = answers(arauto).len();
        file.rewrite(config);
        arauto.signal("HUP");
        self.until("an answer to the reload", async |_| answers(arauto).len() > before).await;
        field(&answers(arauto)[before], "reason").map(str::to_owned)
    }
}

async fn parked(arauto: &Arauto) -> usize {
    arauto.metrics().await.sum("arauto_parked_total", &[]) as usize
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_one_is_never_parked_and_nobody_notices_it() {
    let mut flow = Flow::start("throttled-own").await;
    let file = flow.config("own", "20/s").set("limits.in_flight", 100).write();
    let mut arauto = Arauto::run(&file.path()).await;
    flow.produce(3_000).await;
    flow.shared.wait_for(3_000, LONG).await;
    let behind = flow.own.accepted().len();
    assert!(behind < 2_000, "{behind} of 3,000 at 20/s");
    assert!(flow.lag().await > 0);
    let page = eventually(LONG, "its lag on /lanes", async || {
        let (_, page) = arauto.get("/lanes").await?;
        let page: Value = serde_json::from_str(&page).unwrap();
        let lane = page["lanes"].as_array()?.iter().find(|lane| lane["endpoint"] == "own")?.clone();
        lane["own_queue_lag"].as_i64().filter(|lag| *lag > 0).map(|_| page)
    })
    .await;
    let shared = page["lanes"].as_array().unwrap().iter().find(|lane| lane["endpoint"] == "shared");
    assert!(shared.is_none_or(|lane| lane["own_queue_lag"].is_null()), "{page}");

    // The books of the group are its own: the events count once, and so do its partitions.
    let metrics = arauto.metrics().await;
    let count = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels) as i32;
    assert_eq!(count("arauto_events_total", &[]), 3_000);
    assert_eq!(count("arauto_assigned_partitions", &[("topic", &flow.rig.topic)]), PARTITIONS);
    assert_eq!(count("arauto_events_unmatched_total", &[]), 0);
    assert_eq!(count("arauto_deliveries_opened_total", &[("endpoint", "shared")]), 3_000);
    assert_eq!(
        count("arauto_deliveries_total", &[("outcome", "moved")]),
        0,
        "the group opened what is not its own"
    );

    assert!(flow.change(&arauto, &file, &flow.config("own", "unlimited")).await.is_none());
    flow.all_arrived().await;
    assert_eq!(parked(&arauto).await, 0);
    assert_eq!(arauto.stop().await, 0);
    assert_eq!((flow.own.duplicates(), flow.shared.duplicates()), (0, 0));
    assert_eq!(flow.lag().await, 0);
    assert_eq!(flow.rig.cluster.lag(&flow.rig.group, &flow.rig.topic).await, 0);
}

/// Retries of an endpoint without an ordering go to the tiers and come back.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_tried_again_by_the_tiers() {
    let mut flow = Flow::start("failing-own").await;
    flow.own.script(|request| if request.nth == 1 { Reply::status(500) } else { Reply::ok() });
    let file = flow.config("own", "unlimited").set("defaults.retry.schedule", vec!["3s"]).write();
    let mut arauto = Arauto::run(&file.path()).await;
    flow.produce(50).await;
    flow.all_arrived().await;
    let (opened, delivered) = ([("endpoint", "own"), ("from", "source")], [("outcome", "delivered")]);
    let metrics =
        arauto.wait_for_metrics("the books", |m| m.sum("arauto_deliveries_total", &delivered) >= 100.0);
    assert_eq!(metrics.await.sum("arauto_deliveries_opened_total", &opened).to_string(), "50");
    assert_eq!(arauto.stop().await, 0);
    assert_eq!((flow.own.count(), flow.own.duplicates()), (100, 0));
    assert!(!flow.rig.cluster.read(&flow.rig.tier("3s")).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_moves_in_with_a_backlog_and_out_of_it_without_one() {
    let mut flow = Flow::start("moving").await;
    let file = flow.config("shared", "20/s").write();
    let mut arauto = Arauto::run(&file.path()).await;
    flow.until("a backlog", async |flow| flow.produced > 600).await;

    // In: what the main group holds of it is its own queue's now.
    assert!(flow.change(&arauto, &file, &flow.config("own", "20/s")).await.is_none());
    let parked_before = parked(&arauto).await;
    flow.until("the main group to be past all of it", async |flow| {
        flow.shared.accepted().len() + 50 > flow.produced && flow.lag().await > 200
    })
    .await;
    assert_eq!(flow.noted().await.unwrap()["own"], true);

    // Out: not with a backlog.
    let refused = flow.change(&arauto, &file, &flow.config("shared", "unlimited")).await.unwrap();
    assert!(refused.contains("cannot give up its own queue yet"), "{refused}");
    let shared = [("endpoint", "own"), ("outcome", "delivered")];
    let before = arauto.metrics().await.sum("arauto_deliveries_total", &shared);
    flow.until("the last good configuration to go on", async |_| {
        arauto.metrics().await.sum("arauto_deliveries_total", &shared) > before
    })
    .await;
    assert_eq!(parked(&arauto).await, parked_before);
    assert!(flow.change(&arauto, &file, &flow.config("own", "unlimited")).await.is_none());
    flow.until("it to catch up", async |flow| flow.own.accepted().len() + 50 > flow.produced).await;
    let before = flow.own.duplicates();
    let refused = flow.change(&arauto, &file, &flow.config("shared", "unlimited")).await;
    assert_eq!(refused, None);
    flow.until("its group to be gone, and forgotten", async |flow| {
        arauto.logged("own queue left, its group is deleted").is_some() && flow.noted().await.is_none()
    })
    .await;
    flow.all_arrived().await;
    // Which arrived twice: at most what flowed while it changed, some tenths of a second of it.
    let again = flow.own.duplicates() - before;
    assert!(again < flow.produced / 4, "{again} of {}", flow.produced);
    let committed = flow.rig.cluster.committed(&flow.group(), &flow.rig.topic).await;
    assert!(committed.iter().all(|partition| partition.offset.is_none()), "{committed:?}");
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(flow.rig.cluster.lag(&flow.rig.group, &flow.rig.topic).await, 0);
}

/// Killed as soon as the state topic says so, which is before or while anything else has happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_a_move_loses_nothing() {
    let mut flow = Flow::start("interrupted").await;
    let file = flow.config("shared", "unlimited").write();
    let mut moves = BTreeSet::new();
    for queue in ["own", "shared", "own", "shared"] {
        let mut arauto = Arauto::run(&file.path()).await;
        flow.until("everybody to be served", async |flow| {
            flow.own.accepted().len() + 100 > flow.produced
                && flow.shared.accepted().len() + 100 > flow.produced
        })
        .await;
        file.rewrite(&flow.config(queue, "unlimited"));
        arauto.signal("HUP");
        // A queue that was given up may be forgotten again by now.
        flow.until("the move to be noted down", async |flow| {
            flow.noted().await.map_or(queue == "shared", |noted| noted["own"] == (queue == "own"))
        })
        .await;
        arauto.kill().await;
        moves.insert(arauto.logged(TAKEN_OVER).is_some());
        flow.produce(10).await;
    }
    let mut arauto = Arauto::run(&file.path()).await;
    flow.until("the last move to be over", async |flow| flow.noted().await.is_none()).await;
    flow.all_arrived().await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(flow.rig.cluster.lag(&flow.rig.group, &flow.rig.topic).await, 0);
}

/// A start cannot wait for what nobody reads: it ends, and says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_would_leave_a_backlog_behind_ends() {
    let mut flow = Flow::start("leaving-at-start").await;
    let file = flow.config("own", "20/s").write();
    let mut arauto = Arauto::run(&file.path()).await;
    flow.produce(500).await;
    flow.shared.wait_for(500, LONG).await;
    assert_eq!(arauto.stop().await, 0);
    file.rewrite(&flow.config("shared", "unlimited"));
    let mut arauto = Arauto::start(&file.path()).await;
    let status = arauto.ended(LONG).await;
    assert!(!status.success());
    let told = arauto.output().concat();
    assert!(told.contains("cannot give up its own queue yet"), "{told}");
    file.rewrite(&flow.config("own", "unlimited"));
    let mut arauto = Arauto::run(&file.path()).await;
    flow.all_arrived().await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(flow.own.duplicates(), 0);
}
