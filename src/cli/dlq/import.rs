//! `arauto dlq import`: puts exported letters on the dead-letter topic again.
//!
//! A file is read once before anything is written, so that one with a mistake in it changes nothing.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;

use super::{row::letters, say};
use crate::{
    cli::{Done, Usage, block_on, progress::Progress},
    config::settings::Settings,
    kafka::{
        producer::{Error, Outgoing, Producer, Sent},
        topics::dead_topic,
    },
    letters::export,
};

/// Records the brokers have not acknowledged yet: enough to keep batches full.
const UNDER_WAY: usize = 1_000;
/// The same in bytes: memory stays small however large letters are.
const BYTES_UNDER_WAY: usize = 16 << 20;

/// Put exported letters on the dead-letter topic again.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The file that `export` wrote; `-` for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Begin at this line: an import that was broken off says where to go on.
    #[arg(long, value_name = "LINE", default_value_t = 1)]
    from_line: u64,
}

const EXAMPLES: &str = "\
Examples:
  arauto dlq import crm.jsonl
  jq -c 'select(.value.json.amount > 100)' crm.jsonl | arauto dlq import -

Keys, values and headers become what they were, byte for byte; a letter's time of death is the time of the import.
A letter that is still on the topic is there twice afterwards. With --json: topic, imported.";

#[derive(Serialize)]
struct Report<'r> {
    topic: &'r str,
    imported: u64,
}

pub(super) fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    let known = match is_stdin(&args.file) {
        true => None,
        false => Some(check(&args.file, args.from_line)?),
    };
    let topic = dead_topic(&settings.topics.prefix);
    let producer =
        Producer::new(&settings.kafka).context("the Kafka client cannot be made (kafka.properties)")?;
    let progress = known.map_or_else(Progress::hidden, Progress::new);
    let mut writer = Writer {
        producer,
        topic: topic.clone(),
        under_way: VecDeque::new(),
        bytes: 0,
        imported: 0,
        progress,
    };
    let mut input = lines(&args.file, args.from_line)?;
    block_on(async { writer.write(&mut input).await.map(|()| Done::Well) })?;
    let imported = writer.imported;
    writer.progress.finish();
    let text = format!("{} put on {topic}", letters(imported));
    say(&Report { topic: &topic, imported }, &text, json)?;
    Ok(Done::Well)
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// A letter and the number of its line.
type Numbered = (u64, Outgoing);

/// How many letters there are. Any mistake ends it.
fn check(path: &Path, from_line: u64) -> anyhow::Result<u64> {
    let mut letters = 0;
    for letter in lines(path, from_line)? {
        letter?;
        letters += 1;
    }
    Ok(letters)
}

/// The letters from a line on; empty lines are passed over.
fn lines(path: &Path, from_line: u64) -> anyhow::Result<Box<dyn Iterator<Item = anyhow::Result<Numbered>>>> {
    let name = path.display().to_string();
    let input: Box<dyn BufRead> = match is_stdin(path) {
        true => Box::new(io::stdin().lock()),
        false => Box::new(BufReader::new(
            File::open(path).map_err(|error| Usage(format!("{name} cannot be read: {error}")))?,
        )),
    };
    let numbered = (1..).zip(input.lines()).skip_while(move |(number, _)| *number < from_line);
    let letters = numbered.filter_map(move |(number, line)| match line {
        Err(error) => Some(Err(anyhow::anyhow!("{name}:{number} cannot be read: {error}"))),
        Ok(line) if line.trim().is_empty() => None,
        Ok(line) => match export::read(&line) {
            Ok(export::Exported { key, value, headers }) => {
                Some(Ok((number, Outgoing { topic: String::new(), key, value, headers })))
            }
            Err(error) => Some(Err(Usage(format!("{name}:{number}: {error}")).into())),
        },
    });
    Ok(Box::new(letters))
}

/// Writes letters, many under way at once.
struct Writer {
    producer: Producer,
    topic: String,
    /// In the order of their lines.
    under_way: VecDeque<(Numbered, Result<Sent, Error>)>,
    bytes: usize,
    imported: u64,
    progress: Progress,
}

impl Writer {
    async fn write(
        &mut self,
        letters: &mut dyn Iterator<Item = anyhow::Result<Numbered>>,
    ) -> anyhow::Result<()> {
        for letter in letters {
            let letter = match letter {
                Ok(letter) => letter,
                Err(error) => {
                    self.wait_for(0, 0).await?;
                    let done = self.imported;
                    return Err(error.context(format!("{done} letters were imported before it")));
                }
            };
            self.progress.read();
            self.begin(letter);
            self.wait_for(UNDER_WAY, BYTES_UNDER_WAY).await?;
        }
        self.wait_for(0, 0).await
    }

    fn begin(&mut self, (number, mut record): Numbered) {
        record.topic.clone_from(&self.topic);
        let sent = self.producer.begin(&record);
        self.bytes += size(&record);
        self.under_way.push_back(((number, record), sent));
    }

    /// Waits until no more than so many, and so many bytes, are under way.
    async fn wait_for(&mut self, letters: usize, bytes: usize) -> anyhow::Result<()> {
        while self.under_way.len() > letters || self.bytes > bytes {
            let Some(((number, record), sent)) = self.under_way.pop_front() else { return Ok(()) };
            self.bytes -= size(&record);
            let acknowledged = match sent {
                Ok(sent) => sent.acknowledged().await,
                Err(error) => Err(error),
            };
            // What was refused in a batch, or found no room, may get through alone.
            if acknowledged.is_err() {
                let again = self.producer.send(&record).await;
                again.with_context(|| {
                    let done = self.imported;
                    format!("{done} letters were imported; to go on, add --from-line {number}")
                })?;
            }
            self.imported += 1;
            self.progress.written(1);
        }
        Ok(())
    }
}

fn size(record: &Outgoing) -> usize {
    let body = record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len);
    body + record.headers.size()
}
