//! Dashboards, rules and alerts against a real Prometheus that scrapes a real Arauto with receivers of every kind: every
//! query finds something, and what is wrong is told, and nothing else. Every alert is tested, explained, and followed by
//! commands that exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Output,
    time::Duration,
};

use regex::Regex;
use serde_json::Value;

use crate::{
    dashboards::{Dashboard, deploy, files},
    support::{
        Rig,
        arauto::Arauto,
        command,
        config::{ConfigFile, Endpoint},
        eventually,
        hook::{Hook, Reply, vacant},
        prometheus::{Prometheus, promtool},
        records::NewRecord,
    },
};

/// Statistics of brokers come every 15 s, and rates need two scrapes after the thing they count.
const LONG: Duration = Duration::from_secs(120);

/// Queries that rightly find nothing here, with the reason.
const EMPTY: [(&str, &str); 1] = [(
    "endpoint: Certificate expires in",
    "no receiver of this test speaks TLS; its alert is tested by itself",
)];

/// Series named by alerts that are rightly not there, with the reason.
const ABSENT: [(&str, &str); 1] =
    [("arauto_certificate_expiry_seconds", "no receiver of this test speaks TLS")];

/// What is to be told of the receivers below, sooner or later: each alert with the endpoint it is about.
const TOLD: [(&str, &str); 6] = [
    ("ArautoBreakerOpen", "down"),
    ("ArautoDeadLetters", "failing"),
    ("ArautoDeadLetters", "gone"),
    ("ArautoEndpointDisabled", "gone"),
    ("ArautoEndpointFailing", "failing"),
    ("ArautoReloadRejected", ""),
];

/// What is told of a starved machine: scrapes take more than their second, and what they see is late.
const STARVED: [&str; 3] = ["ArautoAbsent", "ArautoInstanceDown", "ArautoClockDifference"];

fn rule_files() -> Vec<PathBuf> {
    ["prometheus/arauto.rules.yaml", "prometheus/arauto.alerts.yaml"].map(deploy).into()
}

fn alerts() -> Vec<String> {
    let text = std::fs::read_to_string(deploy("prometheus/arauto.alerts.yaml")).unwrap();
    let alert = Regex::new(r"- alert: (\w+)").unwrap();
    alert.captures_iter(&text).map(|found| found[1].to_owned()).collect()
}

fn passed(output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

fn arguments<'a>(first: &[&'a str], paths: &'a [PathBuf]) -> Vec<&'a str> {
    first.iter().copied().chain(paths.iter().map(|path| path.to_str().unwrap())).collect()
}

