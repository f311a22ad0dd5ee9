//! What will not be tried again by itself ends in the dead-letter topic with everything that is known of it, and
//! with its event untouched; never at an endpoint that merely inherited the id.

use std::collections::BTreeMap;

use toml::Value;

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    config::{Config, Endpoint},
    eventually,
    hook::{Hook, Reply},
    metrics::Metrics,
    now_ms,
    records::{NewRecord, Record},
    until,
};

/// The headers of the contract that every dead letter has; the others depend on its fate.
const ALWAYS: [&str; 11] = [
    "arauto-attempts",
    "arauto-due",
    "arauto-endpoint",
    "arauto-first-seen",
    "arauto-id",
    "arauto-reason",
    "arauto-replays",
    "arauto-source-offset",
    "arauto-source-partition",
    "arauto-source-timestamp",
    "arauto-source-topic",
];

/// A record with everything in it that must come through untouched.
fn event(topic: &str) -> NewRecord {
    NewRecord::new(topic, [0, 159, 146, 150, b'\n', 255])
        .partition(0)
        .key([255, 0, b'k'])
        .timestamp(now_ms() - 3_600_123)
        .header("binary", [255, 0, 10])
        .null_header("null")
        .header("empty", "")
        .header("twice", "1")
        .header("", "no name")
        .header("twice", "2")
}

/// The headers Arauto added, by name; each once, and text.
fn ours(record: &Record) -> BTreeMap<&str, &[u8]> {
    let ours = record.headers.iter().filter(|(name, _)| name.starts_with("arauto-"));
    let mut found = BTreeMap::new();
    for (name, value) in ours {
        let value = value.as_deref().expect("none of ours is null");
        assert!(found.insert(name.as_str(), value).is_none(), "{name} twice");
    }
    found
}

async fn dead_letters(rig: &Rig, count: usize) -> Vec<Record> {
    let dead = eventually(PATIENCE, &format!("{count} dead letters"), async || {
        let dead = rig.cluster.read(&rig.dead()).await;
        (dead.len() >= count).then_some(dead)
    })
    .await;
    assert_eq!(dead.len(), count);
    dead
}

async fn no_lag(rig: &Rig) {
    let topics = [rig.topic.clone(), rig.tier("0s"), rig.tier("1s"), rig.tier("3s")];
    for topic in topics {
        let lag = async || rig.cluster.lag(&rig.group, &topic).await == 0;
        until(PATIENCE, &format!("no lag on {topic}"), lag).await;
    }
}

/// One fate: an endpoint, and what its dead letters must say.
struct Fate {
    id: &'static str,
    endpoint: Endpoint,
    reason: &'static str,
    attempts: i64,
    /// The last status, or a part of the last error.
    last: Result<u16, &'static str>,
}

/// The fates there are, for receivers that answer 410, 422 and 500.
fn fates([gone, rejected, failing]: [&str; 3]) -> Vec<Fate> {
    let fate = |id, url, (reason, attempts), last, keys: &[(&str, Value)]| {
        let endpoint = Endpoint::new(id, url).set("retry.jitter", 0.0);
        let endpoint = keys.iter().fold(endpoint, |endpoint, (key, value)| endpoint.set(key, value.clone()));
        Fate { id, endpoint, reason, attempts, last }
    };
    let waits = |waits: &[&str]| ("retry.schedule", Value::from(waits.to_vec()));
    let nobody = "http://127.0.0.1:1/";
    vec![
        fate("gone", gone, ("gone", 1), Ok(410), &[]),
        fate("rejected", rejected, ("rejected", 1), Ok(422), &[("retry.dead_on", Value::from(vec![422]))]),
        fate("never-again", failing, ("exhausted", 1), Ok(500), &[waits(&[])]),
        // One wait in memory, one on a tier.
        fate("exhausted", failing, ("exhausted", 3), Ok(500), &[waits(&["500ms", "2s"])]),
        fate(
            "expired",
            failing,
            ("expired", 1),
            Ok(500),
            &[waits(&["4s", "1h"]), ("retry.max_age", "3s".into())],
        ),
        fate("refused", nobody, ("exhausted", 1), Err("connect"), &[waits(&[])]),
    ]
}

