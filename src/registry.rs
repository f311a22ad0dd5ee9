//! Registry: the current endpoints as one immutable snapshot, and how it is swapped.
//!
//! Whoever works on an event takes one snapshot and keeps it to the end of that event. A snapshot is never
//! changed; a reload puts a new one in its place.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::{config::settings::Endpoint, pipeline::Event};

mod index;
pub mod pattern;

use index::Index;

/// The endpoints in use, swapped as a whole.
#[derive(Debug)]
pub struct Registry {
    current: ArcSwap<Snapshot>,
    generation: watch::Sender<u64>,
}

impl Registry {
    /// Begins with these endpoints, as generation 1.
    pub fn new(endpoints: Vec<Arc<Endpoint>>) -> Self {
        let snapshot = Snapshot::new(endpoints, 1);
        Self { current: ArcSwap::from_pointee(snapshot), generation: watch::Sender::new(1) }
    }

    /// The endpoints now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Puts these endpoints in the place of all others.
    pub fn replace(&self, endpoints: Vec<Arc<Endpoint>>) {
        // Under the lock of the watch: of two reloads at once, the later generation stays.
        self.generation.send_modify(|generation| {
            *generation += 1;
            self.current.store(Arc::new(Snapshot::new(endpoints, *generation)));
        });
    }

    /// Tells the generation of each new snapshot, once it is there.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
}

/// One immutable set of endpoints.
#[derive(Debug)]
pub struct Snapshot {
    endpoints: Vec<Arc<Endpoint>>,
    generation: u64,
    index: Index,
    by_id: HashMap<Arc<str>, u32>,
    /// Hash and position, sorted.
    by_hash: Vec<(u32, u32)>,
}

impl Snapshot {
    /// Indexes endpoints, whose ids are unique, in the order of the configuration.
    pub fn new(endpoints: Vec<Arc<Endpoint>>, generation: u64) -> Self {
        let positions = || (0_u32..).zip(&endpoints);
        let by_id = positions().map(|(at, endpoint)| (Arc::clone(&endpoint.id), at)).collect();
        let mut by_hash: Vec<_> =
            positions().map(|(at, endpoint)| (endpoint_hash(&endpoint.id), at)).collect();
        by_hash.sort_unstable();
        let index = Index::new(&endpoints);
        Self { endpoints, generation, index, by_id, by_hash }
    }

    /// Appends the endpoints that want the event, in the order of the configuration, each once. Looks at no
    /// others, and does not look at the value: a tombstone is for the caller to stop.
    pub fn route(&self, event: &Event, out: &mut Vec<Arc<Endpoint>>) {
        let wanted = self.index.find(event).into_iter();
        out.extend(wanted.map(|position| Arc::clone(self.at(position))));
    }

    /// The endpoint of that id, enabled or not.
    pub fn by_id(&self, id: &str) -> Option<&Arc<Endpoint>> {
        self.by_id.get(id).map(|position| self.at(*position))
    }

    /// The endpoints whose id has that [`endpoint_hash`]: rarely more than one, yet among 100,000 endpoints
    /// some pair is likely to share one.
    pub fn by_hash(&self, hash: u32) -> impl Iterator<Item = &Arc<Endpoint>> {
        let from = self.by_hash.partition_point(|(other, _)| *other < hash);
        let same = self.by_hash[from..].iter().take_while(move |(other, _)| *other == hash);
        same.map(|(_, position)| self.at(*position))
    }

    /// All endpoints, in the order of the configuration.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// How many endpoints there are, disabled ones included.
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Counts the snapshots of this process from 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn at(&self, position: u32) -> &Arc<Endpoint> {
        &self.endpoints[position as usize]
    }
}

/// The 32 bits that stand for an endpoint id where space is short. Never 0.
pub fn endpoint_hash(id: &str) -> u32 {
    let hash = Sha256::digest(id.as_bytes());
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]).max(1)
}

/// How a record names an endpoint of which only the hash is known. No endpoint id looks like it.
pub fn hash_name(hash: u32) -> String {
    format!("#{hash:08x}")
}

