//! `arauto doctor`: a sound installation has no problem and is left as it was; whatever is wrong is named, with the
//! mend, and ends with 1.

use serde_json::Value;

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    broker::Broker,
    command::{Output, arauto},
    config::{Config, Endpoint},
    hook::Hook,
    records::NewRecord,
    unique, until,
};

/// One user who may do everything, one who may do nothing. `@…@` is filled in by `tests/kafka/broker`.
const AUTHORIZED: &str = r#"
listeners=SASL_PLAINTEXT://127.0.0.1:@BROKER_PORT@,CONTROLLER://127.0.0.1:@CONTROLLER_PORT@
advertised.listeners=SASL_PLAINTEXT://127.0.0.1:@BROKER_PORT@
listener.security.protocol.map=SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=SASL_PLAINTEXT
sasl.mechanism.inter.broker.protocol=PLAIN
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="broker" password="broker" user_broker="broker" user_arauto="secret";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:broker
"#;

/// What it found, and its exit code.
struct Examined {
    code: i32,
    findings: Vec<Value>,
}

impl Examined {
    async fn new(config: &Config) -> Self {
        let file = config.write();
        let output = arauto(&["doctor", "--json", "--config", file.path().to_str().unwrap()]).await;
        Self { code: output.code, findings: output.json_lines() }
    }

    /// The findings whose subject holds this text.
    fn of(&self, area: &str, what: &str) -> Vec<&Value> {
        let is =
            |finding: &&Value| finding["area"] == area && finding["what"].as_str().unwrap().contains(what);
        self.findings.iter().filter(is).collect()
    }

