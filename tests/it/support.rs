//! What every promise test stands on: a real broker, scriptable receivers, and the real binary as a child
//! process.
//!
//! Nothing here knows what a test wants to prove, and nothing here replaces a part of Arauto by a stand-in.
//! All waiting is done by [`eventually`], which never waits without a deadline.

#![allow(dead_code)] // A shared toolbox: some tools are used by one promise, some by all.

pub(crate) mod arauto;
pub(crate) mod broker;
pub(crate) mod cluster;
pub(crate) mod collector;
pub(crate) mod command;
pub(crate) mod config;
pub(crate) mod hook;
pub(crate) mod letters;
pub(crate) mod metrics;
pub(crate) mod prometheus;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod records;
pub(crate) mod terminal;

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use cluster::Cluster;
use config::Config;

/// How long a test waits for what should take a moment: long, because the machine may be starved; a test that
/// passes never waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One test's own corner of the shared cluster: names nobody else uses, and a source topic.
pub(crate) struct Rig {
    /// The cluster all tests share.
    pub(crate) cluster: Cluster,
    /// A source topic, made.
    pub(crate) topic: String,
    /// A prefix for the topics Arauto owns, none of which exist yet.
    pub(crate) prefix: String,
    /// A consumer group that does not exist yet.
    pub(crate) group: String,
}

impl Rig {
    /// A corner with a source topic of `partitions` partitions; `promise` makes its names readable.
    pub(crate) async fn new(promise: &str, partitions: i32) -> Self {
        let cluster = Cluster::shared().await;
        let name = unique(promise);
        let rig = Self {
            cluster,
            topic: format!("{name}-events"),
            prefix: format!("{name}-own"),
            group: format!("{name}-group"),
        };
        // Some records are older than what brokers keep by default, and they look every five minutes.
        rig.cluster.create_topic(&rig.topic, partitions, &[("retention.ms", "-1")]).await;
        rig
    }

    /// A configuration for this corner: see [`Config::new`].
    pub(crate) fn config(&self) -> Config {
        Config::new(self.cluster.brokers(), &self.group, &self.prefix, &[&self.topic])
    }

    /// The name of the retry topic with this delay, as written in a configuration (`5s`).
    pub(crate) fn tier(&self, delay: &str) -> String {
        format!("{}.retry.{delay}", self.prefix)
    }

    /// The name of the dead-letter topic.
    pub(crate) fn dead(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    /// The name of the topic of notices.
    pub(crate) fn notices(&self) -> String {
        format!("{}.notices", self.prefix)
    }

    /// The name of the state topic.
    pub(crate) fn state(&self) -> String {
        format!("{}.state", self.prefix)
    }
}

/// A name nobody else uses, on this cluster or in an earlier run.
pub(crate) fn unique(name: &str) -> String {
    // The random state of the standard library's maps is seeded by the operating system.
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(name);
    format!("{name}-{:08x}", random & 0xffff_ffff)
}

/// Unix time in milliseconds, as Kafka stamps records.
pub(crate) fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since_epoch.as_millis()).unwrap()
}

/// Waits until `check` finds something and returns it; panics, naming `what`, when the deadline passes first.
///
/// The only place in the tests that sleeps: 20 ms between looks, because most of what is looked at (a
/// process, a broker, a metrics page) has no way to call back.
pub(crate) async fn eventually<T>(
    within: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Like [`eventually`], for a condition.
pub(crate) async fn until(within: Duration, what: &str, mut check: impl AsyncFnMut() -> bool) {
    eventually(within, what, async || check().await.then_some(())).await;
}

/// Proves an absence: panics if `check` becomes true within `during`.
pub(crate) async fn never(during: Duration, what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + during;
    while Instant::now() < deadline {
        assert!(!check().await, "this should not have happened: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
