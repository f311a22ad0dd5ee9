//! Dead letters are sent again once each, at a rate that does no harm, whatever interrupts that; and nothing goes round.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    command::{Output, arauto},
    config::{ConfigFile, Endpoint},
    eventually,
    hook::{Hook, Reply},
    letters::{make_topics, numbered},
    now_ms,
    records::{NewRecord, Record},
    until,
};

/// Nobody listens there: what is sent dies at once.
const NOBODY: &str = "http://127.0.0.1:1/";

/// `arauto dlq replay` with more arguments, machine-readable.
fn command<'a>(config: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["dlq", "replay", "--json", "--config", config], more].concat()
}

async fn replay(config: &ConfigFile, more: &[&str]) -> Output {
    arauto(&command(config.path().to_str().unwrap(), more)).await
}

/// The same where it must succeed; its report.
async fn report(config: &ConfigFile, more: &[&str]) -> Value {
    let output = replay(config, more).await;
    assert_eq!(output.code, 0, "{output:?}");
    output.json()
}

/// What a report says: replayed, left out, refused.
fn told(report: &Value) -> (u64, u64, u64) {
    let count = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("no {name}: {report}"));
    (count("replayed"), count("taken"), count("refused"))
}

/// What lies on the tier `0s`: how often each webhook id.
async fn on_tier(rig: &Rig) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    for record in rig.cluster.read(&rig.tier("0s")).await {
        *ids.entry(record.header("arauto-id").unwrap().to_owned()).or_default() += 1;
    }
    ids
}

fn each_once(endpoint: &str, count: usize) -> BTreeMap<String, usize> {
    (0..count).map(|number| (format!("{endpoint}-{number}"), 1)).collect()
}

/// A corner with its own topics and so many letters of `crm`, and nothing that runs.
async fn with_letters(promise: &str, count: usize) -> (Rig, ConfigFile) {
    let rig = Rig::new(promise, 1).await;
    let config = rig.config().endpoint(Endpoint::new("crm", NOBODY)).endpoint(Endpoint::new("erp", NOBODY));
    let config = config.write();
    make_topics(&config).await;
    let letters: Vec<_> = (0..count).map(|number| numbered(&rig, "crm", number).record()).collect();
    rig.cluster.produce(&letters).await;
    (rig, config)
}

