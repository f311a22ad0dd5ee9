//! The `arauto` command: parse, run, exit code.

use std::process::ExitCode;

use arauto::cli::{self, Cli};
use clap::Parser;

/// Deliveries allocate on one thread and free on another, which glibc's allocator is slow at: `benches/end_to_end.rs`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::exit_code(&Cli::parse().run())
}
