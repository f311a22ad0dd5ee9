//! The other side of signing: does a received webhook carry a signature one of our keys made?
//!
//! Used by our receivers (`arauto listen`, `arauto dev`, tests) and `arauto verify`, never on the way out. Takes the time, reads no
//! clock; compares in constant time.

use std::fmt;

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use ed25519_dalek::{Signature, VerifyingKey};
use hmac::Mac;
use http_types::{HeaderMap, HeaderName};

use super::{GITHUB, ID, KeyedMac, STANDARD, STRIPE, TIMESTAMP, feed, keyed};
use crate::config::secret::SigningKey;

/// How far a timestamp may be from now, in seconds, either way. The number of the Standard Webhooks libraries and
/// of Stripe's.
pub(crate) const TOLERANCE: i64 = 5 * 60;

/// A key to verify with.
#[derive(Clone)]
pub enum Key {
    /// HMAC-SHA256.
    Hmac(Box<KeyedMac>),
    /// The public half of an Ed25519 key.
    Ed25519(Box<VerifyingKey>),
}

/// Why a webhook was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// None of the signature headers is there.
    #[error("not signed")]
    Unsigned,
    /// A header that the scheme needs is missing or cannot be read.
    #[error("header {0} is missing or not readable")]
    Malformed(&'static str),
    /// The timestamp is too far in the past or in the future.
    #[error("timestamp is {0} s away from this clock")]
    Time(i64),
    /// No key made any of the signatures.
    #[error("signature matches no key")]
    Mismatch,
}

/// A secret that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a secret: {0}")]
pub struct BadSecret(&'static str);

impl Key {
    /// Reads a secret as users have it: `whsec_…` and `whsk_…` as an endpoint signs with them, `whpk_…` the public
    /// key alone, any other text the key of the GitHub and Stripe schemes. Those also take `whsec_…` literally,
    /// so such a secret gives two keys.
    pub fn parse(secret: &str) -> Result<Vec<Self>, BadSecret> {
        let bytes = |text: &str| {
            BASE64.decode(text.as_bytes()).map_err(|_| BadSecret("what follows the prefix is not base64"))
        };
        let literal = Self::Hmac(Box::new(keyed(secret.as_bytes())));
        if let Some(text) = secret.strip_prefix("whsec_") {
            return Ok(vec![Self::Hmac(Box::new(keyed(&bytes(text)?))), literal]);
        }
        if let Some(text) = secret.strip_prefix("whsk_") {
            let pair = bytes(text)?;
            let seed = pair.first_chunk().filter(|_| pair.len() == 64);
            let seed = seed.ok_or(BadSecret("whsk_ needs 64 bytes: seed and public key"))?;
            return Ok(vec![Self::from(&SigningKey::Ed25519(*seed))]);
        }
        if let Some(text) = secret.strip_prefix("whpk_") {
            let point = VerifyingKey::try_from(&*bytes(text)?);
            let point = point.map_err(|_| BadSecret("whpk_ needs the 32 bytes of an Ed25519 key"))?;
            return Ok(vec![Self::Ed25519(Box::new(point))]);
        }
        if secret.is_empty() { Err(BadSecret("it is empty")) } else { Ok(vec![literal]) }
    }
}

impl From<&SigningKey> for Key {
    fn from(key: &SigningKey) -> Self {
        match key {
            SigningKey::Hmac(bytes) => Self::Hmac(Box::new(keyed(bytes))),
            SigningKey::Ed25519(seed) => {
                Self::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(seed).verifying_key()))
            }
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hmac(_) => "Hmac(***)",
            Self::Ed25519(_) => "Ed25519(***)",
        })
    }
}

/// Verifies by whichever scheme's header is there.
pub fn verify(keys: &[Key], headers: &HeaderMap, body: &[u8], now_secs: i64) -> Result<(), Refused> {
    if headers.contains_key(STANDARD) {
        standard(keys, headers, body, now_secs)
    } else if headers.contains_key(STRIPE) {
        stripe(keys, headers, body, now_secs)
    } else if headers.contains_key(GITHUB) {
        github(keys, headers, body)
    } else {
        Err(Refused::Unsigned)
    }
}

