//! `arauto dlq`: dead letters that can be understood, and sent again without making things worse.
//!
//! One file per sub-command; what they share is how letters are read ([`reader`]) and shown ([`row`]).

use std::io::{self, Write};

use clap::Subcommand;
use serde::Serialize;

use super::Done;
use crate::config::settings::Settings;

mod body;
mod curl;
mod export;
mod import;
mod list;
mod purge;
mod reader;
mod replay;
mod row;
mod show;
mod summary;
mod table;
mod tail;

/// Look at dead letters, and decide what becomes of them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List dead letters, or count them by endpoint, reason and status.
    List(list::Args),
    /// Show all there is to know about a letter.
    Show(show::Args),
    /// Follow new dead letters.
    Tail(tail::Args),
    /// Write letters to a file, so that they can be looked at, kept, or put back.
    Export(export::Args),
    /// Put exported letters on the dead-letter topic again.
    Import(import::Args),
    /// Send letters again, once each, at a rate that does no harm.
    Replay(replay::Args),
    /// Remove letters up to a point, for good.
    Purge(purge::Args),
}

/// Runs the command; it blocks its thread.
pub(super) fn run(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<Done> {
    match &args.what {
        What::List(args) => list::run(args, settings, json),
        What::Show(args) => show::run(args, settings, json),
        What::Tail(args) => tail::run(args, settings, json),
        What::Export(args) => export::run(args, settings, json),
        What::Import(args) => import::run(args, settings, json),
        What::Replay(args) => replay::run(args, settings, json),
        What::Purge(args) => purge::run(args, settings, json),
    }
}

/// Says what was done: a line of JSON, or of text.
fn say(report: &impl Serialize, text: &str, json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json { line(&mut out, report) } else { Ok(writeln!(out, "{text}")?) }
}

/// A line of JSON.
fn line(out: &mut dyn Write, value: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    Ok(writeln!(out)?)
}
