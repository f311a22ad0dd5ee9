//! `arauto dlq show`: everything there is to know about a letter.

use std::{
    io::{self, Write},
    ops::ControlFlow,
};

use anyhow::bail;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    body, curl, line,
    reader::{self, Reader},
    row::{Replayed, Row, letters},
};
use crate::{
    cli::{
        Done, Usage,
        date::rfc3339,
        pager,
        paint::{BOLD, DIM, Paint},
        progress::Progress,
        words::{safe, span},
    },
    config::settings::Settings,
    kafka::topics::dead_topic,
    letters::{Letter, export, filter::Filter},
    pipeline::{decode::id, delivery::now},
    replay::book::Book,
};

/// Show all there is to know about a letter.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// A webhook id, or where a letter is: PARTITION:OFFSET or TOPIC:PARTITION:OFFSET of the dead-letter topic. Of
    /// another topic: where its event is.
    #[arg(value_name = "ID|TOPIC:PARTITION:OFFSET")]
    which: String,
    /// Write the body and nothing else, byte for byte; of several letters that of the last.
    #[arg(long, conflicts_with = "json")]
    body: bool,
}

const EXAMPLES: &str = "\
Examples:
  arauto dlq show msg_2vqk3y
  arauto dlq show 0:1733
  arauto dlq show orders:3:99812
  arauto dlq show 0:1733 --body > body.json

One id may have several letters: of several endpoints, or of one that died again after a replay. With --json each is an
object on a line of its own: letter (as in `dlq list --json`), record (as in `dlq export`), replays (at, by) and curl.";

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Which {
    Id(String),
    Letter(i32, i64),
    Event(String, i32, i64),
}

pub(super) fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    let topic = dead_topic(&settings.topics.prefix);
    let which = parse(&args.which, &topic)?;
    let found = find(&which, settings)?;
    let Some(last) = found.last() else {
        bail!(
            "there is no letter {} on {topic}: it was never there, or retention or a purge has removed it",
            args.which
        )
    };
    let mut out = io::stdout().lock();
    if args.body {
        out.write_all(last.event.value.as_deref().unwrap_or_default())?;
        return Ok(Done::Well);
    }
    let book = reader::book(settings)?;
    if json {
        found.iter().try_for_each(|letter| line(&mut out, &Shown::new(letter, &book, settings)))?;
        return Ok(Done::Well);
    }
    drop(out);
    let paint = Paint::stdout();
    let mut text = String::new();
    for (number, letter) in (1..).zip(&found) {
        if found.len() > 1 {
            let head = format!("{number} of {}", letters(found.len() as u64));
            text.push_str(&format!("{}\n", paint.paint(BOLD, &head)));
        }
        text.push_str(&page(&Shown::new(letter, &book, settings), letter, paint));
    }
    pager::print(&text)?;
    Ok(Done::Well)
}

fn parse(text: &str, dead: &str) -> anyhow::Result<Which> {
    let wrong = || {
        let help = "write a webhook id, PARTITION:OFFSET or TOPIC:PARTITION:OFFSET";
        Usage(format!("{text:?} names no letter; {help}"))
    };
    let Some((rest, offset)) = text.rsplit_once(':') else {
        return if id::is_plain(text) { Ok(Which::Id(text.to_owned())) } else { Err(wrong().into()) };
    };
    let (topic, partition) = rest.rsplit_once(':').unwrap_or((dead, rest));
    let partition = partition.parse().ok().filter(|partition| *partition >= 0);
    let offset = offset.parse().ok().filter(|offset| *offset >= 0);
    let (partition, offset) = partition.zip(offset).ok_or_else(wrong)?;
    Ok(match topic == dead {
        true => Which::Letter(partition, offset),
        false => Which::Event(topic.to_owned(), partition, offset),
    })
}

/// The letters, in the order in which they died.
fn find(which: &Which, settings: &Settings) -> anyhow::Result<Vec<Letter>> {
    let filter = match which.clone() {
        Which::Id(id) => Filter { ids: vec![id], ..Filter::default() },
        Which::Letter(partition, offset) => {
            Filter { partitions: vec![partition], offsets: vec![(offset, offset)], ..Filter::default() }
        }
        Which::Event(topic, ..) => Filter { topics: vec![topic], ..Filter::default() },
    };
    let mut reader = Reader::new(settings, filter)?;
    let (mut progress, mut found) = (Progress::new(reader.total()), Vec::new());
    reader.each(&mut progress, |_, letter| {
        let event = &letter.event;
        let wanted = match which {
            Which::Id(_) | Which::Letter(..) => true,
            Which::Event(_, partition, offset) => (event.partition, event.offset) == (*partition, *offset),
        };
        found.extend(wanted.then_some(letter));
        Ok(ControlFlow::Continue(()))
    })?;
    progress.finish();
    found.sort_by_key(|letter| (letter.died(), letter.record.partition, letter.record.offset));
    Ok(found)
}

/// Everything, for machines.
#[derive(Serialize)]
struct Shown {
    letter: Row,
    record: Box<RawValue>,
    replays: Vec<Replayed>,
    curl: Option<String>,
}

