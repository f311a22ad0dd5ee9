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
        topics::{self, Admin, Severity, diff, is_own, parse_tier},
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
        let missing = inspection.missing();
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
        match admin.create(&missing).await {
            Ok(()) => return Ok(()),
            Err(error @ topics::Error::Create { .. }) => {
                return Err(error).context("create the topics yourself, or see: arauto topics");
            }
            Err(error) => wait_for_brokers(health, &error).await,
        }
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
    let sources = sources(settings, &all);
    let ours: Vec<TopicPartition> = subscribed(settings, &all)
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
    Ok((subscribed(settings, &all), namespace.into()))
}

/// The source topics among all there are. Our own are never read as events, whatever a pattern says.
pub(super) fn sources(settings: &Settings, all: &BTreeMap<String, Vec<i32>>) -> BTreeMap<String, Vec<i32>> {
    let prefix = &settings.topics.prefix;
    all.iter()
        .filter(|(topic, _)| !is_own(prefix, topic) && settings.kafka.reads(topic))
        .map(|(topic, partitions)| (topic.clone(), partitions.clone()))
        .collect()
}

/// What the group reads: source topics that exist, and every retry tier there is.
pub(super) fn subscribed(settings: &Settings, all: &BTreeMap<String, Vec<i32>>) -> Vec<String> {
    let tiers = all.keys().filter(|topic| parse_tier(&settings.topics.prefix, topic).is_some());
    tiers.cloned().chain(sources(settings, all).into_keys()).collect()
}

async fn wait_for_brokers(health: &Health, error: &topics::Error) {
    warn!(%error, "the brokers do not answer, trying again");
    health.brokers(false, Some(error.to_string()));
    sleep(BACKOFF).await;
}
