//! A secret as somebody has it, and the keys it may have been taken for.

use data_encoding::{BASE64, BASE64_NOPAD};

use crate::{
    config::{secret::SigningKey, settings::Signature},
    pipeline::sign::verify::{BadSecret, Key},
};

/// What verifies: a text, or what the configuration made of one.
pub(super) enum Secret {
    Text(String),
    Configured(SigningKey),
}

impl Secret {
    /// Takes a text that can be a secret.
    pub(super) fn new(text: String) -> Result<Self, BadSecret> {
        Key::parse(text.trim_end()).map(|_| Self::Text(text))
    }

    /// The keys that this secret is to a scheme.
    pub(super) fn keys(&self, scheme: Signature) -> Vec<Key> {
        let text = match self {
            Self::Configured(key) => return vec![Key::from(key)],
            Self::Text(text) => text,
        };
        if scheme != Signature::Standard {
            return vec![hmac(text.as_bytes())];
        }
        if ["whsec_", "whsk_", "whpk_"].iter().any(|prefix| text.starts_with(prefix)) {
            // The first is what the prefix says.
            return Key::parse(text).unwrap_or_default().into_iter().take(1).collect();
        }
        // The libraries of Standard Webhooks take the prefix for granted.
        decode(text).map(|bytes| hmac(&bytes)).into_iter().collect()
    }

    /// The keys that it was taken for by mistake, perhaps, and what the mistake is.
    pub(super) fn misread(&self, scheme: Signature) -> Vec<(Key, &'static str)> {
        let Self::Text(text) = self else { return Vec::new() };
        let bare = text.trim();
        let behind = bare.strip_prefix("whsec_").unwrap_or(bare);
        let line = format!("{bare}\n");
        let mut misread = Vec::new();
        if scheme == Signature::Standard {
            misread.push((hmac(bare.as_bytes()), "as it is, letter by letter: its base64 was not decoded"));
            let cut = Self::Text(bare.to_owned()).keys(scheme).into_iter();
            misread.extend(cut.map(|key| (key, "without the white space around it")));
        } else {
            misread.push((hmac(bare.as_bytes()), "without the white space around it"));
            let decoded = decode(behind).map(|bytes| hmac(&bytes));
            misread.extend(decoded.map(|key| (key, "decoded from base64, which this scheme does not do")));
        }
        misread.push((hmac(behind.as_bytes()), "without whsec_, and not decoded"));
        misread.push((hmac(line.as_bytes()), "with a line end behind it, such as a file has"));
        misread
    }
}

fn hmac(key: &[u8]) -> Key {
    Key::from(&SigningKey::Hmac(key.to_vec()))
}

fn decode(encoded: &str) -> Option<Vec<u8>> {
    BASE64.decode(encoded.as_bytes()).or_else(|_| BASE64_NOPAD.decode(encoded.as_bytes())).ok()
}
