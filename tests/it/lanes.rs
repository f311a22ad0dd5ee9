//! What a running instance shows of its lanes: as JSON on the admin port, and as a table on the command line; those
//! in trouble first.

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    command::{Output, arauto},
    config::{Config, Endpoint},
    eventually,
    hook::{Hook, Reply, vacant},
    records::NewRecord,
    until,
};

const EVENTS: usize = 60;

/// One endpoint refuses connections, one is paused, one takes its time, one is fast and soon done.
async fn four(rig: &Rig, dead: SocketAddr, slow: &Hook, fast: &Hook) -> Arauto {
    let config = rig
        .config()
        .set("limits.in_flight", 100)
        .endpoint(
            Endpoint::new("dead", &format!("http://{dead}/"))
                .set("breaker.minimum", 3)
                .set("breaker.open_for", "5m"),
        )
        .endpoint(Endpoint::new("paused", &slow.url()).set("paused", true))
        .endpoint(Endpoint::new("slow", &slow.url()).set("concurrency", 2).set("rate", "50/s"))
        .endpoint(Endpoint::new("fast", &fast.url()));
    let records: Vec<_> = (0..EVENTS).map(|n| NewRecord::new(&rig.topic, format!("event {n}"))).collect();
    rig.cluster.produce(&records).await;
    Arauto::run(&config.write().path()).await
}

async fn lanes(arauto: &Arauto) -> Value {
    let (status, body) = arauto.get("/lanes").await.expect("the admin server answers");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn ids(lanes: &Value) -> Vec<&str> {
    lanes["lanes"].as_array().unwrap().iter().map(|lane| lane["endpoint"].as_str().unwrap()).collect()
}

fn at(output: &Output, line: usize) -> Vec<&str> {
    output
        .stdout
        .lines()
        .nth(line)
        .unwrap_or_else(|| panic!("no line {line}: {output:?}"))
        .split("  ")
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_are_shown_the_worst_first() {
    let rig = Rig::new("lanes", 1).await;
    let (dead, slow, fast) = (vacant().await, Hook::start(|_| Reply::never()).await, Hook::accepting().await);
    let mut process = four(&rig, dead, &slow, &fast).await;
    fast.wait_for(EVENTS, PATIENCE).await;
    // The dead one and the slow one have shown what they are, and the fast one is idle.
    let lanes = eventually(PATIENCE, "the lanes to be as they will stay", async || {
        let lanes = lanes(&process).await;
        let settled = ids(&lanes) == ["dead", "paused", "slow"]
            && lanes["lanes"][0]["breaker"] == "open"
            && lanes["lanes"][2]["in_flight"] == 1;
        settled.then_some(lanes)
    })
    .await;
    let [dead, paused, slow] = [0, 1, 2].map(|n| &lanes["lanes"][n]);
    let now = lanes["at"].as_i64().unwrap();
    let probe = dead["next_probe"].as_i64().unwrap() - now;
    assert!((200_000..=300_000).contains(&probe), "{probe} ms to the next probe");
    assert!(dead["failing_since"].as_i64().unwrap() <= now);
    assert!(dead["last_error"].as_str().unwrap().starts_with("connect: "), "{dead}");
    assert_eq!((&paused["paused"], &paused["breaker"]), (&true.into(), &"closed".into()));
    assert!(paused["queued"].as_u64() > Some(0));
    assert_eq!((slow["limit"].as_u64(), slow["concurrency"].as_u64()), (Some(1), Some(2)));
    assert_eq!(slow["rate_limit"].as_f64(), Some(50.0));
    assert_eq!((&slow["paused_until"], &slow["disabled"]), (&Value::Null, &Value::Null));

    let address = process.admin_address().to_owned();
    let table = arauto(&["lanes", "--admin", &address]).await;
    assert_eq!(table.code, 0, "{table:?}");
    assert!(table.stdout.starts_with(&format!("3 lanes active at {address}, 2 in trouble, ")), "{table:?}");
    for (line, endpoint, state) in
        [(3, "dead", "open, probe in "), (4, "paused", "paused"), (5, "slow", "ok")]
    {
        let cells = at(&table, line);
        assert!(cells[0] == endpoint && cells.iter().any(|cell| cell.starts_with(state)), "{table:?}");
    }
    assert!(!table.stdout.contains('\x1b'), "no terminal, no colours: {table:?}");
    let json = arauto(&["lanes", "--admin", &address, "--json"]).await;
    assert_eq!(ids(&json.json()), ["dead", "paused", "slow"]);
    let top = arauto(&["lanes", "--admin", &address, "--top", "1"]).await;
    assert!(top.stdout.contains("\ndead ") && top.stdout.ends_with("\nand 2 more lanes\n"), "{top:?}");

    // Not on a terminal a watch prints one table after the other, until it is interrupted.
    let mut watch = Arauto::spawn(["lanes", "--admin", &address, "--watch"]);
    let tables = || watch.output().iter().filter(|line| line.contains(" lanes active at ")).count();
    until(PATIENCE, "a second table", async || tables() >= 2).await;
    watch.signal("INT");
    assert_eq!(watch.ended(PATIENCE).await.code(), Some(0));
    // Not stopped: the slow one never answers.
    process.kill().await;
}

#[tokio::test]
async fn whoever_cannot_be_asked_is_told_what_to_do() {
    let config = |listen: &str| Config::new("localhost:1", "g", "p", &["t"]).set("admin.listen", listen);
    let vacant = vacant().await.to_string();
    for (listen, code, told) in [
        (vacant.as_str(), 1, "is an instance running there? Name its admin.listen with --admin HOST:PORT"),
        ("off", 2, "admin.listen is \"off\""),
        ("127.0.0.1:0", 2, "name it with --admin HOST:PORT"),
    ] {
        let file = config(listen).endpoint(Endpoint::new("crm", "https://crm.example.com/")).write();
        let output = arauto(&["lanes", "--config", file.path().to_str().unwrap()]).await;
        assert_eq!((output.code, output.stdout.as_str()), (code, ""), "{output:?}");
        assert!(output.stderr.contains(told), "{output:?}");
    }
    // Something else listens there.
    let other = Hook::accepting().await;
    let output = arauto(&["lanes", "--admin", &other.address().to_string()]).await;
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("is no admin server of this version of Arauto"), "{output:?}");
}

#[tokio::test]
async fn before_there_are_lanes_that_is_said() {
    let file = Config::new("127.0.7.1:1", "g", "p", &["t"])
        .endpoint(Endpoint::new("crm", "https://crm.example.com/"))
        .write();
    let process = Arauto::start(&file.path()).await;
    let (status, body) = process.get("/lanes").await.unwrap();
    assert!(status == 503 && body.contains("not started yet"), "{status} {body}");
    let output = arauto(&["lanes", "--admin", process.admin_address()]).await;
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("answered 503: not started yet"), "{output:?}");
}
