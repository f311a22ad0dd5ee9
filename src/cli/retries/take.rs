//! `arauto retries release` and `cancel`: what waits for an endpoint is made due now, or ended.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    ops::ControlFlow,
    time::Duration,
};

use super::scan;
use crate::{
    cli::{Done, ask, endpoints, words::span},
    config::settings::{self, Settings},
    pipeline::{
        delivery::now,
        marker::{AHEAD, Act},
        switch::report::Report,
    },
    retries::taking::{Progress, Taken, Wanted, take},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Instances may run or not. While one runs, what it looks at within the next 15 seconds is left to it: what is due by then
goes by itself, what only goes on to another retry topic is waited for. Every delivery is made once, or becomes one dead
letter, also if the command or an instance is killed meanwhile; said twice, the second time finds what is left.

Examples:
  arauto retries release --endpoint crm                     the receiver is back, send it all now
  arauto retries release --endpoint crm --id msg_2b5wq
  arauto retries cancel --endpoint crm --yes                from a script

--json: {act, endpoint, taken, due_soon, left, uncertain}. Exit code 1 if some are left.")]
pub(super) struct Args {
    /// The endpoint's id.
    #[arg(long, value_name = "ID")]
    endpoint: String,
    /// Only the delivery with this webhook id; may be given several times.
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<String>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

pub(super) fn release(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    run(args, Act::Release, settings, json)
}

pub(super) fn cancel(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    run(args, Act::Cancel, settings, json)
}

/// What waits, as it was when the operator is asked.
#[derive(Default)]
struct Found {
    count: u64,
    last: i64,
}

fn run(args: &Args, act: Act, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    let wanted = Wanted { act, endpoint: args.endpoint.clone(), ids: args.ids.iter().cloned().collect() };
    let mut found = Found::default();
    let known = scan(
        settings,
        |glance| is_wanted(&wanted.ids, glance.id),
        |waiting| {
            if waiting.original().is_for(&wanted.endpoint) {
                found.count += 1;
                found.last = found.last.max(waiting.envelope.due);
            }
            ControlFlow::Continue(())
        },
    )?;
    let configured = endpoints::find(settings, &args.endpoint);
    let endpoint = match (&configured, found.count) {
        // What waits for an endpoint that was removed can be ended, too.
        (Err(_), 1..) => None,
        _ => Some(configured?),
    };
    let notes = endpoint.map(|endpoint| {
        let switch = known.facts.get(&endpoint.id);
        notes(endpoint, &Report::new(endpoint, &switch), act)
    });
    notes.into_iter().flatten().for_each(|note| eprintln!("{note}"));
    if found.count == 0 {
        return told(&wanted, Taken::default(), json);
    }
    let verb = if act == Act::Release { "Release" } else { "Cancel" };
    let last = span(Duration::from_millis((found.last - now()).max(0).unsigned_abs()));
    let question = format!("{verb} {} for {} (the last is due in {last})?", found.count, args.endpoint);
    if !ask::confirm(&question, args.yes)? {
        eprintln!("nothing was changed");
        return Ok(Done::Failed);
    }
    let taken = take(settings, &wanted, |progress| {
        if let Progress::Moving(count, wait) = progress {
            let wait = span(wait);
            eprintln!("{count} go on to another retry topic just now; they are looked for again in {wait}");
        }
    })?;
    told(&wanted, taken, json)
}

fn is_wanted(ids: &BTreeSet<String>, id: Option<&[u8]>) -> bool {
    let text = id.and_then(|id| std::str::from_utf8(id).ok());
    ids.is_empty() || text.is_some_and(|id| ids.contains(id))
}

/// What an operator should know before.
fn notes(endpoint: &settings::Endpoint, report: &Report, act: Act) -> Vec<String> {
    let id = &endpoint.id;
    let mut notes = Vec::new();
    if endpoint.ordering != settings::Ordering::None {
        notes.push(format!(
            "{id} keeps an order: what failed is held in its own queue (arauto lag) and not on retry topics"
        ));
    }
    if act == Act::Release && !report.enabled {
        notes.push(format!("{id} is disabled: what is released becomes dead letters at once"));
    } else if act == Act::Release && report.paused.is_some() {
        notes.push(format!("{id} is paused: what is released waits again until it goes on"));
    }
    notes
}

fn told(wanted: &Wanted, taken: Taken, json: bool) -> anyhow::Result<Done> {
    let mut out = io::stdout().lock();
    if json {
        let mut told = serde_json::to_value(taken)?;
        told["act"] = serde_json::to_value(wanted.act)?;
        told["endpoint"] = wanted.endpoint.as_str().into();
        serde_json::to_writer(&mut out, &told)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", words(wanted, taken))?;
    }
    Ok(if taken.left > 0 { Done::Failed } else { Done::Well })
}

fn words(wanted: &Wanted, taken: Taken) -> String {
    let Taken { taken, due_soon, left, uncertain } = taken;
    let endpoint = &wanted.endpoint;
    if taken + due_soon + left == 0 {
        return format!("nothing that is meant waits for {endpoint}\n");
    }
    let mut words = match wanted.act {
        Act::Release => format!("{taken} released: due now for {endpoint}\n"),
        Act::Cancel => {
            format!("{taken} cancelled: dead letters of {endpoint} (arauto dlq list --reason cancelled)\n")
        }
    };
    if due_soon > 0 {
        let within = span(AHEAD);
        words += &format!("{due_soon} left alone: due within {within}, they go by themselves\n");
    }
    if left > 0 {
        words += &format!("{left} could not be taken: their reader was about to move them; say it again\n");
    }
    if uncertain > 0 {
        words += &format!(
            "{uncertain} of them may arrive twice: the brokers were slow to answer, or an instance started meanwhile\n"
        );
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_it_is_told() {
        let words = |act, taken| {
            let wanted = Wanted { act, endpoint: "crm".to_owned(), ids: BTreeSet::new() };
            words(&wanted, taken)
        };
        let all = Taken { taken: 3, due_soon: 2, left: 1, uncertain: 0 };
        let told = "3 released: due now for crm\n2 left alone: due within 15s, they go by themselves\n1 could not be taken: their reader was about to move them; say it again\n";
        assert_eq!(words(Act::Release, all), told);
        assert!(words(Act::Cancel, all).starts_with("3 cancelled: dead letters of crm"));
        assert!(words(Act::Release, Taken { taken: 1, uncertain: 1, ..Taken::default() }).contains("twice"));
        assert_eq!(words(Act::Cancel, Taken::default()), "nothing that is meant waits for crm\n");
    }
}