fn standard(keys: &[Key], headers: &HeaderMap, body: &[u8], now_secs: i64) -> Result<(), Refused> {
    let id = text(headers, &ID, "webhook-id")?;
    let time = text(headers, &TIMESTAMP, "webhook-timestamp")?;
    let signatures = text(headers, &STANDARD, "webhook-signature")?;
    near(time, "webhook-timestamp", now_secs)?;
    let parts = [id.as_bytes(), b".", time.as_bytes(), b".", body];
    let whole = parts.concat();
    accept(signatures.split(' ').filter_map(|entry| entry.split_once(',')).any(|(version, encoded)| {
        let Ok(signature) = BASE64.decode(encoded.as_bytes()) else {
            return false;
        };
        match version {
            "v1" => matches_hmac(keys, &parts, &signature),
            "v1a" => matches_ed25519(keys, &whole, &signature),
            _ => false,
        }
    }))
}

fn stripe(keys: &[Key], headers: &HeaderMap, body: &[u8], now_secs: i64) -> Result<(), Refused> {
    const NAME: &str = "stripe-signature";
    let fields =
        || text(headers, &STRIPE, NAME).map(|value| value.split(',').filter_map(|f| f.split_once('=')));
    let time = fields()?.find_map(|(name, value)| (name == "t").then_some(value));
    let time = time.ok_or(Refused::Malformed(NAME))?;
    near(time, NAME, now_secs)?;
    let parts = [time.as_bytes(), b".", body];
    accept(fields()?.any(|(name, value)| name == "v1" && matches_hex(keys, &parts, value)))
}

fn github(keys: &[Key], headers: &HeaderMap, body: &[u8]) -> Result<(), Refused> {
    const NAME: &str = "x-hub-signature-256";
    let value = text(headers, &GITHUB, NAME)?;
    let hex = value.strip_prefix("sha256=").ok_or(Refused::Malformed(NAME))?;
    accept(matches_hex(keys, &[body], hex))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName, called: &'static str) -> Result<&'a str, Refused> {
    headers.get(name).and_then(|value| value.to_str().ok()).ok_or(Refused::Malformed(called))
}

fn near(time: &str, called: &'static str, now_secs: i64) -> Result<(), Refused> {
    let time: i64 = time.parse().map_err(|_| Refused::Malformed(called))?;
    let away = now_secs.saturating_sub(time);
    if away.saturating_abs() <= TOLERANCE { Ok(()) } else { Err(Refused::Time(away)) }
}

fn accept(matches: bool) -> Result<(), Refused> {
    if matches { Ok(()) } else { Err(Refused::Mismatch) }
}

fn matches_hex(keys: &[Key], parts: &[&[u8]], hex: &str) -> bool {
    HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).is_ok_and(|signature| matches_hmac(keys, parts, &signature))
}

fn matches_hmac(keys: &[Key], parts: &[&[u8]], signature: &[u8]) -> bool {
    keys.iter().any(|key| match key {
        Key::Hmac(mac) => feed(mac, parts).verify_slice(signature).is_ok(),
        Key::Ed25519(_) => false,
    })
}

