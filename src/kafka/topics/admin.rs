//! Asks the brokers about topics, and creates what is missing.
//!
//! Never asks for one topic by name: brokers that create topics by themselves would take that as a wish.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use rdkafka::{
    Offset, TopicPartitionList,
    admin::{
        AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
        TopicReplication,
    },
    error::{KafkaError, RDKafkaErrorCode},
    metadata::Metadata,
};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{DEFAULT_MAX_MESSAGE, Error, Found, Inspection, Topic, is_own, needed};
use crate::{
    config::settings::{self, Settings, TopicSelector},
    kafka::{Context, client_config},
};

/// Longest wait for one answer; the brokers' own default for requests is twice this.
const REQUEST: Duration = Duration::from_secs(15);

/// Longest wait until topics just created have leaders everywhere; they usually have within a second.
const SETTLE: Duration = Duration::from_secs(30);

/// Topics described by one request, so that a pattern that matches thousands makes no giant of it.
const DESCRIBED_AT_ONCE: usize = 200;

/// A client that asks about topics and creates them.
pub struct Admin(Option<Arc<AdminClient<Context>>>);

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admin")
    }
}

impl Admin {
    /// Makes the client; the brokers are asked later.
    pub fn new(kafka: &settings::Kafka) -> Result<Self, Error> {
        let client = client_config(kafka).create_with_context(Context).map_err(Error::Client)?;
        Ok(Self(Some(Arc::new(client))))
    }

    /// What is needed and what exists.
    pub async fn inspect(&self, settings: &Settings) -> Result<Inspection, Error> {
        let metadata = self.metadata().await?;
        let existing = usable(&metadata);
        let prefix = settings.topics.prefix.as_str();
        let (own, others): (Vec<&str>, Vec<&str>) =
            existing.keys().map(String::as_str).partition(|topic| is_own(prefix, topic));
        let (sources, missing_sources) = sources(&settings.kafka.topics, &others);
        let asked: Vec<&str> = own.iter().copied().chain(sources.iter().map(String::as_str)).collect();
        let mut configs = self.describe(any_broker(&metadata), &asked).await?;
        let largest = largest_message(sources.iter().filter_map(|topic| configs.get(topic)));
        let (attempts, notices) = (&settings.attempts, settings.notices.enabled);
        let needed = needed(&settings.topics, attempts, notices, largest, own.iter().copied());
        let found = needed.iter().filter_map(|topic| {
            let partitions = *existing.get(&topic.name)?;
            let replicas = replicas(&metadata, &topic.name);
            Some((topic.name.clone(), Found { partitions, replicas, config: configs.remove(&topic.name) }))
        });
        let found = found.collect();
        Ok(Inspection { found, needed, sources, missing_sources })
    }

    /// Would the brokers create such a topic for us? Nothing is created.
    pub async fn may_create(&self, topic: &Topic) -> Result<(), KafkaError> {
        let options = AdminOptions::new().request_timeout(Some(REQUEST)).validate_only(true);
        for result in self.client().create_topics(&[new_topic(topic)], &options).await? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(KafkaError::AdminOp(code)),
            }
        }
        Ok(())
    }

    /// Creates topics and waits until they can be used. One that exists is fine: another instance was first.
    pub async fn create(&self, topics: &[Topic]) -> Result<(), Error> {
        if topics.is_empty() {
            return Ok(());
        }
        let new: Vec<NewTopic<'_>> = topics.iter().map(new_topic).collect();
        let options = AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST));
        let results = self.client().create_topics(&new, &options).await.map_err(Error::CannotCreate)?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(Error::Create { topic, code }),
            }
        }
        self.wait_for(topics).await
    }

    /// Deletes a consumer group with its offsets; the brokers refuse it while the group has members.
    pub async fn delete_group(&self, group: &str) -> Result<(), KafkaError> {
        let options = AdminOptions::new().request_timeout(Some(REQUEST));
        for result in self.client().delete_groups(&[group], &options).await? {
            result.map_err(|(_, code)| KafkaError::AdminOp(code))?;
        }
        Ok(())
    }

    /// Removes the records of partitions of a topic below these offsets, for good.
    pub async fn delete_records(&self, topic: &str, before: &[(i32, i64)]) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(before.len());
        for (partition, offset) in before {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
        }
        let options = AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST));
        let removed = self.client().delete_records(&list, &options).await?;
        removed.elements().iter().try_for_each(rdkafka::topic_partition_list::TopicPartitionListElem::error)
    }

    async fn wait_for(&self, topics: &[Topic]) -> Result<(), Error> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let existing = self.partitions().await?;
            let absent = topics.iter().map(|topic| &topic.name).filter(|name| !existing.contains_key(*name));
            let absent: Vec<String> = absent.cloned().collect();
            if absent.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::NotThere(absent));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// How many partitions each topic has, of those whose partitions all have leaders.
    pub async fn partitions(&self) -> Result<BTreeMap<String, usize>, Error> {
        self.metadata().await.map(|metadata| usable(&metadata))
    }

    async fn metadata(&self) -> Result<Metadata, Error> {
        let client = Arc::clone(self.client());
        let asked = tokio::task::spawn_blocking(move || client.inner().fetch_metadata(None, REQUEST));
        asked.await.expect("asking does not panic, and nobody cancels it").map_err(Error::Unreachable)
    }

    /// The configuration of topics, as far as the brokers tell.
    ///
    /// Any broker can tell. One is named, because the client would otherwise wait for the controller, which brokers
    /// that know nothing of all this (librdkafka's mock) never show.
    async fn describe(
        &self,
        broker: Option<i32>,
        topics: &[&str],
    ) -> Result<BTreeMap<String, BTreeMap<String, String>>, Error> {
        let mut configs = BTreeMap::new();
        for some in topics.chunks(DESCRIBED_AT_ONCE) {
            let resources: Vec<_> = some.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
            let options = AdminOptions::new().request_timeout(Some(REQUEST)).broker_id(broker);
            match self.client().describe_configs(&resources, &options).await {
                Ok(described) => configs.extend(described.into_iter().flatten().filter_map(topic_config)),
                Err(KafkaError::AdminOp(code)) if is_out_of_reach(code) => {
                    return Err(Error::Unreachable(KafkaError::AdminOp(code)));
                }
                // librdkafka's own mock broker, and clusters that do not let us, end here.
                Err(error) => warn!(%error, "the topics' configuration cannot be verified"),
            }
        }
        Ok(configs)
    }

    fn client(&self) -> &Arc<AdminClient<Context>> {
        self.0.as_ref().expect("it is taken only when dropped")
    }
}

