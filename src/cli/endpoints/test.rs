//! `arauto endpoints test`: one attempt to an endpoint, watched, made as every attempt is made.
//!
//! The event is ours and on no topic: nothing is read from Kafka or written to it, and whatever the answer, nothing is
//! made of it.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use serde::Serialize;

use super::{find, list::masked};
use crate::{
    cli::{
        Done,
        date::rfc3339,
        paint::{BOLD, DIM, GREEN, Paint, RED, YELLOW},
        secret::fresh_id,
        words::span,
    },
    config::settings::{Endpoint, Settings},
    http::{
        Target,
        certificate::Certificate,
        guard::Guard,
        probe::{Prober, Seen},
    },
    pipeline::{
        Event, Headers,
        delivery::now,
        outcome::{self, Attempt, AttemptResult, Outcome, Reason, SoFar},
        request::Template,
        sign::Signer,
    },
};

const TYPE: &str = "arauto.test";
/// A certificate is renewed some weeks before it ends; one that has not been by now is worth a look.
const SOON: Duration = Duration::from_secs(21 * 24 * 60 * 60);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  arauto endpoints test crm
  arauto endpoints test crm --json | jq .certificate.not_after

It goes the way every attempt goes: the same address rules, roots, headers, signature and timeout, but to no limit and
past the breaker. The body is {\"type\": \"arauto.test\", \"timestamp\": …, \"data\": {\"endpoint\": …}}. Nothing is tried again,
dead-lettered or disabled for its answer.

--json: endpoint, url (without its path), id, addresses, peer, tls, http2, dns_ms, connect_ms, tls_ms, first_byte_ms,
total_ms, certificate (subject, issuer, names, not_before, not_after in unix ms) or null, result (status, timeout, connect,
tls, dns, reset, blocked), status, detail, outcome (delivered, retry, dead), reason, after_ms, meaning.

Exit codes: 0 it would have been delivered, 1 it would not, 2 wrong usage or configuration.")]
pub(super) struct Args {
    /// The endpoint's id in the configuration.
    #[arg(value_name = "ID")]
    id: String,
}

/// What is sent, in the form that Standard Webhooks proposes for events.
#[derive(Serialize)]
struct Body<'e> {
    r#type: &'static str,
    timestamp: String,
    data: Data<'e>,
}

#[derive(Serialize)]
struct Data<'e> {
    endpoint: &'e str,
}

/// What was found. Its JSON is a contract.
#[derive(Debug, Serialize)]
struct Report<'r> {
    endpoint: &'r str,
    url: String,
    id: &'r str,
    addresses: Vec<String>,
    peer: Option<String>,
    tls: Option<&'static str>,
    http2: bool,
    dns_ms: Option<f64>,
    connect_ms: Option<f64>,
    tls_ms: Option<f64>,
    first_byte_ms: Option<f64>,
    total_ms: f64,
    certificate: Option<Shown<'r>>,
    result: &'static str,
    status: Option<u16>,
    detail: &'r str,
    outcome: &'static str,
    reason: Option<&'static str>,
    after_ms: Option<u64>,
    meaning: String,
}

#[derive(Debug, Serialize)]
struct Shown<'r> {
    subject: &'r str,
    issuer: &'r str,
    names: &'r [String],
    not_before: i64,
    not_after: i64,
}

pub(super) async fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    let endpoint = find(settings, &args.id)?;
    let event = event(endpoint, now())?;
    let template = Template::new(endpoint)?;
    let target = Target::new(&endpoint.url, endpoint.timeout)?;
    let (headers, body) = Signer::new(endpoint).request(&template, &event, 1, now());
    let prober = Prober::new(Guard::new(&settings.security.allow)).context("no HTTP client")?;
    let (attempt, seen) = prober.attempt(&target, headers, body).await?;
    let so_far = SoFar { attempts: 0, age: Duration::ZERO, now_ms: now(), gone_counts: true };
    // Without jitter: the wait as it is configured.
    let outcome = outcome::judge(&attempt, &endpoint.retry, &so_far, 0.0);
    let pause = outcome::asked_pause(&attempt, &endpoint.retry, so_far.now_ms);
    let meaning = meaning(endpoint, outcome, pause);
    let report = Report::new(endpoint, &event.id, (&attempt, &seen), outcome, meaning);
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        write!(out, "{}", told(&report, &seen, endpoint, Paint::stdout()))?;
    }
    Ok(if outcome == Outcome::Delivered { Done::Well } else { Done::Failed })
}

