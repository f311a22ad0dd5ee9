//! What a replay writes: the records of a batch, and in the same transaction how far it has come and what it took. Pure.
//!
//! A batch is proposed first and counts when it was written; one that was not can be proposed again.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    Of, Replay, Stand,
    pick::{At, Delivery},
    taken::{Bucket, Marks},
};
use crate::{kafka::producer::Outgoing, pipeline::state::Entry};

/// A replay at work.
#[derive(Debug)]
pub struct Journal {
    name: String,
    replay: Replay,
    marks: BTreeMap<Bucket, Marks>,
}

/// A record on its way, and where it comes from.
#[derive(Debug)]
pub struct Item {
    /// The record.
    pub record: Outgoing,
    /// Where that stands which it is made of.
    pub at: At,
    /// The webhook id.
    pub id: Arc<str>,
    /// Where it goes.
    pub endpoint: Arc<str>,
}

/// What is known when a batch has been written.
#[derive(Debug)]
pub struct Proposal {
    replay: Replay,
    marks: BTreeMap<Bucket, Marks>,
    /// The records that say so.
    pub entries: Vec<Entry>,
}

impl Journal {
    /// Goes on from a replay's record; `marks` is what it took before.
    pub fn new(name: &str, replay: Replay) -> Self {
        Self { name: name.to_owned(), replay, marks: BTreeMap::new() }
    }

