//! `arauto dlq replay`: dead letters back on their way, once each, at a rate that does no harm.

use super::super::{
    Done, filter,
    replay::{self, Job},
};
use crate::{
    config::settings::Settings,
    kafka::topics::dead_topic,
    letters::spans,
    replay::{Of, Options},
};

/// Send dead letters again: through the endpoint's lane, limit and retries, with the webhook ids they had.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    filter: filter::Args,
    #[command(flatten)]
    how: replay::Args,
    /// Send them to this endpoint instead of their own: say, a copy of it that is mended.
    #[arg(long, value_name = "ENDPOINT")]
    to: Option<String>,
    /// Give them new webhook ids, for a receiver that would take them for what it has had.
    #[arg(long)]
    reset_id: bool,
    /// Also those that an earlier replay took.
    #[arg(long)]
    again: bool,
    /// Refuse what was replayed so often to the same endpoint.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    max_replays: u32,
}

const EXAMPLES: &str = "\
Examples:
  arauto dlq replay --endpoint crm --since 2h --dry-run     what would be sent, and how long it takes
  arauto dlq replay --endpoint crm --since 2h               asks, then sends
  arauto dlq replay --reason exhausted --rate 20/s --yes    for scripts
  arauto dlq replay --name 20260131-081500-k3xq             goes on after an interruption
  arauto dlq replay --id msg_abc --to crm-fixed             one letter, to another endpoint

It reads what is there when it begins. The letters stay in the dead-letter topic, marked as taken; the next replay
leaves them out. --json prints one object: name, dry_run, filter, total, replayed, taken, refused, lost, seconds,
endpoints, reasons, refusals, failed, earlier.
Exit codes: 0 done (also when letters were refused), 1 failed, answered with no, or taken over by another run of the
same name, 2 wrong usage or configuration.";

/// Runs the command; it blocks its thread.
pub(super) fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    let filter = args.filter.resolve()?;
    let to = args.to.as_deref().map(|id| replay::endpoint(settings, id)).transpose()?;
    let options = Options {
        to: to.map(str::to_owned),
        rate: None,
        reset_id: args.reset_id,
        again: args.again,
        max_replays: args.max_replays,
    };
    let topic = dead_topic(&settings.topics.prefix);
    let wanted = filter.clone();
    let job = Job { of: Of::Letters, command: "arauto dlq replay", filter, options, args: &args.how };
    replay::run(&job, |scanner| Ok(spans::of(scanner, &topic, &wanted)?), settings, json)
}
