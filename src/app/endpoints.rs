//! The endpoints in use: what follows when their configuration changes, or what is known of them besides it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    config::settings::Endpoint,
    metrics::Metrics,
    pipeline::{lane::lanes::Lanes, switch::url_hash, switches::Switches},
    registry::Registry,
};

/// Tells registry, lanes and gauges.
pub(super) struct Endpoints {
    registry: Arc<Registry>,
    switches: Switches,
    lanes: Arc<Lanes>,
    metrics: Metrics,
    /// One change after the other: a gauge must not be set by what was before.
    turn: Mutex<()>,
}

impl Endpoints {
    pub(super) fn new(
        registry: Arc<Registry>,
        switches: Switches,
        lanes: Arc<Lanes>,
        metrics: Metrics,
    ) -> Self {
        Self { registry, switches, lanes, metrics, turn: Mutex::default() }
    }

    /// Goes on with these endpoints in the place of all others.
    pub(super) fn replace(&self, endpoints: Vec<Arc<Endpoint>>) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let enabled = endpoints.iter().map(|endpoint| (&*endpoint.id, self.is_enabled(endpoint)));
        self.metrics.set_endpoints(enabled);
        let disabled =
            endpoints.iter().filter_map(|endpoint| Some((&*endpoint.id, self.disabled(endpoint)?)));
        self.metrics.set_disabled(disabled);
        self.registry.replace(endpoints);
        self.lanes.update();
    }

    /// Goes by what has become known since this was called last.
    pub(super) fn tell(&self) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.switches.take_changed();
        if changed.is_empty() {
            return;
        }
        let snapshot = self.registry.snapshot();
        for id in changed {
            self.lanes.switched(&id);
            if let Some(endpoint) = snapshot.by_id(&id) {
                self.metrics.set_endpoint_enabled(&id, self.is_enabled(endpoint));
                self.metrics.set_endpoint_disabled(&id, self.disabled(endpoint));
            }
        }
    }

    fn is_enabled(&self, endpoint: &Endpoint) -> bool {
        endpoint.enabled && self.disabled(endpoint).is_none()
    }

    /// Why it is disabled although its configuration enables it.
    fn disabled(&self, endpoint: &Endpoint) -> Option<&'static str> {
        let switch = self.switches.get(&endpoint.id);
        let disabled = switch.disabled_for(&url_hash(&endpoint.url)).filter(|_| endpoint.enabled)?;
        Some(disabled.why.as_str())
    }
}
