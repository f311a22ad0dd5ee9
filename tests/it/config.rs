//! The configuration: every mistake is told at once, with its place and what would do; no secret ever prints;
//! what stands in `config/` loads.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use arauto::config::{self, secret::SigningKey, settings::*};

/// Each `tests/it/config/*.toml` is broken; the snapshot beside it holds what is said about it.
#[test]
fn broken_files_are_told_all_their_mistakes() {
    let mut inputs: Vec<PathBuf> = fs::read_dir("tests/it/config")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    inputs.sort();
    assert!(inputs.len() > 10, "{inputs:?}");
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("config");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for input in inputs {
            let mistakes = config::load(&input).expect_err(&input.display().to_string());
            insta::assert_snapshot!(input.file_stem().unwrap().to_str().unwrap(), mistakes);
        }
    });
}

#[test]
fn mistakes_can_be_read_by_programs() {
    let mistakes = config::load(Path::new("tests/it/config/missing_file.none")).unwrap_err();
    let json = serde_json::to_value(&mistakes).unwrap();
    assert_eq!(json[0]["file"], "tests/it/config/missing_file.none");
    assert_eq!(json[0]["line"], 0);
    assert_eq!(json[0]["message"], "the file cannot be read: entity not found");

    let mistakes = config::load(Path::new("tests/it/config/unknown_keys.toml")).unwrap_err();
    let json = serde_json::to_value(&mistakes).unwrap();
    assert_eq!(json.as_array().unwrap().len(), mistakes.as_slice().len());
    assert!(json[1]["line"].as_u64().unwrap() > 0 && json[1]["help"].is_string(), "{json}");
}

#[test]
fn the_reference_loads_and_holds_the_defaults() {
    let reference = config::load(Path::new("config/arauto.toml")).unwrap_or_else(|m| panic!("{m}"));
    let bare = load("[kafka]\nbrokers = \"localhost:9092\"\ntopics = [\"orders\", \"payments\"]\n");
    assert_eq!(config::reload::needs_restart(&reference, &bare), [""; 0]);

    let crm = &reference.endpoints[0];
    assert_eq!((&*crm.id, crm.burst, crm.rate.unwrap().interval()), ("crm", 50, Duration::from_millis(20)));
    assert_eq!(crm.retry.max_age, Duration::from_secs(86_400));

    // What the reference writes as [defaults] is what applies without it.
    let endpoint = "[[endpoints]]\nid = \"e\"\nurl = \"https://example.com\"\nsecrets = [\"x\"]\nsignature = \"github\"\n";
    let text = fs::read_to_string("config/arauto.toml").unwrap();
    let (head, _) = text.split_once("\n[[endpoints]]\n").unwrap();
    let with = load(&format!("{head}\n{endpoint}"));
    let without = load(&format!("[kafka]\nbrokers = \"b\"\ntopics = [\"orders\"]\n{endpoint}"));
    assert_eq!(with.endpoints, without.endpoints);
}

#[test]
fn the_example_endpoints_load() {
    let text = fs::read_to_string("config/arauto.toml").unwrap();
    let example = fs::canonicalize("config/endpoints.example.toml").unwrap();
    let settings =
        load(&text.replace("include = []", &format!("include = [{:?}]", example.to_str().unwrap())));
    let endpoint = |id: &str| settings.endpoints.iter().find(|e| &*e.id == id).unwrap();
    assert_eq!(settings.endpoints.len(), 8);
    assert_eq!(endpoint("warehouse").keys.len(), 2);
    assert_eq!(endpoint("ci").retry.dead_on, [(400, 400), (404, 404), (422, 422)]);
    assert!(endpoint("ledger").keys == [SigningKey::Hmac(b"whsec_example_to_be_replaced".to_vec())]);
    assert_eq!(endpoint("search-index").queue, Queue::Own);
    assert!(endpoint("legacy").keys.is_empty() && endpoint("legacy").paused);
    assert_eq!(endpoint("acme-billing").burst, 20);
}

