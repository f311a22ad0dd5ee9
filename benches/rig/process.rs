//! Child processes of a bench, and what they use.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The role a bench's own executable plays when it is run again.
pub(crate) const ROLE: &str = "ARAUTO_BENCH_ROLE";

/// A child that does not outlive the measurement, however that ends.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Killed {
    /// What it has used so far.
    pub(crate) fn usage(&self) -> Usage {
        usage(self.0.id())
    }

    /// How many threads it has.
    pub(crate) fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.0.id())).expect("it lives").count()
    }

    /// How many sockets it has open.
    pub(crate) fn sockets(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.0.id())).expect("it lives");
        let links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    }

    /// Has it ended?
    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("a child can be asked").is_some()
    }
}

/// What a process has used: proc(5).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// CPU seconds, user and system.
    pub(crate) cpu: f64,
    /// Resident memory now, in MiB.
    pub(crate) resident: f64,
    /// The most it ever was.
    pub(crate) peak: f64,
}

/// What this process has used.
pub(crate) fn own() -> Usage {
    usage(std::process::id())
}

fn usage(pid: u32) -> Usage {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks = |at: usize| -> f64 { fields[at].parse().expect("a number") };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let memory = |name: &str| -> f64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it has memory");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    };
    // USER_HZ is 100 on every Linux that runs Rust.
    Usage { cpu: (ticks(11) + ticks(12)) / 100.0, resident: memory("VmRSS:"), peak: memory("VmHWM:") }
}

/// How a receiver talks: `http`, `https` or `http2`.
pub(crate) const SCHEME: &str = "ARAUTO_BENCH_SCHEME";

/// This executable in another role.
pub(crate) fn again(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("it has a path"));
    command.env(ROLE, role);
    command
}

/// A receiver of ours, which first tells where it listens; ends when dropped. Over TLS its certificate is written to
/// the file `certificate`.
pub(crate) fn receiver(scheme: &str, certificate: &Path) -> (Killed, String) {
    let mut command = again("receiver");
    command.env(SCHEME, scheme).env("SSL_CERT_FILE", certificate).stdout(Stdio::piped());
    let mut child = Killed(command.spawn().expect("it starts"));
    let mut line = String::new();
    let stdout = child.0.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut line).expect("it tells where it listens");
    (child, line.trim().to_owned())
}

/// Another executable than the one that was built with the bench.
const BINARY: &str = "ARAUTO_BENCH_BINARY";

/// `arauto run` with this configuration in a directory of its own. Its log goes to `log` there, and it trusts the
/// certificate that may be in `certificate` there.
pub(crate) fn arauto(dir: &Path, config: &str) -> Killed {
    fs::create_dir_all(dir).expect("a directory");
    let path = dir.join("arauto.toml");
    fs::write(&path, config).expect("a file");
    let log = fs::File::create(dir.join("log")).expect("a file");
    let built = env!("CARGO_BIN_EXE_arauto").to_owned();
    let mut command = Command::new(std::env::var(BINARY).unwrap_or(built));
    command.arg("run").arg("--config").arg(path).stderr(log);
    let certificate = certificate(dir);
    if certificate.exists() {
        command.env("SSL_CERT_FILE", certificate);
    }
    Killed(command.spawn().expect("arauto starts"))
}

/// Where the receiver's certificate is.
pub(crate) fn certificate(dir: &Path) -> PathBuf {
    dir.join("certificate.pem")
}

/// Waits for a condition, looking often enough for a bench; panics naming `what` after ten minutes.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(600);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
