//! The headers of a signature, read: what is in them, or what is wrong with each.

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use http_types::{HeaderMap, HeaderName};

use super::diagnosis::{Problem, What};
use crate::{
    config::settings::Signature,
    pipeline::sign::{GITHUB, ID, STANDARD, STRIPE, TIMESTAMP},
};

/// Bytes of a signature: SHA-256's output, and Ed25519's.
const HMAC: usize = 32;
const ED25519: usize = 64;

/// What the headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Read {
    /// Unix seconds; GitHub's scheme signs none.
    pub(super) timestamp: Option<i64>,
    /// Standard Webhooks: is there a v1 signature, is there a v1a one?
    pub(super) kinds: Option<(bool, bool)>,
}

/// Reads the headers of a scheme.
pub(super) fn read(scheme: Signature, headers: &HeaderMap) -> Result<Read, Vec<Problem>> {
    match scheme {
        Signature::Standard => {
            let id = text(headers, &ID).map(drop);
            let timestamp = text(headers, &TIMESTAMP).and_then(|text| seconds(&TIMESTAMP, text));
            let kinds = text(headers, &STANDARD).and_then(kinds);
            match (id, timestamp, kinds) {
                (Ok(()), Ok(at), Ok(kinds)) => Ok(Read { timestamp: Some(at), kinds: Some(kinds) }),
                (id, at, kinds) => Err([id.err(), at.err(), kinds.err()].into_iter().flatten().collect()),
            }
        }
        Signature::Stripe => {
            let timestamp = text(headers, &STRIPE).and_then(stripe).map_err(|problem| vec![problem])?;
            Ok(Read { timestamp: Some(timestamp), kinds: None })
        }
        Signature::Github | Signature::None => {
            text(headers, &GITHUB).and_then(github).map_err(|problem| vec![problem])?;
            Ok(Read { timestamp: None, kinds: None })
        }
    }
}

fn malformed(name: &HeaderName, wrong: &str, help: &str) -> Problem {
    Problem::new(What::Malformed, format!("{name} {wrong}"), help)
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h str, Problem> {
    let Some(value) = headers.get(name) else {
        return Err(malformed(name, "is missing", "give all headers of the request"));
    };
    let printable = "give it as it was received: all of it is ASCII";
    value.to_str().map_err(|_| malformed(name, "has characters no signature has", printable))
}

fn seconds(name: &HeaderName, text: &str) -> Result<i64, Problem> {
    const HELP: &str = "it is the unix time in seconds, such as 1614265330";
    let number: i64 = text.parse().map_err(|_| malformed(name, &format!("is no number: {text:?}"), HELP))?;
    // As seconds, this many are the year 5138.
    if number >= 100_000_000_000 {
        return Err(malformed(name, &format!("is not in seconds: {number}"), HELP));
    }
    Ok(number)
}

/// `v1,<base64> v1a,<base64> …`: one good one is enough.
fn kinds(text: &str) -> Result<(bool, bool), Problem> {
    const HELP: &str = "it is one or more of v1,<base64> and v1a,<base64>, with spaces between";
    let wrong = |wrong: &str| malformed(&STANDARD, wrong, HELP);
    let entries: Vec<Result<bool, String>> = text.split_whitespace().map(entry).collect();
    let kinds = (entries.contains(&Ok(false)), entries.contains(&Ok(true)));
    if kinds != (false, false) {
        return Ok(kinds);
    }
    let reason = entries.into_iter().find_map(Result::err);
    Err(reason.map_or_else(|| wrong("is empty"), |reason| wrong(&reason)))
}

/// Is it one by Ed25519? Or why is it none?
fn entry(entry: &str) -> Result<bool, String> {
    let Some((version, encoded)) = entry.split_once(',') else {
        return Err("has a signature without a version before it".to_owned());
    };
    let (length, ed25519) = match version {
        "v1" => (HMAC, false),
        "v1a" => (ED25519, true),
        other => return Err(format!("has signatures of version {other:?} only")),
    };
    match BASE64.decode(encoded.as_bytes()) {
        Ok(bytes) if bytes.len() == length => Ok(ed25519),
        Ok(bytes) => Err(format!("has a {version} signature of {} bytes instead of {length}", bytes.len())),
        Err(_) => Err(format!("has a {version} signature that is not base64, or was cut")),
    }
}

/// `t=<seconds>,v1=<hex>`.
fn stripe(text: &str) -> Result<i64, Problem> {
    const HELP: &str = "it is t=<unix seconds>,v1=<64 hex digits>";
    let field = |wanted: &'static str| {
        text.split(',').filter_map(|field| field.split_once('=')).filter(move |(name, _)| *name == wanted)
    };
    let Some((_, time)) = field("t").next() else { return Err(malformed(&STRIPE, "has no t=", HELP)) };
    let time = seconds(&STRIPE, time)?;
    match field("v1").next() {
        None => Err(malformed(&STRIPE, "has no v1=", HELP)),
        Some(_) if field("v1").any(|(_, hex)| is_digest(hex)) => Ok(time),
        Some(_) => Err(malformed(&STRIPE, "has a v1= that is not 64 hex digits", HELP)),
    }
}

/// `sha256=<hex>`.
fn github(text: &str) -> Result<(), Problem> {
    match text.strip_prefix("sha256=") {
        Some(hex) if is_digest(hex) => Ok(()),
        Some(_) | None => Err(malformed(&GITHUB, "is not as it should be", "it is sha256=<64 hex digits>")),
    }
}

fn is_digest(hex: &str) -> bool {
    HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).is_ok_and(|bytes| bytes.len() == HMAC)
}
