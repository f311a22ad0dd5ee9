//! The dashboards are what their program writes, Grafana can import them as they are, and every metric that they and
//! the rules name exists. Whether their queries find anything is the matter of `prometheus`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use regex::Regex;
use serde_json::Value;

/// What Grafana itself puts in the place of a variable.
const BUILT_IN: [&str; 5] =
    ["__rate_interval", "__range", "__url_time_range", "__value.text:percentencode", "__all"];
/// Of the usual metrics of a process, those that are used, and those that Prometheus makes itself.
const FOREIGN: [&str; 5] = [
    "process_start_time_seconds",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "up",
    "ALERTS",
];

/// One dashboard file.
pub(crate) struct Dashboard {
    pub(crate) name: String,
    pub(crate) json: Value,
}

impl Dashboard {
    /// Every one there is.
    pub(crate) fn all() -> Vec<Self> {
        let mut files: Vec<_> = files("grafana", "json");
        files.sort();
        let read = |path: PathBuf| Self {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            json: serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap(),
        };
        files.into_iter().map(read).collect()
    }

    pub(crate) fn uid(&self) -> &str {
        self.json["uid"].as_str().expect("a uid")
    }

    /// Its panels but for the headings between them.
    pub(crate) fn panels(&self) -> impl Iterator<Item = &Value> {
        let panels = self.json["panels"].as_array().expect("panels").iter();
        panels.filter(|panel| panel["type"] != "row")
    }

    pub(crate) fn variables(&self) -> &[Value] {
        self.json["templating"]["list"].as_array().expect("variables")
    }

    /// Every query with where it is: of panels, variables and annotations.
    pub(crate) fn queries(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let mut found = Vec::new();
        for panel in self.panels() {
            let at = format!("{}: {}", self.name, text(&panel["title"]));
            let targets = panel["targets"].as_array().expect("targets").iter();
            found.extend(targets.map(|target| (at.clone(), text(&target["expr"]))));
        }
        for annotation in self.json["annotations"]["list"].as_array().expect("annotations") {
            found.push((format!("{}: {}", self.name, text(&annotation["name"])), text(&annotation["expr"])));
        }
        for variable in self.variables().iter().filter(|variable| variable["type"] == "query") {
            found.push((
                format!("{}: ${}", self.name, text(&variable["name"])),
                text(&variable["definition"]),
            ));
        }
        found
    }
}

/// A file or folder of `deploy/`.
pub(crate) fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

/// The files of a folder of `deploy/` with this ending.
pub(crate) fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(deploy(folder)).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|it| it == ending)).collect();
    assert!(!found.is_empty(), "no .{ending} in deploy/{folder}");
    found
}

