//! What must be so before the group is joined: our topics, the state, the start of each source topic.
//!
//! Brokers that do not answer are waited for; what can never heal is an error that names what to do.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    own::{self, OwnQueues},
    tasks::Tasks,
};
use crate::{
    admin::health::Health,
    config::settings::Settings,
    kafka::{
        consumer::TopicPartition,
        observer::Observer,
        topics::{self, Admin, Severity, Topic, diff, is_source, notices_topic, parse_tier, wants_notices},
    },
    pipeline::positions::{Error, Positions},
};

/// Between tries while the brokers do not answer.
const BACKOFF: Duration = Duration::from_secs(1);

/// Creates or verifies the topics we own.
pub(super) async fn topics(admin: &Admin, settings: &Settings, health: &Health) -> anyhow::Result<()> {
    loop {
        let inspection = match admin.inspect(settings).await {
            Ok(inspection) => inspection,
            Err(error @ topics::Error::Client(_)) => return Err(error.into()),
            Err(error) => {
                wait_for_brokers(health, &error).await;
                continue;
            }
        };
        health.brokers(true, None);
        let (missing, notices) = without_notices(settings, inspection.missing());
        if !missing.is_empty() && !settings.topics.create {
            let names: Vec<_> = missing.iter().map(|topic| topic.name.as_str()).collect();
            bail!("topics are missing: {}; create them with: arauto topics --create", names.join(", "));
        }
        for topic in &inspection.missing_sources {
            warn!(%topic, "source topic does not exist (yet)");
        }
        for finding in diff(&inspection.needed, &inspection.found) {
            let topics::Finding { topic, key, found, wanted, severity } = &finding;
            match severity {
                Severity::Error => {
                    bail!("topic {topic}: {key} is {found}, but must be {wanted}; see: arauto topics")
                }
                Severity::Difference => warn!(%topic, %key, %found, %wanted, "topic is not as it should be"),
                Severity::Note | Severity::Unverified => info!(%topic, %key, %found, %wanted, "topic"),
            }
        }
        let (created, ()) = tokio::join!(admin.create(&missing), create_notices(admin, settings, &notices));
        match created {
            Ok(()) => return Ok(()),
            Err(error @ topics::Error::Create { .. }) => {
                return Err(error).context("create the topics yourself, or see: arauto topics");
            }
            Err(error) => wait_for_brokers(health, &error).await,
        }
    }
}

/// The topic of notices nobody reads here can be missing: then they are not written, and everything else goes on.
fn without_notices(settings: &Settings, missing: Vec<Topic>) -> (Vec<Topic>, Vec<Topic>) {
    let prefix = &settings.topics.prefix;
    if wants_notices(prefix, &settings.endpoints) {
        return (missing, Vec::new());
    }
    let notices = notices_topic(prefix);
    missing.into_iter().partition(|topic| topic.name != notices)
}

async fn create_notices(admin: &Admin, settings: &Settings, missing: &[Topic]) {
    const MEND: &str = "arauto topics --create, or enabled = false in [notices]";
    let topic = notices_topic(&settings.topics.prefix);
    if missing.is_empty() {
        return;
    }
    if !settings.topics.create {
        return warn!(%topic, mend = MEND, "topic is missing, notices are not written");
    }
    if let Err(error) = admin.create(missing).await {
        warn!(%topic, %error, mend = MEND, "topic not created, notices are not written");
    }
}

/// Reads the state topic and decides where new source topics begin; returns what to subscribe to, and the namespace
/// of derived ids.
pub(super) async fn positions(
    positions: &Arc<Positions>,
    observer: &Observer,
    settings: &Arc<Settings>,
    tasks: &Tasks,
) -> anyhow::Result<(Vec<String>, Arc<str>)> {
    loop {
        let (positions, observer, settings) = (Arc::clone(positions), observer.clone(), Arc::clone(settings));
        let ready =
            tasks.spawn_blocking("positions", move || begin(&positions, &observer, &settings)).await?;
        match ready {
            Ok(ready) => return Ok(ready),
            Err(error @ (Error::Owned { .. } | Error::Expired { .. })) => return Err(error.into()),
            Err(error) => warn!(%error, "not ready to join the group, trying again"),
        }
        sleep(BACKOFF).await;
    }
}

/// Sees to it that every own queue has offsets to begin at before anything is read.
pub(super) async fn own_queues(
    own: &OwnQueues,
    settings: &Arc<Settings>,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    loop {
        let (own, settings) = (own.clone(), Arc::clone(settings));
        let ready = tasks.spawn_blocking("own queues", move || own.prepare(&settings.endpoints)).await?;
        match ready {
            Ok(()) => return Ok(()),
            Err(error @ own::Error::Lag { .. }) => return Err(error.into()),
            Err(error) => warn!(%error, "own queues are not ready, trying again"),
        }
        sleep(BACKOFF).await;
    }
}

fn begin(
    positions: &Positions,
    observer: &Observer,
    settings: &Settings,
) -> Result<(Vec<String>, Arc<str>), Error> {
    positions.load()?;
    let namespace = match &settings.events.namespace {
        Some(namespace) => namespace.clone(),
        None => observer
            .cluster_id()
            .ok_or_else(|| Error::State("the brokers did not tell the cluster's id".to_owned()))?,
    };
    let all = observer.topics()?;
    let notices = wants_notices(&settings.topics.prefix, &settings.endpoints);
    let sources = sources(settings, &all, notices);
    let ours: Vec<TopicPartition> = subscribed(settings, &all, notices)
        .iter()
        .filter_map(|topic| Some((topic, all.get(topic)?)))
        .flat_map(|(topic, partitions)| {
            partitions
                .iter()
                .map(|partition| TopicPartition { topic: topic.as_str().into(), partition: *partition })
        })
        .collect();
    positions.check_not_expired(&ours)?;
    positions.ensure_starts(&sources)?;
    Ok((subscribed(settings, &all, notices), namespace.into()))
}

/// The source topics among all there are; `notices`, if anybody wants those.
pub(super) fn sources(
    settings: &Settings,
    all: &BTreeMap<String, Vec<i32>>,
    notices: bool,
) -> BTreeMap<String, Vec<i32>> {
    all.iter()
        .filter(|(topic, _)| is_source(settings, topic, notices))
        .map(|(topic, partitions)| (topic.clone(), partitions.clone()))
        .collect()
}

/// What the group reads: source topics that exist, and every retry tier there is.
pub(super) fn subscribed(
    settings: &Settings,
    all: &BTreeMap<String, Vec<i32>>,
    notices: bool,
) -> Vec<String> {
    let tiers = all.keys().filter(|topic| parse_tier(&settings.topics.prefix, topic).is_some());
    tiers.cloned().chain(sources(settings, all, notices).into_keys()).collect()
}

async fn wait_for_brokers(health: &Health, error: &topics::Error) {
    warn!(%error, "the brokers do not answer, trying again");
    health.brokers(false, Some(error.to_string()));
    sleep(BACKOFF).await;
}
