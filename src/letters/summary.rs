//! Dead letters in numbers: how many of which kind, when the first and the last died, and how they spread over time.
//!
//! Pure. Its size follows from the number of kinds, not of letters: the finer the time is cut, the fewer slices are
//! kept, so slices double in width whenever there would be too many.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Letter;

/// Slices of time at most.
pub const SLICES: i64 = 24;

/// Letters of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Kind {
    /// The endpoint's id.
    pub endpoint: Option<String>,
    /// Why they died.
    pub reason: Option<String>,
    /// The last HTTP status.
    pub status: Option<u16>,
}

/// How many of a kind, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub letters: u64,
    /// When the first died, in unix milliseconds.
    pub first: i64,
    /// When the last died.
    pub last: i64,
    /// How many died in each slice that has any.
    slices: BTreeMap<i64, u64>,
}

/// All kinds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    kinds: BTreeMap<Kind, Count>,
    /// A slice lasts two to the power of this, in seconds.
    doubled: u32,
    /// The first and the last slice that have any.
    range: Option<(i64, i64)>,
}

impl Summary {
    /// Counts a letter.
    pub fn add(&mut self, letter: &Letter) {
        let kind = Kind {
            endpoint: letter.endpoint().map(str::to_owned),
            reason: letter.reason().map(str::to_owned),
            status: letter.status(),
        };
        self.count(kind, letter.died());
    }

    /// All kinds with their counts, the most frequent first.
    pub fn kinds(&self) -> Vec<(&Kind, &Count)> {
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(count.letters));
        kinds
    }

    /// How many letters there are.
    pub fn total(&self) -> u64 {
        self.kinds.values().map(|count| count.letters).sum()
    }

    /// How long a slice of time is, in milliseconds.
    pub fn slice(&self) -> i64 {
        1_000 << self.doubled
    }

    /// When the first slice begins, in unix milliseconds.
    pub fn begin(&self) -> Option<i64> {
        self.range.map(|(first, _)| first * self.slice())
    }

    /// How many of a kind died in each slice, from the first of all kinds to the last.
    pub fn spread(&self, count: &Count) -> Vec<u64> {
        let Some((first, last)) = self.range else { return Vec::new() };
        (first..=last).map(|slice| count.slices.get(&slice).copied().unwrap_or(0)).collect()
    }

    fn count(&mut self, kind: Kind, died: i64) {
        let mut slice = died.div_euclid(self.slice());
        loop {
            let (first, last) =
                self.range.map_or((slice, slice), |(first, last)| (first.min(slice), last.max(slice)));
            if last - first < SLICES {
                self.range = Some((first, last));
                break;
            }
            self.double();
            slice = died.div_euclid(self.slice());
        }
        let none = Count { letters: 0, first: died, last: died, slices: BTreeMap::new() };
        let count = self.kinds.entry(kind).or_insert(none);
        count.letters += 1;
        count.first = count.first.min(died);
        count.last = count.last.max(died);
        *count.slices.entry(slice).or_default() += 1;
    }

    fn double(&mut self) {
        self.doubled += 1;
        self.range = self.range.map(|(first, last)| (first.div_euclid(2), last.div_euclid(2)));
        for count in self.kinds.values_mut() {
            for (slice, letters) in std::mem::take(&mut count.slices) {
                *count.slices.entry(slice.div_euclid(2)).or_default() += letters;
            }
        }
    }
}

/// A summary in JSON.
#[derive(Debug, Serialize)]
pub struct Report<'s> {
    letters: u64,
    /// When the first slice of the spreads begins, in unix milliseconds.
    begin: Option<i64>,
    /// How long each of them is, in milliseconds.
    slice: i64,
    kinds: Vec<ReportedKind<'s>>,
}

#[derive(Debug, Serialize)]
struct ReportedKind<'s> {
    #[serde(flatten)]
    kind: &'s Kind,
    letters: u64,
    first: i64,
    last: i64,
    spread: Vec<u64>,
}

impl Summary {
    /// For machines.
    pub fn report(&self) -> Report<'_> {
        let kinds = self.kinds().into_iter().map(|(kind, count)| {
            let Count { letters, first, last, .. } = *count;
            ReportedKind { kind, letters, first, last, spread: self.spread(count) }
        });
        Report { letters: self.total(), begin: self.begin(), slice: self.slice(), kinds: kinds.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(endpoint: &str) -> Kind {
        Kind { endpoint: Some(endpoint.to_owned()), reason: Some("gone".to_owned()), status: Some(410) }
    }

    fn spreads(summary: &Summary) -> Vec<(String, u64, Vec<u64>)> {
        let spread = |(kind, count): (&Kind, &Count)| {
            (kind.endpoint.clone().unwrap(), count.letters, summary.spread(count))
        };
        summary.kinds().into_iter().map(spread).collect()
    }

    #[test]
    fn kinds_are_counted_and_share_one_axis() {
        let mut summary = Summary::default();
        for (endpoint, died) in [("b", 5_000), ("a", 3_000), ("b", 6_999), ("b", 5_500)] {
            summary.count(kind(endpoint), died);
        }
        assert_eq!((summary.total(), summary.begin(), summary.slice()), (4, Some(3_000), 1_000));
        let expected = [("b".to_owned(), 3, vec![0, 0, 2, 1]), ("a".to_owned(), 1, vec![1, 0, 0, 0])];
        assert_eq!(spreads(&summary), expected);
        let b = summary.kinds()[0].1;
        assert_eq!((b.first, b.last), (5_000, 6_999));
    }

    #[test]
    fn slices_grow_and_nothing_gets_lost() {
        let mut summary = Summary::default();
        // Not in order, and with a time that is none.
        for died in (0..100_000).rev().map(|n| n * 60_000).chain([-1]) {
            summary.count(kind("a"), died);
        }
        let spread = summary.spread(summary.kinds()[0].1);
        assert_eq!(spread.iter().sum::<u64>(), 100_001);
        assert!(spread.len() as i64 <= SLICES && spread.len() as i64 > SLICES / 2 - 2, "{}", spread.len());
        assert_eq!(summary.begin(), Some(-summary.slice()));
    }

    #[test]
    fn the_report_is_stable() {
        let mut summary = Summary::default();
        assert_eq!(
            serde_json::to_string(&summary.report()).unwrap(),
            r#"{"letters":0,"begin":null,"slice":1000,"kinds":[]}"#
        );
        summary.count(kind("a"), 7_200);
        let expected = concat!(
            r#"{"letters":1,"begin":7000,"slice":1000,"kinds":[{"endpoint":"a","reason":"gone","status":410,"#,
            r#""letters":1,"first":7200,"last":7200,"spread":[1]}]}"#
        );
        assert_eq!(serde_json::to_string(&summary.report()).unwrap(), expected);
    }
}