/// Every object within, itself included.
fn objects<'a>(value: &'a Value, found: &mut Vec<&'a serde_json::Map<String, Value>>) {
    match value {
        Value::Object(object) => {
            found.push(object);
            object.values().for_each(|inner| objects(inner, found));
        }
        Value::Array(array) => array.iter().for_each(|inner| objects(inner, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn they_are_what_their_program_writes() {
    let written = tempfile::tempdir().unwrap();
    let program = deploy("grafana/generate");
    let output = Command::new("python3").arg(&program).arg(written.path()).output();
    let output = output.expect("python3 is needed: sudo apt-get install python3, or run tests/run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut names = BTreeSet::new();
    for path in files("grafana", "json") {
        let name = path.file_name().unwrap();
        names.insert(name.to_owned());
        let fresh = std::fs::read_to_string(written.path().join(name)).expect("the program writes it");
        // Not assert_eq: nobody wants to read two dashboards.
        assert!(
            std::fs::read_to_string(&path).unwrap() == fresh,
            "{name:?} is old: run deploy/grafana/generate"
        );
    }
    let fresh = std::fs::read_dir(written.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(fresh.collect::<BTreeSet<_>>(), names);
}

#[test]
fn grafana_can_import_them_as_they_are() {
    let dashboards = Dashboard::all();
    let uids: BTreeSet<&str> = dashboards.iter().map(Dashboard::uid).collect();
    assert_eq!(uids, ["arauto-endpoint", "arauto-kafka", "arauto-overview", "arauto-slo"].into());
    for dashboard in &dashboards {
        let (name, json) = (&dashboard.name, &dashboard.json);
        assert!(json["schemaVersion"].as_i64() >= Some(39), "{name}: older than Grafana 11");
        assert!(json.get("id").is_none(), "{name}: an id belongs to one Grafana");
        assert!(json["title"].as_str().unwrap().starts_with("Arauto: ") && json["tags"][0] == "arauto");
        assert_eq!(dashboard.variables()[0]["type"], "datasource", "{name}");
        let link = &json["links"][0];
        assert_eq!((&link["type"], &link["tags"][0]), (&"dashboards".into(), &"arauto".into()), "{name}");
        let mut inner = Vec::new();
        objects(json, &mut inner);
        for source in inner.iter().filter_map(|object| object.get("datasource")) {
            assert_eq!(source["uid"], "${datasource}", "{name}: a data source of one Grafana");
        }
        for url in inner.iter().filter_map(|object| object.get("url")?.as_str()) {
            let uid = url.strip_prefix("/d/").and_then(|rest| rest.split('?').next());
            assert!(uid.is_some_and(|uid| uids.contains(uid)), "{name}: {url} leads nowhere");
        }
        check_panels(dashboard);
        check_variables(dashboard);
    }
}

fn check_panels(dashboard: &Dashboard) {
    let mut ids = BTreeSet::new();
    for panel in dashboard.json["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_i64().unwrap()), "{}: {panel}", dashboard.name);
    }
    let mut titles = BTreeSet::new();
    let mut covered = BTreeMap::new();
    for panel in dashboard.panels() {
        let title = panel["title"].as_str().unwrap();
        let at = format!("{}: {title}", dashboard.name);
        // Numbers at the top may have a graph of the same name below.
        assert!(titles.insert((title, &panel["type"] == "stat")), "{at}: twice");
        let description = panel["description"].as_str().unwrap_or_default();
        assert!(description.len() > 25 && description.ends_with(['.', '?']), "{at}: what does it tell?");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{at}: no unit");
        let grid = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(grid("x") + grid("w") <= 24, "{at}: wider than the page");
        for x in grid("x")..grid("x") + grid("w") {
            for y in grid("y")..grid("y") + grid("h") {
                let other = covered.insert((x, y), title);
                assert!(other.is_none(), "{at}: over {other:?}");
            }
        }
    }
}

fn check_variables(dashboard: &Dashboard) {
    let declared: BTreeSet<&str> =
        dashboard.variables().iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    let used = Regex::new(r"\$(\{[^}]+\}|[a-z_]+)").unwrap();
    let text = dashboard.json.to_string();
    for found in used.captures_iter(&text) {
        let name = found[1].trim_matches(['{', '}']);
        let ours = name.split(':').next().unwrap();
        assert!(declared.contains(ours) || BUILT_IN.contains(&name), "{}: ${name}", dashboard.name);
    }
}

#[test]
fn every_metric_they_and_the_rules_name_exists() {
    // Where every metric is named.
    let code = include_str!("../../src/metrics.rs");
    let in_code = Regex::new(r#""(arauto_[a-z0-9_]+)""#).unwrap();
    let in_code = in_code.captures_iter(code).map(|found| found.get(1).unwrap().as_str());
    let known: BTreeSet<&str> = in_code.chain(FOREIGN).collect();
    let mut places: Vec<(String, String)> = Dashboard::all().iter().flat_map(Dashboard::queries).collect();
    let mut recorded = BTreeSet::new();
    let record = Regex::new(r"record: (\S+)").unwrap();
    for path in files("prometheus", "yaml") {
        let text = std::fs::read_to_string(&path).unwrap();
        recorded.extend(record.captures_iter(&text).map(|found| found[1].to_owned()));
        places.push((path.display().to_string(), text));
    }
    places.push(("runbook".to_owned(), std::fs::read_to_string(deploy("runbook.md")).unwrap()));
    let named = Regex::new(r"\b(?:arauto_|process_|job:|arauto:)[a-z0-9_:]+\b").unwrap();
    for (at, text) in places {
        for found in named.find_iter(&text).map(|found| found.as_str()) {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| found.strip_suffix(suffix));
            let exists = |name: &str| known.contains(name) || recorded.contains(name);
            assert!(exists(found) || family.is_some_and(exists), "{at}: there is no {found}");
        }
    }
}
