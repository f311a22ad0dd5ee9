//! The real binary as a child process: started, watched from outside, stopped in every way a process can be
//! stopped.
//!
//! It looks only at what an operator can see: exit code, logs, and the admin server. It is never linked into
//! the test.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;

use super::{PATIENCE, broker::send_signal, eventually, metrics::Metrics};

/// How many of its last log lines are shown when a test fails.
const SHOWN_LINES: usize = 200;

/// A running (or ended) `arauto`. Dropping it kills it; if the test panics its log is shown.
pub(crate) struct Arauto {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    admin: Option<String>,
}

impl Arauto {
    /// `arauto run` with this file, ready.
    pub(crate) async fn run(config: &Path) -> Self {
        let mut arauto = Self::start(config).await;
        arauto.wait_until_ready(PATIENCE).await;
        arauto
    }

    /// The same, trusting the certificates in this file.
    pub(crate) async fn run_trusting(config: &Path, roots: &Path) -> Self {
        let mut arauto =
            Self::start_with(config, &[("SSL_CERT_FILE", roots.to_str().expect("a path of text"))]).await;
        arauto.wait_until_ready(PATIENCE).await;
        arauto
    }

    /// `arauto run` with this file; its admin server answers, but it need not be ready yet.
    pub(crate) async fn start(config: &Path) -> Self {
        Self::start_with(config, &[]).await
    }

    /// The same with more variables in its environment.
    pub(crate) async fn start_with(config: &Path, environment: &[(&str, &str)]) -> Self {
        let arguments = [OsStr::new("run"), OsStr::new("--config"), config.as_os_str()];
        let mut arauto = Self::spawn_with(arguments, environment);
        let address = eventually(PATIENCE, "the admin server to listen", async || {
            let ended = arauto.child.try_wait().unwrap();
            assert!(ended.is_none(), "arauto ended before it listened: {}", ended.unwrap());
            let line = arauto.logged("admin listening")?;
            Some(field(&line, "address").expect("an address").to_owned())
        })
        .await;
        arauto.admin = Some(address);
        arauto
    }

    /// `arauto` with any arguments; nothing is waited for.
    pub(crate) fn spawn(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        Self::spawn_with(arguments, &[])
    }

