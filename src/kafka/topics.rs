//! The topics Arauto owns: what they are called, what they must be like, and whether they are.
//!
//! What is needed and what differs are pure; [`Admin`] asks the brokers and creates what is missing. Nothing here
//! changes or deletes a topic that exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde::Serialize;

pub use self::admin::Admin;
use crate::config::{
    settings,
    value::{parse_duration, tier_name},
};

mod admin;

/// What a retry or dead-letter record is larger than its event at most: its headers.
const HEADER_ROOM: usize = 64 * 1024;

/// How long notices are kept: over a weekend and a holiday.
const NOTICES_RETENTION: Duration = Duration::from_secs(7 * 86_400);

/// The brokers' default for `max.message.bytes`, taken for source topics that do not tell theirs.
/// <https://kafka.apache.org/documentation/#brokerconfigs_message.max.bytes>
pub const DEFAULT_MAX_MESSAGE: usize = 1_048_588;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client could not be made: a property is wrong.
    #[error("the Kafka client cannot be made: {0}")]
    Client(KafkaError),
    /// The brokers did not answer.
    #[error("the brokers did not answer: {0}")]
    Unreachable(KafkaError),
    /// A topic could not be created.
    #[error("topic {topic} cannot be created: {code}")]
    Create {
        /// Its name.
        topic: String,
        /// What the brokers said.
        code: RDKafkaErrorCode,
    },
    /// The brokers cannot create topics at all, or did not let us.
    #[error("topics cannot be created: {0}")]
    CannotCreate(KafkaError),
    /// They were created, but do not show up.
    #[error("topics were created but are not there yet: {}", .0.join(", "))]
    NotThere(Vec<String>),
}

/// A topic as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its partitions when we create it.
    pub partitions: i32,
    /// Its replication when we create it; -1 leaves it to the brokers.
    pub replication: i32,
    /// Its configuration.
    pub config: Vec<(&'static str, String)>,
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Its partitions.
    pub partitions: usize,
    /// The fewest replicas a partition of it has.
    pub replicas: usize,
    /// Its configuration; `None` when the brokers do not tell.
    pub config: Option<BTreeMap<String, String>>,
}

/// All that was asked about one installation's topics.
#[derive(Debug, Clone, Default)]
pub struct Inspection {
    /// What is needed: configured or found by name.
    pub needed: Vec<Topic>,
    /// Which of them exist.
    pub found: BTreeMap<String, Found>,
    /// Existing source topics: those configured by name, and those a pattern matches.
    pub sources: BTreeSet<String>,
    /// Source topics configured by name that do not exist.
    pub missing_sources: Vec<String>,
}

impl Inspection {
    /// Needed topics that do not exist.
    pub fn missing(&self) -> Vec<Topic> {
        self.needed.iter().filter(|topic| !self.found.contains_key(&topic.name)).cloned().collect()
    }

