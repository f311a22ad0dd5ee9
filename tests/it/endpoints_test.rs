//! `arauto endpoints list` and `test`: what is configured, with nothing secret in it; and one attempt that is made as
//! every attempt is made, watched.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{
    raw::{Server, certificate, certificate_until},
    support::{
        command::{Output, arauto, arauto_with},
        config::{Config, ConfigFile, Endpoint, SECRET},
        hook::{Hook, Reply},
        raw::{Raw, refused_url},
    },
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// No broker listens there, and none is needed.
fn offline() -> Config {
    Config::new("localhost:1", "g", "p", &["orders"]).set("security.allow", vec!["127.0.0.0/8", "::1/128"])
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary directories have readable names")
}

async fn test(file: &ConfigFile, id: &str) -> Output {
    arauto(&["endpoints", "test", id, "--json", "--config", text(&file.path())]).await
}

/// The part of a report that does not depend on the clock.
fn parts(json: &Value, names: &[&str]) -> Value {
    names.iter().map(|&name| (name.to_owned(), json[name].clone())).collect()
}

#[tokio::test]
async fn it_is_sent_as_every_attempt_is() {
    let hook = Hook::accepting().await;
    let endpoint = Endpoint::new("crm", &hook.url())
        .set("headers.x-source", "shop")
        .set("timeout", "20s")
        .set("rate", "1/h");
    let file = offline().endpoint(endpoint).write();
    // Twice: no limit holds it back.
    test(&file, "crm").await;
    let output = test(&file, "crm").await;
    assert_eq!(output.code, 0, "{output:?}");
    let requests = hook.requests();
    let [first, request] = &requests[..] else { panic!("{requests:?}") };
    assert_ne!(first.id, request.id);
    let expected = [
        ("arauto-event-type", "arauto.test"),
        ("arauto-attempt", "1"),
        ("content-type", "application/json"),
        ("x-source", "shop"),
    ];
    for (name, value) in expected {
        assert_eq!(request.header(name), Some(value), "{name}");
    }
    assert!(request.header("user-agent").unwrap().starts_with("Arauto/"));
    standardwebhooks::Webhook::new(SECRET).unwrap().verify(&request.body, &request.headers).unwrap();
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!((&body["type"], &body["data"]), (&"arauto.test".into(), &json!({ "endpoint": "crm" })));

    let report = output.json();
    let stable = parts(
        &report,
        &["endpoint", "id", "url", "result", "status", "outcome", "reason", "tls", "certificate", "dns_ms"],
    );
    let expected = json!({
        "endpoint": "crm", "id": request.id, "url": format!("http://{}/…", hook.address()), "result": "status",
        "status": 200, "outcome": "delivered", "reason": null, "tls": null, "certificate": null, "dns_ms": null,
    });
    assert_eq!(stable, expected);
    assert_eq!(report["peer"], hook.address().to_string());
    let time = |name: &str| report[name].as_f64().unwrap();
    assert!(time("connect_ms") > 0.0 && time("first_byte_ms") > 0.0, "{report}");
    assert!(time("total_ms") + 0.02 >= time("connect_ms") + time("first_byte_ms"), "{report}");
}

