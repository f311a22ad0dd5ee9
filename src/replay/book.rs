//! What the state topic says of all replays: which there are, and which letters were taken, when and by which. Pure.

use std::collections::{BTreeMap, HashMap};

use super::{
    Of, Replay, Span, Stand, key,
    taken::{Bucket, Marks},
};
use crate::pipeline::state::Offsets;

/// A letter cannot be taken before it dies: a mark that is older than its letter is one of another log, a topic that was
/// deleted and made again. Clocks may differ by this many milliseconds at most.
const CLOCKS: i64 = 3_600_000;

/// Everything the state topic says of replays.
#[derive(Debug, Default, Clone)]
pub struct Book {
    replays: BTreeMap<String, Replay>,
    taken: HashMap<Bucket, BTreeMap<String, Marks>>,
    /// Replays whose record is of a later release.
    unreadable: Vec<String>,
}

/// A letter was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Take<'a> {
    /// The name of the replay.
    pub by: &'a str,
    /// When, in unix milliseconds, to the minute.
    pub at: i64,
}

impl Book {
    /// Takes in one record of the state topic; those of something else are left alone. A null value forgets.
    pub fn apply(&mut self, key: &str, value: Option<&[u8]>) {
        if let Some(name) = key.strip_prefix("replay/") {
            self.unreadable.retain(|other| other != name);
            self.replays.remove(name);
            match value.map(serde_json::from_slice) {
                Some(Ok(replay)) => drop(self.replays.insert(name.to_owned(), replay)),
                Some(Err(_)) => self.unreadable.push(name.to_owned()),
                None => {}
            }
        } else if let Some((bucket, name)) = Bucket::of_key(key) {
            match value.and_then(Marks::read) {
                Some(marks) => drop(self.taken.entry(bucket).or_default().insert(name.to_owned(), marks)),
                None => self.forget(bucket, name),
            }
        }
    }

    /// A replay by its name.
    pub fn replay(&self, name: &str) -> Option<&Replay> {
        self.replays.get(name)
    }

    /// All of them, by name.
    pub fn replays(&self) -> impl Iterator<Item = (&str, &Replay)> {
        self.replays.iter().map(|(name, replay)| (name.as_str(), replay))
    }

    /// Is there a record of this name that cannot be read here? It is of a later release.
    pub fn is_unreadable(&self, name: &str) -> bool {
        self.unreadable.iter().any(|other| other == name)
    }