#[test]
fn every_alert_fires_when_it_should_and_is_silent_when_it_should() {
    passed(&promtool(&arguments(&["check", "rules"], &rule_files()), ""));
    let tests = files("prometheus/tests", "yaml");
    passed(&promtool(&arguments(&["test", "rules"], &tests), ""));

    let mut shown: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for path in tests {
        let text = std::fs::read_to_string(&path).unwrap();
        for case in text.split("\n  - name: ").skip(1) {
            let (alert, rest) = case.split_once(' ').unwrap();
            let how = rest.split_whitespace().next().unwrap();
            let expected = match how {
                "fires" => format!(r#"- {{ labels: 'ALERTS{{alertname="{alert}", alertstate="firing""#),
                "is" => "exp_samples: [] }".to_owned(),
                other => panic!("{alert} {other}?"),
            };
            assert!(case.contains(&expected) && case.contains("ALERTS{alertname="), "{alert} {rest}");
            shown.entry(alert.to_owned()).or_default().insert(if how == "fires" {
                "fires"
            } else {
                "silent"
            });
        }
    }
    let both = BTreeSet::from(["fires", "silent"]);
    let expected: BTreeMap<String, BTreeSet<&str>> =
        alerts().into_iter().map(|alert| (alert, both.clone())).collect();
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn every_alert_has_an_entry_in_the_runbook_and_its_commands_exist() {
    let runbook = std::fs::read_to_string(deploy("runbook.md")).unwrap();
    let (introduction, entries) = runbook.split_once("\n## ").unwrap();
    let entries: Vec<&str> = entries.split("\n## ").collect();
    let titles: Vec<&str> = entries.iter().map(|entry| entry.lines().next().unwrap()).collect();
    assert_eq!(titles, alerts(), "one entry for each alert, in their order");
    for (title, entry) in titles.iter().zip(&entries) {
        for part in ["**Means.** ", "**Look.**", "**Do.**", "\narauto "] {
            assert!(entry.contains(part), "{title}: {part}");
        }
    }
    let rules = std::fs::read_to_string(deploy("prometheus/arauto.alerts.yaml")).unwrap();
    for alert in alerts() {
        let anchor = format!("runbook: deploy/runbook.md#{}\n", alert.to_lowercase());
        assert!(rules.contains(&anchor), "{alert} does not say where its entry is");
    }
    // What stands before --help is read first, values included.
    let commands = commands(introduction).chain(entries.iter().flat_map(|entry| commands(entry)));
    for one in commands.collect::<BTreeSet<_>>() {
        let words: Vec<&str> = one.split(' ').skip(1).chain(["--help"]).collect();
        let output = command::arauto(&words).await;
        assert_eq!(output.code, 0, "{one}: {}", output.stderr);
    }
}

/// The commands of a text: lines of code blocks, and code within sentences.
fn commands(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().filter(|line| line.starts_with("arauto "));
    let within = text.split('`').skip(1).step_by(2).filter(|code| code.starts_with("arauto "));
    lines.chain(within.filter(|code| !code.contains('\n')))
}

/// Receivers of every kind, and who gets what.
struct Receivers {
    fine: Hook,
    flaky: Hook,
    failing: Hook,
    gone: Hook,
    down: String,
}

impl Receivers {
    async fn new() -> Self {
        Self {
            fine: Hook::start(|request| match request.uri.path() {
                "/slow" => Reply::ok().after(Duration::from_millis(200)),
                _ => Reply::ok(),
            })
            .await,
            // Six of the 32 characters an id ends with: a sixth of its attempts.
            flaky: Hook::start(|request| {
                let fails = request.nth == 1 && request.id.ends_with(|last: char| last.is_ascii_digit());
                Reply::status(if fails { 503 } else { 200 })
            })
            .await,
            failing: Hook::refusing(500).await,
            gone: Hook::refusing(410).await,
            down: format!("http://{}/", vacant().await),
        }
    }

    fn config(&self, rig: &Rig) -> crate::support::config::Config {
        let at = |path: &str| format!("http://{}/{path}", self.fine.address());
        let endpoint = |id: &str, url: &str| Endpoint::new(id, url).set("types", vec!["order.*"]);
        rig.config()
            .endpoint(endpoint("fine", &at("fine")))
            .endpoint(endpoint("slow", &at("slow")))
            .endpoint(endpoint("own", &at("own")).set("queue", "own"))
            .endpoint(endpoint("throttled", &at("throttled")).set("rate", "5/s").set("burst", 1))
            .endpoint(endpoint("flaky", &self.flaky.url()).set("retry.schedule", vec!["1s"; 5]))
            .endpoint(endpoint("failing", &self.failing.url()).set("retry.schedule", vec!["1s"]))
            .endpoint(endpoint("gone", &self.gone.url()))
            .endpoint(endpoint("down", &self.down).set("breaker.minimum", 3).set("breaker.open_for", "1s"))
    }
}

const ENDPOINTS: [&str; 8] = ["fine", "slow", "own", "throttled", "flaky", "failing", "gone", "down"];

/// Some events for everybody, and one that nobody wants.
async fn produce(rig: &Rig, events: usize) {
    let event = |kind: &str| NewRecord::new(&rig.topic, "{}").header("ce_type", kind);
    let records: Vec<_> = (0..events).map(|_| event("order.paid")).chain([event("nobody.cares")]).collect();
    rig.cluster.produce(&records).await;
}

/// An Arauto with a backlog for its throttled endpoint and a configuration that it refuses.
async fn troubled(rig: &Rig, receivers: &Receivers) -> (Arauto, ConfigFile) {
    let config = receivers.config(rig);
    let file = config.write();
    produce(rig, 1_000).await;
    let arauto = Arauto::run(&file.path()).await;
    arauto
        .wait_for_metrics("a backlog, and a delivery to somebody else", |metrics| {
            metrics.sum("arauto_lane_queued", &[("endpoint", "throttled")]) > 100.0
                && metrics.sum("arauto_deliveries_total", &[("endpoint", "fine")]) > 0.0
        })
        .await;
    file.rewrite(&config.set("limits.in_flight", "many"));
    arauto.signal("HUP");
    arauto
        .wait_for_metrics("the configuration to be refused", |metrics| {
            metrics.value("arauto_config_last_reload_success", &[]) == Some(0.0)
        })
        .await;
    (arauto, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_finds_something_and_what_is_wrong_is_told() {
    let rig = Rig::new("prometheus", 2).await;
    let receivers = Receivers::new().await;
    let (arauto, _file) = troubled(&rig, &receivers).await;
    let prometheus = Prometheus::start(&[arauto.admin_address()], &rule_files()).await;

    let mut missing = queries(&prometheus).await;
    let many = missing.len();
    assert!(many > 150, "{many} queries are too few to be all");
    eventually(LONG, "every query to find something", async || {
        // Rates are of now, so there has to be a now.
        produce(&rig, 5).await;
        let mut left = Vec::new();
        for (at, alternatives) in std::mem::take(&mut missing) {
            if !finds(&prometheus, &alternatives).await {
                left.push((at, alternatives));
            }
        }
        missing = left;
        // Shown when the test fails.
        eprintln!("found nothing yet: {missing:?}");
        missing.is_empty().then_some(())
    })
    .await;

    check_alerts(&prometheus).await;
    let (status, page) = arauto.get("/metrics").await.unwrap();
    assert_eq!(status, 200);
    let linted = promtool(&["check", "metrics"], &page);
    passed(&linted);
    assert!(
        linted.stdout.is_empty() && linted.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&linted.stderr)
    );
}

/// Every query there is: where it is, and what Grafana may ask for it, of which one has to find something.
async fn queries(prometheus: &Prometheus) -> Vec<(String, Vec<String>)> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    for dashboard in Dashboard::all() {
        for (at, query) in dashboard.queries() {
            if !EMPTY.iter().any(|(empty, _)| *empty == at) {
                all.push((at, as_grafana_asks(&query)));
            }
        }
    }
    let series = Regex::new(r"\b(?:arauto_|process_|up\b|job:|arauto:)[a-z0-9_:]*(?:\{[^}]*\})?").unwrap();
    for rule in prometheus.rules().await {
        let (name, query) = (rule["name"].as_str().unwrap(), rule["query"].as_str().unwrap());
        if rule["type"] == "recording" {
            all.push((name.to_owned(), vec![query.to_owned()]));
            continue;
        }
        // An alert finds nothing while all is well, so look at what it is made of.
        let found: Vec<&str> = series.find_iter(query).map(|found| found.as_str()).collect();
        assert!(!found.is_empty(), "{name} looks at nothing: {query}");
        let there = |one: &&&str| !ABSENT.iter().any(|(absent, _)| one.starts_with(absent));
        all.extend(found.iter().filter(there).map(|one| (name.to_owned(), vec![(*one).to_owned()])));
    }
    all
}

fn as_grafana_asks(query: &str) -> Vec<String> {
    let values = Regex::new(r"^label_values\((.+), (\w+)\)$").unwrap();
    let query = values.replace(query, "count by ($2) ($1)").into_owned();
    let query = query.replace("$__rate_interval", "10s").replace("$__range", "1m");
    let query = query.replace("$job", "arauto").replace("$instance", ".*").replace("$topic", ".*");
    // One endpoint where one is chosen, all of them where several may be.
    let query = query.replace(r#"=~"$endpoint""#, r#"=~".*""#);
    assert!(!query.replace("$endpoint", "").contains('$'), "{query}");
    if query.contains("$endpoint") {
        ENDPOINTS.map(|id| query.replace("$endpoint", id)).into()
    } else {
        vec![query]
    }
}

async fn finds(prometheus: &Prometheus, alternatives: &[String]) -> bool {
    for query in alternatives {
        if prometheus.query(query).await.iter().any(|(_, value)| !value.is_nan()) {
            return true;
        }
    }
    false
}

/// What is wrong is told, of whom it is wrong; and nothing else is.
async fn check_alerts(prometheus: &Prometheus) {
    let expected: BTreeSet<(String, String)> =
        TOLD.iter().map(|(alert, endpoint)| ((*alert).to_owned(), (*endpoint).to_owned())).collect();
    let text = |labels: &Value, name: &str| labels[name].as_str().unwrap_or_default().to_owned();
    let told = eventually(LONG, "everything that is wrong to be told", async || {
        let series = prometheus.query("ALERTS").await.into_iter();
        let told: BTreeSet<_> =
            series.map(|(labels, _)| (text(&labels, "alertname"), text(&labels, "endpoint"))).collect();
        expected.is_subset(&told).then_some(told)
    })
    .await;
    // All who fail miss the objective as well, and are many.
    let follows = |alert: &str| alert.starts_with("ArautoErrorBudget") || alert == "ArautoDeadLettersRising";
    let other: Vec<_> = told
        .difference(&expected)
        .filter(|(alert, _)| !follows(alert) && !STARVED.contains(&&**alert))
        .collect();
    assert!(other.is_empty(), "told without a reason: {other:?}");
}