fn matches_ed25519(keys: &[Key], message: &[u8], signature: &[u8]) -> bool {
    let Ok(signature) = Signature::from_slice(signature) else {
        return false;
    };
    keys.iter().any(|key| match key {
        Key::Ed25519(key) => key.verify_strict(message, &signature).is_ok(),
        Key::Hmac(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_614_265_330;
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const BODY: &str = r#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn check(
        secret: &str,
        headers: &[(&'static str, &str)],
        body: &str,
        now: i64,
        expected: Result<(), Refused>,
    ) {
        let map: HeaderMap =
            headers.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect();
        let keys = Key::parse(secret).unwrap();
        assert_eq!(verify(&keys, &map, body.as_bytes(), now), expected, "{headers:?} at {now}");
    }

    fn standard_headers(signature: &str) -> [(&'static str, &str); 3] {
        [
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            ("webhook-signature", signature),
        ]
    }

    #[test]
    fn standard_webhooks() {
        let wrong = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=";
        let both = format!("{wrong} {SIGNATURE}");
        let v2 = SIGNATURE.replace("v1,", "v2,");
        check(SECRET, &standard_headers(SIGNATURE), BODY, NOW, Ok(()));
        check(SECRET, &standard_headers(&both), BODY, NOW, Ok(()));
        check(SECRET, &standard_headers(wrong), BODY, NOW, Err(Refused::Mismatch));
        check(SECRET, &standard_headers(&v2), BODY, NOW, Err(Refused::Mismatch));
        check(SECRET, &standard_headers("v1,"), BODY, NOW, Err(Refused::Mismatch));
        check(SECRET, &standard_headers(""), BODY, NOW, Err(Refused::Mismatch));
        check(SECRET, &standard_headers(SIGNATURE), "{}", NOW, Err(Refused::Mismatch));
        check(SECRET, &standard_headers(SIGNATURE)[1..], BODY, NOW, Err(Refused::Malformed("webhook-id")));
        check(SECRET, &[("webhook-id", "msg_x")], BODY, NOW, Err(Refused::Unsigned));
    }

    #[test]
    fn the_timestamp_is_held_to_five_minutes_either_way() {
        for away in [-300, 0, 300] {
            check(SECRET, &standard_headers(SIGNATURE), BODY, NOW + away, Ok(()));
        }
        for away in [-301, 301] {
            check(SECRET, &standard_headers(SIGNATURE), BODY, NOW + away, Err(Refused::Time(away)));
        }
    }

    #[test]
    fn a_public_key_is_enough_for_v1a() {
        let signature =
            "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";
        let public = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
        check(public, &standard_headers(signature), BODY, NOW, Ok(()));
        check(public, &standard_headers(signature), "{}", NOW, Err(Refused::Mismatch));
        check(SECRET, &standard_headers(signature), BODY, NOW, Err(Refused::Mismatch));
    }

    #[test]
    fn github_and_stripe() {
        // https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries gives this example.
        let secret = "It's a Secret to Everybody";
        let hex = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let value = format!("sha256={hex}");
        check(secret, &[("x-hub-signature-256", &value)], "Hello, World!", NOW, Ok(()));
        check(secret, &[("x-hub-signature-256", &value)], "Hello, World", NOW, Err(Refused::Mismatch));
        let malformed = Err(Refused::Malformed("x-hub-signature-256"));
        check(secret, &[("x-hub-signature-256", hex)], "Hello, World!", NOW, malformed);

        let value = "t=1614265330,v1=00,v1=STRIPE_HEX,v0=x".replace("STRIPE_HEX", STRIPE_HEX);
        check("stripe secret", &[("stripe-signature", &value)], "{}", NOW, Ok(()));
        check("stripe secret", &[("stripe-signature", &value)], "{}", NOW + 301, Err(Refused::Time(301)));
        let malformed = Err(Refused::Malformed("stripe-signature"));
        check("stripe secret", &[("stripe-signature", "v1=00")], "{}", NOW, malformed);
    }

    /// `printf '1614265330.{}' | openssl dgst -sha256 -hmac 'stripe secret'`
    const STRIPE_HEX: &str = "64b59af27c6ecf8bb9f8b4cb5e8b55b243257ac7a5851a6bdf74431a50db8a27";

    #[test]
    fn what_is_no_secret_is_refused() {
        for secret in ["", "whsec_?", "whsk_AAAA", "whpk_AAAA"] {
            assert!(Key::parse(secret).is_err(), "{secret}");
        }
    }
}
