//! `arauto retries`: what waits on the retry topics, for whom and until when; and an operator's word about it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write},
    ops::ControlFlow,
    time::Duration,
};

use anyhow::Context;

use self::row::Row;
use super::{Done, paint::Paint, words::span};
use crate::{
    config::settings::Settings,
    kafka::{headers::Glance, observer::Observer, scan::Scanner},
    letters::reasons,
    pipeline::{decode::Decoder, delivery::now},
    registry::pattern,
    replay::known::Known,
    retries::{Tiers, Waiting},
};

mod row;
mod show;
mod take;

/// Lines of a table unless told otherwise.
const SHOWN: usize = 100;

/// Show what waits on the retry topics, make it due now, or end it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List what waits, for whom and until when, the next first.
    List(List),
    /// Show everything about one delivery that waits.
    Show(show::Args),
    /// Make what waits for an endpoint due now.
    Release(take::Args),
    /// End what waits for an endpoint: it goes to the dead-letter topic with the reason `cancelled`.
    Cancel(take::Args),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
What an operator has released or cancelled is left out, and so is what the group's offsets say is settled. Endpoints
that keep an order (ordering) hold what failed in their own queue: see arauto lag and arauto lanes.

Examples:
  arauto retries list
  arauto retries list --endpoint 'crm-*' --reason status
  arauto retries list --json | jq -r .endpoint | sort | uniq -c

--json: one object per line, all that match, in no order: {id, endpoint, type, reason, status, error, attempts, replays,
due, ready, first_seen, source, at}; times are unix milliseconds, `due` is when it is to be sent, `ready` when its reader
looks at it next, `source` and `at` are topic:partition:offset of the event and of the record that waits.")]
struct List {
    #[command(flatten)]
    which: Which,
    /// So many lines at most; all that match are counted.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// Which deliveries; a repeated flag: any of its values, several flags: all of them.
#[derive(Debug, Clone, clap::Args)]
struct Which {
    /// Endpoint id; `*` stands for any characters.
    #[arg(long = "endpoint", value_name = "GLOB")]
    endpoints: Vec<String>,
    /// Webhook id.
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<String>,
    /// Why it waits.
    #[arg(long = "reason", value_name = "REASON", value_parser = clap::builder::PossibleValuesParser::new(reasons()))]
    reasons: Vec<String>,
}

impl Which {
    fn admits(&self, glance: &Glance<'_>) -> bool {
        let is = |words: &[String], value: Option<&[u8]>| {
            words.is_empty() || words.iter().any(|word| value == Some(word.as_bytes()))
        };
        let endpoint = || Glance::text(glance.endpoint).unwrap_or_default();
        (self.endpoints.is_empty() || self.endpoints.iter().any(|glob| pattern::matches(glob, endpoint())))
            && is(&self.ids, glance.id)
            && is(&self.reasons, glance.reason)
    }
}

/// Runs the command; it blocks its thread.
pub(super) fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    match &args.what {
        What::List(list) => self::list(list, settings, json),
        What::Show(show) => show::run(show, settings, json),
        What::Release(release) => take::release(release, settings, json),
        What::Cancel(cancel) => take::cancel(cancel, settings, json),
    }
}

/// Shows what waits, and returns what the state topic said at the beginning.
fn scan(
    settings: &Settings,
    which: impl Fn(&Glance<'_>) -> bool,
    visit: impl FnMut(Waiting) -> ControlFlow<()>,
) -> anyhow::Result<Known> {
    let observer =
        Observer::new(&settings.kafka).context("the Kafka client cannot be made (kafka.properties)")?;
    // The markers before the offsets: one is forgotten only when the offsets have passed it.
    let known = Known::read(settings, &observer)?;
    let tiers = Tiers::look(settings, &observer).context("looking at the retry topics")?;
    if !tiers.is_empty() {
        let mut scanner = Scanner::new(&settings.kafka)?;
        tiers.scan(&mut scanner, &known.marked, which, visit).context("reading the retry topics")?;
    }
    Ok(known)
}

/// The decoder; ids are in the records, so no namespace is needed.
fn decoder(settings: &Settings) -> Decoder {
    Decoder::new(&settings.events, "".into()).with_notices(&settings.topics.prefix)
}

/// What waits for one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum {
    count: usize,
    next: i64,
    last: i64,
}

