//! An endpoint that is gone, or has failed for too long, is left alone: on every instance, over restarts, until an
//! operator enables it or it has another URL.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    command,
    config::{ConfigFile, Endpoint},
    eventually,
    hook::{Hook, Reply},
    metrics::Metrics,
    never,
    records::{NewRecord, Record},
    until,
};

/// Produces so many events, spread over the partitions of the topic.
async fn produce(rig: &Rig, count: i32, partitions: i32) {
    let records: Vec<_> = (0..count)
        .map(|n| NewRecord::new(&rig.topic, format!("event {n}")).partition(n % partitions))
        .collect();
    rig.cluster.produce(&records).await;
}

/// The reasons of the dead letters, once there are so many.
async fn reasons(rig: &Rig, count: usize) -> Vec<String> {
    let letters = eventually(PATIENCE, &format!("{count} dead letters"), async || {
        Some(rig.cluster.read(&rig.dead()).await).filter(|letters| letters.len() >= count)
    })
    .await;
    let mut reasons: Vec<_> =
        letters.iter().map(|letter| letter.header("arauto-reason").unwrap().to_owned()).collect();
    reasons.sort_unstable();
    reasons
}

fn expected(gone: usize, disabled: usize) -> Vec<String> {
    let (gone, disabled) = (["gone"].repeat(gone), ["disabled"].repeat(disabled));
    disabled.into_iter().chain(gone).map(str::to_owned).collect()
}

/// Waits until this instance shows the endpoint as enabled, or not.
async fn is_enabled(arauto: &Arauto, enabled: bool) {
    let shown = |metrics: &Metrics| {
        metrics.value("arauto_endpoint_enabled", &[("endpoint", "crm")]) == Some(f64::from(u8::from(enabled)))
    };
    arauto.wait_for_metrics(&format!("enabled to be {enabled}"), shown).await;
}

/// `arauto endpoints`, by a file and not by an instance.
async fn operate(file: &ConfigFile, words: &[&str]) -> command::Output {
    let path = file.path();
    let fixed = ["endpoints", "--config", path.to_str().unwrap()];
    command::arauto(&[&fixed, words].concat()).await
}

