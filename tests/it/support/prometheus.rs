//! A real Prometheus as a child process, scraping every second, and its tool for rules and metrics.
//!
//! It scrapes and evaluates what it is told to and says what it has found; what that ought to be is the test's affair.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use url::form_urlencoded;

use super::{PATIENCE, arauto::ask, eventually};

/// Ends with the test process, however that ends: then its standard input is closed.
const UNTIL_EOF: &str = r#""$@" & read -r _; kill $!; wait"#;

/// A Prometheus with its data. Dropping it ends it and removes the data.
pub(crate) struct Prometheus {
    dir: TempDir,
    address: String,
    child: Child,
    lifeline: Option<ChildStdin>,
}

impl Prometheus {
    /// One that scrapes these addresses as the job `arauto` and evaluates these rules, ready.
    pub(crate) async fn start(targets: &[&str], rules: &[PathBuf]) -> Self {
        let program = program("prometheus");
        let dir = TempDir::with_prefix("arauto-prometheus-").expect("a temporary directory");
        let config = json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": rules,
            "scrape_configs": [{ "job_name": "arauto", "static_configs": [{ "targets": targets }] }],
        });
        // JSON is YAML.
        std::fs::write(dir.path().join("prometheus.yml"), config.to_string()).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", UNTIL_EOF, "sh"])
            .arg(program)
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg("--web.listen-address=127.0.0.1:0")
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("a shell");
        let lifeline = child.stdin.take();
        let mut prometheus = Self { dir, address: String::new(), child, lifeline };
        prometheus.address = eventually(PATIENCE, "Prometheus to listen", async || {
            let log = prometheus.log();
            assert!(!log.contains("level=error"), "{log}");
            let said = log.lines().find_map(|line| line.split_once(r#"msg="Listening on" "#))?.1;
            Some(said.split("address=").nth(1)?.split_whitespace().next()?.to_owned())
        })
        .await;
        prometheus
    }

    /// What a query gives now: labels and value of each series.
    pub(crate) async fn query(&self, query: &str) -> Vec<(Value, f64)> {
        let encoded: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let data = self.get(&format!("/api/v1/query?query={encoded}")).await;
        let value = |pair: &Value| pair[1].as_str().expect("a value").parse().expect("a number");
        match data["resultType"].as_str().expect("a type") {
            "scalar" => vec![(Value::Null, value(&data["result"]))],
            "vector" => {
                let series = data["result"].as_array().expect("series").iter();
                series.map(|one| (one["metric"].clone(), value(&one["value"]))).collect()
            }
            other => panic!("{query} gives a {other}"),
        }
    }

    /// Every rule as Prometheus has understood it.
    pub(crate) async fn rules(&self) -> Vec<Value> {
        let data = self.get("/api/v1/rules").await;
        let groups = data["groups"].as_array().expect("groups").iter();
        groups.flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
    }

    async fn get(&self, path: &str) -> Value {
        let (address, path) = (self.address.clone(), path.to_owned());
        let asked = path.clone();
        let answer = tokio::task::spawn_blocking(move || ask(&address, "GET", &asked, ""));
        let (_, answer) = answer.await.unwrap().unwrap_or_else(|error| panic!("{error}: {}", self.log()));
        let mut answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].take()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        self.child.wait().expect("a child can be waited for");
    }
}

/// Runs promtool with something on its standard input.
pub(crate) fn promtool(arguments: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(program("promtool"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool can be started");
    child.stdin.take().expect("stdin is a pipe").write_all(stdin.as_bytes()).expect("it reads");
    child.wait_with_output().expect("a child can be waited for")
}

/// Where a program is: on the path, or where `tests/prometheus/fetch` has put it.
fn program(name: &str) -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.cache/prometheus/usr/bin").join(name);
    for path in [PathBuf::from(name), fetched] {
        let version = Command::new(&path).arg("--version").output();
        if version.is_ok_and(|version| version.status.success()) {
            return path;
        }
    }
    panic!("no {name} on the path nor in tests/.cache: run tests/run, or only tests/prometheus/fetch");
}
