//! The consumer groups of an installation: what each reads and where it stands.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context;

use crate::{
    config::settings::{Endpoint, Kafka, Queue, Settings},
    kafka::{
        consumer::TopicPartition,
        observer::Observer,
        topics::{is_source, notices_topic, parse_tier, state_topic, wants_notices},
    },
    pipeline::own::group_of,
};

/// Groups looked at at once; each takes a client.
const AT_ONCE: usize = 8;

/// Every topic there is, with the numbers of its partitions.
pub(super) type Topics = BTreeMap<String, Vec<i32>>;

/// One group.
pub(super) struct Group {
    /// Its name.
    pub(super) name: String,
    /// Looks at it from beside.
    pub(super) observer: Observer,
    /// The source partitions it reads.
    pub(super) sources: Vec<TopicPartition>,
    /// The partitions of retry tiers it reads.
    pub(super) tiers: Vec<TopicPartition>,
}

/// Where a group stands on one partition.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) of: TopicPartition,
    /// The next offset it reads; `None` when it has none.
    pub(super) committed: Option<i64>,
    pub(super) first: i64,
    pub(super) end: i64,
}

impl Standing {
    /// How many offsets it has not committed.
    pub(super) fn lag(&self) -> Option<i64> {
        self.committed.map(|committed| (self.end - committed).max(0))
    }
}

impl Group {
    /// The main group.
    pub(super) fn main(settings: &Settings) -> anyhow::Result<Self> {
        let (observer, topics) = look(&settings.kafka)?;
        let sources = sources(settings, &topics, |_| true);
        let tiers = partitions(&topics, |topic| parse_tier(&settings.topics.prefix, topic).is_some());
        Ok(Self { name: settings.kafka.group.clone(), observer, sources, tiers })
    }

    /// The group of an endpoint with a queue of its own.
    pub(super) fn own(settings: &Settings, endpoint: &Endpoint) -> anyhow::Result<Self> {
        let name = group_of(&settings.kafka.group, &endpoint.id);
        let (observer, topics) = look(&Kafka { group: name.clone(), ..settings.kafka.clone() })?;
        let wanted = |topic: &str| {
            if topic == notices_topic(&settings.topics.prefix) {
                return endpoint.asks_for(topic);
            }
            let selectors = endpoint.topics.as_deref();
            selectors.is_none_or(|selectors| selectors.iter().any(|selector| selector.matches(topic)))
        };
        let sources = sources(settings, &topics, wanted);
        Ok(Self { name, observer, sources, tiers: Vec::new() })
    }

    /// The main group and those of all own queues.
    pub(super) fn all(settings: &Settings) -> anyhow::Result<Vec<Self>> {
        let mut groups = vec![Self::main(settings)?];
        let own: Vec<_> = settings.endpoints.iter().filter(|endpoint| endpoint.queue == Queue::Own).collect();
        for some in own.chunks(AT_ONCE) {
            let made = std::thread::scope(|scope| {
                let each: Vec<_> =
                    some.iter().map(|endpoint| scope.spawn(|| Self::own(settings, endpoint))).collect();
                let join =
                    |one: std::thread::ScopedJoinHandle<'_, _>| one.join().expect("looking does not panic");
                each.into_iter().map(join).collect::<anyhow::Result<Vec<_>>>()
            });
            groups.extend(made?);
        }
        Ok(groups)
    }

    /// Where it stands on these partitions.
    pub(super) fn standings(&self, of: &[TopicPartition]) -> anyhow::Result<Vec<Standing>> {
        let committed = self.observer.committed(of);
        let committed =
            committed.with_context(|| format!("the offsets of the group {} cannot be read", self.name))?;
        let standing = |(of, committed): (&TopicPartition, Option<(i64, String)>)| {
            let bounds = self.observer.watermarks(of);
            let (first, end) = bounds.with_context(|| {
                format!("the bounds of {}:{} cannot be looked up", of.topic, of.partition)
            })?;
            let committed = committed.map(|(offset, _)| offset);
            Ok(Standing { of: of.clone(), committed, first, end })
        };
        of.iter().zip(committed).map(standing).collect()
    }

    /// Does anybody read in it? Nobody has before our topics were made.
    pub(super) fn is_running(&self, settings: &Settings) -> anyhow::Result<bool> {
        let never_read = TopicPartition { topic: state_topic(&settings.topics.prefix).into(), partition: 0 };
        if !self.observer.topics()?.contains_key(&*never_read.topic) {
            return Ok(false);
        }
        let running = self.observer.has_members(&never_read);
        running.with_context(|| format!("whether an instance of {} runs cannot be found out", self.name))
    }
}

fn look(kafka: &Kafka) -> anyhow::Result<(Observer, Topics)> {
    let observer = Observer::new(kafka).context("the Kafka client cannot be made (kafka.properties)")?;
    let topics = observer.topics();
    let topics =
        topics.with_context(|| format!("the brokers at {} do not answer (kafka.brokers)", kafka.brokers))?;
    Ok((observer, topics))
}

/// The source topics among all there are.
fn sources(settings: &Settings, topics: &Topics, also: impl Fn(&str) -> bool) -> Vec<TopicPartition> {
    let notices = wants_notices(&settings.topics.prefix, &settings.endpoints);
    partitions(topics, |topic| is_source(settings, topic, notices) && also(topic))
}

fn partitions(topics: &Topics, wanted: impl Fn(&str) -> bool) -> Vec<TopicPartition> {
    let topics = topics.iter().filter(|(topic, _)| wanted(topic));
    let each = topics.flat_map(|(topic, partitions)| {
        let topic: Arc<str> = topic.as_str().into();
        let mut partitions = partitions.clone();
        partitions.sort_unstable();
        partitions.into_iter().map(move |partition| TopicPartition { topic: Arc::clone(&topic), partition })
    });
    each.collect()
}
