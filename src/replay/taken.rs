//! Which letters a replay took, and when: runs of offsets, in buckets so that no record grows with the topic. Pure.
//!
//! Each replay has records of its own, `taken/<partition>/<bucket>/<name>`, so that none overwrites another's.

use serde::{Deserialize, Serialize};

use crate::pipeline::state::Entry;

/// Offsets per bucket. At worst every second one was taken, and a record is 8 KB then; usually it is 50 bytes, and a
/// million letters are 245 records.
const BUCKET: i64 = 4096;
/// What is taken within this time of milliseconds is of the same moment: a bucket is filled in several transactions.
const MOMENT: i64 = 60_000;
/// The version of the records written here; a reader takes any version and the fields it knows.
const VERSION: u32 = 1;

/// One bucket of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket {
    /// The partition of the dead-letter topic.
    pub partition: i32,
    /// The how manieth bucket of it.
    pub number: i64,
}

impl Bucket {
    /// The bucket of a letter.
    pub fn of(partition: i32, offset: i64) -> Self {
        Self { partition, number: offset.div_euclid(BUCKET) }
    }

    /// The first offset behind it.
    pub fn end(self) -> i64 {
        self.start().saturating_add(BUCKET)
    }

    /// The key of a replay's record of it.
    pub fn key(self, name: &str) -> String {
        format!("taken/{}/{}/{name}", self.partition, self.number)
    }

    /// The bucket and the replay's name of such a key.
    pub fn of_key(key: &str) -> Option<(Self, &str)> {
        let (partition, rest) = key.strip_prefix("taken/")?.split_once('/')?;
        let (number, name) = rest.split_once('/')?;
        Some((Self { partition: partition.parse().ok()?, number: number.parse().ok()? }, name))
    }

    fn start(self) -> i64 {
        self.number.saturating_mul(BUCKET)
    }
}

/// What one replay took of one bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks(Vec<Moment>);

/// What was taken at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Moment {
    /// When the last of it was taken, in unix milliseconds.
    at: i64,
    /// First and last offset of each run, counted from the bucket's first, ascending.
    runs: Vec<(i64, i64)>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    v: u32,
    /// Per moment its time, and then by turns how many offsets were left out and how many were taken.
    taken: Vec<Vec<i64>>,
}

impl Marks {
    /// A letter was taken. Offsets of one moment come in ascending order.
    pub fn take(&mut self, offset: i64, at: i64) {
        let offset = offset.rem_euclid(BUCKET);
        let joins = |moment: &Moment| {
            let ascends = moment.runs.last().is_none_or(|(_, last)| *last < offset);
            ascends && at - moment.at < MOMENT
        };
        if !self.0.last().is_some_and(joins) {
            self.0.push(Moment { at, runs: Vec::new() });
        }
        let Some(moment) = self.0.last_mut() else { return };
        moment.at = at;
        match moment.runs.last_mut() {
            Some((_, last)) if *last + 1 == offset => *last = offset,
            _ => moment.runs.push((offset, offset)),
        }
    }

    /// When the letter was taken, if it was.
    pub fn at(&self, offset: i64) -> Option<i64> {
        let offset = offset.rem_euclid(BUCKET);
        let has = |moment: &&Moment| {
            let after = moment.runs.partition_point(|(first, _)| *first <= offset);
            after > 0 && moment.runs[after - 1].1 >= offset
        };
        self.0.iter().rev().find(has).map(|moment| moment.at)
    }

    /// The record that says it.
    pub fn entry(&self, bucket: Bucket, name: &str) -> Entry {
        let taken = self.0.iter().map(Moment::written).collect();
        let value = serde_json::to_vec(&Written { v: VERSION, taken });
        Entry { key: bucket.key(name), value: value.expect("plain values have a JSON form") }
    }

    /// What such a record says; `None` if it cannot be read.
    pub fn read(value: &[u8]) -> Option<Self> {
        let written: Written = serde_json::from_slice(value).ok()?;
        written.taken.iter().map(|moment| Moment::read(moment)).collect::<Option<_>>().map(Self)
    }
}

