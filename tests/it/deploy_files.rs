//! What is in `deploy/` fits together and fits the binary: it parses, its parts name each other rightly, ports and times are
//! those of the defaults, configurations pass `arauto check`, commands and metrics exist, and the image has what it needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize as _;
use serde_json::Value;

use crate::support::command::{arauto, arauto_with};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// What the configurations of the examples take from the environment.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("CRM_SECRET", SECRET),
    ("LEDGER_SECRET", SECRET),
    ("RECEIVER_SECRET", SECRET),
    ("KAFKA_PASSWORD", "password"),
];

fn path(relative: &str) -> PathBuf {
    Path::new(ROOT).join(relative)
}

fn read(relative: &str) -> String {
    fs::read_to_string(path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

/// The documents of a YAML file.
fn yaml(relative: &str) -> Vec<Value> {
    let text = read(relative);
    let documents = yaml_serde::Deserializer::from_str(&text);
    let parse = |document| Value::deserialize(document).unwrap_or_else(|error| panic!("{relative}: {error}"));
    documents.map(parse).collect()
}

/// All files below a folder, by their paths from the root.
fn files(folder: &str, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path(folder)).unwrap() {
        let name = format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap());
        if path(&name).is_dir() {
            found.extend(files(&name, extension));
        } else if name.ends_with(extension) {
            found.push(name);
        }
    }
    found.sort();
    found
}

/// A default of the reference configuration, as it is written there.
fn default(section: &str, key: &str) -> toml::Value {
    let reference: toml::Table = read("config/arauto.toml").parse().unwrap();
    reference[section][key].clone()
}

fn seconds(text: &str) -> u64 {
    text.strip_suffix('s').and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{text}: no seconds"))
}

fn shutdown_grace() -> u64 {
    seconds(default("limits", "shutdown_grace").as_str().unwrap())
}

fn mebibytes(text: &str) -> u64 {
    let digits = text.trim_end_matches(|char: char| char.is_alphabetic());
    assert!(text.ends_with("MiB") || text.ends_with("Mi"), "{text}: no mebibytes");
    digits.trim().parse().unwrap()
}

fn port(address: &str) -> u64 {
    address.rsplit(':').next().unwrap().parse().unwrap()
}

fn admin_port() -> u64 {
    port(default("admin", "listen").as_str().unwrap())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn words(value: &Value) -> Vec<&str> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list")).iter().map(text).collect()
}

/// A command line of ours exists with these options.
async fn exists(command: &[&str]) {
    let words = command.iter().copied().take_while(|word| !word.starts_with("--")).chain(["--help"]);
    let words: Vec<&str> = words.collect();
    let output = arauto(&words).await;
    assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{words:?}");
    for option in command.iter().filter(|word| word.starts_with("--")) {
        assert!(output.stdout.contains(option), "{command:?} has no {option}");
    }
}

/// A configuration is right, and the admin server listens where it is looked for from outside.
async fn sound(config: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("arauto.toml");
    fs::write(&file, config).unwrap();
    let output = arauto_with(&["check", "--config", file.to_str().unwrap()], &ENVIRONMENT).await;
    assert_eq!(output.code, 0, "{output:?}\n{config}");
    let parsed: toml::Table = config.parse().unwrap();
    assert_eq!(parsed["admin"]["listen"].as_str(), Some(format!("0.0.0.0:{}", admin_port()).as_str()));
}

