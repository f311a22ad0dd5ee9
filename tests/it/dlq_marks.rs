//! Which letters were taken is kept apart for each replay, and forgotten when the letters are.

use std::collections::BTreeSet;

use crate::support::{
    Rig,
    command::arauto,
    config::{ConfigFile, Endpoint},
    letters::{make_topics, numbered},
};

async fn replay(config: &ConfigFile, more: &[&str]) -> (u64, u64) {
    let path = config.path();
    let arguments = ["dlq", "replay", "--json", "--yes", "--config", path.to_str().unwrap()];
    let output = arauto(&[&arguments, more].concat()).await;
    assert_eq!(output.code, 0, "{output:?}");
    let count = |name: &str| output.json()[name].as_u64().unwrap();
    (count("replayed"), count("taken"))
}

/// The keys about replays that the compacted state topic would still have.
async fn keys(rig: &Rig) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for record in rig.cluster.read(&rig.state()).await {
        let key = String::from_utf8(record.key.expect("a key")).unwrap();
        match record.value {
            Some(_) => keys.insert(key),
            None => keys.remove(&key),
        };
    }
    keys.retain(|key| key.starts_with("taken/") || key.starts_with("replay/"));
    keys
}

fn set(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_of_several_replays_stand_side_by_side_and_are_forgotten_with_the_letters() {
    let rig = Rig::new("marks", 1).await;
    let endpoint = |id| Endpoint::new(id, "http://127.0.0.1:1/");
    let config = rig.config().endpoint(endpoint("crm")).endpoint(endpoint("erp")).write();
    make_topics(&config).await;
    // By turns, in one partition: more than one bucket of 4,096 offsets.
    let letters = |numbers: std::ops::Range<usize>| -> Vec<_> {
        numbers
            .map(|number| numbered(&rig, if number % 2 == 0 { "crm" } else { "erp" }, number).record())
            .collect()
    };
    rig.cluster.produce(&letters(0..4_200)).await;
    assert_eq!(replay(&config, &["--name", "a", "--endpoint", "crm"]).await, (2_100, 0));
    assert_eq!(
        replay(&config, &["--name", "b", "--endpoint", "erp", "--offset", "0-2099"]).await,
        (1_050, 0)
    );
    assert_eq!(replay(&config, &["--name", "c", "--dry-run"]).await, (1_050, 3_150));
    assert_eq!(keys(&rig).await, set(&["replay/a", "replay/b", "taken/0/0/a", "taken/0/0/b", "taken/0/1/a"]));

    // Retention cuts the front; what is left of it is as it was.
    rig.cluster.delete_records(&rig.dead(), 0, 4_100).await;
    rig.cluster.produce(&letters(4_200..4_210)).await;
    assert_eq!(replay(&config, &["--name", "d"]).await, (5 + 50 + 5, 50));
    assert_eq!(keys(&rig).await, set(&["replay/a", "replay/d", "taken/0/1/a", "taken/0/1/d"]));
    assert_eq!(replay(&config, &["--name", "e"]).await, (0, 110));

    rig.cluster.delete_records(&rig.dead(), 0, 4_210).await;
    rig.cluster.produce(&letters(4_210..4_220)).await;
    assert_eq!(replay(&config, &["--name", "f"]).await, (10, 0));
    assert_eq!(keys(&rig).await, set(&["replay/f", "taken/0/1/a", "taken/0/1/d", "taken/0/1/f"]));
}
