//! `arauto offsets`: where the group stands, and where it is to go on when its offsets are gone.
//!
//! A reset commits for a group that nobody is a member of; the brokers refuse it while an instance runs.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use anyhow::{Context, bail};
use serde::Serialize;

use super::{Done, Usage, date};
use crate::{
    config::settings::Settings,
    kafka::{
        consumer::TopicPartition,
        observer::Observer,
        topics::{is_own, parse_tier},
    },
    pipeline::delivery::now,
};

/// Show or reset the group's offsets on the source topics.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the group goes on: `earliest`, `latest`, or a time: how long ago, such as `2h`, `today`, `yesterday`, a date
    /// such as 2026-01-31T08:00:00Z (or 2026-01-31, UTC), or unix seconds. Stop every instance first.
    #[arg(long, value_name = "POSITION")]
    reset: Option<String>,
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

/// Runs the command; it blocks its thread.
pub(super) fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    let reset = args.reset.as_deref().map(position).transpose()?;
    let observer =
        Observer::new(&settings.kafka).context("the Kafka client cannot be made (kafka.properties)")?;
    let topics = observer.topics().context("the brokers do not answer")?;
    let (sources, tiers) = partitions(settings, &topics);
    if let Some(reset) = reset {
        // Tiers without a committed position begin at their start by themselves; nothing waiting is passed over.
        let offsets = sources
            .iter()
            .map(|of| Ok((of.clone(), resolve(&observer, of, reset)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        if offsets.is_empty() {
            bail!("none of the source topics exists");
        }
        observer
            .set_committed(&offsets)
            .context("the offsets were not set; is an instance of the group still running?")?;
    }
    let all: Vec<_> = sources.into_iter().chain(tiers).collect();
    print(&rows(&observer, &all)?, json)?;
    Ok(Done::Well)
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

fn resolve(observer: &Observer, of: &TopicPartition, position: Position) -> anyhow::Result<i64> {
    let (first, end) = observer.watermarks(of)?;
    Ok(match position {
        Position::Earliest => first,
        Position::Latest => end,
        Position::At(millis) => observer.offset_at(of, millis)?,
    })
}

/// The partitions of the source topics, and those of the retry tiers.
fn partitions(
    settings: &Settings,
    topics: &BTreeMap<String, Vec<i32>>,
) -> (Vec<TopicPartition>, Vec<TopicPartition>) {
    let prefix = &settings.topics.prefix;
    let all = |wanted: &dyn Fn(&str) -> bool| -> Vec<TopicPartition> {
        let topics = topics.iter().filter(|(topic, _)| wanted(topic));
        let partitions =
            topics.flat_map(|(topic, partitions)| partitions.iter().map(move |partition| (topic, partition)));
        partitions
            .map(|(topic, partition)| TopicPartition { topic: topic.as_str().into(), partition: *partition })
            .collect()
    };
    let selected = |topic: &str| settings.kafka.topics.iter().any(|selector| selector.matches(topic));
    (
        all(&|topic| !is_own(prefix, topic) && selected(topic)),
        all(&|topic| parse_tier(prefix, topic).is_some()),
    )
}

fn rows(observer: &Observer, partitions: &[TopicPartition]) -> anyhow::Result<Vec<Row>> {
    let committed = observer.committed(partitions).context("the group's offsets cannot be read")?;
    let row = |(of, committed): (&TopicPartition, Option<(i64, String)>)| {
        let (first, end) = observer.watermarks(of)?;
        let committed = committed.map(|(offset, _)| offset);
        let lag = committed.map(|offset| (end - offset).max(0));
        Ok(Row { topic: of.topic.to_string(), partition: of.partition, committed, first, end, lag })
    };
    partitions.iter().zip(committed).map(row).collect()
}

fn print(rows: &[Row], json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, rows)?;
        return Ok(writeln!(out)?);
    }
    let width = rows.iter().map(|row| row.topic.len()).max().unwrap_or(0).max(5);
    writeln!(
        out,
        "{:width$}  PART  {:>12}  {:>12}  {:>12}  {:>10}",
        "TOPIC", "COMMITTED", "FIRST", "END", "LAG"
    )?;
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
