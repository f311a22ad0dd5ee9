//! Secrets → signing keys. A message here says what kind of secret is wrong, never what it is.

use std::collections::HashSet;

use data_encoding::{BASE64, BASE64_NOPAD};

use super::super::{
    file::endpoint::Endpoint,
    mistake::Report,
    secret::{Secret, SigningKey},
    settings::Signature,
    written::Key,
};

/// Key sizes of Standard Webhooks, in bytes.
/// <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
const HMAC_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

const HELP: &str =
    "write whsec_ and the base64 of 24 to 64 random bytes, or whsk_ and the base64 of an Ed25519 key pair";

/// The keys of an endpoint.
pub(super) fn all(written: &Endpoint, signature: Signature, report: &mut Report) -> Vec<SigningKey> {
    let none = match &written.secrets {
        Key::Absent => true,
        Key::Set(list) => list.value.items.is_empty() && list.value.complete,
        Key::Wrong => return Vec::new(),
    };
    let place = written.secrets.set().map_or(written.place, |list| list.place);
    match (signature, none) {
        (Signature::None, true) => return Vec::new(),
        (Signature::None, false) => {
            let message = "secrets are given, but signature = \"none\" signs nothing";
            report.add(place, message, "remove the secrets, or choose a signature");
            return Vec::new();
        }
        (Signature::Standard, true) => {
            report.missing(place, "the endpoint has no secrets", HELP);
        }
        (Signature::Github | Signature::Stripe, true) => {
            report.missing(place, "the endpoint has no secrets", "write secrets = [\"env:NAME\"]");
        }
        (Signature::Standard | Signature::Github | Signature::Stripe, false) => {}
    }
    let mut seen = HashSet::new();
    let mut keys = Vec::new();
    for item in written.secrets.set().into_iter().flat_map(|list| &list.value.items) {
        if !seen.insert(item.value.expose()) {
            report.add(item.place, "the same secret stands here twice", "remove one of them");
            continue;
        }
        match key(&item.value, signature) {
            Ok(key) => keys.push(key),
            Err((message, help)) => report.add(item.place, message, help),
        }
    }
    keys
}

type Mistake = (&'static str, &'static str);

fn key(secret: &Secret, signature: Signature) -> Result<SigningKey, Mistake> {
    let text = secret.expose();
    if signature != Signature::Standard {
        // GitHub and Stripe sign with the text as it is, a `whsec_` of Stripe's included.
        return match text {
            "" => Err(("the secret is empty", "write one that nobody can guess")),
            text => Ok(SigningKey::Hmac(text.as_bytes().to_vec())),
        };
    }
    if let Some(encoded) = text.strip_prefix("whsec_") {
        let bytes = decode(encoded).ok_or(("the whsec_ secret is not base64", HELP))?;
        if !HMAC_BYTES.contains(&bytes.len()) {
            return Err(("the whsec_ secret does not hold 24 to 64 bytes", HELP));
        }
        return Ok(SigningKey::Hmac(bytes));
    }
    let Some(encoded) = text.strip_prefix("whsk_") else {
        return Err(("the secret begins with neither whsec_ nor whsk_", HELP));
    };
    let bytes = decode(encoded).ok_or(("the whsk_ secret is not base64", HELP))?;
    let pair: [u8; 64] = bytes
        .try_into()
        .map_err(|_| ("the whsk_ secret does not hold 64 bytes (seed and public key)", HELP))?;
    // It also compares the public half with the one that belongs to the seed.
    match ed25519_dalek::SigningKey::from_keypair_bytes(&pair) {
        Ok(key) => Ok(SigningKey::Ed25519(key.to_bytes())),
        Err(_) => Err(("the public key in the whsk_ secret does not belong to its seed", HELP)),
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
            match (key(&Secret::new(text.clone()), signature), expected) {
                (Ok(found), Ok(expected)) => assert!(found == expected, "{text}"),
                (Err((found, _)), Err(expected)) => assert!(found.contains(expected), "{text}: {found}"),
                (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
            }
        }
    }
}
