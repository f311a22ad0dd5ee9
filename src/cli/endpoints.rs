//! `arauto endpoints`: which there are, whether one can be reached, and an operator's word to one. The word is written
//! to the state topic, so every instance hears it, those still to be started included; none need be running.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use serde::Serialize;
use tokio::{task::spawn_blocking, time::Instant};

use super::{Done, Usage, date::rfc3339};
use crate::{
    config::{
        read::nearest,
        settings::{Endpoint, Settings},
    },
    kafka::{
        observer::{Followed, Observer},
        producer::Producer,
        topics::state_topic,
    },
    pipeline::{
        delivery::now,
        state::State,
        switch::{
            Command, Facts,
            report::{Cause, Report},
        },
        switches::record,
    },
};

/// Longest wait for the state topic to be read; it is small.
const READ: Duration = Duration::from_secs(30);
/// One look at it.
const LOOK: Duration = Duration::from_millis(100);

mod list;
mod test;

/// Show the endpoints, try one, or tell one to go on or to wait.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show the endpoints as the configuration has them, defaults applied, secrets masked. Asks nobody.
    List(list::Args),
    /// Send one signed `arauto.test` event to an endpoint, now, and show every part of it. Needs no Kafka.
    Test(test::Args),
    /// Deliver again to an endpoint that was disabled: it answered 410 (Gone), or failed for `disable_after`. What
    /// fails counts anew from now on. Dead letters stay where they are.
    #[command(after_help = TOLD)]
    Enable(Which),
    /// Send nothing to an endpoint; everything waits, uncharged, until `resume`, also over restarts.
    #[command(after_help = TOLD)]
    Pause(Which),
    /// Let a paused endpoint go on. What was parked meanwhile follows within a quarter of an hour. A pause in the
    /// configuration (`paused = true`) stays.
    #[command(after_help = TOLD)]
    Resume(Which),
}

const TOLD: &str = "\
Examples:
  arauto endpoints enable crm
  arauto endpoints pause crm
  arauto endpoints resume crm

--json: {\"before\", \"after\"}, each with endpoint, enabled, disabled, paused ({\"by\", \"since\"} or null) and failing_since.";

#[derive(Debug, clap::Args)]
struct Which {
    /// The endpoint's id in the configuration.
    #[arg(value_name = "ID")]
    id: String,
}

/// What was so and what is so now.
#[derive(Serialize)]
struct Told {
    before: Report,
    after: Report,
}

pub(super) async fn run(args: Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    let (command, Which { id }) = match args.what {
        What::List(args) => return list::run(&args, settings, json),
        What::Test(args) => return test::run(&args, settings, json).await,
        What::Enable(which) => (Command::Enable, which),
        What::Pause(which) => (Command::Pause, which),
        What::Resume(which) => (Command::Resume, which),
    };
    let endpoint = find(settings, &id)?;
    if let Some(why) = command.refused(endpoint) {
        bail!("{id} stays as it is: {why}");
    }
    let mut facts = read(settings).await?;
    let before = Report::new(endpoint, &facts.get(&id));
    let record = record(&state_topic(&settings.topics.prefix), facts.command(&id, command, now()));
    let producer = Producer::new(&settings.kafka).context(CLIENT)?;
    let unknown = "the brokers did not acknowledge it, so it may be in effect or not; say it again";
    producer.send(&record).await.context(unknown)?;
    print(&Told { before, after: Report::new(endpoint, &facts.get(&id)) }, json)?;
    Ok(Done::Well)
}

const CLIENT: &str = "the Kafka client cannot be made (kafka.properties)";

/// An endpoint of the configuration by its id.
pub(super) fn find<'a>(settings: &'a Settings, id: &str) -> anyhow::Result<&'a Arc<Endpoint>> {
    let endpoints = &settings.endpoints;
    if let Some(endpoint) = endpoints.iter().find(|endpoint| *endpoint.id == *id) {
        return Ok(endpoint);
    }
    let near = nearest(id, endpoints.iter().map(|endpoint| &*endpoint.id));
    let near = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
    Err(Usage(format!("there is no endpoint {id:?} in the configuration{near}")).into())
}