    /// Delays of all existing retry tiers, configured or not, by topic.
    pub fn tiers(&self, prefix: &str) -> BTreeMap<String, Duration> {
        let tier = |name: &String| Some((name.clone(), parse_tier(prefix, name)?));
        self.found.keys().filter_map(tier).collect()
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Note,
    /// It could not be verified.
    Unverified,
    /// It is not as it should be; records may be lost if Arauto stands still, or refused.
    Difference,
    /// With it Arauto cannot keep its promises.
    Error,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The topic.
    pub topic: String,
    /// What differs: a configuration key, `partitions`, or `config` as a whole.
    pub key: String,
    /// What it is.
    pub found: String,
    /// What it should be.
    pub wanted: String,
    /// How bad that is.
    pub severity: Severity,
}

/// The name of a retry tier.
pub fn tier_topic(prefix: &str, delay: Duration) -> String {
    format!("{prefix}.retry.{}", tier_name(delay))
}

/// The name of the dead-letter topic.
pub fn dead_topic(prefix: &str) -> String {
    format!("{prefix}.dead")
}

/// The name of the state topic.
pub fn state_topic(prefix: &str) -> String {
    format!("{prefix}.state")
}

/// The name of the attempt log's topic: as configured, or what it was called had it been before.
pub fn attempts_topic(settings: &settings::Settings) -> String {
    let named = settings.attempts.topic.clone();
    named.unwrap_or_else(|| format!("{}.{}", settings.topics.prefix, settings::Attempts::NAME))
}

/// The name of the topic of notices.
pub fn notices_topic(prefix: &str) -> String {
    format!("{prefix}.notices")
}

/// The delay of a retry tier by its name; `None` for other topics. `…retry.60s` is read too, though we would call it
/// `…retry.1m`.
pub fn parse_tier(prefix: &str, topic: &str) -> Option<Duration> {
    let delay = topic.strip_prefix(prefix)?.strip_prefix(".retry.")?;
    parse_duration(delay).ok()
}

/// Is it one of our own, which is never read as a source?
pub fn is_own(prefix: &str, topic: &str) -> bool {
    topic.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'))
}

/// Are events read from this topic? Our own are never, whatever a pattern says, but for the notices, when one of the
/// endpoints asks for them.
pub fn is_source(settings: &settings::Settings, topic: &str, notices: bool) -> bool {
    if is_own(&settings.topics.prefix, topic) {
        return notices && topic == notices_topic(&settings.topics.prefix);
    }
    settings.kafka.reads(topic)
}

/// Does any endpoint ask for notices?
pub fn wants_notices<'e>(
    prefix: &str,
    endpoints: impl IntoIterator<Item = &'e Arc<settings::Endpoint>>,
) -> bool {
    let topic = notices_topic(prefix);
    endpoints.into_iter().any(|endpoint| endpoint.asks_for(&topic))
}

/// What is needed: the configured tiers and `0s`, tiers that exist besides, the dead-letter and the state topic, that
/// of the attempt log if there is to be one, and that of the notices, if they are wanted.
pub fn needed<'a>(
    topics: &settings::Topics,
    attempts: &settings::Attempts,
    notices: bool,
    largest_source_message: usize,
    existing: impl IntoIterator<Item = &'a str>,
) -> Vec<Topic> {
    let max_message = (largest_source_message + HEADER_ROOM).to_string();
    let topic =
        |name, partitions, config| Topic { name, partitions, replication: topics.replication, config };
    let tier = |name, delay: Duration| {
        let config = vec![
            ("cleanup.policy", "delete".to_owned()),
            ("message.timestamp.type", "LogAppendTime".to_owned()),
            ("retention.ms", (delay + topics.retention).as_millis().to_string()),
            ("retention.bytes", "-1".to_owned()),
            ("max.message.bytes", max_message.clone()),
        ];
        topic(name, topics.partitions, config)
    };
    let mut tiers: BTreeMap<(Duration, String), Topic> = BTreeMap::new();
    for delay in std::iter::once(Duration::ZERO).chain(topics.tiers.iter().copied()) {
        let name = tier_topic(&topics.prefix, delay);
        tiers.insert((delay, name.clone()), tier(name, delay));
    }
    for name in existing {
        if let Some(delay) = parse_tier(&topics.prefix, name) {
            tiers.entry((delay, name.to_owned())).or_insert_with(|| tier(name.to_owned(), delay));
        }
    }
    let dead = vec![
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", topics.dead_retention.as_millis().to_string()),
        ("retention.bytes", "-1".to_owned()),
        ("max.message.bytes", max_message.clone()),
    ];
    // Read from its beginning at every start, so it is compacted soon: segments close after an hour, and a tenth of
    // them being stale is enough.
    let state = vec![
        ("cleanup.policy", "compact".to_owned()),
        ("segment.ms", "3600000".to_owned()),
        ("min.cleanable.dirty.ratio", "0.1".to_owned()),
    ];
    let mut needed: Vec<Topic> = tiers.into_values().collect();
    needed.push(topic(dead_topic(&topics.prefix), topics.partitions, dead));
    needed.push(topic(state_topic(&topics.prefix), 1, state));
    needed.extend(attempts.topic.clone().map(|name| {
        let kept = attempts.retention.as_millis().to_string();
        topic(name, topics.partitions, vec![("cleanup.policy", "delete".to_owned()), ("retention.ms", kept)])
    }));
    if notices {
        let config = vec![
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", NOTICES_RETENTION.as_millis().to_string()),
        ];
        // There are few, and people read them in their order.
        needed.push(topic(notices_topic(&topics.prefix), 1, config));
    }
    needed
}

