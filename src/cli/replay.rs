//! What `arauto dlq replay` and `arauto backfill` have in common: plan, ask, do, report, and go on after an
//! interruption.
//!
//! What is replayed and how is decided in [`crate::replay`]; here it is told.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use anyhow::Context;
use data_encoding::BASE32_NOPAD;

use self::report::Report;
use super::{
    Done, Usage,
    ask::confirm,
    date::rfc3339,
    endpoints,
    progress::{self, Progress},
};
use crate::{
    config::{settings::Settings, value::parse_rate},
    kafka::{
        observer::Observer,
        scan::{Names, Scanner, Span},
    },
    letters::{
        expression::Expression,
        filter::Filter,
        matcher::{Failures, Matcher},
    },
    pipeline::{decode::Decoder, delivery::now},
    replay::{
        Counts, Of, Options, Replay, Spans, Stand, VERSION,
        engine::{self, Engine, check_alone, check_goes_on},
        is_name,
        known::Known,
        pace::Pace,
        pick::{Events, Letters, Picker, Survey},
        target::Targets,
    },
};

mod report;

/// More than this many are asked about first: what a terminal shows at once.
const SCREENFUL: u64 = 24;
/// The progress bar hears of every so manieth record.
const STRIDE: u64 = 512;
const CLIENT: &str = "the Kafka client cannot be made (kafka.properties)";

/// What both commands are told.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "How")]
#[group(skip)]
pub(super) struct Args {
    /// Only say what would be sent, to which endpoints, how long that takes, and what would be refused and why.
    #[arg(long, conflicts_with = "cancel")]
    dry_run: bool,
    /// Do not ask, however many there are.
    #[arg(long, short)]
    yes: bool,
    /// How fast each endpoint gets them, such as `20/s` or `600/m`. Without it: a tenth of the endpoint's own rate, or
    /// 50/s where it has none.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<String>,
    /// What it is called: 1 to 64 letters, digits, `_` and `-`. Interrupted, it goes on under the same name, with the
    /// filter and the options it was begun with; whoever runs it meanwhile is stopped. Without it a name is made.
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Option<String>,
    /// End the unfinished one of this --name where it stands: what it has sent stays sent.
    #[arg(long, requires = "name")]
    cancel: bool,
}

/// What is to be replayed.
pub(super) struct Job<'a> {
    /// Letters or events.
    pub(super) of: Of,
    /// The command, to say how to go on.
    pub(super) command: &'static str,
    /// Which.
    pub(super) filter: Filter,
    /// How; the rate comes from the arguments.
    pub(super) options: Options,
    /// What both commands are told.
    pub(super) args: &'a Args,
}

/// Plans, asks, and replays; it blocks its thread. `spans` tells what a new one reads.
pub(super) fn run(
    job: &Job<'_>,
    spans: impl FnOnce(&Scanner) -> anyhow::Result<Vec<Span>>,
    settings: &Settings,
    json: bool,
) -> anyhow::Result<Done> {
    let observer = Observer::new(&settings.kafka).context(CLIENT)?;
    let args = job.args;
    if let (true, Some(name)) = (args.cancel, &args.name) {
        let replay = Engine::cancel(settings, &observer, name, job.of)?;
        return report::cancelled(name, &replay, json);
    }
    let mut scanner = Scanner::new(&settings.kafka)?;
    let known = Known::read(settings, &observer)?;
    let name = args.name.clone().unwrap_or_else(made_name);
    let begun = known.book.replay(&name).is_some() || known.book.is_unreadable(&name);
    let replay = if begun {
        check_goes_on(&known.book, &name, job.of)?;
        known.book.replay(&name).cloned().context("a readable replay is there")?
    } else {
        let fresh = job.fresh(spans(&scanner)?);
        check_alone(&known.book, &name, &fresh)?;
        fresh
    };
    let mut work = Work { settings, observer: &observer, scanner: &mut scanner, name: &name };
    let plan = work.plan(&replay, &known, begun)?;
    if args.dry_run || (plan.tally.count() == 0 && !begun) {
        return plan.show(json);
    }
    if plan.tally.count() > SCREENFUL && !args.yes {
        plan.announce()?;
    }
    if !confirm(&plan.question(), args.yes || plan.tally.count() <= SCREENFUL)? {
        return Ok(Done::Failed);
    }
    work.carry_out(job, replay)?.show(json)
}

