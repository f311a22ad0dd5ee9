//! A notice, and how it is written: a CloudEvent in structured mode. <https://github.com/cloudevents/spec>

use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::date::rfc3339;

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are the words of the contract.
pub enum Kind {
    EndpointFailing,
    EndpointRecovered,
    EndpointDisabled,
    DeliveryDead,
    BreakerOpened,
    CertificateExpiring,
}

impl Kind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Self; 6] = [
        Self::EndpointFailing,
        Self::EndpointRecovered,
        Self::EndpointDisabled,
        Self::DeliveryDead,
        Self::BreakerOpened,
        Self::CertificateExpiring,
    ];

    /// Its name in metrics; with `arauto.` before it the type of its events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EndpointFailing => "endpoint.failing",
            Self::EndpointRecovered => "endpoint.recovered",
            Self::EndpointDisabled => "endpoint.disabled",
            Self::DeliveryDead => "delivery.dead",
            Self::BreakerOpened => "breaker.opened",
            Self::CertificateExpiring => "certificate.expiring",
        }
    }
}

/// What happened, for people. Times are unix milliseconds here and dates in the event.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Facts {
    /// Since when.
    #[serde(serialize_with = "date", skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    /// Until when.
    #[serde(serialize_with = "date", skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// Why, in a word of a closed set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The last HTTP status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The last error or excerpt of a response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The delivery, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeadDelivery>,
}

/// The delivery that ended on the dead-letter topic.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeadDelivery {
    /// Its webhook id.
    pub id: String,
    /// Its event's type.
    pub r#type: String,
    /// Attempts made.
    pub attempts: u32,
    /// Where its letter is, as `arauto dlq show` takes it: `PARTITION:OFFSET`.
    pub letter: String,
    /// Where its event is, as `arauto dlq show` takes it: `TOPIC:PARTITION:OFFSET`.
    pub event: String,
}

/// One notice about one endpoint, or, without one, about several.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Notice {
    pub(super) kind: Kind,
    pub(super) endpoint: Option<Arc<str>>,
    /// Whose endpoint it is.
    pub(super) tenant: Option<Arc<str>>,
    pub(super) facts: Facts,
    /// How many it stands for.
    pub(super) count: u64,
    /// Several endpoints: how many, and some of them.
    pub(super) endpoints: Option<Several>,
    /// When the latest of them happened.
    pub(super) at: i64,
}

/// Endpoints that had to share a notice.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Several {
    pub(super) number: u64,
    pub(super) some: Vec<String>,
}

impl Notice {
    /// The event's JSON.
    pub(super) fn event(&self, source: &str, id: &str) -> Vec<u8> {
        let event = Event {
            specversion: "1.0",
            id,
            source,
            r#type: format!("arauto.{}", self.kind.as_str()),
            subject: self.endpoint.as_deref(),
            time: rfc3339(self.at),
            datacontenttype: "application/json",
            tenant: self.tenant.as_deref(),
            data: Data {
                endpoint: self.endpoint.as_deref(),
                count: self.count,
                endpoints: self.endpoints.as_ref(),
                facts: &self.facts,
            },
        };
        serde_json::to_vec(&event).expect("plain values have a JSON form")
    }
}

#[derive(Serialize)]
struct Event<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    time: String,
    datacontenttype: &'static str,
    /// An extension attribute.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoints: Option<&'a Several>,
    #[serde(flatten)]
    facts: &'a Facts,
}

#[expect(clippy::ref_option, reason = "serde hands a reference over")]
fn date<S: Serializer>(millis: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    millis.map(rfc3339).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn notice() -> Notice {
        Notice {
            kind: Kind::DeliveryDead,
            endpoint: Some("crm".into()),
            tenant: Some("acme".into()),
            facts: Facts {
                since: Some(1_700_000_000_000),
                reason: Some("exhausted"),
                status: Some(503),
                error: Some("no \"time\"".to_owned()),
                delivery: Some(DeadDelivery {
                    id: "msg_1".into(),
                    r#type: "order.created".into(),
                    attempts: 8,
                    letter: "3:17".to_owned(),
                    event: "orders:0:42".to_owned(),
                }),
                ..Facts::default()
            },
            count: 3,
            endpoints: None,
            at: 1_700_000_060_000,
        }
    }

    #[test]
    fn it_is_a_cloudevent() {
        let event: Value = serde_json::from_slice(&notice().event("arauto/shop", "1-2")).unwrap();
        assert_eq!(
            event,
            json!({
                "specversion": "1.0", "id": "1-2", "source": "arauto/shop", "type": "arauto.delivery.dead",
                "subject": "crm", "time": "2023-11-14T22:14:20Z", "datacontenttype": "application/json",
                "tenant": "acme",
                "data": {
                    "endpoint": "crm", "count": 3, "since": "2023-11-14T22:13:20Z", "reason": "exhausted",
                    "status": 503, "error": "no \"time\"",
                    "delivery": {
                        "id": "msg_1", "type": "order.created", "attempts": 8, "letter": "3:17",
                        "event": "orders:0:42",
                    },
                },
            })
        );
    }

    #[test]
    fn one_about_several_endpoints_has_no_subject() {
        let several = Several { number: 40, some: vec!["a".into(), "b".into()] };
        let (kind, facts) = (Kind::EndpointFailing, Facts::default());
        let notice =
            Notice { kind, endpoint: None, tenant: None, facts, count: 41, endpoints: Some(several), at: 0 };
        let event: Value = serde_json::from_slice(&notice.event("arauto/shop", "1")).unwrap();
        assert_eq!(event["data"], json!({"count": 41, "endpoints": {"number": 40, "some": ["a", "b"]}}));
        assert!(event.get("subject").is_none() && event.get("tenant").is_none());
    }
}
