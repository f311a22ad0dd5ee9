//! `arauto listen`: a receiver for the desk. Verifies, prints one line for each webhook, counts duplicates.
//!
//! Never stores anything; forwards only where it was told to, and only what verifies.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use data_encoding::BASE64;
use http_types::{HeaderName, HeaderValue};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{Done, secret};
use crate::{
    config::value::parse_duration,
    dev::{
        receiver::{self, Handle, Received, Receiver, Script, Stats},
        script::Steps,
    },
    http::forward::Forwarder,
    pipeline::sign::verify,
};

/// Webhooks told of but not printed yet; a terminal slower than that loses lines, not counts.
const UNPRINTED: usize = 4_096;

/// Receives webhooks, verifies them and prints a line for each. GET /stats answers with the counts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  arauto listen --secret env:CRM_SECRET
  arauto listen --script 503:retry-after=5:times=3,200            fails three times, then is well
  arauto listen --script 200,timeout,500:delay=2s,repeat          again and again
  arauto listen --secret env:CRM_SECRET --forward-to http://localhost:3000/hooks
  arauto listen --json --count 10 > received.jsonl                then: arauto send --replay-file received.jsonl

A script has steps with commas between: a status (200 to 599), or timeout (no answer ever). Each may have options behind
colons: retry-after=SECONDS, delay=DURATION, times=COUNT (so many requests instead of one). After the last step it goes
on for ever; with repeat as the last word the first step follows.

--forward-to sends each request that verifies (without --secret: each) to your own server, with the same method, headers
and bytes, and answers what it answers; what does not verify is answered with 401. A URL without a path keeps the path
of each request. When your server cannot be reached the answer is 502, after 30 s without its answer 504.

--json: first {\"listening\"}, then a line for each webhook with at (unix ms), path, event_type, id, attempt, verified, error,
status (null: no answer), note, duplicate, bytes, headers, and body or body_base64; at the end {\"summary\"} with received,
unique, duplicates, verified, failed_verification, answered.

Exit codes: 0 done, 1 with --count when a webhook did not verify, 2 wrong usage.")]
pub(super) struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8080")]
    addr: SocketAddr,
    /// A secret to verify with: whsec_…, whsk_…, whpk_… (public key), any text for GitHub's and Stripe's schemes,
    /// env:NAME or file:PATH. May be given several times; one that fits is enough.
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<String>,
    /// Answer step by step, e.g. 200,503:retry-after=5:times=3,timeout; see below.
    #[arg(long, conflicts_with_all = ["status", "delay", "fail_percent"])]
    script: Option<Steps>,
    /// Send what verifies on to this URL, and answer what is answered there; see below.
    #[arg(long, value_name = "URL", value_parser = url,
          conflicts_with_all = ["script", "status", "delay", "fail_percent"])]
    forward_to: Option<Url>,
    /// The status to answer with.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..=599))]
    status: u16,
    /// Time before each answer, e.g. 250ms or 5s.
    #[arg(long, default_value = "0s", value_parser = delay)]
    delay: Duration,
    /// Share of requests answered with 500.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    fail_percent: u8,
    /// End after this many requests; exit code 1 if any of them did not verify.
    #[arg(long)]
    count: Option<u64>,
}

/// Listens until Ctrl-C, or until `--count` requests have been answered.
pub(super) async fn run(args: Args, json: bool) -> anyhow::Result<Done> {
    let (tell, mut told) = mpsc::channel(UNPRINTED);
    let (receiver, handle) =
        Receiver::bind(options(&args, tell)?).await.with_context(|| format!("listening on {}", args.addr))?;
    greet(&args, json, handle.addr())?;
    let stop = CancellationToken::new();
    let show = async {
        let shown = show(&args, json, &handle, &mut told).await;
        stop.cancel();
        shown
    };
    let (served, shown) = tokio::join!(receiver.run(stop.clone()), show);
    served.context("receiving")?;
    shown.context("printing")?;
    finish(&args, json, &handle.stats())
}

