//! `arauto send`: publishes an event, once or many times, or recorded ones, and waits until the brokers have them all.
#![allow(clippy::print_stdout)] // The output is the point.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::File,
    io::{BufRead, BufReader},
    iter::repeat_with,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::{Done, Usage, body};
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

mod recorded;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  arauto send --topic orders order.json
  arauto send --topic orders --key 7 --header ce_type=order.paid --count 1000 --rate 50/s order.json
  echo '{}' | arauto send --brokers localhost:9092 --topic orders
  arauto dlq export --endpoint crm | arauto send --replay-file - --topic orders-copy
  arauto send --replay-file received.jsonl --topic orders

A replay file has one JSON object per line:
  {\"topic\": \"orders\", \"key\": \"7\", \"headers\": {\"ce_type\": \"order.paid\"}, \"value\": {\"json\": {\"total\": 12.5}}}
A value is {\"json\": …}, whose bytes are taken as they stand, {\"text\": …}, {\"base64\": …} or null; a key one of these or
plain text; headers an object, or a list of {\"name\", \"text\" or \"base64\"}. Lines of `arauto dlq export` become the event
that died, on its source topic; to deliver a dead letter again with its webhook id, use `arauto dlq replay`. Lines of
`arauto listen --json` become an event with the body, its type as ce_type, and its content-type and trace headers. --topic
sends them all there. A file is read once before anything is sent, so a wrong line sends nothing.

--json: {\"topic\" (if all went to one), \"sent\", \"failed\", \"last\": {\"topic\", \"partition\", \"offset\"}, \"errors\"}, where errors
counts each distinct one.")]
pub(super) struct Args {
    /// Brokers, instead of those of the configuration (which is then not read).
    #[arg(long, value_name = "HOST:PORT,…")]
    brokers: Option<String>,
    /// Topic to publish to; it must exist.
    #[arg(long, required_unless_present = "replay_file")]
    topic: Option<String>,
    /// Publish the events recorded in this file, - for standard input; see below.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "headers", "file", "count"])]
    replay_file: Option<PathBuf>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    sent: u64,
    failed: u64,
    /// Where the last acknowledged record is.
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Position>,
    /// Distinct errors, and how often.
    errors: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Serialize)]
struct Position {
    topic: String,
    partition: i32,
    offset: i64,
}

pub(super) async fn run(args: &Args, kafka: &Kafka, json: bool) -> anyhow::Result<Done> {
    let topics =
        Admin::new(kafka)?.partitions().await.with_context(|| format!("asking {}", kafka.brokers))?;
    let exists = |topic: &str| {
        if topics.contains_key(topic) {
            return Ok(());
        }
        bail!("topic `{topic}` does not exist on {}", kafka.brokers)
    };
    let (records, count): (Records<'_>, u64) = match (&args.replay_file, &args.topic) {
        (Some(file), topic) => {
            let seekable = file.as_path() != Path::new("-");
            // What cannot be read twice is checked while it is sent.
            let mut count = 0;
            if seekable {
                for record in recordings(file, topic.as_deref())? {
                    exists(&record?.topic)?;
                    count += 1;
                }
            }
            let records = recordings(file, topic.as_deref())?;
            (
                Box::new(
                    records
                        .map(move |record| record.and_then(|record| exists(&record.topic).map(|()| record))),
                ),
                count,
            )
        }
        (None, Some(topic)) => {
            exists(topic)?;
            let record = record(args, topic, body::read(&args.file)?);
            (Box::new(repeat_with(move || Ok(record.clone())).take(saturating(args.count))), args.count)
        }
        (None, None) => bail!(Usage("name a --topic".to_owned())),
    };
    let producer = Producer::new(kafka).context("making the producer")?;
    let mut report = Report::default();
    let sent = send_all(records, args.rate, &producer, (&mut report, &progress_bar(count))).await;
    // Ending the client joins its threads: not on a worker of the runtime.
    tokio::task::spawn_blocking(move || drop(producer)).await.context("ending the producer")?;
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print_report(&report);
    }
    sent?;
    Ok(if report.failed == 0 { Done::Well } else { Done::Failed })
}

/// What is to be sent, made as it is sent.
type Records<'r> = Box<dyn Iterator<Item = anyhow::Result<Outgoing>> + Send + 'r>;

fn saturating(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// The records of a replay file. An error names the line.
fn recordings<'t>(
    file: &Path,
    topic: Option<&'t str>,
) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Outgoing>> + Send + use<'t>> {
    let name = file.display().to_string();
    let lines: Box<dyn BufRead + Send> = if file == Path::new("-") {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(file).with_context(|| format!("reading {name}"))?))
    };
    let read = move |(number, line): (u64, std::io::Result<String>)| -> anyhow::Result<Option<Outgoing>> {
        let line = line.with_context(|| format!("reading {name}"))?;
        if line.trim().is_empty() {
            return Ok(None);
        }
        let wrong = || format!("line {number} of {name}");
        let Some(recorded) = recorded::parse(&line).with_context(wrong)? else { return Ok(None) };
        let topic = topic.map(str::to_owned).or(recorded.topic);
        let topic =
            topic.ok_or_else(|| anyhow!("it names no topic: name one with --topic")).with_context(wrong)?;
        let recorded::Recorded { key, value, headers, .. } = recorded;
        Ok(Some(Outgoing { topic, key, value, headers }))
    };
    Ok((1..).zip(lines.lines()).map(read).filter_map(Result::transpose))
}

