//! `dlq purge` removes exactly what lies before the point, and nothing that was never replayed unless it is told to.

use serde_json::json;

use crate::support::{
    Rig,
    command::{Output, arauto},
    config::ConfigFile,
    letters::Letter,
    now_ms,
    records::NewRecord,
};

const FIRST: i64 = 1_700_000_000_000;

/// Two partitions with ten letters each, a minute apart; those of partition 0 below `replayed` were replayed.
async fn rig(name: &str, replayed: i64) -> (Rig, ConfigFile) {
    let rig = Rig::new(name, 1).await;
    rig.cluster.create_topic(&rig.dead(), 2, &[("retention.ms", "-1")]).await;
    rig.cluster.create_topic(&rig.state(), 1, &[("cleanup.policy", "compact")]).await;
    let letter = |n: i64| {
        let at = FIRST + n / 2 * 60_000;
        Letter::new(&rig.dead(), &format!("msg_{n}")).partition((n % 2) as i32).died(at).record()
    };
    let letters: Vec<_> = (0..20).map(letter).collect();
    rig.cluster.produce(&letters).await;
    if replayed > 0 {
        let taken = json!({ "v": 1, "taken": [[now_ms(), 0, replayed]] });
        let mark = NewRecord::new(&rig.state(), taken.to_string()).key("taken/0/0/night-1");
        rig.cluster.produce(&[mark]).await;
    }
    let config = rig.config().write();
    (rig, config)
}

async fn run(config: &ConfigFile, arguments: &[&str]) -> Output {
    let path = config.path();
    arauto(&[&["dlq", "--config", path.to_str().unwrap()], arguments].concat()).await
}

async fn firsts(rig: &Rig) -> (i64, i64) {
    (rig.cluster.watermarks(&rig.dead(), 0).await.0, rig.cluster.watermarks(&rig.dead(), 1).await.0)
}

#[tokio::test]
async fn up_to_a_time_an_offset_or_all() {
    let (rig, config) = rig("dlq-purge-points", 0).await;
    let purge = async |point: &[&str]| {
        let output = run(&config, &[&["purge", "--force", "--yes"], point].concat()).await;
        assert_eq!(output.code, 0, "{output:?}");
        (output.stdout.lines().last().unwrap().to_owned(), firsts(&rig).await)
    };
    assert_eq!(
        purge(&["--before", "2023-11-14T22:13:20Z"]).await,
        ("there is nothing to remove".to_owned(), (0, 0))
    );
    assert_eq!(purge(&["--before", "2023-11-14T22:15:20Z"]).await, ("4 letters removed".to_owned(), (2, 2)));
    assert_eq!(purge(&["--up-to", "1:4"]).await, ("3 letters removed".to_owned(), (2, 5)));
    assert_eq!(
        purge(&["--before", "1h", "--partition", "0"]).await,
        ("8 letters removed".to_owned(), (10, 5))
    );
    assert_eq!(purge(&["--everything"]).await, ("5 letters removed".to_owned(), (10, 10)));
    assert_eq!(purge(&["--everything"]).await, ("there is nothing to remove".to_owned(), (10, 10)));
}

#[tokio::test]
async fn what_was_never_replayed_stays() {
    let (rig, config) = rig("dlq-purge-replayed", 4).await;
    let output = run(&config, &["purge", "--up-to", "0:4", "--yes"]).await;
    assert_eq!(output.code, 1, "{output:?}");
    let expected =
        "nothing was removed: 1 of 5 letters never replayed; export them (arauto dlq export) and add --force";
    assert!(output.stderr.contains(expected), "{output:?}");
    let row: Vec<&str> = output.stdout.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["0", "5", "5", "1", "2023-11-14T22:13:20Z", "2023-11-14T22:17:20Z"]);
    assert_eq!(firsts(&rig).await, (0, 0));

    let output = run(&config, &["purge", "--up-to", "0:3", "--yes", "--json"]).await;
    let expected = json!({ "removed": true, "partitions": [{
        "partition": 0, "before": 4, "letters": 4, "never_replayed": 0, "first": FIRST, "last": FIRST + 180_000,
    }]});
    assert_eq!((output.code, output.json()), (0, expected));
    assert_eq!(firsts(&rig).await, (4, 0));
}

#[tokio::test]
async fn nobody_to_ask_is_no_yes() {
    let (rig, config) = rig("dlq-purge-ask", 4).await;
    let output = run(&config, &["purge", "--up-to", "0:3"]).await;
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("nobody can be asked without a terminal; add --yes"), "{output:?}");
    assert_eq!(firsts(&rig).await, (0, 0));
    for point in [&[][..], &["--everything", "--before", "1h"], &["--up-to", "0"], &["--before", "sometime"]]
    {
        let output = run(&config, &[&["purge", "--yes"], point].concat()).await;
        assert_eq!(output.code, 2, "{point:?}: {output:?}");
    }
}

/// The list leaves out what was replayed, and says when and by whom if it is asked to show it.
#[tokio::test]
async fn replayed_letters_are_left_out_of_the_list() {
    let (_rig, config) = rig("dlq-list-replayed", 4).await;
    let output = run(&config, &["list", "--json"]).await;
    assert_eq!(output.json_lines().len(), 16, "{output:?}");
    let output = run(&config, &["list", "--json", "--all", "--partition", "0"]).await;
    let by: Vec<_> = output.json_lines().iter().map(|line| line["replayed"]["by"].clone()).collect();
    assert_eq!(by.iter().filter(|by| **by == "night-1").count(), 4, "{by:?}");
    assert_eq!((by[3].as_str(), by[4].as_str()), (Some("night-1"), None));
    let output = run(&config, &["list"]).await;
    assert!(output.stdout.ends_with("4 more were replayed (--all shows them)\n"), "{output:?}");
    let output = run(&config, &["list", "--all", "--id", "msg_0"]).await;
    assert!(output.stdout.lines().nth(1).unwrap().ends_with(" by night-1"), "{output:?}");
    let output = run(&config, &["list", "--summary", "--json"]).await;
    assert_eq!(output.json()["letters"], 16);

    let output = run(&config, &["show", "0:3"]).await;
    assert!(
        output.stdout.contains("\nreplayed    ") && output.stdout.contains(" by night-1\n"),
        "{output:?}"
    );
    assert!(!run(&config, &["show", "0:4"]).await.stdout.contains("night-1"));
}