#[tokio::test]
async fn over_tls_with_the_roots_of_the_machine_and_the_expiry_shown() {
    let (config, root) = certificate("localhost", &["http/1.1"]);
    let good = Server::tls(config, OK).await;
    let (config, old) = certificate_until("localhost", &["http/1.1"], 2021);
    let expired = Server::tls(config, OK).await;
    let url = |server: &Server| format!("https://localhost:{}/hook/s3cret", server.addr.port());
    let file = offline()
        .endpoint(Endpoint::new("good", &url(&good)))
        .endpoint(Endpoint::new("old", &url(&expired)))
        .write();
    let roots = file.dir().join("roots.pem");
    fs::write(&roots, root + &old).unwrap();
    let path = file.path();
    let test = async |id: &str, more: &[&str]| {
        let words = [&["endpoints", "test", id, "--config", text(&path)], more].concat();
        arauto_with(&words, &[("SSL_CERT_FILE", text(&roots))]).await
    };

    let output = test("good", &["--json"]).await;
    assert_eq!(output.code, 0, "{output:?}");
    let report = output.json();
    let expected = json!({
        "subject": "a receiver", "issuer": "a receiver", "names": ["localhost"],
        "not_before": 1_577_836_800_000_i64, "not_after": 4_102_358_400_000_i64,
    });
    assert_eq!((&report["certificate"], &report["tls"]), (&expected, &"TLS 1.3".into()));
    assert!(report["dns_ms"].is_number() && report["tls_ms"].is_number(), "{report}");
    assert!(!report["addresses"].as_array().unwrap().is_empty(), "{report}");
    let output = test("good", &[]).await;
    for told in [
        "until 2099-12-31T00:00:00Z",
        " left",
        "TLS 1.3, HTTP/1.1",
        "answer      200  ok",
        "meaning     delivered",
    ] {
        assert!(output.stdout.contains(told), "{told}: {output:?}");
    }
    assert!(!output.stdout.contains("s3cret"), "{output:?}");
    let [request, _] = &good.requests()[..] else { panic!("two requests") };
    assert!(request.head.starts_with("POST /hook/s3cret "), "{}", request.head);

    let output = test("old", &[]).await;
    assert_eq!(output.code, 1, "{output:?}");
    for told in
        ["until 2021-12-31T00:00:00Z, it ended", "none (tls)", "expired", "retry (tls): attempt 2 of 8"]
    {
        assert!(output.stdout.contains(told), "{told}: {output:?}");
    }
    assert!(expired.requests().is_empty());
    // Without that root it is nobody we know.
    let words = ["endpoints", "test", "good", "--json", "--config", text(&path)];
    let output = arauto(&words).await;
    assert_eq!(parts(&output.json(), &["result", "outcome"]), json!({ "result": "tls", "outcome": "retry" }));
}

#[tokio::test]
async fn what_each_answer_would_mean_is_what_the_table_says() {
    let status = |status: u16| async move { Hook::refusing(status).await };
    let (gone, broken, not_found) = (status(410).await, status(500).await, status(404).await);
    let busy = Hook::start(|_| Reply::status(503).header("retry-after", "90").body("later")).await;
    let silent = Raw::silent().await;
    let mut config = offline();
    for (id, url) in [
        ("gone", gone.url()),
        ("broken", broken.url()),
        ("busy", busy.url()),
        ("refused", refused_url()),
        ("unknown", format!("http://{}.example/", "x".repeat(64))),
    ] {
        config = config.endpoint(Endpoint::new(id, &url));
    }
    let file = config
        .endpoint(Endpoint::new("final", &not_found.url()).set("retry.dead_on", vec!["4xx"]))
        .endpoint(Endpoint::new("slow", &silent.url()).set("timeout", "300ms"))
        .endpoint(Endpoint::new("paused", &broken.url()).set("paused", true))
        .write();
    let rows = [
        ("gone", json!(["status", 410, "dead", "gone", null]), "would be disabled"),
        ("broken", json!(["status", 500, "retry", "status", 5_000]), "attempt 2 of 8"),
        ("busy", json!(["status", 503, "retry", "status", 90_000]), "for 1m 30s"),
        ("refused", json!(["connect", null, "retry", "connect", 5_000]), "attempt 2"),
        ("unknown", json!(["dns", null, "retry", "dns", 5_000]), "attempt 2"),
        ("final", json!(["status", 404, "dead", "rejected", null]), "dead_on"),
        ("slow", json!(["timeout", null, "retry", "timeout", 5_000]), "attempt 2"),
    ];
    for (id, expected, meaning) in rows {
        let output = test(&file, id).await;
        let report = output.json();
        assert_eq!(output.code, 1, "{output:?}");
        let names = ["result", "status", "outcome", "reason", "after_ms"];
        assert_eq!(Value::from_iter(names.map(|name| report[name].clone())), expected, "{id}");
        assert!(report["meaning"].as_str().unwrap().contains(meaning), "{meaning}: {report}");
    }
    let report = test(&file, "slow").await.json();
    let total = Duration::from_secs_f64(report["total_ms"].as_f64().unwrap() / 1000.0);
    assert!(total >= Duration::from_millis(299), "{report}");
    let output = arauto(&["endpoints", "test", "paused", "--config", text(&file.path())]).await;
    assert!(output.stdout.contains("the configuration has it paused"), "{output:?}");
    assert_eq!(broken.count(), 2);
}

