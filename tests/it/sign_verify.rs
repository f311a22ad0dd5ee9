//! `arauto sign`, `verify` and `secret`: known answers, independent verifiers, and each thing that can be wrong named
//! as what it is.

use std::{fs, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    command::{Output, arauto, arauto_reading},
    config::{Config, Endpoint, SECRET},
    now_ms,
};

const JSON: &str = r#"{"type":"order.paid","total":12.50,"items":[{"name":"João"}]}"#;
const PRETTY: &str = "{\n  \"type\": \"order.paid\",\n  \"total\": 12.50,\n  \"items\": [\n    {\n      \"name\": \"João\"\n    }\n  ]\n}";

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/standard-webhooks.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// `sign --json`, as header lines.
async fn sign(body: &str, more: &[&str]) -> String {
    let output = arauto_reading(&[&["sign", "--json"], more].concat(), body).await;
    assert_eq!(output.code, 0, "{output:?}");
    let object = output.json().as_object().unwrap().clone();
    object.iter().map(|(name, value)| format!("{name}: {}\n", value.as_str().unwrap())).collect()
}

/// `verify --json` of a body with these header lines.
async fn verify(body: &str, headers: &str, more: &[&str]) -> (i32, Value) {
    let given: Vec<&str> = headers.lines().flat_map(|line| ["-H", line]).collect();
    let output = arauto_reading(&[&["verify", "--json"], &given[..], more].concat(), body).await;
    (output.code, output.json())
}