    /// There is a finding like this, with a mend unless all is well.
    fn has(&self, verdict: &str, area: &str, what: &str, found: &str, mend: &str) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let is = |finding: &&Value| {
            finding["verdict"] == verdict
                && text(&finding["found"]).contains(found)
                && text(&finding["mend"]).contains(mend)
                && finding["mend"].is_null() == (verdict == "ok")
        };
        assert!(
            self.of(area, what).iter().any(is),
            "no {verdict} of {what} that says {found:?}, mend {mend:?}: {:#?}",
            self.findings
        );
    }

    fn problems(&self) -> usize {
        self.findings.iter().filter(|finding| finding["verdict"] == "problem").count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_installation_has_no_problem_and_is_left_as_it_was() {
    let rig = Rig::new("doctor", 1).await;
    let hook = Hook::accepting().await;
    let config = rig.config().endpoint(Endpoint::new("shop", &hook.url()));
    let file = config.write();
    let mut running = Arauto::run(&file.path()).await;
    rig.cluster.produce(&[NewRecord::new(&rig.topic, "event")]).await;
    hook.wait_for(1, PATIENCE).await;
    until(PATIENCE, "no lag", async || rig.cluster.lag(&rig.group, &rig.topic).await == 0).await;
    let state = async || {
        let records = rig.cluster.read(&rig.state()).await;
        records.into_iter().map(|record| (record.key, record.value)).collect::<Vec<_>>()
    };
    let before = state().await;

    for (instance, told) in [(true, "an instance is running"), (false, "no instance is running")] {
        if !instance {
            assert_eq!(running.stop().await, 0);
        }
        let examined = Examined::new(&config).await;
        assert_eq!((examined.code, examined.problems()), (0, 0), "{:#?}", examined.findings);
        examined.has("ok", "configuration", "arauto.toml", "1 endpoint", "");
        examined.has("ok", "brokers", rig.cluster.brokers(), "1 broker, over plain text", "");
        examined.has("ok", "topics", &rig.topic, "source topic, there", "");
        examined.has("ok", "topics", &rig.prefix, "6 topics with the settings they need", "");
        // There is one broker only.
        examined.has("warning", "topics", &rig.prefix, "6 topics with one replica", "min.insync.replicas=2");
        examined.has("ok", "rights", "create topics", "allowed", "");
        examined.has("ok", "rights", &rig.group, told, "");
        examined.has("ok", "rights", "read topics", "7 topics can be read", "");
        examined.has("ok", "rights", "write topics", "6 topics can be written", "");
        examined.has("ok", "clock", "brokers", " ms ", "");
        examined.has("ok", "endpoints", "shop", "accepts connections", "");
    }
    assert_eq!(state().await, before);
    assert!(
        rig.cluster.read(&rig.dead()).await.is_empty() && rig.cluster.read(&rig.tier("1s")).await.is_empty()
    );
    assert_eq!(hook.count(), 1);
    // The group goes on where it was.
    let _again = Arauto::run(&file.path()).await;
    rig.cluster.produce(&[NewRecord::new(&rig.topic, "another")]).await;
    hook.wait_for(2, PATIENCE).await;
    assert_eq!(hook.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_are_named_with_their_mend() {
    let rig = Rig::new("doctor-wrong", 1).await;
    let [lost, dead, short, created] = [unique("doctor-lost"), rig.dead(), rig.tier("1s"), rig.tier("3s")];
    let appended = ("message.timestamp.type", "LogAppendTime");
    rig.cluster.create_topic(&dead, 1, &[("retention.ms", "-1"), ("max.message.bytes", "1000")]).await;
    rig.cluster.create_topic(&short, 1, &[appended, ("retention.ms", "60000")]).await;
    rig.cluster.create_topic(&created, 1, &[("retention.ms", "-1"), ("retention.bytes", "-1")]).await;
    let config = rig
        .config()
        .set("kafka.topics", vec![rig.topic.clone(), lost.clone()])
        .endpoint(Endpoint::new("nameless", "http://nobody.invalid/"))
        .endpoint(Endpoint::new("down", "http://127.0.0.1:1/"));
    let examined = Examined::new(&config).await;
    assert_eq!(examined.code, 1);
    examined.has("problem", "topics", &lost, "does not exist", "kafka.topics");
    examined.has("problem", "topics", &dead, "max.message.bytes is 1000", "--add-config max.message.bytes=");
    examined.has("problem", "topics", &short, "retention.ms is 60000", "--add-config retention.ms=");
    let told = "message.timestamp.type is CreateTime, needed is LogAppendTime: an instance refuses to start";
    examined.has("problem", "topics", &created, told, "--add-config message.timestamp.type=LogAppendTime");
    examined.has("warning", "topics", &rig.state(), "does not exist", "an instance creates it");
    examined.has("problem", "endpoints", "nameless", "", "DNS");
    examined.has("warning", "endpoints", "down", "", "firewall");

    // Without leave to create what is missing, that is a problem, too.
    let strict = Examined::new(&config.clone().set("topics.create", false)).await;
    strict.has("problem", "topics", &rig.state(), "does not exist", "arauto topics --create");

    let file = config.write();
    let output = arauto(&["doctor", "--config", file.path().to_str().unwrap()]).await;
    assert_eq!(output.code, 1);
    let line = format!("problem  topics         {lost}: source topic, does not exist\n");
    let mend = format!("{:24}-> create it, or correct kafka.topics", "");
    assert!(output.stdout.contains(&line) && output.stdout.contains(&mend), "{output:?}");
    assert!(output.stdout.ends_with(" warnings\n") && output.stderr.is_empty(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_out_of_reach_and_a_wrong_file_are_problems() {
    let rig = Rig::new("doctor-far", 1).await;
    let config = rig.config().endpoint(Endpoint::new("shop", "http://127.0.0.1:1/"));
    let refused = config.clone().set("kafka.brokers", "127.0.0.1:1");
    let nameless = config.clone().set("kafka.brokers", "nobody.invalid:9092");
    let encrypted = config.clone().property("security.protocol", "ssl");
    let (refused, nameless, encrypted, wrong) = tokio::join!(
        Examined::new(&refused),
        Examined::new(&nameless),
        Examined::new(&encrypted),
        wrong_file(&config)
    );
    refused.has("problem", "brokers", "127.0.0.1:1", "not reachable", "kafka.brokers");
    nameless.has("problem", "brokers", "nobody.invalid", "cannot be resolved", "DNS");
    encrypted.has("problem", "brokers", rig.cluster.brokers(), "SSL", "");
    for examined in [refused, nameless, encrypted] {
        assert_eq!((examined.code, examined.problems()), (1, 1), "{:#?}", examined.findings);
        // What needs no brokers is looked at all the same.
        examined.has("warning", "endpoints", "shop", "", "firewall");
    }
    assert_eq!(wrong.code, 1);
    let finding = &wrong.json_lines()[0];
    assert_eq!((&finding["verdict"], &finding["area"]), (&"problem".into(), &"configuration".into()));
    assert!(finding["found"].as_str().unwrap().contains("hold in [limits]"), "{finding}");
}

async fn wrong_file(config: &Config) -> Output {
    let file = config.clone().set("limits.hold", "soon").write();
    arauto(&["doctor", "--json", "--config", file.path().to_str().unwrap()]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_known_or_may_do_nothing_is_told_so() {
    let broker = Broker::start_with(AUTHORIZED).await;
    let known = |password: &str| {
        Config::new(broker.address(), "group", "own", &["orders"])
            .property("security.protocol", "SASL_PLAINTEXT")
            .property("sasl.mechanism", "PLAIN")
            .property("sasl.username", "arauto")
            .property("sasl.password", password)
            .endpoint(Endpoint::new("shop", "http://127.0.0.1:1/"))
    };
    let (stranger, nobody) = (known("wrong"), known("secret"));
    let (stranger, nobody) = tokio::join!(Examined::new(&stranger), Examined::new(&nobody));
    stranger.has("problem", "brokers", broker.address(), "authentication failed", "sasl.password");
    nobody.has("ok", "brokers", broker.address(), "authenticated by plain", "");
    nobody.has("problem", "topics", "orders", "does not exist", "Describe");
    nobody.has("problem", "rights", "create topics", "uthoriz", "allow Create");
    nobody.has("problem", "rights", "group group", "uthoriz", "allow Read");
    nobody.has("warning", "rights", "transactions", "uthoriz", "transactional ids that begin with own.");
    assert_eq!((stranger.code, nobody.code), (1, 1));
    assert!(!format!("{:?}{:?}", stranger.findings, nobody.findings).contains("secret"));
}
