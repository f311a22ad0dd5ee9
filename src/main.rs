//! The `arauto` command: parse, run, exit code.

use std::process::ExitCode;

use arauto::cli::{self, Cli};
use clap::Parser;

fn main() -> ExitCode {
    cli::exit_code(&Cli::parse().run())
}
