use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

mod metadata;

use super::{
    metadata::{MAX_LEN, Owed, Position, Run, decode, encode},
    *,
};

fn settled_by(ledger: &mut Ledger, sequence: u64, slots: usize) {
    for slot in 0..slots {
        ledger.settle(Ledger::place(sequence, slot));
    }
}

#[test]
fn the_watermark_moves_over_the_settled_front_only() {
    let mut ledger = Ledger::new(Position::at(10));
    let a = ledger.open(10, 0, &[1, 2]);
    let b = ledger.open(11, 0, &[1]);
    settled_by(&mut ledger, b, 1);
    assert_eq!(ledger.base(), 10);
    ledger.settle(Ledger::place(a, 1));
    assert_eq!(ledger.base(), 10);
    ledger.settle(Ledger::place(a, 0));
    assert_eq!(ledger.base(), 12);
}

#[test]
fn holes_are_stepped_over() {
    let mut ledger = Ledger::new(Position::at(0));
    let a = ledger.open(3, 0, &[1]);
    let b = ledger.open(9, 0, &[1]);
    assert_eq!(ledger.base(), 3);
    settled_by(&mut ledger, a, 1);
    assert_eq!(ledger.base(), 9);
    settled_by(&mut ledger, b, 1);
    assert_eq!(ledger.base(), 10);
    ledger.reached_end(15);
    assert_eq!(ledger.take_commit().unwrap().offset, 15);
}

#[test]
fn a_hole_is_worth_a_commit() {
    let mut ledger = Ledger::new(Position::at(0));
    let a = ledger.open(0, 0, &[1]);
    settled_by(&mut ledger, a, 1);
    assert_eq!(ledger.take_commit().unwrap().offset, 1);
    // A transaction's marker was at 1; what comes behind it is not settled for long.
    ledger.open(2, 0, &[1]);
    assert_eq!(ledger.take_commit().unwrap().offset, 2);
    ledger.open(5, 0, &[1]);
    assert_eq!(ledger.take_commit(), None);
}

#[test]
fn an_event_for_nobody_is_settled() {
    let mut ledger = Ledger::new(Position::at(0));
    ledger.open(0, 0, &[]);
    assert_eq!(ledger.base(), 1);
    let a = ledger.open(1, 0, &[7]);
    ledger.open(2, 0, &[]);
    assert_eq!(ledger.base(), 1);
    settled_by(&mut ledger, a, 1);
    assert_eq!(ledger.base(), 3);
}

#[test]
fn there_is_nothing_to_commit_until_something_settled() {
    let mut ledger = Ledger::new(Position::at(0));
    let a = ledger.open(0, 0, &[1]);
    assert_eq!(ledger.take_commit(), None);
    settled_by(&mut ledger, a, 1);
    assert_eq!(ledger.take_commit().map(|commit| commit.offset), Some(1));
    assert_eq!(ledger.take_commit(), None);
    ledger.touch();
    assert_eq!(ledger.take_commit().map(|commit| commit.offset), Some(1));
}

#[test]
fn one_slow_endpoint_among_ten_is_a_few_bytes() {
    let endpoints: Vec<u32> = (1..=10).collect();
    let mut ledger = Ledger::new(Position::at(0));
    for offset in 0..5_000 {
        let sequence = ledger.open(offset, 0, &endpoints);
        settled_by(&mut ledger, sequence, 9);
    }
    let commit = ledger.take_commit().unwrap();
    assert!(commit.metadata.len() < 64, "{}", commit.metadata.len());
    let mut reloaded = Ledger::new(decode(0, &commit.metadata).unwrap());
    assert_eq!(reloaded.carried(4_321), Carried::Owed(Owed::To(vec![10])));
    assert_eq!(reloaded.carried(5_000), Carried::New);
}

#[test]
fn intake_stops_before_what_is_owed_outgrows_its_space() {
    let mut ledger = Ledger::new(Position::at(0));
    let mut open = Vec::new();
    for offset in 0..30_000 {
        let sequence = ledger.open(offset * 3, 0, &[1 + (offset as u32 * 7) % 50]);
        if metadata::random(offset as u64).is_multiple_of(2) {
            settled_by(&mut ledger, sequence, 1);
        } else {
            open.push(sequence);
        }
    }
    let commit = ledger.take_commit().unwrap();
    assert!(commit.metadata.len() <= MAX_LEN);
    assert!(ledger.is_crowded());
    // What does not fit counts as not read; nothing that is owed counts as settled.
    let reloaded = decode(commit.offset, &commit.metadata).unwrap();
    assert!(reloaded.horizon < 90_000);
    for sequence in open {
        settled_by(&mut ledger, sequence, 1);
    }
    assert_eq!(ledger.take_commit().unwrap().offset, 29_999 * 3 + 1);
    assert!(!ledger.is_crowded());
}

#[test]
fn a_life_that_begins_crowded_reads_what_it_has_to_settle() {
    let owed = |n: i64| metadata::random(n as u64).is_multiple_of(2);
    let run = |n: i64| owed(n).then(|| Run { first: n, last: n, owed: Owed::To(vec![7]) });
    let mut ledger =
        Ledger::new(Position { base: 0, horizon: 22_001, owed: (0..22_000).filter_map(run).collect() });
    ledger.touch();
    assert!(ledger.take_commit().unwrap().metadata.len() > MAX_LEN * 3 / 4);
    assert!(!ledger.is_crowded(), "nobody else would ever settle what it carries");
    for offset in 0..22_000 {
        ledger.open(offset, 0, if owed(offset) { &[7] } else { &[] });
    }
    assert!(!ledger.is_crowded(), "one offset below the horizon is not read yet");
    ledger.open(22_000, 0, &[]);
    ledger.take_commit().unwrap();
    assert!(ledger.is_crowded(), "above the horizon it is intake");
}