#[tokio::test]
async fn an_address_that_is_not_allowed_is_not_spoken_to() {
    let hook = Hook::accepting().await;
    // A literal address is a mistake of the configuration; a name is judged by what it resolves to.
    let url = format!("http://localhost:{}/", hook.address().port());
    let file =
        offline().set("security.allow", Vec::<String>::new()).endpoint(Endpoint::new("crm", &url)).write();
    let output = test(&file, "crm").await;
    assert_eq!(output.code, 1, "{output:?}");
    let expected =
        json!({ "result": "blocked", "outcome": "dead", "reason": "blocked_address", "connect_ms": null });
    assert_eq!(parts(&output.json(), &["result", "outcome", "reason", "connect_ms"]), expected);
    assert!(output.json()["meaning"].as_str().unwrap().contains("[security]"), "{output:?}");
    assert_eq!(hook.count(), 0);

    let output = test(&file, "crn").await;
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("did you mean \"crm\"?"), "{output:?}");
}

/// Two endpoints with something secret in every place where there can be.
fn listed(secret: &str) -> ConfigFile {
    offline()
        .set("defaults.timeout", "7s")
        .endpoint(
            Endpoint::new("crm", "https://crm.example.com/hooks/s3cret-path?k=s3cret-query")
                .set("secrets", vec![SECRET, secret])
                .set("headers.authorization", "s3cret-header")
                .set("types", vec!["order.*"])
                .set("tenant", "acme")
                .set("rate", "50/s")
                .set("retry.dead_on", vec!["4xx"]),
        )
        .endpoint(
            Endpoint::new("audit", "https://audit.example.com/").set("paused", true).set("ordering", "key"),
        )
        .write()
}

#[tokio::test]
async fn the_list_is_the_configuration_as_resolved_without_its_secrets() {
    let pair = arauto(&["secret", "new", "--ed25519", "--json"]).await.json();
    let (secret, public) = (pair["secret"].as_str().unwrap(), pair["public"].as_str().unwrap());
    let file = listed(secret);
    let path = file.path();
    let list = async |more: &[&str]| {
        let output = arauto(&[&["endpoints", "list", "--config", text(&path)], more].concat()).await;
        assert_eq!(output.code, 0, "{output:?}");
        assert!(!output.stdout.contains("s3cret-header"), "{output:?}");
        for known in [SECRET, secret] {
            assert!(!output.stdout.contains(known), "{output:?}");
        }
        output
    };

    let table = list(&[]).await.stdout;
    for told in [
        "crm       enabled  https://crm.example.com/…",
        "order.* of acme",
        "standard: ed25519, hmac",
        "50/s",
        "audit     paused   https://audit.example.com/",
        "everything",
        "own, ordered by key",
        "2 endpoints",
    ] {
        assert!(table.contains(told), "{told}: {table}");
    }
    assert!(!table.contains("s3cret"), "{table}");

    let json = list(&["--json"]).await.json();
    let wanted = [
        "id",
        "url",
        "types",
        "tenant",
        "timeout",
        "rate",
        "burst",
        "headers",
        "keys",
        "queue",
        "disable_after",
    ];
    let expected = json!({
        "id": "crm", "url": "https://crm.example.com/…", "types": ["order.*"], "tenant": "acme", "timeout": "7s",
        "rate": "50/s", "burst": 50, "headers": ["authorization"], "queue": "shared", "disable_after": "5d",
        "keys": [{ "kind": "hmac" }, { "kind": "ed25519", "public": public }],
    });
    assert_eq!(parts(&json[0], &wanted), expected);
    assert_eq!(json[0]["retry"]["dead_on"], json!(["4xx"]));
    let default = json!(["5s", "5m", "30m", "2h", "5h", "10h", "10h"]);
    assert_eq!(json[0]["retry"]["schedule"], default);
    assert_eq!(
        parts(&json[1], &["paused", "rate", "types", "ordering"]),
        json!({ "paused": true, "rate": null, "types": null, "ordering": "key" })
    );

    let urls = list(&["--urls"]).await.stdout;
    assert!(urls.contains("https://crm.example.com/hooks/s3cret-path?k=s3cret-query"), "{urls}");
}
