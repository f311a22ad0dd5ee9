//! May Arauto do what it does? Each right is tried, since nobody but an administrator may read the lists of them.

use std::collections::BTreeSet;

use super::{Area, Finding};
use crate::{
    config::settings::{Kafka, Queue, Settings},
    kafka::{
        consumer::TopicPartition,
        observer::Observer,
        topics::{Admin, Inspection, Topic, dead_topic, state_topic},
        trial::{self, Reader, Writer, is_refusal},
    },
    pipeline::{delivery::millis, marker::CLOCKS, own::group_of},
};

/// A clock that differs by less than this is as good as right.
const SAME_TIME: i64 = 1_000;

/// What is asked of an administrator's client: creating topics, and removing.
pub(super) async fn by_admin(settings: &Settings, admin: &Admin, inspection: &Inspection) -> Vec<Finding> {
    let mut findings = Vec::new();
    let missing = !inspection.missing().is_empty();
    if settings.topics.create {
        let like = inspection.needed.first().cloned();
        let name = format!("{}.doctor", settings.topics.prefix);
        let topic = like.map(|like| Topic { name, ..like });
        if let Some(topic) = topic {
            findings.push(match admin.may_create(&topic).await {
                Ok(()) => Finding::ok(Area::Rights, "create topics", "allowed"),
                Err(error) if missing => {
                    let mend = "allow Create on the cluster (or on the prefix), correct topics.replication, or create them: arauto topics --create";
                    Finding::problem(Area::Rights, "create topics", error.to_string(), mend)
                }
                Err(error) => {
                    let mend = "nothing is missing now; for a tier added later allow Create, or create it by hand";
                    Finding::warning(Area::Rights, "create topics", error.to_string(), mend)
                }
            });
        }
    }
    let dead = dead_topic(&settings.topics.prefix);
    if inspection.found.contains_key(&dead) {
        // Nothing lies before the first offset.
        let removed = admin.delete_records(&dead, &[(0, 0)]).await;
        findings.extend(removed.err().filter(is_refusal).map(|error| {
            let mend = format!("allow Delete on {dead}, if somebody is to use arauto dlq purge");
            Finding::warning(Area::Rights, "purge dead letters", error.to_string(), &mend)
        }));
    }
    if settings.endpoints.iter().any(|endpoint| endpoint.queue == Queue::Own) {
        let nobody = group_of(&settings.kafka.group, "doctor.nobody");
        let deleted = admin.delete_group(&nobody).await;
        findings.extend(deleted.err().filter(is_refusal).map(|error| {
            let mend = "allow Delete on groups that begin with kafka.group; without, a queue that is given up leaves its offsets";
            Finding::warning(Area::Rights, "delete own queues' groups", error.to_string(), mend)
        }));
    }
    findings
}

/// What is asked of consumers and producers.
pub(super) fn by_clients(settings: &Settings, observer: &Observer, inspection: &Inspection) -> Vec<Finding> {
    let mut findings = vec![group(settings, observer, inspection)];
    findings.extend(own_groups(settings));
    findings.extend(read(settings, inspection));
    findings.extend(write(settings, inspection));
    findings
}

/// The group is joined and its offsets are committed, which needs the same right.
fn group(settings: &Settings, observer: &Observer, inspection: &Inspection) -> Finding {
    let name = &settings.kafka.group;
    let state = state_topic(&settings.topics.prefix);
    let what = format!("group {name}");
    let allow = format!(
        "allow Read on the group {name}; with queues of endpoints' own, on groups that begin with it"
    );
    if let Err(error) = trial::group(&settings.kafka, &state) {
        return Finding::problem(Area::Rights, what, error.to_string(), &allow);
    }
    if !inspection.found.contains_key(&state) {
        return Finding::ok(Area::Rights, what, "its offsets can be read; no instance has run yet");
    }
    match observer.has_members(&TopicPartition { topic: state.into(), partition: 0 }) {
        Ok(true) => Finding::ok(Area::Rights, what, "an instance is running"),
        Ok(false) => Finding::ok(Area::Rights, what, "its offsets can be committed; no instance is running"),
        Err(error) => Finding::problem(Area::Rights, what, error.to_string(), &allow),
    }
}