    fn spawn_with(
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        environment: &[(&str, &str)],
    ) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_arauto"))
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary can be started");
        let log = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().expect("stdout is a pipe"), &log);
        collect(child.stderr.take().expect("stderr is a pipe"), &log);
        Self { child, log, admin: None }
    }

    /// Waits until `/readyz` says 200.
    pub(crate) async fn wait_until_ready(&mut self, within: Duration) {
        eventually(within, "arauto to be ready", async || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "arauto ended before it was ready: {}", ended.unwrap());
            self.is_ready().await.then_some(())
        })
        .await;
    }

    /// Does `/readyz` say 200 now?
    pub(crate) async fn is_ready(&self) -> bool {
        self.get("/readyz").await.is_some_and(|(status, _)| status == 200)
    }

    /// Status and body of a page of the admin server; `None` when it does not answer.
    pub(crate) async fn get(&self, path: &str) -> Option<(u16, String)> {
        let (address, path) = (self.admin_address().to_owned(), path.to_owned());
        tokio::task::spawn_blocking(move || ask(&address, "GET", &path, "").ok()).await.unwrap()
    }

    /// Says something to the admin server, with more headers (`"origin: null\r\n"`); status and answer.
    pub(crate) async fn post(&self, path: &str, headers: &str) -> (u16, Value) {
        self.say("POST", path, headers, "").await
    }

    /// Puts something on the admin server; status and answer.
    pub(crate) async fn put(&self, path: &str, headers: &str, body: &str) -> (u16, Value) {
        self.say("PUT", path, headers, body).await
    }

    async fn say(&self, method: &'static str, path: &str, headers: &str, body: &str) -> (u16, Value) {
        let (address, path, body) = (self.admin_address().to_owned(), path.to_owned(), body.to_owned());
        let headers = format!("content-length: {}\r\n{headers}", body.len());
        let tell = move || tell(&address, (method, &path), &headers, &body);
        let (status, answer) = tokio::task::spawn_blocking(tell).await.unwrap().expect("an answer");
        (status, serde_json::from_str(&answer).unwrap_or(Value::String(answer)))
    }

    /// Its metrics now.
    pub(crate) async fn metrics(&self) -> Metrics {
        let (status, page) = self.get("/metrics").await.expect("the admin server answers");
        assert_eq!(status, 200, "{page}");
        Metrics::parse(&page)
    }

    /// Waits until its metrics are as `condition` wants them.
    pub(crate) async fn wait_for_metrics(&self, what: &str, condition: impl Fn(&Metrics) -> bool) -> Metrics {
        eventually(PATIENCE, what, async || Some(self.metrics().await).filter(&condition)).await
    }

    /// `host:port` of the admin server.
    pub(crate) fn admin_address(&self) -> &str {
        self.admin.as_deref().expect("started with an admin server")
    }

    /// Asks it to end (SIGTERM).
    pub(crate) fn sigterm(&self) {
        self.signal("TERM");
    }

    /// Asks it to end and waits for that; its exit code.
    pub(crate) async fn stop(&mut self) -> i32 {
        self.sigterm();
        self.ended(PATIENCE).await.code().expect("an exit code, not a signal")
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub(crate) async fn kill(&mut self) {
        self.signal("KILL");
        self.ended(PATIENCE).await;
    }

    /// Freezes it, as a long pause of its machine would.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    /// Sends it a signal by name (`HUP`).
    pub(crate) fn signal(&self, name: &str) {
        send_signal(self.child.id(), name);
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self, within: Duration) -> ExitStatus {
        eventually(within, "arauto to end", async || self.child.try_wait().unwrap()).await
    }

    /// Has it ended?
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Everything it wrote so far, line by line.
    pub(crate) fn output(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Its log lines so far; what is not JSON is left out.
    pub(crate) fn log(&self) -> Vec<Value> {
        self.output().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// All log lines with this message.
    pub(crate) fn logged_all(&self, message: &str) -> Vec<Value> {
        self.log().into_iter().filter(|line| field(line, "message") == Some(message)).collect()
    }

    /// The first log line with this message.
    pub(crate) fn logged(&self, message: &str) -> Option<Value> {
        self.log().into_iter().find(|line| field(line, "message") == Some(message))
    }

    /// Waits for a log line with this message.
    pub(crate) async fn wait_for_log(&self, message: &str) -> Value {
        eventually(PATIENCE, &format!("the log line {message:?}"), async || self.logged(message)).await
    }

    /// Resident memory in bytes (Linux).
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a living process");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kilobytes * 1024
    }
}

impl Drop for Arauto {
    fn drop(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
        if std::thread::panicking() {
            let output = self.output();
            let shown = &output[output.len().saturating_sub(SHOWN_LINES)..];
            eprintln!(
                "the last {} lines of arauto ({}):\n{}",
                shown.len(),
                self.child.id(),
                shown.join("\n")
            );
        }
    }
}

/// A field of a JSON log line as text.
pub(crate) fn field<'a>(line: &'a Value, name: &str) -> Option<&'a str> {
    line.get("fields").unwrap_or(line).get(name)?.as_str()
}

fn collect(stream: impl Read + Send + 'static, log: &Arc<Mutex<Vec<String>>>) {
    let log = log.clone();
    // Ends with the stream, that is with the child.
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            log.lock().unwrap().push(line);
        }
    });
}

/// Asks without saying anything.
pub(crate) fn ask(address: &str, method: &str, path: &str, headers: &str) -> std::io::Result<(u16, String)> {
    tell(address, (method, path), headers, "")
}

/// HTTP/1.0, so that the answer ends with the connection and is not chunked.
fn tell(
    address: &str,
    (method, path): (&str, &str),
    headers: &str,
    body: &str,
) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "{method} {path} HTTP/1.0\r\nhost: {address}\r\n{headers}\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(std::io::ErrorKind::InvalidData)?, body.to_owned()))
}
