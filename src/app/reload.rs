//! Reads the configuration again on SIGHUP and when its files have changed, and keeps the last good one.

use std::{path::PathBuf, sync::Arc};

use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::{endpoints::Endpoints, load, own::OwnQueues, signal::Hangups, supervisor::Supervisor};
use crate::{
    admin::health::Health,
    config::{
        reload::{Trigger, Verdict, judge, needs_restart},
        settings::Settings,
        watch::Watch,
    },
    log::Log,
    metrics::Metrics,
};

/// What a reload reads and what it changes.
pub(super) struct Reloader {
    pub(super) path: PathBuf,
    /// What runs now.
    pub(super) settings: Arc<Settings>,
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) own: OwnQueues,
    pub(super) log: Log,
    pub(super) metrics: Metrics,
    pub(super) health: Health,
    pub(super) supervisor: Supervisor,
}

impl Reloader {
    /// The service; it listens from now on.
    pub(super) fn service(mut self) -> anyhow::Result<impl Future<Output = ()>> {
        let mut watch = Watch::new(&self.path);
        let mut hangups = Hangups::listen()?;
        Ok(async move {
            loop {
                let trigger = tokio::select! {
                    () = hangups.recv() => Trigger::Signal,
                    () = watch.quiet_change() => Trigger::FileChange,
                };
                if trigger == Trigger::Signal {
                    // What is read now need not be read again when its files have become quiet.
                    watch.tell().await;
                }
                let _reloading = self.supervisor.reloading();
                self.reload(trigger).await;
            }
        })
    }

    async fn reload(&mut self, trigger: Trigger) {
        let (path, running) = (self.path.clone(), Arc::clone(&self.settings));
        let loaded = spawn_blocking(move || load::again(&path, &running.security)).await;
        let rejected = match loaded {
            Ok(Ok(settings)) => match judge(&self.settings, &settings, trigger) {
                Verdict::Apply => match self.prepare(&settings).await {
                    Ok(()) => return self.apply(settings, trigger).await,
                    Err(refused) => refused,
                },
                Verdict::NeedsSignal { removed, of } => {
                    format!("{removed} of {of} endpoints would be removed; send SIGHUP to do it")
                }
            },
            Ok(Err(mistakes)) => mistakes.to_string(),
            Err(panic) => panic.to_string(),
        };
        error!(?trigger, reason = rejected, "configuration not taken over, the last good one stays");
        self.metrics.reload(false);
        self.health.reload(Err(rejected));
    }

    /// Can the own queues be as these settings want them?
    async fn prepare(&self, settings: &Settings) -> Result<(), String> {
        let (own, endpoints) = (self.own.clone(), settings.endpoints.clone());
        match spawn_blocking(move || own.prepare(&endpoints)).await {
            Ok(prepared) => prepared.map_err(|error| error.to_string()),
            Err(panic) => Err(panic.to_string()),
        }
    }

    async fn apply(&mut self, settings: Settings, trigger: Trigger) {
        for section in needs_restart(&self.settings, &settings) {
            warn!(section, "a change of this section needs a restart");
        }
        if self.settings.log.level != settings.log.level
            && let Err(wrong) = self.log.set(&settings.log.level)
        {
            warn!(%wrong, "log level not changed");
        }
        self.endpoints.replace(settings.endpoints.clone());
        let (own, endpoints) = (self.own.clone(), settings.endpoints.clone());
        if let Err(panic) = spawn_blocking(move || own.reconcile(&endpoints)).await {
            error!(%panic, "own queues are not as they should be");
        }
        info!(?trigger, endpoints = settings.endpoints.len(), "configuration taken over");
        // What needs a restart keeps being compared with what runs.
        let mut running = (*self.settings).clone();
        (running.endpoints, running.log.level) = (settings.endpoints, settings.log.level);
        self.settings = Arc::new(running);
        self.metrics.reload(true);
        self.health.reload(Ok(()));
    }
}
