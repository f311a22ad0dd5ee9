//! `dlq list` finds exactly the letters that are meant: by each filter alone and by several together, on a topic where
//! every reason is.

use serde_json::{Value, json};

use crate::support::{
    Rig,
    cluster::End,
    command::{Output, arauto},
    config::ConfigFile,
    letters::{Letter, REASONS},
    records::NewRecord,
};

/// When the first letter died; each died a minute after the one before.
const FIRST: i64 = 1_700_000_000_000;
const MINUTE: i64 = 60_000;

/// A topic of three partitions with a letter for every reason, and one of somebody else.
///
/// Letter `n` has the id `msg_<n>`, the `n`th reason, and is in partition `n % 3`. The even ones are of `crm`, the odd of
/// `shop-<n % 4>`; every third has no status, the others 404 or 503; value, type, tenant and source follow from `n` too.
struct Letters {
    rig: Rig,
    config: ConfigFile,
}

impl Letters {
    async fn new(name: &str) -> Self {
        let rig = Rig::new(name, 1).await;
        let config = rig
            .config()
            .set("events.type", vec!["header:type", "json:/type"])
            .set("events.tenant", vec!["json:/tenant"])
            .write();
        rig.cluster.create_topic(&rig.dead(), 3, &[("retention.ms", "-1")]).await;
        let records: Vec<_> = (0..REASONS.len()).map(|n| letter(&rig.dead(), n).record()).collect();
        rig.cluster.produce(&records).await;
        let junk = NewRecord::new(&rig.dead(), "junk").partition(0).timestamp(FIRST + 30 * MINUTE);
        rig.cluster.produce(&[junk]).await;
        Self { rig, config }
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let config = self.config.path();
        let fixed = ["dlq", "--config", config.to_str().unwrap()];
        arauto(&[&fixed, arguments].concat()).await
    }

    /// The numbers of the letters that flags find.
    async fn found(&self, flags: &[&str]) -> Vec<usize> {
        let output = self.run(&[&["list", "--json"], flags].concat()).await;
        assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{flags:?}: {output:?}");
        numbers(&output)
    }
}

fn letter(dead: &str, n: usize) -> Letter {
    let endpoint = if n.is_multiple_of(2) { "crm".to_owned() } else { format!("shop-{}", n % 4) };
    let tenant = if n < 11 { "acme" } else { "umbrella" };
    let value = json!({ "type": "order.paid", "tenant": tenant, "amount": n, "lines": [{ "sku": n % 5 }] });
    let letter = Letter::new(dead, &format!("msg_{n}"))
        .with("arauto-endpoint", &endpoint)
        .with("arauto-reason", &REASONS[n])
        .with("arauto-source-topic", &if n < 18 { "orders" } else { "payments-eu" })
        .with("arauto-source-offset", &(100 + n))
        .value(if n == 20 { b"\xff not JSON".to_vec() } else { value.to_string().into_bytes() })
        .partition(i32::try_from(n % 3).unwrap())
        .died(FIRST + i64::try_from(n).unwrap() * MINUTE);
    let letter = if n == 5 { letter.header("type", "order.refunded").header("region", "eu") } else { letter };
    match n % 3 {
        0 => letter,
        1 => letter.with("arauto-status", &404),
        _ => letter.with("arauto-status", &503),
    }
}