impl Job<'_> {
    fn fresh(&self, spans: Vec<Span>) -> Replay {
        let mut all = Spans::new();
        for Span { topic, partition, from, to } in spans {
            all.entry(topic.to_string()).or_default().insert(partition, crate::replay::Span::new(from, to));
        }
        let (begun, pace, counts) = (now(), Pace::default(), Counts::default());
        let filter = serde_json::to_value(&self.filter).expect("a filter has a JSON form");
        let options = Options { rate: self.args.rate.clone(), ..self.options.clone() };
        let (of, v, stand) = (self.of, VERSION, Stand::Unfinished);
        Replay { v, of, begun, at: begun, stand, filter, options, spans: all, counts, pace }
    }
}

/// One replay and what it is done with.
struct Work<'a> {
    settings: &'a Settings,
    observer: &'a Observer,
    scanner: &'a mut Scanner,
    name: &'a str,
}

impl Work<'_> {
    fn plan(&mut self, replay: &Replay, known: &Known, begun: bool) -> anyhow::Result<Report> {
        let firsts = engine::firsts(self.scanner, &replay.spans)?;
        let (mut picker, filter) = self.picker(replay, known)?;
        let before = replay.counts.read;
        let mut progress = Progress::new(u64::try_from(replay.left()).unwrap_or(0));
        let mut watch = |now: &Replay| show(&mut progress, now, before);
        let tally = engine::plan(self.scanner, replay, &mut picker, filter.limit, &mut watch)?;
        progress.finish();
        Ok(Report {
            name: self.name.to_owned(),
            done: false,
            begun: begun.then_some(replay.begun),
            earlier: known.book.earlier(replay).map(|(name, _)| name.to_owned()).collect(),
            lost: engine::lost(&replay.spans, &firsts),
            replay: replay.clone(),
            tally,
            failures: picker.failures().clone(),
        })
    }

    fn carry_out(&mut self, job: &Job<'_>, replay: Replay) -> anyhow::Result<Report> {
        let firsts = engine::firsts(self.scanner, &replay.spans)?;
        let engine = Engine::begin(self.settings, self.observer, self.name, replay, &firsts)?;
        eprintln!("{}: interrupted, it goes on with: {} --name {0}", self.name, job.command);
        let replay = engine.replay().clone();
        let (mut picker, filter) = self.picker(&replay, engine.known())?;
        let lost = engine::lost(&replay.spans, &firsts);
        let before = replay.counts.read;
        let mut progress = Progress::new(u64::try_from(replay.left()).unwrap_or(0));
        let mut watch = |now: &Replay| show(&mut progress, now, before);
        let (replay, tally) = engine.run(self.scanner, &mut picker, filter.limit, &mut watch)?;
        progress.finish();
        Ok(Report {
            name: self.name.to_owned(),
            done: true,
            begun: None,
            earlier: Vec::new(),
            lost,
            replay,
            tally,
            failures: picker.failures().clone(),
        })
    }

    /// Who judges what is read, by what the replay was begun with.
    fn picker(&mut self, replay: &Replay, known: &Known) -> anyhow::Result<(Picker, Filter)> {
        let unreadable = || format!("the filter of the replay {} cannot be read here", self.name);
        let filter: Filter = serde_json::from_value(replay.filter.clone()).with_context(unreadable)?;
        let rate = replay.options.rate.as_deref().map(parse_rate).transpose();
        let rate = rate.with_context(unreadable)?.flatten();
        let targets = Targets::new(&self.settings.endpoints, known.facts.clone(), rate);
        let events = &self.settings.events;
        let picker = match replay.of {
            Of::Letters => {
                let options = replay.options.clone();
                // Ids stand in the letters, none is derived.
                let decoder = Decoder::new(events, "".into()).with_notices(&self.settings.topics.prefix);
                let decoder = Arc::new(decoder);
                let survey = if options.again || options.to.is_some() {
                    engine::survey(self.scanner, &replay.spans, &known.book)?
                } else {
                    Survey::default()
                };
                let (book, name) = (known.book.clone(), self.name.to_owned());
                let matcher = Matcher::new(filter.clone(), decoder)?;
                Picker::Letters(Box::new(Letters { matcher, targets, book, options, name, survey }))
            }
            Of::Events => {
                let to = replay.options.to.as_deref().unwrap_or_default();
                let endpoint = Arc::clone(endpoints::find(self.settings, to)?);
                let namespace = match &events.namespace {
                    Some(namespace) => namespace.clone(),
                    None => {
                        self.observer.cluster_id().context("the brokers did not tell the cluster's id")?
                    }
                };
                let expression = filter.expression.as_deref().map(Expression::new).transpose()?;
                let decoder = Arc::new(Decoder::new(events, namespace.into()));
                let (names, failures) = (Names::default(), Failures::default());
                let filter = filter.clone();
                Picker::Events(Box::new(Events {
                    filter,
                    expression,
                    decoder,
                    targets,
                    endpoint,
                    names,
                    failures,
                }))
            }
        };
        Ok((picker, filter))
    }
}

