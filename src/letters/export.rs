//! Dead letters in a file: one JSON object per line, from which each record comes back byte for byte.
//!
//! Pure. A body appears as JSON only if it would survive tools that rewrite JSON without its blanks; as text if it is
//! UTF-8; as base64 otherwise.

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::pipeline::{Headers, Record};

/// The version of the lines written here.
const VERSION: u32 = 1;

/// A line. What is not needed to write the record again (where it was, when it died) is for people.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    v: u32,
    topic: String,
    partition: i32,
    offset: i64,
    died: i64,
    key: Option<Content>,
    headers: Vec<Header>,
    value: Option<Content>,
}

/// Bytes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Content {
    Json(Box<RawValue>),
    Text(String),
    Base64(String),
}

/// A header; a null one has neither text nor base64.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// What a line says is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The key.
    pub key: Option<Bytes>,
    /// The value.
    pub value: Option<Bytes>,
    /// The headers.
    pub headers: Headers,
}

/// Why a line cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not what an export writes.
    #[error("it is no exported letter: {0}")]
    Form(serde_json::Error),
    /// It was written by a later release.
    #[error("it was written by a later release (v {0}, this one reads {VERSION})")]
    Version(u32),
    /// Some bytes of it are not readable.
    #[error("its {0} is not base64")]
    Base64(String),
}

/// The line of a record, without its end.
pub fn line(record: &Record) -> String {
    let header = |(name, value): &(std::sync::Arc<str>, Option<Bytes>)| {
        let (text, base64) = match value.as_deref().map(std::str::from_utf8) {
            None => (None, None),
            Some(Ok(text)) => (Some(text.to_owned()), None),
            Some(Err(_)) => (None, value.as_deref().map(|value| BASE64.encode(value))),
        };
        Header { name: name.to_string(), text, base64 }
    };
    let line = Line {
        v: VERSION,
        topic: record.topic.to_string(),
        partition: record.partition,
        offset: record.offset,
        died: record.timestamp,
        key: record.key.as_deref().map(text),
        headers: record.headers.0.iter().map(header).collect(),
        value: record.value.as_deref().map(body),
    };
    serde_json::to_string(&line).expect("plain values have a JSON form")
}

/// The record of a line.
pub fn read(line: &str) -> Result<Exported, Error> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let Version { v } = serde_json::from_str(line).map_err(Error::Form)?;
    if v > VERSION {
        return Err(Error::Version(v));
    }
    let line: Line = serde_json::from_str(line).map_err(Error::Form)?;
    let header = |Header { name, text, base64 }: Header| {
        let value = match (text, base64) {
            (Some(text), _) => Some(Bytes::from(text)),
            (None, Some(base64)) => Some(decode(&base64, || format!("header {name:?}"))?),
            (None, None) => None,
        };
        Ok((name.into(), value))
    };
    Ok(Exported {
        key: line.key.map(|key| bytes(key, "key")).transpose()?,
        value: line.value.map(|value| bytes(value, "value")).transpose()?,
        headers: Headers(line.headers.into_iter().map(header).collect::<Result<_, Error>>()?),
    })
}

fn body(bytes: &[u8]) -> Content {
    let minimal = std::str::from_utf8(bytes).ok().filter(|text| has_no_blanks(text));
    match minimal.and_then(|text| RawValue::from_string(text.to_owned()).ok()) {
        Some(json) => Content::Json(json),
        None => text(bytes),
    }
}

fn text(bytes: &[u8]) -> Content {
    match std::str::from_utf8(bytes) {
        Ok(text) => Content::Text(text.to_owned()),
        Err(_) => Content::Base64(BASE64.encode(bytes)),
    }
}

fn bytes(content: Content, what: &str) -> Result<Bytes, Error> {
    match content {
        Content::Json(json) => Ok(Bytes::copy_from_slice(json.get().as_bytes())),
        Content::Text(text) => Ok(Bytes::from(text)),
        Content::Base64(base64) => decode(&base64, || what.to_owned()),
    }
}

