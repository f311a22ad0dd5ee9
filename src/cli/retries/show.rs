//! `arauto retries show`: everything about one delivery that waits.

use std::{
    io::{self, Write},
    ops::ControlFlow,
    time::Duration,
};

use anyhow::bail;
use data_encoding::BASE64;
use serde_json::{Value, json};

use super::{decoder, row::Row, scan};
use crate::{
    cli::{
        Done,
        date::rfc3339,
        paint::{DIM, Paint},
        words::span,
    },
    config::settings::Settings,
    pipeline::delivery::now,
    retries::Waiting,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  arauto retries show msg_2b5wq
  arauto retries show msg_2b5wq --endpoint crm --json

--json: one object per line: that of `retries list`, and `headers` (pairs) and `body` as text, or `body_base64`.")]
pub(super) struct Args {
    /// Its webhook id.
    #[arg(value_name = "ID")]
    id: String,
    /// Only of this endpoint; an event may wait for several.
    #[arg(long, value_name = "ID")]
    endpoint: Option<String>,
}

pub(super) fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    let mut found: Vec<Waiting> = Vec::new();
    let wanted = |waiting: &Waiting| args.endpoint.as_deref().is_none_or(|id| waiting.original().is_for(id));
    scan(
        settings,
        |glance| glance.id == Some(args.id.as_bytes()),
        |waiting| {
            found.extend(wanted(&waiting).then_some(waiting));
            ControlFlow::Continue(())
        },
    )?;
    if found.is_empty() {
        bail!(
            "no delivery with the id {} waits on the retry topics; it was delivered, is under way now, or died (arauto trace {})",
            args.id,
            args.id
        );
    }
    let decoder = decoder(settings);
    let mut out = io::stdout().lock();
    for waiting in found {
        let (headers, body) = (waiting.headers.clone(), waiting.record.value.clone());
        let row = Row::new(waiting, &decoder);
        let headers = headers.0.iter().map(|(name, value)| (&**name, value.as_deref()));
        if json {
            write_json(&mut out, &row, headers, body.as_deref())?;
        } else {
            write_text(&mut out, &row, headers, body.as_deref())?;
        }
    }
    Ok(Done::Well)
}

fn write_json<'a>(
    out: &mut impl Write,
    row: &Row,
    headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
    body: Option<&[u8]>,
) -> anyhow::Result<()> {
    let mut value = serde_json::to_value(row)?;
    let headers = headers.map(|(name, value)| json!([name, value.map(String::from_utf8_lossy)]));
    value["headers"] = headers.collect();
    match body.map(|body| (std::str::from_utf8(body), body)) {
        Some((Ok(text), _)) => value["body"] = text.into(),
        Some((Err(_), bytes)) => value["body_base64"] = BASE64.encode(bytes).into(),
        None => value["body"] = Value::Null,
    }
    serde_json::to_writer(&mut *out, &value)?;
    Ok(writeln!(out)?)
}

fn write_text<'a>(
    out: &mut impl Write,
    row: &Row,
    headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
    body: Option<&[u8]>,
) -> anyhow::Result<()> {
    let paint = Paint::stdout();
    let mut line =
        |name: &str, value: &str| writeln!(out, "{}  {value}", paint.paint(DIM, &format!("{name:11}")));
    let now = now();
    let at = |ms: i64| match ms - now {
        wait @ 1.. => format!("{} (in {})", rfc3339(ms), span(Duration::from_millis(wait.unsigned_abs()))),
        ago => format!("{} ({} ago)", rfc3339(ms), span(Duration::from_millis(ago.unsigned_abs()))),
    };
    line("id", &row.id)?;
    line("endpoint", &row.endpoint)?;
    line("type", &row.r#type)?;
    line("due", &at(row.due))?;
    line("looked at", &at(row.ready))?;
    line("because of", &row.why())?;
    if let Some(error) = &row.error {
        line("last error", &error.escape_debug().to_string())?;
    }
    line("attempts", &row.attempts.to_string())?;
    line("replays", &row.replays.to_string())?;
    line("first seen", &at(row.first_seen))?;
    line("source", &row.source)?;
    line("waits at", &row.at)?;
    for (name, value) in headers {
        let value = value.map_or_else(|| "(null)".into(), String::from_utf8_lossy);
        line("header", &format!("{}: {}", name.escape_debug(), value.escape_debug()))?;
    }
    let Some(body) = body else { return Ok(writeln!(out)?) };
    match std::str::from_utf8(body) {
        Ok(text) => writeln!(out, "\n{}\n", printable(text))?,
        Err(_) => writeln!(out, "\n{} bytes that are no text; --json has them\n", body.len())?,
    }
    Ok(())
}

/// The text without what could play tricks on a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c }).collect()
}
