//! Which endpoints' receivers have shown certificates, and until when those are valid.

use std::{sync::Arc, time::Duration};

use crate::{config::settings::Endpoint, http::expiry::Expiry, metrics::Metrics, registry::Registry};

/// It is looked this often whether anything has changed; a new certificate is shown this late.
const LOOK: Duration = Duration::from_secs(2);

/// Keeps the metric in step with endpoints and connections.
pub(super) struct Certificates {
    pub(super) expiry: Expiry,
    pub(super) registry: Arc<Registry>,
    pub(super) metrics: Metrics,
}

/// When an endpoint's certificate ends, in unix milliseconds.
type End = (Arc<Endpoint>, i64);

impl Certificates {
    /// Runs for ever.
    pub(super) async fn run(self) {
        let mut seen = None;
        loop {
            let now = (self.expiry.changes(), self.registry.snapshot().generation());
            if seen.replace(now) != Some(now) {
                self.look();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn look(&self) -> Vec<End> {
        let snapshot = self.registry.snapshot();
        let https = || snapshot.endpoints().iter().filter(|endpoint| endpoint.url.scheme() == "https");
        self.expiry.keep(https().map(|endpoint| &endpoint.url));
        let ends =
            https().filter_map(|endpoint| Some((Arc::clone(endpoint), self.expiry.of(&endpoint.url)?)));
        let ends: Vec<End> = ends.collect();
        self.metrics.certificates(ends.iter().map(|(endpoint, end)| (&*endpoint.id, *end)));
        ends
    }
}