fn options(args: &Args, tell: mpsc::Sender<Arc<Received>>) -> anyhow::Result<receiver::Options> {
    let mut options = receiver::Options::new(args.addr);
    for (number, secret) in (1..).zip(&args.secrets) {
        // The number, not the secret: errors are printed.
        let secret = secret::resolve(secret).with_context(|| format!("reading secret {number}"))?;
        options.keys.extend(verify::Key::parse(&secret).with_context(|| format!("reading secret {number}"))?);
    }
    options.script = Script {
        status: args.status,
        fail_percent: args.fail_percent,
        delay: args.delay,
        steps: args.script.clone(),
        ..Script::default()
    };
    options.forward = args.forward_to.clone().map(Forwarder::new).transpose()?;
    options.keep = 0;
    options.tell = Some(tell);
    Ok(options)
}

/// Prints until Ctrl-C or until the count is reached, then what is still in the channel.
async fn show(
    args: &Args,
    json: bool,
    handle: &Handle,
    told: &mut mpsc::Receiver<Arc<Received>>,
) -> io::Result<()> {
    let enough =
        |stats: &Stats| args.count.is_some_and(|count| stats.answered.values().sum::<u64>() >= count);
    // Far longer than anyone listens; `until` wants an end.
    let counted = handle.until(Duration::from_secs(u64::from(u32::MAX)), enough);
    let stopped = tokio::signal::ctrl_c();
    // Made once: a Ctrl-C between two waits would reach nobody.
    tokio::pin!(counted, stopped);
    loop {
        tokio::select! {
            Some(received) = told.recv() => print(json, &received)?,
            _ = &mut counted => break,
            stopped = &mut stopped => { stopped?; break }
        }
    }
    // What has come by now, and no more: a stream that never ends must not keep us.
    for _ in 0..told.len() {
        if let Ok(received) = told.try_recv() {
            print(json, &received)?;
        }
    }
    Ok(())
}

fn greet(args: &Args, json: bool, addr: SocketAddr) -> io::Result<()> {
    if json {
        return say(&json!({ "listening": addr }).to_string());
    }
    let verifying = match args.secrets.len() {
        0 => "signatures are not verified: no --secret".to_owned(),
        1 => "verifying with 1 secret".to_owned(),
        secrets => format!("verifying with {secrets} secrets"),
    };
    let forwarding = args.forward_to.as_ref().map(|to| format!(", forwarding to {to}")).unwrap_or_default();
    say(&format!("listening on http://{addr}, {verifying}{forwarding}"))
}

fn print(json: bool, received: &Received) -> io::Result<()> {
    say(&if json { as_json(received).to_string() } else { as_line(received) })
}

fn as_line(received: &Received) -> String {
    let verified = match received.verified {
        Some(Ok(())) => "verified ✓".to_owned(),
        Some(Err(refused)) => format!("NOT VERIFIED ✗ ({refused})"),
        None => "not verified".to_owned(),
    };
    let or_dash = |text: &'_ str| {
        if text.is_empty() { "-".to_owned() } else { text.to_owned() }
    };
    format!(
        "{} {} {} {} attempt {} {verified} → {}{}{}",
        clock(received.at_ms),
        received.path,
        or_dash(received.header("arauto-event-type")),
        or_dash(received.id()),
        or_dash(received.header("arauto-attempt")),
        received.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string()),
        if received.duplicate { " duplicate" } else { "" },
        received.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default(),
    )
}

fn as_json(received: &Received) -> serde_json::Value {
    let error = received.verified.and_then(Result::err).map(|refused| refused.to_string());
    let (body, content) = match std::str::from_utf8(&received.body) {
        Ok(text) => ("body", text.to_owned()),
        Err(_) => ("body_base64", BASE64.encode(&received.body)),
    };
    json!({
        "at": received.at_ms,
        "path": received.path,
        "event_type": received.header("arauto-event-type"),
        "id": received.id(),
        "attempt": received.header("arauto-attempt").parse::<u32>().ok(),
        "verified": received.verified.map(|verified| verified.is_ok()),
        "error": error,
        "status": received.status,
        "duplicate": received.duplicate,
        "note": received.note,
        "bytes": received.body.len(),
        "headers": headers(received),
        (body): content,
    })
}