impl Moment {
    fn written(&self) -> Vec<i64> {
        let (mut numbers, mut next) = (vec![self.at], 0);
        for (first, last) in &self.runs {
            numbers.extend([first - next, last - first + 1]);
            next = last + 1;
        }
        numbers
    }

    fn read(numbers: &[i64]) -> Option<Self> {
        let (at, turns) = numbers.split_first()?;
        let (mut runs, mut next) = (Vec::new(), 0_i64);
        for turn in turns.chunks(2) {
            let [left_out, taken] = turn else { return None };
            let first = next.checked_add(*left_out).filter(|_| *left_out >= 0 && *taken > 0)?;
            next = first.checked_add(*taken).filter(|next| *next <= BUCKET)?;
            runs.push((first, next - 1));
        }
        Some(Self { at: *at, runs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(taken: &[(i64, i64)]) -> Marks {
        let mut marks = Marks::default();
        taken.iter().for_each(|(offset, at)| marks.take(*offset, *at));
        marks
    }

    fn check(taken: &[(i64, i64)], expected: &str) {
        let marks = marks(taken);
        let entry = marks.entry(Bucket::of(3, 5000), "n");
        assert_eq!(
            String::from_utf8(entry.value.clone()).unwrap(),
            format!(r#"{{"v":1,"taken":{expected}}}"#)
        );
        assert_eq!(Marks::read(&entry.value), Some(marks));
    }

    #[test]
    fn records_are_compact_and_come_back() {
        check(&[], "[]");
        check(&[(4096, 7)], "[[7,0,1]]");
        check(&[(4100, 7), (4101, 8), (4102, 8), (8191, 9)], "[[9,4,3,4088,1]]");
        // Another moment, or the way back, begins anew.
        check(&[(5000, 7), (5001, 60_007)], "[[7,904,1],[60007,905,1]]");
        check(&[(5001, 7), (5000, 7)], "[[7,905,1],[7,904,1]]");
        let whole: Vec<_> = (4096..8192).map(|offset| (offset, 1_700_000_000_000)).collect();
        check(&whole, "[[1700000000000,0,4096]]");
    }

    #[test]
    fn what_was_taken_is_found_with_its_time() {
        let marks = marks(&[(10, 1), (11, 1), (20, 1), (11, 100_000), (4095, 100_000)]);
        for (offset, at) in [
            (9, None),
            (10, Some(1)),
            (11, Some(100_000)),
            (12, None),
            (20, Some(1)),
            (4094, None),
            (4095, Some(100_000)),
        ] {
            assert_eq!(marks.at(offset), at, "{offset}");
        }
    }

    #[test]
    fn the_worst_record_is_small() {
        let marks =
            marks(&(0..BUCKET).step_by(2).map(|offset| (offset, 1_700_000_000_000)).collect::<Vec<_>>());
        assert!(marks.entry(Bucket::of(0, 0), "n").value.len() < 8_300);
    }

    #[test]
    fn junk_is_no_record() {
        for junk in ["", "[]", r#"{"v":1}"#, r#"{"v":1,"taken":[[]]}"#, r#"{"v":1,"taken":[[1,2]]}"#] {
            assert_eq!(Marks::read(junk.as_bytes()), None, "{junk}");
        }
        for runs in ["1,-1,1", "1,0,0", "1,0,4097", "1,4096,1", "1,0,9223372036854775807,1,1"] {
            let junk = format!(r#"{{"v":1,"taken":[[{runs}]]}}"#);
            assert_eq!(Marks::read(junk.as_bytes()), None, "{junk}");
        }
        assert!(Marks::read(br#"{"v":9,"taken":[[1,0,1]],"more":0}"#).is_some(), "a later version");
    }

    #[test]
    fn keys() {
        let bucket = Bucket::of(12, 4096 * 3 - 1);
        assert_eq!((bucket.number, bucket.end()), (2, 4096 * 3));
        assert_eq!(bucket.key("a-b"), "taken/12/2/a-b");
        assert_eq!(Bucket::of_key("taken/12/2/a-b"), Some((bucket, "a-b")));
        for junk in ["taken/1/2", "taken/x/2/n", "taken/1/y/n", "replay/1/2/n", "taken"] {
            assert_eq!(Bucket::of_key(junk), None, "{junk}");
        }
    }
}
