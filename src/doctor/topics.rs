//! Are the topics there, and as they have to be? Pure.

use super::{Area, Finding};
use crate::{
    config::settings::Settings,
    kafka::topics::{self, Found, Inspection, Severity, diff, notices_topic, wants_notices},
};

pub(super) fn look(settings: &Settings, inspection: &Inspection) -> Vec<Finding> {
    let mut findings = sources(inspection);
    findings.extend(inspection.missing().iter().map(|topic| missing(settings, &topic.name)));
    let (mut sound, mut alone) = (0, 0);
    for topic in &inspection.needed {
        let Some(found) = inspection.found.get(&topic.name) else { continue };
        let one = [(topic.name.clone(), found.clone())].into();
        let differing = diff(std::slice::from_ref(topic), &one);
        let bad: Vec<_> =
            differing.iter().filter_map(differs).chain(durability(&topic.name, found)).collect();
        sound += usize::from(bad.is_empty());
        alone += usize::from(found.replicas == 1);
        findings.extend(bad);
    }
    let own = format!("{}.*", settings.topics.prefix);
    if sound > 0 {
        let told = format!("{} with the settings they need", counted(sound, "topic"));
        findings.push(Finding::ok(Area::Topics, &own, told));
    }
    if alone > 0 {
        let told =
            format!("{} with one replica: the records are gone with its broker", counted(alone, "topic"));
        let mend = "on more than one broker: three replicas and min.insync.replicas=2 (kafka-reassign-partitions; for new topics topics.replication)";
        findings.push(Finding::warning(Area::Topics, own, told, mend));
    }
    findings
}

/// So many of something.
pub(super) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn sources(inspection: &Inspection) -> Vec<Finding> {
    let there =
        inspection.sources.iter().map(|topic| Finding::ok(Area::Topics, topic, "source topic, there"));
    let missing = inspection.missing_sources.iter().map(|topic| {
        let mend = "create it, or correct kafka.topics; if it is there, allow Describe and Read on it";
        Finding::problem(Area::Topics, topic, "source topic, does not exist", mend)
    });
    let mut findings: Vec<_> = missing.chain(there).collect();
    if findings.is_empty() {
        let mend = "correct the pattern in kafka.topics, or create the topics";
        let told = "no topic there is matches kafka.topics";
        findings.push(Finding::warning(Area::Topics, "source topics", told, mend));
    }
    findings
}

fn missing(settings: &Settings, topic: &str) -> Finding {
    let told = "does not exist";
    let prefix = &settings.topics.prefix;
    if topic == notices_topic(prefix)
        && !wants_notices(prefix, &settings.endpoints)
        && !settings.topics.create
    {
        let mend = "arauto topics --create (topics.create is off), or enabled = false in [notices]";
        return Finding::warning(Area::Topics, topic, "does not exist: notices are not written", mend);
    }
    if settings.topics.create {
        let mend = "nothing: an instance creates it when it starts; or: arauto topics --create";
        Finding::warning(Area::Topics, topic, told, mend)
    } else {
        Finding::problem(Area::Topics, topic, told, "arauto topics --create (topics.create is off)")
    }
}

fn differs(finding: &topics::Finding) -> Option<Finding> {
    let topics::Finding { topic, key, found, wanted, severity } = finding;
    let told = format!("{key} is {found}, needed is {wanted}");
    let alter = format!(
        "kafka-configs --alter --entity-type topics --entity-name {topic} --add-config {key}={wanted}"
    );
    Some(match severity {
        // Any number of partitions does, and so do the state topic's housekeeping settings.
        Severity::Note => return None,
        Severity::Unverified => {
            let mend = "allow the user DescribeConfigs on it, or compare it by hand (arauto topics)";
            Finding::warning(Area::Topics, topic, "its settings are not told", mend)
        }
        Severity::Difference => {
            let why = match key.as_str() {
                "max.message.bytes" => "large deliveries are dead-lettered without their bodies",
                _ => "what waits is lost when Arauto stands still for longer",
            };
            Finding::problem(Area::Topics, topic, format!("{told}: {why}"), &alter)
        }
        Severity::Error if key == "partitions" => {
            let mend = "delete it while no instance runs, after reading what an operator paused or disabled (arauto endpoints); an instance creates it anew";
            Finding::problem(Area::Topics, topic, format!("{told}: an instance refuses to start"), mend)
        }
        Severity::Error => {
            Finding::problem(Area::Topics, topic, format!("{told}: an instance refuses to start"), &alter)
        }
    })
}

/// Acknowledged has to mean safe: `acks=all` waits for as many replicas as `min.insync.replicas` says, and refuses a
/// record when there are fewer.
fn durability(topic: &str, found: &Found) -> Option<Finding> {
    let replicas = found.replicas;
    let config = found.config.as_ref()?;
    let least: usize = config.get("min.insync.replicas")?.parse().ok()?;
    if least > replicas {
        let told = format!(
            "min.insync.replicas is {least}, but it has {}: nothing can be written",
            counted(replicas, "replica")
        );
        let mend = format!(
            "kafka-configs --alter --entity-type topics --entity-name {topic} --add-config min.insync.replicas={replicas}, or give it more replicas (kafka-reassign-partitions)"
        );
        return Some(Finding::problem(Area::Topics, topic, told, &mend));
    }
    if least == 1 && replicas > 1 {
        let told = format!(
            "min.insync.replicas is 1 of {replicas}: what was acknowledged may be on one broker only"
        );
        let mend = format!(
            "kafka-configs --alter --entity-type topics --entity-name {topic} --add-config min.insync.replicas=2"
        );
        return Some(Finding::warning(Area::Topics, topic, told, &mend));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::Verdict, *};

    #[test]
    fn acknowledged_means_safe() {
        let check = |replicas, least: &str, expected: Option<Verdict>| {
            let config = Some(BTreeMap::from([("min.insync.replicas".to_owned(), least.to_owned())]));
            let found = Found { partitions: 1, replicas, config };
            assert_eq!(durability("t", &found).map(|f| f.verdict), expected, "{least} of {replicas}");
        };
        check(3, "2", None);
        check(3, "3", None);
        check(3, "1", Some(Verdict::Warning));
        check(1, "1", None);
        check(1, "2", Some(Verdict::Problem));
        check(2, "3", Some(Verdict::Problem));
    }

    #[test]
    fn what_differs_is_as_bad_as_what_it_leads_to() {
        let check = |key: &str, severity, expected: Option<(Verdict, &str)>| {
            let (found, wanted) = ("1".to_owned(), "2".to_owned());
            let finding =
                topics::Finding { topic: "t".to_owned(), key: key.to_owned(), found, wanted, severity };
            let told = differs(&finding);
            assert_eq!(told.as_ref().map(|told| told.verdict), expected.map(|(verdict, _)| verdict), "{key}");
            if let (Some(told), Some((_, part))) = (told, expected) {
                assert!(format!("{} {:?}", told.found, told.mend).contains(part), "{told:?}");
            }
        };
        check("partitions", Severity::Note, None);
        check("config", Severity::Unverified, Some((Verdict::Warning, "DescribeConfigs")));
        check("retention.ms", Severity::Difference, Some((Verdict::Problem, "stands still")));
        check("max.message.bytes", Severity::Difference, Some((Verdict::Problem, "without their bodies")));
        check("cleanup.policy", Severity::Error, Some((Verdict::Problem, "--add-config cleanup.policy=2")));
        check("partitions", Severity::Error, Some((Verdict::Problem, "refuses to start")));
    }
}
