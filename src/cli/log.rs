//! Sets up logging, once per process: to stderr, as text or JSON.

use std::io::{self, IsTerminal};

use anyhow::{Context, anyhow};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use super::paint;
use crate::config::settings::{Log, LogFormat};

/// The documented defaults, for commands that run without a configuration.
pub(super) fn default() -> Log {
    Log { level: "info".to_owned(), format: LogFormat::Auto }
}

/// For services: as configured.
pub(super) fn init(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.level).context("log.level")?;
    let terminal = io::stderr().is_terminal();
    let json = match log.format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let initialised = if json {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(io::stderr)).try_init()
    } else {
        registry.with(fmt::layer().with_ansi(terminal && paint::wanted()).with_writer(io::stderr)).try_init()
    };
    initialised.map_err(|error| anyhow!("logging is set up already: {error}"))
}

/// For commands that do one thing and whose output is the answer: warnings only.
pub(super) fn init_quiet(log: &Log) -> anyhow::Result<()> {
    init(&Log { level: "warn".to_owned(), format: log.format })
}

/// For a command that tells by itself what the clients complain of.
pub(super) fn init_silent() -> anyhow::Result<()> {
    init(&Log { level: "error,rdkafka=off".to_owned(), format: LogFormat::Auto })
}
