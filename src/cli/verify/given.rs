//! Headers as people have them at hand: one by one, as a file of lines, as JSON.
//!
//! Forgiving, since what is pasted comes from logs and other tools; a line that is no header is passed over.

use anyhow::{Context as _, anyhow};
use http_types::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

/// Reads `name: value` lines (also with the `>` or `<` that curl puts before them), or JSON: an object of names and
/// values, or one whose `headers` is such an object.
pub(super) fn parse(text: &str) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    if text.trim_start().starts_with('{') {
        let value: Value = serde_json::from_str(text.trim()).context("it begins like JSON, and is none")?;
        let object = value.get("headers").unwrap_or(&value).as_object();
        for (name, value) in object.ok_or_else(|| anyhow!("its headers are no JSON object"))? {
            match value {
                Value::Array(values) => {
                    values.iter().filter_map(Value::as_str).for_each(|value| add(&mut headers, name, value));
                }
                Value::String(value) => add(&mut headers, name, value),
                Value::Number(value) => add(&mut headers, name, &value.to_string()),
                Value::Null | Value::Bool(_) | Value::Object(_) => {}
            }
        }
        return Ok(headers);
    }
    for line in text.lines() {
        let line = line.trim_start_matches(['>', '<', ' ']);
        if let Some((name, value)) = line.split_once(':') {
            add(&mut headers, name, value);
        }
    }
    Ok(headers)
}

fn add(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) =
        (name.trim().parse::<HeaderName>(), HeaderValue::from_bytes(value.trim().as_bytes()))
    {
        headers.append(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_have_them() {
        let expected = [("webhook-id", "msg_1"), ("webhook-timestamp", "7"), ("webhook-signature", "v1,a=")];
        let rows = [
            "webhook-id: msg_1\nwebhook-timestamp: 7\nwebhook-signature: v1,a=\n",
            "POST /hook HTTP/1.1\r\nWebhook-Id:msg_1\r\nWebhook-Timestamp:  7\r\nwebhook-signature: v1,a=\r\n\r\n",
            "> Webhook-ID: msg_1\n> webhook-timestamp: 7 \n> webhook-signature: v1,a=\n>\n",
            r#"{"webhook-id": "msg_1", "webhook-timestamp": 7, "webhook-signature": ["v1,a="]}"#,
            r#" {"at": 1, "headers": {"webhook-id": "msg_1", "webhook-timestamp": "7", "webhook-signature": "v1,a="}}"#,
        ];
        for text in rows {
            let headers = parse(text).unwrap();
            for (name, value) in expected {
                assert_eq!(headers.get(name).unwrap(), value, "{text}");
            }
            assert_eq!(headers.len(), 3, "{text}");
        }
        for text in [r#"{"headers": 7}"#, "{webhook-id: 7}"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("nothing of the kind").unwrap().is_empty());
    }
}
