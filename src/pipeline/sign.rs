//! Signature headers of one attempt: Standard Webhooks, GitHub, Stripe, or none.
//!
//! Pure: takes the time, signs exactly the bytes it is given, never changes or re-encodes a body.
//! Keys are prepared once per endpoint; a signature then costs hashing the body and nothing else.

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use ed25519_dalek::Signer as _;
use hmac::{Hmac, KeyInit, Mac};
use http_types::{HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;

use super::{Event, request};
use crate::config::{
    secret::SigningKey,
    settings::{Endpoint, Signature},
};

pub mod verify;

/// The event's id, the same on every attempt; receivers de-duplicate with it, so every scheme sends it.
pub const ID: HeaderName = HeaderName::from_static("webhook-id");
/// Unix seconds of this attempt.
pub const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// Standard Webhooks: all signatures, separated by spaces.
pub const STANDARD: HeaderName = HeaderName::from_static("webhook-signature");
/// GitHub's `sha256=<hex>`.
pub const GITHUB: HeaderName = HeaderName::from_static("x-hub-signature-256");
/// Stripe's `t=<seconds>,v1=<hex>`.
pub const STRIPE: HeaderName = HeaderName::from_static("stripe-signature");

/// An HMAC whose key is already mixed in; cloned for each signature.
pub(crate) type KeyedMac = Hmac<Sha256>;

/// Signs for one endpoint.
pub struct Signer {
    scheme: Signature,
    keys: Vec<Key>,
}

enum Key {
    Hmac(Box<KeyedMac>),
    Ed25519(Box<ed25519_dalek::SigningKey>),
}

impl Signer {
    /// Prepares the endpoint's keys.
    pub fn new(endpoint: &Endpoint) -> Self {
        Self::with(endpoint.signature, &endpoint.keys)
    }

    /// Prepares these keys for a scheme.
    pub fn with(scheme: Signature, keys: &[SigningKey]) -> Self {
        Self { scheme, keys: keys.iter().map(Key::new).collect() }
    }

    /// The headers and the body of attempt number `attempt` (1 is the first), signed.
    pub fn request(
        &self,
        template: &request::Template,
        event: &Event,
        attempt: u32,
        now_ms: i64,
    ) -> (HeaderMap, Bytes) {
        let body = event.value.clone().unwrap_or_default();
        let mut headers = template.headers(event, attempt);
        self.sign(&event.id, now_ms.div_euclid(1000), &body, &mut headers);
        (headers, body)
    }

    /// Puts the headers of one attempt into `headers`, over whatever was there by these names.
    pub fn sign(&self, id: &str, timestamp_secs: i64, body: &[u8], headers: &mut HeaderMap) {
        // Different each time: kept out of HTTP/2's compression table, which would only drop what repeats for it.
        let unique = |mut value: HeaderValue| {
            value.set_sensitive(true);
            value
        };
        let id = unique(request::visible(id));
        let time = HeaderValue::from(timestamp_secs);
        match self.scheme {
            Signature::Standard => {
                let signatures = self.standard(id.as_bytes(), time.as_bytes(), body);
                headers.insert(STANDARD, unique(ascii(signatures)));
            }
            Signature::Github => {
                // GitHub's header holds one signature: the first key's. Its receivers check no other.
                if let Some(mac) = self.hmacs().next() {
                    headers.insert(GITHUB, unique(ascii(format!("sha256={}", hex(mac, &[body])))));
                }
            }
            Signature::Stripe => {
                let mut value = format!("t={timestamp_secs}");
                for mac in self.hmacs() {
                    value.push_str(",v1=");
                    value.push_str(&hex(mac, &[time.as_bytes(), b".", body]));
                }
                headers.insert(STRIPE, unique(ascii(value)));
            }
            Signature::None => {}
        }
        headers.insert(ID, id);
        headers.insert(TIMESTAMP, time);
    }

    /// `v1,… v1a,…`: one signature for each key, in the order of the keys.
    fn standard(&self, id: &[u8], time: &[u8], body: &[u8]) -> String {
        // Longest entry: "v1a," and 88 characters of base64, and the space between.
        let mut signatures = String::with_capacity(self.keys.len() * 93);
        let parts = [id, b".", time, b".", body];
        // Ed25519 reads its message twice, so it must be in one piece; put together once for all keys.
        let mut whole = None;
        for key in &self.keys {
            if !signatures.is_empty() {
                signatures.push(' ');
            }
            match key {
                Key::Hmac(mac) => {
                    signatures.push_str("v1,");
                    BASE64.encode_append(&digest(mac, &parts), &mut signatures);
                }
                Key::Ed25519(key) => {
                    let message = whole.get_or_insert_with(|| parts.concat());
                    signatures.push_str("v1a,");
                    BASE64.encode_append(&key.sign(message).to_bytes(), &mut signatures);
                }
            }
        }
        signatures
    }

    fn hmacs(&self) -> impl Iterator<Item = &KeyedMac> {
        self.keys.iter().filter_map(|key| match key {
            Key::Hmac(mac) => Some(&**mac),
            Key::Ed25519(_) => None,
        })
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("scheme", &self.scheme).field("keys", &self.keys.len()).finish()
    }
}

impl Key {
    fn new(key: &SigningKey) -> Self {
        match key {
            SigningKey::Hmac(bytes) => Self::Hmac(Box::new(keyed(bytes))),
            SigningKey::Ed25519(seed) => Self::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(seed))),
        }
    }
}

pub(crate) fn keyed(key: &[u8]) -> KeyedMac {
    KeyedMac::new_from_slice(key).expect("HMAC takes keys of every length")
}

/// The keyed MAC over the parts, none of which is copied.
pub(crate) fn feed(mac: &KeyedMac, parts: &[&[u8]]) -> KeyedMac {
    let mut mac = mac.clone();
    for part in parts {
        mac.update(part);
    }
    mac
}

fn digest(mac: &KeyedMac, parts: &[&[u8]]) -> [u8; 32] {
    feed(mac, parts).finalize().into_bytes().into()
}

fn hex(mac: &KeyedMac, parts: &[&[u8]]) -> String {
    HEXLOWER.encode(&digest(mac, parts))
}

fn ascii(value: String) -> HeaderValue {
    HeaderValue::try_from(value).expect("base64, hex and digits are legal in a header")
}
