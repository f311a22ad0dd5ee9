//! `arauto endpoints list`: the endpoints as the configuration has them, for people and for programs.
//!
//! Secrets and the values of headers are never shown; of a URL, which often holds a token, the path only when asked for.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
};

use serde::Serialize;
use url::Url;

use crate::{
    cli::{
        Done,
        paint::{DIM, Paint, YELLOW},
        words::counted,
    },
    config::{
        secret::SigningKey,
        settings::{Endpoint, Ordering, Priority, Queue, Rate, Settings, Signature, TopicSelector},
        value::tier_name,
    },
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  arauto endpoints list
  arauto endpoints list --urls
  arauto endpoints list --json | jq -r '.[] | select(.enabled | not) | .id'

What an instance makes of them now (disabled by a 410, breaker, lag) is told by `arauto lanes`.

--json: an array of objects: id, url, topics, types, tenant, enabled, paused, signature, keys (kind and, of Ed25519, the
public key), headers (names only), forward, timeout, concurrency, rate, burst, queue, ordering, priority, retry, breaker,
disable_after. Durations and rates are written as in the configuration; null is what has no limit.")]
pub(super) struct Args {
    /// Show whole URLs. Many receivers take a token in theirs.
    #[arg(long)]
    urls: bool,
}

/// One endpoint. Its JSON is a contract.
#[derive(Debug, Serialize)]
struct Listed<'e> {
    id: &'e str,
    url: String,
    topics: Option<Vec<String>>,
    types: Option<&'e [String]>,
    tenant: Option<&'e str>,
    enabled: bool,
    paused: bool,
    signature: &'static str,
    keys: Vec<Key>,
    headers: Vec<&'e str>,
    forward: &'e [String],
    timeout: String,
    concurrency: usize,
    rate: Option<String>,
    burst: u32,
    queue: &'static str,
    ordering: &'static str,
    priority: &'static str,
    retry: Retry,
    breaker: Breaker,
    disable_after: Option<String>,
}

#[derive(Debug, Serialize)]
struct Key {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    public: Option<String>,
}

#[derive(Debug, Serialize)]
struct Retry {
    schedule: Vec<String>,
    jitter: f64,
    max_age: String,
    max_pause: String,
    dead_on: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Breaker {
    failures: f64,
    minimum: u32,
    open_for: String,
    max_open: String,
}

pub(super) fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    let listed: Vec<Listed<'_>> =
        settings.endpoints.iter().map(|endpoint| Listed::new(endpoint, args.urls)).collect();
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&listed)?)?;
    } else {
        write!(out, "{}", table(&listed, Paint::stdout()))?;
    }
    Ok(Done::Well)
}

/// A URL that may be shown: its origin, and whether there is more.
pub(super) fn masked(url: &Url) -> String {
    let origin = url.origin().ascii_serialization();
    if url.path() == "/" && url.query().is_none() { format!("{origin}/") } else { format!("{origin}/…") }
}

impl<'e> Listed<'e> {
    fn new(endpoint: &'e Endpoint, urls: bool) -> Self {
        let topic = |topic: &TopicSelector| match topic {
            TopicSelector::Name(name) => name.clone(),
            TopicSelector::Pattern(_, written) => written.clone(),
        };
        Self {
            id: &endpoint.id,
            url: if urls { endpoint.url.to_string() } else { masked(&endpoint.url) },
            topics: endpoint.topics.as_ref().map(|topics| topics.iter().map(topic).collect()),
            types: endpoint.types.as_deref(),
            tenant: endpoint.tenant.as_deref(),
            enabled: endpoint.enabled,
            paused: endpoint.paused,
            signature: signature(endpoint.signature),
            keys: endpoint.keys.iter().map(Key::new).collect(),
            headers: endpoint.headers.iter().map(|(name, _)| name.as_str()).collect(),
            forward: &endpoint.forward,
            timeout: tier_name(endpoint.timeout),
            concurrency: endpoint.concurrency,
            rate: endpoint.rate.map(rate),
            burst: endpoint.burst,
            queue: match endpoint.queue {
                Queue::Shared => "shared",
                Queue::Own => "own",
            },
            ordering: match endpoint.ordering {
                Ordering::None => "none",
                Ordering::Key => "key",
                Ordering::Endpoint => "endpoint",
            },
            priority: Priority::WORDS
                .iter()
                .find(|(_, p)| *p == endpoint.priority)
                .map_or("", |(word, _)| word),
            retry: Retry {
                schedule: endpoint.retry.schedule.iter().copied().map(tier_name).collect(),
                jitter: endpoint.retry.jitter,
                max_age: tier_name(endpoint.retry.max_age),
                max_pause: tier_name(endpoint.retry.max_pause),
                dead_on: endpoint.retry.dead_on.iter().map(|range| statuses(*range)).collect(),
            },
            breaker: Breaker {
                failures: endpoint.breaker.failures,
                minimum: endpoint.breaker.minimum,
                open_for: tier_name(endpoint.breaker.open_for),
                max_open: tier_name(endpoint.breaker.max_open),
            },
            disable_after: endpoint.disable_after.map(tier_name),
        }
    }