fn numbers(output: &Output) -> Vec<usize> {
    let number = |line: &Value| line["id"].as_str()?.strip_prefix("msg_")?.parse().ok();
    let mut numbers: Vec<usize> = output.json_lines().iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

fn those(is_meant: impl Fn(usize) -> bool) -> Vec<usize> {
    (0..REASONS.len()).filter(|n| is_meant(*n)).collect()
}

#[tokio::test]
async fn each_filter_alone() {
    let letters = Letters::new("dlq-filters-alone").await;
    let check = async |flags: &[&str], expected: Vec<usize>| {
        assert_eq!(letters.found(flags).await, expected, "{flags:?}");
    };
    check(&[], those(|_| true)).await;
    for (n, reason) in REASONS.iter().enumerate().filter(|(n, _)| n % 5 == 0) {
        check(&["--reason", reason], vec![n]).await;
    }
    check(&["--endpoint", "crm"], those(|n| n % 2 == 0)).await;
    check(&["--endpoint", "shop-*"], those(|n| n % 2 == 1)).await;
    check(&["--endpoint", "shop-1", "--endpoint", "shop-3"], those(|n| n % 2 == 1)).await;
    check(&["--status", "503"], those(|n| n % 3 == 2)).await;
    check(&["--status", "4xx"], those(|n| n % 3 == 1)).await;
    check(&["--type", "order.refunded"], vec![5]).await;
    check(&["--type", "order.p*"], those(|n| n != 5 && n != 20)).await;
    check(&["--topic", "orders"], those(|n| n < 18)).await;
    check(&["--topic", "payments-*"], those(|n| n >= 18)).await;
    check(&["--tenant", "acme"], those(|n| n < 11)).await;
    check(&["--id", "msg_3", "--id", "msg_17"], vec![3, 17]).await;
    check(&["--since", "2023-11-14T22:23:20Z"], those(|n| n >= 10)).await;
    check(&["--until", "1700000600"], those(|n| n < 10)).await;
    check(&["--partition", "1"], those(|n| n % 3 == 1)).await;
    check(&["--offset", "2"], those(|n| n / 3 == 2)).await;
    check(&["--offset", "1-2", "--offset", "6-"], those(|n| [1, 2, 6, 7].contains(&(n / 3)))).await;
    check(&["--where", "has(headers.region) && headers.region == 'eu'"], vec![5]).await;
    check(&["--where", "status == 0 && attempts == 8"], those(|n| n % 3 == 0)).await;
}

#[tokio::test]
async fn filters_combine() {
    let letters = Letters::new("dlq-filters-together").await;
    let check = async |flags: &str, expected: Vec<usize>| {
        let flags: Vec<&str> = flags.split_whitespace().collect();
        assert_eq!(letters.found(&flags).await, expected, "{flags:?}");
    };
    check("--endpoint crm --status 503", those(|n| n % 6 == 2)).await;
    check("--tenant acme --topic orders --partition 0", those(|n| n < 11 && n % 3 == 0)).await;
    check("--since 2023-11-14T22:18:20Z --until 2023-11-14T22:25:20Z", those(|n| (5..12).contains(&n))).await;
    check("--reason gone --reason tls --reason auth --endpoint shop-3", vec![3]).await;
    check("--since 2023-11-14T22:18:20Z --partition 2 --offset 1-3 --status 5xx", vec![5, 8, 11]).await;
    check("--endpoint crm --where value!=null&&value.lines.exists(l,l.sku==4)", vec![4, 14]).await;
    check("--endpoint crm --endpoint shop-* --type order.* --id msg_8", vec![8]).await;
    check("--endpoint crm --id msg_3", vec![]).await;
}

#[tokio::test]
async fn an_expression_that_fails_does_not_match_and_that_is_said() {
    let letters = Letters::new("dlq-filters-where").await;
    let output = letters.run(&["list", "--json", "--where", "value.amount >= 19"]).await;
    assert_eq!((output.code, numbers(&output)), (0, vec![19, 21]), "{output:?}");
    // One that is no JSON, and somebody else's.
    assert!(
        output.stderr.contains("--where failed on 2 letters, which did not match; the first is "),
        "{output:?}"
    );

    let output = letters.run(&["list", "--where", "values.amount >= 19"]).await;
    assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{output:?}");
    assert!(
        output.stderr.contains(r#"there is no variable "values"; there are value, headers"#),
        "{output:?}"
    );
}

#[tokio::test]
async fn the_newest_are_shown_first_and_the_limit_keeps_them() {
    let letters = Letters::new("dlq-filters-order").await;
    let ids = async |flags: &[&str]| -> Vec<String> {
        let output = letters.run(&[&["list", "--json", "--endpoint", "*"], flags].concat()).await;
        output.json_lines().iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&["--limit", "3"]).await, ["msg_21", "msg_20", "msg_19"]);
    assert_eq!(ids(&["--limit", "3", "--oldest-first"]).await, ["msg_0", "msg_1", "msg_2"]);
    assert_eq!(ids(&["--oldest-first"]).await.len(), REASONS.len());

    let output = letters.run(&["list", "--limit", "2"]).await;
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert!(lines[0].starts_with("DIED                  ID "), "{output:?}");
    // Somebody else's record is a letter as well, of which little is known.
    assert!(lines[1].starts_with("2023-11-14T22:43:20Z  -  "), "{output:?}");
    let cells: Vec<&str> = lines[2].split_whitespace().collect();
    let expected = [
        "2023-11-14T22:34:20Z",
        "msg_21",
        "shop-1",
        "order.paid",
        "too_large",
        "-",
        "8",
        "payments-eu:0:121",
        "0:7",
    ];
    assert_eq!(cells, expected);
    assert_eq!(lines[3..], ["and 21 older ones (--limit)"]);
}

#[tokio::test]
async fn the_summary_counts_by_endpoint_reason_and_status() {
    let letters = Letters::new("dlq-filters-summary").await;
    let more: Vec<_> = (0..5).map(|_| letter(&letters.rig.dead(), 2).record()).collect();
    letters.rig.cluster.produce(&more).await;
    let summary = letters.run(&["list", "--summary", "--json", "--endpoint", "crm"]).await.json();
    assert_eq!(summary["letters"], 16);
    let kinds = summary["kinds"].as_array().unwrap();
    assert_eq!(kinds.len(), 11);
    let first = &kinds[0];
    let expected = json!({
        "endpoint": "crm", "reason": REASONS[2], "status": 503, "letters": 6,
        "first": FIRST + 2 * MINUTE, "last": FIRST + 2 * MINUTE, "spread": first["spread"],
    });
    assert_eq!(*first, expected);
    assert_eq!(first["spread"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>(), 6);

    let output = letters.run(&["list", "--summary", "--endpoint", "crm"]).await;
    let line = output.stdout.lines().nth(1).unwrap();
    let cells: Vec<&str> = line.split_whitespace().take(6).collect();
    let died = "2023-11-14T22:15:20Z";
    assert_eq!(cells, ["crm", REASONS[2], "503", "6", died, died]);
    assert!(line.contains('█'), "{line}");
    assert!(output.stdout.contains("\n16 letters; over time: from 2023-11-14T22:"), "{output:?}");
}

/// Offsets are used up by the ends of transactions and by aborted ones; a reader that waited for a record there would
/// wait for ever.
#[tokio::test]
async fn transactions_do_not_stop_it() {
    let letters = Letters::new("dlq-filters-holes").await;
    let record = |id: &str, partition| [Letter::new(&letters.rig.dead(), id).partition(partition).record()];
    for partition in 0..3 {
        letters.rig.cluster.produce_in_transaction(&record("msg_90", partition), End::Abort).await;
    }
    letters.rig.cluster.produce_in_transaction(&record("msg_91", 1), End::Commit).await;
    letters.rig.cluster.produce_in_transaction(&record("msg_92", 2), End::Abort).await;
    let found = letters.found(&[]).await;
    assert_eq!(found, (0..REASONS.len()).chain([91]).collect::<Vec<_>>());
    // Nothing but what was aborted: the end of the stretch is all there is to see.
    let (_, end) = letters.rig.cluster.watermarks(&letters.rig.dead(), 2).await;
    let from = format!("{}-", end - 2);
    assert_eq!(letters.found(&["--partition", "2", "--offset", &from]).await, Vec::<usize>::new());
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let rig = Rig::new("dlq-filters-none", 1).await;
    let config = rig.config().write();
    let run = async |flags: &[&str]| {
        arauto(&[&["dlq", "list", "--config", config.path().to_str().unwrap()], flags].concat()).await
    };
    let output = run(&[]).await;
    assert_eq!(output.code, 1);
    let expected = format!("there is no topic {} (topics.prefix)", rig.dead());
    assert!(output.stderr.contains(&expected), "{output:?}");
    rig.cluster.create_topic(&rig.dead(), 2, &[]).await;
    let output = run(&[]).await;
    assert_eq!((output.code, output.stdout.as_str()), (0, "no dead letters\n"), "{output:?}");
    let output = run(&["--partition", "2"]).await;
    assert!(output.stderr.contains("has no partition 2, only 0 to 1 (--partition)"), "{output:?}");
}