fn check(letter: &Record, of: &NewRecord, offset: i64, fate: &Fate, times: (i64, i64)) {
    let Fate { reason, attempts, last, .. } = fate;
    assert_eq!((&letter.value, &letter.original_headers()), (&of.value, &of.headers), "{reason}");
    let found = ours(letter);
    let mut expected: Vec<&str> = ALWAYS.into();
    expected.extend(["arauto-error", "arauto-first-attempt"]);
    expected.extend(last.ok().map(|_| "arauto-status"));
    expected.extend(of.key.as_ref().map(|_| "arauto-key"));
    expected.sort_unstable();
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), expected, "{reason}");
    assert_eq!(found.get("arauto-key").map(|key| key.to_vec()), of.key);
    let text = |name| letter.header(name).unwrap();
    assert_eq!(text("arauto-reason"), *reason);
    let (status, error) = match last {
        Ok(status) => (Some(status.to_string()), format!("the body of {status}")),
        Err(error) => (None, (*error).to_owned()),
    };
    assert_eq!(letter.header("arauto-status").map(str::to_owned), status, "{reason}");
    assert!(text("arauto-error").contains(&error), "{reason}: {}", text("arauto-error"));
    assert!(text("arauto-error").len() <= 512);
    assert_eq!(text("arauto-source-topic"), of.topic);
    let number = |name| letter.number(name);
    assert_eq!((number("arauto-source-partition"), number("arauto-source-offset")), (0, offset));
    assert_eq!((number("arauto-source-timestamp"), number("arauto-replays")), (of.timestamp.unwrap(), 0));
    assert_eq!(number("arauto-attempts"), *attempts, "{reason}");
    let seen = [times.0, number("arauto-first-seen"), number("arauto-first-attempt"), times.1];
    assert!(seen.is_sorted(), "{reason}: {seen:?}");
    assert!(number("arauto-due") >= number("arauto-first-seen"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fate_is_told_exactly() {
    let rig = Rig::new("fates", 1).await;
    // Long, so that the excerpt is cut.
    let hook = async |status: u16| {
        let body = format!("the body of {status} {}", "ü".repeat(5_000));
        Hook::start(move |_| Reply::status(status).body(body.clone())).await
    };
    let (gone, rejected, failing) = (hook(410).await, hook(422).await, hook(500).await);
    let fates = fates([&gone.url(), &rejected.url(), &failing.url()]);
    let config = fates.iter().fold(rig.config(), |config, fate| config.endpoint(fate.endpoint.clone()));
    let before = now_ms();
    // What anybody writes into a source topic under our names means nothing.
    let forged = event(&rig.topic).header("arauto-status", "200").header("arauto-reason", "forged");
    let mut keyless = event(&rig.topic);
    keyless.key = None;
    let records = [event(&rig.topic), keyless, event(&rig.topic).key(""), forged];
    rig.cluster.produce(&records).await;
    let mut arauto = Arauto::run(&config.write().path()).await;
    let letters = dead_letters(&rig, fates.len() * records.len()).await;
    no_lag(&rig).await;
    let metrics = arauto.metrics().await;
    assert_eq!(arauto.stop().await, 0);

    let ids = rejected.requests();
    for fate in &fates {
        let id = fate.id;
        // Who is gone is asked once.
        let asked = if id == "gone" { 1 } else { records.len() };
        let mut of: Vec<&Record> =
            letters.iter().filter(|letter| letter.key.as_deref() == Some(id.as_bytes())).collect();
        of.sort_by_key(|letter| letter.number("arauto-source-offset"));
        assert_eq!(of.len(), records.len(), "{id}");
        for letter in &of[asked..] {
            let attempts = (letter.number("arauto-attempts"), letter.header("arauto-status"));
            assert_eq!((letter.header("arauto-reason"), attempts), (Some("disabled"), (0, None)), "{id}");
        }
        for ((letter, record), offset) in of.into_iter().zip(&records).zip(0..).take(asked) {
            let mut record = record.clone();
            record.headers.retain(|(name, _)| !name.starts_with("arauto-"));
            assert_eq!(letter.header("arauto-endpoint"), Some(id));
            let webhook_id = letter.header("arauto-id").unwrap();
            assert!(ids.iter().any(|request| request.id == webhook_id), "{webhook_id} is the webhook's id");
            check(letter, &record, offset, fate, (before, now_ms()));
        }
        let labels = [("endpoint", id), ("reason", fate.reason)];
        assert_eq!(metrics.sum("arauto_dead_total", &labels) as usize, asked, "{id}");
        let dead = metrics.sum("arauto_deliveries_total", &[("endpoint", id), ("outcome", "dead")]);
        assert_eq!(dead as usize, records.len(), "{id}");
    }
}

/// Only a name gets this far: an address in a URL is a mistake in the configuration.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_to_a_private_address_is_dead_at_once() {
    let rig = Rig::new("blocked", 1).await;
    let hook = Hook::accepting().await;
    let url = format!("http://localhost:{}/", hook.address().port());
    let config =
        rig.config().set("security.allow", Vec::<String>::new()).endpoint(Endpoint::new("inside", &url));
    let mut arauto = Arauto::run(&config.write().path()).await;
    rig.cluster.produce(&[event(&rig.topic)]).await;
    let letters = dead_letters(&rig, 1).await;
    assert_eq!(letters[0].header("arauto-reason"), Some("blocked_address"));
    assert_eq!(letters[0].number("arauto-attempts"), 1);
    assert!(letters[0].header("arauto-error").is_some_and(|error| error.contains("loopback")));
    assert_eq!((letters[0].header("arauto-status"), hook.count()), (None, 0));
    assert_eq!(arauto.stop().await, 0);
}

/// Runs an instance whose endpoint `crm` fails, until its event is on a tier.
async fn park_for(rig: &Rig, endpoint: Endpoint, record: &NewRecord) -> Record {
    let endpoint = endpoint.set("retry.schedule", vec!["2s", "1h"]).set("retry.jitter", 0.0);
    let mut arauto = Arauto::run(&rig.config().endpoint(endpoint).write().path()).await;
    rig.cluster.produce(std::slice::from_ref(record)).await;
    let parked = eventually(PATIENCE, "the event on a tier", async || {
        rig.cluster.read(&rig.tier("1s")).await.into_iter().next()
    })
    .await;
    assert_eq!(arauto.stop().await, 0);
    parked
}

/// An instance that has some other endpoint, which wants nothing.
fn without(rig: &Rig) -> Config {
    rig.config().endpoint(Endpoint::new("other", "http://127.0.0.1:1/").set("types", vec!["nothing"]))
}

/// It went round as fast as the brokers could, because each park was due at once.
async fn assert_parks_are_apart(rig: &Rig) {
    let parks = [rig.cluster.read(&rig.tier("1s")).await, rig.cluster.read(&rig.tier("3s")).await].concat();
    let unknown = parks.iter().filter(|park| park.header("arauto-reason") == Some("unknown_endpoint"));
    let mut due: Vec<i64> = unknown.map(|park| park.number("arauto-due")).collect();
    due.sort_unstable();
    // It is read when it is due, and is due again a second after that at the earliest.
    assert!(due.is_sorted_by(|one, next| next - one >= 1000), "{due:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_endpoint_is_waited_for_through_its_grace() {
    let rig = Rig::new("unknown", 1).await;
    let hook = Hook::refusing(503).await;
    let crm = Endpoint::new("crm", &hook.url());
    let record = event(&rig.topic);
    let parked = park_for(&rig, crm.clone(), &record).await;
    // Another instance does not know the endpoint yet, and then it does.
    let file = without(&rig).write();
    let mut arauto = Arauto::run(&file.path()).await;
    let waits = [("reason", "unknown_endpoint")];
    let waited = |times: f64| move |m: &Metrics| m.sum("arauto_parked_total", &waits) >= times;
    arauto.wait_for_metrics("it to be parked again", waited(2.0)).await;
    assert_eq!(rig.cluster.read(&rig.dead()).await, []);
    let tiers = rig.cluster.read(&rig.tier("1s")).await;
    let again = tiers.iter().find(|r| r.header("arauto-reason") == Some("unknown_endpoint")).unwrap();
    for same in ["arauto-id", "arauto-endpoint", "arauto-attempts", "arauto-first-seen", "arauto-status"] {
        assert_eq!(again.header(same), parked.header(same), "{same}");
    }
    assert_eq!((&again.key, &again.value), (&Some(b"crm".to_vec()), &record.value));
    assert_eq!(again.original_headers(), record.headers);
    assert_parks_are_apart(&rig).await;
    hook.script(|_| Reply::ok());
    file.rewrite(&without(&rig).endpoint(crm));
    arauto.signal("HUP");
    hook.wait_for(1, PATIENCE).await;
    no_lag(&rig).await;
    assert_eq!(rig.cluster.read(&rig.dead()).await, []);
    assert_eq!(arauto.stop().await, 0);
}

/// What becomes of an event that waits for `crm` when `later` takes over; the dead letters in the end.
async fn inherited(rig: &Rig, first: Endpoint, later: &Config) -> (NewRecord, Vec<Record>, Arauto) {
    let record = event(&rig.topic).header("tenant", "acme");
    park_for(rig, first, &record).await;
    let arauto = Arauto::run(&later.write().path()).await;
    let ended = |m: &Metrics| {
        m.sum("arauto_deliveries_total", &[("outcome", "dead")])
            + m.sum("arauto_deliveries_total", &[("outcome", "dropped")])
            >= 1.0
    };
    arauto.wait_for_metrics("the delivery to end", ended).await;
    no_lag(rig).await;
    (record, rig.cluster.read(&rig.dead()).await, arauto)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_removed_endpoint_is_dead_after_the_grace() {
    let rig = Rig::new("removed-endpoint", 1).await;
    let hook = Hook::refusing(503).await;
    let (record, dead, mut arauto) =
        inherited(&rig, Endpoint::new("crm", &hook.url()), &without(&rig).set("unknown_grace", "1s")).await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header("arauto-reason"), Some("unknown_endpoint"));
    assert_eq!((dead[0].header("arauto-endpoint"), &dead[0].key), (Some("crm"), &Some(b"crm".to_vec())));
    assert_eq!((&dead[0].value, dead[0].original_headers()), (&record.value, record.headers));
    assert_eq!((dead[0].number("arauto-attempts"), dead[0].header("arauto-status")), (1, Some("503")));
    assert_eq!(arauto.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_removed_endpoint_is_dropped_where_that_is_wanted() {
    let rig = Rig::new("dropped", 1).await;
    let hook = Hook::refusing(503).await;
    let later = without(&rig).set("unknown_grace", "1s").set("on_removed", "drop");
    let (_, dead, mut arauto) = inherited(&rig, Endpoint::new("crm", &hook.url()), &later).await;
    assert_eq!(dead, []);
    let dropped = arauto.metrics().await.sum("arauto_deliveries_total", &[("outcome", "dropped")]);
    assert_eq!(dropped as usize, 1);
    assert_eq!(arauto.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_disabled_endpoint_is_dead() {
    let rig = Rig::new("disabled", 1).await;
    let hook = Hook::refusing(503).await;
    let crm = Endpoint::new("crm", &hook.url());
    let later = rig.config().endpoint(crm.clone().set("enabled", false));
    let (record, dead, mut arauto) = inherited(&rig, crm, &later).await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header("arauto-reason"), Some("disabled"));
    assert_eq!((&dead[0].value, dead[0].original_headers()), (&record.value, record.headers));
    assert_eq!(hook.count(), 1, "nothing is sent to a disabled endpoint");
    assert_eq!(arauto.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_reused_by_another_tenant_gets_nothing_of_the_first() {
    let rig = Rig::new("tenants", 1).await;
    let (acme, globex) = (Hook::refusing(503).await, Hook::accepting().await);
    let first = Endpoint::new("crm", &acme.url()).set("tenant", "acme");
    let later = Endpoint::new("crm", &globex.url()).set("tenant", "globex");
    let later = rig.config().set("unknown_grace", "1s").endpoint(later);
    let (record, dead, mut arauto) = inherited(&rig, first, &later).await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header("arauto-reason"), Some("unknown_endpoint"));
    assert_eq!(dead[0].value, record.value);
    rig.cluster.produce(&[NewRecord::new(&rig.topic, "theirs").header("tenant", "globex")]).await;
    globex.wait_for(1, PATIENCE).await;
    assert_eq!(arauto.stop().await, 0);
    assert_eq!(globex.accepted_bodies(), ["theirs".to_owned()].into());
    assert_eq!(globex.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_reused_by_another_tenant_gets_nothing_that_was_under_way() {
    let rig = Rig::new("tenants-owed", 1).await;
    let acme =
        Hook::start(|request| if request.body.is_empty() { Reply::never() } else { Reply::ok() }).await;
    let globex = Hook::accepting().await;
    let first = rig.config().endpoint(Endpoint::new("crm", &acme.url()).set("tenant", "acme"));
    let mut arauto = Arauto::run(&first.write().path()).await;
    // Some are answered, so that several go at once; then one is not, and the commit says to whom it is owed.
    const WARM: usize = 20;
    let record = |value: &str| NewRecord::new(&rig.topic, value).partition(0).header("tenant", "acme");
    rig.cluster.produce(&vec![record("settled"); WARM]).await;
    acme.wait_for(WARM, PATIENCE).await;
    rig.cluster.produce(&[record(""), record("settled")]).await;
    acme.wait_for(WARM + 1, PATIENCE).await;
    let owed = async || !rig.cluster.committed(&rig.group, &rig.topic).await[0].metadata.is_empty();
    until(PATIENCE, "what is owed to be committed", owed).await;
    arauto.kill().await;
    let later = Endpoint::new("crm", &globex.url()).set("tenant", "globex");
    let later = rig.config().set("unknown_grace", "1s").endpoint(later);
    let mut arauto = Arauto::start(&later.write().path()).await;
    let dead = dead_letters(&rig, 1).await;
    no_lag(&rig).await;
    assert_eq!(dead[0].header("arauto-reason"), Some("unknown_endpoint"));
    assert_eq!(dead[0].number("arauto-source-offset"), WARM as i64);
    assert_eq!(globex.count(), 0);
    assert_eq!(arauto.stop().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_sheds_its_error_first_and_is_never_dropped() {
    const LIMIT: usize = 20_000;
    let rig = Rig::new("too-large", 1).await;
    rig.cluster.create_topic(&rig.dead(), 1, &[("max.message.bytes", &LIMIT.to_string())]).await;
    let tier = [("max.message.bytes", "20000"), ("message.timestamp.type", "LogAppendTime")];
    rig.cluster.create_topic(&rig.tier("1s"), 1, &tier).await;
    let long = "e".repeat(1_000);
    let (refusing, failing) = (
        Hook::start({
            let long = long.clone();
            move |_| Reply::status(422).body(long.clone())
        })
        .await,
        Hook::start(move |_| Reply::status(500).body(long.clone())).await,
    );
    let refusing = Endpoint::new("refusing", &refusing.url())
        .set("types", vec!["refused"])
        .set("retry.dead_on", vec![422]);
    let failing = Endpoint::new("failing", &failing.url())
        .set("types", vec!["failing"])
        .set("retry.schedule", vec!["2s"]);
    let config = rig.config().endpoint(refusing).endpoint(failing);
    // Ours take about 500 bytes, and 500 more with an error.
    let record = |kind: &str, size: usize| {
        NewRecord::new(&rig.topic, "v".repeat(size)).key("k").header("ce_type", kind)
    };
    let (small, close, large) =
        (record("refused", LIMIT - 2_000), record("refused", LIMIT - 850), record("refused", LIMIT));
    rig.cluster.produce(&[small.clone(), close.clone(), large, record("failing", LIMIT)]).await;
    let mut arauto = Arauto::run(&config.write().path()).await;
    let mut dead = dead_letters(&rig, 4).await;
    dead.sort_by_key(|letter| letter.number("arauto-source-offset"));
    no_lag(&rig).await;
    assert_eq!(arauto.stop().await, 0);

    let facts = |letter: &Record| {
        let error = letter.header("arauto-error").map_or(0, str::len);
        (letter.header("arauto-reason").unwrap().to_owned(), error, letter.original_headers().len())
    };
    assert_eq!((facts(&dead[0]), &dead[0].value), (("rejected".to_owned(), 512, 1), &small.value));
    assert_eq!((facts(&dead[1]), &dead[1].value), (("rejected".to_owned(), 0, 1), &close.value));
    for (letter, endpoint, status) in [(&dead[2], "refusing", "422"), (&dead[3], "failing", "500")] {
        assert_eq!((facts(letter), &letter.value), (("too_large".to_owned(), 0, 0), &None));
        assert_eq!(letter.key.as_deref(), Some(endpoint.as_bytes()));
        assert_eq!(letter.header("arauto-source-topic"), Some(&*rig.topic));
        assert_eq!((letter.header("arauto-status"), letter.number("arauto-attempts")), (Some(status), 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_record_on_a_retry_topic_is_moved_as_it_is() {
    let rig = Rig::new("foreign", 1).await;
    let hook = Hook::accepting().await;
    let file = rig.config().endpoint(Endpoint::new("shop", &hook.url())).write();
    let mut arauto = Arauto::run(&file.path()).await;
    let tier = rig.tier("1s");
    let junk = event(&tier);
    let half = event(&tier).key("crm").header("arauto-id", "msg_1").header("arauto-endpoint", "shop");
    let mut tombstone = NewRecord::tombstone(&tier);
    tombstone.partition = Some(0);
    rig.cluster.produce(&[junk.clone(), half.clone(), tombstone]).await;
    let mut dead = dead_letters(&rig, 3).await;
    dead.sort_by_key(|letter| letter.number("arauto-source-offset"));
    no_lag(&rig).await;
    for ((letter, record), missing) in
        dead.iter().zip([&junk, &half]).zip(["arauto-id is missing", "arauto-source-topic is missing"])
    {
        assert_eq!((&letter.key, &letter.value), (&record.key, &record.value));
        assert_eq!(letter.original_headers(), event(&tier).headers);
        assert_eq!(letter.header("arauto-reason"), Some("invalid_event"));
        assert!(letter.header("arauto-error").unwrap().contains(missing), "{letter:?}");
        assert_eq!(letter.header("arauto-source-topic"), Some(&*tier));
    }
    assert_eq!((&dead[2].key, &dead[2].value), (&None, &None));
    // What comes after them is delivered.
    rig.cluster.produce(&[NewRecord::new(&rig.topic, "fine")]).await;
    hook.wait_for(1, PATIENCE).await;
    assert_eq!(arauto.stop().await, 0);
}
