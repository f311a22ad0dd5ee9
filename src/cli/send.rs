//! `arauto send`: publishes an event, once or many times, and waits until the brokers have every copy.
#![allow(clippy::print_stdout)] // The output is the point.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::{Done, body};
use crate::{
    config::{
        settings::{Kafka, Protocol, Rate, Start},
        value::parse_rate,
    },
    kafka::{
        producer::{Acknowledged, Error, Outgoing, Producer, Sent},
        topics::Admin,
    },
    pipeline::Headers,
};

/// Records not acknowledged yet at most; a tenth of what librdkafka queues by default.
const UNACKNOWLEDGED: usize = 10_000;

/// Fewer than this are sent before a bar could be read.
const WORTH_A_BAR: u64 = 1_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Brokers, instead of those of the configuration (which is then not read).
    #[arg(long, value_name = "HOST:PORT,…")]
    brokers: Option<String>,
    /// Topic to publish to; it must exist.
    #[arg(long)]
    topic: String,
    /// The record's key.
    #[arg(long)]
    key: Option<String>,
    /// A record header; may be given several times.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// File with the value, sent byte for byte; - for standard input.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Send it so many times.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// At most so fast, such as 50/s.
    #[arg(long, value_parser = parse_pace)]
    rate: Option<Pace>,
}

impl Args {
    /// The brokers given on the command line.
    pub(super) fn brokers(&self) -> Option<&str> {
        self.brokers.as_deref()
    }
}

