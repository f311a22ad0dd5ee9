//! `arauto backfill`: past events of the source topics to one endpoint. Kafka has kept them all.

use std::sync::Arc;

use anyhow::bail;

use super::{
    Done, Usage, filter,
    replay::{self, Job},
};
use crate::{
    config::settings::{Endpoint, Settings},
    kafka::{
        consumer::TopicPartition,
        scan::{Scanner, Span},
        topics::is_own,
    },
    letters::filter::Filter,
    replay::{Of, Options},
};

/// Events are not always in the order of their timestamps: so much later than `until` they are still looked for.
const OUT_OF_ORDER: i64 = 3_600_000;

/// Send past events to one endpoint: a new customer, a bug mended at the receiver, an endpoint that was disabled. Only
/// those that the endpoint wants by its configuration, with the webhook ids they have for everybody.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The endpoint.
    #[arg(long, value_name = "ID", required_unless_present = "name")]
    endpoint: Option<String>,
    /// Only events of this source topic; may be repeated. Without it: of all that the endpoint wants.
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Events of this time or later: `2h` (ago), `today`, `yesterday` (UTC), 2026-01-31, 2026-01-31T08:00:00Z, or unix
    /// seconds. By the records' timestamps.
    #[arg(long, value_name = "TIME", required_unless_present = "name")]
    since: Option<String>,
    /// Events before this time. Without it: what is there when it begins. Those that stand more than an hour out of
    /// order are not found.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only events of this type; `*` stands for any characters; may be repeated.
    #[arg(long = "type", value_name = "GLOB")]
    types: Vec<String>,
    /// CEL expression over body, headers and more (see --help).
    #[arg(long = "where", value_name = "CEL", long_help = filter::where_help())]
    expression: Option<String>,
    #[command(flatten)]
    how: replay::Args,
}

const EXAMPLES: &str = "\
Examples:
  arauto backfill --endpoint crm --since 2h --dry-run
  arauto backfill --endpoint crm --since 2026-01-31 --until 2026-02-02 --type 'order.*'
  arauto backfill --endpoint crm --topic orders --since 30d --where 'value.total > 100' --rate 20/s --yes
  arauto backfill --name 20260131-081500-k3xq               goes on after an interruption

What the endpoint has had already comes again with the same webhook id, so a receiver can skip it. --json prints one
object, the same as that of arauto dlq replay.
Exit codes: 0 done, 1 failed, answered with no, or taken over by another run of the same name, 2 wrong usage or
configuration.";

/// Runs the command; it blocks its thread.
pub(super) fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    let filter = args.filter()?;
    let endpoint = args.endpoint.as_deref().map(|id| replay::endpoint(settings, id)).transpose()?;
    // What was replayed before is not known of events: none is refused for it.
    let (to, max_replays) = (endpoint.map(str::to_owned), u32::MAX);
    let options = Options { to, rate: None, reset_id: false, again: false, max_replays };
    let (since, until) = (filter.since, filter.until);
    let job = Job { of: Of::Events, command: "arauto backfill", filter, options, args: &args.how };
    let spans = |scanner: &Scanner| {
        let (Some(id), Some(since)) = (endpoint, since) else {
            bail!("there is no backfill of this --name; to begin one, say --endpoint and --since");
        };
        let endpoint = super::endpoints::find(settings, id)?;
        read(scanner, settings, endpoint, &args.topics, (since, until))
    };
    replay::run(&job, spans, settings, json)
}

impl Args {
    fn filter(&self) -> anyhow::Result<Filter> {
        let (since, until) = filter::resolve(&self.since, &self.until, &self.expression)?;
        let (types, expression) = (self.types.clone(), self.expression.clone());
        Ok(Filter { types, since, until, expression, ..Filter::default() })
    }
}

/// What is read: of each topic from the first event of that time on.
fn read(
    scanner: &Scanner,
    settings: &Settings,
    endpoint: &Endpoint,
    asked: &[String],
    (since, until): (i64, Option<i64>),
) -> anyhow::Result<Vec<Span>> {
    let all = scanner.topics()?;
    let is_source = |topic: &str| !is_own(&settings.topics.prefix, topic) && settings.kafka.reads(topic);
    let wants = |topic: &str| {
        endpoint.topics.as_ref().is_none_or(|topics| topics.iter().any(|selector| selector.matches(topic)))
    };
    for topic in asked {
        if !all.contains_key(topic) || !is_source(topic) {
            return Err(Usage(format!("{topic:?} is none of the source topics (kafka.topics)")).into());
        }
        if !wants(topic) {
            let id = &endpoint.id;
            return Err(
                Usage(format!("the endpoint {id} does not want events of {topic} (its topics)")).into()
            );
        }
    }
    let chosen = |topic: &str| {
        is_source(topic) && wants(topic) && (asked.is_empty() || asked.iter().any(|a| a == topic))
    };
    let mut spans = Vec::new();
    for (topic, partitions) in all.iter().filter(|(topic, _)| chosen(topic)) {
        let topic: Arc<str> = topic.as_str().into();
        for &partition in partitions {
            let of = TopicPartition { topic: Arc::clone(&topic), partition };
            let (_, end) = scanner.watermarks(&of)?;
            let from = scanner.offset_at(&of, since)?;
            let to = match until {
                Some(until) => scanner.offset_at(&of, until.saturating_add(OUT_OF_ORDER))?.min(end),
                None => end,
            };
            let span = Span { topic: Arc::clone(&topic), partition, from, to };
            spans.extend((!span.is_empty()).then_some(span));
        }
    }
    Ok(spans)
}
