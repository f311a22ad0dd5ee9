//! What the metadata can carry, in which form, and that junk is junk.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    super::metadata::{MAX_LEN, Owed, Position, Run, decode, encode},
    Ledger,
};

/// A text as format 1 was written: base 1,000, horizon 20 above it, two endpoints, three runs.
const IN_FORMAT_1: &str = "arauto1:8_Vd3BQCAAAABwAAAAkDAQACAAEAAAIABQIBAQAC";

fn to(hashes: &[u32]) -> Owed {
    Owed::To(hashes.to_vec())
}

#[test]
fn format_1_is_read() {
    let run = |first, last, owed| Run { first, last, owed };
    let owed =
        vec![run(1_000, 1_002, to(&[7])), run(1_008, 1_010, to(&[7, 9])), run(1_012, 1_012, Owed::All)];
    assert_eq!(decode(1_000, IN_FORMAT_1), Some(Position { base: 1_000, horizon: 1_020, owed }));
    assert_eq!(decode(1_001, IN_FORMAT_1), None, "of another offset");
}

#[test]
fn who_is_owed_is_dropped_from_the_newest_events_first() {
    // Every event owed to a set of its own: endpoint 1 or 2, and one of thousands.
    let run =
        |at: i64| Run { first: at, last: at, owed: to(&[1 + at as u32 % 2, 1_000_000 * (at as u32 + 1)]) };
    let position = Position { base: 0, horizon: 1_000, owed: (0..1_000).map(run).collect() };
    let (text, wanted) = encode(&position);
    assert!(text.len() <= MAX_LEN && wanted < 100, "owed to all it would be a single run: {wanted}");
    let read = decode(0, &text).unwrap();
    assert_eq!(read.horizon, 1_000);
    let kept = read.owed.iter().take_while(|run| run.owed != Owed::All).count();
    assert!(kept > 300, "{kept}");
    assert_eq!(read.owed[..kept], position.owed[..kept]);
    assert_eq!(read.owed[kept..], [Run { first: kept as i64, last: 999, owed: Owed::All }]);
}

/// Which events of a scenario are owed to whom, of so many events.
type Scenario = fn(i64) -> BTreeMap<i64, Owed>;

/// Numbers that look random: splitmix64.
pub(super) fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn hash(endpoint: u64) -> u32 {
    (random(endpoint + 1_000_000) as u32).max(1)
}

fn set(endpoints: impl Iterator<Item = u64>) -> Option<Owed> {
    let mut hashes: Vec<u32> = endpoints.map(hash).collect();
    hashes.sort_unstable();
    (!hashes.is_empty()).then_some(Owed::To(hashes))
}

fn events(count: i64, owed: impl Fn(i64) -> Option<Owed>) -> BTreeMap<i64, Owed> {
    (0..count).filter_map(|at| Some((at, owed(at)?))).collect()
}

fn one_in(chances: u64) -> impl Fn(i64) -> Option<Owed> {
    move |at| random(at as u64).is_multiple_of(chances).then(|| to(&[7]))
}

fn position(events: &BTreeMap<i64, Owed>) -> Position {
    let mut owed: Vec<Run> = Vec::new();
    for (at, to) in events {
        match owed.last_mut() {
            Some(run) if run.last + 1 == *at && run.owed == *to => run.last = *at,
            _ => owed.push(Run { first: *at, last: *at, owed: to.clone() }),
        }
    }
    Position { base: 0, horizon: owed.last().map_or(1, |run| run.last + 1), owed }
}

/// More than are ever in memory.
const UNBOUNDED: usize = 30_000;

/// Deliveries of the scenario that are carried, each to its endpoint: by doubling, then by halving the step.
fn carries(scenario: Scenario) -> usize {
    let owed = |count: i64| {
        let events = scenario(count);
        let position = position(&events);
        let deliveries = |owed: &Owed| if let Owed::To(hashes) = owed { hashes.len() } else { 1 };
        let exact = decode(0, &encode(&position).0).as_ref() == Some(&position);
        exact.then(|| events.values().map(deliveries).sum::<usize>())
    };
    let (mut count, mut step, mut most) = (0, 256, 0);
    while step > 0 && most < UNBOUNDED {
        match owed(count + step) {
            Some(deliveries) => {
                (count, most) = (count + step, deliveries);
                step *= 2;
            }
            None => step /= 4,
        }
    }
    most
}

