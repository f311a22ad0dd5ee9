//! `arauto verify`: does this webhook verify, and if not, what exactly is wrong with it?
//!
//! Reads what it is given and tells; sends nothing.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use http_types::HeaderMap;

use self::{
    diagnosis::{Diagnosis, Request, diagnose},
    key::Secret,
};
use super::{
    Done, Usage, body,
    date::{self, rfc3339},
    paint::{BOLD, DIM, GREEN, Paint, RED},
    secret::{self, Keys},
};
use crate::{config::value::parse_duration, pipeline::delivery::now};

mod diagnosis;
mod forms;
mod given;
mod header;
mod key;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  arauto verify body.json --headers headers.txt --secret env:CRM_SECRET
  arauto verify body.json --headers headers.txt --endpoint crm --at 2026-01-31T08:00:00Z
  arauto verify --body '{}' --secret whsec_… \\
    -H 'webhook-id: msg_1' -H 'webhook-timestamp: 1614265330' -H 'webhook-signature: v1,…'
  arauto sign b.json --endpoint crm | arauto verify b.json --headers - --endpoint crm

When the signature does not fit, the body is tried with other line ends and, if it is JSON, written anew as other
programs write it; if one of these fits, it says which.

--json: {\"verified\", \"scheme\", \"id\", \"timestamp\", \"secret\" (which one fits, from 1), \"problems\": [{\"what\", \"detail\",
\"help\"}]}, where what is one of unsigned, malformed, too_old, too_new, body_changed, secret_misread, key_kind, mismatch.

Exit codes: 0 verified, 1 not verified, 2 wrong usage.")]
pub(super) struct Args {
    #[command(flatten)]
    body: body::Args,
    /// A header of the webhook; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// File with its headers, - for standard input: lines of NAME: VALUE (a whole request's head will do, or what
    /// curl -v shows), or JSON, such as a line of `arauto listen --json`.
    #[arg(long, value_name = "FILE")]
    headers: Option<PathBuf>,
    /// A secret to verify with: whsec_…, whsk_…, whpk_… (public key), any text for GitHub's and Stripe's schemes,
    /// env:NAME or file:PATH. May be given several times; one that fits is enough.
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<String>,
    /// Verify with the secrets of this endpoint of the configuration.
    #[arg(long, value_name = "ID", conflicts_with = "secrets")]
    endpoint: Option<String>,
    /// Judge its time as if it was then: 2h (ago), 2026-01-31T08:00:00Z or unix seconds.
    #[arg(long, value_name = "TIME", default_value = "now")]
    at: String,
    /// How far its time may be away, either way.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    tolerance: Duration,
}

impl Args {
    /// The endpoint whose secrets are meant.
    pub(super) fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    fn secrets(&self) -> anyhow::Result<Vec<Secret>> {
        if self.secrets.is_empty() {
            bail!(Usage("name a secret with --secret, or an endpoint with --endpoint".to_owned()));
        }
        let read = |(number, text): (usize, &String)| {
            // The number, not the secret: errors are printed.
            let text = secret::resolve(text).with_context(|| format!("reading secret {number}"))?;
            Ok(Secret::new(text).map_err(|wrong| Usage(format!("secret {number}: {wrong}")))?)
        };
        (1..).zip(&self.secrets).map(read).collect()
    }

    fn headers(&self) -> anyhow::Result<HeaderMap> {
        let mut text = self.header.join("\n");
        if let Some(file) = &self.headers {
            if self.body.is_stdin() && file == Path::new("-") {
                bail!(Usage(
                    "standard input has either the body or the headers: name a file for one".to_owned()
                ));
            }
            let bytes = body::read(file)?;
            let more = String::from_utf8_lossy(&bytes);
            if !text.is_empty() {
                let mut all = given::parse(&text)?;
                all.extend(given::parse(&more).with_context(|| format!("reading {}", file.display()))?);
                return Ok(all);
            }
            text = more.into_owned();
        }
        let headers = given::parse(&text)?;
        if headers.is_empty() {
            bail!(Usage("give the webhook's headers with -H 'NAME: VALUE' or --headers FILE".to_owned()));
        }
        Ok(headers)
    }
}

/// Verifies with the given keys, or with the secrets on the command line.
pub(super) fn run(args: &Args, keys: Option<Keys>, json: bool) -> anyhow::Result<Done> {
    let secrets = match keys {
        Some(keys) if keys.keys.is_empty() => bail!(Usage("that endpoint signs nothing".to_owned())),
        Some(keys) => keys.keys.into_iter().map(Secret::Configured).collect(),
        None => args.secrets()?,
    };
    let at = date::parse(&args.at, now());
    let at = at.ok_or_else(|| Usage(format!("--at {:?} is none of: {}", args.at, date::FORMS)))?;
    let headers = args.headers()?;
    let body = args.body.read()?;
    let tolerance = i64::try_from(args.tolerance.as_secs()).unwrap_or(i64::MAX);
    let request = Request { headers: &headers, body: &body, now: at.div_euclid(1000), tolerance };
    let diagnosis = diagnose(&request, &secrets);
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&diagnosis)?)?;
    } else {
        write!(out, "{}", told(&diagnosis, Paint::stdout()))?;
    }
    Ok(if diagnosis.verified { Done::Well } else { Done::Failed })
}

fn told(diagnosis: &Diagnosis, paint: Paint) -> String {
    let Diagnosis { verified, scheme, id, timestamp, secret, problems } = diagnosis;
    let mut facts: Vec<String> = scheme.iter().map(|scheme| format!("scheme {scheme}")).collect();
    facts.extend(id.iter().map(|id| format!("id {id}")));
    facts.extend(timestamp.iter().map(|at| format!("signed {}", rfc3339(at.saturating_mul(1000)))));
    facts.extend(secret.iter().map(|number| format!("secret {number} fits")));
    let verdict =
        if *verified { paint.paint(GREEN, "✓ verified") } else { paint.paint(RED, "✗ not verified") };
    let mut text = format!("{verdict}  {}\n", paint.paint(DIM, &facts.join(", ")));
    for problem in problems {
        let title = paint.paint(BOLD, problem.what.title());
        text.push_str(&format!("  {title}: {}\n    → {}\n", problem.detail, problem.help));
    }
    text
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|wrong| wrong.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::sign::verify::TOLERANCE;

    #[test]
    fn the_usual_tolerance_is_the_default() {
        use clap::Parser;

        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let line = Line::try_parse_from(["verify"]).unwrap();
        assert_eq!(i64::try_from(line.args.tolerance.as_secs()), Ok(TOLERANCE));
    }
}
