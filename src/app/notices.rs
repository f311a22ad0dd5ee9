//! Starts who tells what people must hear of, and who has something to tell besides the pipeline.

use std::sync::Arc;

use super::{App, certificates::Certificates};
use crate::{
    http,
    kafka::producer::Producer,
    notices::{self, Notices},
};

impl App {
    /// Who tells what people must hear of, and who has something to tell besides the pipeline.
    pub(super) fn notices(&self, producer: &Producer, client: &http::Client) -> Notices {
        let settings = &self.settings;
        let options = notices::Options {
            prefix: settings.topics.prefix.clone(),
            group: settings.kafka.group.clone(),
            repeat: settings.notices.repeat,
            producer: producer.clone(),
            registry: Arc::clone(&self.registry),
            metrics: self.metrics.clone(),
        };
        let notices = if settings.notices.enabled { Notices::new(options) } else { Notices::default() };
        let until = self.tasks.token().clone();
        let told = notices.clone().run();
        self.tasks.spawn_needed("notices", async move { until.run_until_cancelled(told).await });
        let certificates = Certificates {
            expiry: client.expiry().clone(),
            registry: Arc::clone(&self.registry),
            metrics: self.metrics.clone(),
            notices: notices.clone(),
            before: settings.notices.certificate,
        };
        let until = self.tasks.token().clone();
        self.tasks.spawn_needed("certificates", async move {
            until.run_until_cancelled(certificates.run()).await;
        });
        notices
    }
}
