//! Arauto delivers Kafka events as signed webhooks. Start reading at [`pipeline`].

use std::sync::LazyLock;

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod date;
pub mod dev;
pub mod doctor;
pub mod http;
pub mod kafka;
pub mod letters;
pub mod log;
pub mod metrics;
pub mod notices;
pub mod otel;
pub mod pipeline;
pub mod registry;
pub mod replay;
pub mod retries;
pub mod story;

/// The revision this was built from; whoever builds it sets `ARAUTO_REVISION`.
pub const REVISION: &str = match option_env!("ARAUTO_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// What `--version` says: the version and the revision.
pub static VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{} (revision {REVISION})", env!("CARGO_PKG_VERSION")));