#[test]
fn every_file_parses() {
    let parsed: Vec<String> =
        files("deploy", ".yaml").into_iter().filter(|file| !yaml(file).is_empty()).collect();
    assert!(parsed.len() >= 12, "{parsed:?}");
    for script in ["deploy/image", "deploy/kafka/kafka.sh", "deploy/sbom"] {
        let output = Command::new("bash").arg("-n").arg(path(script)).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn kustomizations_name_what_is_there_and_all_of_it() {
    let kustomizations: Vec<String> = files("deploy/k8s", ".yaml")
        .into_iter()
        .filter(|file| file.ends_with("/kustomization.yaml"))
        .collect();
    assert_eq!(kustomizations.len(), 4, "{kustomizations:?}");
    let mut named = BTreeSet::new();
    for file in &kustomizations {
        let folder = file.trim_end_matches("/kustomization.yaml");
        let kustomization = &yaml(file)[0];
        let list = |key: &str| kustomization.get(key).map(words).unwrap_or_default();
        let generated = kustomization["configMapGenerator"].as_array().cloned().unwrap_or_default();
        let generated: Vec<&str> =
            generated.iter().flat_map(|map| words(&map["files"])).map(|_| "arauto.toml").collect();
        for name in list("resources").into_iter().chain(list("components")).chain(generated) {
            let found = path(&format!("{folder}/{name}"));
            assert!(found.exists(), "{file} names {name}");
            named.insert(found.canonicalize().unwrap());
        }
    }
    for file in files("deploy/k8s", "").into_iter().filter(|file| !kustomizations.contains(file)) {
        assert!(named.contains(&path(&file).canonicalize().unwrap()), "{file} is named by no kustomization");
    }
}

/// The one resource of a file.
fn resource(file: &str, kind: &str) -> Value {
    let mut documents = yaml(file);
    assert_eq!(documents.len(), 1, "{file}");
    assert_eq!(
        (&documents[0]["kind"], &documents[0]["metadata"]["name"]),
        (&kind.into(), &"arauto".into()),
        "{file}"
    );
    documents.remove(0)
}

#[tokio::test]
async fn the_deployment_fits_the_binary_and_its_defaults() {
    let deployment = resource("deploy/k8s/base/deployment.yaml", "Deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace > shutdown_grace(), "{grace} s");
    exists(&words(&container["args"])[..1]).await;
    assert_eq!(container["ports"][0]["containerPort"], admin_port());
    let port_name = &container["ports"][0]["name"];
    let routes = read("src/admin.rs");
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        let get = &container[probe]["httpGet"];
        assert_eq!((&get["path"], &get["port"]), (&path.into(), port_name));
        assert!(routes.contains(&format!(".route({path:?}, ")), "{path}");
    }
    let config = text(&container["args"][2]);
    assert!(config.starts_with(text(&container["volumeMounts"][0]["mountPath"])), "{config}");
    for (key, secure) in [("allowPrivilegeEscalation", false), ("readOnlyRootFilesystem", true)] {
        assert_eq!(container["securityContext"][key], secure, "{key}");
    }
    // Window, prefetch of 100 partitions, what it needs at rest, and 50,000 endpoints.
    let bound = mebibytes(default("limits", "in_flight_bytes").as_str().unwrap())
        + 100 * mebibytes(default("limits", "prefetch").as_str().unwrap())
        + 25
        + 50_000 * 3 / 1024;
    let limit = mebibytes(text(&container["resources"]["limits"]["memory"]));
    assert!(limit >= bound, "{limit} MiB are less than {bound}");

    let service = resource("deploy/k8s/base/service.yaml", "Service");
    let served = &service["spec"]["ports"][0];
    assert_eq!((&served["port"], &served["targetPort"]), (&admin_port().into(), port_name));
    let monitor = resource("deploy/k8s/components/prometheus/service-monitor.yaml", "ServiceMonitor");
    let scraped = &monitor["spec"]["endpoints"][0];
    assert_eq!((&scraped["port"], &scraped["path"]), (&served["name"], &"/metrics".into()));
    let policy = resource("deploy/k8s/base/network-policy.yaml", "NetworkPolicy");
    assert_eq!(&policy["spec"]["ingress"][0]["ports"][0]["port"], port_name);
    let user = pod["securityContext"]["runAsUser"].as_u64().unwrap();
    assert!(read("deploy/Dockerfile").contains(&format!("USER {user}:{user}\n")));
    for config in ["base", "overlays/production"] {
        sound(&read(&format!("deploy/k8s/{config}/arauto.toml"))).await;
    }
}

#[test]
fn what_scales_by_metrics_names_some_that_exist() {
    let scaled = resource("deploy/k8s/components/keda/scaled-object.yaml", "ScaledObject");
    let spec = &scaled["spec"];
    assert_eq!(spec["scaleTargetRef"]["name"], "arauto");
    let query = text(&spec["triggers"][0]["metadata"]["query"]);
    let is_word = |char: char| char.is_ascii_alphanumeric() || char == '_';
    let names: BTreeSet<&str> =
        query.split(|char| !is_word(char)).filter(|word| word.starts_with("arauto_")).collect();
    assert_eq!(names, ["arauto_window_used_ratio"].into());
    let contract = read("src/metrics.rs");
    assert!(names.iter().all(|name| contract.contains(&format!("\"{name}\""))));
    assert!(!query.contains("lag"));
    let [least, most] = ["minReplicaCount", "maxReplicaCount"].map(|key| spec[key].as_u64().unwrap());
    assert!(1 < least && least < most);
}

#[tokio::test]
async fn the_unit_fits_the_binary_and_its_defaults() {
    let unit = read("deploy/systemd/arauto.service");
    let mut settings: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, value) in
        unit.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='))
    {
        settings.entry(key).or_default().push(value);
    }
    assert_eq!(settings["Type"], ["notify"]);
    assert!(settings["TimeoutStopSec"][0].parse::<u64>().unwrap() > shutdown_grace());
    assert!(settings["WatchdogSec"][0].parse::<u64>().unwrap() >= 10);
    // 2 is wrong usage or configuration, see `arauto --help`.
    assert_eq!(settings["RestartPreventExitStatus"], ["2"]);
    let start: Vec<&str> = settings["ExecStart"][0].split(' ').collect();
    exists(&start[1..3]).await;
    assert_eq!((start[0], start[3]), ("/usr/local/bin/arauto", "/etc/arauto/arauto.toml"));
}

/// The instructions of the Dockerfile, continued lines joined.
fn instructions() -> Vec<(String, String)> {
    let text = read("deploy/Dockerfile").replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .map(|line| line.split_once(' ').unwrap())
        .map(|(a, b)| (a.to_owned(), b.trim().to_owned()))
        .collect()
}

#[tokio::test]
async fn the_image_is_pinned_and_runs_what_there_is() {
    let instructions = instructions();
    let of = |name: &str| -> Vec<&str> {
        instructions.iter().filter(|(found, _)| found == name).map(|(_, rest)| rest.as_str()).collect()
    };
    for base in
        of("FROM").iter().map(|base| base.split(' ').next().unwrap()).filter(|base| *base != "scratch")
    {
        let tag = base.split_once(':').map(|(_, tag)| tag).unwrap_or_default();
        assert!(tag.split('-').next().unwrap().split('.').count() == 3, "{base} is no exact version");
        let package: toml::Table = read("Cargo.toml").parse().unwrap();
        let least = package["package"]["rust-version"].as_str().unwrap().to_owned();
        assert!(tag.starts_with(&least), "{base} is not Rust {least}");
    }
    assert_eq!(of("EXPOSE"), [admin_port().to_string()]);
    assert!(
        of("USER")[0].chars().all(|char| char.is_ascii_digit() || char == ':')
            && !of("USER")[0].starts_with('0')
    );
    let command =
        |text: &str| -> Vec<String> { serde_json::from_str(&text[text.find('[').unwrap()..]).unwrap() };
    let entry = command(of("ENTRYPOINT")[0]);
    let health = command(of("HEALTHCHECK")[0]);
    assert_eq!(entry[..1], health[..1]);
    exists(&health[1..].iter().map(String::as_str).collect::<Vec<_>>()).await;
    let run = command(of("CMD")[0]);
    exists(&run.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let version = env!("CARGO_PKG_VERSION");
    assert!(of("ARG").contains(&format!("VERSION={version}").as_str()), "VERSION is not {version}");
    let ignored = read("deploy/Dockerfile.dockerignore");
    let kept: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(kept.iter().all(|kept| path(kept).exists()), "{kept:?}");
    assert!(
        ["Cargo.toml", "Cargo.lock", "src", "benches", "deploy/image"]
            .iter()
            .all(|needed| kept.contains(needed))
    );
}

/// The binary of this build with the libraries that were laid beside it, and no others.
#[test]
fn the_image_has_all_that_the_binary_needs() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let laid =
        Command::new(path("deploy/image")).arg(env!("CARGO_BIN_EXE_arauto")).arg(root).output().unwrap();
    assert!(laid.status.success(), "{}", String::from_utf8_lossy(&laid.stderr));
    for file in
        ["usr/local/bin/arauto", "etc/ssl/certs/ca-certificates.crt", "etc/nsswitch.conf", "etc/passwd"]
    {
        assert!(root.join(file).is_file(), "{file}");
    }
    let linked = Command::new("ldd").arg(env!("CARGO_BIN_EXE_arauto")).output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    let libraries: Vec<&str> = linked
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(|word| word.trim_start_matches('/'))
        .collect();
    let loader = libraries.iter().find(|library| library.contains("ld-")).expect("a loader");
    let folder = libraries.iter().find(|library| library.contains("libc.so")).expect("a C library");
    let folder = root.join(folder).parent().unwrap().to_owned();
    let mut run = Command::new(root.join(loader));
    run.arg("--inhibit-cache")
        .arg("--library-path")
        .arg(&folder)
        .arg(root.join("usr/local/bin/arauto"))
        .arg("--version");
    let output = run.output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.starts_with(&format!("arauto {} (revision ", env!("CARGO_PKG_VERSION"))), "{told}");
}