impl Drop for Admin {
    // Ending the client joins its threads, which takes up to 100 ms: not on a worker of the runtime.
    fn drop(&mut self) {
        let client = self.0.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(client));
        }
    }
}

fn usable(metadata: &Metadata) -> BTreeMap<String, usize> {
    let usable = metadata.topics().iter().filter(|topic| {
        topic.error().is_none()
            && !topic.partitions().is_empty()
            && topic.partitions().iter().all(|partition| partition.leader() >= 0)
    });
    usable.map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect()
}

fn replicas(metadata: &Metadata, topic: &str) -> usize {
    let topic = metadata.topics().iter().find(|found| found.name() == topic);
    let partitions = topic.into_iter().flat_map(|topic| topic.partitions());
    partitions.map(|partition| partition.replicas().len()).min().unwrap_or(0)
}

/// The broker that answered, or, if that was one whose id is not known yet, the first.
fn any_broker(metadata: &Metadata) -> Option<i32> {
    let answered = Some(metadata.orig_broker_id()).filter(|id| *id >= 0);
    answered.or_else(|| metadata.brokers().first().map(rdkafka::metadata::MetadataBroker::id))
}

/// Existing source topics, and those configured by name that do not exist.
fn sources(selectors: &[TopicSelector], others: &[&str]) -> (BTreeSet<String>, Vec<String>) {
    let selected = others.iter().filter(|topic| selectors.iter().any(|selector| selector.matches(topic)));
    let missing = selectors.iter().filter_map(|selector| match selector {
        TopicSelector::Name(name) => (!others.contains(&name.as_str())).then(|| name.clone()),
        TopicSelector::Pattern(..) => None,
    });
    (selected.map(|&topic| topic.to_owned()).collect(), missing.collect())
}

fn largest_message<'a>(configs: impl Iterator<Item = &'a BTreeMap<String, String>>) -> usize {
    let told = configs.filter_map(|config| config.get("max.message.bytes")?.parse().ok());
    told.max().unwrap_or(DEFAULT_MAX_MESSAGE)
}

fn new_topic(topic: &Topic) -> NewTopic<'_> {
    let new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(topic.replication));
    topic.config.iter().fold(new, |new, (key, value)| new.set(key, value))
}

/// A topic we may not describe comes back as one without any configuration.
fn topic_config(resource: ConfigResource) -> Option<(String, BTreeMap<String, String>)> {
    let OwnedResourceSpecifier::Topic(name) = resource.specifier else {
        return None;
    };
    let entries = resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?)));
    let config: BTreeMap<String, String> = entries.collect();
    (!config.is_empty()).then_some((name, config))
}

fn is_out_of_reach(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
    )
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::config::settings::{Protocol, Start};

    #[test]
    fn sources_are_what_is_selected_and_there() {
        let pattern = |text: &str| {
            TopicSelector::Pattern(regex::Regex::new(&format!("^(?:{text})$")).unwrap(), text.to_owned())
        };
        let selectors =
            [TopicSelector::Name("orders".into()), TopicSelector::Name("gone".into()), pattern("pay.*")];
        let (existing, missing) = sources(&selectors, &["orders", "payments", "pay", "prepay"]);
        assert_eq!(existing, ["orders", "pay", "payments"].map(str::to_owned).into());
        assert_eq!(missing, ["gone"]);
    }

    #[test]
    fn the_largest_message_told_counts() {
        let config = |size: &str| BTreeMap::from([("max.message.bytes".to_owned(), size.to_owned())]);
        assert_eq!(largest_message([].into_iter()), DEFAULT_MAX_MESSAGE);
        assert_eq!(largest_message([config("1000"), config("3000000"), config("7")].iter()), 3_000_000);
    }

    /// The mock broker does not describe: what exists is seen, what it is like is not.
    #[tokio::test]
    async fn brokers_that_describe_nothing_are_no_error() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("orders", 3, 1).unwrap();
        cluster.create_topic("arauto.retry.5s", 2, 1).unwrap();
        let kafka = settings::Kafka {
            brokers: cluster.bootstrap_servers(),
            group: "arauto".to_owned(),
            topics: Vec::new(),
            start: Start::Latest,
            protocol: Protocol::Auto,
            properties: Vec::new(),
        };
        let admin = Admin::new(&kafka).unwrap();
        let metadata = admin.metadata().await.unwrap();
        assert_eq!(usable(&metadata)["orders"], 3);
        let described = admin.describe(any_broker(&metadata), &["orders"]).await.unwrap();
        assert_eq!(described, BTreeMap::new());
    }
}
