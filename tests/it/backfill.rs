//! Past events reach an endpoint that was not there for them: those it wants, once each whatever interrupts that, and
//! with the webhook ids that everybody else has seen.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    command::{Output, arauto},
    config::{ConfigFile, Endpoint},
    hook::Hook,
    letters::make_topics,
    now_ms,
    records::NewRecord,
    until,
};

fn command<'a>(config: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["backfill", "--json", "--config", config], more].concat()
}

async fn backfill(config: &ConfigFile, more: &[&str]) -> Output {
    arauto(&command(config.path().to_str().unwrap(), more)).await
}

fn event(rig: &Rig, number: usize, kind: &str) -> NewRecord {
    NewRecord::new(&rig.topic, format!(r#"{{"type":"{kind}","n":{number}}}"#)).header("kept", "as it was")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_endpoint_gets_what_it_wants_of_the_past_with_the_same_ids() {
    const COUNT: usize = 40;
    let rig = Rig::new("backfill", 2).await;
    let (hook, late) = (Hook::accepting().await, Hook::accepting().await);
    let config = rig.config().endpoint(Endpoint::new("crm", &hook.url()));
    let file = config.write();
    let kind = |number: usize| if number.is_multiple_of(4) { "order.refunded" } else { "order.paid" };
    let day_ago = now_ms() - 86_400_000;
    let records: Vec<_> = (0..COUNT)
        .map(|number| {
            // The first half is a day old.
            let at = if number < COUNT / 2 { day_ago } else { now_ms() };
            event(&rig, number, kind(number)).partition(i32::from(number % 2 == 0)).timestamp(at)
        })
        .collect();
    rig.cluster.produce(&records).await;
    rig.cluster.produce(&[NewRecord::tombstone(&rig.topic).partition(0).key("k")]).await;
    let mut service = Arauto::run(&file.path()).await;
    hook.wait_for(COUNT, PATIENCE).await;
    assert_eq!(service.stop().await, 0);

    let endpoint = Endpoint::new("late", &late.url()).set("types", vec!["order.paid"]);
    let disabled = config.clone().endpoint(endpoint.clone().set("enabled", false));
    file.rewrite(&disabled);
    let refused = backfill(&file, &["--endpoint", "late", "--since", "2h"]).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("enabled = true"), "{refused:?}");
    file.rewrite(&config.clone().endpoint(endpoint));
    let mut service = Arauto::run(&file.path()).await;
    let replayed = async |more: &[&str]| {
        let output = backfill(&file, &[&["--endpoint", "late", "--yes"], more].concat()).await;
        assert_eq!(output.code, 0, "{output:?}");
        (output.json()["replayed"].as_u64().unwrap(), output.json()["earlier"].as_array().unwrap().len())
    };
    // 30 are wanted: 15 of today, 15 of yesterday.
    assert_eq!(replayed(&["--since", "2h", "--dry-run"]).await, (15, 0));
    assert_eq!(replayed(&["--since", "2d", "--until", "1h", "--dry-run"]).await, (15, 0));
    assert_eq!(replayed(&["--since", "2d", "--where", "value.n < 8", "--dry-run"]).await, (6, 0));
    assert_eq!(replayed(&["--since", "2d", "--type", "order.refunded", "--dry-run"]).await, (0, 0));
    assert_eq!(replayed(&["--since", "2d", "--topic", &rig.topic]).await, (30, 0));
    // It can be told to again; then it says what was sent before.
    assert_eq!(replayed(&["--since", "2h", "--dry-run"]).await, (15, 1));

    until(PATIENCE, "all that is wanted to arrive", async || late.count() >= 30).await;
    let bodies = |hook: &Hook| -> BTreeMap<String, String> {
        let requests = hook.requests();
        let of = |body: &[u8]| String::from_utf8(body.to_vec()).unwrap();
        requests.iter().map(|request| (request.id.clone(), of(&request.body))).collect()
    };
    let mut expected = bodies(&hook);
    assert_eq!(expected.len(), COUNT, "the first endpoint gets nothing more");
    expected.retain(|_, body| body.contains("order.paid"));
    assert_eq!(bodies(&late), expected);
    assert_eq!((late.count(), late.accepted().len(), hook.count()), (30, 30, COUNT));
    let metrics = service.metrics().await;
    let opened = metrics.sum("arauto_deliveries_opened_total", &[("endpoint", "late"), ("from", "replay")]);
    assert_eq!(opened as usize, 30);
    assert_eq!(service.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_it_sends_each_event_once() {
    const COUNT: usize = 5_000;
    let rig = Rig::new("backfill-killed", 4).await;
    let config = rig.config().endpoint(Endpoint::new("crm", "http://127.0.0.1:1/")).write();
    make_topics(&config).await;
    let records: Vec<_> =
        (0..COUNT).map(|number| event(&rig, number, "order.paid").partition((number % 4) as i32)).collect();
    rig.cluster.produce(&records).await;

    let path = config.path();
    let fixed = ["--endpoint", "crm", "--since", "2h", "--name", "past", "--yes"];
    let arguments = command(path.to_str().unwrap(), &fixed);
    let written = async || rig.cluster.watermarks(&rig.tier("0s"), 0).await.1;
    let mut so_far = 0;
    for _ in 0..5 {
        let mut run = Arauto::spawn(&arguments);
        until(PATIENCE, "more to be written", async || written().await > so_far || run.has_ended()).await;
        assert!(!run.has_ended(), "there must be something left for the next one");
        run.kill().await;
        so_far = written().await;
    }
    // What comes meanwhile is not part of it.
    rig.cluster.produce(&[event(&rig, COUNT, "order.paid").partition(0)]).await;
    let last = backfill(&config, &["--name", "past", "--yes"]).await;
    assert_eq!((last.code, &last.json()["total"]["written"]), (0, &COUNT.into()), "{last:?}");

    let tier = rig.cluster.read(&rig.tier("0s")).await;
    let sources: BTreeSet<(i64, i64)> = tier
        .iter()
        .map(|record| (record.number("arauto-source-partition"), record.number("arauto-source-offset")))
        .collect();
    assert_eq!((tier.len(), sources.len()), (COUNT, COUNT), "each once");

    for (arguments, code, told) in [
        (&["--name", "past"][..], 1, "the replay past is finished"),
        (&["--name", "none"], 1, "say --endpoint and --since"),
        (&["--endpoint", "crm", "--since", "2h", "--topic", "nothing"], 2, "none of the source topics"),
        (&["--endpoint", "crm"], 2, "--since"),
    ] {
        let output = backfill(&config, arguments).await;
        assert_eq!(output.code, code, "{output:?}");
        assert!(output.stderr.contains(told), "{output:?}");
    }
}