/// One problem, and no other.
async fn check(body: &str, headers: &str, more: &[&str], what: &str, told: &str) {
    let (code, json) = verify(body, headers, more).await;
    let problems = json["problems"].as_array().unwrap();
    assert_eq!((code, &json["verified"], problems.len()), (1, &false.into(), 1), "{json}");
    assert_eq!(problems[0]["what"], what, "{json}");
    assert!(problems[0]["detail"].as_str().unwrap().contains(told), "{told}: {json}");
    assert!(!problems[0]["help"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn known_answers() {
    let vectors = vectors();
    for row in ["v1", "v1a"].iter().flat_map(|kind| vectors[kind].as_array().unwrap()) {
        let field = |name: &str| row[name].as_str().unwrap();
        let (time, body) = (row["timestamp"].to_string(), field("payload"));
        let output = arauto(&[
            "sign",
            "--body",
            body,
            "--secret",
            field("secret"),
            "--id",
            field("id"),
            "--timestamp",
            &time,
        ])
        .await;
        let expected = format!(
            "webhook-id: {}\nwebhook-timestamp: {time}\nwebhook-signature: {}\n",
            field("id"),
            field("signature")
        );
        assert_eq!((output.code, &output.stdout), (0, &expected), "{output:?}");
        let secret = row["public"].as_str().unwrap_or(field("secret"));
        let (code, json) = verify(body, &expected, &["--secret", secret, "--at", &time]).await;
        assert_eq!((code, &json["verified"], &json["secret"]), (0, &true.into(), &1.into()), "{json}");
        for wrong in vectors["wrong_v1"].as_array().unwrap() {
            let headers = expected.replace(field("signature"), wrong.as_str().unwrap());
            let (code, json) = verify(body, &headers, &["--secret", field("secret"), "--at", &time]).await;
            assert_eq!((code, &json["verified"]), (1, &false.into()), "{json}");
        }
    }
}

#[tokio::test]
async fn independent_code_accepts_what_is_signed_and_is_accepted() {
    let output = arauto(&["secret", "new"]).await;
    let secret = output.stdout.trim();
    let (mut headers, theirs) =
        (http_types::HeaderMap::new(), standardwebhooks::Webhook::new(secret).unwrap());
    for line in sign(JSON, &["--secret", secret]).await.lines() {
        let (name, value) = line.split_once(": ").unwrap();
        headers.insert(http_types::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
    }
    theirs.verify(JSON.as_bytes(), &headers).unwrap();

    let now = now_ms() / 1000;
    let signature = theirs.sign("msg_theirs", now, JSON.as_bytes()).unwrap();
    let headers =
        format!("webhook-id: msg_theirs\nwebhook-timestamp: {now}\nwebhook-signature: {signature}\n");
    let (code, json) = verify(JSON, &headers, &["--secret", SECRET, "--secret", secret]).await;
    assert_eq!((code, &json["secret"], &json["id"]), (0, &2.into(), &"msg_theirs".into()), "{json}");
}

#[tokio::test]
async fn github_and_stripe() {
    // The example of https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries.
    let secret = "It's a Secret to Everybody";
    let headers = sign("Hello, World!", &["--scheme", "github", "--secret", secret]).await;
    let expected =
        "x-hub-signature-256: sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    assert!(headers.contains(expected), "{headers}");
    assert_eq!(verify("Hello, World!", expected, &["--secret", secret]).await.0, 0);
    check("Hello, World!\n", expected, &["--secret", secret], "body_changed", "without the line end").await;
    check("Hello, World!", &expected.replace("sha256=", "sha1="), &["--secret", "s"], "malformed", "x-hub")
        .await;

    // `printf '1614265330.{}' | openssl dgst -sha256 -hmac 'stripe secret'`
    let more = ["--scheme", "stripe", "--secret", "stripe secret", "--timestamp", "1614265330"];
    let headers = sign("{}", &more).await;
    let signed =
        "stripe-signature: t=1614265330,v1=64b59af27c6ecf8bb9f8b4cb5e8b55b243257ac7a5851a6bdf74431a50db8a27";
    assert!(headers.contains(signed), "{headers}");
    let secret = ["--secret", "stripe secret"];
    let at = [&secret[..], &["--at", "1614265330"]].concat();
    assert_eq!(verify("{}", signed, &at).await.0, 0);
    check("{}", signed, &secret, "too_old", "2021-02-25T15:02:10Z").await;
    check("{}", &signed.replace("t=16", "t=x"), &at, "malformed", "is no number").await;
    let headers = sign("{}", &["--scheme", "none"]).await;
    assert_eq!(headers.lines().count(), 2, "{headers}");
}

#[tokio::test]
async fn a_time_that_is_wrong_is_all_that_is_wrong() {
    let headers = sign(JSON, &["--secret", SECRET, "--timestamp", "1614265330"]).await;
    let secret = ["--secret", SECRET];
    for (at, what, told) in [
        ("1614265631", "too_old", "5m 1s ago"),
        ("1614265029", "too_new", "5m 1s from now"),
        ("2021-03-25T15:02:10Z", "too_old", "28d 0h ago"),
    ] {
        check(JSON, &headers, &[&secret[..], &["--at", at]].concat(), what, told).await;
    }
    for more in [["--at", "1614265630"], ["--at", "1614265030"], ["--tolerance", "10000d"]] {
        assert_eq!(verify(JSON, &headers, &[&secret[..], &more].concat()).await.0, 0, "{more:?}");
    }
    let (_, json) = verify(JSON, &headers, &secret).await;
    assert_eq!((&json["secret"], &json["timestamp"]), (&1.into(), &1_614_265_330.into()), "{json}");
}

#[tokio::test]
async fn headers_that_are_malformed_are_named() {
    let good = sign(JSON, &["--secret", SECRET, "--id", "msg_1"]).await;
    let line = |name: &str| good.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    let (time, signature) = (line("webhook-timestamp"), line("webhook-signature"));
    let cut = &signature[..signature.len() - 5];
    let rows = [
        (good.replace("webhook-id", "x-id"), "malformed", "webhook-id is missing"),
        (good.replace(&time, "webhook-timestamp: 1614265330123"), "malformed", "is not in seconds"),
        (good.replace(&time, "webhook-timestamp: yesterday"), "malformed", "is no number"),
        (good.replace(&signature, cut), "malformed", "was cut"),
        (good.replace("v1,", ""), "malformed", "without a version"),
        (good.replace("v1,", "v2,"), "malformed", "of version \"v2\" only"),
        (good.replace("v1,", "v1a,"), "malformed", "32 bytes instead of 64"),
        (good.replace("webhook-signature", "x-signature"), "unsigned", "none of webhook-signature"),
        (good.replace("webhook-", "svix-"), "unsigned", "older names"),
    ];
    for (headers, what, told) in rows {
        check(JSON, &headers, &["--secret", SECRET], what, told).await;
    }
    let both = good.replace("webhook-id", "x-id").replace(&time, "webhook-timestamp: soon");
    let (_, json) = verify(JSON, &both, &["--secret", SECRET]).await;
    assert_eq!(json["problems"].as_array().unwrap().len(), 2, "{json}");
}

#[tokio::test]
async fn a_body_written_anew_is_recognised_and_the_form_that_verifies_is_named() {
    let python = r#"{"type": "order.paid", "total": 12.50, "items": [{"name": "Jo\u00e3o"}]}"#;
    let with_line = format!("{JSON}\n");
    let rows = [
        (JSON, PRETTY, "the same JSON, compact: 62 bytes, where the body given has"),
        (JSON, with_line.as_str(), "without the line end it has now"),
        (PRETTY, JSON, "indented by 2 spaces"),
        (python, JSON, "a space after each comma and colon (Python's json.dumps), all but ASCII escaped"),
        (with_line.as_str(), JSON, "a newline at its end"),
        ("a\r\nb", "a\nb", "its lines ended by CR LF"),
    ];
    for (signed, given, told) in rows {
        let headers = sign(signed, &["--secret", SECRET]).await;
        check(given, &headers, &["--secret", SECRET], "body_changed", told).await;
    }
    let headers = sign(JSON, &["--secret", SECRET]).await;
    let (_, json) = verify(PRETTY, &headers, &["--secret", SECRET]).await;
    assert!(json["problems"][0]["detail"].as_str().unwrap().contains("differs from byte 2 on"), "{json}");
    // What has another meaning is not the same JSON, nor is one that was rounded.
    for given in [JSON.replace("12.50", "12.5"), JSON.replace("paid", "made")] {
        check(&given, &headers, &["--secret", SECRET], "mismatch", "no secret given").await;
    }
}

#[tokio::test]
async fn a_secret_that_is_another_or_read_in_another_way() {
    let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let headers = sign(JSON, &["--secret", SECRET]).await;
    check(JSON, &headers, &["--secret", other], "mismatch", "no secret given made a signature").await;

    // Signed with the letters of the secret, by somebody who did not decode it.
    let (theirs, now) = (standardwebhooks::Webhook::from_bytes(SECRET.into()).unwrap(), now_ms() / 1000);
    let signature = theirs.sign("msg_1", now, JSON.as_bytes()).unwrap();
    let undecoded = format!("webhook-id: msg_1\nwebhook-timestamp: {now}\nwebhook-signature: {signature}\n");
    check(JSON, &undecoded, &["--secret", SECRET], "secret_misread", "its base64 was not decoded").await;
    // What is wrong there is right for GitHub's scheme.
    let secret = SECRET.strip_prefix("whsec_").unwrap();
    let undecoded = sign(JSON, &["--secret", SECRET, "--scheme", "github"]).await;
    assert_eq!(verify(JSON, &undecoded, &["--secret", SECRET]).await.0, 0);
    check(JSON, &undecoded, &["--secret", secret], "mismatch", "").await;
    let behind = sign(JSON, &["--secret", secret, "--scheme", "github"]).await;
    check(JSON, &behind, &["--secret", SECRET], "secret_misread", "without whsec_").await;
    let line = sign(JSON, &["--secret", "s3cret\n", "--scheme", "github"]).await;
    check(JSON, &line, &["--secret", "s3cret"], "secret_misread", "a line end behind it").await;
    check(JSON, &headers, &["--secret", &format!("{SECRET}\n")], "secret_misread", "white space around it")
        .await;

    let pair = arauto(&["secret", "new", "--ed25519", "--json"]).await.json();
    let (secret, public) = (pair["secret"].as_str().unwrap(), pair["public"].as_str().unwrap());
    let headers = sign(JSON, &["--secret", secret]).await;
    check(JSON, &headers, &["--secret", SECRET], "key_kind", "Ed25519 (v1a) only").await;
    check(
        JSON,
        &sign(JSON, &["--secret", SECRET]).await,
        &["--secret", public],
        "key_kind",
        "HMAC (v1) only",
    )
    .await;
    assert_eq!(verify(JSON, &headers, &["--secret", public]).await.0, 0);
}

#[tokio::test]
async fn fresh_secrets_are_what_endpoints_and_receivers_take() {
    let words = |output: &Output| output.stdout.lines().map(str::to_owned).collect::<Vec<_>>();
    let (one, two) = (arauto(&["secret", "new"]).await, arauto(&["secret", "new"]).await);
    assert!(one.stdout.starts_with("whsec_") && one.stdout != two.stdout, "{one:?}");
    let pair = words(&arauto(&["secret", "new", "--ed25519"]).await);
    let [secret, public] = &pair[..] else { panic!("{pair:?}") };
    assert!(secret.starts_with("whsk_") && public.starts_with("whpk_"), "{pair:?}");
    let output = arauto(&["secret", "public", secret]).await;
    assert_eq!((output.code, output.stdout.trim()), (0, public.as_str()));
    let output = arauto(&["secret", "public", one.stdout.trim()]).await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("secret new --ed25519"), "{output:?}");

    let file = Config::new("localhost:1", "g", "p", &["orders"]).endpoint(
        Endpoint::new("crm", "https://crm.example.com/").set("secrets", vec![one.stdout.trim(), secret]),
    );
    let file = file.write();
    let path = file.path();
    let config = ["--config", text(&path)];
    let headers = sign(JSON, &[&config[..], &["--endpoint", "crm"]].concat()).await;
    assert!(headers.contains("v1,") && headers.contains(" v1a,"), "{headers}");
    for with in [["--secret", one.stdout.trim()], ["--secret", public], ["--endpoint", "crm"]] {
        assert_eq!(verify(JSON, &headers, &[&config[..], &with].concat()).await.0, 0, "{with:?}");
    }
    let output = arauto(&[&["sign", "--body", "x", "--endpoint", "crn"], &config[..]].concat()).await;
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("did you mean \"crm\"?"), "{output:?}");
}

#[tokio::test]
async fn for_people_and_wrong_usage() {
    let dir = TempDir::new().unwrap();
    let write = |name: &str, content: &str| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        text(&path).to_owned()
    };
    let (body, secret) = (write("body.json", JSON), write("secret", &format!("{SECRET}\n")));
    let secret = format!("file:{secret}");
    let headers = write("headers.txt", &arauto(&["sign", &body, "--secret", &secret]).await.stdout);
    let output = arauto(&["verify", &body, "--headers", &headers, "--secret", &secret]).await;
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.starts_with("✓ verified  scheme standard, id msg_"), "{output:?}");
    let pretty = write("pretty.json", PRETTY);
    let output = arauto(&["verify", &pretty, "--headers", &headers, "--secret", &secret]).await;
    assert_eq!(output.code, 1, "{output:?}");
    for told in
        ["✗ not verified", "body changed: what was signed is the same JSON, compact", "→ verify the bytes"]
    {
        assert!(output.stdout.contains(told), "{told}: {output:?}");
    }
    for (words, told) in [
        (&["sign", "--body", "x"][..], "--secret"),
        (&["sign", "--body", "x", "--secret", "whsec_AAAA"], "24 to 64 bytes"),
        (&["sign", "--body", "x", "--secret", "a", "--secret", "b", "--scheme", "github"], "one --secret"),
        (&["sign", "--body", "x", "--secret", SECRET, "--timestamp", "soon"], "--timestamp \"soon\""),
        (&["verify", "--body", "x", "--secret", SECRET], "-H"),
        (&["verify", "--body", "x", "--secret", "whsec_?", "-H", "a: b"], "secret 1: not a secret"),
        (&["verify", "--headers", "-", "--secret", SECRET], "standard input"),
        (&["verify", "--body", "x", "-H", "a: b"], "--secret"),
    ] {
        let output = arauto(words).await;
        assert_eq!(output.code, 2, "{words:?}: {output:?}");
        assert!(output.stderr.contains(told), "{told}: {output:?}");
    }
    let output = arauto(&["sign", "--body", "x", "--secret", "env:ARAUTO_NO_SUCH_SECRET"]).await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("reading secret 1: env:ARAUTO_NO_SUCH_SECRET"), "{output:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary directories have readable names")
}