/// The hash in a [`hash_name`], written exactly like one.
pub fn parse_hash_name(name: &str) -> Option<u32> {
    let hash = u32::from_str_radix(name.strip_prefix('#')?, 16).ok()?;
    (hash_name(hash) == name).then_some(hash)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use proptest::{collection::vec, option, prelude::*};
    use regex::Regex;

    use super::*;
    use crate::{
        config::settings::{self, TopicSelector},
        pipeline::{
            Headers,
            route::{Verdict, explain},
        },
    };

    /// An enabled endpoint that wants everything.
    pub(crate) fn endpoint(id: &str) -> Endpoint {
        Endpoint {
            id: id.into(),
            url: "https://example.com/".parse().unwrap(),
            topics: None,
            types: None,
            tenant: None,
            keys: Vec::new(),
            enabled: true,
            paused: false,
            headers: Vec::new(),
            forward: Vec::new(),
            timeout: Duration::from_secs(15),
            concurrency: 64,
            rate: None,
            burst: 1,
            queue: settings::Queue::Shared,
            ordering: settings::Ordering::None,
            signature: settings::Signature::None,
            priority: settings::Priority::Normal,
            retry: settings::Retry {
                schedule: Vec::new(),
                jitter: 0.0,
                max_age: Duration::from_secs(1),
                max_pause: Duration::from_secs(1),
                dead_on: Vec::new(),
            },
            breaker: settings::Breaker {
                failures: 0.5,
                minimum: 20,
                open_for: Duration::from_secs(30),
                max_open: Duration::from_secs(600),
            },
            disable_after: None,
        }
    }

    fn event(topic: &str, tenant: Option<&str>, event_type: &str) -> Event {
        Event {
            topic: topic.into(),
            partition: 0,
            offset: 0,
            timestamp: 0,
            key: None,
            value: None,
            headers: Headers::default(),
            id: "msg_1".into(),
            event_type: event_type.into(),
            tenant: tenant.map(Into::into),
            priority: None,
            notice: false,
        }
    }

    fn ids(snapshot: &Snapshot, event: &Event) -> Vec<String> {
        let mut out = Vec::new();
        snapshot.route(event, &mut out);
        out.iter().map(|endpoint| endpoint.id.to_string()).collect()
    }

    /// A topic, or a pattern if it begins with `^`.
    pub(crate) fn selector(text: &str) -> TopicSelector {
        match text.strip_prefix('^') {
            Some(pattern) => {
                TopicSelector::Pattern(Regex::new(&format!("^(?:{pattern})$")).unwrap(), text.into())
            }
            None => TopicSelector::Name(text.into()),
        }
    }

    fn endpoints() -> impl Strategy<Value = Vec<Arc<Endpoint>>> {
        let topics =
            option::of(vec(prop_oneof!["[ab]{1,2}", Just("^a.*".into()), Just("^.*b".into())], 0..4));
        let types = option::of(vec("[ab.*]{0,4}", 0..4));
        let wants = (topics, types, option::of("[xy]"), prop::bool::weighted(0.9));
        vec(wants, 0..30).prop_map(|all| {
            let each = all.into_iter().enumerate().map(|(n, (topics, types, tenant, enabled))| {
                let topics = topics.map(|topics: Vec<String>| topics.iter().map(|t| selector(t)).collect());
                Arc::new(Endpoint { topics, types, tenant, enabled, ..endpoint(&format!("e{n}")) })
            });
            each.collect()
        })
    }

    proptest! {
        #[test]
        fn the_index_finds_what_asking_each_endpoint_finds(
            endpoints in endpoints(),
            events in vec(("[ab]{1,2}", option::of("[xyz]"), "[ab.]{0,4}", prop::bool::weighted(0.2)), 1..10),
        ) {
            let snapshot = Snapshot::new(endpoints.clone(), 1);
            for (topic, tenant, event_type, notice) in events {
                let event = Event { notice, ..event(&topic, tenant.as_deref(), &event_type) };
                let wanted = endpoints.iter().filter(|endpoint| explain(&event, endpoint) == Verdict::Wanted);
                let wanted: Vec<String> = wanted.map(|endpoint| endpoint.id.to_string()).collect();
                prop_assert_eq!(ids(&snapshot, &event), wanted);
            }
        }
    }

    #[test]
    fn notices_are_for_those_who_ask_for_them_by_name() {
        let wants = |id: &str, topics: Option<&[&str]>| {
            let topics = topics.map(|topics| topics.iter().map(|topic| selector(topic)).collect());
            Arc::new(Endpoint { topics, ..endpoint(id) })
        };
        let endpoints = vec![
            wants("all", None),
            wants("pattern", Some(&["^.*"])),
            wants("team", Some(&["arauto.notices"])),
            wants("both", Some(&["orders", "arauto.notices"])),
            wants("orders", Some(&["orders"])),
        ];
        let snapshot = Snapshot::new(endpoints, 1);
        let notice = Event { notice: true, ..event("arauto.notices", None, "arauto.delivery.dead") };
        assert_eq!(ids(&snapshot, &notice), ["team", "both"]);
        assert_eq!(ids(&snapshot, &event("orders", None, "x")), ["all", "pattern", "both", "orders"]);
    }

    #[test]
    fn endpoints_are_found_by_id_and_hash() {
        let off = Endpoint { enabled: false, ..endpoint("off") };
        let snapshot = Snapshot::new(vec![Arc::new(endpoint("crm")), Arc::new(off)], 1);
        let found = |hash| snapshot.by_hash(hash).map(|endpoint| &*endpoint.id).collect::<Vec<_>>();
        assert_eq!(snapshot.by_id("off").map(|endpoint| &*endpoint.id), Some("off"));
        assert!(snapshot.by_id("none").is_none());
        assert_eq!((found(endpoint_hash("crm")), found(endpoint_hash("off"))), (vec!["crm"], vec!["off"]));
        assert!(found(endpoint_hash("none")).is_empty());
        assert_eq!(ids(&snapshot, &event("orders", None, "x")), ["crm"]);
        assert_eq!(snapshot.len(), 2);
    }

    #[test]
    fn hash_names_read_back() {
        // The first four bytes of `printf crm | sha256sum`.
        assert_eq!(hash_name(endpoint_hash("crm")), "#9261ceef");
        assert_eq!(parse_hash_name("#0000000f"), Some(15));
        for junk in ["", "#", "#f", "#0000000F", "0000000f", "#+000000f", "#0000000f0"] {
            assert_eq!(parse_hash_name(junk), None, "{junk}");
        }
    }

    #[test]
    fn a_snapshot_taken_stays_as_it_is() {
        let registry = Registry::new(vec![Arc::new(endpoint("a"))]);
        let (before, changes) = (registry.snapshot(), registry.changes());
        registry.replace(vec![Arc::new(endpoint("b")), Arc::new(endpoint("c"))]);
        assert_eq!((before.len(), before.generation()), (1, 1));
        assert_eq!((registry.snapshot().len(), registry.snapshot().generation()), (2, 2));
        assert_eq!(*changes.borrow(), 2);
    }
}