/// By name; an array where a name stands more than once.
fn headers(received: &Received) -> serde_json::Map<String, serde_json::Value> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned().into();
    let named = |name: &HeaderName| {
        let mut values: Vec<serde_json::Value> = received.headers.get_all(name).iter().map(text).collect();
        if values.len() == 1 { values.remove(0) } else { values.into() }
    };
    received.headers.keys().map(|name| (name.to_string(), named(name))).collect()
}

fn finish(args: &Args, json: bool, stats: &Stats) -> anyhow::Result<Done> {
    if json {
        say(&json!({ "summary": stats }).to_string())?;
    } else {
        let verified = match args.secrets.len() {
            0 => "not verified".to_owned(),
            _ => format!("{} verified, {} not", stats.verified, stats.failed_verification),
        };
        say(&format!(
            "{} received, {} unique, {} duplicates, {verified}",
            stats.received, stats.unique, stats.duplicates
        ))?;
    }
    if args.count.is_some() && stats.failed_verification > 0 {
        bail!("{} of {} webhooks did not verify", stats.failed_verification, stats.received);
    }
    Ok(Done::Well)
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    // A pipe is buffered by the block; whoever reads it wants each line now.
    out.flush()
}

/// `HH:MM:SS.mmm` in UTC.
pub(super) fn clock(at_ms: i64) -> String {
    let day = at_ms.rem_euclid(24 * 60 * 60 * 1000);
    let (seconds, ms) = (day / 1000, day % 1000);
    format!("{:02}:{:02}:{:02}.{ms:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A server nearby is mostly meant, so `http://` may be left out.
fn url(text: &str) -> Result<Url, String> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&whole).map_err(|error| error.to_string())?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err("is no URL such as http://localhost:3000/hooks".to_owned()),
    }
}

fn delay(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|wrong| wrong.to_string())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_types::HeaderMap;

    use super::*;

    fn received(verified: Option<Result<(), verify::Refused>>) -> Received {
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", "msg_1".parse().unwrap());
        headers.insert("arauto-attempt", "2".parse().unwrap());
        Received {
            at_ms: 1_614_265_330_007,
            path: "/hook".into(),
            headers,
            body: Bytes::from_static(b"{}"),
            verified,
            status: Some(200),
            note: None,
            duplicate: true,
        }
    }

    #[test]
    fn a_line_says_it_all() {
        let line = as_line(&received(Some(Ok(()))));
        assert_eq!(line, "15:02:10.007 /hook - msg_1 attempt 2 verified ✓ → 200 duplicate");
        let line = as_line(&received(Some(Err(verify::Refused::Mismatch))));
        assert!(line.contains("NOT VERIFIED ✗ (signature matches no key)"), "{line}");
        assert!(as_line(&received(None)).contains("not verified"));
        let unanswered = Received { status: None, duplicate: false, ..received(None) };
        assert!(as_line(&unanswered).ends_with("not verified → no answer"), "{}", as_line(&unanswered));
        let failed = Received { status: Some(502), note: Some("nobody there".into()), ..unanswered };
        assert!(as_line(&failed).ends_with("→ 502 (nobody there)"), "{}", as_line(&failed));
        let json = as_json(&received(Some(Ok(()))));
        assert_eq!(
            (&json["verified"], &json["body"], &json["body_base64"]),
            (&true.into(), &"{}".into(), &json!(null))
        );
        assert_eq!(json["headers"], json!({ "webhook-id": "msg_1", "arauto-attempt": "2" }));
        let binary = Received { body: Bytes::from_static(b"\xff"), ..received(None) };
        assert_eq!(as_json(&binary)["body_base64"], "/w==");
        assert_eq!(as_json(&received(None))["verified"], serde_json::Value::Null);
    }
}