fn decode(base64: &str, what: impl FnOnce() -> String) -> Result<Bytes, Error> {
    BASE64.decode(base64.as_bytes()).map(Bytes::from).map_err(|_| Error::Base64(what()))
}

/// Is there no white space outside of strings? Of a text that is JSON; of others the answer does not matter.
fn has_no_blanks(text: &str) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b' ' | b'\t' | b'\n' | b'\r' if !quoted => return false,
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn record(
        key: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        headers: Vec<(String, Option<Vec<u8>>)>,
    ) -> Record {
        let headers = headers.into_iter().map(|(name, value)| (name.into(), value.map(Bytes::from)));
        Record {
            topic: "arauto.dead".into(),
            partition: 1,
            offset: 7,
            timestamp: 9,
            key: key.map(Bytes::from),
            value: value.map(Bytes::from),
            headers: Headers(headers.collect()),
        }
    }

    fn round_trip(record: &Record) -> String {
        let line = line(record);
        assert!(!line.contains('\n'));
        let read = read(&line).unwrap();
        assert_eq!((&read.key, &read.value, &read.headers), (&record.key, &record.value, &record.headers));
        line
    }

    #[test]
    fn each_body_in_its_form() {
        for (value, expected) in [
            (&br#"{"b":1.0,"a":"x y\" ","n":[null]}"#[..], r#"{"json":{"b":1.0,"a":"x y\" ","n":[null]}}"#),
            (b"null", r#"{"json":null}"#),
            (b"\"\\u0041\"", r#"{"json":"\u0041"}"#),
            // Blanks would not survive.
            (b"{\"a\": 1}", r#"{"text":"{\"a\": 1}"}"#),
            (b"1\n", r#"{"text":"1\n"}"#),
            (b"", r#"{"text":""}"#),
            (b"plain", r#"{"text":"plain"}"#),
            (b"\xff\x00", r#"{"base64":"/wA="}"#),
        ] {
            let line = round_trip(&record(None, Some(value.to_vec()), vec![]));
            assert!(line.ends_with(&format!(r#""headers":[],"value":{expected}}}"#)), "{line}");
        }
    }

    #[test]
    fn the_line_is_stable() {
        let headers = vec![
            ("a".to_owned(), Some(b"b".to_vec())),
            ("bin".to_owned(), Some(vec![255])),
            ("null".to_owned(), None),
            ("a".to_owned(), Some(vec![])),
        ];
        let line = round_trip(&record(Some(b"crm".to_vec()), None, headers));
        let expected = concat!(
            r#"{"v":1,"topic":"arauto.dead","partition":1,"offset":7,"died":9,"key":{"text":"crm"},"#,
            r#""headers":[{"name":"a","text":"b"},{"name":"bin","base64":"/w=="},{"name":"null"},{"name":"a","text":""}],"#,
            r#""value":null}"#
        );
        assert_eq!(line, expected);
    }

    #[test]
    fn what_is_no_letter_is_refused() {
        for (line, expected) in [
            ("", "it is no exported letter: "),
            ("{}", "it is no exported letter: missing field `v`"),
            (r#"{"v":1}"#, "it is no exported letter: missing field"),
            (r#"{"v":2}"#, "it was written by a later release (v 2, this one reads 1)"),
            (
                r#"{"v":1,"topic":"t","partition":0,"offset":0,"died":0,"key":null,"headers":[],"value":{"base64":"?"}}"#,
                "its value is not base64",
            ),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{line}: {error}");
        }
    }

    proptest! {
        #[test]
        fn every_record_comes_back(
            key in option::of(vec(any::<u8>(), 0..20)),
            value in option::of(prop_oneof![vec(any::<u8>(), 0..40), r#"[\[\]{}",: a1\\]{0,12}"#.prop_map(String::into_bytes)]),
            headers in vec((".{0,8}", option::of(vec(any::<u8>(), 0..8))), 0..4),
        ) {
            round_trip(&record(key, value, headers));
        }
    }
}
