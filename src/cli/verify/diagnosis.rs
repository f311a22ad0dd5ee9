//! Why a webhook does not verify, as exactly as it can be known.
//!
//! Pure: takes the time. The verdict is that of [`verify`]; what is tried beyond it only finds out what went wrong, and
//! never makes anything verified.

use std::{slice::from_ref, time::Duration};

use http_types::{HeaderMap, HeaderName};
use serde::Serialize;

use super::{forms, header, key::Secret};
use crate::{
    cli::{date::rfc3339, words::span},
    config::settings::Signature,
    pipeline::sign::{
        GITHUB, ID, STANDARD, STRIPE,
        verify::{self, Key},
    },
};

/// A webhook as it was received, and how its time is judged.
#[derive(Debug)]
pub(super) struct Request<'r> {
    pub(super) headers: &'r HeaderMap,
    pub(super) body: &'r [u8],
    /// Unix seconds.
    pub(super) now: i64,
    /// Seconds a timestamp may be away, either way.
    pub(super) tolerance: i64,
}

/// What was found. Its JSON is a contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Diagnosis {
    pub(super) verified: bool,
    /// `standard`, `github` or `stripe`; null when it is not signed.
    pub(super) scheme: Option<&'static str>,
    pub(super) id: Option<String>,
    /// Unix seconds at which it says it was signed.
    pub(super) timestamp: Option<i64>,
    /// Which secret it verifies by, from 1.
    pub(super) secret: Option<usize>,
    pub(super) problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    pub(super) what: What,
    pub(super) detail: String,
    pub(super) help: String,
}

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    Unsigned,
    Malformed,
    TooOld,
    TooNew,
    BodyChanged,
    SecretMisread,
    KeyKind,
    Mismatch,
}

impl What {
    /// In a few words.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Unsigned => "not signed",
            Self::Malformed => "malformed header",
            Self::TooOld => "timestamp too old",
            Self::TooNew => "timestamp too new",
            Self::BodyChanged => "body changed",
            Self::SecretMisread => "secret read in another way",
            Self::KeyKind => "wrong kind of key",
            Self::Mismatch => "wrong secret, or something that was signed has changed",
        }
    }
}

impl Problem {
    pub(super) fn new(what: What, detail: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what, detail: detail.into(), help: help.into() }
    }
}