#[test]
fn what_depends_on_other_keys() {
    let head = "[kafka]\nbrokers = \"b\"\ngroup = \"shop\"\ntopics = [\"orders\", \"^shop-.*\"]\n";
    let settings = load(&format!(
        "{head}properties = {{ security.protocol = \"SSL\", \"socket.keepalive.enable\" = true }}
        [topics]\ntiers = [\"1h\", \"60s\"]
        [security]\nallow = [\"10.1.2.3/8\", \"fd00::1\"]
        [admin]\nlisten = \"off\"
        [defaults]\nordering = \"key\"\nsignature = \"none\"\nrate = \"100/m\"\nqueue = \"own\"
        [[endpoints]]\nid = \"a\"\nurl = \"https://a.example\"\ntimeout = \"90s\"\ntopics = [\"^shop-x.*\", \"shop-y\"]
        [[endpoints]]\nid = \"b\"\nurl = \"http://[::1]:8080/\"\nordering = \"none\"\nqueue = \"shared\"\nrate = \"unlimited\"
disable_after = \"never\"
        retry = {{ schedule = [], dead_on = [\"4xx\"] }}\nheaders = {{ X-Two = \"2\", A-One = \"1\" }}"
    ));
    assert_eq!(settings.topics.prefix, "shop");
    assert_eq!(settings.topics.tiers, [60, 3_600].map(Duration::from_secs));
    assert_eq!(settings.limits.hold, Duration::from_secs(60), "follows the shortest tier");
    assert_eq!(settings.limits.drain, Duration::from_secs(90), "follows the longest timeout");
    assert_eq!(settings.admin.listen, None);
    assert_eq!(
        settings.security.allow.iter().map(|n| n.to_string()).collect::<Vec<_>>(),
        ["10.0.0.0/8", "fd00::1/128"]
    );
    let properties: Vec<_> = settings.kafka.properties.iter().map(|(k, v)| (&**k, v.expose())).collect();
    assert_eq!(properties, [("security.protocol", "SSL"), ("socket.keepalive.enable", "true")]);

    let [a, b] = &settings.endpoints[..] else { panic!("two endpoints") };
    assert_eq!((a.queue, a.ordering, a.burst), (Queue::Own, Ordering::Key, 1));
    assert_eq!(a.retry.schedule, [5, 30, 300].map(Duration::from_secs));
    assert_eq!((b.queue, b.ordering, b.rate, b.burst), (Queue::Shared, Ordering::None, None, 1));
    assert_eq!((a.disable_after, b.disable_after), (Some(Duration::from_secs(432_000)), None));
    assert_eq!((b.retry.schedule.len(), &b.retry.dead_on[..]), (0, &[(400, 499)][..]));
    assert_eq!(b.headers.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["x-two", "a-one"]);
}

#[test]
fn secrets_never_print() {
    const NEEDLE: &str = "TOPSECRET";
    let head = format!(
        "[kafka]\nbrokers = \"b\"\ntopics = [\"orders\"]\n[kafka.properties]\n\"sasl.password\" = \"{NEEDLE}\"\n"
    );
    let good = format!(
        "[[endpoints]]\nid = \"a\"\nurl = \"https://a.example\"\nsignature = \"github\"
        secrets = [\"{NEEDLE}\"]\nheaders = {{ authorization = \"Bearer {NEEDLE}\" }}\n"
    );
    let settings = load(&format!("{head}{good}"));
    assert!(!format!("{settings:?} {settings:#?}").contains(NEEDLE));
    assert_eq!(settings.endpoints[0].headers[0].1.expose(), format!("Bearer {NEEDLE}"));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("arauto.toml");
    fs::write(folder.path().join("secret"), format!("{NEEDLE}\n")).unwrap();
    // Wherever a reference stands, and whatever is wrong with a secret, its value is not part of the message.
    for broken in [
        format!("secrets = [\"{NEEDLE}\"]"),
        format!("secrets = [\"whsec_{NEEDLE}\"]"),
        format!("secrets = [\"whsk_{NEEDLE}\", \"whsk_{NEEDLE}\"]"),
        format!("secrets = \"{NEEDLE}\""),
        format!("secrets = [\"{NEEDLE}\"]\nsignature = \"none\""),
        format!("secrets = [\"{NEEDLE} \\q\"]"),
        format!("secrets = [{NEEDLE}]"),
        format!("secrets = [\"{NEEDLE}"),
        format!("signature = \"none\"\nheaders = {{ a = \"{NEEDLE}\\n\" }}"),
        format!("signature = \"none\"\nheaders = {{ host = \"{NEEDLE}\" }}"),
        format!("signature = \"none\"\nurl = \"https://u:{NEEDLE}@example.com\""),
        format!("signature = \"none\"\nurl = \"ftp://example.com/{NEEDLE}\""),
        "timeout = \"file:secret\"\nrate = \"file:secret\"\nqueue = \"file:secret\"".to_owned(),
        "topics = [\"file:secret\"]\ntenant = \"file:secret\"\nforward = [\"file:secret\", \"file:secret\"]"
            .to_owned(),
        "[kafka.properties]\n\"group.id\" = \"file:secret\"".to_owned(),
        "[log]\nlevel = \"file:secret\"\n[admin]\nlisten = \"file:secret\"".to_owned(),
        "[security]\nallow = [\"file:secret\"]\n[events]\ntype = [\"file:secret\"]".to_owned(),
        "[limits]\nprefetch = \"file:secret\"".to_owned(),
        "[otel]\nendpoint = \"file:secret\"\ntimeout = \"file:secret\"\nheaders = { host = \"file:secret\" }"
            .to_owned(),
        format!("[otel]\nendpoint = \"http://u:{NEEDLE}@localhost:4318\""),
    ] {
        let url = if broken.contains("url") { "" } else { "url = \"https://a.example\"\n" };
        let text = match broken.strip_prefix('[') {
            Some(_) => broken.clone(),
            None => format!("[[endpoints]]\nid = \"a\"\n{url}{broken}\n"),
        };
        fs::write(&path, format!("kafka = {{ brokers = \"b\", topics = [\"orders\"] }}\n{text}")).unwrap();
        let mistakes = config::load(&path).expect_err(&broken);
        let shown = format!("{mistakes} {mistakes:?} {}", serde_json::to_string(&mistakes).unwrap());
        assert!(!shown.contains(NEEDLE), "{broken}\n{mistakes}");
    }
}

#[test]
fn a_file_that_is_not_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("arauto.toml");
    fs::write(&path, b"a = \"\xff\"").unwrap();
    let mistakes = config::load(&path).unwrap_err();
    assert!(mistakes.to_string().contains("the file cannot be read: invalid data"), "{mistakes}");
}

fn load(text: &str) -> Settings {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("arauto.toml");
    fs::write(&path, text).expect("a file can be written");
    config::load(&path).unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"))
}
