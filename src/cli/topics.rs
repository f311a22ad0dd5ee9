//! `arauto topics`: what is needed, what exists, what differs; creates what is missing when told to, or writes a file for
//! whoever may.
#![allow(clippy::print_stdout)] // The output is the point.

use anyhow::Context;
use serde::Serialize;

use self::plan::Plan;
use super::{Done, Usage};
use crate::{
    config::settings::Settings,
    kafka::{
        rights,
        topics::{Admin, DEFAULT_MAX_MESSAGE, Finding, Inspection, Severity, diff, needed},
    },
};

mod plan;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  arauto topics
  arauto topics --create
  arauto topics --json | jq -r '.[] | select(.state != \"ok\").topic'
  arauto topics --format kafka-cli > kafka.sh
  arauto topics --format strimzi --cluster production --user arauto --operator oncall

--format asks no broker: the topics with their settings, and for --user the rights that an instance needs, no more. Source
topics belong to their producers and are not among the topics.

--json: an array of objects with topic, kind (own, source), state (ok, missing, differs, unverified), partitions and
findings (topic, key, found, wanted, severity).

Exit codes: 0 all is as it should be, 1 something is missing or differs, 2 wrong usage or configuration.")]
pub(super) struct Args {
    /// Create what is missing; what exists is never changed.
    #[arg(long)]
    create: bool,
    /// Write a file that makes the topics and grants the rights, from the configuration alone.
    #[arg(long, value_enum, value_name = "TOOL", conflicts_with = "create")]
    format: Option<plan::Format>,
    /// Whom instances are known as to the brokers (`User:NAME`).
    #[arg(long, value_name = "NAME", default_value = "arauto", requires = "format")]
    user: String,
    /// Who replays, backfills, releases retries and purges: also gets the rights for that.
    #[arg(long, value_name = "NAME", requires = "format")]
    operator: Option<String>,
    /// The cluster's name (Strimzi's label).
    #[arg(long, value_name = "NAME", default_value = "kafka", requires = "format")]
    cluster: String,
    /// The largest max.message.bytes of a source topic, when it is not the brokers' default.
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_MAX_MESSAGE, requires = "format")]
    largest_event: usize,
}

/// What is known of one topic.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Line {
    topic: String,
    /// `own` or `source`.
    kind: &'static str,
    /// `missing`, `differs`, `unverified` or `ok`.
    state: &'static str,
    partitions: Option<usize>,
    findings: Vec<Finding>,
}

pub(super) async fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    if let Some(format) = args.format {
        if json {
            return Err(Usage(
                "--format writes a file for another tool, --json is not one of them".to_owned(),
            )
            .into());
        }
        print!("{}", args.plan(settings).write(format));
        return Ok(Done::Well);
    }
    let admin = Admin::new(&settings.kafka)?;
    let mut inspection = inspect(&admin, settings).await?;
    if args.create && !inspection.missing().is_empty() {
        admin.create(&inspection.missing()).await.context("creating topics")?;
        inspection = inspect(&admin, settings).await?;
    }
    let lines = lines(&inspection);
    if json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        print_table(&lines);
    }
    let bad = lines.iter().any(|line| matches!(line.state, "missing" | "differs"));
    Ok(if bad { Done::Failed } else { Done::Well })
}

impl Args {
    fn plan(&self, settings: &Settings) -> Plan {
        let instances = rights::of_instances(settings);
        let operator = self
            .operator
            .iter()
            .map(|operator| (operator.clone(), [instances.clone(), rights::of_operators(settings)].concat()));
        Plan {
            topics: needed(
                &settings.topics,
                &settings.attempts,
                settings.notices.enabled,
                self.largest_event,
                [],
            ),
            users: [(self.user.clone(), instances.clone())].into_iter().chain(operator).collect(),
            cluster: self.cluster.clone(),
        }
    }
}

async fn inspect(admin: &Admin, settings: &Settings) -> anyhow::Result<Inspection> {
    admin.inspect(settings).await.with_context(|| format!("asking {}", settings.kafka.brokers))
}

fn lines(inspection: &Inspection) -> Vec<Line> {
    let findings = diff(&inspection.needed, &inspection.found);
    let own = inspection.needed.iter().map(|topic| {
        let found = inspection.found.get(&topic.name);
        let findings: Vec<Finding> = findings.iter().filter(|f| f.topic == topic.name).cloned().collect();
        let state = match findings.iter().map(|finding| finding.severity).max() {
            _ if found.is_none() => "missing",
            Some(Severity::Error | Severity::Difference) => "differs",
            Some(Severity::Unverified) => "unverified",
            Some(Severity::Note) | None => "ok",
        };
        Line {
            topic: topic.name.clone(),
            kind: "own",
            state,
            partitions: found.map(|f| f.partitions),
            findings,
        }
    });
    let source = |topic: &String, state| Line {
        topic: topic.clone(),
        kind: "source",
        state,
        partitions: None,
        findings: Vec::new(),
    };
    let missing = inspection.missing_sources.iter().map(|topic| source(topic, "missing"));
    let existing = inspection.sources.iter().map(|topic| source(topic, "ok"));
    own.chain(missing).chain(existing).collect()
}

fn print_table(lines: &[Line]) {
    let width = lines.iter().map(|line| line.topic.len()).max().unwrap_or(0);
    for line in lines {
        println!("{:width$}  {:6}  {}", line.topic, line.kind, line.state);
        for Finding { key, found, wanted, severity, .. } in &line.findings {
            let label = match severity {
                Severity::Error => "error",
                Severity::Difference => "differs",
                Severity::Unverified => "cannot be verified",
                Severity::Note => "note",
            };
            println!("{:width$}    {label}: {key} is {found}, wanted {wanted}", "");
        }
    }
    let missing = |kind| lines.iter().any(|line| line.kind == kind && line.state == "missing");
    if missing("own") {
        println!("\n`arauto topics --create` creates what is missing of our own.");
    }
    if missing("source") {
        println!("\nSource topics belong to their producers; Arauto does not create them.");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kafka::topics::{Found, Topic};

    #[test]
    fn a_topic_is_as_bad_as_its_worst_finding() {
        let topic = |name: &str| Topic {
            name: name.to_owned(),
            partitions: 6,
            replication: -1,
            config: vec![("retention.ms", "1000".to_owned())],
        };
        let found = |partitions, retention: Option<&str>| Found {
            partitions,
            replicas: 1,
            config: retention.map(|value| BTreeMap::from([("retention.ms".to_owned(), value.to_owned())])),
        };
        let inspection = Inspection {
            needed: ["absent", "fine", "short", "secret"].map(topic).into(),
            found: BTreeMap::from([
                ("fine".to_owned(), found(3, Some("1000"))),
                ("short".to_owned(), found(6, Some("999"))),
                ("secret".to_owned(), found(6, None)),
            ]),
            sources: ["orders".to_owned()].into(),
            missing_sources: vec!["payments".to_owned()],
        };
        let states: Vec<(String, &str)> =
            lines(&inspection).into_iter().map(|line| (line.topic, line.state)).collect();
        let expected = [
            ("absent", "missing"),
            ("fine", "ok"),
            ("short", "differs"),
            ("secret", "unverified"),
            ("payments", "missing"),
            ("orders", "ok"),
        ];
        assert_eq!(states, expected.map(|(topic, state)| (topic.to_owned(), state)));
    }
}
