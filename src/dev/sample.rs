//! Sample events of a shop's orders, as `arauto dev` publishes them: structured CloudEvents, numbered from 1.
//!
//! Pure: the same number is the same event in every run.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use crate::{kafka::producer::Outgoing, pipeline::Headers};

/// CloudEvents' `source` of every sample.
const SOURCE: &str = "/arauto/dev";
/// What happens to the orders, over and over: two are paid and shipped or cancelled within five events.
const STORY: [(&str, u64); 5] = [
    ("order.created", 0),
    ("order.paid", 0),
    ("order.created", 1),
    ("order.cancelled", 1),
    ("order.shipped", 0),
];

/// The type of the sample with this number.
pub fn event_type(number: u64) -> &'static str {
    chapter(number).0
}

/// The record of the sample with this number.
pub fn record(topic: &str, number: u64) -> Outgoing {
    let (event_type, order) = chapter(number);
    let order = format!("A-{order}");
    let event = json!({
        "specversion": "1.0",
        "id": number.to_string(),
        "source": SOURCE,
        "type": event_type,
        "datacontenttype": "application/json",
        "data": { "order": order, "total": format!("{}.90", 9 + number % 90), "currency": "EUR" },
    });
    Outgoing {
        topic: topic.to_owned(),
        key: Some(Bytes::from(order)),
        value: Some(Bytes::from(event.to_string())),
        headers: Headers::default(),
    }
}

/// The number of a sample by its value; `None` for any other event.
pub fn number(value: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Facts {
        source: String,
        id: String,
    }
    let facts: Facts = serde_json::from_slice(value).ok()?;
    (facts.source == SOURCE).then(|| facts.id.parse().ok()).flatten()
}

/// What happens, and to which order.
fn chapter(number: u64) -> (&'static str, u64) {
    let (at, times) = (number.wrapping_sub(1) % 5, number.wrapping_sub(1) / 5);
    let (event_type, order) = STORY[usize::try_from(at).expect("it is below 5")];
    (event_type, 1001 + 2 * times + order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_tell_a_story_and_are_known_again() {
        for (at, (event_type_, order)) in [
            (1, ("order.created", "A-1001")),
            (4, ("order.cancelled", "A-1002")),
            (5, ("order.shipped", "A-1001")),
            (6, ("order.created", "A-1003")),
        ] {
            let record = record("orders", at);
            assert_eq!(event_type(at), event_type_);
            assert_eq!(record.key.as_deref(), Some(order.as_bytes()));
            assert_eq!(number(record.value.as_deref().unwrap()), Some(at));
        }
        for other in ["", "{}", r#"{"source":"/shop","id":"1"}"#, r#"{"source":"/arauto/dev","id":"x"}"#] {
            assert_eq!(number(other.as_bytes()), None, "{other}");
        }
    }
}