async fn state_records(rig: &Rig, key: &str) -> Vec<Record> {
    let mut records = rig.cluster.read(&rig.state()).await;
    records.retain(|record| record.key.as_deref() == Some(key.as_bytes()));
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_asks_an_endpoint_that_is_gone_again() {
    const PARTITIONS: i32 = 6;
    let rig = Rig::new("gone", PARTITIONS).await;
    let hook = Hook::refusing(410).await;
    let url = format!("{}?token=secret", hook.url());
    let file = rig.config().endpoint(Endpoint::new("crm", &url)).write();
    let mut both = [Arauto::run(&file.path()).await, Arauto::run(&file.path()).await];
    for arauto in &both {
        let assigned = |metrics: &Metrics| {
            metrics.value("arauto_assigned_partitions", &[("topic", &rig.topic)]) > Some(0.0)
        };
        arauto.wait_for_metrics("partitions for each", assigned).await;
    }
    produce(&rig, 1, 1).await;
    assert_eq!(reasons(&rig, 1).await, expected(1, 0));
    for arauto in &both {
        is_enabled(arauto, false).await;
    }
    produce(&rig, 24, PARTITIONS).await;
    assert_eq!(reasons(&rig, 25).await, expected(1, 24));
    for arauto in &both {
        let some = |metrics: &Metrics| metrics.sum("arauto_dead_total", &[("reason", "disabled")]) >= 4.0;
        arauto.wait_for_metrics("dead letters of its partitions", some).await;
    }
    assert_eq!(both[0].stop().await, 0);
    assert_eq!(both[1].stop().await, 0);
    let mut again = Arauto::run(&file.path()).await;
    is_enabled(&again, false).await;
    produce(&rig, 6, PARTITIONS).await;
    assert_eq!(reasons(&rig, 31).await, expected(1, 30));
    assert_eq!(hook.count(), 1);
    assert_eq!(again.stop().await, 0);
    assert_eq!(rig.cluster.lag(&rig.group, &rig.topic).await, 0);
    let told = state_records(&rig, "endpoint/crm/disabled").await;
    let told: Vec<_> =
        told.iter().map(|record| String::from_utf8_lossy(record.value.as_ref().unwrap())).collect();
    assert!(told.len() == 1 && !told[0].contains("secret"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_enables_it_by_the_admin_server_or_the_command_line() {
    let rig = Rig::new("enable", 1).await;
    let hook = Hook::refusing(410).await;
    let off = Endpoint::new("off", &hook.url()).set("enabled", false);
    let file = rig.config().endpoint(Endpoint::new("crm", &hook.url())).endpoint(off).write();
    let mut arauto = Arauto::run(&file.path()).await;
    for (round, by_command) in [(1, false), (2, true)] {
        hook.script(|_| Reply::status(410));
        produce(&rig, 2, 1).await;
        assert_eq!(reasons(&rig, 2 * round).await, expected(round, round));
        is_enabled(&arauto, false).await;
        hook.script(|_| Reply::ok());
        if by_command {
            let output = operate(&file, &["enable", "crm"]).await;
            assert_eq!(output.code, 0, "{output:?}");
            let words = "crm was disabled (gone) since 20";
            assert!(output.stdout.starts_with(words), "{output:?}");
            assert!(output.stdout.ends_with("; it is enabled now\n"), "{output:?}");
        } else {
            let (status, answer) = arauto.post("/endpoints/crm/enable", "").await;
            let enabled = json!({
                "endpoint": "crm", "enabled": true, "disabled": null, "paused": null, "failing_since": null,
            });
            assert_eq!((status, answer), (200, enabled));
        }
        is_enabled(&arauto, true).await;
        produce(&rig, 1, 1).await;
        hook.wait_for(round, PATIENCE).await;
    }
    assert_eq!(reasons(&rig, 4).await, expected(2, 2), "dead letters stay where they are");

    // What cannot be done, and what must not be.
    let refusals = [
        ("/endpoints/crn/enable", "", 404, "did you mean \"crm\"?"),
        ("/endpoints/off/enable", "", 409, "enabled = false"),
        ("/endpoints/crm/pause", "origin: null\r\n", 403, "Origin"),
        ("/endpoints/crm/pause", "origin: http://127.0.0.1\r\n", 403, "Origin"),
    ];
    for (path, headers, status, why) in refusals {
        let (answered, answer) = arauto.post(path, headers).await;
        let told = answer["error"].as_str().unwrap();
        assert!(answered == status && told.contains(why), "{path}: {answered} {told}");
    }
    assert_eq!(arauto.get("/endpoints/crm/pause").await.unwrap().0, 405);
    let output = operate(&file, &["enable", "crn"]).await;
    assert!(output.code == 2 && output.stderr.contains("did you mean \"crm\"?"), "{output:?}");
    let output = operate(&file, &["enable", "off"]).await;
    assert!(output.code == 1 && output.stderr.contains("enabled = false"), "{output:?}");
    assert_eq!(state_records(&rig, "endpoint/crm/paused").await.len(), 0);
    assert_eq!(arauto.stop().await, 0);

    // Nobody runs now.
    let output = operate(&file, &["pause", "crm", "--json"]).await;
    let told = output.json();
    assert_eq!(
        (&told["before"]["paused"], &told["after"]["paused"]["by"]),
        (&Value::Null, &"operator".into())
    );
    let other =
        rig.config().set("kafka.group", "another").endpoint(Endpoint::new("crm", &hook.url())).write();
    let output = operate(&other, &["resume", "crm"]).await;
    assert!(output.code == 1 && output.stderr.contains("belongs to the group"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_does_not_disable_what_was_enabled_meanwhile() {
    let rig = Rig::new("late", 1).await;
    let hook = Hook::start(|request| match request.nth {
        1 => Reply::status(410).when_woken(),
        _ => Reply::ok(),
    })
    .await;
    let endpoint = Endpoint::new("crm", &hook.url()).set("retry.schedule", vec!["100ms"]);
    let file = rig.config().endpoint(endpoint).write();
    let mut arauto = Arauto::run(&file.path()).await;
    produce(&rig, 1, 1).await;
    hook.wait_for_requests(1, PATIENCE).await;
    assert_eq!(arauto.post("/endpoints/crm/enable", "").await.0, 200);
    hook.wake();
    hook.wait_for(1, PATIENCE).await;
    is_enabled(&arauto, true).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(rig.cluster.read(&rig.dead()).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_url_is_another_receiver() {
    let rig = Rig::new("gone-url", 1).await;
    let (old, new) = (Hook::refusing(410).await, Hook::accepting().await);
    let config = |hook: &Hook| rig.config().endpoint(Endpoint::new("crm", &hook.url()));
    let file = config(&old).write();
    let mut arauto = Arauto::run(&file.path()).await;
    produce(&rig, 1, 1).await;
    assert_eq!(reasons(&rig, 1).await, expected(1, 0));
    is_enabled(&arauto, false).await;
    file.rewrite(&config(&new));
    arauto.signal("HUP");
    is_enabled(&arauto, true).await;
    produce(&rig, 1, 1).await;
    new.wait_for(1, PATIENCE).await;
    file.rewrite(&config(&old));
    arauto.signal("HUP");
    is_enabled(&arauto, false).await;
    produce(&rig, 1, 1).await;
    assert_eq!(reasons(&rig, 2).await, expected(1, 1));
    assert_eq!((old.count(), arauto.stop().await), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_410_is_settled_when_every_instance_can_know_of_it() {
    let rig = Rig::new("gone-settled", 1).await;
    let hook = Hook::refusing(410).await;
    let file = rig.config().endpoint(Endpoint::new("crm", &hook.url())).write();
    let mut arauto = Arauto::run(&file.path()).await;
    // The state topic alone takes nothing.
    let compact = ("cleanup.policy", "compact");
    rig.cluster.configure_topic(&rig.state(), &[compact, ("max.message.bytes", "1")]).await;
    let refuses = async || rig.cluster.topic_config(&rig.state()).await["max.message.bytes"] == "1";
    until(PATIENCE, "the brokers to know", refuses).await;
    produce(&rig, 1, 1).await;
    hook.wait_for_requests(1, PATIENCE).await;
    is_enabled(&arauto, false).await;
    never(Duration::from_secs(3), "it is settled", async || {
        let dead = rig.cluster.read(&rig.dead()).await.len();
        dead > 0 || rig.cluster.lag(&rig.group, &rig.topic).await == 0
    })
    .await;
    rig.cluster.configure_topic(&rig.state(), &[compact]).await;
    assert_eq!(reasons(&rig, 1).await, expected(1, 0));
    assert_eq!(state_records(&rig, "endpoint/crm/disabled").await.len(), 1);
    until(PATIENCE, "it to be settled", async || rig.cluster.lag(&rig.group, &rig.topic).await == 0).await;
    assert_eq!((hook.count(), arauto.stop().await), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_without_one_success_disables_it_and_a_restart_does_not_begin_anew() {
    const LONGEST: Duration = Duration::from_secs(12);
    let rig = Rig::new("failing", 1).await;
    let hook = Hook::refusing(500).await;
    let endpoint = Endpoint::new("crm", &hook.url())
        .set("disable_after", "12s")
        // After the restart single ones go, to see.
        .set("breaker.open_for", "1s")
        .set("breaker.max_open", "1s")
        .set("retry.schedule", vec!["300ms"; 1000]);
    let file = rig.config().endpoint(endpoint).write();
    let mut arauto = Arauto::run(&file.path()).await;
    produce(&rig, 1, 1).await;
    let noted = async || state_records(&rig, "endpoint/crm/failing").await.len() == 1;
    until(PATIENCE, "it to be noted down", noted).await;
    assert_eq!(arauto.stop().await, 0);
    let before = hook.count();
    let mut arauto = Arauto::run(&file.path()).await;
    assert_eq!(reasons(&rig, 1).await, expected(0, 1));
    is_enabled(&arauto, false).await;
    let requests = hook.requests();
    let (first, again, last) = (&requests[0], &requests[before], &requests[requests.len() - 1]);
    assert!(last.at - first.at >= LONGEST, "{:?}", last.at - first.at);
    assert!(last.at - again.at < LONGEST, "{:?}", last.at - again.at);
    let told = &state_records(&rig, "endpoint/crm/disabled").await[0];
    let told: Value = serde_json::from_slice(told.value.as_ref().unwrap()).unwrap();
    assert_eq!(told["why"], "failing");

    hook.script(|_| Reply::ok());
    assert_eq!(arauto.post("/endpoints/crm/enable", "").await.0, 200);
    produce(&rig, 1, 1).await;
    hook.wait_for(1, PATIENCE).await;
    assert_eq!(arauto.stop().await, 0);
}