/// What is known of all endpoints.
async fn read(settings: &Settings) -> anyhow::Result<Facts> {
    let observer = Observer::new(&settings.kafka).context(CLIENT)?;
    let (topic, group) = (state_topic(&settings.topics.prefix), settings.kafka.group.clone());
    spawn_blocking(move || read_from(&observer, &topic, &group)).await?
}

fn read_from(observer: &Observer, topic: &str, group: &str) -> anyhow::Result<Facts> {
    let topics = observer.topics().context("the brokers do not answer")?;
    if !topics.contains_key(topic) {
        bail!("there is no topic {topic} (topics.prefix); an instance makes it, or: arauto topics --create");
    }
    observer.follow(topic)?;
    let (mut state, mut facts) = (State::default(), Facts::default());
    let (deadline, mut trouble) = (Instant::now() + READ, None);
    loop {
        match observer.next(LOOK) {
            Followed::Entry((key, value)) => {
                // What should be written again is left to the instances.
                state.apply(&key, value.as_deref());
                facts.apply(&key, value.as_deref());
            }
            Followed::End => break,
            Followed::Trouble(error) => trouble = Some(error.to_string()),
            Followed::Nothing => {}
        }
        if Instant::now() > deadline {
            let trouble = trouble.as_deref().unwrap_or("no answer");
            bail!("the topic {topic} could not be read to its end: {trouble}");
        }
    }
    match state.owner() {
        Some(owner) if owner != group => {
            bail!(
                "the topic {topic} belongs to the group {owner:?}, the configuration says {group:?} (kafka.group)"
            )
        }
        _ => Ok(facts),
    }
}

fn print(told: &Told, json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, told)?;
        return Ok(writeln!(out)?);
    }
    let Told { before, after } = told;
    writeln!(out, "{} was {}; it is {} now", before.endpoint, words(before, true), words(after, false))?;
    if after.disabled.is_some() {
        writeln!(out, "while it is disabled its deliveries are dead-lettered, paused or not")?;
    }
    Ok(())
}

/// How an endpoint stands, in words.
fn words(report: &Report, with_times: bool) -> String {
    let since = |since: Option<i64>| match since {
        Some(since) if with_times => format!(" since {}", rfc3339(since)),
        _ => String::new(),
    };
    let cause = |what: &str, cause: &Cause| match cause.by {
        "configuration" => format!("{what} by the configuration"),
        "operator" => format!("{what}{}", since(cause.since)),
        why => format!("{what} ({why}){}", since(cause.since)),
    };
    let disabled = report.disabled.as_ref().map(|disabled| cause("disabled", disabled));
    let paused = report.paused.as_ref().map(|paused| cause("paused", paused));
    let failing = report.failing_since.filter(|_| report.enabled);
    let failing = failing.map(|failing| format!("failing{}", since(Some(failing))));
    let all: Vec<String> = [disabled, paused, failing].into_iter().flatten().collect();
    if all.is_empty() { "enabled".to_owned() } else { all.join(" and ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_is_so_and_since_when() {
        let at = Some(1_700_000_000_000);
        let by = |by, since| Some(Cause { by, since });
        let rows = [
            ((None, None, None), "enabled", "enabled"),
            ((by("gone", at), None, at), "disabled (gone) since 2023-11-14T22:13:20Z", "disabled (gone)"),
            ((None, by("operator", at), None), "paused since 2023-11-14T22:13:20Z", "paused"),
            (
                (by("configuration", None), by("configuration", None), None),
                "disabled by the configuration and paused by the configuration",
                "disabled by the configuration and paused by the configuration",
            ),
            ((None, None, at), "failing since 2023-11-14T22:13:20Z", "failing"),
        ];
        for ((disabled, paused, failing_since), before, after) in rows {
            let enabled = disabled.is_none();
            let report = Report { endpoint: "crm".to_owned(), enabled, disabled, paused, failing_since };
            assert_eq!((words(&report, true).as_str(), words(&report, false).as_str()), (before, after));
        }
    }
}
