//! Every scheme against known answers, against an independent verifier, and through a real request.

use std::{fs, sync::Arc, time::Duration};

use arauto::{
    config::{
        secret::{Secret, SigningKey},
        settings::{Breaker, Endpoint, Ordering, Priority, Queue, Retry, Signature},
    },
    dev::receiver::{Options, Receiver, Script},
    http::{Client, Target, guard::Guard},
    pipeline::{
        Event, Headers,
        outcome::AttemptResult,
        request::Template,
        sign::{Signer, verify},
    },
};
use bytes::Bytes;
use data_encoding::BASE64;
use http_types::HeaderMap;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

fn endpoint(signature: Signature, keys: Vec<SigningKey>) -> Endpoint {
    Endpoint {
        id: Arc::from("crm"),
        url: "https://crm.example.com/".parse().unwrap(),
        topics: None,
        types: None,
        tenant: None,
        keys,
        enabled: true,
        paused: false,
        headers: vec![("x-source".to_owned(), Secret::new("shop"))],
        forward: vec!["webhook-id".to_owned(), "x-request-id".to_owned()],
        timeout: Duration::from_secs(20),
        concurrency: 64,
        rate: None,
        burst: 1,
        queue: Queue::Shared,
        ordering: Ordering::None,
        signature,
        priority: Priority::Normal,
        retry: Retry {
            schedule: Vec::new(),
            jitter: 0.0,
            max_age: Duration::from_secs(60),
            max_pause: Duration::from_secs(60),
            dead_on: Vec::new(),
        },
        breaker: Breaker {
            failures: 0.5,
            minimum: 20,
            open_for: Duration::from_secs(30),
            max_open: Duration::from_secs(600),
        },
        disable_after: None,
    }
}

fn key(secret: &str) -> SigningKey {
    let (prefix, text) = secret.split_at(secret.find('_').unwrap() + 1);
    let bytes = BASE64.decode(text.as_bytes()).unwrap();
    match prefix {
        "whsec_" => SigningKey::Hmac(bytes),
        "whsk_" => SigningKey::Ed25519(bytes[..32].try_into().unwrap()),
        _ => panic!("{prefix}"),
    }
}

fn sign(signature: Signature, keys: Vec<SigningKey>, id: &str, time: i64, body: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    Signer::new(&endpoint(signature, keys)).sign(id, time, body, &mut headers);
    headers
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers[name].to_str().unwrap()
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/standard-webhooks.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn known_answers_of_standard_webhooks() {
    let vectors = vectors();
    let rows = vectors["v1"].as_array().unwrap().iter().chain(vectors["v1a"].as_array().unwrap());
    for row in rows {
        let field = |name: &str| row[name].as_str().unwrap();
        let time = row["timestamp"].as_i64().unwrap();
        let keys = vec![key(field("secret"))];
        let headers = sign(Signature::Standard, keys, field("id"), time, field("payload").as_bytes());
        assert_eq!(text(&headers, "webhook-id"), field("id"));
        assert_eq!(text(&headers, "webhook-timestamp"), time.to_string());
        assert_eq!(text(&headers, "webhook-signature"), field("signature"));
        assert!(!vectors["wrong_v1"].as_array().unwrap().contains(&row["signature"]));
    }
}

#[test]
fn every_live_secret_signs_in_its_order() {
    let vectors = vectors();
    let (v1, v1a) = (&vectors["v1"][0], &vectors["v1a"][0]);
    let other = SigningKey::Hmac(vec![1; 32]);
    let keys = vec![key(v1["secret"].as_str().unwrap()), other, key(v1a["secret"].as_str().unwrap())];
    let (id, body) = (v1["id"].as_str().unwrap(), v1["payload"].as_str().unwrap());
    let headers = sign(Signature::Standard, keys, id, v1["timestamp"].as_i64().unwrap(), body.as_bytes());
    let signatures: Vec<&str> = text(&headers, "webhook-signature").split(' ').collect();
    assert_eq!(signatures.len(), 3);
    assert_eq!(Some(signatures[0]), v1["signature"].as_str());
    assert!(signatures[1].starts_with("v1,") && signatures[1] != signatures[0]);
    assert_eq!(Some(signatures[2]), v1a["signature"].as_str());
}

#[test]
fn an_independent_verifier_accepts() {
    let secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];
    let body = r#"{"total": 12.50, "name": "João"}"#.as_bytes();
    let keys = secrets.map(key).to_vec();
    let headers = sign(Signature::Standard, keys, "msg_1", now(), body);
    for secret in secrets {
        let verifier = standardwebhooks::Webhook::new(secret).unwrap();
        verifier.verify(body, &headers).unwrap();
        assert!(verifier.verify(b"{}", &headers).is_err());
    }
    let stranger = standardwebhooks::Webhook::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
    assert!(stranger.verify(body, &headers).is_err());
}