fn event(endpoint: &Endpoint, at: i64) -> anyhow::Result<Event> {
    let body = Body { r#type: TYPE, timestamp: rfc3339(at), data: Data { endpoint: &endpoint.id } };
    Ok(Event {
        topic: TYPE.into(),
        partition: 0,
        offset: 0,
        timestamp: at,
        key: None,
        value: Some(Bytes::from(serde_json::to_vec(&body)?)),
        headers: Headers::default(),
        id: fresh_id()?.into(),
        event_type: TYPE.into(),
        tenant: endpoint.tenant.as_deref().map(Arc::from),
        priority: None,
        notice: false,
    })
}

/// What would become of a delivery, in words.
fn meaning(endpoint: &Endpoint, outcome: Outcome, pause: Option<Duration>) -> String {
    let attempts = endpoint.retry.schedule.len() + 1;
    match outcome {
        Outcome::Delivered => "delivered".to_owned(),
        Outcome::Retry { .. } if let Some(pause) = pause => {
            format!(
                "retry: the receiver asks for a pause, so nothing would be sent to it for {}",
                span(pause)
            )
        }
        Outcome::Retry { after, reason, .. } => {
            format!("retry ({}): attempt 2 of {attempts} would follow in {}", reason.as_str(), span(after))
        }
        Outcome::Dead { reason } => {
            let more = match reason {
                Reason::Gone => {
                    "the endpoint would be disabled, until `arauto endpoints enable` or another URL"
                }
                Reason::Rejected => "the status is in its dead_on",
                Reason::BlockedAddress => "if the address is meant, add its network to allow in [security]",
                Reason::Exhausted => "its retry schedule is empty",
                _ => "it would not be tried again by itself",
            };
            format!("dead ({}): {more}", reason.as_str())
        }
    }
}

impl<'r> Report<'r> {
    fn new(
        endpoint: &'r Endpoint,
        id: &'r str,
        (attempt, seen): (&'r Attempt, &'r Seen),
        outcome: Outcome,
        meaning: String,
    ) -> Self {
        let (result, status) = result(attempt.result);
        let (outcome, reason, after) = match outcome {
            Outcome::Delivered => ("delivered", None, None),
            Outcome::Retry { after, reason, .. } => ("retry", Some(reason), Some(after)),
            Outcome::Dead { reason } => ("dead", Some(reason), None),
        };
        Self {
            endpoint: &endpoint.id,
            url: masked(&endpoint.url),
            id,
            addresses: seen.addresses.iter().map(ToString::to_string).collect(),
            peer: seen.peer.map(|peer| peer.to_string()),
            tls: seen.tls,
            http2: seen.http2,
            dns_ms: seen.phases.dns.map(ms),
            connect_ms: seen.phases.connect.map(ms),
            tls_ms: seen.phases.tls.map(ms),
            first_byte_ms: seen.phases.first_byte.map(ms),
            total_ms: ms(attempt.duration),
            certificate: seen.certificate.as_ref().map(Shown::new),
            result,
            status,
            detail: &attempt.detail,
            outcome,
            reason: reason.map(Reason::as_str),
            after_ms: after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            meaning,
        }
    }
}

impl<'r> Shown<'r> {
    fn new(certificate: &'r Certificate) -> Self {
        let Certificate { subject, issuer, names, not_before, not_after } = certificate;
        Self { subject, issuer, names, not_before: *not_before, not_after: *not_after }
    }
}

fn result(result: AttemptResult) -> (&'static str, Option<u16>) {
    match result {
        AttemptResult::Status(status) => ("status", Some(status)),
        AttemptResult::Timeout => ("timeout", None),
        AttemptResult::Connect => ("connect", None),
        AttemptResult::Tls => ("tls", None),
        AttemptResult::Dns => ("dns", None),
        AttemptResult::Reset => ("reset", None),
        AttemptResult::Blocked => ("blocked", None),
    }
}

/// Milliseconds, to the hundredth.
fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 100_000.0).round() / 100.0
}