/// Verifies, and says what is wrong.
pub(super) fn diagnose(request: &Request<'_>, secrets: &[Secret]) -> Diagnosis {
    let headers = request.headers;
    let id = headers.get(ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
    let none =
        Diagnosis { verified: false, scheme: None, id, timestamp: None, secret: None, problems: vec![] };
    let Some((scheme, name)) = scheme(headers) else {
        return Diagnosis { problems: vec![unsigned(headers)], ..none };
    };
    let read = match header::read(scheme, headers) {
        Ok(read) => read,
        Err(problems) => return Diagnosis { scheme: Some(name), problems, ..none },
    };
    let timestamp = read.timestamp;
    let mut problems: Vec<Problem> = timestamp.and_then(|at| out_of_time(at, request)).into_iter().collect();
    // Its time is judged above; here it is as if it had just been signed.
    let verifies = |keys: &[Key], body: &[u8]| {
        verify::verify(keys, headers, body, timestamp.unwrap_or(request.now)).is_ok()
    };
    let keys: Vec<Vec<Key>> = secrets.iter().map(|secret| secret.keys(scheme)).collect();
    let fitting = keys.iter().position(|keys| verifies(keys, request.body));
    if fitting.is_none() {
        problems.push(why_not(scheme, &read, (secrets, &keys.concat()), request.body, &verifies));
    }
    let secret = fitting.map(|index| index + 1);
    Diagnosis { verified: problems.is_empty(), scheme: Some(name), timestamp, secret, problems, ..none }
}

fn scheme(headers: &HeaderMap) -> Option<(Signature, &'static str)> {
    // The order in which `verify` looks for them.
    let schemes: [(HeaderName, Signature, &str); 3] = [
        (STANDARD, Signature::Standard, "standard"),
        (STRIPE, Signature::Stripe, "stripe"),
        (GITHUB, Signature::Github, "github"),
    ];
    let found = schemes.into_iter().find(|(name, ..)| headers.contains_key(name));
    found.map(|(_, scheme, name)| (scheme, name))
}

fn unsigned(headers: &HeaderMap) -> Problem {
    let detail = if headers.contains_key("svix-signature") {
        "there are svix-id, svix-timestamp and svix-signature: the same scheme under older names"
    } else if headers.contains_key("x-hub-signature") {
        "there is only X-Hub-Signature, GitHub's older one by SHA-1, which is not verified"
    } else {
        "there is none of webhook-signature, x-hub-signature-256 and stripe-signature"
    };
    let help = if headers.contains_key("svix-signature") {
        "give them as webhook-id, webhook-timestamp and webhook-signature"
    } else {
        "give all headers of the request; if they are all, look for a proxy that removes headers it does not know"
    };
    Problem::new(What::Unsigned, detail, help)
}

fn out_of_time(at: i64, request: &Request<'_>) -> Option<Problem> {
    let age = request.now.saturating_sub(at);
    let seconds = |seconds: i64| span(Duration::from_secs(seconds.unsigned_abs()));
    let allowed = seconds(request.tolerance);
    let away = seconds(age);
    let at = rfc3339(at.saturating_mul(1000));
    if age > request.tolerance {
        let detail = format!("it was signed {away} ago ({at}), and {allowed} is allowed");
        let help = "a webhook is signed anew for each attempt, so this one was held up or sent again by somebody, or \
                    the receiver's clock is ahead; to look at an old one: --at TIME";
        return Some(Problem::new(What::TooOld, detail, help));
    }
    (age < -request.tolerance).then(|| {
        let detail = format!("it was signed {away} from now ({at}), and {allowed} is allowed");
        Problem::new(What::TooNew, detail, "one of the two clocks is wrong; compare both with a time server")
    })
}

/// Finds out why no secret made any of the signatures.
fn why_not(
    scheme: Signature,
    read: &header::Read,
    (secrets, keys): (&[Secret], &[Key]),
    body: &[u8],
    verifies: &dyn Fn(&[Key], &[u8]) -> bool,
) -> Problem {
    if let Some(problem) = key_kind(read, keys) {
        return problem;
    }
    if let Some(form) = forms::find(body, |form| verifies(keys, form)) {
        let same = body.iter().zip(&form.bytes).take_while(|(given, signed)| given == signed).count();
        let detail = format!(
            "what was signed is {}: {} bytes, where the body given has {} and differs from byte {} on",
            form.name,
            form.bytes.len(),
            body.len(),
            same + 1
        );
        let help =
            "verify the bytes as they were received, before a framework, proxy or editor writes them anew";
        return Problem::new(What::BodyChanged, detail, help);
    }
    for (number, secret) in (1..).zip(secrets) {
        if let Some((_, how)) =
            secret.misread(scheme).into_iter().find(|(key, _)| verifies(from_ref(key), body))
        {
            let detail = format!("the signature fits secret {number}, but {how}");
            let help = "make both sides read the secret in the same way; the body has not changed";
            return Problem::new(What::SecretMisread, detail, help);
        }
    }
    let detail = "no secret given made a signature of this body: not as it is, nor with other line ends, nor, if it is \
                  JSON, written anew";
    let signed = match scheme {
        Signature::Standard => "id, timestamp and body",
        Signature::Stripe => "timestamp and body",
        Signature::Github | Signature::None => "the body",
    };
    let help = format!(
        "compare the secret with the endpoint's; if it is the same, one of what is signed ({signed}) is not as it was \
         sent"
    );
    Problem::new(What::Mismatch, detail, help)
}

fn key_kind(read: &header::Read, keys: &[Key]) -> Option<Problem> {
    let (hmac, ed25519) = read.kinds?;
    let has = |wanted: fn(&Key) -> bool| keys.iter().any(wanted);
    let (has_hmac, has_ed25519) =
        (has(|key| matches!(key, Key::Hmac(_))), has(|key| matches!(key, Key::Ed25519(_))));
    let (detail, help) = match (hmac && has_hmac, ed25519 && has_ed25519) {
        (true, _) | (_, true) => return None,
        (false, false) if ed25519 && !hmac && has_hmac => {
            ("it is signed with Ed25519 (v1a) only", "give the sender's public key, whpk_…")
        }
        (false, false) if hmac && !ed25519 && has_ed25519 => {
            ("it is signed with HMAC (v1) only", "give the shared secret, whsec_…")
        }
        (false, false) => return None,
    };
    Some(Problem::new(What::KeyKind, detail, help))
}
