//! Shows long text page by page on a terminal; elsewhere it is printed as it is.

use std::{
    env,
    io::{self, IsTerminal, Write},
    process::{Command, Stdio},
};

/// Colours pass, long lines are cut rather than wrapped, and what fits on one screen is not paged at all.
const LESS: &str = "FRSX";

/// Prints a text: by `$PAGER` (`less` without one) if stdout is a terminal.
pub(super) fn print(text: &str) -> io::Result<()> {
    if io::stdout().is_terminal() && page(text) {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// False if there is no pager, or it could not be started: a shell that finds no such command says so with 127.
fn page(text: &str) -> bool {
    let pager = env::var("PAGER").unwrap_or_else(|_| "less".to_owned());
    if matches!(pager.trim(), "" | "cat") {
        return false;
    }
    let mut command = Command::new("sh");
    command.arg("-c").arg(&pager).stdin(Stdio::piped());
    if env::var_os("LESS").is_none() {
        command.env("LESS", LESS);
    }
    let Ok(mut child) = command.spawn() else { return false };
    if let Some(mut stdin) = child.stdin.take() {
        // Who has seen enough leaves before the end.
        stdin.write_all(text.as_bytes()).ok();
    }
    child.wait().is_ok_and(|status| status.code() != Some(127))
}
