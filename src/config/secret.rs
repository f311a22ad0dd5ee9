//! Values that never print: a string or signing key whose `Debug` shows nothing of it.

use std::fmt;

use data_encoding::{BASE64, BASE64_NOPAD};

use super::settings::Signature;

/// Key sizes of Standard Webhooks, in bytes.
/// <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
const HMAC_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// What secrets of Standard Webhooks look like.
pub(crate) const HELP: &str = "write whsec_ and the base64 of 24 to 64 random bytes, or whsk_ and the base64 of an Ed25519 key pair; \
     `arauto secret new` makes one";

/// A secret string.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself; the caller must not log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A secret that is none: what is wrong, and what to write instead. Never what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {help}")]
pub(crate) struct Wrong {
    pub(crate) message: &'static str,
    pub(crate) help: &'static str,
}

/// A parsed key of an endpoint.
#[derive(Clone, PartialEq, Eq)]
pub enum SigningKey {
    /// HMAC-SHA256 key bytes: decoded from `whsec_…`, or the text itself for the `github` and `stripe` schemes.
    Hmac(Vec<u8>),
    /// Ed25519 seed, from `whsk_…` (base64 of seed and public key).
    Ed25519([u8; 32]),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hmac(_) => "Hmac(***)",
            Self::Ed25519(_) => "Ed25519(***)",
        })
    }
}

impl SigningKey {
    /// Reads a secret as endpoints with that signature have them.
    pub(crate) fn parse(text: &str, signature: Signature) -> Result<Self, Wrong> {
        let wrong = |message| Wrong { message, help: HELP };
        if signature != Signature::Standard {
            // GitHub and Stripe sign with the text as it is, a `whsec_` of Stripe's included.
            return match text {
                "" => Err(Wrong { message: "the secret is empty", help: "write one that nobody can guess" }),
                text => Ok(Self::Hmac(text.as_bytes().to_vec())),
            };
        }
        if let Some(encoded) = text.strip_prefix("whsec_") {
            let bytes = decode(encoded).ok_or(wrong("the whsec_ secret is not base64"))?;
            if !HMAC_BYTES.contains(&bytes.len()) {
                return Err(wrong("the whsec_ secret does not hold 24 to 64 bytes"));
            }
            return Ok(Self::Hmac(bytes));
        }
        let Some(encoded) = text.strip_prefix("whsk_") else {
            return Err(wrong("the secret begins with neither whsec_ nor whsk_"));
        };
        let bytes = decode(encoded).ok_or(wrong("the whsk_ secret is not base64"))?;
        let pair: [u8; 64] = bytes
            .try_into()
            .map_err(|_| wrong("the whsk_ secret does not hold 64 bytes (seed and public key)"))?;
        // It also compares the public half with the one that belongs to the seed.
        match ed25519_dalek::SigningKey::from_keypair_bytes(&pair) {
            Ok(key) => Ok(Self::Ed25519(key.to_bytes())),
            Err(_) => Err(wrong("the public key in the whsk_ secret does not belong to its seed")),
        }
    }

    /// `whpk_…`: what receivers verify with, of a key that has a public half.
    pub(crate) fn public(&self) -> Option<String> {
        match self {
            Self::Hmac(_) => None,
            Self::Ed25519(seed) => {
                let public = ed25519_dalek::SigningKey::from_bytes(seed).verifying_key();
                Some(format!("whpk_{}", BASE64.encode(public.as_bytes())))
            }
        }
    }
}

fn decode(encoded: &str) -> Option<Vec<u8>> {
    BASE64.decode(encoded.as_bytes()).or_else(|_| BASE64_NOPAD.decode(encoded.as_bytes())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_judged() {
        let hmac = |n: usize| format!("whsec_{}", BASE64.encode(&vec![7; n]));
        let pair = ed25519_dalek::SigningKey::from_bytes(&[9; 32]).to_keypair_bytes();
        let whsk = |bytes: &[u8]| format!("whsk_{}", BASE64.encode(bytes));
        let mut other = pair;
        other[40] ^= 1;
        for (signature, text, expected) in [
            (Signature::Standard, hmac(24), Ok(SigningKey::Hmac(vec![7; 24]))),
            (Signature::Standard, hmac(64), Ok(SigningKey::Hmac(vec![7; 64]))),
            (Signature::Standard, hmac(32).replace('=', ""), Ok(SigningKey::Hmac(vec![7; 32]))),
            (Signature::Standard, hmac(23), Err("does not hold 24 to 64")),
            (Signature::Standard, hmac(65), Err("does not hold 24 to 64")),
            (Signature::Standard, "whsec_???".into(), Err("is not base64")),
            (Signature::Standard, "hello".into(), Err("neither")),
            (Signature::Standard, "".into(), Err("neither")),
            (Signature::Standard, whsk(&pair), Ok(SigningKey::Ed25519([9; 32]))),
            (Signature::Standard, whsk(&pair[..32]), Err("does not hold 64")),
            (Signature::Standard, whsk(&other), Err("does not belong")),
            (Signature::Github, "s3cret".into(), Ok(SigningKey::Hmac(b"s3cret".to_vec()))),
            (Signature::Stripe, "whsec_x".into(), Ok(SigningKey::Hmac(b"whsec_x".to_vec()))),
            (Signature::Stripe, "".into(), Err("is empty")),
        ] {
            match (SigningKey::parse(&text, signature), expected) {
                (Ok(found), Ok(expected)) => assert!(found == expected, "{text}"),
                (Err(found), Err(expected)) => assert!(found.message.contains(expected), "{text}: {found}"),
                (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
            }
        }
    }
}