    /// What it wants, in a few words.
    fn wants(&self) -> String {
        let list = |items: &[String]| items.join(" ");
        let topics = self.topics.as_deref().map(|topics| format!("on {}", list(topics)));
        let tenant = self.tenant.map(|tenant| format!("of {tenant}"));
        let types = self.types.map_or_else(|| "everything".to_owned(), list);
        [Some(types), topics, tenant].into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    fn signed(&self) -> String {
        let mut kinds = BTreeMap::new();
        for key in &self.keys {
            *kinds.entry(key.kind).or_insert(0) += 1;
        }
        let keys = |(kind, count): (&str, usize)| {
            if count == 1 { kind.to_owned() } else { format!("{count} {kind}") }
        };
        match self.signature {
            "none" => "none".to_owned(),
            scheme => format!("{scheme}: {}", kinds.into_iter().map(keys).collect::<Vec<_>>().join(", ")),
        }
    }

    fn state(&self) -> &'static str {
        match (self.enabled, self.paused) {
            (false, _) => "disabled",
            (true, true) => "paused",
            (true, false) => "enabled",
        }
    }
}

impl Key {
    fn new(key: &SigningKey) -> Self {
        let kind = match key {
            SigningKey::Hmac(_) => "hmac",
            SigningKey::Ed25519(_) => "ed25519",
        };
        Self { kind, public: key.public() }
    }
}

fn signature(signature: Signature) -> &'static str {
    match signature {
        Signature::Standard => "standard",
        Signature::Github => "github",
        Signature::Stripe => "stripe",
        Signature::None => "none",
    }
}

fn rate(rate: Rate) -> String {
    let unit = match rate.per.as_secs() {
        0..=1 => "s",
        2..=60 => "m",
        _ => "h",
    };
    format!("{}/{unit}", rate.count)
}

fn statuses((low, high): (u16, u16)) -> String {
    if low == high {
        low.to_string()
    } else if low % 100 == 0 && high == low + 99 {
        format!("{}xx", low / 100)
    } else {
        format!("{low}-{high}")
    }
}

fn table(listed: &[Listed<'_>], paint: Paint) -> String {
    const HEADS: [&str; 7] = ["ENDPOINT", "STATE", "URL", "WANTS", "SIGNATURE", "RATE", "QUEUE"];
    const STATE: usize = 1;
    if listed.is_empty() {
        return "There are no endpoints in the configuration.\n".to_owned();
    }
    let queue = |endpoint: &Listed<'_>| match endpoint.ordering {
        "none" => endpoint.queue.to_owned(),
        ordering => format!("{}, ordered by {ordering}", endpoint.queue),
    };
    let row = |endpoint: &Listed<'_>| {
        let rate = endpoint.rate.clone().unwrap_or_else(|| "unlimited".to_owned());
        let (id, state) = (endpoint.id.to_owned(), endpoint.state().to_owned());
        [id, state, endpoint.url.clone(), endpoint.wants(), endpoint.signed(), rate, queue(endpoint)]
    };
    let rows: Vec<[String; 7]> = listed.iter().map(row).collect();
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).chain([HEADS[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    let line = |cells: &[String; 7], colour: Option<&str>| {
        let cells: Vec<String> = (0..7)
            .map(|column| {
                let cell = format!("{:1$}", cells[column], widths[column]);
                colour.filter(|_| column == STATE).map_or(cell.clone(), |colour| paint.paint(colour, &cell))
            })
            .collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    let mut text = paint.paint(DIM, line(&HEADS.map(str::to_owned), None).trim_end());
    text.push('\n');
    for (row, endpoint) in rows.iter().zip(listed) {
        text.push_str(&line(row, (endpoint.state() != "enabled").then_some(YELLOW)));
    }
    text.push_str(&paint.paint(DIM, &counted(listed.len(), "endpoint")));
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_url_only_the_origin_is_shown() {
        for (url, expected) in [
            ("https://crm.example.com", "https://crm.example.com/"),
            ("https://crm.example.com:8443/", "https://crm.example.com:8443/"),
            ("https://hooks.example.com/services/T0/B0/s3cret", "https://hooks.example.com/…"),
            ("https://crm.example.com/?token=s3cret", "https://crm.example.com/…"),
        ] {
            assert_eq!(masked(&url.parse().unwrap()), expected);
        }
    }

    #[test]
    fn rates_and_statuses_are_written_as_in_the_configuration() {
        use crate::config::value::parse_rate;

        for text in ["50/s", "600/m", "10000/h"] {
            assert_eq!(rate(parse_rate(text).unwrap().unwrap()), text);
        }
        let rows = [((400, 499), "4xx"), ((404, 404), "404"), ((400, 404), "400-404")];
        for (range, expected) in rows {
            assert_eq!(statuses(range), expected);
        }
    }
}