/// Time between two records; `None` when there need be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace(Option<Duration>);

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("is not NAME=VALUE")?;
    if name.is_empty() {
        return Err("has no name".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_pace(text: &str) -> Result<Pace, String> {
    let rate = parse_rate(text).map_err(|wrong| format!("{wrong}; write it like 50/s, 600/m or 10000/h"))?;
    Ok(Pace(rate.as_ref().map(Rate::interval)))
}

/// Client settings for brokers given on the command line.
pub(super) fn kafka_at(brokers: &str) -> Kafka {
    Kafka {
        brokers: brokers.to_owned(),
        group: String::new(),
        topics: Vec::new(),
        start: Start::Latest,
        protocol: Protocol::Auto,
        properties: Vec::new(),
    }
}

/// What became of the records.
#[derive(Debug, Default, Serialize)]
struct Report {
    topic: String,
    sent: u64,
    failed: u64,
    /// Where the last acknowledged record is.
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Position>,
    /// Distinct errors, and how often.
    errors: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Position {
    partition: i32,
    offset: i64,
}

pub(super) async fn run(args: &Args, kafka: &Kafka, json: bool) -> anyhow::Result<Done> {
    let value = body::read(&args.file)?;
    let topics =
        Admin::new(kafka)?.partitions().await.with_context(|| format!("asking {}", kafka.brokers))?;
    if !topics.contains_key(&args.topic) {
        bail!("topic `{}` does not exist on {}", args.topic, kafka.brokers);
    }
    let producer = Producer::new(kafka).context("making the producer")?;
    let report = send_all(args, value, &producer).await;
    // Ending the client joins its threads: not on a worker of the runtime.
    tokio::task::spawn_blocking(move || drop(producer)).await.context("ending the producer")?;
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print_report(&report);
    }
    Ok(if report.failed == 0 { Done::Well } else { Done::Failed })
}

async fn send_all(args: &Args, value: Vec<u8>, producer: &Producer) -> Report {
    let record = record(args, value);
    let bar = progress_bar(args.count);
    let mut report = Report { topic: args.topic.clone(), ..Report::default() };
    let mut unacknowledged = VecDeque::new();
    let mut due = Instant::now();
    for _ in 0..args.count {
        if let Some(Pace(Some(interval))) = args.rate {
            sleep_until(due).await;
            due += interval;
        }
        if unacknowledged.len() >= UNACKNOWLEDGED {
            acknowledge_first(&mut unacknowledged, &mut report, &bar).await;
        }
        let sent = loop {
            match producer.begin(&record) {
                // Only our own records fill the queue, so waiting for one makes room.
                Err(Error::Full) if !unacknowledged.is_empty() => {
                    acknowledge_first(&mut unacknowledged, &mut report, &bar).await;
                }
                sent => break sent,
            }
        };
        match sent {
            Ok(sent) => unacknowledged.push_back(sent),
            Err(error) => report.count_failure(&error.to_string()),
        }
    }
    while !unacknowledged.is_empty() {
        acknowledge_first(&mut unacknowledged, &mut report, &bar).await;
    }
    bar.finish_and_clear();
    report
}

fn record(args: &Args, value: Vec<u8>) -> Outgoing {
    let header = |(name, value): &(String, String)| (name.as_str().into(), Some(Bytes::from(value.clone())));
    Outgoing {
        topic: args.topic.clone(),
        key: args.key.clone().map(Bytes::from),
        value: Some(Bytes::from(value)),
        headers: Headers(args.headers.iter().map(header).collect()),
    }
}

async fn acknowledge_first(waiting: &mut VecDeque<Sent>, report: &mut Report, bar: &ProgressBar) {
    let Some(first) = waiting.pop_front() else { return };
    match first.acknowledged().await {
        Ok(Acknowledged { partition, offset, .. }) => {
            report.sent += 1;
            report.last = Some(Position { partition, offset });
        }
        Err(error) => report.count_failure(&error.to_string()),
    }
    bar.inc(1);
}

impl Report {
    fn count_failure(&mut self, error: &str) {
        self.failed += 1;
        *self.errors.entry(error.to_owned()).or_default() += 1;
    }
}

/// A bar on stderr, drawn only when that is a terminal and there is something to watch.
fn progress_bar(count: u64) -> ProgressBar {
    if count < WORTH_A_BAR {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} {per_sec} {eta}");
    let style = style.expect("the template is a constant that a test has made");
    ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stderr()).with_style(style)
}

fn print_report(report: &Report) {
    let Report { topic, sent, failed, last, errors } = report;
    match last {
        Some(Position { partition, offset }) if *sent == 1 => {
            println!("sent to {topic}, partition {partition}, offset {offset}");
        }
        _ => println!("{sent} sent to {topic}, {failed} failed"),
    }
    for (error, times) in errors {
        println!("  {times} × {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, String> {
        let topic = if words.contains(&"--topic") { &[][..] } else { &["--topic", "orders"] };
        let words = ["send"].iter().chain(topic).chain(words);
        Line::try_parse_from(words).map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments() {
        let args = parse(&["--header", "a=b=c", "--header", "x=", "--key", "k", "--rate", "600/m", "e.json"])
            .unwrap();
        assert_eq!(args.headers, [("a", "b=c"), ("x", "")].map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert_eq!(args.rate, Some(Pace(Some(Duration::from_millis(100)))));
        assert_eq!(args.file, Path::new("e.json"));
        assert_eq!(parse(&[]).unwrap().file, Path::new("-"));
        assert!(parse(&["--header", "a"]).unwrap_err().contains("is not NAME=VALUE"));
        assert!(parse(&["--header", "=a"]).unwrap_err().contains("has no name"));
        assert!(parse(&["--rate", "fast"]).unwrap_err().contains("50/s"));
    }

    #[test]
    fn the_bar_can_be_made() {
        assert_eq!(progress_bar(WORTH_A_BAR).length(), Some(WORTH_A_BAR));
    }

    /// The whole command against librdkafka's mock broker.
    async fn send(words: &[&str]) -> anyhow::Result<Done> {
        let cluster = rdkafka::mocking::MockCluster::new(1).unwrap();
        cluster.create_topic("orders", 3, 1).unwrap();
        let body = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&body, b"{}").unwrap();
        let args = parse(&[words, &[body.path().to_str().unwrap()]].concat()).unwrap();
        run(&args, &kafka_at(&cluster.bootstrap_servers()), true).await
    }

    #[tokio::test]
    async fn every_copy_is_acknowledged() {
        assert_eq!(send(&["--count", "1500", "--key", "k", "--header", "a=b"]).await.unwrap(), Done::Well);
    }

    #[tokio::test]
    async fn a_topic_that_does_not_exist_is_not_made() {
        let error = send(&["--topic", "oders"]).await.unwrap_err().to_string();
        assert!(error.starts_with("topic `oders` does not exist on"), "{error}");
    }
}