/// The value of a record of the state topic that begins with this.
async fn state(rig: &Rig, key: &str) -> Option<Value> {
    let records = rig.cluster.read(&rig.state()).await;
    let last = records.iter().rfind(|record| record.key.as_deref() == Some(key.as_bytes()))?;
    last.value.as_deref().map(|value| serde_json::from_slice(value).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_go_their_way_again_until_they_have_gone_round_too_often() {
    let rig = Rig::new("replay", 1).await;
    let hook = Hook::refusing(500).await;
    let endpoint = Endpoint::new("crm", &hook.url()).set("retry.schedule", Vec::<String>::new());
    let config = rig.config().endpoint(endpoint).write();
    let event = NewRecord::new(&rig.topic, "the body").key("k").header("kept", "as it was");
    rig.cluster.produce(&[event.clone(), event]).await;
    let mut service = Arauto::run(&config.path()).await;
    let died = async |count: usize| {
        eventually(PATIENCE, &format!("{count} dead letters"), async || {
            Some(rig.cluster.read(&rig.dead()).await).filter(|dead| dead.len() >= count)
        })
        .await
    };
    let first = died(2).await;

    // What dies again is a letter of its own, and only that is sent the next time.
    for round in 1..=3 {
        let begun = now_ms();
        let report = report(&config, &["--endpoint", "crm", "--yes"]).await;
        assert_eq!(told(&report), (2, 2 * (round - 1), 0), "{report}");
        let dead = died(2 + 2 * usize::try_from(round).unwrap()).await;
        for letter in &dead[dead.len() - 2..] {
            let number = |name| letter.number(name);
            assert_eq!(
                (number("arauto-attempts"), number("arauto-replays")),
                (1, i64::try_from(round).unwrap())
            );
            assert!(number("arauto-first-seen") >= begun && number("arauto-first-attempt") >= begun);
            assert_eq!(letter.original_headers(), first[0].original_headers());
        }
    }
    let plan = report(&config, &["--dry-run"]).await;
    assert_eq!(told(&plan), (0, 6, 2), "{plan}");
    assert_eq!(plan["reasons"]["max_replays"], 2);
    assert_eq!(plan["refusals"][0]["endpoint"], "crm");
    // Those that were taken count as often as their descendants.
    assert_eq!(told(&report(&config, &["--dry-run", "--again"]).await), (0, 0, 8));

    hook.script(|_| Reply::ok());
    assert_eq!(told(&report(&config, &["--yes", "--max-replays", "4"]).await), (2, 6, 0));
    let ids: Vec<&str> = first.iter().map(|letter| letter.header("arauto-id").unwrap()).collect();
    until(PATIENCE, "both to be accepted", async || hook.accepted().len() == 2).await;
    for id in ids {
        // Once at first, and once with each of the four replays.
        let requests = hook.requests_of(id);
        assert_eq!(requests.len(), 5, "{id}");
        assert!(requests.iter().all(|request| request.body == "the body"));
    }
    assert_eq!(told(&report(&config, &["--yes", "--max-replays", "9"]).await), (0, 8, 0));
    let metrics = service.metrics().await;
    let opened = metrics.sum("arauto_deliveries_opened_total", &[("endpoint", "crm"), ("from", "replay")]);
    assert_eq!(opened as usize, 8);
    assert_eq!(service.stop().await, 0);
}

/// What a record on the tier says after a replay.
fn check_begun_anew(record: &Record, id: &str, endpoint: &str, replays: i64) {
    let text = |name| record.header(name);
    assert_eq!((text("arauto-id"), text("arauto-endpoint")), (Some(id), Some(endpoint)));
    assert_eq!((record.number("arauto-attempts"), record.number("arauto-replays")), (0, replays));
    for gone in ["arauto-status", "arauto-error", "arauto-first-attempt"] {
        assert_eq!(text(gone), None, "{gone}");
    }
    assert_eq!(record.key.as_deref(), Some(endpoint.as_bytes()));
    assert_eq!(record.original_headers(), [("kept".to_owned(), Some(b"as it was".to_vec()))]);
    assert!(record.number("arauto-first-seen") >= record.number("arauto-due"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_is_kept_at_the_receiver() {
    const COUNT: usize = 60;
    let rig = Rig::new("replay-rate", 1).await;
    let hook = Hook::accepting().await;
    // Each letter is older than its endpoint lets any get.
    let endpoint = Endpoint::new("crm", &hook.url()).set("retry.max_age", "1m").set("rate", "1000/s");
    let config = rig.config().endpoint(endpoint).write();
    make_topics(&config).await;
    let letters: Vec<_> = (0..COUNT).map(|number| numbered(&rig, "crm", number).record()).collect();
    rig.cluster.produce(&letters).await;
    let mut service = Arauto::run(&config.path()).await;

    // Without a rate it takes a tenth of the endpoint's.
    let plan = report(&config, &["--dry-run"]).await;
    assert_eq!(plan["endpoints"][0]["per_second"], 100.0);
    let report = report(&config, &["--rate", "20/s", "--yes"]).await;
    assert_eq!((told(&report), &report["seconds"]), ((60, 0, 0), &2.95.into()));
    until(PATIENCE, "all to arrive", async || hook.count() >= COUNT).await;

    let tier = rig.cluster.read(&rig.tier("0s")).await;
    assert_eq!(tier.len(), COUNT, "what is due later does not circulate");
    let mut due: Vec<i64> = tier.iter().map(|record| record.number("arauto-due")).collect();
    for record in &tier {
        let id = record.header("arauto-id").unwrap();
        check_begun_anew(record, id, "crm", 1);
        let request = &hook.requests_of(id)[0];
        assert!(request.at_ms >= record.number("arauto-due"), "{id} came early");
    }
    due.sort_unstable();
    assert!(due.windows(2).all(|pair| pair[1] - pair[0] == 50), "{due:?}");
    assert_eq!((hook.count(), hook.accepted().len()), (COUNT, COUNT));
    assert_eq!(service.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_ten_times_it_leaves_nothing_out_and_sends_nothing_twice() {
    const COUNT: usize = 8_000;
    let (rig, config) = with_letters("replay-killed", COUNT).await;
    let path = config.path();
    let arguments = command(path.to_str().unwrap(), &["--name", "night", "--rate", "100000/s", "--yes"]);
    // By turns as soon as it has taken the name over, and as soon as it has written more; wherever it is then.
    for topic in [rig.state(), rig.tier("0s")].iter().cycle().take(10) {
        let end = async || rig.cluster.watermarks(topic, 0).await.1;
        let before = end().await;
        let mut run = Arauto::spawn(&arguments);
        until(PATIENCE, "more to be written", async || end().await > before || run.has_ended()).await;
        assert!(!run.has_ended(), "there must be something left for the next one");
        run.kill().await;
    }
    let report = report(&config, &["--name", "night", "--yes"]).await;
    assert_eq!(report["total"]["written"], COUNT);
    assert!(told(&report).0 > 0);
    assert_eq!(on_tier(&rig).await, each_once("crm", COUNT));

    let (stand, next) = eventually(PATIENCE, "the replay's record", async || {
        let record = state(&rig, "replay/night").await?;
        Some((record["stand"].clone(), record["spans"][rig.dead()]["0"][2].clone()))
    })
    .await;
    assert_eq!((stand, next), ("finished".into(), COUNT.into()));
    assert_eq!(told(&self::report(&config, &["--yes"]).await), (0, COUNT as u64, 0));
    let again = replay(&config, &["--name", "night", "--yes"]).await;
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("the replay night is finished"), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_run_of_the_same_name_takes_over() {
    const COUNT: usize = 6_000;
    let (rig, config) = with_letters("replay-fenced", COUNT).await;
    let path = config.path();
    let arguments = command(path.to_str().unwrap(), &["--name", "night", "--yes"]);
    let mut first = Arauto::spawn(&arguments);
    let written = async || rig.cluster.watermarks(&rig.tier("0s"), 0).await.1;
    until(PATIENCE, "the first to write", async || written().await > 0 || first.has_ended()).await;
    first.freeze();
    assert!(!first.has_ended());

    let report = report(&config, &["--name", "night", "--yes"]).await;
    assert_eq!(report["total"]["written"], COUNT);
    first.thaw();
    assert_eq!(first.ended(PATIENCE).await.code(), Some(1));
    let told = first.output().join("\n");
    assert!(told.contains("another run of the replay night has taken over"), "{told}");
    assert_eq!(on_tier(&rig).await, each_once("crm", COUNT));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_unfinished_replay_has_the_same_letters() {
    const COUNT: usize = 4_000;
    let (rig, config) = with_letters("replay-rivals", COUNT).await;
    let path = config.path();
    let mut first = Arauto::spawn(command(path.to_str().unwrap(), &["--name", "one", "--yes"]));
    let written = async || rig.cluster.watermarks(&rig.tier("0s"), 0).await.1;
    until(PATIENCE, "the first to write", async || written().await > 0 || first.has_ended()).await;
    first.kill().await;

    let refused = replay(&config, &["--name", "two", "--yes"]).await;
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("--name one --cancel"), "{refused:?}");
    let cancelled = report(&config, &["--name", "one", "--cancel"]).await;
    let before = cancelled["total"]["written"].as_u64().unwrap();
    assert!(before < COUNT as u64);
    assert_eq!(replay(&config, &["--name", "one", "--yes"]).await.code, 1, "it is over");

    // The next one takes what the first has not.
    let report = report(&config, &["--name", "two", "--yes"]).await;
    assert_eq!(told(&report), (COUNT as u64 - before, before, 0));
    assert_eq!(on_tier(&rig).await, each_once("crm", COUNT));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_go_is_refused_with_its_reason_and_the_rest_goes() {
    let (rig, config) = with_letters("replay-refused", 30).await;
    let often = numbered(&rig, "crm", 30).with("arauto-replays", &3).record();
    let stranger = numbered(&rig, "stranger", 0).record();
    let mut empty = numbered(&rig, "crm", 31).record();
    empty.value = None;
    let foreign = NewRecord::new(&rig.dead(), "junk").partition(0);
    rig.cluster.produce(&[often, stranger, empty, foreign]).await;

    // More than a screenful is asked about, and here is nobody to answer.
    let asked = replay(&config, &[]).await;
    assert_eq!(asked.code, 2);
    assert!(asked.stderr.contains("30 dead letters to crm") && asked.stderr.contains("--yes"), "{asked:?}");
    let plan = report(&config, &["--dry-run"]).await;
    assert_eq!(told(&plan), (30, 0, 4));
    assert_eq!(on_tier(&rig).await, BTreeMap::new());

    let report = report(&config, &["--yes"]).await;
    assert_eq!(told(&report), (30, 0, 4));
    let reasons = serde_json::json!({ "max_replays": 1, "unknown_endpoint": 1, "empty": 1, "foreign": 1 });
    assert_eq!(report["reasons"], reasons);
    assert_eq!(report["refusals"].as_array().unwrap().len(), 4);
    assert_eq!(on_tier(&rig).await, each_once("crm", 30));
    // A few are sent without a question.
    assert_eq!(told(&self::report(&config, &["--id", "crm-30", "--max-replays", "4"]).await), (1, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_go_to_another_endpoint_and_under_new_ids_when_told() {
    let (rig, config) = with_letters("replay-to", 2).await;
    let often = numbered(&rig, "crm", 2).with("arauto-replays", &3).record();
    rig.cluster.produce(&[often]).await;
    let to = report(&config, &["--to", "erp", "--yes"]).await;
    assert_eq!(told(&to), (3, 0, 0), "how often it went to another endpoint does not count");
    let tier = rig.cluster.read(&rig.tier("0s")).await;
    for (record, number) in tier.iter().zip(0..) {
        check_begun_anew(record, &format!("crm-{number}"), "erp", 1);
    }

    let twice = report(&config, &["--id", "crm-0", "--again", "--reset-id", "--limit", "1"]).await;
    assert_eq!(told(&twice), (1, 0, 0));
    let tier = rig.cluster.read(&rig.tier("0s")).await;
    assert_eq!(tier.len(), 4);
    let id = tier[3].header("arauto-id").unwrap();
    assert!(id.starts_with("msg_"), "{id}");
    check_begun_anew(&tier[3], id, "crm", 2);

    for (arguments, code, told) in [
        (&["--to", "crn"][..], 2, r#"did you mean "crm"?"#),
        (&["--rate", "unlimited"], 2, "there must be a limit"),
        (&["--name", "a/b"], 2, "A-Z a-z 0-9 _ -"),
        (&["--cancel", "--name", "nobody"], 1, "there is no replay nobody"),
    ] {
        let output = replay(&config, arguments).await;
        assert_eq!(output.code, code, "{output:?}");
        assert!(output.stderr.contains(told), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_scheduled_before_an_interruption_keeps_its_rate() {
    const COUNT: usize = 3_000;
    let (rig, config) = with_letters("replay-pace", COUNT).await;
    let path = config.path();
    let arguments = command(path.to_str().unwrap(), &["--name", "slow", "--rate", "10/s", "--yes"]);
    let mut first = Arauto::spawn(&arguments);
    let written = async || rig.cluster.watermarks(&rig.tier("0s"), 0).await.1;
    until(PATIENCE, "the first to write", async || written().await > 0 || first.has_ended()).await;
    first.kill().await;
    report(&config, &["--name", "slow", "--yes"]).await;
    let tier = rig.cluster.read(&rig.tier("0s")).await;
    let due: Vec<i64> = tier.iter().map(|record| record.number("arauto-due")).collect();
    assert_eq!(due.len(), COUNT);
    assert!(due.windows(2).all(|pair| pair[1] - pair[0] == 100), "the second run goes on behind the first");
    let first_due = Duration::from_millis(u64::try_from(now_ms() - due[0]).unwrap());
    assert!(first_due < PATIENCE, "it begins at once");
}
