//! The files `arauto topics` writes for other tools: the script makes what an instance needs on a cluster that allows nothing
//! by itself, and what it grants is enough, and no more than that.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::support::{
    PATIENCE,
    arauto::Arauto,
    broker::Broker,
    cluster::Cluster,
    command::{Output, arauto},
    config::{Config, Endpoint},
    hook::{Hook, Reply},
    records::NewRecord,
    until,
};

/// Everybody has to say who he is, nobody may do anything; who does not, on a way of its own, may do everything.
const AUTHORIZED: &str = r#"
listeners=SASL_PLAINTEXT://127.0.0.1:@BROKER_PORT@,ADMIN://127.0.0.1:ADMIN_PORT,CONTROLLER://127.0.0.1:@CONTROLLER_PORT@
advertised.listeners=SASL_PLAINTEXT://127.0.0.1:@BROKER_PORT@,ADMIN://127.0.0.1:ADMIN_PORT
listener.security.protocol.map=SASL_PLAINTEXT:SASL_PLAINTEXT,ADMIN:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=ADMIN
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_arauto="secret" user_oncall="secret";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"#;

/// A broker that allows nobody anything, and the way round that.
async fn authorized() -> (Broker, String) {
    // Taken and given back: nobody else looks for a port below those that the system hands out by itself.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let broker = Broker::start_with(&AUTHORIZED.replace("ADMIN_PORT", &free.to_string())).await;
    (broker, format!("127.0.0.1:{free}"))
}

/// A folder with Kafka's tools as they are called in its distribution, made of the jars the tests have.
fn tools() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let jars = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.cache/kafka/*");
    for (name, class) in [("kafka-topics.sh", "TopicCommand"), ("kafka-acls.sh", "AclCommand")] {
        let path = dir.path().join(name);
        let java = "exec java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx64m";
        let script = format!("#!/bin/sh\n{java} -cp '{jars}' org.apache.kafka.tools.{class} \"$@\"\n");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

/// Runs the script that `arauto topics` writes.
async fn run_script(config: &Path, more: &[&str], bootstrap: &str) {
    let written = topics(config, &[&["--format", "kafka-cli"], more].concat()).await;
    assert_eq!((written.code, written.stderr.as_str()), (0, ""));
    let (tools, bootstrap) = (tools(), bootstrap.to_owned());
    let script = tools.path().join("kafka.sh");
    fs::write(&script, written.stdout).unwrap();
    let path = format!("{}:{}", tools.path().display(), std::env::var("PATH").unwrap());
    let run = move || {
        let mut bash = std::process::Command::new("bash");
        bash.arg(script).env("PATH", path).env("BOOTSTRAP", bootstrap).output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}\n{}", told[0], told[1]);
}

async fn topics(config: &Path, more: &[&str]) -> Output {
    arauto(&[&["topics", "--config", config.to_str().unwrap()], more].concat()).await
}

fn as_user(config: Config, user: &str) -> Config {
    config
        .property("security.protocol", "SASL_PLAINTEXT")
        .property("sasl.mechanism", "PLAIN")
        .property("sasl.username", user)
        .property("sasl.password", "secret")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_script_makes_and_grants_is_what_is_needed() {
    let (broker, admin) = authorized().await;
    let cluster = Cluster::at(&admin);
    cluster.create_topic("orders", 1, &[]).await;
    let hook = Hook::failing_first(1, 503).await;
    let picky = Hook::refusing(404).await;
    let config = Config::new(broker.address(), "group", "own", &["orders"])
        .set("topics.create", false)
        .endpoint(Endpoint::new("shop", &hook.url()).set("retry.schedule", vec!["3s"]))
        .endpoint(Endpoint::new("picky", &picky.url()).set("retry.dead_on", vec![404]))
        .endpoint(Endpoint::new("alone", &hook.url()).set("queue", "own"));
    let file = as_user(config.clone(), "arauto").write();
    let path: PathBuf = file.path();
    run_script(&path, &["--operator", "oncall"], &admin).await;

    // Nothing is missing, and nothing differs.
    let inspected = topics(&path, &["--json"]).await;
    assert_eq!(inspected.code, 0, "{inspected:?}");
    let mut instance = Arauto::run(&path).await;
    cluster.produce(&[NewRecord::new("orders", "event")]).await;
    hook.wait_for(1, PATIENCE).await;
    until(PATIENCE, "a try again, another group's delivery, a dead letter", async || {
        hook.count() >= 3 && cluster.read("own.dead").await.len() == 1
    })
    .await;
    until(PATIENCE, "commits in both groups", async || {
        cluster.lag("group", "orders").await + cluster.lag("group.alone", "orders").await == 0
    })
    .await;
    let refused = |line: &serde_json::Value| line.to_string().to_lowercase().contains("authoriz");
    assert!(!instance.log().iter().any(refused), "{:#?}", instance.log());

    // An instance may not replay; who is on call may.
    let replay = ["dlq", "replay", "--endpoint", "picky", "--yes", "--config"];
    let by = async |user: &str| {
        let file = as_user(config.clone(), user).write();
        arauto(&[&replay[..], &[file.path().to_str().unwrap()]].concat()).await
    };
    picky.script(|_| Reply::ok());
    let (instance_may, oncall_may) = (by("arauto").await, by("oncall").await);
    assert!(instance_may.code == 1 && instance_may.stderr.contains("uthoriz"), "{instance_may:?}");
    assert_eq!(oncall_may.code, 0, "{oncall_may:?}");
    assert_eq!(instance.stop().await, 0);
}
