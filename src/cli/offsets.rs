//! `arauto offsets`: where the group stands, and where it is to go on when its offsets are gone.
//!
//! A reset commits for a group that nobody is a member of; the brokers refuse it while an instance runs. It asks only on
//! a terminal, so that scripts need no flag.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, bail};
use serde::Serialize;

use super::{
    Done, Usage, ask, date, endpoints,
    groups::{Group, Standing},
    paint::{DIM, Paint},
};
use crate::{
    config::settings::{Queue, Settings},
    kafka::{consumer::TopicPartition, observer::Observer, topics::parse_tier},
    pipeline::delivery::now,
};

/// Show or reset a group's offsets.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A reset decides where the group goes on reading its source topics. It shows what changes and asks; without a terminal,
or with --yes, it does not ask. Retry topics are never reset: what waits there is `arauto retries` to release or cancel.
The brokers refuse a reset while an instance runs; one that was killed counts until its session has ended.

Examples:
  arauto offsets                                    where the group stands
  arauto offsets --reset 2h                         read the last two hours again
  arauto offsets --reset latest --topic orders      pass over what waits in one topic
  arauto offsets --reset earliest --endpoint crm    the queue of an endpoint with queue = \"own\"

--json: an array of {topic, partition, committed, first, end, lag}, after a reset as it is then.")]
pub(super) struct Args {
    /// Where the group goes on: `earliest`, `latest`, or a time: how long ago, such as `2h`, `today`, `yesterday`, a date
    /// such as 2026-01-31T08:00:00Z (or 2026-01-31, UTC), or unix seconds. Stop every instance first.
    #[arg(long, value_name = "POSITION")]
    reset: Option<String>,
    /// Only this topic; may be given several times.
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// The group of this endpoint, which has a queue of its own, instead of the main one.
    #[arg(long, value_name = "ID")]
    endpoint: Option<String>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// Where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Earliest,
    Latest,
    /// Unix milliseconds.
    At(i64),
}

/// One partition.
#[derive(Debug, Serialize)]
struct Row {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    first: i64,
    end: i64,
    lag: Option<i64>,
}

/// Where a partition stands, and where it is to go on.
struct Change {
    standing: Standing,
    to: i64,
}

/// Runs the command; it blocks its thread.
pub(super) fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    let reset = args.reset.as_deref().map(position).transpose()?;
    let mut group = match &args.endpoint {
        None => Group::main(settings)?,
        Some(id) => own(settings, id)?,
    };
    narrow(&mut group, settings, args)?;
    if let Some(reset) = reset
        && !self::reset(&group, settings, reset, args.yes, json)?
    {
        return Ok(Done::Failed);
    }
    let partitions = [&group.sources[..], &group.tiers[..]].concat();
    let rows: Vec<Row> = group.standings(&partitions)?.into_iter().map(row).collect();
    print(&rows, json)?;
    Ok(Done::Well)
}

fn own(settings: &Settings, id: &str) -> anyhow::Result<Group> {
    let endpoint = endpoints::find(settings, id)?;
    if endpoint.queue != Queue::Own {
        let told =
            "has no queue of its own (queue = \"own\" or an ordering), it is read for by the main group";
        return Err(Usage(format!("endpoint {id:?} {told}; leave --endpoint out")).into());
    }
    Group::own(settings, endpoint)
}

/// Leaves only the topics that were asked for.
fn narrow(group: &mut Group, settings: &Settings, args: &Args) -> anyhow::Result<()> {
    for topic in &args.topics {
        let is = |of: &TopicPartition| *of.topic == **topic;
        let is_tier = parse_tier(&settings.topics.prefix, topic).is_some();
        if args.reset.is_some() && is_tier {
            let told = "is a retry topic, which is never reset; see: arauto retries";
            return Err(Usage(format!("{topic} {told}")).into());
        }
        if !group.sources.iter().chain(&group.tiers).any(is) {
            let told =
                "is no topic that the group reads, or does not exist (kafka.topics; see: arauto topics)";
            return Err(Usage(format!("{topic} {told}")).into());
        }
    }
    if !args.topics.is_empty() {
        let asked_for = |of: &TopicPartition| args.topics.iter().any(|topic| *of.topic == **topic);
        group.sources.retain(asked_for);
        group.tiers.retain(asked_for);
    }
    Ok(())
}

