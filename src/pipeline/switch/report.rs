//! How one endpoint's switch stands, configuration included, as the admin server and the command line show it. Pure.

use serde::Serialize;

use super::{Switch, url_hash};
use crate::config::settings::Endpoint;

/// One endpoint's switch. Times are unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Its id.
    pub endpoint: String,
    /// Is anything sent to it, or kept for it?
    pub enabled: bool,
    /// Why and since when not.
    pub disabled: Option<Cause>,
    /// Is nothing sent until somebody says so?
    pub paused: Option<Cause>,
    /// Since when every attempt has failed, once that has lasted long enough to be noted down.
    pub failing_since: Option<i64>,
}

/// What made it so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// `configuration` or `operator`, or what an attempt's answer meant: `gone`, `failing`.
    pub by: &'static str,
    /// Since when; the configuration does not tell.
    pub since: Option<i64>,
}

impl Report {
    /// How it stands.
    pub fn new(endpoint: &Endpoint, switch: &Switch) -> Self {
        let url = url_hash(&endpoint.url);
        let configured = |so: bool| so.then_some(Cause { by: "configuration", since: None });
        let found = switch.disabled_for(&url);
        let found = found.map(|found| Cause { by: found.why.as_str(), since: Some(found.begun) });
        let told = switch.paused_since().map(|since| Cause { by: "operator", since: Some(since) });
        let disabled = configured(!endpoint.enabled).or(found);
        Self {
            endpoint: endpoint.id.to_string(),
            enabled: disabled.is_none(),
            disabled,
            paused: configured(endpoint.paused).or(told),
            failing_since: switch.failing_since(&url),
        }
    }
}
