//! HTTP header names and values that users write: legal, and none that would break signing or framing.

use std::collections::HashSet;

use super::super::{file::endpoint::Endpoint, mistake::Report, secret::Secret, written::Written};

/// Headers that frame the message, route it or belong to the connection (RFC 9110, RFC 9112), and our own.
const REFUSED: [&str; 13] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "stripe-signature",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-hub-signature",
];

/// Beginnings of such headers.
const REFUSED_PREFIXES: [&str; 4] = ["arauto-", "proxy-", "webhook-", "x-hub-signature-"];

/// Names, lower-case, with their values; and the names to forward, lower-case.
pub(super) type Headers = (Vec<(String, Secret)>, Vec<String>);

/// The `headers` and `forward` of an endpoint.
pub(super) fn all(written: &Endpoint, report: &mut Report) -> Headers {
    let mut seen = HashSet::new();
    let mut headers = Vec::new();
    for (name, value) in written.headers.set().into_iter().flat_map(|w| &w.value) {
        let Some(lower) = name_of(name, &name.value, &format!("{:?}", name.value), &mut seen, report) else {
            continue;
        };
        if value_fits(name, value, report) {
            headers.push((lower, value.clone()));
        }
    }
    let mut forward = Vec::new();
    for item in written.forward.set().into_iter().flat_map(|w| &w.value.items) {
        forward.extend(name_of(item, &item.value.value, &item.value.to_string(), &mut seen, report));
    }
    (headers, forward)
}

/// Can the value be sent? It may be secret, so it is not shown.
pub(super) fn value_fits(name: &Written<String>, value: &Secret, report: &mut Report) -> bool {
    let fits = is_value(value.expose());
    if !fits {
        let message = format!("the value of the header {:?} cannot be sent", name.value);
        report.add(name.place, message, "write visible ASCII characters, spaces and tabs only");
    }
    fits
}

/// The name in lower case, if it will do and was not seen before.
pub(super) fn name_of<T>(
    item: &Written<T>,
    name: &str,
    shown: &str,
    seen: &mut HashSet<String>,
    report: &mut Report,
) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if !is_name(name) {
        report.add(item.place, format!("{shown} is no header name"), "write letters, digits and -");
    } else if REFUSED.contains(&&*lower) || REFUSED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix)) {
        let message = format!("the header {shown} may not be set");
        report.add(item.place, message, "remove it: Arauto or HTTP itself decides on it");
    } else if !seen.insert(lower.clone()) {
        let message = format!("the header {shown} stands here twice");
        report.add(item.place, message, "remove one of them; case makes no difference");
    } else {
        return Some(lower);
    }
    None
}

/// A token of RFC 9110, 5.6.2.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// What every HTTP implementation takes for a field's value; RFC 9110, 5.5 without the obsolete bytes above ASCII.
fn is_value(text: &str) -> bool {
    text.bytes().all(|b| b == b'\t' || (0x20..=0x7e).contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged() {
        let place = Default::default();
        for (name, fits) in [
            ("x-source", true),
            ("Content-Type", true),
            ("content-encoding", true),
            ("authorization", true),
            ("Content-Length", false),
            ("webhook-id", false),
            ("Proxy-Authorization", false),
            ("x-hub-signature", false),
            ("X-Hub-Signature-256", false),
            ("arauto-attempt", false),
            ("user-agent", false),
            ("a b", false),
            ("", false),
            ("é", false),
        ] {
            let item = Written { value: (), place };
            let mut report = Report::default();
            report.file(String::new(), "".into());
            let found = name_of(&item, name, name, &mut HashSet::new(), &mut report);
            assert_eq!(found, fits.then(|| name.to_ascii_lowercase()), "{name}");
            assert_eq!(report.finish().is_ok(), fits, "{name}");
        }
    }

    #[test]
    fn values_are_judged() {
        for (value, fits) in
            [("", true), ("Bearer a\tb", true), ("a\nb", false), ("a\0", false), ("é", false)]
        {
            assert_eq!(is_value(value), fits, "{value:?}");
        }
    }
}