    /// Who took the letter at this offset, which died at this time (its timestamp).
    pub fn takes(&self, partition: i32, offset: i64, died: i64) -> impl Iterator<Item = Take<'_>> {
        let names = self.taken.get(&Bucket::of(partition, offset)).into_iter().flatten();
        names.filter_map(move |(by, marks)| {
            let at = marks.at(offset)?;
            (died <= at.saturating_add(CLOCKS)).then_some(Take { by, at })
        })
    }

    /// Who took it last; `None` if nobody did.
    pub fn last_take(&self, partition: i32, offset: i64, died: i64) -> Option<Take<'_>> {
        self.takes(partition, offset, died).max_by_key(|take| take.at)
    }

    /// What a replay took of a bucket.
    pub fn marks(&self, bucket: Bucket, name: &str) -> Option<&Marks> {
        self.taken.get(&bucket)?.get(name)
    }

    /// Keys of records that say nothing any more: all they are about is below the first offsets that are left of the
    /// topics (topic → partition → offset). `dead` is the topic of the letters. Unfinished replays are kept.
    pub fn forgotten(&self, dead: &str, firsts: &Offsets) -> Vec<String> {
        let first = |topic: &str, partition: i32| firsts.get(topic).and_then(|f| f.get(&partition)).copied();
        let marks = self.taken.iter().flat_map(|(bucket, names)| {
            let over = first(dead, bucket.partition).is_some_and(|first| bucket.end() <= first);
            names.keys().filter(move |_| over).map(|name| bucket.key(name))
        });
        let gone = |replay: &Replay| {
            replay.stand != Stand::Unfinished
                && replay.spans.iter().all(|(topic, partitions)| {
                    let over = |(partition, span): (&i32, &Span)| {
                        first(topic, *partition).is_some_and(|first| span.to <= first)
                    };
                    partitions.iter().all(over)
                })
        };
        let replays = self.replays.iter().filter(|(_, replay)| gone(replay)).map(|(name, _)| key(name));
        let mut keys: Vec<String> = marks.chain(replays).collect();
        keys.sort_unstable();
        keys
    }

    /// An unfinished replay of another name that still has to read what these spans have, and where.
    pub fn rival<'a>(&'a self, name: &str, of: &'a Replay) -> Option<(&'a str, (&'a str, i32))> {
        let mut others = self.replays().filter(|(other, _)| *other != name);
        others.find_map(|(other, replay)| {
            let rivals = replay.is_unfinished() && compete(of, replay);
            Some((other, replay.meets(&of.spans).filter(|_| rivals)?))
        })
    }

    /// Replays of events that have sent some of what these spans have to the same endpoint.
    pub fn earlier<'a>(&'a self, of: &'a Replay) -> impl Iterator<Item = (&'a str, &'a Replay)> {
        let events = |replay: &Replay| replay.of == Of::Events && compete(of, replay);
        self.replays().filter(move |(_, replay)| events(replay) && replay.has_read(&of.spans).is_some())
    }

    fn forget(&mut self, bucket: Bucket, name: &str) {
        if let Some(names) = self.taken.get_mut(&bucket) {
            names.remove(name);
            if names.is_empty() {
                self.taken.remove(&bucket);
            }
        }
    }
}

