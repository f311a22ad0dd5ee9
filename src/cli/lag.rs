//! `arauto lag`: how far every group is behind, partition by partition, and how old what it has not settled is.
//!
//! It asks the brokers, not an instance, so it says the same whether or not anything runs.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::Context;
use serde::Serialize;

use super::{
    Done,
    groups::{Group, Standing},
    paint::{DIM, Paint},
    words::span,
};
use crate::{
    config::settings::Settings,
    kafka::scan::{Scanner, Span},
    pipeline::delivery::now,
};

/// Show how far each group is behind.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every group is shown: the one of the configuration, which reads the source topics and the retry topics, and that of
each endpoint with a queue of its own. LAG counts offsets not committed; OLDEST is the age of the first of them. On a
retry topic waiting is normal: a record there is as old as it has waited on that topic.

Examples:
  arauto lag                  every partition
  arauto lag --behind         only those with a lag
  arauto lag --json | jq 'map(.lag // 0) | add'

--json: an array of {group, topic, partition, committed, end, lag, oldest, age_ms}; `oldest` is the timestamp of the
first record that is not settled in unix milliseconds; null where there is none.")]
pub(super) struct Args {
    /// Only partitions with a lag.
    #[arg(long)]
    behind: bool,
}

/// One partition of one group.
#[derive(Debug, Serialize)]
struct Row {
    group: String,
    topic: String,
    partition: i32,
    committed: Option<i64>,
    end: i64,
    lag: Option<i64>,
    /// Timestamp of the first record that is not settled, in unix milliseconds.
    oldest: Option<i64>,
    age_ms: Option<i64>,
}

/// Runs the command; it blocks its thread.
pub(super) fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    let mut rows = Vec::new();
    for group in Group::all(settings)? {
        let partitions = [&group.sources[..], &group.tiers[..]].concat();
        rows.extend(aged(settings, &group.name, group.standings(&partitions)?)?);
    }
    if args.behind {
        rows.retain(|row| row.lag.is_none_or(|lag| lag > 0));
    }
    print(&rows, json)?;
    Ok(Done::Well)
}

/// The rows of one group, with the age of the first record that each has not settled.
fn aged(settings: &Settings, group: &str, standings: Vec<Standing>) -> anyhow::Result<Vec<Row>> {
    let behind = |standing: &Standing| {
        let from = standing.committed?.max(standing.first);
        let Standing { of, end, .. } = standing;
        (from < *end).then(|| Span { topic: of.topic.clone(), partition: of.partition, from, to: *end })
    };
    let spans: Vec<Span> = standings.iter().filter_map(behind).collect();
    let firsts = if spans.is_empty() {
        Vec::new()
    } else {
        let firsts = Scanner::new(&settings.kafka).and_then(|mut scanner| scanner.first_timestamps(&spans));
        firsts.with_context(|| format!("the first unsettled records of {group} cannot be read"))?
    };
    let now = now();
    let row = |standing: Standing| {
        let Standing { of, committed, end, .. } = &standing;
        let mut first = spans.iter().zip(&firsts);
        let first = first.find(|(span, _)| (&span.topic, span.partition) == (&of.topic, of.partition));
        let oldest = first.and_then(|(_, first)| *first);
        Row {
            group: group.to_owned(),
            topic: of.topic.to_string(),
            partition: of.partition,
            committed: *committed,
            end: *end,
            lag: standing.lag(),
            oldest,
            age_ms: oldest.map(|oldest| (now - oldest).max(0)),
        }
    };
    Ok(standings.into_iter().map(row).collect())
}

fn print(rows: &[Row], json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, rows)?;
        return Ok(writeln!(out)?);
    }
    let width =
        |name: &str, of: fn(&Row) -> usize| rows.iter().map(of).chain([name.len()]).max().unwrap_or(0);
    let (groups, topics) = (width("GROUP", |row| row.group.len()), width("TOPIC", |row| row.topic.len()));
    let line = |group: &str, topic: &str, cells: [&str; 5]| {
        let [partition, committed, end, lag, oldest] = cells;
        format!(
            "{group:groups$}  {topic:topics$}  {partition:>4}  {committed:>12}  {end:>12}  {lag:>10}  {oldest:>8}"
        )
    };
    let paint = Paint::stdout();
    let head = line("GROUP", "TOPIC", ["PART", "COMMITTED", "END", "LAG", "OLDEST"]);
    writeln!(out, "{}", paint.paint(DIM, &head))?;
    let number = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    for row in rows {
        let age = row.age_ms.map_or_else(String::new, |age| span(Duration::from_millis(age.unsigned_abs())));
        let (partition, end) = (row.partition.to_string(), row.end.to_string());
        let (committed, lag) = (number(row.committed), number(row.lag));
        let text = line(&row.group, &row.topic, [&partition, &committed, &end, &lag, &age]);
        let text = text.trim_end();
        let quiet = row.lag.is_none_or(|lag| lag == 0);
        writeln!(out, "{}", if quiet { paint.paint(DIM, text) } else { text.to_owned() })?;
    }
    Ok(())
}
