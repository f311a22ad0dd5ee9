//! Where letters and events can go: endpoints as they are configured and switched now, and why not. Pure.

use std::{fmt, sync::Arc};

use crate::{
    config::settings::{Endpoint, Rate},
    pipeline::{
        Event,
        route::may_have,
        switch::{Facts, report::Report},
    },
    registry::{Snapshot, parse_hash_name},
    replay::pace,
};

/// Why something is not replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// It is no delivery: somebody else wrote the record, or it could not be read when it was moved here.
    Foreign,
    /// Its event was too large for any topic, and only its coordinates are left.
    Empty,
    /// Its endpoint is not in the configuration.
    Unknown,
    /// Its endpoint belongs to another tenant now.
    Tenant,
    /// Its endpoint is disabled.
    Disabled,
    /// It was replayed as often as is allowed.
    MaxReplays,
    /// The tier does not take so large a record.
    TooLarge,
}

impl Why {
    /// Its name in machine-readable output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Empty => "empty",
            Self::Unknown => "unknown_endpoint",
            Self::Tenant => "other_tenant",
            Self::Disabled => "disabled",
            Self::MaxReplays => "max_replays",
            Self::TooLarge => "too_large",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Foreign => "no delivery of Arauto's: it can be exported, not replayed",
            Self::Empty => "its event was too large to be kept: send it again with arauto backfill",
            Self::Unknown => "its endpoint is not in the configuration: add it, or use --to ENDPOINT",
            Self::Tenant => "its endpoint belongs to another tenant",
            Self::Disabled => "its endpoint is disabled: arauto endpoints enable ID, or enabled = true",
            Self::MaxReplays => "replayed too often: mend the cause, then raise --max-replays",
            Self::TooLarge => "larger than the tier takes: raise its max.message.bytes (arauto topics)",
        })
    }
}

/// The endpoints.
pub struct Targets {
    endpoints: Snapshot,
    facts: Facts,
    rate: Option<Rate>,
}

impl Targets {
    /// `facts` is what operators and attempts said of them, `rate` what was asked for instead of a share of each
    /// endpoint's limit.
    pub fn new(endpoints: &[Arc<Endpoint>], facts: Facts, rate: Option<Rate>) -> Self {
        Self { endpoints: Snapshot::new(endpoints.to_vec(), 1), facts, rate }
    }

    /// The endpoint of that id, or [`crate::registry::hash_name`], if the event may go there now.
    pub fn find(&self, name: &str, event: &Event) -> Result<&Arc<Endpoint>, Why> {
        let found = match parse_hash_name(name) {
            Some(hash) => self.endpoints.by_hash(hash).find(|endpoint| may_have(endpoint, event)),
            None => self.endpoints.by_id(name),
        };
        let endpoint = found.ok_or(Why::Unknown)?;
        if !may_have(endpoint, event) {
            return Err(Why::Tenant);
        }
        if !self.report(endpoint).enabled {
            return Err(Why::Disabled);
        }
        Ok(endpoint)
    }

    /// How an endpoint stands.
    pub fn report(&self, endpoint: &Endpoint) -> Report {
        Report::new(endpoint, &self.facts.get(&endpoint.id))
    }

    /// The endpoint of that id, however it stands.
    pub fn by_id(&self, id: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.by_id(id)
    }

    /// All ids there are.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.endpoints.endpoints().iter().map(|endpoint| &*endpoint.id)
    }

    /// Time between two letters for the endpoint, in microseconds.
    pub fn interval(&self, endpoint: &Endpoint) -> i64 {
        pace::interval(endpoint, self.rate)
    }
}