    /// The replay as it is now, with what was read and is not written down yet.
    pub fn replay(&self) -> &Replay {
        &self.replay
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the replay took of a bucket before it was interrupted.
    pub fn knows(&mut self, bucket: Bucket, marks: impl FnOnce() -> Option<Marks>) {
        self.marks.entry(bucket).or_insert_with(|| marks().unwrap_or_default());
    }

    /// A record was read.
    pub fn passed(&mut self, at: (&str, i32, i64), matched: bool) {
        let (topic, partition, offset) = at;
        if let Some(span) = self.replay.spans.get_mut(topic).and_then(|spans| spans.get_mut(&partition)) {
            span.next = offset.saturating_add(1);
        }
        self.replay.counts.read += 1;
        self.replay.counts.matched += u64::from(matched);
    }

    /// What was read had been taken before.
    pub fn taken(&mut self) {
        self.replay.counts.taken += 1;
    }

    /// What was read is refused.
    pub fn refused(&mut self) {
        self.replay.counts.refused += 1;
    }

    /// Everything was read that was to be.
    pub fn reached_end(&mut self) {
        for span in self.replay.spans.values_mut().flat_map(BTreeMap::values_mut) {
            span.next = span.to;
        }
    }

    /// The record of a delivery on the tier, due at the replay's rate. Its age counts from then on, for at a low rate
    /// it would be too old otherwise before it is ever due.
    pub fn item(&mut self, delivery: Delivery, tier: &str, interval: i64, now: i64) -> Item {
        let Delivery { endpoint, mut envelope, headers, value, at } = delivery;
        let due = self.replay.pace.due(&endpoint.id, interval, now);
        (envelope.due, envelope.first_seen) = (due, due);
        let key = Some(Bytes::copy_from_slice(endpoint.id.as_bytes()));
        let record = Outgoing { topic: tier.to_owned(), key, value, headers: envelope.write(&headers) };
        Item { record, at, id: envelope.id, endpoint: Arc::clone(&endpoint.id) }
    }

    /// What is to be written down together with `items`, when `left` have been read but are still to be written.
    pub fn propose(&self, items: &[Item], left: &[Item], stand: Stand, now: i64) -> Proposal {
        let mut replay = Replay { at: now, stand, pace: self.replay.pace.kept(now), ..self.replay.clone() };
        replay.counts.written += u64::try_from(items.len()).unwrap_or(0);
        for At { topic, partition, offset } in left.iter().map(|item| &item.at) {
            if let Some(span) = replay.spans.get_mut(&**topic).and_then(|spans| spans.get_mut(partition)) {
                span.next = span.next.min(*offset);
            }
        }
        let mut marks = BTreeMap::new();
        if replay.of == Of::Letters {
            for At { partition, offset, .. } in items.iter().map(|item| &item.at) {
                let bucket = Bucket::of(*partition, *offset);
                let known = || self.marks.get(&bucket).cloned().unwrap_or_default();
                marks.entry(bucket).or_insert_with(known).take(*offset, now);
            }
        }
        let entries = marks.iter().map(|(bucket, marks)| marks.entry(*bucket, &self.name));
        let entries = entries.chain([replay.entry(&self.name)]).collect();
        Proposal { replay, marks, entries }
    }

    /// It was written.
    pub fn accept(&mut self, proposal: Proposal) {
        let Proposal { replay: Replay { at, stand, counts, .. }, marks, .. } = proposal;
        // What was read meanwhile, and the pace with what is over, stay as they are.
        (self.replay.at, self.replay.stand, self.replay.counts.written) = (at, stand, counts.written);
        self.marks.extend(marks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::{Counts, Options, Span, Spans, VERSION, pace::Pace};

    fn journal(of: Of) -> Journal {
        let spans = [(0, Span::new(0, 100)), (1, Span::new(0, 100))];
        let replay = Replay {
            v: VERSION,
            of,
            begun: 0,
            at: 0,
            stand: Stand::Unfinished,
            filter: serde_json::Value::Null,
            options: Options { to: None, rate: None, reset_id: false, again: false, max_replays: 3 },
            spans: Spans::from([("d".to_owned(), spans.into())]),
            counts: Counts::default(),
            pace: Pace::default(),
        };
        Journal::new("n", replay)
    }

    fn item(partition: i32, offset: i64) -> Item {
        let headers = crate::pipeline::Headers::default();
        let record = Outgoing { topic: "t".to_owned(), key: None, value: None, headers };
        Item { record, at: At { topic: "d".into(), partition, offset }, id: "i".into(), endpoint: "e".into() }
    }

    fn positions(proposal: &Proposal) -> (Vec<i64>, u64) {
        let spans = proposal.replay.spans["d"].values().map(|span| span.next).collect();
        (spans, proposal.replay.counts.written)
    }

    #[test]
    fn what_was_read_but_not_written_stays_to_be_read() {
        let mut journal = journal(Of::Letters);
        for (partition, offset) in [(0, 3), (1, 5), (0, 4), (1, 9)] {
            journal.passed(("d", partition, offset), true);
        }
        let items = [item(0, 3), item(1, 5), item(0, 4)];
        assert_eq!(positions(&journal.propose(&items, &[], Stand::Unfinished, 1)), (vec![5, 10], 3));
        assert_eq!(
            positions(&journal.propose(&items[..1], &items[1..], Stand::Unfinished, 1)),
            (vec![4, 5], 1)
        );
        assert_eq!(journal.replay().left(), 95 + 90);
        journal.reached_end();
        assert_eq!(journal.replay().left(), 0);
    }

    #[test]
    fn a_proposal_counts_when_it_was_written() {
        let mut journal = journal(Of::Letters);
        let items = [item(0, 3), item(1, 5_000)];
        let keys = |proposal: &Proposal| -> Vec<String> {
            proposal.entries.iter().map(|entry| entry.key.clone()).collect()
        };
        let first = journal.propose(&items, &[], Stand::Unfinished, 1);
        assert_eq!(keys(&first), ["taken/0/0/n", "taken/1/1/n", "replay/n"]);
        let again = journal.propose(&items, &[], Stand::Unfinished, 1);
        assert_eq!(again.entries, first.entries, "nothing has happened yet");
        journal.accept(again);
        let more = journal.propose(&[item(0, 4)], &[], Stand::Finished, 2);
        assert_eq!(String::from_utf8_lossy(&more.entries[0].value), r#"{"v":1,"taken":[[2,3,2]]}"#);
        journal.accept(more);
        assert_eq!((journal.replay().counts.written, journal.replay().stand), (3, Stand::Finished));
    }

    #[test]
    fn what_was_taken_before_an_interruption_is_kept() {
        let mut journal = journal(Of::Letters);
        let mut before = Marks::default();
        before.take(1, 0);
        journal.knows(Bucket::of(0, 0), || Some(before));
        let proposal = journal.propose(&[item(0, 3)], &[], Stand::Unfinished, 0);
        assert_eq!(String::from_utf8_lossy(&proposal.entries[0].value), r#"{"v":1,"taken":[[0,1,1,1,1]]}"#);
    }

    #[test]
    fn events_leave_no_marks() {
        let proposal = journal(Of::Events).propose(&[item(0, 3)], &[], Stand::Unfinished, 1);
        assert_eq!(proposal.entries.len(), 1);
    }
}