fn list(args: &List, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    let decoder = decoder(settings);
    let limit = args.limit.unwrap_or(if json { usize::MAX } else { SHOWN });
    let (mut rows, mut sums) = (Vec::new(), BTreeMap::new());
    let mut out = io::stdout().lock();
    let (mut printed, mut failed) = (0, None);
    scan(
        settings,
        |glance| args.which.admits(glance),
        |waiting| {
            let row = Row::new(waiting, &decoder);
            if json {
                printed += 1;
                failed = row.write_json(&mut out).err();
                let enough = failed.is_some() || printed >= limit;
                return if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            }
            add(&mut sums, &row);
            rows.push(row);
            // Only those that are shown are kept.
            if rows.len() >= limit.saturating_mul(2).max(limit.saturating_add(1)) {
                keep_next(&mut rows, limit);
            }
            ControlFlow::Continue(())
        },
    )?;
    if let Some(error) = failed {
        return Err(error);
    }
    if !json {
        keep_next(&mut rows, limit);
        write!(out, "{}", page(&rows, &sums, now(), Paint::stdout()))?;
    }
    Ok(Done::Well)
}

fn add(sums: &mut BTreeMap<String, Sum>, row: &Row) {
    let first = Sum { count: 0, next: row.due, last: row.due };
    let sum = sums.entry(row.endpoint.clone()).or_insert(first);
    sum.count += 1;
    sum.next = sum.next.min(row.due);
    sum.last = sum.last.max(row.due);
}

fn keep_next(rows: &mut Vec<Row>, limit: usize) {
    rows.sort_by(|a, b| (a.due, &a.id).cmp(&(b.due, &b.id)));
    rows.truncate(limit);
}

fn page(rows: &[Row], sums: &BTreeMap<String, Sum>, now: i64, paint: Paint) -> String {
    if sums.is_empty() {
        return "Nothing waits on the retry topics.\n".to_owned();
    }
    let mut page = row::table(rows, now, paint);
    let all: usize = sums.values().map(|sum| sum.count).sum();
    let more = if all > rows.len() { format!(", {} shown", rows.len()) } else { String::new() };
    let wait = if all == 1 { "delivery waits" } else { "deliveries wait" };
    writeln!(page, "\n{all} {wait}{more}").expect("a string takes any text");
    for (endpoint, Sum { count, next, last }) in sums {
        let wait = |at: i64| span(Duration::from_millis((at - now).max(0).unsigned_abs()));
        writeln!(page, "  {endpoint}: {count}, next in {}, last in {}", wait(*next), wait(*last))
            .expect("a string takes any text");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_picked_by_what_they_say() {
        let which = |endpoints: &[&str], ids: &[&str], reasons: &[&str]| {
            let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
            Which { endpoints: words(endpoints), ids: words(ids), reasons: words(reasons) }
        };
        let glance = Glance {
            endpoint: Some(b"crm-eu"),
            id: Some(b"msg_1"),
            reason: Some(b"status"),
            ..Glance::default()
        };
        for (which, expected) in [
            (which(&[], &[], &[]), true),
            (which(&["crm-*"], &["msg_1"], &["status"]), true),
            (which(&["crm"], &[], &[]), false),
            (which(&["crm", "crm-eu"], &[], &[]), true),
            (which(&[], &["msg_2"], &[]), false),
            (which(&[], &[], &["throttled"]), false),
        ] {
            assert_eq!(which.admits(&glance), expected, "{which:?}");
        }
    }

    #[test]
    fn the_page_says_how_many_wait_for_whom() {
        let sums = BTreeMap::from([
            ("crm".to_owned(), Sum { count: 2, next: 5_000, last: 3_600_000 }),
            ("erp".to_owned(), Sum { count: 1, next: 0, last: 0 }),
        ]);
        let page = page(&[], &sums, 1_000, Paint::none());
        let told = "\n3 deliveries wait, 0 shown\n  crm: 2, next in 4s, last in 59m 59s\n  erp: 1, next in 0s, last in 0s\n";
        assert!(page.ends_with(told), "{page}");
        assert_eq!(
            super::page(&[], &BTreeMap::new(), 0, Paint::none()),
            "Nothing waits on the retry topics.\n"
        );
    }
}
