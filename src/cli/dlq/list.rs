//! `arauto dlq list`: one line per letter, or what there is in numbers.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    ops::ControlFlow,
};

use super::{
    line,
    reader::{self, Reader},
    row::Row,
    summary,
    table::{self, Align, Column},
};
use crate::{
    cli::{
        Done,
        date::rfc3339,
        filter, pager,
        paint::{DIM, Paint},
        progress::Progress,
        words::safe,
    },
    config::settings::Settings,
    letters::{Letter, filter::Filter, summary::Summary},
    replay::book::Book,
};

/// Lines of a table unless `--limit` says otherwise: more than anyone reads, and a small part of memory.
const LINES: u64 = 1_000;

/// List dead letters.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Count by endpoint, reason and status, with the first and the last time and how they spread between these.
    #[arg(long)]
    summary: bool,
    /// The oldest first.
    #[arg(long)]
    oldest_first: bool,
    /// Those that were replayed too, with the time and the name of the replay.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: filter::Args,
}

const EXAMPLES: &str = "\
Examples:
  arauto dlq list --summary --since yesterday
  arauto dlq list --endpoint crm --status 5xx --since 2h
  arauto dlq list --type 'order.*' --where 'value.amount > 100' --limit 20
  arauto dlq list --json --reason exhausted | jq -r .id

The table shows the newest 1,000 unless --limit says otherwise. With --json each letter is an object on a line of its
own; without --limit and --oldest-first they come as they are read, partition by partition: topic, partition, offset,
died (unix ms), id, endpoint, type, tenant, reason, status, error, attempts, replays, source, and where it applies
replayed (at, by) and problem. --summary --json is one object.";

pub(super) fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    let filter = args.filter.resolve()?;
    let book = reader::book(settings)?;
    let picked = Picked { book, all: args.all, replayed: 0 };
    if args.summary {
        return count(filter, settings, picked, json);
    }
    if json && filter.limit.is_none() && !args.oldest_first {
        return stream(filter, settings, picked);
    }
    // The limit is one of lines shown, not of letters read: the newest come last.
    let limit = filter.limit.unwrap_or(if json { u64::MAX } else { LINES });
    let mut picked = picked;
    let mut rows = Rows { limit, oldest_first: args.oldest_first, rows: BTreeMap::new(), left_out: 0 };
    let mut reader = Reader::new(settings, Filter { limit: None, ..filter })?;
    let mut progress = Progress::new(reader.total());
    reader.each(&mut progress, |_, letter| {
        rows.extend(picked.row(&letter));
        Ok(ControlFlow::Continue(()))
    })?;
    progress.finish();
    if json {
        let mut out = io::stdout().lock();
        rows.sorted().try_for_each(|row| line(&mut out, row))?;
    } else {
        pager::print(&text(&rows, &picked, Paint::stdout()))?;
    }
    reader.warn();
    Ok(Done::Well)
}

/// Which of the letters that match are shown.
struct Picked {
    book: Book,
    all: bool,
    /// Left out, because a replay took them.
    replayed: u64,
}

impl Picked {
    fn row(&mut self, letter: &Letter) -> Option<Row> {
        let record = &letter.record;
        let take = self.book.last_take(record.partition, record.offset, letter.died());
        if take.is_some() && !self.all {
            self.replayed += 1;
            return None;
        }
        Some(Row::new(letter, take))
    }
}

/// At most so many rows: the newest, or the oldest.
struct Rows {
    limit: u64,
    oldest_first: bool,
    rows: BTreeMap<(i64, i32, i64), Row>,
    left_out: u64,
}

impl Rows {
    fn extend(&mut self, row: Option<Row>) {
        let Some(row) = row else { return };
        self.rows.insert((row.died, row.partition, row.offset), row);
        if self.rows.len() as u64 > self.limit {
            if self.oldest_first {
                self.rows.pop_last()
            } else {
                self.rows.pop_first()
            };
            self.left_out += 1;
        }
    }

    fn sorted(&self) -> Box<dyn Iterator<Item = &Row> + '_> {
        if self.oldest_first { Box::new(self.rows.values()) } else { Box::new(self.rows.values().rev()) }
    }
}

fn count(filter: Filter, settings: &Settings, mut picked: Picked, json: bool) -> anyhow::Result<Done> {
    let mut reader = Reader::new(settings, filter)?;
    let mut progress = Progress::new(reader.total());
    let mut summary = Summary::default();
    reader.each(&mut progress, |_, letter| {
        if picked.row(&letter).is_some() {
            summary.add(&letter);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    progress.finish();
    if json {
        let mut out = io::stdout().lock();
        line(&mut out, &summary.report())?;
    } else {
        let mut text = summary::text(&summary, Paint::stdout());
        text.push_str(&replayed(&picked));
        pager::print(&text)?;
    }
    reader.warn();
    Ok(Done::Well)
}

fn stream(filter: Filter, settings: &Settings, mut picked: Picked) -> anyhow::Result<Done> {
    let mut reader = Reader::new(settings, filter)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    reader.each_in_order(&mut Progress::hidden(), |_, letter| match picked.row(&letter) {
        Some(row) => line(&mut out, &row),
        None => Ok(()),
    })?;
    out.flush()?;
    reader.warn();
    Ok(Done::Well)
}

const COLUMNS: [Column; 9] = [
    ("DIED", Align::Left),
    ("ID", Align::Left),
    ("ENDPOINT", Align::Left),
    ("TYPE", Align::Left),
    ("REASON", Align::Left),
    ("STATUS", Align::Right),
    ("TRIES", Align::Right),
    ("SOURCE", Align::Left),
    ("LETTER", Align::Left),
];

fn text(rows: &Rows, picked: &Picked, paint: Paint) -> String {
    if rows.rows.is_empty() {
        return format!("no dead letters\n{}", replayed(picked));
    }
    let mut columns = COLUMNS.to_vec();
    let mut lines: Vec<_> = rows.sorted().map(cells).collect();
    if picked.all {
        columns.push(("REPLAYED", Align::Left));
        rows.sorted().zip(&mut lines).for_each(|(row, line)| line.push(take(row)));
    }
    let mut text = table::render(&columns, &lines, paint);
    if rows.left_out > 0 {
        let which = if rows.oldest_first { "newer" } else { "older" };
        let more = format!("and {} {which} ones (--limit)", rows.left_out);
        text.push_str(&format!("{}\n", paint.paint(DIM, &more)));
    }
    text + &replayed(picked)
}

fn replayed(picked: &Picked) -> String {
    match picked.replayed {
        0 => String::new(),
        1 => "1 more was replayed (--all shows it)\n".to_owned(),
        count => format!("{count} more were replayed (--all shows them)\n"),
    }
}

fn take(row: &Row) -> String {
    match &row.replayed {
        Some(replayed) => format!("{} by {}", rfc3339(replayed.at), safe(&replayed.by)),
        None => "-".to_owned(),
    }
}

fn cells(row: &Row) -> Vec<String> {
    let or_dash = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), |text| safe(text).into_owned());
    let source = &row.source;
    vec![
        rfc3339(row.died),
        or_dash(row.id.as_deref()),
        or_dash(row.endpoint.as_deref()),
        safe(&row.event_type).into_owned(),
        or_dash(row.reason.as_deref()),
        row.status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
        row.attempts.to_string(),
        format!("{}:{}:{}", safe(&source.topic), source.partition, source.offset),
        format!("{}:{}", row.partition, row.offset),
    ]
}
