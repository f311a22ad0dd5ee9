//! The real binary on a pseudo terminal, as a person would see it.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::AsFd,
    process::Child,
    sync::{Arc, Mutex},
};

use pty_process::{
    Size,
    blocking::{Command, Pty},
};

use super::{PATIENCE, eventually, until};

/// A command whose standard streams are all one terminal of 30 lines and 160 columns.
pub(crate) struct Terminal {
    child: Child,
    pty: Pty,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts `arauto`; `env` is set for it.
    pub(crate) fn start(arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let (pty, pts) = pty_process::blocking::open().expect("a pseudo terminal");
        pty.resize(Size::new(30, 160)).expect("it has a size");
        let command = Command::new(env!("CARGO_BIN_EXE_arauto")).args(arguments);
        let command = command.env_remove("ARAUTO_CONFIG").env_remove("RUST_LOG").env("TERM", "xterm");
        let child = command.envs(env.iter().copied()).spawn(pts).expect("the binary can be started");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let again = pty.as_fd().try_clone_to_owned().expect("a second handle");
        let mut reader = File::from(again);
        let kept = Arc::clone(&shown);
        // Ends with an error when the last process on the terminal has ended.
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(read @ 1..) = reader.read(&mut some) {
                kept.lock().unwrap().extend_from_slice(&some[..read]);
            }
        });
        Self { child, pty, shown }
    }

    /// All that was shown so far, with what controls the terminal.
    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits until something is shown.
    pub(crate) async fn wait_for(&self, text: &str) {
        until(PATIENCE, &format!("{text:?} on the terminal"), async || self.shown().contains(text)).await;
    }

    /// Types.
    pub(crate) fn type_in(&mut self, keys: &str) {
        self.pty.write_all(keys.as_bytes()).expect("somebody reads");
    }

    /// Waits for its end; the exit code, and all that was shown.
    pub(crate) async fn end(&mut self) -> (i32, String) {
        let status =
            eventually(PATIENCE, "the command to end", async || self.child.try_wait().unwrap()).await;
        // What it wrote last is still on its way.
        let mut before = None;
        until(PATIENCE, "the terminal to be quiet", async || {
            before.replace(self.shown()) == Some(self.shown())
        })
        .await;
        (status.code().expect("an exit code, not a signal"), self.shown())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