/// What is not as it should be in topics that exist.
pub fn diff(needed: &[Topic], found: &BTreeMap<String, Found>) -> Vec<Finding> {
    needed.iter().filter_map(|topic| Some((topic, found.get(&topic.name)?))).flat_map(diff_topic).collect()
}

fn diff_topic((topic, found): (&Topic, &Found)) -> Vec<Finding> {
    let finding = |key: &str, found: String, wanted: String, severity| Finding {
        topic: topic.name.clone(),
        key: key.to_owned(),
        found,
        wanted,
        severity,
    };
    let mut findings = Vec::new();
    if i32::try_from(found.partitions) != Ok(topic.partitions) {
        let severity = partitions_severity(topic, found.partitions);
        findings.push(finding(
            "partitions",
            found.partitions.to_string(),
            topic.partitions.to_string(),
            severity,
        ));
    }
    let Some(config) = &found.config else {
        findings.push(finding("config", "unknown".to_owned(), "described".to_owned(), Severity::Unverified));
        return findings;
    };
    for (key, wanted) in &topic.config {
        let value = config.get(*key).map_or("", String::as_str);
        if let Some(severity) = judge(key, wanted, value) {
            findings.push(finding(key, value.to_owned(), wanted.clone(), severity));
        }
    }
    findings
}

/// Any number of partitions does, except for the state topic: its order is that of its only partition.
fn partitions_severity(topic: &Topic, found: usize) -> Severity {
    if topic.partitions == 1 && found > 1 && topic.name.ends_with(".state") {
        Severity::Error
    } else {
        Severity::Note
    }
}

/// How bad a value of a configuration key is; `None` if it will do.
fn judge(key: &str, wanted: &str, found: &str) -> Option<Severity> {
    match key {
        // Due times are judged by append times, and compaction would drop records with the same key.
        "message.timestamp.type" | "cleanup.policy" => (found != wanted).then_some(Severity::Error),
        "retention.ms" | "retention.bytes" => {
            (!is_enough(wanted, found, Some("-1"))).then_some(Severity::Difference)
        }
        "max.message.bytes" => (!is_enough(wanted, found, None)).then_some(Severity::Difference),
        _ => (found != wanted).then_some(Severity::Note),
    }
}