#[test]
fn github_stripe_and_none() {
    // The example of https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries.
    let secret = SigningKey::Hmac(b"It's a Secret to Everybody".to_vec());
    let keys = vec![secret, SigningKey::Hmac(vec![1; 32])];
    let headers = sign(Signature::Github, keys.clone(), "msg_1", 7, b"Hello, World!");
    let expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    assert_eq!(text(&headers, "x-hub-signature-256"), expected);
    assert_eq!((text(&headers, "webhook-id"), headers.len()), ("msg_1", 3));

    // `printf '1614265330.{}' | openssl dgst -sha256 -hmac 'stripe secret'`, and with 'second'.
    let keys = ["stripe secret", "second"].map(|text| SigningKey::Hmac(text.as_bytes().to_vec())).to_vec();
    let headers = sign(Signature::Stripe, keys, "msg_1", 1_614_265_330, b"{}");
    let expected = "t=1614265330,\
        v1=64b59af27c6ecf8bb9f8b4cb5e8b55b243257ac7a5851a6bdf74431a50db8a27,\
        v1=7bd49912edf367eadb03216ca1dac32e433c689f40928af10bbebe427b9d76a8";
    assert_eq!(text(&headers, "stripe-signature"), expected);
    assert_eq!((text(&headers, "webhook-id"), headers.len()), ("msg_1", 3));

    let headers = sign(Signature::None, Vec::new(), "msg_1", 7, b"{}");
    assert_eq!(
        (text(&headers, "webhook-id"), text(&headers, "webhook-timestamp"), headers.len()),
        ("msg_1", "7", 2)
    );
}

#[test]
fn an_id_that_is_no_header_is_signed_as_it_is_sent() {
    let keys = vec![SigningKey::Hmac(vec![1; 32])];
    let headers = sign(Signature::Standard, keys.clone(), "a\r\nb", 7, b"{}");
    assert_eq!(text(&headers, "webhook-id"), "a%0D%0Ab");
    let keys: Vec<verify::Key> = keys.iter().map(verify::Key::from).collect();
    assert_eq!(verify::verify(&keys, &headers, b"{}", 7), Ok(()));
}

/// A whole attempt of every scheme, with bodies no text library would survive, to a receiver that verifies.
#[tokio::test]
async fn bytes_sent_are_bytes_signed() {
    let hmac = SigningKey::Hmac(vec![9; 32]);
    let ed25519 = SigningKey::Ed25519([9; 32]);
    let mut options = Options::new("127.0.0.1:0".parse().unwrap());
    options.keys = [&hmac, &ed25519].map(verify::Key::from).to_vec();
    options.paths.insert("/busy".to_owned(), Script { status: 503, ..Script::default() });
    let (receiver, handle) = Receiver::bind(options).await.unwrap();
    let stop = CancellationToken::new();
    let attempts = async {
        let client = Client::new(Guard::new(&["127.0.0.0/8".parse().unwrap()])).unwrap();
        let schemes = [
            (Signature::Standard, vec![hmac.clone()]),
            (Signature::Standard, vec![ed25519.clone()]),
            (Signature::Standard, vec![SigningKey::Hmac(vec![8; 32]), hmac.clone()]),
            (Signature::Github, vec![hmac.clone()]),
            (Signature::Stripe, vec![hmac.clone()]),
        ];
        for (signature, keys) in schemes {
            for body in [&b""[..], b" {\"a\" : 1}\n", b"\xff\x00\x80", &[b'x'; 1_000_000]] {
                send(&client, &handle.url("/ok"), &endpoint(signature, keys.clone()), body, 200).await;
            }
        }
        let wrong = endpoint(Signature::Standard, vec![SigningKey::Hmac(vec![8; 32])]);
        send(&client, &handle.url("/busy"), &wrong, b"{}", 503).await;
        let unsigned = endpoint(Signature::None, Vec::new());
        send(&client, &handle.url("/busy"), &unsigned, b"{}", 503).await;
        stop.cancel();
    };
    let (served, ()) = tokio::join!(receiver.run(stop.clone()), attempts);
    served.unwrap();
    let stats = handle.stats();
    assert_eq!((stats.received, stats.verified, stats.failed_verification), (22, 20, 2));
    // One id, on two paths: nineteen came after it had been accepted on the first.
    assert_eq!((stats.unique, stats.duplicates), (2, 19));
    assert_eq!(stats.answered.into_iter().collect::<Vec<_>>(), [(200, 20), (503, 2)]);
    for received in handle.last() {
        assert_eq!(received.header("x-request-id"), "r1");
        assert_eq!((received.id(), received.header("arauto-attempt")), ("msg_1", "1"));
        assert_eq!(received.header("x-source"), "shop");
    }
}

async fn send(client: &Client, url: &str, endpoint: &Endpoint, body: &[u8], status: u16) {
    let header =
        |name: &str, value: &'static str| (Arc::from(name), Some(Bytes::from_static(value.as_bytes())));
    let event = Event {
        topic: "orders".into(),
        partition: 0,
        offset: 0,
        timestamp: 0,
        key: None,
        value: Some(Bytes::copy_from_slice(body)),
        headers: Headers(vec![header("x-request-id", "r1"), header("webhook-id", "forged")]),
        id: "msg_1".into(),
        event_type: "order.created".into(),
        tenant: None,
        priority: None,
        notice: false,
    };
    let mut headers = Template::new(endpoint).unwrap().headers(&event, 1);
    let body = event.value.unwrap();
    Signer::new(endpoint).sign(&event.id, now(), &body, &mut headers);
    let target = Target::new(&url.parse().unwrap(), endpoint.timeout).unwrap();
    let attempt = client.attempt(&target, headers, body).await;
    assert_eq!(attempt.result, AttemptResult::Status(status), "{attempt:?}");
}
