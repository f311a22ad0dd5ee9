//! `arauto trace`: the story of one event's deliveries, from the attempt log, the retry topics and the dead letters.

use std::{
    cell::RefCell,
    io::{self, Write},
    ops::ControlFlow,
};

use anyhow::{Context, bail};
use serde::Serialize;

use super::{Done, Usage, date, pager, paint::Paint, progress::Progress};
use crate::{
    config::settings::Settings,
    kafka::{
        consumer::TopicPartition,
        headers::Glance,
        observer::Observer,
        scan::{Names, Scanner, Seen, Span, Step},
        topics::{attempts_topic, dead_topic},
    },
    letters::{
        Letter,
        filter::Filter,
        spans::{self, Error},
    },
    pipeline::{
        attempts::Entry,
        decode::{Decoder, id},
        delivery::now,
    },
    replay::known::{self, Known},
    retries::Tiers,
    story::{Found, Replay, Source, Story},
};

mod page;

/// Tell the story of one event's deliveries.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Looks through the attempt log (attempts.topic), the retry topics and the dead letters, and tells for each endpoint in
order of time what happened: each attempt, what waits and until when, dead letters and their replays. Without an attempt
log only what waits or died is known. All partitions are read; --since spares reading what is older.

Examples:
  arauto trace msg_2b5wqkz7m3
  arauto trace msg_2b5wqkz7m3 --since 2h
  arauto trace msg_2b5wqkz7m3 --json | jq '.endpoints[] | {endpoint, state}'

--json: {id, type, events, endpoints, attempt_log}. `events`: where the event is (topic, partition, offset, timestamp),
and while it is still there, its key and bytes. `endpoints`: each with endpoint, state (delivered, waiting, dead,
dropped, under_way) and steps, each with at, what (attempt, dead_letter, replayed, waiting) and what belongs to it.
`attempt_log` is the topic, or null if there is none. Times are unix milliseconds.

Exit codes: 0 something is known of it, 1 nothing is, or it failed, 2 wrong usage or configuration.")]
pub(super) struct Args {
    /// The webhook id.
    #[arg(value_name = "ID")]
    id: String,
    /// Only what happened at this time or later: `2h` (ago), `today`, `yesterday` (UTC), 2026-01-31,
    /// 2026-01-31T08:00:00Z, or unix seconds. What still waits is always told.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
}

/// Everything that is told.
#[derive(Debug, Serialize)]
struct Told {
    id: String,
    #[serde(rename = "type")]
    event_type: Option<String>,
    events: Vec<Event>,
    endpoints: Vec<Story>,
    attempt_log: Option<String>,
}

/// Where an event is, and what it is if it is still there.
#[derive(Debug, Serialize)]
struct Event {
    #[serde(flatten)]
    source: Source,
    /// Is it still there?
    found: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
}

/// Runs the command; it blocks its thread.
pub(super) fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    if !id::is_plain(&args.id) {
        return Err(Usage(format!("{:?} is no webhook id: 1 to 64 of a-z A-Z 0-9 _ -", args.id)).into());
    }
    let now = now();
    let since = args.since.as_deref().map(|text| {
        date::parse(text, now)
            .ok_or_else(|| Usage(format!("--since {text:?} is no time; write {}", date::FORMS)))
    });
    let mut search = Search::new(&args.id, settings)?;
    let found = search.find(since.transpose()?)?;
    if found.is_empty() {
        bail!("{}", search.nothing());
    }
    let told = Told {
        id: args.id.clone(),
        event_type: found.event_type().map(str::to_owned),
        events: found.sources().into_iter().map(|source| search.event(source)).collect::<Result<_, _>>()?,
        endpoints: found.stories(),
        attempt_log: search.log.clone(),
    };
    if json {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &told)?;
        writeln!(out)?;
    } else {
        pager::print(&page::of(&told, now, Paint::stdout()))?;
    }
    Ok(Done::Well)
}

/// Looks for one id.
struct Search<'a> {
    id: &'a str,
    settings: &'a Settings,
    scanner: Scanner,
    decoder: Decoder,
    /// The attempt log's topic, if there is one.
    log: Option<String>,
    dead: String,
}

impl<'a> Search<'a> {
    fn new(id: &'a str, settings: &'a Settings) -> anyhow::Result<Self> {
        let scanner = Scanner::new(&settings.kafka)?;
        // Ids are in the records, so no namespace is needed.
        let decoder = Decoder::new(&settings.events, "".into());
        Ok(Self { id, settings, scanner, decoder, log: None, dead: dead_topic(&settings.topics.prefix) })
    }

