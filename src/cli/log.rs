//! Sets up logging, once per process: to stderr, as text or JSON.

use std::io::{self, IsTerminal};

use anyhow::{Context, anyhow};
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, fmt,
    layer::{Layer, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use super::paint;
use crate::{
    config::settings::{self, LogFormat},
    log::Log,
};

/// The documented defaults, for commands that run without a configuration.
pub(super) fn default() -> settings::Log {
    settings::Log { level: "info".to_owned(), format: LogFormat::Auto }
}

/// For services: as configured, changed while they run, and without repeated warnings.
pub(super) fn init(settings: &settings::Log) -> anyhow::Result<Log> {
    let (log, filter, repeats) = Log::new(&settings.level).context("log.level")?;
    let subscriber = tracing_subscriber::registry().with(filter).with(repeats);
    initialised(subscriber.with(writer(settings.format)))?;
    Ok(log)
}

/// For commands that do one thing and whose output is the answer: warnings only.
pub(super) fn init_quiet(log: &settings::Log) -> anyhow::Result<()> {
    init_fixed("warn", log.format)
}

/// For a command that tells by itself what the clients complain of.
pub(super) fn init_silent() -> anyhow::Result<()> {
    init_fixed("error,rdkafka=off", LogFormat::Auto)
}

fn init_fixed(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(level).context("log.level")?;
    initialised(tracing_subscriber::registry().with(filter).with(writer(format)))
}

fn writer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    let terminal = io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    if json {
        Box::new(fmt::layer().json().flatten_event(true).with_writer(io::stderr))
    } else {
        Box::new(fmt::layer().with_ansi(terminal && paint::wanted()).with_writer(io::stderr))
    }
}

fn initialised(subscriber: impl SubscriberInitExt) -> anyhow::Result<()> {
    subscriber.try_init().map_err(|error| anyhow!("logging is set up already: {error}"))
}
