//! The commands, and the one match that runs them.
//!
//! Output goes to stdout and logs to stderr, so that `--json` can be piped. Nothing below this module prints or ends
//! the process.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::{
    app,
    config::settings::{Endpoint, Settings},
};

mod admin;
mod ask;
mod backfill;
mod body;
mod check;
mod date;
mod dev;
mod dlq;
mod doctor;
mod endpoints;
mod filter;
mod groups;
mod health;
mod lag;
mod lanes;
mod level;
mod listen;
mod log;
mod manual;
mod offsets;
mod pager;
mod paint;
mod progress;
mod replay;
mod retries;
mod run;
mod secret;
mod send;
mod sign;
mod topics;
mod trace;
mod verify;
mod words;

/// Delivers Kafka events as signed webhooks.
#[derive(Debug, Parser)]
#[command(
    name = "arauto",
    version = crate::VERSION.as_str(),
    // What the help texts are written for; without it lines are broken again at 100.
    term_width = 120,
    after_help = "Output is coloured on a terminal unless NO_COLOR is set.\n\nExit codes: 0 done, 1 failed, 2 wrong usage or configuration."
)]
pub struct Cli {
    /// Configuration file.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "ARAUTO_CONFIG",
        default_value = "config/arauto.toml"
    )]
    config: PathBuf,

    /// Machine-readable output.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Deliver events until stopped.
    #[command(after_help = "\
Examples:
  arauto run --config /etc/arauto/arauto.toml
  ARAUTO_CONFIG=arauto.toml arauto run

Endpoints are read again when a file of the configuration changes, or at SIGHUP. SIGTERM and Ctrl-C end it in order: what
is under way is finished, what waits is handed on.

Prints nothing; logs go to stderr, as JSON unless that is a terminal (log.format).

Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage or configuration.")]
    Run,
    /// Try it all on this machine: embedded broker, receiver, sample events. Needs no Kafka and no configuration.
    Dev(dev::Args),
    /// Validate the configuration, or explain where an event would go and why.
    Check(check::Args),
    /// Show which levels a running instance logs, or change them for a while.
    Log(level::Args),
    /// Look for what stands in the way: configuration, brokers, rights, topics, clocks, endpoints.
    Doctor(doctor::Args),
    /// Ask a running instance whether it is ready, or alive.
    Health(health::Args),
    /// Show what a running instance does for each endpoint, those in trouble first.
    Lanes(lanes::Args),
    /// Look at dead letters, and decide what becomes of them.
    Dlq(dlq::Args),
    /// Send past events of the source topics to one endpoint.
    Backfill(backfill::Args),
    /// Enable an endpoint again, pause one, or let it go on.
    Endpoints(endpoints::Args),
    /// Show how far each group is behind, and how old what waits is.
    Lag(lag::Args),
    /// Show where the group stands, or decide where it goes on.
    Offsets(offsets::Args),
    /// Show what waits on the retry topics, make it due now, or end it.
    Retries(retries::Args),
    /// Tell what happened to an event: each attempt, what waits, dead letters, replays.
    Trace(trace::Args),
    /// Receive webhooks, verify and print them.
    Listen(listen::Args),
    /// Show the topics Arauto needs, which exist, and what differs.
    Topics(topics::Args),
    /// Publish an event and wait until the brokers have it.
    Send(send::Args),
    /// Print the headers that sign a body.
    Sign(sign::Args),
    /// Verify a webhook's signature, and say precisely what is wrong with it.
    Verify(verify::Args),
    /// Make a fresh secret.
    Secret(secret::Args),
    /// Print what makes a shell complete our commands.
    Completions(manual::Completions),
    /// Write man pages.
    Man(manual::Man),
}

/// How a command ended that did what it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// All is well.
    Well,
    /// It found or caused something that is not, and has said so.
    Failed,
    /// The configuration is wrong, which was what it had to find out.
    Refused,
}

/// What a user got wrong: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

impl Cli {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Done> {
        match self.command {
            Command::Run => {
                let settings = load(&self.config)?;
                let log = log::init(&settings.log)?;
                block_on(run::run(settings, log, &self.config))
            }
            Command::Dev(args) => {
                let log = log::init(&dev::log())?;
                block_on(dev::run(args, log, self.json))
            }
            Command::Check(args) => validate(&args, &self.config, self.json),
            Command::Lanes(args) => {
                let admin = args.admin.find(|| Ok(load(&self.config)?.admin))?;
                log::init_quiet(&log::default())?;
                block_on(lanes::run(&args, &admin, self.json))
            }
            Command::Log(args) => {
                let admin = args.admin.find(|| Ok(load(&self.config)?.admin))?;
                log::init_quiet(&log::default())?;
                block_on(level::run(&args, &admin, self.json))
            }
            Command::Health(args) => {
                let admin = args.admin.find(|| Ok(load(&self.config)?.admin))?;
                log::init_quiet(&log::default())?;
                block_on(health::run(&args, &admin, self.json))
            }
            Command::Doctor(_) => diagnose(&self.config, self.json),
            Command::Dlq(args) => dlq::run(&args, &quiet(&self.config)?, self.json),
            Command::Backfill(args) => backfill::run(&args, &quiet(&self.config)?, self.json),
            Command::Endpoints(args) => block_on(endpoints::run(args, &quiet(&self.config)?, self.json)),
            Command::Lag(args) => lag::run(&args, &quiet(&self.config)?, self.json),
            Command::Offsets(args) => offsets::run(&args, &quiet(&self.config)?, self.json),
            Command::Retries(args) => retries::run(&args, &quiet(&self.config)?, self.json),
            Command::Trace(args) => trace::run(&args, &quiet(&self.config)?, self.json),
            Command::Listen(args) => {
                log::init_quiet(&log::default())?;
                block_on(listen::run(args, self.json))
            }
            Command::Topics(args) => block_on(topics::run(&args, &quiet(&self.config)?, self.json)),
            Command::Send(args) => {
                let kafka = match args.brokers() {
                    Some(brokers) => send::kafka_at(brokers),
                    None => load(&self.config)?.kafka,
                };
                log::init_quiet(&log::default())?;
                block_on(send::run(&args, &kafka, self.json))
            }
            Command::Sign(args) => {
                let keys = args.endpoint().map(|id| keys(&self.config, id)).transpose()?;
                sign::run(&args, keys, self.json)
            }
            Command::Verify(args) => {
                let keys = args.endpoint().map(|id| keys(&self.config, id)).transpose()?;
                verify::run(&args, keys, self.json)
            }
            Command::Secret(args) => secret::run(&args, self.json),
            Command::Completions(args) => manual::complete(&args),
            Command::Man(args) => manual::write(&args),
        }
    }
}

