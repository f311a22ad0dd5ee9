//! What `<prefix>.state` says: who owns the prefix, where each source topic began, which partitions were begun, which
//! endpoints have queues of their own.
//!
//! Pure. The topic is compacted, so of several records with one key only the last may be left: start records merge by
//! the lower offset and the owner by who was first, and whoever reads a record that says less writes the whole again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

/// The version of the records written here; a reader takes any version and the fields it knows.
const VERSION: u32 = 1;

/// The content of the state topic.
#[derive(Debug, Default, Clone)]
pub struct State {
    owner: Option<String>,
    starts: HashMap<String, BTreeMap<i32, i64>>,
    begun: HashSet<String>,
    queues: HashMap<String, Queue>,
}

/// Topic → partition → offset.
pub type Offsets = BTreeMap<String, BTreeMap<i32, i64>>;

/// The last that is known of the queue an endpoint has, or had, of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Does its own group deliver to it?
    pub own: bool,
    /// The topics whose partitions its group has a position on, or begins at their start records.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub topics: BTreeSet<String>,
    /// If it gave the queue up: the main group delivers from there on, its own group has delivered what is below.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub from: Offsets,
}

/// A record of the state topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Owner {
    v: u32,
    group: String,
}

#[derive(Serialize, Deserialize)]
struct Start {
    v: u32,
    offsets: BTreeMap<i32, i64>,
}

#[derive(Serialize, Deserialize)]
struct Begun {
    v: u32,
}

#[derive(Serialize)]
struct QueueRecord<'a> {
    v: u32,
    #[serde(flatten)]
    queue: &'a Queue,
}

impl State {
    /// Takes in one record; returns what has to be written again because another writer said less.
    /// Records that cannot be read are left alone: they may be of a later release.
    pub fn apply(&mut self, key: &str, value: Option<&[u8]>) -> Option<Entry> {
        match (key.split_once('/'), value) {
            (None, Some(value)) if key == "owner" => self.apply_owner(value),
            (Some(("start", topic)), Some(value)) => self.apply_start(topic, value),
            (Some(("start", topic)), None) => {
                self.starts.remove(topic);
                None
            }
            (Some(("begun", partition)), Some(_)) => {
                self.begun.insert(partition.to_owned());
                None
            }
            (Some(("begun", partition)), None) => {
                self.begun.remove(partition);
                None
            }
            (Some(("queue", endpoint)), Some(value)) => {
                let queue = serde_json::from_slice(value).ok()?;
                self.queues.insert(endpoint.to_owned(), queue);
                None
            }
            (Some(("queue", endpoint)), None) => {
                self.queues.remove(endpoint);
                None
            }
            _ => None,
        }
    }

    /// The queues that endpoints have, or had, of their own, by the endpoints' ids.
    pub fn queues(&self) -> &HashMap<String, Queue> {
        &self.queues
    }

    /// The group that owns the prefix.
    pub fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    /// Does the topic have a start record?
    pub fn has_start(&self, topic: &str) -> bool {
        self.starts.contains_key(topic)
    }

    /// Where the partition began according to the start record of its topic.
    pub fn start(&self, topic: &str, partition: i32) -> Option<i64> {
        self.starts.get(topic)?.get(&partition).copied()
    }

    /// Was a position of the partition ever committed?
    pub fn is_begun(&self, topic: &str, partition: i32) -> bool {
        self.begun.contains(&begun_name(topic, partition))
    }

    fn apply_owner(&mut self, value: &[u8]) -> Option<Entry> {
        let theirs: Owner = serde_json::from_slice(value).ok()?;
        match &self.owner {
            Some(ours) if *ours != theirs.group => Some(owner(ours)),
            Some(_) => None,
            None => {
                self.owner = Some(theirs.group);
                None
            }
        }
    }

    fn apply_start(&mut self, topic: &str, value: &[u8]) -> Option<Entry> {
        let theirs: Start = serde_json::from_slice(value).ok()?;
        let known = self.starts.entry(topic.to_owned()).or_default();
        for (partition, offset) in &theirs.offsets {
            known.entry(*partition).and_modify(|lower| *lower = (*lower).min(*offset)).or_insert(*offset);
        }
        (*known != theirs.offsets).then(|| start(topic, known))
    }
}

