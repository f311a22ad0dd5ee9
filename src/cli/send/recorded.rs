//! Recorded events: one JSON object per line, from which a record is made again byte for byte.
//!
//! Pure. Three kinds of lines are read: what people write by hand, what `arauto dlq export` writes, and what `arauto
//! listen --json` prints.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{kafka::headers::is_ours, pipeline::Headers};

/// A record, and the topic it is for if the line says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) topic: Option<String>,
    pub(super) key: Option<Bytes>,
    pub(super) value: Option<Bytes>,
    pub(super) headers: Headers,
}

/// Why a line is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum Wrong {
    #[error("it is no recorded event: {0}")]
    Form(#[from] serde_json::Error),
    #[error("it has neither value nor body")]
    Empty,
    #[error("its {0} is not base64")]
    Base64(&'static str),
    #[error("it was written by a later release")]
    Later,
}

/// All that a line may have.
#[derive(Deserialize)]
struct Line<'l> {
    v: Option<u32>,
    topic: Option<String>,
    #[serde(borrow)]
    key: Option<&'l RawValue>,
    #[serde(borrow)]
    headers: Option<&'l RawValue>,
    #[serde(borrow, default)]
    value: Given<'l>,
    // Of a webhook that was received.
    body: Option<String>,
    body_base64: Option<String>,
    event_type: Option<String>,
    listening: Option<&'l RawValue>,
    summary: Option<&'l RawValue>,
}

/// A member that may be null, which is not the same as absent.
#[derive(Default)]
enum Given<'l> {
    #[default]
    Absent,
    Null,
    Value(&'l RawValue),
}

impl<'de: 'l, 'l> Deserialize<'de> for Given<'l> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: Option<&RawValue> = Deserialize::deserialize(deserializer)?;
        Ok(raw.map_or(Self::Null, Self::Value))
    }
}

/// Bytes, as an export writes them.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Content {
    Json(Box<RawValue>),
    Text(String),
    Base64(String),
}

/// A header of an export; a null one has neither.
#[derive(Deserialize)]
struct Header {
    name: String,
    text: Option<String>,
    base64: Option<String>,
}

/// What a line says is to be written; `None`: it is about the recording itself.
pub(super) fn parse(line: &str) -> Result<Option<Recorded>, Wrong> {
    let read: Line<'_> = serde_json::from_str(line)?;
    if read.listening.is_some() || read.summary.is_some() {
        return Ok(None);
    }
    if read.v.is_some_and(|v| v > 1) {
        return Err(Wrong::Later);
    }
    if let Some(body) = body(&read)? {
        return Ok(Some(received(&read, body)?));
    }
    let value = match read.value {
        Given::Absent => return Err(Wrong::Empty),
        Given::Null => None,
        Given::Value(raw) => Some(bytes(serde_json::from_str(raw.get())?, "value")?),
    };
    let key = read.key.map(key).transpose()?;
    let headers = read.headers.map_or(Ok(Headers::default()), headers)?;
    Ok(Some(original(Recorded { topic: read.topic, key, value, headers })))
}

/// A dead letter becomes the event that it was; anything else stays as it is.
fn original(recorded: Recorded) -> Recorded {
    let Some(topic) = recorded.headers.get("arauto-source-topic") else { return recorded };
    let topic = String::from_utf8_lossy(topic).into_owned();
    let key = recorded.headers.get("arauto-key").cloned();
    let own = recorded.headers.0.into_iter().filter(|(name, _)| !is_ours(name));
    Recorded { topic: Some(topic), key, headers: Headers(own.collect()), ..recorded }
}

fn body(line: &Line<'_>) -> Result<Option<Bytes>, Wrong> {
    match (&line.body, &line.body_base64) {
        (Some(text), _) => Ok(Some(Bytes::from(text.clone()))),
        (None, Some(base64)) => decode(base64, "body_base64").map(Some),
        (None, None) => Ok(None),
    }
}

/// Of a webhook's headers those that an event brings with it; the others are the sender's, some of them secret.
fn received(line: &Line<'_>, body: Bytes) -> Result<Recorded, Wrong> {
    const KEPT: [&str; 3] = ["content-type", "traceparent", "tracestate"];
    let given = line.headers.map_or(Ok(Headers::default()), headers)?;
    let mut headers: Vec<_> = given.0.into_iter().filter(|(name, _)| KEPT.contains(&&**name)).collect();
    if let Some(event_type) = line.event_type.as_ref().filter(|text| !text.is_empty()) {
        headers.insert(0, ("ce_type".into(), Some(Bytes::from(event_type.clone()))));
    }
    Ok(Recorded { topic: line.topic.clone(), key: None, value: Some(body), headers: Headers(headers) })
}

fn key(raw: &RawValue) -> Result<Bytes, Wrong> {
    if raw.get().starts_with('"') {
        return Ok(Bytes::from(serde_json::from_str::<String>(raw.get())?));
    }
    bytes(serde_json::from_str(raw.get())?, "key")
}

