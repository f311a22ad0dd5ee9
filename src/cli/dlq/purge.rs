//! `arauto dlq purge`: removes letters from the front of the topic, for good.
//!
//! Kafka removes up to an offset and nothing in between, so there is no filter here but a point.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    ops::ControlFlow,
};

use anyhow::{Context, bail};
use serde::Serialize;

use super::{
    reader::{self, Reader},
    row, say,
    table::{self, Align, Column},
};
use crate::{
    cli::{Done, Usage, ask, block_on, date, date::rfc3339, paint::Paint, progress::Progress},
    config::settings::Settings,
    kafka::{
        consumer::TopicPartition,
        scan::{Scanner, Span},
        topics::{Admin, dead_topic},
    },
    letters::{filter::Filter, spans},
    pipeline::delivery::now,
};

/// Remove letters up to a point, for good.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    point: Point,
    /// Only in this partition of the dead-letter topic; may be repeated.
    #[arg(long = "partition", value_name = "N", conflicts_with = "up_to")]
    partitions: Vec<i32>,
    /// Also those that were never replayed.
    #[arg(long)]
    force: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Point {
    /// What died before this time: `30d` (ago), `yesterday`, 2026-01-31, 2026-01-31T08:00:00Z, or unix seconds.
    #[arg(long, value_name = "TIME")]
    before: Option<String>,
    /// This letter and what is before it in its partition; may be repeated.
    #[arg(long, value_name = "PARTITION:OFFSET", value_parser = coordinates)]
    up_to: Vec<(i32, i64)>,
    /// All there is.
    #[arg(long)]
    everything: bool,
}

const EXAMPLES: &str = "\
Examples:
  arauto dlq purge --before 30d
  arauto dlq purge --up-to 0:1733 --up-to 2:950 --yes

It shows what would go and asks; without a terminal --yes must say it. Letters that were never replayed are kept unless
--force is given: `arauto dlq export` saves them first. With --json: removed (true or false), partitions (partition,
before: the first offset that stays, letters, never_replayed, first and last: unix ms).";

/// What would be removed from a partition.
#[derive(Debug, Clone, Serialize)]
struct Row {
    partition: i32,
    before: i64,
    letters: u64,
    never_replayed: u64,
    first: Option<i64>,
    last: Option<i64>,
}

#[derive(Serialize)]
struct Report<'r> {
    removed: bool,
    partitions: &'r [Row],
}

pub(super) fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    let topic = dead_topic(&settings.topics.prefix);
    let rows = count(spans(args, settings, &topic)?, settings)?;
    let letters: u64 = rows.iter().map(|row| row.letters).sum();
    let never: u64 = rows.iter().map(|row| row.never_replayed).sum();
    if letters == 0 {
        say(&Report { removed: false, partitions: &rows }, "there is nothing to remove", json)?;
        return Ok(Done::Well);
    }
    if !json {
        io::stdout().lock().write_all(table(&rows).as_bytes())?;
    }
    if never > 0 && !args.force {
        let help = "export them (arauto dlq export) and add --force to remove them too";
        bail!("nothing was removed: {never} of {} never replayed; {help}", row::letters(letters));
    }
    if !ask::confirm(&format!("Remove {} of {topic} for good?", row::letters(letters)), args.yes)? {
        bail!("nothing was removed");
    }
    let before: Vec<_> = rows.iter().map(|row| (row.partition, row.before)).collect();
    block_on(async {
        let admin = Admin::new(&settings.kafka)?;
        let removed = admin.delete_records(&topic, &before).await;
        removed.with_context(|| format!("not all letters of {topic} could be removed; say it again"))?;
        Ok(Done::Well)
    })?;
    let text = format!("{} removed", row::letters(letters));
    say(&Report { removed: true, partitions: &rows }, &text, json)?;
    Ok(Done::Well)
}

