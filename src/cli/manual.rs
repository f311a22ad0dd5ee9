//! `arauto completions` and `arauto man`: what shells and `man` know of the command line, made from the command line
//! itself.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Done, words::counted};

const NAME: &str = "arauto";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  arauto completions bash > /etc/bash_completion.d/arauto
  arauto completions zsh > ~/.zfunc/_arauto
  arauto completions fish > ~/.config/fish/completions/arauto.fish")]
pub(super) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  arauto man /usr/local/share/man/man1
  arauto man man && man -l man/arauto-dlq.1")]
pub(super) struct Man {
    /// Where to: one page for each command. It is made if it is not there; pages that are there are replaced.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(super) fn complete(args: &Completions) -> anyhow::Result<Done> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), NAME, &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(Done::Well)
}

pub(super) fn write(args: &Man) -> anyhow::Result<Done> {
    let directory = &args.directory;
    let failed = || format!("the man pages cannot be written to {}", directory.display());
    fs::create_dir_all(directory).with_context(failed)?;
    clap_mangen::generate_to(Cli::command(), directory).with_context(failed)?;
    let pages = counted(count(&Cli::command()), "page");
    writeln!(io::stdout().lock(), "{pages} written to {}", directory.display())?;
    Ok(Done::Well)
}

/// The command and all those below it.
fn count(command: &Command) -> usize {
    1 + command.get_subcommands().filter(|command| !command.is_hide_set()).map(count).sum::<usize>()
}