/// As a list, or as an object of names and texts.
fn headers(raw: &RawValue) -> Result<Headers, Wrong> {
    type Pair = (Arc<str>, Option<Bytes>);
    if raw.get().starts_with('[') {
        let list: Vec<Header> = serde_json::from_str(raw.get())?;
        let pair = |Header { name, text, base64 }: Header| -> Result<Pair, Wrong> {
            let value = match (text, base64) {
                (Some(text), _) => Some(Bytes::from(text)),
                (None, Some(base64)) => Some(decode(&base64, "header")?),
                (None, None) => None,
            };
            Ok((name.into(), value))
        };
        return Ok(Headers(list.into_iter().map(pair).collect::<Result<_, _>>()?));
    }
    let object: BTreeMap<String, Values> = serde_json::from_str(raw.get())?;
    let pairs = object.into_iter().flat_map(|(name, values)| {
        let name: Arc<str> = name.into();
        let values = match values {
            Values::One(value) => vec![value],
            Values::Many(values) => values,
        };
        values.into_iter().map(move |value| (Arc::clone(&name), value.map(Bytes::from)))
    });
    Ok(Headers(pairs.collect()))
}

/// A name may stand there more than once.
#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    One(Option<String>),
    Many(Vec<Option<String>>),
}

fn bytes(content: Content, what: &'static str) -> Result<Bytes, Wrong> {
    match content {
        Content::Json(json) => Ok(Bytes::copy_from_slice(json.get().as_bytes())),
        Content::Text(text) => Ok(Bytes::from(text)),
        Content::Base64(base64) => decode(&base64, what),
    }
}

fn decode(base64: &str, what: &'static str) -> Result<Bytes, Wrong> {
    BASE64.decode(base64.as_bytes()).map(Bytes::from).map_err(|_| Wrong::Base64(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs<'p> = &'p [(&'p str, Option<&'p [u8]>)];

    fn check(line: &str, topic: Option<&str>, key: Option<&[u8]>, value: Option<&[u8]>, headers: Pairs<'_>) {
        let copy = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice);
        let headers = headers.iter().map(|(name, value)| (Arc::from(*name), copy(*value))).collect();
        let expected = Recorded {
            topic: topic.map(str::to_owned),
            key: copy(key),
            value: copy(value),
            headers: Headers(headers),
        };
        assert_eq!(parse(line).unwrap(), Some(expected), "{line}");
    }

    #[test]
    fn by_hand() {
        let line = r#"{"topic":"orders","key":"7","headers":{"ce_type":"order.paid","x":null,"y":["1","2"]},"value":{"json":{"a" : 1.50}}}"#;
        let headers: Pairs<'_> =
            &[("ce_type", Some(b"order.paid")), ("x", None), ("y", Some(b"1")), ("y", Some(b"2"))];
        check(line, Some("orders"), Some(b"7"), Some(b"{\"a\" : 1.50}"), headers);
        check(r#"{"value":{"text":"a\nb"}}"#, None, None, Some(b"a\nb"), &[]);
        check(
            r#"{"key":{"base64":"/w=="},"value":{"base64":"AP8="}}"#,
            None,
            Some(b"\xff"),
            Some(b"\0\xff"),
            &[],
        );
        check(r#"{"key":null,"value":null}"#, None, None, None, &[]);
        check(r#"{"value":{"json":null}}"#, None, None, Some(b"null"), &[]);
    }

    #[test]
    fn a_dead_letter_is_the_event_it_was() {
        let line = r#"{"v":1,"topic":"arauto.dead","partition":1,"offset":7,"died":9,"key":{"text":"crm"},"headers":[{"name":"ce_type","text":"order.paid"},{"name":"bin","base64":"/w=="},{"name":"null"},{"name":"arauto-source-topic","text":"orders"},{"name":"arauto-key","base64":"/w=="},{"name":"arauto-reason","text":"gone"}],"value":{"json":{"a":1}}}"#;
        let headers: Pairs<'_> = &[("ce_type", Some(b"order.paid")), ("bin", Some(b"\xff")), ("null", None)];
        check(line, Some("orders"), Some(b"\xff"), Some(b"{\"a\":1}"), headers);
        let keyless = line.replace(r#"{"name":"arauto-key","base64":"/w=="},"#, "");
        check(&keyless, Some("orders"), None, Some(b"{\"a\":1}"), headers);
    }

    #[test]
    fn a_received_webhook_leaves_its_sender_behind() {
        let line = r#"{"at":1,"path":"/hook","event_type":"order.paid","id":"msg_1","attempt":1,"verified":true,"error":null,"status":200,"note":null,"duplicate":false,"bytes":4,"headers":{"authorization":"s3cret","content-type":"application/json","traceparent":"00-1","webhook-signature":["v1,a=","v1,b="]},"body":"{ }\n"}"#;
        let headers: Pairs<'_> = &[
            ("ce_type", Some(b"order.paid")),
            ("content-type", Some(b"application/json")),
            ("traceparent", Some(b"00-1")),
        ];
        check(line, None, None, Some(b"{ }\n"), headers);
        let binary = r#"{"event_type":"","headers":{},"body_base64":"/w=="}"#;
        check(binary, None, None, Some(b"\xff"), &[]);
        for about in [r#"{"listening":"127.0.0.1:8080"}"#, r#"{"summary":{"received":1}}"#] {
            assert_eq!(parse(about).unwrap(), None);
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for (line, expected) in [
            ("", "it is no recorded event: "),
            ("[]", "it is no recorded event: "),
            ("{}", "it has neither value nor body"),
            (r#"{"value":{"a":1}}"#, "it is no recorded event: unknown variant `a`"),
            (r#"{"value":"text"}"#, "it is no recorded event: "),
            (r#"{"value":{"base64":"?"}}"#, "its value is not base64"),
            (r#"{"body_base64":"?"}"#, "its body_base64 is not base64"),
            (r#"{"v":2,"value":null}"#, "it was written by a later release"),
        ] {
            let wrong = parse(line).unwrap_err().to_string();
            assert!(wrong.starts_with(expected), "{line}: {wrong}");
        }
    }
}
