//! `arauto dlq tail`: letters as they die.

use std::{
    io::{self, Write},
    ops::ControlFlow,
    sync::Arc,
};

use super::{line, reader::Reader, row::Row};
use crate::{
    cli::{
        Done,
        date::rfc3339,
        filter,
        paint::{DIM, Paint},
        progress::Progress,
        words::safe,
    },
    config::settings::Settings,
    kafka::{
        consumer::TopicPartition,
        scan::{Scanner, Span},
        topics::dead_topic,
    },
    letters::{filter::Filter, spans},
};

/// Follow new dead letters until interrupted.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    filter: filter::Args,
}

const EXAMPLES: &str = "\
Examples:
  arauto dlq tail
  arauto dlq tail --endpoint crm --since 10m
  arauto dlq tail --json | jq -r 'select(.status == 401) | .endpoint'

It begins now, or at --since; with --limit it ends by itself. With --json each letter is an object as in `dlq list`.";

pub(super) fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    let filter = args.filter.resolve()?;
    let topic = dead_topic(&settings.topics.prefix);
    let spans = open_ended(&Scanner::new(&settings.kafka)?, &topic, &filter)?;
    let mut reader = Reader::over(settings, filter, spans)?;
    let (mut out, paint) = (io::stdout().lock(), Paint::stdout());
    if !json {
        // Not part of the output: it tells who watches that it has begun.
        eprintln!("{}", paint.paint(DIM, &format!("following {topic}; Ctrl-C ends it")));
    }
    reader.each(&mut Progress::hidden(), |_, letter| {
        let row = Row::new(&letter, None);
        if json {
            line(&mut out, &row)?
        } else {
            writeln!(out, "{}", text(&row, paint))?
        }
        out.flush()?;
        Ok(ControlFlow::Continue(()))
    })?;
    reader.warn();
    Ok(Done::Well)
}

/// From now, or the time asked for, on.
fn open_ended(scanner: &Scanner, topic: &str, filter: &Filter) -> anyhow::Result<Vec<Span>> {
    let topics = scanner.topics()?;
    let partitions = topics.get(topic).ok_or_else(|| spans::Error::NoTopic(topic.to_owned()))?;
    let topic: Arc<str> = topic.into();
    let span = |&partition: &i32| {
        let of = TopicPartition { topic: Arc::clone(&topic), partition };
        let from = match filter.since {
            Some(since) => scanner.offset_at(&of, since)?,
            None => scanner.watermarks(&of)?.1,
        };
        Ok(Span { topic: Arc::clone(&topic), partition, from, to: Span::FOREVER })
    };
    let wanted = |partition: &&i32| filter.partitions.is_empty() || filter.partitions.contains(partition);
    partitions.iter().filter(wanted).map(span).collect()
}

fn text(row: &Row, paint: Paint) -> String {
    let or_dash = |text: &Option<String>| safe(text.as_deref().unwrap_or("-")).into_owned();
    let status = row.status.map_or_else(String::new, |status| format!(" {status}"));
    let error = row.error.as_deref().map_or_else(String::new, |error| format!("  {}", safe(error)));
    format!(
        "{}  {}  {}{status}  {}  {}  {}:{}{}",
        rfc3339(row.died),
        or_dash(&row.endpoint),
        or_dash(&row.reason),
        safe(&row.event_type),
        or_dash(&row.id),
        row.partition,
        row.offset,
        paint.paint(DIM, &error),
    )
}
