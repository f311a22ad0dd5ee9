//! The bytes a command is about: a file, standard input, or the command line itself.

use std::{
    io::{IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use super::Usage;

/// A body, taken byte for byte.
#[derive(Debug, clap::Args)]
#[group(skip)] // Its name would be that of the command's own.
pub(super) struct Args {
    /// File with the body, taken byte for byte; - for standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// The body itself, instead of a file.
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    body: Option<String>,
}

impl Args {
    /// Does it come from standard input?
    pub(super) fn is_stdin(&self) -> bool {
        self.body.is_none() && self.file == Path::new("-")
    }

    /// The bytes.
    pub(super) fn read(&self) -> anyhow::Result<Vec<u8>> {
        match &self.body {
            Some(body) => Ok(body.clone().into_bytes()),
            None => read(&self.file),
        }
    }
}

/// The content of a file, or of standard input when it is called `-`.
pub(super) fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file != Path::new("-") {
        return std::fs::read(file).with_context(|| format!("reading {}", file.display()));
    }
    let mut stdin = std::io::stdin();
    if stdin.is_terminal() {
        bail!(Usage("name a FILE, or pipe it to standard input".to_owned()));
    }
    let mut bytes = Vec::new();
    stdin.read_to_end(&mut bytes).context("reading standard input")?;
    Ok(bytes)
}
