//! `arauto dlq export`: letters as lines of JSON, from which `import` makes the same records again.

use std::{
    fs::{self, File},
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::Serialize;

use super::{reader::Reader, row::letters, say};
use crate::{
    cli::{Done, filter, progress::Progress},
    config::settings::Settings,
    letters::export,
};

/// Write dead letters to a file or to standard output, one JSON object per line.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The file; it must not exist. Without it, standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    filter: filter::Args,
}

const EXAMPLES: &str = "\
Examples:
  arauto dlq export --endpoint crm --since yesterday --output crm.jsonl
  arauto dlq export --reason too_large | jq -r 'select(.value.json.amount > 100).offset'

Each line has v, topic, partition, offset, died (unix ms), key, headers and value. A value is {\"json\": …} if it is
JSON without blanks, else {\"text\": …} if it is UTF-8, else {\"base64\": …}; a null one is null. Partition by partition,
each in its order. The file has its name only when it is complete.";

#[derive(Serialize)]
struct Report<'r> {
    exported: u64,
    output: &'r Path,
}

pub(super) fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    let mut reader = Reader::new(settings, args.filter.resolve()?)?;
    match &args.output {
        None => {
            // The letters may go to the terminal on which the bar would be.
            let total = reader.total();
            let progress = if io::stdout().is_terminal() { Progress::hidden() } else { Progress::new(total) };
            write(&mut reader, progress, io::stdout().lock())?;
        }
        Some(path) => {
            let progress = Progress::new(reader.total());
            let exported = to_file(&mut reader, progress, path)?;
            let text = format!("{} exported to {}", letters(exported), path.display());
            say(&Report { exported, output: path }, &text, json)?;
        }
    }
    reader.warn();
    Ok(Done::Well)
}

/// Nobody takes half a file for a whole one.
fn to_file(reader: &mut Reader, progress: Progress, path: &Path) -> anyhow::Result<u64> {
    if path.exists() {
        bail!("{} is there already; name a new file (--output)", path.display());
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let file = File::create(&partial).with_context(|| format!("{} cannot be written", partial.display()))?;
    let exported = write(reader, progress, &file)?;
    file.sync_all().with_context(|| format!("{} cannot be written", partial.display()))?;
    fs::rename(&partial, path).with_context(|| format!("{} cannot be renamed", partial.display()))?;
    Ok(exported)
}

fn write(reader: &mut Reader, mut progress: Progress, out: impl Write) -> anyhow::Result<u64> {
    let mut out = BufWriter::with_capacity(1 << 16, out);
    reader.each_in_order(&mut progress, |progress, letter| {
        writeln!(out, "{}", export::line(&letter.record)).context("the export cannot be written")?;
        progress.written(1);
        Ok(())
    })?;
    out.flush().context("the export cannot be written")?;
    Ok(progress.finish().written)
}
