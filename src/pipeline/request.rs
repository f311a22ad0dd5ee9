//! The headers of one attempt, all but the signature's.
//!
//! Pure. Nothing a Kafka record holds can break the request: what HTTP does not allow is skipped or encoded.

use std::{fmt::Write as _, sync::Arc};

use bytes::Bytes;
use http_types::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_TYPE, USER_AGENT},
};

use super::{Event, Headers};
use crate::config::settings::Endpoint;

const AGENT: &str = concat!("Arauto/", env!("CARGO_PKG_VERSION"));
const EVENT_TYPE: HeaderName = HeaderName::from_static("arauto-event-type");
const ATTEMPT: HeaderName = HeaderName::from_static("arauto-attempt");
/// W3C Trace Context, carried from the record: <https://www.w3.org/TR/trace-context/>.
const TRACE: [HeaderName; 2] =
    [HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate")];

/// The longest value we take from a record into a header, in bytes. Receivers refuse heads above 8 KiB (nginx,
/// Apache) or 16 KiB (Node); one odd record header must not turn every attempt into a 431.
const LONGEST: usize = 4 * 1024;

/// What the headers of an endpoint's attempts have in common; built once per endpoint.
#[derive(Debug, Clone)]
pub struct Template {
    fixed: HeaderMap,
    forward: Vec<HeaderName>,
}

/// A header of the endpoint that HTTP does not allow; the configuration's checks come first.
#[derive(Debug, thiserror::Error)]
#[error("header {name} of endpoint {endpoint} is not legal in HTTP")]
pub struct Illegal {
    endpoint: Arc<str>,
    name: String,
}

impl Template {
    /// Our user agent, the endpoint's `headers` (which may replace it), and the names it wants forwarded.
    pub fn new(endpoint: &Endpoint) -> Result<Self, Illegal> {
        let illegal = |name: &str| Illegal { endpoint: Arc::clone(&endpoint.id), name: name.to_owned() };
        let mut fixed = HeaderMap::new();
        fixed.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        for (name, value) in &endpoint.headers {
            let legal = HeaderName::try_from(name.as_str()).ok();
            let (key, mut value) =
                legal.zip(HeaderValue::try_from(value.expose()).ok()).ok_or_else(|| illegal(name))?;
            // Kept out of debug output, and out of HTTP/2's compression table.
            value.set_sensitive(true);
            fixed.insert(key, value);
        }
        let name = |name: &String| HeaderName::try_from(name.as_str()).map_err(|_| illegal(name));
        Ok(Self { fixed, forward: endpoint.forward.iter().map(name).collect::<Result<_, _>>()? })
    }

    /// The headers of attempt number `attempt` (1 is the first). The endpoint's own win over the record's; the
    /// signer adds its own last, so nothing overrides them.
    pub fn headers(&self, event: &Event, attempt: u32) -> HeaderMap {
        // Room for the fixed ones, ours, the signer's and the client's, so that the map never grows; one more would
        // double it.
        let mut headers = HeaderMap::with_capacity(self.fixed.len() + self.forward.len() + 11);
        headers.extend(self.fixed.iter().map(|(name, value)| (name.clone(), value.clone())));
        let mut add = |name: &HeaderName, value: HeaderValue| {
            headers.entry(name).or_insert(value);
        };
        add(&CONTENT_TYPE, content_type(event));
        for name in TRACE.iter().chain(&self.forward) {
            if let Some(value) = carried(&event.headers, name.as_str()) {
                add(name, value);
            }
        }
        headers.insert(EVENT_TYPE, visible(&event.event_type));
        headers.insert(ATTEMPT, HeaderValue::from(attempt));
        headers
    }
}

/// Text as a header's value: itself if every character may stand there, percent-encoded otherwise; cut when huge.
pub(crate) fn visible(text: &str) -> HeaderValue {
    let text = &text[..text.floor_char_boundary(LONGEST)];
    let plain = |byte: u8| byte.is_ascii_graphic();
    let encoded = if text.bytes().all(plain) {
        HeaderValue::try_from(text)
    } else {
        let mut encoded = String::with_capacity(text.len() * 3);
        for byte in text.bytes() {
            if plain(byte) && byte != b'%' {
                encoded.push(char::from(byte));
            } else {
                write!(encoded, "%{byte:02X}").expect("a string takes every write");
            }
        }
        HeaderValue::try_from(encoded)
    };
    encoded.expect("visible ASCII is legal in a header")
}

/// The last header of the record by that name, if HTTP can carry its value.
fn carried(headers: &Headers, name: &str) -> Option<HeaderValue> {
    let named = headers.0.iter().rev().find(|(n, _)| n.eq_ignore_ascii_case(name));
    let value = named.and_then(|(_, value)| value.as_ref()).filter(|value| value.len() <= LONGEST)?;
    HeaderValue::from_maybe_shared(value.clone()).ok()
}

fn content_type(event: &Event) -> HeaderValue {
    carried(&event.headers, CONTENT_TYPE.as_str()).unwrap_or_else(|| {
        HeaderValue::from_static(if begins_like_json(event.value.as_ref()) {
            "application/json"
        } else {
            "application/octet-stream"
        })
    })
}

/// A look at the first byte only: parsing a body to name its type would cost more than sending it.
fn begins_like_json(value: Option<&Bytes>) -> bool {
    // The white space of RFC 8259, section 2.
    let space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let first = value.and_then(|value| value.iter().find(|byte| !space(byte)));
    matches!(first, Some(b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event_type: &str, value: &[u8], headers: &[(&str, Option<&[u8]>)]) -> Event {
        Event {
            topic: "orders".into(),
            partition: 0,
            offset: 0,
            timestamp: 0,
            key: None,
            value: Some(Bytes::copy_from_slice(value)),
            headers: Headers(
                headers.iter().map(|(n, v)| ((*n).into(), v.map(Bytes::copy_from_slice))).collect(),
            ),
            id: "msg_1".into(),
            event_type: event_type.into(),
            tenant: None,
            priority: None,
            notice: false,
        }
    }

    fn check(
        event: &Event,
        fixed: &[(&'static str, &str)],
        forward: &[&'static str],
        expected: &[(&str, &[u8])],
    ) {
        let fixed = fixed.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect();
        let forward = forward.iter().map(|name| HeaderName::from_static(name)).collect();
        let got = Template { fixed, forward }.headers(event, 2);
        let mut got: Vec<_> = got.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
        got.sort_unstable();
        let mut expected = expected.to_vec();
        expected.push(("arauto-attempt", b"2"));
        expected.sort_unstable();
        assert_eq!(got, expected);
    }

    #[test]
    fn the_usual_ones() {
        let event = event(
            "order.created",
            b"{}",
            &[
                ("TraceParent", Some(b"00-old")),
                ("traceparent", Some(b"00-new")),
                ("X-Request-Id", Some(b"r1")),
                ("other", Some(b"not asked for")),
                ("x-null", None),
            ],
        );
        let expected: &[(&str, &[u8])] = &[
            ("user-agent", b"Arauto/1"),
            ("content-type", b"application/json"),
            ("arauto-event-type", b"order.created"),
            ("traceparent", b"00-new"),
            ("x-request-id", b"r1"),
        ];
        check(&event, &[("user-agent", "Arauto/1")], &["x-request-id", "x-null", "x-absent"], expected);
    }

    #[test]
    fn content_type_of_the_endpoint_then_the_record_then_the_look_of_the_value() {
        let own: (&str, Option<&[u8]>) = ("Content-Type", Some(b"text/plain"));
        let typed = |content_type: &'static [u8]| {
            vec![("content-type", content_type), ("arauto-event-type", &b"t"[..])]
        };
        check(&event("t", b"{}", &[own]), &[("content-type", "a/b")], &[], &typed(b"a/b"));
        check(&event("t", b"{}", &[own]), &[], &["content-type"], &typed(b"text/plain"));
        check(&event("t", b"{}", &[("content-type", Some(b"a\nb"))]), &[], &[], &typed(b"application/json"));
        let json = ["{}", " \r\n\t[1]", "\"a\"", "-1", "0", "9", "true", "false", "null"];
        for value in json {
            check(&event("t", value.as_bytes(), &[]), &[], &[], &typed(b"application/json"));
        }
        for value in ["", "  ", "<a/>", "x", "\u{feff}{}", "\0"] {
            check(&event("t", value.as_bytes(), &[]), &[], &[], &typed(b"application/octet-stream"));
        }
    }

    #[test]
    fn odd_values_never_break_the_request() {
        let huge = "x".repeat(LONGEST + 1);
        let event = event(
            "pedido criado\r\nx: ç%",
            b"x",
            &[
                ("x-line", Some(b"a\r\nevil: 1")),
                ("x-huge", Some(huge.as_bytes())),
                ("x-latin", Some(b"\xe9")),
                ("arauto-attempt", Some(b"7")),
            ],
        );
        let expected: &[(&str, &[u8])] = &[
            ("content-type", b"application/octet-stream"),
            ("arauto-event-type", b"pedido%20criado%0D%0Ax:%20%C3%A7%25"),
            ("x-latin", b"\xe9"),
        ];
        check(&event, &[], &["x-line", "x-huge", "x-latin"], expected);
        assert_eq!(visible(&huge).len(), LONGEST);
        assert_eq!(visible("50%"), "50%");
    }
}
