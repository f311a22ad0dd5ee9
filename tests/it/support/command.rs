//! The real binary as a command that ends by itself: arguments in, exit code and both outputs out.
//!
//! Nothing of the test's own environment reaches it that could change what it does.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::Value;

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Its stdout, which is one JSON value.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Its stdout, each line a JSON value.
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// Runs `arauto` to its end.
pub(crate) async fn arauto(arguments: &[&str]) -> Output {
    arauto_reading(arguments, "").await
}

/// The same with something on standard input.
pub(crate) async fn arauto_reading(arguments: &[&str], stdin: &str) -> Output {
    run(arguments, &[], stdin).await
}

/// The same with environment variables of its own.
pub(crate) async fn arauto_with(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    run(arguments, environment, "").await
}

async fn run(arguments: &[&str], environment: &[(&str, &str)], stdin: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arauto"));
    command.args(arguments).env_remove("ARAUTO_CONFIG").env_remove("RUST_LOG");
    command.envs(environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let stdin = stdin.to_owned();
    let run = move || {
        let mut child = command.spawn().expect("the binary can be started");
        // It may have ended without reading; that shows in its exit code.
        child.stdin.take().expect("stdin is a pipe").write_all(stdin.as_bytes()).ok();
        child.wait_with_output().expect("a child can be waited for")
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    Output {
        code: output.status.code().expect("an exit code, not a signal"),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}
