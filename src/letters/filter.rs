//! Which dead letters are meant: a plain value that can be written down and read again.
//!
//! Pure, and free of anything relative: who makes one has resolved `2h` or `yesterday` already.

use serde::{Deserialize, Serialize};

use crate::{kafka::headers::Glance, registry::pattern};

/// What dead letters must be like. Several values of one kind: any of them; several kinds: all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Patterns of endpoint ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// Words of `arauto-reason`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// Ranges of HTTP statuses, both ends included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<(u16, u16)>,
    /// Patterns of event types.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// Patterns of source topics.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<String>,
    /// Tenants.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<String>,
    /// Webhook ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// Died at or after this, in unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    /// Died before this, in unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// Partitions of the topic that is read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<i32>,
    /// Ranges of offsets in it, both ends included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub offsets: Vec<(i64, i64)>,
    /// A CEL expression: [`super::expression`].
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    /// So many at most; whoever reads counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// Where and when a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in unix milliseconds.
    pub timestamp: i64,
}

impl Filter {
    /// May a record at this place be meant? True for all of them as far as only its content can tell.
    pub fn admits_place(&self, place: Place) -> bool {
        let Place { partition, offset, timestamp } = place;
        any(&self.partitions, |wanted| *wanted == partition)
            && any(&self.offsets, |(first, last)| (*first..=*last).contains(&offset))
            && self.since.is_none_or(|since| timestamp >= since)
            && self.until.is_none_or(|until| timestamp < until)
    }

    /// May a record with these headers be meant? What they do not tell (type, tenant, the expression) is left open.
    pub fn admits_headers(&self, glance: &Glance<'_>) -> bool {
        let glob = |patterns: &[String], value: Option<&[u8]>| {
            any(patterns, |wanted| Glance::text(value).is_some_and(|value| pattern::matches(wanted, value)))
        };
        let equal =
            |words: &[String], value: Option<&[u8]>| any(words, |wanted| value == Some(wanted.as_bytes()));
        glob(&self.endpoints, glance.endpoint)
            && equal(&self.reasons, glance.reason)
            && equal(&self.ids, glance.id)
            && glob(&self.topics, glance.source_topic)
            && any(&self.statuses, |(first, last)| {
                Glance::number(glance.status).is_some_and(|status: u16| (*first..=*last).contains(&status))
            })
    }

    /// Is an event with these facts meant?
    pub fn admits_facts(&self, event_type: &str, tenant: Option<&str>) -> bool {
        any(&self.types, |wanted| pattern::matches(wanted, event_type))
            && any(&self.tenants, |wanted| Some(wanted.as_str()) == tenant)
    }

    /// Do place and headers tell everything?
    pub fn is_shallow(&self) -> bool {
        self.types.is_empty() && self.tenants.is_empty() && self.expression.is_none()
    }
}

/// Nothing asked for admits everything.
fn any<T>(wanted: &[T], admits: impl FnMut(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(admits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { partition: 3, offset: 7, timestamp: 1_000 };

    fn glance() -> Glance<'static> {
        Glance {
            id: Some(b"msg_1"),
            endpoint: Some(b"crm-eu"),
            source_topic: Some(b"orders"),
            reason: Some(b"exhausted"),
            status: Some(b"503"),
            ..Glance::default()
        }
    }

    fn admits(filter: &Filter) -> bool {
        filter.admits_place(PLACE)
            && filter.admits_headers(&glance())
            && filter.admits_facts("order.paid", Some("acme"))
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn each_kind_alone() {
        let all = Filter::default();
        assert!(admits(&all) && all.is_shallow());
        let check = |filter: Filter, expected| assert_eq!(admits(&filter), expected, "{filter:?}");
        for (pattern, expected) in [("crm-eu", true), ("crm-*", true), ("crm", false), ("*", true)] {
            check(Filter { endpoints: words(&[pattern]), ..Filter::default() }, expected);
        }
        check(Filter { reasons: words(&["gone", "exhausted"]), ..Filter::default() }, true);
        check(Filter { reasons: words(&["gone"]), ..Filter::default() }, false);
        for (statuses, expected) in [((503, 503), true), ((500, 599), true), ((400, 499), false)] {
            check(Filter { statuses: vec![statuses], ..Filter::default() }, expected);
        }
        check(Filter { types: words(&["order.*"]), ..Filter::default() }, true);
        check(Filter { types: words(&["order"]), ..Filter::default() }, false);
        check(Filter { topics: words(&["ord*"]), ..Filter::default() }, true);
        check(Filter { topics: words(&["payments"]), ..Filter::default() }, false);
        check(Filter { tenants: words(&["acme"]), ..Filter::default() }, true);
        check(Filter { tenants: words(&["ac*"]), ..Filter::default() }, false);
        check(Filter { ids: words(&["msg_2", "msg_1"]), ..Filter::default() }, true);
        check(Filter { ids: words(&["msg_2"]), ..Filter::default() }, false);
        for (since, until, expected) in [(1_000, 1_001, true), (1_001, 2_000, false), (0, 1_000, false)] {
            check(Filter { since: Some(since), until: Some(until), ..Filter::default() }, expected);
        }
        check(Filter { partitions: vec![0, 3], ..Filter::default() }, true);
        check(Filter { partitions: vec![0], ..Filter::default() }, false);
        check(Filter { offsets: vec![(0, 1), (7, 7)], ..Filter::default() }, true);
        check(Filter { offsets: vec![(8, i64::MAX)], ..Filter::default() }, false);
    }

    #[test]
    fn kinds_combine() {
        let both = Filter { endpoints: words(&["crm*"]), statuses: vec![(500, 599)], ..Filter::default() };
        assert!(admits(&both));
        assert!(!admits(&Filter { reasons: words(&["gone"]), ..both }));
    }

    #[test]
    fn what_is_not_there_is_not_meant() {
        let nothing = Glance::default();
        assert!(Filter::default().admits_headers(&nothing));
        for filter in [
            Filter { endpoints: words(&["*"]), ..Filter::default() },
            Filter { reasons: words(&["gone"]), ..Filter::default() },
            Filter { statuses: vec![(0, u16::MAX)], ..Filter::default() },
        ] {
            assert!(!filter.admits_headers(&nothing), "{filter:?}");
        }
        assert!(!Filter { tenants: words(&["acme"]), ..Filter::default() }.admits_facts("t", None));
    }

    #[test]
    fn it_is_written_short_and_read_back() {
        let filter = Filter { statuses: vec![(500, 599)], since: Some(5), ..Filter::default() };
        let written = serde_json::to_string(&filter).unwrap();
        assert_eq!(written, r#"{"statuses":[[500,599]],"since":5}"#);
        assert_eq!(serde_json::from_str::<Filter>(&written).unwrap(), filter);
    }
}