    fn find(&mut self, since: Option<i64>) -> anyhow::Result<Found> {
        let observer = Observer::new(&self.settings.kafka)
            .context("the Kafka client cannot be made (kafka.properties)")?;
        // The markers before the offsets: one is forgotten only when the offsets have passed it.
        let known = match Known::read(self.settings, &observer) {
            Ok(known) => Some(known),
            Err(known::Error::Absent(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let tiers = Tiers::look(self.settings, &observer).context("looking at the retry topics")?;
        // After the tiers: what has left them stands on another topic by now.
        let spans = self.spans(since)?;
        let total = spans.iter().map(Span::len).sum::<u64>() + tiers.len();
        let (mut progress, mut found) = (Progress::new(total), Found::default());
        self.read(&spans, &mut progress, &mut found)?;
        let progress = RefCell::new(progress);
        if let Some(known) = &known {
            let wanted = |glance: &Glance<'_>| {
                progress.borrow_mut().read();
                glance.id == Some(self.id.as_bytes())
            };
            let visit = |waiting| {
                found.waiting.push(waiting);
                ControlFlow::Continue(())
            };
            let scanned = tiers.scan(&mut self.scanner, &known.marked, wanted, visit);
            scanned.context("reading the retry topics")?;
            for (letter, replays) in &mut found.letters {
                let Letter { record, .. } = &*letter;
                let takes = known.book.takes(record.partition, record.offset, record.timestamp);
                replays.extend(takes.map(|take| Replay { by: take.by.to_owned(), at: take.at }));
            }
        }
        progress.into_inner().finish();
        Ok(found)
    }

    /// What is to be read of the dead letters and of the attempt log, if there is one.
    fn spans(&mut self, since: Option<i64>) -> anyhow::Result<Vec<Span>> {
        let filter = Filter { since, ..Filter::default() };
        let mut spans = spans::of(&self.scanner, &self.dead, &filter)?;
        let log = attempts_topic(self.settings);
        match spans::of(&self.scanner, &log, &filter) {
            Ok(more) => {
                spans.extend(more);
                self.log = Some(log);
            }
            Err(Error::NoTopic(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(spans)
    }

    /// Reads the attempt log and the dead letters.
    fn read(&mut self, spans: &[Span], progress: &mut Progress, found: &mut Found) -> anyhow::Result<()> {
        let mut names = Names::default();
        let mut reading = self.scanner.begin(spans)?;
        loop {
            let seen = match reading.step()? {
                Step::Record(seen) => seen,
                Step::Nothing => {
                    progress.show();
                    continue;
                }
                Step::End => return Ok(()),
            };
            progress.read();
            if seen.topic() == self.dead {
                if Glance::of(seen.headers()).id == Some(self.id.as_bytes()) {
                    found.letters.push((Letter::read(seen.record(&mut names), &self.decoder), Vec::new()));
                }
            } else if seen.key() == Some(self.id.as_bytes()) {
                // What cannot be read was written by somebody else.
                found.entries.extend(seen.value().and_then(Entry::read));
            }
        }
    }

    /// Looks whether the event is still there.
    fn event(&mut self, source: Source) -> anyhow::Result<Event> {
        let Source { topic, partition, offset, timestamp } = &source;
        let of = TopicPartition { topic: topic.as_str().into(), partition: *partition };
        let mut there = None;
        let exists = self.scanner.topics()?.get(topic).is_some_and(|all| all.contains(partition));
        let kept = if exists { self.scanner.watermarks(&of)? } else { (0, 0) };
        if (kept.0..kept.1).contains(offset) {
            let span = Span { topic: of.topic, partition: *partition, from: *offset, to: offset + 1 };
            self.scanner.read(&[span], |seen: &Seen<'_>| {
                // In a topic that was made anew another one has its place.
                if seen.timestamp() == *timestamp {
                    let key = seen.key().map(|key| String::from_utf8_lossy(key).into_owned());
                    there = Some((key, seen.value().map_or(0, <[u8]>::len)));
                }
                ControlFlow::Break(())
            })?;
        }
        let found = there.is_some();
        let (key, bytes) = there.map_or((None, None), |(key, bytes)| (key, Some(bytes)));
        Ok(Event { source, found, key, bytes })
    }

    /// What to say when nothing was found.
    fn nothing(&self) -> String {
        let Self { id, dead, log, .. } = self;
        match log {
            Some(log) => format!(
                "nothing is known of {id}: it waits on no retry topic and is neither on {dead} nor on {log}; it may be older than what they keep (or than --since), or not have been attempted yet"
            ),
            None => format!(
                "nothing is known of {id}: it waits on no retry topic and is not on {dead}; there is no attempt log, which would tell of deliveries that succeeded (attempts.topic)"
            ),
        }
    }
}