impl Shown {
    fn new(letter: &Letter, book: &Book, settings: &Settings) -> Self {
        let record = &letter.record;
        let takes = book.takes(record.partition, record.offset, letter.died());
        let mut replays: Vec<_> =
            takes.map(|take| Replayed { at: take.at, by: take.by.to_owned() }).collect();
        replays.sort_by_key(|replay| replay.at);
        let endpoint = settings.endpoints.iter().find(|endpoint| Some(&*endpoint.id) == letter.endpoint());
        let curl = endpoint.and_then(|endpoint| curl::command(letter, endpoint).ok());
        let taken = book.last_take(record.partition, record.offset, letter.died());
        let record = RawValue::from_string(export::line(record)).expect("an export is JSON");
        Self { letter: Row::new(letter, taken), record, replays, curl }
    }
}

/// Everything, for people.
fn page(shown: &Shown, letter: &Letter, paint: Paint) -> String {
    let mut page = String::new();
    for (name, value) in facts(shown, letter) {
        page.push_str(&format!("{}  {}\n", paint.paint(DIM, &format!("{name:10}")), safe(&value)));
    }
    page.push_str(&format!("\n{}\n", paint.paint(BOLD, "headers")));
    let headers = &letter.event.headers.0;
    for (name, value) in headers {
        page.push_str(&format!("  {}: {}\n", safe(name), readable(value.as_deref())));
    }
    if headers.is_empty() {
        page.push_str("  none\n");
    }
    let value = letter.event.value.as_deref();
    page.push_str(&format!("\n{}  {}\n", paint.paint(BOLD, "body"), body::kind(value)));
    page.push_str(&body::text(value.unwrap_or_default()));
    match &shown.curl {
        Some(curl) => {
            page.push_str(&format!("\n{}\n", paint.paint(BOLD, "the same request once more")));
            curl.lines().for_each(|line| page.push_str(&format!("{}\n", safe(line))));
        }
        None => {
            page.push_str("\nits endpoint is not in the configuration, so there is no request to repeat\n")
        }
    }
    page.push('\n');
    page
}

fn facts(shown: &Shown, letter: &Letter) -> Vec<(&'static str, String)> {
    let (row, event) = (&shown.letter, &letter.event);
    let ago = std::time::Duration::from_millis(u64::try_from(now() - row.died).unwrap_or(0));
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let time = |at: i64| if at < 0 { "no time".to_owned() } else { rfc3339(at) };
    let mut facts = vec![
        ("letter", format!("{}:{}:{}", row.topic, row.partition, row.offset)),
        ("died", format!("{} ({} ago)", time(row.died), span(ago))),
        ("reason", or_dash(&row.reason)),
        ("status", row.status.map_or_else(|| "-".to_owned(), |status| status.to_string())),
        ("error", or_dash(&row.error)),
        ("endpoint", or_dash(&row.endpoint)),
        ("id", or_dash(&row.id)),
        ("type", row.event_type.clone()),
        ("tenant", or_dash(&row.tenant)),
        ("key", readable(event.key.as_deref())),
        (
            "source",
            format!(
                "{}:{}:{}, {}",
                row.source.topic,
                row.source.partition,
                row.source.offset,
                time(event.timestamp)
            ),
        ),
        ("attempts", attempts(letter)),
    ];
    facts.extend(
        row.problem.as_ref().map(|problem| ("problem", format!("{problem}; it can be looked at only"))),
    );
    if let Ok(envelope) = &letter.envelope {
        facts.push(("first seen", time(envelope.first_seen)));
        facts.extend(envelope.first_attempt.map(|at| ("first try", time(at))));
        let count = envelope.replays;
        facts.extend((count > 0).then(|| ("replays", format!("{count} before it died here"))));
    }
    facts.extend(
        shown.replays.iter().map(|replay| ("replayed", format!("{} by {}", time(replay.at), replay.by))),
    );
    facts
}

fn attempts(letter: &Letter) -> String {
    let uncharged = letter.envelope.as_ref().map_or(0, |envelope| envelope.uncharged);
    match uncharged {
        0 => letter.attempts().to_string(),
        some => format!("{}, {some} of them not charged", letter.attempts()),
    }
}

fn readable(value: Option<&[u8]>) -> String {
    match value.map(std::str::from_utf8) {
        None => "null".to_owned(),
        Some(Ok(text)) => safe(text).into_owned(),
        Some(Err(_)) => format!("base64 {}", data_encoding::BASE64.encode(value.unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_named_in_four_ways() {
        for (text, expected) in [
            ("msg_1", Some(Which::Id("msg_1".to_owned()))),
            ("0:17", Some(Which::Letter(0, 17))),
            ("a.dead:2:17", Some(Which::Letter(2, 17))),
            ("orders:2:17", Some(Which::Event("orders".to_owned(), 2, 17))),
            ("two words", None),
            ("-1:17", None),
            ("orders:17", None),
            ("a:b:c", None),
            (":", None),
            ("", None),
        ] {
            assert_eq!(parse(text, "a.dead").ok(), expected, "{text}");
        }
    }
}