#[tokio::test]
async fn the_compose_file_fits_together() {
    let compose = &yaml("deploy/compose.yaml")[0];
    let services = compose["services"].as_object().unwrap();
    let configs = compose["configs"].as_object().unwrap();
    for (name, service) in services {
        let image = text(&service["image"]);
        assert!(
            service.get("build").is_some() || image.split_once(':').is_some_and(|(_, tag)| tag != "latest"),
            "{image}"
        );
        let needs: Vec<&str> = match &service["depends_on"] {
            Value::Object(needs) => needs.keys().map(String::as_str).collect(),
            Value::Array(_) => words(&service["depends_on"]),
            _ => Vec::new(),
        };
        assert!(needs.iter().all(|needed| services.contains_key(*needed)), "{name}: {needs:?}");
        for config in service["configs"].as_array().into_iter().flatten() {
            assert!(configs.contains_key(text(&config["source"])), "{name}: {config}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten().map(text) {
            let (host, _) = volume.split_once(':').unwrap();
            assert!(path(&format!("deploy/{host}")).is_dir(), "{name}: {host}");
        }
        let published = service["ports"].as_array().into_iter().flatten().map(text);
        assert!(published.into_iter().all(|port| port.starts_with("127.0.0.1:")), "{name}");
    }
    let instance = &services["arauto"];
    assert!(seconds(text(&instance["stop_grace_period"])) > shutdown_grace());
    assert!(text(&instance["ports"][0]).ends_with(&format!(":{}", admin_port())));
    exists(&words(&instance["healthcheck"]["test"])[2..]).await;
    let listen = words(&services["receiver"]["command"]);
    exists(&[listen[0], listen[1], listen[3]]).await;
    sound(text(&configs["arauto"]["content"])).await;
    for config in configs.keys().filter(|name| *name != "arauto") {
        let content = text(&configs[config]["content"]);
        let parsed: Value = yaml_serde::from_str(content).unwrap_or_else(|error| panic!("{config}: {error}"));
        if config == "prometheus" {
            let job = &parsed["scrape_configs"][0];
            assert_eq!(
                (&job["job_name"], &job["dns_sd_configs"][0]["port"]),
                (&"arauto".into(), &admin_port().into())
            );
        }
    }
}

/// For the overlay's configuration; on a difference: write them again with the command of their first lines.
#[tokio::test]
async fn the_kafka_files_are_those_that_the_configuration_makes() {
    let config = path("deploy/k8s/overlays/production/arauto.toml");
    let more = [
        "--user",
        "arauto",
        "--operator",
        "oncall",
        "--cluster",
        "kafka",
        "--config",
        config.to_str().unwrap(),
    ];
    for (format, file) in [("kafka-cli", "kafka.sh"), ("strimzi", "strimzi.yaml"), ("terraform", "kafka.tf")]
    {
        let output = arauto_with(&[&["topics", "--format", format][..], &more].concat(), &ENVIRONMENT).await;
        assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{format}");
        assert_eq!(output.stdout, read(&format!("deploy/kafka/{file}")), "{file} is of yesterday");
    }
    let resources = yaml("deploy/kafka/strimzi.yaml");
    let script = read("deploy/kafka/kafka.sh");
    let (topics, users): (Vec<_>, Vec<_>) =
        resources.iter().partition(|resource| resource["kind"] == "KafkaTopic");
    assert_eq!((topics.len(), users.len()), (script.matches("\ntopic ").count(), 2));
    for topic in topics {
        assert!(script.contains(&format!("\ntopic {} ", text(&topic["spec"]["topicName"]))), "{topic}");
    }
    let granted: usize =
        users.iter().map(|user| user["spec"]["authorization"]["acls"].as_array().unwrap().len()).sum();
    assert_eq!(granted, script.matches("--allow-principal User:").count());
}