/// Is a limit at least as large as wanted? Some limits have a value that means none.
fn is_enough(wanted: &str, found: &str, unlimited: Option<&str>) -> bool {
    if Some(found) == unlimited {
        return true;
    }
    if Some(wanted) == unlimited {
        return false;
    }
    matches!((wanted.parse::<i64>(), found.parse::<i64>()), (Ok(wanted), Ok(found)) if found >= wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn names() {
        for (seconds, name) in [(0, "0s"), (5, "5s"), (60, "1m"), (90, "90s"), (14_400, "4h")] {
            let delay = Duration::from_secs(seconds);
            let topic = tier_topic("arauto", delay);
            assert_eq!(topic, format!("arauto.retry.{name}"));
            assert_eq!(parse_tier("arauto", &topic), Some(delay));
        }
        for (topic, expected) in [
            ("arauto.retry.60s", Some(60)),
            ("arauto.retry.3d", Some(259_200)),
            ("arauto.retry.", None),
            ("arauto.retry.soon", None),
            ("arauto.retry", None),
            ("arauto.dead", None),
            ("arauto2.retry.5s", None),
            ("my.arauto.retry.5s", None),
        ] {
            assert_eq!(parse_tier("arauto", topic), expected.map(Duration::from_secs), "{topic}");
        }
        assert!(is_own("arauto", "arauto.state"));
        assert!(!is_own("arauto", "arauto-orders"));
    }

    fn topic(name: &str, config: &[(&'static str, &str)]) -> Topic {
        let config = config.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        Topic { name: name.to_owned(), partitions: 6, replication: -1, config }
    }

    #[test]
    fn what_is_needed() {
        let topics = crate::config::settings::Topics {
            prefix: "hooks".to_owned(),
            tiers: [5, 60].map(Duration::from_secs).into(),
            retention: 14 * DAY,
            dead_retention: 30 * DAY,
            partitions: 6,
            replication: -1,
            create: true,
        };
        let existing = ["hooks.retry.5s", "hooks.retry.30s", "hooks.retry.60s", "hooks.dead", "hooks.notes"];
        let attempts =
            |topic: Option<&str>| settings::Attempts { topic: topic.map(str::to_owned), retention: 7 * DAY };
        let logged = needed(&topics, &attempts(Some("hooks.attempts")), false, 2_000_000, existing);
        let config = [("cleanup.policy", "delete"), ("retention.ms", "604800000")];
        assert_eq!(logged[7..], [topic("hooks.attempts", &config)]);
        let without = needed(&topics, &attempts(None), false, 2_000_000, existing);
        let mut needed = needed(&topics, &attempts(None), true, 2_000_000, existing);
        let notices = needed.pop().unwrap();
        assert_eq!((notices.name.as_str(), notices.partitions, &needed), ("hooks.notices", 1, &without));
        let names: Vec<&str> = needed.iter().map(|topic| topic.name.as_str()).collect();
        let tiers =
            ["hooks.retry.0s", "hooks.retry.5s", "hooks.retry.30s", "hooks.retry.1m", "hooks.retry.60s"];
        assert_eq!(names, [&tiers[..], &["hooks.dead", "hooks.state"]].concat());
        let tier = topic(
            "hooks.retry.5s",
            &[
                ("cleanup.policy", "delete"),
                ("message.timestamp.type", "LogAppendTime"),
                ("retention.ms", "1209605000"),
                ("retention.bytes", "-1"),
                ("max.message.bytes", "2065536"),
            ],
        );
        assert_eq!(needed[1], tier);
        assert_eq!(needed[6].partitions, 1);
        assert!(needed[6].config.contains(&("cleanup.policy", "compact".to_owned())));
    }

    fn check(key: &'static str, wanted: &str, found: &str, expected: Option<Severity>) {
        let config = Some(BTreeMap::from([(key.to_owned(), found.to_owned())]));
        let found = BTreeMap::from([("t".to_owned(), Found { partitions: 6, replicas: 1, config })]);
        let findings = diff(&[topic("t", &[(key, wanted)])], &found);
        assert_eq!(findings.first().map(|finding| finding.severity), expected, "{key}: {wanted} {found:?}");
        assert_eq!(findings.len(), usize::from(expected.is_some()));
    }

    #[test]
    fn what_differs() {
        use Severity::{Difference, Error, Note};
        check("retention.ms", "1000", "1000", None);
        check("retention.ms", "1000", "1001", None);
        check("retention.ms", "1000", "-1", None);
        check("retention.ms", "1000", "999", Some(Difference));
        check("retention.bytes", "-1", "-1", None);
        check("retention.bytes", "-1", "1000000000", Some(Difference));
        check("max.message.bytes", "1000", "2000", None);
        check("max.message.bytes", "1000", "999", Some(Difference));
        check("max.message.bytes", "1000", "-1", Some(Difference));
        check("message.timestamp.type", "LogAppendTime", "LogAppendTime", None);
        check("message.timestamp.type", "LogAppendTime", "CreateTime", Some(Error));
        check("cleanup.policy", "compact", "delete", Some(Error));
        check("cleanup.policy", "delete", "compact,delete", Some(Error));
        check("segment.ms", "3600000", "604800000", Some(Note));
    }

    #[test]
    fn what_cannot_be_verified_is_no_difference() {
        let needed = [topic("t", &[("retention.ms", "1000")]), topic("absent", &[])];
        let found = BTreeMap::from([("t".to_owned(), Found { partitions: 3, replicas: 1, config: None })]);
        let severities: Vec<Severity> =
            diff(&needed, &found).iter().map(|finding| finding.severity).collect();
        assert_eq!(severities, [Severity::Note, Severity::Unverified]);
    }

    #[test]
    fn the_state_topic_has_one_partition() {
        let needed = [Topic { partitions: 1, ..topic("arauto.state", &[]) }];
        let found = |partitions| {
            BTreeMap::from([(
                "arauto.state".to_owned(),
                Found { partitions, replicas: 1, config: Some(BTreeMap::new()) },
            )])
        };
        assert_eq!(diff(&needed, &found(1)), []);
        assert_eq!(diff(&needed, &found(6))[0].severity, Severity::Error);
    }
}