/// Would the two send the same twice, were they to read the same?
fn compete(one: &Replay, other: &Replay) -> bool {
    match (one.of, other.of) {
        (Of::Letters, Of::Letters) => true,
        (Of::Events, Of::Events) => one.options.to == other.options.to,
        (Of::Letters, Of::Events) | (Of::Events, Of::Letters) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::{Counts, Options, Spans, VERSION, pace::Pace};

    fn replay(of: Of, stand: Stand, to: Option<&str>, span: (i64, i64, i64)) -> Replay {
        let to = to.map(str::to_owned);
        Replay {
            v: VERSION,
            of,
            begun: 0,
            at: 0,
            stand,
            filter: serde_json::Value::Null,
            options: Options { to, rate: None, reset_id: false, again: false, max_replays: 3 },
            spans: Spans::from([("d".to_owned(), [(0, Span::from(span))].into())]),
            counts: Counts::default(),
            pace: Pace::default(),
        }
    }

    fn book(replays: &[(&str, Replay)], taken: &[(i32, i64, &str, i64)]) -> Book {
        let mut book = Book::default();
        for (name, replay) in replays {
            let entry = replay.entry(name);
            book.apply(&entry.key, Some(&entry.value));
        }
        for (partition, offset, name, at) in taken {
            let bucket = Bucket::of(*partition, *offset);
            let mut marks = book.marks(bucket, name).cloned().unwrap_or_default();
            marks.take(*offset, *at);
            let entry = marks.entry(bucket, name);
            book.apply(&entry.key, Some(&entry.value));
        }
        book
    }

    #[test]
    fn who_took_a_letter_is_known_for_every_name() {
        let book = book(&[], &[(0, 5, "a", 10), (0, 5, "b", 30), (0, 6, "a", 10), (1, 5, "c", 10)]);
        let check = |partition, offset, died, expected: Option<(&str, i64)>, count| {
            let last = book.last_take(partition, offset, died).map(|take| (take.by, take.at));
            assert_eq!(
                (last, book.takes(partition, offset, died).count()),
                (expected, count),
                "{partition} {offset}"
            );
        };
        check(0, 5, 0, Some(("b", 30)), 2);
        check(0, 6, 0, Some(("a", 10)), 1);
        check(1, 5, 0, Some(("c", 10)), 1);
        check(0, 7, 0, None, 0);
        check(2, 5, 0, None, 0);
        check(0, 5, CLOCKS + 20, Some(("b", 30)), 1);
        check(0, 5, CLOCKS + 31, None, 0);
    }

    #[test]
    fn a_null_value_forgets() {
        let mut book = book(
            &[("a", replay(Of::Letters, Stand::Finished, None, (0, 9, 9)))],
            &[(0, 5, "a", 10), (0, 5, "b", 30)],
        );
        book.apply("taken/0/0/b", None);
        book.apply("replay/a", None);
        assert_eq!(book.last_take(0, 5, 0).map(|take| take.by), Some("a"));
        assert!(book.replay("a").is_none());
        book.apply("taken/0/0/a", None);
        assert!(book.taken.is_empty());
    }

    #[test]
    fn records_of_others_and_of_later_releases_are_left_alone() {
        let mut book = Book::default();
        for (key, value) in
            [("owner", "{}"), ("start/x", "{}"), ("taken/x", "{}"), ("taken/0/0/n", "[]"), ("", "")]
        {
            book.apply(key, Some(value.as_bytes()));
        }
        assert!(book.taken.is_empty() && book.replays.is_empty());
        book.apply("replay/n", Some(br#"{"v":2,"stand":"asleep"}"#));
        assert!(book.is_unreadable("n") && book.replay("n").is_none());
        book.apply("replay/n", None);
        assert!(!book.is_unreadable("n"));
    }

    #[test]
    fn what_is_below_the_log_is_forgotten() {
        let book = book(
            &[
                ("over", replay(Of::Letters, Stand::Finished, None, (0, 5_000, 5_000))),
                ("given-up", replay(Of::Letters, Stand::Cancelled, None, (0, 5_000, 0))),
                ("open", replay(Of::Letters, Stand::Unfinished, None, (0, 5_000, 5_000))),
                ("later", replay(Of::Letters, Stand::Finished, None, (0, 9_001, 9_001))),
            ],
            &[(0, 1, "over", 0), (0, 4_095, "later", 0), (0, 4_096, "over", 0), (1, 1, "over", 0)],
        );
        let forgotten = |first| book.forgotten("d", &Offsets::from([("d".to_owned(), [(0, first)].into())]));
        assert_eq!(forgotten(4_095), [""; 0]);
        assert_eq!(forgotten(4_096), ["taken/0/0/later", "taken/0/0/over"]);
        assert_eq!(
            forgotten(9_000),
            ["replay/given-up", "replay/over", "taken/0/0/later", "taken/0/0/over", "taken/0/1/over"]
        );
        assert_eq!(book.forgotten("d", &Offsets::new()), [""; 0], "nothing is known of the topic");
    }

    #[test]
    fn one_unfinished_replay_at_a_time_reads_the_same_letters() {
        let of = |of, to| replay(of, Stand::Unfinished, to, (0, 10, 0));
        let (letters, crm) = (of(Of::Letters, None), of(Of::Events, Some("crm")));
        let book = |other: &Replay| book(&[("ours", letters.clone()), ("other", other.clone())], &[]);
        let check = |ours: &Replay, other: &Replay, rivals: bool| {
            let found = book(other).rival("ours", ours).is_some();
            assert_eq!(found, rivals, "{ours:?} {other:?}");
        };
        check(&letters, &letters, true);
        check(&letters, &replay(Of::Letters, Stand::Finished, None, (0, 10, 0)), false);
        check(&letters, &replay(Of::Letters, Stand::Cancelled, None, (0, 10, 0)), false);
        check(&letters, &replay(Of::Letters, Stand::Unfinished, None, (0, 10, 10)), false);
        check(&letters, &crm, false);
        check(&crm, &crm, true);
        check(&crm, &of(Of::Events, Some("erp")), false);
        let sent = replay(Of::Events, Stand::Finished, Some("crm"), (0, 5, 5));
        assert_eq!(book(&sent).earlier(&crm).map(|(name, _)| name).collect::<Vec<_>>(), ["other"]);
        assert_eq!(book(&sent).earlier(&letters).count(), 0);
    }
}
