//! Secrets → signing keys. A message here says what kind of secret is wrong, never what it is.

use std::collections::HashSet;

use super::super::{
    file::endpoint::Endpoint,
    mistake::Report,
    secret::{HELP, SigningKey},
    settings::Signature,
    written::Key,
};

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
        match SigningKey::parse(item.value.expose(), signature) {
            Ok(key) => keys.push(key),
            Err(wrong) => report.add(item.place, wrong.message, wrong.help),
        }
    }
    keys
}