/// The record that claims the prefix for a group.
pub fn owner(group: &str) -> Entry {
    entry("owner".to_owned(), &Owner { v: VERSION, group: group.to_owned() })
}

/// The start record of a topic.
pub fn start(topic: &str, offsets: &BTreeMap<i32, i64>) -> Entry {
    entry(format!("start/{topic}"), &Start { v: VERSION, offsets: offsets.clone() })
}

/// The record that says that a partition's position has been committed.
pub fn begun(topic: &str, partition: i32) -> Entry {
    entry(format!("begun/{}", begun_name(topic, partition)), &Begun { v: VERSION })
}

/// The record of an endpoint's own queue.
pub fn queue(endpoint: &str, queue: &Queue) -> Entry {
    entry(queue_key(endpoint), &QueueRecord { v: VERSION, queue })
}

/// The key of such a record.
pub fn queue_key(endpoint: &str) -> String {
    format!("queue/{endpoint}")
}

fn begun_name(topic: &str, partition: i32) -> String {
    // Topic names have no slash.
    format!("{topic}/{partition}")
}

fn entry(key: String, value: &impl Serialize) -> Entry {
    Entry { key, value: serde_json::to_vec(value).expect("plain values have a JSON form") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(state: &mut State, entry: &Entry) -> Option<Entry> {
        state.apply(&entry.key, Some(&entry.value))
    }

    #[test]
    fn the_first_owner_stays() {
        let mut state = State::default();
        assert_eq!(take(&mut state, &owner("first")), None);
        assert_eq!(take(&mut state, &owner("second")), Some(owner("first")));
        assert_eq!(state.owner(), Some("first"));
    }

    #[test]
    fn start_records_of_two_instances_merge_to_the_lower() {
        let one = start("orders", &BTreeMap::from([(0, 5), (1, 9)]));
        let other = start("orders", &BTreeMap::from([(0, 7), (1, 8), (2, 3)]));
        let merged = start("orders", &BTreeMap::from([(0, 5), (1, 8), (2, 3)]));
        for (first, second) in [(&one, &other), (&other, &one)] {
            let mut state = State::default();
            assert_eq!(take(&mut state, first), None);
            assert_eq!(take(&mut state, second), Some(merged.clone()));
            assert_eq!(take(&mut state, &merged), None, "it is the same for everybody then");
            assert_eq!(state.start("orders", 1), Some(8));
            assert_eq!(state.start("orders", 3), None);
        }
    }

    #[test]
    fn junk_and_later_versions_are_left_alone() {
        let mut state = State::default();
        for (key, value) in
            [("owner", &b"\xff"[..]), ("start/orders", b"[]"), ("begun", b""), ("replay/x", b"{}"), ("", b"")]
        {
            assert_eq!(state.apply(key, Some(value)), None, "{key}");
        }
        assert_eq!(state.apply("start/orders", Some(br#"{"v":9,"offsets":{"0":4},"more":true}"#)), None);
        assert_eq!(state.start("orders", 0), Some(4));
    }

    #[test]
    fn the_last_that_was_said_of_an_own_queue_counts() {
        let own = Queue { own: true, topics: ["orders".to_owned()].into(), from: Offsets::new() };
        let from = Offsets::from([("orders".to_owned(), [(0, 7)].into())]);
        let left = Queue { own: false, topics: BTreeSet::new(), from };
        let mut state = State::default();
        for said in [&own, &left, &own] {
            assert_eq!(take(&mut state, &queue("crm", said)), None);
            assert_eq!(state.queues().get("crm"), Some(said));
        }
        assert_eq!(queue("crm", &left).value, br#"{"v":1,"own":false,"from":{"orders":{"0":7}}}"#);
        state.apply("queue/crm", None);
        assert!(state.queues().is_empty());
    }

    #[test]
    fn a_begun_partition_is_known_until_it_is_forgotten() {
        let mut state = State::default();
        take(&mut state, &begun("orders", 3));
        assert!(state.is_begun("orders", 3) && !state.is_begun("orders", 0));
        state.apply("begun/orders/3", None);
        assert!(!state.is_begun("orders", 3));
    }
}
