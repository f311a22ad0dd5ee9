//! `arauto sign`: the headers that go with a body, as an attempt would carry them.

use std::io::{self, Write as _};

use anyhow::{Context as _, bail};
use http_types::HeaderMap;
use serde_json::{Map, Value};

use super::{
    Done, Usage, body, date,
    secret::{self, Keys, Scheme},
};
use crate::{
    config::{secret::SigningKey, settings::Signature},
    pipeline::{
        delivery::now,
        sign::{GITHUB, ID, STANDARD, STRIPE, Signer, TIMESTAMP},
    },
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  arauto sign order.json --secret env:CRM_SECRET
  arauto sign order.json --endpoint crm
  arauto sign --body '{\"test\": 1}' --secret file:crm.secret --id msg_1 --timestamp 2026-01-31T08:00:00Z
  arauto sign order.json --secret env:GITHUB_SECRET --scheme github
  arauto sign order.json --endpoint crm | curl -H @- --data-binary @order.json https://crm.example.com/hooks

--json: one object, the header's name to its value")]
pub(super) struct Args {
    #[command(flatten)]
    body: body::Args,
    /// A secret to sign with: env:NAME, file:PATH, or itself (which your shell may remember). May be given several
    /// times: all of them sign.
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<String>,
    /// How to sign.
    #[arg(long, value_enum, default_value = "standard")]
    scheme: Scheme,
    /// Sign as this endpoint of the configuration does.
    #[arg(long, value_name = "ID", conflicts_with_all = ["secrets", "scheme"])]
    endpoint: Option<String>,
    /// The webhook's id; a fresh one if it is left out.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// When it is signed: 2h (ago), 2026-01-31T08:00:00Z or unix seconds.
    #[arg(long, value_name = "TIME", default_value = "now")]
    timestamp: String,
}

impl Args {
    /// The endpoint whose secrets are meant.
    pub(super) fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    fn keys(&self) -> anyhow::Result<Keys> {
        let scheme = Signature::from(self.scheme);
        match (scheme, self.secrets.len()) {
            (Signature::None, 0)
            | (Signature::Standard | Signature::Stripe, 1..)
            | (Signature::Github, 1) => {}
            (Signature::None, _) => {
                bail!(Usage("--scheme none signs nothing: leave --secret out".to_owned()))
            }
            (_, 0) => bail!(Usage("name a secret with --secret, or an endpoint with --endpoint".to_owned())),
            (_, _) => bail!(Usage("GitHub's header holds one signature: give one --secret".to_owned())),
        }
        let mut keys = Vec::new();
        for (number, text) in (1..).zip(&self.secrets) {
            // The number, not the secret: errors are printed.
            let text = secret::resolve(text).with_context(|| format!("reading secret {number}"))?;
            let key = SigningKey::parse(&text, scheme);
            keys.push(key.map_err(|wrong| Usage(format!("secret {number}: {wrong}")))?);
        }
        Ok(Keys { scheme, keys })
    }
}

/// Signs with the given keys, or with those on the command line.
pub(super) fn run(args: &Args, keys: Option<Keys>, json: bool) -> anyhow::Result<Done> {
    let Keys { scheme, keys } = keys.map_or_else(|| args.keys(), Ok)?;
    let now = now();
    let at = date::parse(&args.timestamp, now).filter(|at| *at >= 0);
    let at =
        at.ok_or_else(|| Usage(format!("--timestamp {:?} is none of: {}", args.timestamp, date::FORMS)))?;
    let id = args.id.clone().map_or_else(secret::fresh_id, Ok)?;
    let body = args.body.read()?;
    let mut headers = HeaderMap::new();
    Signer::with(scheme, &keys).sign(&id, at.div_euclid(1000), &body, &mut headers);
    print(&headers, json)?;
    Ok(Done::Well)
}

fn print(headers: &HeaderMap, json: bool) -> anyhow::Result<()> {
    let named = [ID, TIMESTAMP, STANDARD, GITHUB, STRIPE].into_iter().filter_map(|name| {
        let value = headers.get(&name)?.to_str().ok()?;
        Some((name.as_str().to_owned(), value))
    });
    let mut out = io::stdout().lock();
    if json {
        let object: Map<String, Value> = named.map(|(name, value)| (name, value.into())).collect();
        return Ok(writeln!(out, "{}", Value::Object(object))?);
    }
    for (name, value) in named {
        writeln!(out, "{name}: {value}")?;
    }
    Ok(())
}