/// Shows, asks, writes; false when the answer was no. Tiers without a committed position begin at their start by
/// themselves; nothing waiting is passed over.
fn reset(group: &Group, settings: &Settings, to: Position, yes: bool, json: bool) -> anyhow::Result<bool> {
    if group.sources.is_empty() {
        bail!("none of the source topics exists (kafka.topics), so there is nothing to reset");
    }
    let running = || {
        format!(
            "the offsets of {} were not set; is an instance of the group still running? Stop every instance first; a killed one counts until its session has ended",
            group.name
        )
    };
    if group.is_running(settings)? {
        bail!(running());
    }
    let change = |standing: Standing| {
        let to = resolve(&group.observer, &standing, to)?;
        Ok(Change { standing, to })
    };
    let standings = group.standings(&group.sources)?;
    let changes = standings.into_iter().map(change).collect::<anyhow::Result<Vec<_>>>()?;
    let asks = !yes && io::stdin().is_terminal() && io::stderr().is_terminal();
    if asks || !json {
        show(&changes, &group.name)?;
    }
    if asks && !ask::confirm("Set these offsets?", false)? {
        eprintln!("nothing was changed");
        return Ok(false);
    }
    let offsets: Vec<_> = changes.iter().map(|change| (change.standing.of.clone(), change.to)).collect();
    group.observer.set_committed(&offsets).with_context(running)?;
    Ok(true)
}

/// What changes; on stderr, since the result follows on stdout.
fn show(changes: &[Change], group: &str) -> anyhow::Result<()> {
    let mut out = io::stderr().lock();
    let width = changes.iter().map(|change| change.standing.of.topic.len()).max().unwrap_or(0).max(5);
    writeln!(out, "offsets of {group}:")?;
    for Change { standing, to } in changes {
        let TopicPartition { topic, partition } = &standing.of;
        let (from, what) = match standing.committed {
            None => ("-".to_owned(), String::new()),
            Some(from) => (from.to_string(), difference(from, *to)),
        };
        writeln!(out, "  {topic:width$}  {partition:>4}  {from:>12} -> {to:>12}  {what}")?;
    }
    Ok(())
}

fn difference(from: i64, to: i64) -> String {
    match to - from {
        0 => "unchanged".to_owned(),
        more @ 1.. => format!("passes over {more}"),
        less => format!("delivers {} again", -less),
    }
}

fn position(text: &str) -> anyhow::Result<Position> {
    parse(text, now()).ok_or_else(|| {
        Usage(format!("{text:?} is no position; write earliest, latest, {}", date::FORMS)).into()
    })
}

fn parse(text: &str, now: i64) -> Option<Position> {
    match text {
        "earliest" => return Some(Position::Earliest),
        "latest" => return Some(Position::Latest),
        _ => {}
    }
    date::parse(text, now).map(Position::At)
}

fn resolve(observer: &Observer, standing: &Standing, position: Position) -> anyhow::Result<i64> {
    Ok(match position {
        Position::Earliest => standing.first,
        Position::Latest => standing.end,
        Position::At(millis) => observer.offset_at(&standing.of, millis)?,
    })
}

fn row(standing: Standing) -> Row {
    let lag = standing.lag();
    let Standing { of: TopicPartition { topic, partition }, committed, first, end } = standing;
    Row { topic: topic.to_string(), partition, committed, first, end, lag }
}

fn print(rows: &[Row], json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, rows)?;
        return Ok(writeln!(out)?);
    }
    let width = rows.iter().map(|row| row.topic.len()).max().unwrap_or(0).max(5);
    let head = format!(
        "{:width$}  PART  {:>12}  {:>12}  {:>12}  {:>10}",
        "TOPIC", "COMMITTED", "FIRST", "END", "LAG"
    );
    writeln!(out, "{}", Paint::stdout().paint(DIM, &head))?;
    for Row { topic, partition, committed, first, end, lag } in rows {
        let number = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        writeln!(
            out,
            "{topic:width$}  {partition:>4}  {:>12}  {first:>12}  {end:>12}  {:>10}",
            number(*committed),
            number(*lag)
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_says_what_it_leads_to() {
        for (from, to, expected) in [(5, 5, "unchanged"), (5, 9, "passes over 4"), (9, 5, "delivers 4 again")]
        {
            assert_eq!(difference(from, to), expected);
        }
    }

    #[test]
    fn positions() {
        let now = 1_700_000_000_000;
        let check = |text: &str, expected: Option<Position>| assert_eq!(parse(text, now), expected, "{text}");
        check("earliest", Some(Position::Earliest));
        check("latest", Some(Position::Latest));
        check("2h", Some(Position::At(now - 7_200_000)));
        check("2023-11-14T22:13:20Z", Some(Position::At(now)));
        check("sometime", None);
        check("", None);
    }
}