/// Sends until the end or the first record that is none; what was sent by then is waited for all the same.
async fn send_all(
    records: Records<'_>,
    rate: Option<Pace>,
    producer: &Producer,
    (report, bar): (&mut Report, &ProgressBar),
) -> anyhow::Result<()> {
    let mut unacknowledged = VecDeque::new();
    let (mut due, mut topics) = (Instant::now(), BTreeSet::new());
    let mut wrong = Ok(());
    for record in records {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                wrong = Err(error);
                break;
            }
        };
        if let Some(Pace(Some(interval))) = rate {
            sleep_until(due).await;
            due += interval;
        }
        if !topics.contains(&record.topic) {
            topics.insert(record.topic.clone());
        }
        if unacknowledged.len() >= UNACKNOWLEDGED {
            acknowledge_first(&mut unacknowledged, report, bar).await;
        }
        let sent = loop {
            match producer.begin(&record) {
                // Only our own records fill the queue, so waiting for one makes room.
                Err(Error::Full) if !unacknowledged.is_empty() => {
                    acknowledge_first(&mut unacknowledged, report, bar).await;
                }
                sent => break sent,
            }
        };
        match sent {
            Ok(sent) => unacknowledged.push_back((record.topic, sent)),
            Err(error) => report.count_failure(&error.to_string()),
        }
    }
    while !unacknowledged.is_empty() {
        acknowledge_first(&mut unacknowledged, report, bar).await;
    }
    bar.finish_and_clear();
    report.topic = topics.pop_first().filter(|_| topics.is_empty());
    wrong
}

fn record(args: &Args, topic: &str, value: Vec<u8>) -> Outgoing {
    let header = |(name, value): &(String, String)| (name.as_str().into(), Some(Bytes::from(value.clone())));
    Outgoing {
        topic: topic.to_owned(),
        key: args.key.clone().map(Bytes::from),
        value: Some(Bytes::from(value)),
        headers: Headers(args.headers.iter().map(header).collect()),
    }
}

async fn acknowledge_first(waiting: &mut VecDeque<(String, Sent)>, report: &mut Report, bar: &ProgressBar) {
    let Some((topic, first)) = waiting.pop_front() else { return };
    match first.acknowledged().await {
        Ok(Acknowledged { partition, offset, .. }) => {
            report.sent += 1;
            report.last = Some(Position { topic, partition, offset });
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
        Some(Position { topic, partition, offset }) if *sent == 1 => {
            println!("sent to {topic}, partition {partition}, offset {offset}");
        }
        _ => {
            let topic = topic.as_ref().map(|topic| format!(" to {topic}")).unwrap_or_default();
            println!("{sent} sent{topic}, {failed} failed");
        }
    }
    for (error, times) in errors {
        println!("  {times} × {error}");
    }
}

#[cfg(test)]
mod tests {
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
