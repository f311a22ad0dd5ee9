//! Starts who tells what people must hear of, and who has something to tell besides the pipeline.

use std::sync::Arc;

use anyhow::Context;

use super::{App, NO_CLIENT, certificates::Certificates};
use crate::{
    http,
    kafka::producer::Producer,
    notices::{self, Notices},
};

impl App {
    /// Who tells what people must hear of, and who has something to tell besides the pipeline.
    pub(super) fn notices(&self, client: &http::Client) -> anyhow::Result<Notices> {
        let notices = if self.settings.notices.enabled { self.told_notices()? } else { Notices::default() };
        let until = self.tasks.token().clone();
        let told = notices.clone().run();
        self.tasks.spawn_needed("notices", async move { until.run_until_cancelled(told).await });
        let certificates = Certificates {
            expiry: client.expiry().clone(),
            registry: Arc::clone(&self.registry),
            metrics: self.metrics.clone(),
            notices: notices.clone(),
            before: self.settings.notices.certificate,
        };
        let until = self.tasks.token().clone();
        self.tasks.spawn_needed("certificates", async move {
            until.run_until_cancelled(certificates.run()).await;
        });
        Ok(notices)
    }

    fn told_notices(&self) -> anyhow::Result<Notices> {
        let settings = &self.settings;
        // A client of its own: when the brokers refuse one record of an idempotent client, it first drains all it has.
        let producer = Producer::new(&settings.kafka).context(NO_CLIENT)?;
        Ok(Notices::new(notices::Options {
            prefix: settings.topics.prefix.clone(),
            group: settings.kafka.group.clone(),
            repeat: settings.notices.repeat,
            producer,
            registry: Arc::clone(&self.registry),
            metrics: self.metrics.clone(),
        }))
    }
}
