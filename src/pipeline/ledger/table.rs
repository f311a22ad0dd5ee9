//! A position in small numbers, as the forms of the metadata write it: endpoints by their place in a dictionary, sets
//! of endpoints by theirs. Pure.

use std::collections::{BTreeSet, HashMap};

use super::{
    bits::{Reader, Rice, Writer},
    metadata::{Owed, Run},
};

/// What is owed, in numbers.
#[derive(Debug)]
pub(super) struct Table {
    /// The endpoints, by ascending hash.
    pub(super) hashes: Vec<u32>,
    /// The distinct sets, the most frequent first: `None` is everybody, others are places in `hashes`, ascending.
    pub(super) sets: Vec<Option<Vec<u32>>>,
    /// The runs.
    pub(super) spans: Vec<Span>,
    /// The set of each run.
    pub(super) set_of: Vec<usize>,
}

/// From the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Span {
    pub(super) first: i64,
    pub(super) last: i64,
}

impl Table {
    pub(super) fn new(owed: &[Run]) -> Self {
        let mut index: HashMap<&Owed, usize> = HashMap::new();
        let mut seen: Vec<(&Owed, usize)> = Vec::new();
        let mut set_of: Vec<usize> = Vec::with_capacity(owed.len());
        let mut spans: Vec<Span> = Vec::with_capacity(owed.len());
        for run in owed {
            let set = *index.entry(&run.owed).or_insert(seen.len());
            if let (Some(last), Some(span)) = (set_of.last(), spans.last_mut())
                && *last == set
                && span.last + 1 == run.first
            {
                span.last = run.last;
                continue;
            }
            if set == seen.len() {
                seen.push((&run.owed, 0));
            }
            seen[set].1 += 1;
            set_of.push(set);
            spans.push(Span { first: run.first, last: run.last });
        }
        let all = seen.iter().filter_map(|(set, _)| members(set)).flatten().copied();
        let hashes: Vec<u32> = all.collect::<BTreeSet<u32>>().into_iter().collect();
        let place = |hash: &u32| hashes.binary_search(hash).expect("it was collected") as u32;

        let mut by_frequency: Vec<usize> = (0..seen.len()).collect();
        by_frequency.sort_by_key(|set| std::cmp::Reverse(seen[*set].1));
        let mut rank = vec![0; seen.len()];
        by_frequency.iter().enumerate().for_each(|(at, set)| rank[*set] = at);
        let places = |set: &usize| members(seen[*set].0).map(|hashes| hashes.iter().map(place).collect());
        Self {
            sets: by_frequency.iter().map(places).collect(),
            spans,
            set_of: set_of.into_iter().map(|set| rank[set]).collect(),
            hashes,
        }
    }

    pub(super) fn write_hashes(&self, out: &mut Writer) {
        let gaps = self.hashes.iter().scan(0_u32, |next, hash| {
            let gap = hash - *next;
            *next = hash.wrapping_add(1);
            Some(u64::from(gap))
        });
        let code = Rice::fit(&gaps);
        out.gamma(self.hashes.len() as u64);
        code.announce(out);
        gaps.for_each(|gap| code.write(gap, out));
    }
}

pub(super) fn read_hashes(reader: &mut Reader<'_>) -> Option<Vec<u32>> {
    let count = reader.count()?;
    let code = Rice::announced(reader)?;
    let mut next = 0_u64;
    let mut hashes = Vec::with_capacity(count);
    for _ in 0..count {
        let hash = u32::try_from(next.checked_add(code.read(reader)?)?).ok()?;
        hashes.push(hash);
        next = u64::from(hash) + 1;
    }
    Some(hashes)
}

fn members(owed: &Owed) -> Option<&[u32]> {
    match owed {
        Owed::All => None,
        Owed::To(endpoints) => Some(endpoints),
    }
}

/// How a list of ascending spans is written: the gaps before them and their lengths, each in its code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Code {
    gaps: Rice,
    lengths: Rice,
}

impl Code {
    /// The code that suits these lists, each of which begins at `base`.
    pub(super) fn fit<'a>(lists: impl Iterator<Item = &'a [Span]> + Clone, base: i64) -> Self {
        let numbers = lists.flat_map(|list| numbers(list, base));
        Self {
            gaps: Rice::fit(&numbers.clone().map(|(gap, _)| gap)),
            lengths: Rice::fit(&numbers.map(|(_, length)| length)),
        }
    }

    /// Bits of a list in this code.
    pub(super) fn cost(self, list: &[Span], base: i64) -> u64 {
        let bits = |(gap, length)| u64::from(self.gaps.cost(gap) + self.lengths.cost(length));
        numbers(list, base).map(bits).sum()
    }

    pub(super) fn write(self, list: &[Span], base: i64, out: &mut Writer) {
        for (gap, length) in numbers(list, base) {
            self.gaps.write(gap, out);
            self.lengths.write(length, out);
        }
    }

    /// Reads a list of so many spans.
    pub(super) fn read(self, count: usize, base: i64, reader: &mut Reader<'_>) -> Option<Vec<Span>> {
        let mut next = base;
        let mut list = Vec::with_capacity(count);
        for at in 0..count {
            let gap = i64::try_from(self.gaps.read(reader)?).ok()?;
            let length = i64::try_from(self.lengths.read(reader)?).ok()?;
            let first = next.checked_add(gap)?.checked_add(i64::from(at > 0))?;
            let last = first.checked_add(length)?;
            list.push(Span { first, last });
            next = last.checked_add(1)?;
        }
        Some(list)
    }

    pub(super) fn announce(self, out: &mut Writer) {
        self.gaps.announce(out);
        self.lengths.announce(out);
    }

    pub(super) fn announced(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self { gaps: Rice::announced(reader)?, lengths: Rice::announced(reader)? })
    }
}

/// Of each span the gap before it, of which all but the first have one, and by how much it is longer than one.
fn numbers(list: &[Span], base: i64) -> impl Iterator<Item = (u64, u64)> + Clone {
    let mut next = base;
    list.iter().map(move |span| {
        let gap = span.first.abs_diff(next);
        next = span.last + 2;
        (gap, span.last.abs_diff(span.first))
    })
}