#[test]
fn what_was_carried_survives_a_commit_before_it_was_read_again() {
    let owed = vec![Run { first: 5, last: 6, owed: Owed::To(vec![9]) }];
    let mut ledger = Ledger::new(Position { base: 2, horizon: 20, owed });
    let sequence = ledger.open(2, 0, &[3]);
    settled_by(&mut ledger, sequence, 1);
    let commit = ledger.take_commit().unwrap();
    let mut reloaded = Ledger::new(decode(commit.offset, &commit.metadata).unwrap());
    let expected = [
        (3, Carried::Settled),
        (5, Carried::Owed(Owed::To(vec![9]))),
        (6, Carried::Owed(Owed::To(vec![9]))),
        (7, Carried::Settled),
        (20, Carried::New),
    ];
    for (offset, carried) in expected {
        assert_eq!(reloaded.carried(offset), carried, "offset {offset}");
    }
}

#[test]
fn foreign_metadata_is_empty() {
    let (ours, _) =
        encode(&Position { base: 7, horizon: 90, owed: vec![Run { first: 8, last: 9, owed: Owed::All }] });
    assert!(decode(7, &ours).is_some());
    assert_eq!(decode(8, &ours), None, "of another offset");
    for foreign in [
        "",
        "arauto1:",
        "arauto2:",
        "arauto2:AAAA",
        "arauto3:AAAA",
        "{\"json\":1}",
        "arauto1:!!!!",
        "\u{fffd}\0",
    ] {
        assert_eq!(decode(7, foreign), None, "{foreign:?}");
    }
    for end in 0..ours.len() {
        assert_eq!(decode(7, &ours[..end]), None, "cut at {end}");
    }
}

proptest! {
    #[test]
    fn any_metadata_is_read_without_panic(text in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ignored = decode(0, &text);
        let forged = format!("arauto1:{}", data_encoding::BASE64URL_NOPAD.encode(&bytes));
        prop_assert_eq!(decode(0, &forged), None);
    }

    #[test]
    fn nothing_is_lost_and_nothing_settled_is_opened_again(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in steps {
            world.apply(step);
        }
        world.crash();
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Open { hole: u8, endpoints: u8 },
    Settle { which: usize },
    Commit { acknowledged: bool },
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_u8, 0..4_u8).prop_map(|(hole, endpoints)| Step::Open { hole, endpoints }),
        8 => any::<usize>().prop_map(|which| Step::Settle { which }),
        3 => any::<bool>().prop_map(|acknowledged| Step::Commit { acknowledged }),
        1 => Just(Step::Crash),
    ]
}

/// A log of records, the ledger of the instance that reads it, and what a second look knows of both.
struct World {
    /// Offset → the endpoints that want the record.
    log: BTreeMap<i64, Vec<u32>>,
    end: i64,
    ledger: Ledger,
    open: Vec<(i64, u32, Place)>,
    settled: BTreeSet<(i64, u32)>,
    committed: (i64, String),
    settled_at_commit: BTreeSet<(i64, u32)>,
}

impl World {
    fn new() -> Self {
        Self {
            log: BTreeMap::new(),
            end: 0,
            ledger: Ledger::new(Position::at(0)),
            open: Vec::new(),
            settled: BTreeSet::new(),
            committed: (0, String::new()),
            settled_at_commit: BTreeSet::new(),
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Open { hole, endpoints } => {
                let offset = self.end + i64::from(hole);
                self.end = offset + 1;
                self.log.insert(offset, (1..=u32::from(endpoints)).collect());
                self.read_to_the_end();
            }
            Step::Settle { which } if !self.open.is_empty() => {
                let (offset, endpoint, place) = self.open.swap_remove(which % self.open.len());
                self.ledger.settle(place);
                self.settled.insert((offset, endpoint));
            }
            Step::Settle { .. } => {}
            Step::Commit { acknowledged } => match self.ledger.take_commit() {
                Some(commit) if acknowledged => {
                    self.committed = (commit.offset, commit.metadata);
                    self.settled_at_commit = self.settled.clone();
                }
                Some(_) => self.ledger.touch(),
                None => {}
            },
            Step::Crash => self.crash(),
        }
    }

    fn crash(&mut self) {
        let (base, metadata) = &self.committed;
        let position = decode(*base, metadata).unwrap_or(Position::at(*base));
        self.ledger = Ledger::new(position);
        self.open.clear();
        self.read_to_the_end();
        for (offset, endpoints) in &self.log {
            for endpoint in endpoints {
                let pair = (*offset, *endpoint);
                let again = self.open.iter().any(|(o, e, _)| (*o, *e) == pair);
                assert!(again || self.settled.contains(&pair), "{pair:?} was lost");
                assert!(!again || !self.settled_at_commit.contains(&pair), "{pair:?} was opened again");
            }
        }
        self.settled = self.settled_at_commit.clone();
    }

    fn read_to_the_end(&mut self) {
        let unread: Vec<_> = self.log.range(self.ledger.next()..).map(|(o, e)| (*o, e.clone())).collect();
        for (offset, mut endpoints) in unread {
            match self.ledger.carried(offset) {
                Carried::New | Carried::Owed(Owed::All) => {}
                Carried::Settled => endpoints.clear(),
                Carried::Owed(Owed::To(owed)) => endpoints.retain(|endpoint| owed.contains(endpoint)),
            }
            let sequence = self.ledger.open(offset, 0, &endpoints);
            for (slot, endpoint) in endpoints.into_iter().enumerate() {
                self.open.push((offset, endpoint, Ledger::place(sequence, slot)));
            }
        }
    }
}
