//! `arauto secret`: fresh secrets. Also how every command is given one.

use std::{
    env,
    io::{self, Write as _},
    path::Path,
};

use anyhow::anyhow;
use clap::ValueEnum;
use data_encoding::BASE64;
use serde::Serialize;

use super::Done;
use crate::config::{
    reference,
    secret::SigningKey,
    settings::{Endpoint, Signature},
};

/// The size of SHA-256's output, beyond which a key gains nothing (RFC 2104, section 3).
const HMAC_BYTES: usize = 32;

/// Make secrets.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print a fresh secret, from the operating system's source of randomness.
    ///
    /// A `whsec_…` secret is for both sides: `secrets` of the endpoint, and the receiver. With --ed25519 only we can
    /// sign: the first line is the `whsk_…` secret for the endpoint, the second the `whpk_…` public key for receivers.
    #[command(after_help = "\
Examples:
  arauto secret new > crm.secret           then secrets = [\"file:crm.secret\"]
  arauto secret new --ed25519              secret and public key
  arauto secret new --ed25519 --json | jq -r .public

To change a secret without losing a webhook: put the new one beside the old one (both sign), give it to the receiver,
then remove the old one.

--json: {\"secret\": \"whsec_…\"}, or {\"secret\": \"whsk_…\", \"public\": \"whpk_…\"}")]
    New {
        /// An Ed25519 key pair (signature v1a), whose public half is all that receivers need.
        #[arg(long)]
        ed25519: bool,
    },
    /// Print the public key that belongs to a whsk_… secret.
    #[command(after_help = "\
Examples:
  arauto secret public env:CRM_SECRET
  arauto secret public file:crm.secret

--json: {\"public\": \"whpk_…\"}")]
    Public {
        /// The secret: env:NAME, file:PATH, or itself (which your shell may remember).
        secret: String,
    },
}

#[derive(Debug, Serialize)]
struct Printed {
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public: Option<String>,
}

pub(super) fn run(args: &Args, json: bool) -> anyhow::Result<Done> {
    let printed = match &args.what {
        What::New { ed25519: false } => {
            let key = random::<HMAC_BYTES>()?;
            Printed { secret: Some(format!("whsec_{}", BASE64.encode(&key))), public: None }
        }
        What::New { ed25519: true } => {
            let key = ed25519_dalek::SigningKey::from_bytes(&random()?);
            let secret = format!("whsk_{}", BASE64.encode(&key.to_keypair_bytes()));
            Printed { secret: Some(secret), public: SigningKey::Ed25519(key.to_bytes()).public() }
        }
        What::Public { secret } => {
            let key = SigningKey::parse(&resolve(secret)?, Signature::Standard)?;
            let public = key.public().ok_or(anyhow!(
                "a whsec_ secret has no public key: the receiver needs the secret itself; \
                 `arauto secret new --ed25519` makes one that has"
            ))?;
            Printed { secret: None, public: Some(public) }
        }
    };
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&printed)?)?;
    } else {
        for line in printed.secret.iter().chain(&printed.public) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(Done::Well)
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = getrandom::fill(&mut bytes);
    filled.map_err(|error| anyhow!("the operating system gives no random bytes: {error}"))?;
    Ok(bytes)
}

/// An id for what is sent by hand.
pub(super) fn fresh_id() -> anyhow::Result<String> {
    Ok(format!("msg_{}", data_encoding::BASE32_NOPAD.encode(&random::<20>()?).to_ascii_lowercase()))
}

/// The text of a secret that may be `env:NAME` or `file:PATH`.
pub(super) fn resolve(secret: &str) -> anyhow::Result<String> {
    let here = Path::new("");
    reference::resolve(secret, here, &|name| env::var(name)).unwrap_or_else(|| Ok(secret.to_owned())).map_err(
        |error| match secret.starts_with("env:") || secret.starts_with("file:") {
            true => anyhow!("{secret} {error}"),
            false => error.into(),
        },
    )
}

/// A signature scheme by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Scheme {
    /// Standard Webhooks: v1 by whsec_… secrets, v1a by whsk_… secrets.
    Standard,
    /// X-Hub-Signature-256.
    Github,
    /// Stripe-Signature.
    Stripe,
    /// Not signed.
    None,
}

impl From<Scheme> for Signature {
    fn from(scheme: Scheme) -> Self {
        match scheme {
            Scheme::Standard => Self::Standard,
            Scheme::Github => Self::Github,
            Scheme::Stripe => Self::Stripe,
            Scheme::None => Self::None,
        }
    }
}

/// A scheme and its keys, as one endpoint has them.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) scheme: Signature,
    pub(super) keys: Vec<SigningKey>,
}

impl From<&Endpoint> for Keys {
    fn from(endpoint: &Endpoint) -> Self {
        Self { scheme: endpoint.signature, keys: endpoint.keys.clone() }
    }
}
