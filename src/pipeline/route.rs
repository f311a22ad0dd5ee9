//! Route: does an endpoint want an event, and if not, why not?
//!
//! The plain statement of what [`crate::registry::Snapshot::route`] finds by index: used to explain and to test
//! it, and where there is but one endpoint to ask, in its own queue. A tombstone (null value) is nobody's whatever this says; an empty value is an
//! ordinary event.

use super::Event;
use crate::{
    config::settings::{Endpoint, TopicSelector},
    registry::pattern,
};

/// What an endpoint makes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It gets it.
    Wanted,
    /// It is disabled by configuration.
    Disabled,
    /// It wants other topics.
    NotTopic,
    /// It wants another tenant's events.
    NotTenant,
    /// It wants other types.
    NotType,
}

/// The verdict on one event, the first that applies.
pub fn explain(event: &Event, endpoint: &Endpoint) -> Verdict {
    // Nobody gets notices who did not ask for them by name.
    let asked = |topic: &TopicSelector| !event.notice || matches!(topic, TopicSelector::Name(_));
    let topic = match &endpoint.topics {
        Some(topics) => topics.iter().any(|topic| topic.matches(&event.topic) && asked(topic)),
        None => !event.notice,
    };
    let kind = |types: &Vec<String>| types.iter().any(|pattern| pattern::matches(pattern, &event.event_type));
    if !endpoint.enabled {
        Verdict::Disabled
    } else if !topic {
        Verdict::NotTopic
    } else if !may_have(endpoint, event) {
        Verdict::NotTenant
    } else if !endpoint.types.as_ref().is_none_or(kind) {
        Verdict::NotType
    } else {
        Verdict::Wanted
    }
}

/// May the endpoint see the event at all? One of another tenant must not, whoever had its id before.
pub fn may_have(endpoint: &Endpoint, event: &Event) -> bool {
    endpoint.tenant.is_none() || endpoint.tenant.as_deref() == event.tenant.as_deref()
}

impl Verdict {
    /// The verdict as a sentence about these two.
    pub fn describe(self, event: &Event, endpoint: &Endpoint) -> String {
        match self {
            Self::Wanted => "gets it".into(),
            Self::Disabled => "is disabled".into(),
            Self::NotTopic if event.notice => {
                "does not ask for notices: \"@notices\" is not among its topics".into()
            }
            Self::NotTopic => format!("wants topics {}, not {:?}", topics(endpoint), event.topic),
            Self::NotTenant => {
                let wanted = endpoint.tenant.as_deref().unwrap_or_default();
                match &event.tenant {
                    Some(tenant) => format!("wants tenant {wanted:?}, not {tenant:?}"),
                    None => format!("wants tenant {wanted:?}, the event has none"),
                }
            }
            Self::NotType => {
                let types = endpoint.types.as_deref().unwrap_or_default().join(", ");
                format!("wants types [{types}], not {:?}", event.event_type)
            }
        }
    }
}

fn topics(endpoint: &Endpoint) -> String {
    let written = |topic: &TopicSelector| match topic {
        TopicSelector::Name(name) => name.clone(),
        TopicSelector::Pattern(_, pattern) => pattern.clone(),
    };
    let topics: Vec<String> = endpoint.topics.iter().flatten().map(written).collect();
    format!("[{}]", topics.join(", "))
}
