//! No record, however odd, stops its partition: it is delivered byte for byte or counted, and so is what comes
//! after it.

use crate::support::{
    PATIENCE, Rig,
    arauto::Arauto,
    config::Endpoint,
    hook::{Hook, Request},
    now_ms,
    records::NewRecord,
    until,
};

/// Values that some parser, buffer or length might stumble over.
fn odd_values() -> Vec<Vec<u8>> {
    let every_byte: Vec<u8> = (0..=255).collect();
    let repeated = |text: &str, times: usize| text.repeat(times).into_bytes();
    vec![
        Vec::new(),
        vec![0],
        every_byte.repeat(40),
        vec![0xff; 1_000_000],
        b"{\"type\":".to_vec(),
        b"{\"type\": 1e999999}".to_vec(),
        b"\xef\xbb\xbf{\"type\": \"a\"}".to_vec(),
        b"{\"type\": \"\\ud800\\r\\nx: y\"}".to_vec(),
        repeated("[", 100_000),
        [repeated("[", 100_000), repeated("]", 100_000)].concat(),
        [repeated("{\"type\":", 100_000), b"1".to_vec(), repeated("}", 100_000)].concat(),
        [b"{\"type\": \"".to_vec(), repeated("x", 200_000), b"\"}".to_vec()].concat(),
    ]
}

/// Records whose headers, keys or timestamps are odd; the value tells them apart.
fn odd_records(topic: &str) -> Vec<NewRecord> {
    let new = |value: &str| NewRecord::new(topic, value);
    let many = (0..1_000).fold(new("many"), |record, n| record.header(&format!("h{}", n % 700), "v"));
    let illegal = new("illegal in HTTP")
        .header("content-type", "text/plain\r\nx-smuggled: 1")
        .header("traceparent", [0, 255, 10])
        .header("tracestate", "x".repeat(100_000))
        .header("ce_type", "a\r\nb: c\u{1F98A}")
        .header("tenant", [0xff, 0xfe])
        .header("x-forwarded", "a\nb");
    vec![
        many,
        new("large header").header("large", "x".repeat(500_000)),
        new("long name").header(&"n".repeat(30_000), "v"),
        new("null").null_header("null").null_header("content-type").null_header("ce_type"),
        new("repeated").header("a", "1").header("a", "2").null_header("a").header("A", "3"),
        new("binary").header("binary", (0..=255).collect::<Vec<u8>>()),
        new("empty name").header("", "v").null_header(""),
        new("empty values").header("ce_id", "").header("ce_source", "").header("ce_type", ""),
        new("odd id").header("ce_id", "\u{0}\r\n.ü").header("ce_source", "\u{0}"),
        new("ours")
            .header("arauto-id", "forged")
            .header("arauto-endpoint", "other")
            .null_header("arauto-due"),
        new("long key").key(vec![0xff; 100_000]),
        new("empty key").key(""),
        new("before 1970").timestamp(0),
        new("future").timestamp(now_ms() + 1_800_000),
        illegal,
    ]
}

fn is_proper(request: &Request) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=64).contains(&request.id.len())
        && request.id.chars().all(plain)
        && request.id != "forged"
        && request.header("x-smuggled").is_none()
        && request.headers.contains_key("webhook-signature")
}

/// Sends everything odd, each followed by an ordinary event, to an endpoint that fails the first `failures` times.
async fn everything_odd_gets_through(failures: usize) {
    let rig = Rig::new("poison", 1).await;
    let hook = Hook::failing_first(failures, 503).await;
    // Longer than `hold`: a retry goes through a tier.
    let endpoint = Endpoint::new("shop", &hook.url())
        .set("retry.schedule", vec!["2s", "2s"])
        .set("forward", vec!["x-forwarded"]);
    let file = rig.config().set("limits.prefetch", "64KiB").endpoint(endpoint).write();
    let odd = odd_values()
        .into_iter()
        .map(|value| NewRecord::new(&rig.topic, value))
        .chain(odd_records(&rig.topic));
    let mut records = Vec::new();
    for (n, record) in odd.enumerate() {
        records.extend([
            record,
            NewRecord::tombstone(&rig.topic),
            NewRecord::new(&rig.topic, format!("after {n}")),
        ]);
    }
    let tombstones = records.len() / 3;
    let events = records.len() - tombstones;
    rig.cluster.produce(&records).await;
    let mut arauto = Arauto::run(&file.path()).await;
    hook.wait_for(events, PATIENCE).await;
    until(PATIENCE, "no lag", async || rig.cluster.lag(&rig.group, &rig.topic).await == 0).await;
    let metrics = arauto.metrics().await;
    let unmatched = |reason| metrics.sum("arauto_events_unmatched_total", &[("reason", reason)]) as usize;
    assert_eq!((unmatched("tombstone"), unmatched("no_endpoint")), (tombstones, 0));
    assert_eq!(metrics.sum("arauto_tickets_lost_total", &[]) as usize, 0);
    assert_eq!(metrics.sum("arauto_dead_total", &[]) as usize, 0);
    assert_eq!(arauto.stop().await, 0);

    let requests = hook.requests();
    let odd_one = requests.iter().find(|request| !is_proper(request));
    assert!(odd_one.is_none(), "{odd_one:?}");
    assert_eq!(requests.len(), events * (failures + 1));
    let mut sent: Vec<&[u8]> = records.iter().filter_map(|record| record.value.as_deref()).collect();
    let mut got: Vec<&[u8]> = requests.iter().filter(|r| r.accepted()).map(|r| &r.body[..]).collect();
    sent.sort_unstable();
    got.sort_unstable();
    // Not assert_eq!, which would print megabytes.
    assert!(sent == got, "every body arrives as it was sent, once");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_events_are_delivered_as_they_are() {
    everything_odd_gets_through(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_events_go_through_retry_topics_as_they_are() {
    everything_odd_gets_through(2).await;
}
