//! A Kafka broker as a child process: the one all tests share, and those that a test starts, stops and kills
//! itself.
//!
//! It runs `tests/kafka/broker`, which keeps ports and data over a restart, and which ends with the test
//! process however that ends. It never talks to the broker; that is `cluster.rs`.

use std::{
    fs::File,
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
};

use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{PATIENCE, eventually, until};

/// The broker of this test process, started by the first test that needs one.
static SHARED: OnceCell<Broker> = OnceCell::const_new();

/// The address of the cluster all tests share: `KAFKA_BROKERS` if it is set, else a broker of this process.
pub(crate) async fn shared() -> String {
    match std::env::var("KAFKA_BROKERS") {
        Ok(brokers) if !brokers.is_empty() => brokers,
        _ => SHARED.get_or_init(Broker::start).await.address().to_owned(),
    }
}

/// A broker on this machine, with its data. Dropping it kills it and removes the data.
pub(crate) struct Broker {
    dir: TempDir,
    address: String,
    running: Option<Running>,
}

struct Running {
    child: Child,
    /// Closed by the operating system when this process ends; the broker then ends as well.
    _lifeline: ChildStdin,
}

impl Broker {
    /// Starts a broker and waits until it serves.
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same with more properties, which win over those of `server.properties`.
    pub(crate) async fn start_with(properties: &str) -> Self {
        let dir = TempDir::with_prefix("arauto-kafka-").expect("a temporary directory");
        std::fs::write(dir.path().join("more.properties"), properties).unwrap();
        let mut broker = Self { dir, address: String::new(), running: None };
        broker.run().await;
        broker.address = std::fs::read_to_string(broker.path("address")).unwrap().trim().to_owned();
        broker
    }

    /// `host:port`; stays the same over a restart.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Starts it again after [`stop`](Self::stop) or [`kill`](Self::kill), with its port and data, and waits
    /// until it serves.
    pub(crate) async fn restart(&mut self) {
        assert!(self.running.is_none(), "the broker runs");
        self.run().await;
    }

    /// Stops it in order (SIGTERM) and waits for its end.
    pub(crate) async fn stop(&mut self) {
        self.signal("TERM");
        self.ended().await;
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub(crate) async fn kill(&mut self) {
        self.signal("KILL");
        self.ended().await;
    }

    /// Sends it a signal by name. `STOP` freezes it: connections stay open, nothing is answered, until
    /// `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        send_signal(self.running.as_ref().expect("the broker is stopped").child.id(), name);
    }

    async fn run(&mut self) {
        let log = File::create(self.path("log")).unwrap();
        let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/broker"))
            .arg(self.dir.path())
            .arg("--until-eof")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("tests/kafka/broker can be started");
        let lifeline = child.stdin.take().expect("stdin is a pipe");
        let running = self.running.insert(Running { child, _lifeline: lifeline });
        let log = self.dir.path().join("log");
        until(PATIENCE, "the broker to start", async || {
            let log = std::fs::read_to_string(&log).unwrap();
            let ended = running.child.try_wait().unwrap();
            assert!(ended.is_none(), "the broker did not start ({}):\n{log}", ended.unwrap());
            log.contains("Kafka Server started")
        })
        .await;
    }

    async fn ended(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("the broker is stopped");
        eventually(PATIENCE, "the broker to end", async || running.child.try_wait().unwrap()).await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            running.child.kill().expect("a child can be killed");
            running.child.wait().expect("a child can be waited for");
        }
    }
}

/// Sends a signal by name with `kill`, which needs no unsafe code and no further crate.
pub(crate) fn send_signal(pid: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status().expect("kill exists");
    assert!(status.success(), "SIG{name} could not be sent to {pid}");
}