/// What lies before the point, where there is anything.
fn spans(args: &Args, settings: &Settings, topic: &str) -> anyhow::Result<Vec<Span>> {
    let scanner = Scanner::new(&settings.kafka)?;
    let points: BTreeMap<i32, i64> = args.point.up_to.iter().copied().collect();
    let partitions =
        if points.is_empty() { args.partitions.clone() } else { points.keys().copied().collect() };
    let all = spans::of(&scanner, topic, &Filter { partitions, ..Filter::default() })?;
    let before = match &args.point.before {
        Some(text) => {
            let wrong = || Usage(format!("--before {text:?} is no time; write {}", date::FORMS));
            Some(date::parse(text, now()).ok_or_else(wrong)?)
        }
        None => None,
    };
    let mut spans = Vec::with_capacity(all.len());
    for mut span in all {
        let of = TopicPartition { topic: span.topic.clone(), partition: span.partition };
        if let Some(millis) = before {
            span.to = span.to.min(scanner.offset_at(&of, millis)?);
        }
        if let Some(last) = points.get(&span.partition) {
            span.to = span.to.min(last.saturating_add(1));
        }
        spans.extend((!span.is_empty()).then_some(span));
    }
    Ok(spans)
}

/// Looks at every letter that would go.
fn count(spans: Vec<Span>, settings: &Settings) -> anyhow::Result<Vec<Row>> {
    let book = reader::book(settings)?;
    let row = |span: &Span| {
        let (partition, before) = (span.partition, span.to);
        (partition, Row { partition, before, letters: 0, never_replayed: 0, first: None, last: None })
    };
    let mut rows: BTreeMap<i32, Row> = spans.iter().map(row).collect();
    let mut reader = Reader::over(settings, Filter::default(), spans)?;
    let mut progress = Progress::new(reader.total());
    reader.each(&mut progress, |_, letter| {
        let record = &letter.record;
        if let Some(row) = rows.get_mut(&record.partition) {
            row.letters += 1;
            let taken = book.last_take(record.partition, record.offset, letter.died());
            row.never_replayed += u64::from(taken.is_none());
            row.first = Some(row.first.map_or(letter.died(), |first| first.min(letter.died())));
            row.last = Some(row.last.map_or(letter.died(), |last| last.max(letter.died())));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    progress.finish();
    Ok(rows.into_values().filter(|row| row.letters > 0).collect())
}

const COLUMNS: [Column; 6] = [
    ("PARTITION", Align::Right),
    ("BEFORE", Align::Right),
    ("LETTERS", Align::Right),
    ("NEVER REPLAYED", Align::Right),
    ("FIRST", Align::Left),
    ("LAST", Align::Left),
];

fn table(rows: &[Row]) -> String {
    let time = |time: Option<i64>| time.map_or_else(|| "-".to_owned(), rfc3339);
    let cells = |row: &Row| {
        let Row { partition, before, letters, never_replayed, first, last } = row;
        let numbers =
            [partition.to_string(), before.to_string(), letters.to_string(), never_replayed.to_string()];
        numbers.into_iter().chain([time(*first), time(*last)]).collect::<Vec<_>>()
    };
    let lines: Vec<_> = rows.iter().map(cells).collect();
    table::render(&COLUMNS, &lines, Paint::stdout())
}

fn coordinates(text: &str) -> Result<(i32, i64), String> {
    let (partition, offset) = text.split_once(':').unwrap_or(("", ""));
    let parsed = partition.parse().ok().zip(offset.parse().ok());
    parsed
        .filter(|(partition, offset)| *partition >= 0 && *offset >= 0)
        .ok_or_else(|| "write PARTITION:OFFSET, such as 0:1733".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_a_partition_and_an_offset() {
        for (text, expected) in [
            ("0:1733", Some((0, 1733))),
            ("1733", None),
            ("-1:2", None),
            ("1:-2", None),
            (":", None),
            ("", None),
        ] {
            assert_eq!(coordinates(text).ok(), expected, "{text}");
        }
    }
}
