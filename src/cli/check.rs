//! `arauto check`: is the configuration valid, and where would an event go?
//!
//! Connects to nothing: what only the cluster knows is said to be unknown.

use std::{
    fmt::Display,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;

use crate::{
    config::settings::{Endpoint, Settings},
    kafka::topics::{is_source, notices_topic, wants_notices},
    pipeline::{
        Event, Headers, Record,
        decode::Decoder,
        route::{self, Verdict},
    },
};

/// Check the configuration; with an event, tell who gets it and why each other endpoint does not.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  arauto check
  arauto check --event order.json --topic orders --header ce_type=order.paid
  echo '{}' | arauto check --event - --topic orders --json

--json: {\"valid\", \"endpoints\" (how many), \"event\": {topic, read, type, tenant, id, id_note, endpoints: [{id, verdict, text}]}};
of a wrong configuration {\"valid\": false, \"mistakes\"}.

Exit codes: 0 valid, 1 failed, 2 wrong usage or configuration.")]
pub(super) struct Args {
    /// A file with an event's value, `-` for standard input; its bytes are taken as they are.
    #[arg(long, value_name = "FILE", requires = "topic")]
    event: Option<PathBuf>,
    /// The topic the event is on.
    #[arg(long, requires = "event")]
    topic: Option<String>,
    /// The event's key.
    #[arg(long, requires = "event")]
    key: Option<String>,
    /// A header of the event; may be repeated.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header, requires = "event")]
    headers: Vec<(String, String)>,
}

/// Tells what a valid configuration makes of the event, if one is given.
pub(super) fn run(
    settings: &Settings,
    args: &Args,
    (config, json): (&Path, bool),
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let report = Report {
        valid: true,
        endpoints: settings.endpoints.len(),
        event: read_event(args, &settings.topics.prefix)?.map(|record| explain(settings, record)),
    };
    if json {
        serde_json::to_writer(&mut *out, &report)?;
        writeln!(out)?;
        return Ok(());
    }
    let endpoints = report.endpoints;
    let plural = if endpoints == 1 { "" } else { "s" };
    writeln!(out, "✓ {} is valid: {endpoints} endpoint{plural}", config.display())?;
    report.event.map_or(Ok(()), |event| print(&event, out))
}

/// Tells that the configuration is refused, and every mistake in it.
pub(super) fn refuse(
    mistakes: &(impl Display + Serialize),
    (config, json): (&Path, bool),
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    if json {
        let report = serde_json::json!({ "valid": false, "mistakes": mistakes });
        writeln!(out, "{report}")?;
    } else {
        writeln!(out, "✗ {} is not valid:\n{mistakes}", config.display())?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Report {
    valid: bool,
    endpoints: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Explained>,
}

#[derive(Serialize)]
struct Explained {
    topic: String,
    /// Does Arauto read this topic?
    read: bool,
    r#type: String,
    tenant: Option<String>,
    /// Absent when it is derived from coordinates, which only the cluster gives.
    id: Option<String>,
    id_note: Option<String>,
    endpoints: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    id: String,
    verdict: Verdict,
    text: String,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn read_event(args: &Args, prefix: &str) -> anyhow::Result<Option<Record>> {
    let (Some(file), Some(topic)) = (&args.event, &args.topic) else {
        return Ok(None);
    };
    let mut value = Vec::new();
    if file.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut value).context("reading the event from standard input")?;
    } else {
        value = std::fs::read(file).with_context(|| format!("reading the event from {}", file.display()))?;
    }
    let bytes = |text: &String| Bytes::copy_from_slice(text.as_bytes());
    let headers = args.headers.iter().map(|(name, value)| (Arc::from(name.as_str()), Some(bytes(value))));
    Ok(Some(Record {
        topic: match topic.as_str() {
            "@notices" => notices_topic(prefix).into(),
            topic => topic.into(),
        },
        partition: 0,
        offset: 0,
        timestamp: -1,
        key: args.key.as_ref().map(bytes),
        value: Some(value.into()),
        headers: Headers(headers.collect()),
    }))
}

fn explain(settings: &Settings, record: Record) -> Explained {
    // The namespace only goes into ids that are not shown, see `id_note`.
    let namespace = settings.events.namespace.as_deref().unwrap_or_default().into();
    let decoder = Decoder::new(&settings.events, namespace).with_notices(&settings.topics.prefix);
    let event = decoder.decode(record);
    let own_id = decoder.own_id(&event.headers, event.value.as_ref());
    let line = |endpoint: &Arc<Endpoint>| line(&event, endpoint);
    Explained {
        read: is_source(settings, &event.topic, wants_notices(&settings.topics.prefix, &settings.endpoints)),
        id_note: own_id.is_none().then(|| derived(settings)),
        id: own_id.map(|id| id.to_string()),
        endpoints: settings.endpoints.iter().map(line).collect(),
        topic: event.topic.to_string(),
        r#type: event.event_type.to_string(),
        tenant: event.tenant.as_deref().map(Into::into),
    }
}

fn line(event: &Event, endpoint: &Endpoint) -> Line {
    let verdict = route::explain(event, endpoint);
    Line { id: endpoint.id.to_string(), verdict, text: verdict.describe(event, endpoint) }
}

fn derived(settings: &Settings) -> String {
    let namespace = settings.events.namespace.as_ref();
    let namespace =
        namespace.map_or("the cluster's id".to_owned(), |namespace| format!("namespace {namespace:?}"));
    format!("derived at run time from {namespace}, topic, partition, offset and timestamp")
}

fn print(event: &Explained, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "\ntopic   {}", event.topic)?;
    if !event.read {
        writeln!(out, "        ✗ not among kafka.topics: its events are not read")?;
    }
    writeln!(out, "type    {}", event.r#type)?;
    writeln!(out, "tenant  {}", event.tenant.as_deref().unwrap_or("none"))?;
    let id = event.id.as_deref().or(event.id_note.as_deref());
    writeln!(out, "id      {}\n", id.unwrap_or_default())?;
    let width = event.endpoints.iter().map(|line| line.id.len()).max().unwrap_or(0);
    for line in &event.endpoints {
        let mark = if line.verdict == Verdict::Wanted { '✓' } else { '✗' };
        writeln!(out, "{mark} {:width$}  {}", line.id, line.text)?;
    }
    let wanted = event.endpoints.iter().filter(|line| line.verdict == Verdict::Wanted).count();
    writeln!(out, "\n{wanted} of {} endpoints get it", event.endpoints.len())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;
    use crate::{
        config::settings::{self, FactSource, IdSource},
        registry::tests::{endpoint, selector},
    };

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &[&str]) -> Args {
        let words = ["check"].iter().chain(words);
        Command::try_parse_from(words).unwrap().args
    }

    fn settings(namespace: Option<&str>) -> Settings {
        Settings {
            on_removed: settings::OnRemoved::Dead,
            unknown_grace: Duration::from_secs(600),
            kafka: settings::Kafka {
                brokers: "localhost:9092".into(),
                group: "arauto".into(),
                topics: vec![selector("orders")],
                start: settings::Start::Latest,
                protocol: settings::Protocol::Auto,
                properties: Vec::new(),
            },
            topics: settings::Topics {
                prefix: "arauto".into(),
                tiers: Vec::new(),
                retention: Duration::from_secs(1),
                dead_retention: Duration::from_secs(1),
                partitions: 6,
                replication: -1,
                create: true,
            },
            events: settings::Events {
                event_type: vec![FactSource::Json("/type".into())],
                id: vec![IdSource::CloudEvents],
                namespace: namespace.map(Into::into),
                tenant: vec![FactSource::Header("tenant".into())],
                priority: vec![FactSource::Header("priority".into())],
            },
            limits: settings::Limits {
                in_flight: 1,
                in_flight_bytes: 1,
                hold: Duration::from_secs(5),
                prefetch: 1,
                drain: Duration::from_secs(20),
                shutdown_grace: Duration::from_secs(25),
                commit_interval: Duration::from_millis(100),
                own_queues: 64,
            },
            attempts: settings::Attempts { topic: None, retention: Duration::from_secs(1) },
            security: settings::Security::default(),
            admin: settings::Admin {
                listen: None,
                max_endpoint_series: 1000,
                stalled_after: Duration::from_secs(60),
            },
            notices: settings::Notices {
                enabled: true,
                repeat: Duration::from_secs(3600),
                certificate: Duration::from_secs(86_400),
            },
            log: settings::Log { level: "info".into(), format: settings::LogFormat::Auto },
            otel: None,
            endpoints: endpoints(),
        }
    }

    fn endpoints() -> Vec<Arc<Endpoint>> {
        let crm = Endpoint { topics: Some(vec![selector("orders")]), ..endpoint("crm") };
        let acme = Endpoint { tenant: Some("acme".into()), ..endpoint("acme") };
        let paid = Endpoint { types: Some(vec!["*.paid".into()]), ..endpoint("paid") };
        let other = Endpoint { topics: Some(vec![selector("^pay.*")]), ..endpoint("other") };
        let off = Endpoint { enabled: false, ..endpoint("off") };
        [crm, acme, paid, other, off].map(Arc::new).into()
    }

    fn output(settings: &Settings, words: &[&str]) -> String {
        let mut out = Vec::new();
        let (flags, words): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| **word == "--json");
        run(settings, &args(&words), (Path::new("a.toml"), !flags.is_empty()), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn event_file(value: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(value.as_bytes()).unwrap();
        file
    }

    #[test]
    fn every_endpoint_has_a_line_with_its_reason() {
        let file = event_file(r#"{"type": "order.created"}"#);
        let event =
            ["--event", file.path().to_str().unwrap(), "--topic", "orders", "--header", "tenant=umbrella"];
        let want = r#"✓ a.toml is valid: 5 endpoints

topic   orders
type    order.created
tenant  umbrella
id      derived at run time from the cluster's id, topic, partition, offset and timestamp

✓ crm    gets it
✗ acme   wants tenant "acme", not "umbrella"
✗ paid   wants types [*.paid], not "order.created"
✗ other  wants topics [^pay.*], not "orders"
✗ off    is disabled

1 of 5 endpoints get it
"#;
        assert_eq!(output(&settings(None), &event), want);
    }

    #[test]
    fn json_is_one_object() {
        let file = event_file("");
        let ce = ["--header", "ce_source=https://shop.example/orders", "--header", "ce_id=A-1.2"];
        let event = ["--json", "--event", file.path().to_str().unwrap(), "--topic", "other"];
        let told: serde_json::Value =
            serde_json::from_str(&output(&settings(Some("prod")), &[&event[..], &ce[..]].concat())).unwrap();
        assert_eq!(told["valid"], true);
        let event = &told["event"];
        assert_eq!((&event["type"], &event["read"]), (&"other".into(), &false.into()));
        assert_eq!(event["id"], "msg_jkfbxngxea6lp2ad726cdjjf7hffvk3i");
        let verdicts: Vec<_> =
            event["endpoints"].as_array().unwrap().iter().map(|e| e["verdict"].as_str().unwrap()).collect();
        assert_eq!(verdicts, ["not_topic", "not_tenant", "not_type", "not_topic", "disabled"]);
    }

    #[test]
    fn without_an_event_the_configuration_is_all() {
        assert_eq!(output(&settings(None), &[]), "✓ a.toml is valid: 5 endpoints\n");
        assert_eq!(output(&settings(None), &["--json"]), "{\"valid\":true,\"endpoints\":5}\n");
        assert!(Command::try_parse_from(["check", "--event", "x"]).is_err(), "an event has a topic");
    }

    #[test]
    fn mistakes_are_told() {
        let mut out = Vec::new();
        refuse(&"a.toml:1:1: no", (Path::new("a.toml"), true), &mut out).unwrap();
        refuse(&"a.toml:1:1: no", (Path::new("a.toml"), false), &mut out).unwrap();
        let want =
            "{\"mistakes\":\"a.toml:1:1: no\",\"valid\":false}\n✗ a.toml is not valid:\na.toml:1:1: no\n";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }
}
