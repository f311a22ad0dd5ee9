//! What `dlq export` writes, `dlq import` makes again, byte for byte: keys, values and headers, whatever is in them.

use std::path::Path;

use crate::support::{
    Rig,
    command::{Output, arauto, arauto_reading},
    config::ConfigFile,
    letters::Letter,
    records::{NewRecord, Record},
};

/// A rig with letters of every shape.
async fn rig(name: &str) -> (Rig, ConfigFile) {
    let rig = Rig::new(name, 1).await;
    let dead = rig.dead();
    rig.cluster.create_topic(&dead, 2, &[]).await;
    let letter = |n: usize| Letter::new(&dead, &format!("msg_{n}")).partition(0);
    let every_byte: Vec<u8> = (0..=255).collect();
    let noise: Vec<u8> = (0..900_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let values = [
        every_byte.clone(),
        noise,
        format!("{{\"pad\":\"{}\"}}", "x".repeat(900_000)).into_bytes(),
        br#"{"b":1.0,"a":[1e2,"\u00e9\/"],"a":null}"#.to_vec(),
        b"{ \"blank\" : 1 }\n".to_vec(),
        b"null".to_vec(),
        b"".to_vec(),
        "text, \u{2028} \u{feff}\u{0} é".as_bytes().to_vec(),
    ];
    let mut records: Vec<_> =
        values.into_iter().zip(0..).map(|(value, n)| letter(n).value(value).record()).collect();
    let odd =
        letter(20).header("bin", every_byte).header("", "no name").header("twice", "a").header("twice", "");
    records.push(odd.record().null_header("null"));
    records.push(NewRecord::tombstone(&dead).partition(1).key([0, 255]));
    records.push(NewRecord::new(&dead, "no key").partition(1).null_header("arauto-id"));
    rig.cluster.produce(&records).await;
    let config = rig.config().write();
    (rig, config)
}

async fn run(config: &ConfigFile, arguments: &[&str], stdin: &str) -> Output {
    let path = config.path();
    arauto_reading(&[&["dlq", "--config", path.to_str().unwrap()], arguments].concat(), stdin).await
}

/// Key, value and headers.
type Bytes = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

/// What a letter is made of; the partition follows from the key, so their order among partitions is not kept.
fn bytes(records: Vec<Record>) -> Vec<Bytes> {
    let mut all: Vec<_> =
        records.into_iter().map(|record| (record.key, record.value, record.headers)).collect();
    all.sort();
    all
}

async fn empty(rig: &Rig, config: &ConfigFile) {
    let output = run(config, &["purge", "--everything", "--force", "--yes"], "").await;
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(rig.cluster.read(&rig.dead()).await, []);
}

#[tokio::test]
async fn every_byte_comes_back() {
    let (rig, config) = rig("dlq-round-trip").await;
    let before = bytes(rig.cluster.read(&rig.dead()).await);
    assert_eq!(before.len(), 11);
    let file = config.dir().join("letters.jsonl");
    let file = text(&file);

    let output = run(&config, &["export", "--output", file], "").await;
    assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{output:?}");
    assert_eq!(output.stdout, format!("11 letters exported to {file}\n"));
    let again = run(&config, &["export", "--output", file], "").await;
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("is there already; name a new file (--output)"), "{again:?}");

    empty(&rig, &config).await;
    let output = run(&config, &["import", file], "").await;
    assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{output:?}");
    assert_eq!(output.stdout, format!("11 letters put on {}\n", rig.dead()));
    assert!(bytes(rig.cluster.read(&rig.dead()).await) == before, "the letters are not what they were");

    // The same through pipes.
    let exported = run(&config, &["export"], "").await;
    empty(&rig, &config).await;
    let imported = run(&config, &["--json", "import", "-"], &exported.stdout).await;
    assert_eq!((imported.code, &imported.json()["imported"]), (0, &11.into()), "{imported:?}");
    assert!(bytes(rig.cluster.read(&rig.dead()).await) == before, "the letters are not what they were");
}

#[tokio::test]
async fn an_export_has_what_the_filter_lets_through_in_order() {
    let (_rig, config) = rig("dlq-export-filter").await;
    let output = run(&config, &["export", "--id", "msg_3", "--id", "msg_5", "--id", "msg_0"], "").await;
    let lines = output.json_lines();
    let offsets: Vec<_> = lines.iter().map(|line| line["offset"].as_i64().unwrap()).collect();
    assert_eq!(offsets, [0, 3, 5]);
    assert!(
        output.stdout.contains(r#""value":{"json":{"b":1.0,"a":[1e2,"\u00e9\/"],"a":null}}"#),
        "{output:?}"
    );
    assert!(lines[2]["value"]["json"].is_null() && lines[0]["value"]["base64"].is_string());
}

#[tokio::test]
async fn a_file_with_a_mistake_changes_nothing() {
    let (rig, config) = rig("dlq-import-mistake").await;
    let exported = run(&config, &["export", "--id", "msg_3", "--id", "msg_5"], "").await.stdout;
    let file = config.dir().join("mistake.jsonl");
    std::fs::write(&file, format!("{exported}\n{{\"v\":1}}\n")).unwrap();
    let before = rig.cluster.read(&rig.dead()).await.len();
    let output = run(&config, &["import", text(&file)], "").await;
    assert_eq!(output.code, 2, "{output:?}");
    let expected = format!("{}:4: it is no exported letter: missing field", file.display());
    assert!(output.stderr.contains(&expected), "{output:?}");
    assert_eq!(rig.cluster.read(&rig.dead()).await.len(), before);

    // Standard input cannot be read twice: it is said how far it came.
    let output = run(&config, &["import", "-"], &format!("{exported}junk\n")).await;
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("2 letters were imported before it: -:3: "), "{output:?}");
    assert_eq!(rig.cluster.read(&rig.dead()).await.len(), before + 2);

    let output = run(&config, &["import", text(&file), "--from-line", "2"], "").await;
    assert_eq!(output.code, 2, "the mistake is still in it: {output:?}");
    std::fs::write(&file, &exported).unwrap();
    let output = run(&config, &["import", text(&file), "--from-line", "2"], "").await;
    assert_eq!((output.code, output.stdout), (0, format!("1 letter put on {}\n", rig.dead())));

    let missing = arauto(&["dlq", "--config", text(&config.path()), "import", "/nowhere/letters"]).await;
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.contains("/nowhere/letters cannot be read: "), "{missing:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary directories have readable names")
}