/// The exit code of a command, after saying what went wrong.
pub fn exit_code(result: &anyhow::Result<Done>) -> ExitCode {
    match result {
        Ok(Done::Well) => ExitCode::SUCCESS,
        Ok(Done::Failed) => ExitCode::from(1),
        Ok(Done::Refused) => ExitCode::from(2),
        // Who reads the output, such as `head`, has seen enough.
        Err(error) if is_broken_pipe(error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("arauto: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let own = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        own.or(json) == Some(io::ErrorKind::BrokenPipe)
    })
}

/// Reads the configuration; its mistakes are wrong usage.
fn load(path: &Path) -> anyhow::Result<Settings> {
    app::load::file(path).map_err(|mistakes| Usage(format!("the configuration is wrong\n{mistakes}")).into())
}

/// Reads the configuration of a command that does one thing, and logs warnings only.
fn quiet(path: &Path) -> anyhow::Result<Settings> {
    let settings = load(path)?;
    log::init_quiet(&settings.log)?;
    Ok(settings)
}

/// What an endpoint of the configuration signs with.
fn keys(path: &Path, id: &str) -> anyhow::Result<secret::Keys> {
    let settings = load(path)?;
    let endpoint: &Endpoint = endpoints::find(&settings, id)?;
    Ok(endpoint.into())
}

/// Validates; a wrong configuration is the answer here, not an error to be told of.
fn validate(args: &check::Args, path: &Path, json: bool) -> anyhow::Result<Done> {
    let mut out = io::stdout().lock();
    match app::load::file(path) {
        Ok(settings) => check::run(&settings, args, (path, json), &mut out).map(|()| Done::Well),
        Err(mistakes) => check::refuse(&mistakes, (path, json), &mut out).map(|()| Done::Refused),
    }
}

/// Examines; a wrong configuration is the first thing it can find.
fn diagnose(path: &Path, json: bool) -> anyhow::Result<Done> {
    match app::load::file(path) {
        Ok(settings) => {
            log::init_silent()?;
            block_on(doctor::run(&settings, path, json))
        }
        Err(mistakes) => doctor::refuse(&mistakes, path, json),
    }
}

fn block_on(command: impl Future<Output = anyhow::Result<Done>>) -> anyhow::Result<Done> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("starting the runtime")?;
    let done = runtime.block_on(command);
    // Dropped, it would wait for threads that wait for brokers, longer than any grace.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Each command that does something, by its words.
    fn leaves(command: &clap::Command, words: &str, found: &mut Vec<(String, String)>) {
        let words = format!("{words} {}", command.get_name());
        for below in command.get_subcommands() {
            leaves(below, &words, found);
        }
        if !command.has_subcommands() {
            let help = command.get_after_help().map(ToString::to_string);
            found.push((words, help.unwrap_or_default()));
        }
    }

    #[test]
    fn every_command_has_examples_and_says_what_its_json_is() {
        let mut found = Vec::new();
        leaves(&Cli::command(), "", &mut found);
        for (command, help) in found {
            assert!(help.contains("Examples:\n"), "{command}: {help}");
            let silent = [" arauto run", " arauto completions", " arauto man"].contains(&command.as_str());
            assert!(silent || help.contains("json"), "{command}: {help}");
        }
    }

    #[test]
    fn exit_codes() {
        let code = |result| format!("{:?}", exit_code(&result));
        let is = |number: u8| format!("{:?}", ExitCode::from(number));
        assert_eq!(code(Ok(Done::Well)), is(0));
        assert_eq!(code(Ok(Done::Failed)), is(1));
        assert_eq!(code(Err(anyhow::anyhow!("no brokers"))), is(1));
        assert_eq!(code(Err(Usage("no topic".to_owned()).into())), is(2));
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(code(Err(anyhow::Error::from(closed).context("writing"))), is(0));
    }

    #[test]
    fn global_flags_stand_anywhere() {
        let cli =
            Cli::try_parse_from(["arauto", "topics", "--create", "--json", "--config", "a.toml"]).unwrap();
        assert!(cli.json);
        assert_eq!(cli.config, Path::new("a.toml"));
    }
}