fn own_groups(settings: &Settings) -> Vec<Finding> {
    let state = state_topic(&settings.topics.prefix);
    let own = settings.endpoints.iter().filter(|endpoint| endpoint.queue == Queue::Own);
    let refused = own.filter_map(|endpoint| {
        let group = group_of(&settings.kafka.group, &endpoint.id);
        let kafka = Kafka { group: group.clone(), ..settings.kafka.clone() };
        let error = trial::group(&kafka, &state).err()?;
        let mend = format!("allow Read on groups that begin with {}.", settings.kafka.group);
        Some(Finding::problem(Area::Rights, format!("group {group}"), error.to_string(), &mend))
    });
    // One is enough: the others would be refused as well, each after a while.
    refused.take(1).collect()
}

fn read(settings: &Settings, inspection: &Inspection) -> Vec<Finding> {
    let topics: BTreeSet<&String> = inspection.sources.iter().chain(inspection.found.keys()).collect();
    let what = "read topics";
    let reader = match Reader::new(&settings.kafka) {
        Ok(reader) => reader,
        Err(error) => {
            return vec![Finding::problem(Area::Rights, what, error.to_string(), "correct kafka.properties")];
        }
    };
    let failed = topics.iter().filter_map(|topic| {
        let error = reader.read(topic).err()?;
        let mend = if is_refusal(&error) {
            format!("allow Read and Describe on {topic}")
        } else {
            format!("see whether the leader of {topic}:0 is up, and try again")
        };
        Some(Finding::problem(Area::Rights, format!("read {topic}"), error.to_string(), &mend))
    });
    let failed: Vec<_> = failed.collect();
    if failed.is_empty() && !topics.is_empty() {
        let told = format!("{} can be read", super::topics::counted(topics.len(), "topic"));
        return vec![Finding::ok(Area::Rights, what, told)];
    }
    failed
}

/// In transactions that are taken back, which replays and commands need the right to, too; and the brokers' clock.
fn write(settings: &Settings, inspection: &Inspection) -> Vec<Finding> {
    let prefix = &settings.topics.prefix;
    let writer = match Writer::begin(&settings.kafka, &format!("{prefix}.doctor")) {
        Ok(writer) => writer,
        Err(error) => {
            let mend = format!(
                "allow Write and Describe on transactional ids that begin with {prefix}. (for arauto dlq replay, backfill and retries); writing was not tried without"
            );
            return vec![Finding::warning(Area::Rights, "transactions", error.to_string(), &mend)];
        }
    };
    let (mut findings, mut ahead) = (Vec::new(), None);
    for topic in inspection.found.keys() {
        match writer.write(topic) {
            Ok(clock) => ahead = ahead.or(clock),
            Err(error) => {
                let mend = if is_refusal(&error) {
                    format!("allow Write and Describe on {topic}")
                } else {
                    format!(
                        "see whether {topic} has enough replicas in sync (min.insync.replicas), and try again"
                    )
                };
                findings.push(Finding::problem(
                    Area::Rights,
                    format!("write {topic}"),
                    error.to_string(),
                    &mend,
                ));
            }
        }
    }
    if findings.is_empty() && !inspection.found.is_empty() {
        let told = format!(
            "{} can be written, in transactions",
            super::topics::counted(inspection.found.len(), "topic")
        );
        findings.push(Finding::ok(Area::Rights, "write topics", told));
    }
    findings.extend(ahead.map(clock));
    findings
}

/// Retries become due by this machine's clock, and are stamped by the brokers'.
fn clock(ahead: i64) -> Finding {
    let what = "brokers' clock";
    let told = match ahead {
        0.. => format!("{ahead} ms ahead of this machine's"),
        behind => format!("{} ms behind this machine's", -behind),
    };
    let mend = "synchronise the clocks of the brokers' and of this machine (NTP): retries come late or early by the difference";
    match ahead.abs() {
        0..SAME_TIME => Finding::ok(Area::Clock, what, told),
        off if off <= millis(CLOCKS) => Finding::warning(Area::Clock, what, told, mend),
        _ => Finding::problem(Area::Clock, what, told, mend),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn clocks_may_differ_a_little() {
        for (ahead, verdict, told) in [
            (0, Verdict::Ok, "0 ms ahead"),
            (-999, Verdict::Ok, "999 ms behind"),
            (1_000, Verdict::Warning, "1000 ms ahead"),
            (-3_000, Verdict::Warning, "3000 ms behind"),
            (3_001, Verdict::Problem, "3001 ms ahead"),
        ] {
            let finding = clock(ahead);
            assert!(finding.verdict == verdict && finding.found.contains(told), "{ahead}: {finding:?}");
        }
    }
}