fn told(report: &Report<'_>, seen: &Seen, endpoint: &Endpoint, paint: Paint) -> String {
    let mut text =
        format!("{}  {TYPE} {} → {}\n\n", paint.paint(BOLD, report.endpoint), report.id, report.url);
    let protocol = seen.tls.map(|tls| format!("{tls}, {}", if seen.http2 { "HTTP/2" } else { "HTTP/1.1" }));
    let phases = [
        ("dns", report.dns_ms, Some(report.addresses.join(", "))),
        ("connect", report.connect_ms, report.peer.clone()),
        ("tls", report.tls_ms, protocol),
        ("first byte", report.first_byte_ms, None),
        ("total", Some(report.total_ms), None),
    ];
    for (name, time, what) in phases {
        let time = time.map_or_else(|| "-".to_owned(), |time| format!("{time:.2} ms"));
        let line = format!("  {name:<12}{time:>12}   {}", what.unwrap_or_default());
        writeln!(text, "{}", line.trim_end()).expect("a string takes every write");
    }
    text.push('\n');
    if let Some(certificate) = &seen.certificate {
        writeln!(text, "  {:<12}{}", "certificate", expiry(certificate, now(), paint)).expect("the same");
    }
    let answer = match report.status {
        Some(status) => format!("{status}  {}", report.detail),
        None => format!("none ({}): {}", report.result, report.detail),
    };
    writeln!(text, "  {:<12}{}", "answer", answer.trim_end()).expect("the same");
    let colour = match report.outcome {
        "delivered" => GREEN,
        "retry" => YELLOW,
        _ => RED,
    };
    writeln!(text, "  {:<12}{}", "meaning", paint.paint(colour, &report.meaning)).expect("the same");
    if !endpoint.enabled || endpoint.paused {
        let state = if endpoint.enabled { "paused" } else { "disabled" };
        let note = format!("the configuration has it {state}: its events are not sent");
        writeln!(text, "  {:<12}{}", "", paint.paint(DIM, &note)).expect("the same");
    }
    text
}

fn expiry(certificate: &Certificate, now: i64, paint: Paint) -> String {
    let remaining = certificate.remaining(now);
    let time = span(Duration::from_millis(remaining.unsigned_abs()));
    let (colour, when) = match remaining {
        i64::MIN..=0 => (RED, format!("it ended {time} ago")),
        _ if Duration::from_millis(remaining.unsigned_abs()) < SOON => (YELLOW, format!("{time} left")),
        _ => (GREEN, format!("{time} left")),
    };
    let until = rfc3339(certificate.not_after);
    format!(
        "{} by {}, until {until}, {}",
        certificate.subject,
        certificate.issuer,
        paint.paint(colour, &when)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_how_long_it_has() {
        let day = 24 * 60 * 60 * 1000;
        let certificate = Certificate {
            subject: "crm.example.com".to_owned(),
            issuer: "R11".to_owned(),
            names: Vec::new(),
            not_before: 0,
            not_after: 100 * day,
        };
        let rows =
            [(0, "100d 0h left"), (90, "10d 0h left"), (100, "it ended 0s ago"), (107, "it ended 7d 0h ago")];
        for (days, expected) in rows {
            let told = expiry(&certificate, days * day, Paint::none());
            assert_eq!(told, format!("crm.example.com by R11, until 1970-04-11T00:00:00Z, {expected}"));
        }
    }
}