fn show(progress: &mut Progress, replay: &Replay, before: u64) {
    let Counts { read, matched, written, .. } = replay.counts;
    let read = read.saturating_sub(before);
    if read.is_multiple_of(STRIDE) {
        progress.set(progress::Counts { read, matched, written });
    }
}

/// A name that tells when, and that nobody else makes in the same second.
fn made_name() -> String {
    let digits: String = rfc3339(now()).chars().filter(char::is_ascii_digit).collect();
    // The random state of the standard library's maps is seeded by the operating system.
    let random = RandomState::new().hash_one(&digits).to_be_bytes();
    let (day, time) = digits.split_at(8);
    format!("{day}-{time}-{}", BASE32_NOPAD.encode(&random[..3]).to_ascii_lowercase())
}

fn name(text: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.to_owned()) } else { Err("write 1 to 64 of A-Z a-z 0-9 _ -".to_owned()) }
}

fn rate(text: &str) -> Result<String, String> {
    match parse_rate(text) {
        Ok(Some(_)) => Ok(text.to_owned()),
        Ok(None) => Err("there must be a limit, so that the endpoint is not flooded".to_owned()),
        Err(wrong) => Err(format!("{wrong}; write a rate such as 20/s or 600/m")),
    }
}

/// The endpoint that everything goes to, if it can take anything.
pub(super) fn endpoint<'a>(settings: &'a Settings, id: &str) -> anyhow::Result<&'a str> {
    let endpoint = endpoints::find(settings, id)?;
    if !endpoint.enabled {
        let help = "what is sent to it would die at once; set enabled = true first";
        return Err(Usage(format!("the endpoint {id} is disabled by the configuration: {help}")).into());
    }
    Ok(&endpoint.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_names_are_names_and_differ() {
        let (one, other) = (made_name(), made_name());
        assert!(is_name(&one) && one.len() == 21, "{one}");
        assert_ne!(one, other);
    }

    #[test]
    fn a_replay_has_a_rate() {
        for (text, ok) in
            [("20/s", true), ("600/m", true), ("unlimited", false), ("0/s", false), ("20", false)]
        {
            assert_eq!(rate(text).is_ok(), ok, "{text}");
        }
    }
}