#[test]
fn what_a_partition_can_carry_is_what_the_documentation_says() {
    let rows: [(&str, usize, Scenario); 9] = [
        ("every second to one", UNBOUNDED, |n| events(n, |at| (at % 2 == 0).then(|| to(&[7])))),
        ("half to one", 12_000, |n| events(n, one_in(2))),
        ("a tenth to one", 4_500, |n| events(n, one_in(10))),
        ("a thousandth to one", 1_900, |n| events(n * 200, one_in(1000))),
        ("half to each of ten", 11_500, |n| {
            events(n, |at| set((0..10).filter(|of| random(at as u64 * 10 + of).is_multiple_of(2))))
        }),
        ("half to everybody", 12_000, |n| events(n, |at| one_in(2)(at).map(|_| Owed::All))),
        ("every one to one of fifty", 3_200, |n| events(n, |at| set([random(at as u64) % 50].into_iter()))),
        ("every one to one of its own", 600, |n| events(n, |at| set([at as u64].into_iter()))),
        ("150 since offsets of their own", UNBOUNDED, |n| {
            events(n, |at| set((0..150).filter(|of| random(*of) % 5_000 <= at as u64)))
        }),
    ];
    let carried = rows.map(|(what, documented, scenario)| (what, documented, carries(scenario)));
    for (what, documented, most) in carried {
        let true_to_it = (documented..documented + documented / 10).contains(&most);
        assert!(true_to_it || documented == UNBOUNDED && most > UNBOUNDED, "{what}: {most} in {carried:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_fits_is_read_back_and_what_does_not_loses_nothing(
        base in 0..1_i64 << 61,
        tail in 0..100_i64,
        runs in prop::collection::vec((gap(), gap(), set_of_few()), 0..1_500),
    ) {
        let mut owed: Vec<Run> = Vec::new();
        let mut next = base;
        for (gap, length, to) in runs {
            let gap = gap + i64::from(owed.last().is_some_and(|run| run.owed == to));
            let first = next + gap;
            next = first + length + 1;
            owed.push(Run { first, last: first + length, owed: to });
        }
        let position = Position { base, horizon: next + tail, owed };
        let (text, _) = encode(&position);
        prop_assert!(text.len() <= MAX_LEN && text.is_ascii());
        let read = decode(base, &text).unwrap_or(Position::at(base));
        let in_space = position.owed.len() < 200 || position.horizon == base;
        prop_assert!(read == position || !in_space, "{} runs did not fit", position.owed.len());
        let mut ledger = Ledger::new(read);
        for run in &position.owed {
            for offset in [run.first, run.last] {
                prop_assert!(covers(&ledger.carried(offset), &run.owed), "{offset} was lost");
            }
        }
    }

    #[test]
    fn junk_with_a_right_checksum_is_no_danger(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for prefix in ["arauto1:", "arauto2:"] {
            let mut sum = <sha2::Sha256 as sha2::Digest>::new_with_prefix(0_i64.to_be_bytes());
            sha2::Digest::update(&mut sum, &bytes);
            let checksum = sha2::Digest::finalize(sum);
            let all = [&checksum[..4], &bytes].concat();
            let text = format!("{prefix}{}", data_encoding::BASE64URL_NOPAD.encode(&all));
            let Some(read) = decode(0, &text) else { continue };
            let ascending = read.owed.windows(2).all(|runs| runs[0].last < runs[1].first);
            prop_assert!(ascending && read.owed.last().is_none_or(|run| run.last < read.horizon));
        }
    }
}

fn covers(carried: &super::Carried, owed: &Owed) -> bool {
    match (carried, owed) {
        (super::Carried::New | super::Carried::Owed(Owed::All), _) => true,
        (super::Carried::Owed(Owed::To(carried)), Owed::To(owed)) => {
            owed.iter().all(|hash| carried.contains(hash))
        }
        (super::Carried::Owed(Owed::To(_)), Owed::All) | (super::Carried::Settled, _) => false,
    }
}

fn gap() -> impl Strategy<Value = i64> {
    prop_oneof![6 => 0..3_i64, 3 => 0..50_i64, 1 => 0..1_i64 << 40]
}

fn set_of_few() -> impl Strategy<Value = Owed> {
    let hash = prop_oneof![4 => 1..6_u32, 1 => 1..=u32::MAX];
    let some = prop::collection::btree_set(hash, 1..5).prop_map(|set| Owed::To(set.into_iter().collect()));
    prop_oneof![4 => some, 1 => Just(Owed::All)]
}
