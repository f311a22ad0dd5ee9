//! `arauto run`: the service, until it is told to stop.

use std::path::Path;

use tracing::info;

use super::Done;
use crate::{
    app::{App, signal::Stop},
    config::settings::Settings,
    log::Log,
};

/// Runs until SIGTERM or SIGINT, or until something fails that cannot heal.
pub(super) async fn run(settings: Settings, log: Log, config: &Path) -> anyhow::Result<Done> {
    let mut signals = Stop::listen()?;
    let stop = async move {
        let signal = signals.recv().await;
        info!(signal, "stopping");
    };
    info!(version = env!("CARGO_PKG_VERSION"), endpoints = settings.endpoints.len(), "starting");
    App::new(settings, log).await?.run(stop, Some(config.to_owned())).await?;
    Ok(Done::Well)
}
