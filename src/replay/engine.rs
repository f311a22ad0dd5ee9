//! Does a replay: reads, judges, and writes batches in transactions until it has read what was there at its start.
//!
//! Blocks its thread. Killed at any point and begun again under its name it goes on where its last transaction ended.

use std::{thread, time::Duration};

use tokio::time::Instant;
use tracing::warn;

use super::{
    Of, Replay, Spans, Stand, VERSION,
    book::Book,
    journal::{Item, Journal},
    known::{self, Known},
    pick::{Picker, Refused, Survey, Verdict},
    taken::Bucket,
    tally::Tally,
    target::Why,
};
use crate::{
    config::settings::Settings,
    kafka::{
        consumer::TopicPartition,
        observer::Observer,
        producer::Outgoing,
        scan::{self, Scanner, Span, Step},
        topics::{dead_topic, state_topic, tier_topic},
        transaction::{self, Writer},
    },
    pipeline::{
        Headers,
        delivery::now,
        state::{Entry, Offsets},
    },
};

/// Records per transaction. Few enough that one takes a fraction of a second, many enough that its cost is small.
const BATCH: usize = 500;
/// Bytes per transaction, about.
const BATCH_BYTES: usize = 4 << 20;
/// A batch that fills slowly is written after this long.
const BATCH_AGE: Duration = Duration::from_secs(1);
/// Tries of a batch whose transaction was aborted, and waits between them.
const TRIES: u32 = 10;
const BACKOFF: Duration = Duration::from_millis(500);

/// Why a replay did not begin, or ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the name now.
    #[error(
        "another run of the replay {name} has taken over, or this one stood still for too long; nothing is lost or doubled, and the same name goes on"
    )]
    Fenced {
        /// Its name.
        name: String,
    },
    /// It was ended before.
    #[error("the replay {name} is {stand}; give the new one another --name")]
    Over {
        /// Its name.
        name: String,
        /// How it ended.
        stand: &'static str,
    },
    /// A later release began it.
    #[error("the replay {name} was begun by a later release of Arauto; go on with that one")]
    Later {
        /// Its name.
        name: String,
    },
    /// It is of the other kind.
    #[error("the replay {name} is {is}; give this one another --name")]
    Other {
        /// Its name.
        name: String,
        /// What it is.
        is: &'static str,
    },
    /// There is none.
    #[error("there is no replay {name}")]
    Absent {
        /// Its name.
        name: String,
    },
    /// Another one reads the same.
    #[error(
        "the replay {rival} is unfinished and still has to read the same of {topic}:{partition}; finish it with --name {rival}, or end it where it stands with --name {rival} --cancel"
    )]
    Rival {
        /// The other's name.
        rival: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// The state topic.
    #[error(transparent)]
    Known(#[from] known::Error),
    /// What is read.
    #[error(transparent)]
    Scan(#[from] scan::Error),
    /// What is written.
    #[error("{0}; run it again with --name {1}, and it goes on")]
    Write(#[source] transaction::Error, String),
}

/// A replay that has begun and is ours.
pub struct Engine {
    journal: Journal,
    writer: Writer,
    known: Known,
    tier: String,
    state: String,
    batch: Vec<Item>,
    bytes: usize,
    /// When the oldest of the batch came.
    since: Option<Instant>,
}

/// What is to be told while it works.
pub type Watch<'a> = &'a mut dyn FnMut(&Replay);

impl Engine {
    /// Becomes the one that does the replay of this name: goes on with it, or begins `fresh`. Who did it before is
    /// fenced before anything is read, so that all it has done is known.
    pub fn begin(
        settings: &Settings,
        observer: &Observer,
        name: &str,
        fresh: Replay,
        firsts: &Offsets,
    ) -> Result<Self, Error> {
        let (mut engine, replay) = Self::take_over(settings, observer, name, Some(fresh))?;
        if engine.known.book.replay(name).is_some() {
            check_goes_on(&engine.known.book, name, replay.of)?;
        } else {
            engine.claim(settings, &replay, firsts)?;
        }
        engine.journal = Journal::new(name, replay);
        Ok(engine)
    }

    /// Ends an unfinished replay where it stands.
    pub fn cancel(settings: &Settings, observer: &Observer, name: &str, of: Of) -> Result<Replay, Error> {
        let (engine, replay) = Self::take_over(settings, observer, name, None)?;
        check_goes_on(&engine.known.book, name, of)?;
        let cancelled = Replay { stand: Stand::Cancelled, at: now(), ..replay };
        engine.write(vec![said(&engine.state, cancelled.entry(name))])?;
        Ok(cancelled)
    }

    fn take_over(
        settings: &Settings,
        observer: &Observer,
        name: &str,
        fresh: Option<Replay>,
    ) -> Result<(Self, Replay), Error> {
        let prefix = &settings.topics.prefix;
        let failed = |error| failure(error, name);
        let writer = Writer::begin(&settings.kafka, &transactional_id(prefix, name)).map_err(failed)?;
        let state = state_topic(prefix);
        // Behind a transaction of somebody else that is still open nothing can be read: only when this has come back
        // is everything known that was written before it.
        let barrier = Entry { key: "barrier".to_owned(), value: format!("{name} {}", now()).into_bytes() };
        writer.write(&[said(&state, barrier.clone())]).map_err(failed)?;
        let known = Known::read_past(settings, observer, &barrier)?;
        let replay = known.book.replay(name).cloned().or(fresh);
        let replay = match replay {
            Some(replay) if !known.book.is_unreadable(name) => replay,
            Some(_) => return Err(Error::Later { name: name.to_owned() }),
            None => return Err(Error::Absent { name: name.to_owned() }),
        };
        let journal = Journal::new(name, replay.clone());
        let tier = tier_topic(prefix, Duration::ZERO);
        let engine = Self { journal, writer, known, tier, state, batch: Vec::new(), bytes: 0, since: None };
        Ok((engine, replay))
    }

    /// Writes a new replay down. Of two that begin at once and read the same, the one whose record comes first stays.
    fn claim(&mut self, settings: &Settings, replay: &Replay, firsts: &Offsets) -> Result<(), Error> {
        let name = self.journal.name().to_owned();
        check_alone(&self.known.book, &name, replay)?;
        let entry = replay.entry(&name);
        let forgotten = self.known.book.forgotten(&dead_topic(&settings.topics.prefix), firsts);
        let forgotten = forgotten.into_iter().map(|key| unsaid(&self.state, key));
        self.write(forgotten.chain([said(&self.state, entry.clone())]).collect())?;
        self.known.follow_until(&entry)?;
        if let Err(error) = check_alone(&self.known.book, &name, replay) {
            self.write(vec![unsaid(&self.state, super::key(&name))])?;
            return Err(error);
        }
        Ok(())
    }

    /// The replay as it is.
    pub fn replay(&self) -> &Replay {
        self.journal.replay()
    }

    /// What was known of all replays and endpoints when it began.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// Reads to the end and writes.
    pub fn run(
        mut self,
        scanner: &mut Scanner,
        picker: &mut Picker,
        limit: Option<u64>,
        watch: Watch<'_>,
    ) -> Result<(Replay, Tally), Error> {
        let mut tally = Tally::default();
        let spans = unread(&self.replay().spans);
        let mut reading = scanner.begin(&spans)?;
        while !self.is_full(limit) {
            match reading.step()? {
                Step::Record(seen) => {
                    let verdict = picker.judge(&seen);
                    let matched = !matches!(verdict, Verdict::Other);
                    self.journal.passed((seen.topic(), seen.partition(), seen.offset()), matched);
                    self.take_in(verdict, picker, &mut tally);
                }
                Step::Nothing => {}
                Step::End => {
                    self.journal.reached_end();
                    break;
                }
            }
            if self.is_due() {
                self.commit(Stand::Unfinished, &mut tally)?;
            }
            watch(self.replay());
        }
        self.commit(Stand::Finished, &mut tally)?;
        watch(self.replay());
        Ok((self.journal.replay().clone(), tally))
    }

    fn take_in(&mut self, verdict: Verdict, picker: &Picker, tally: &mut Tally) {
        match verdict {
            Verdict::Other => {}
            Verdict::Taken => {
                self.journal.taken();
                tally.taken += 1;
            }
            Verdict::Refused(refused) => {
                self.journal.refused();
                tally.refuse(refused);
            }
            Verdict::Replay(delivery) => {
                let interval = picker.targets().interval(&delivery.endpoint);
                tally.goes(&delivery.endpoint.id, interval);
                if self.replay().of == Of::Letters {
                    let bucket = Bucket::of(delivery.at.partition, delivery.at.offset);
                    let (book, name) = (&self.known.book, self.journal.name().to_owned());
                    self.journal.knows(bucket, || book.marks(bucket, &name).cloned());
                }
                let item = self.journal.item(*delivery, &self.tier, interval, now());
                self.bytes += size(&item.record);
                self.since.get_or_insert_with(Instant::now);
                self.batch.push(item);
            }
        }
    }

    fn is_full(&self, limit: Option<u64>) -> bool {
        let begun = self.replay().counts.written + u64::try_from(self.batch.len()).unwrap_or(0);
        limit.is_some_and(|limit| begun >= limit)
    }

    fn is_due(&self) -> bool {
        self.batch.len() >= BATCH
            || self.bytes >= BATCH_BYTES
            || self.since.is_some_and(|since| since.elapsed() >= BATCH_AGE)
    }

    /// Writes the batch and how far that brings the replay.
    fn commit(&mut self, stand: Stand, tally: &mut Tally) -> Result<(), Error> {
        let batch = std::mem::take(&mut self.batch);
        (self.bytes, self.since) = (0, None);
        match self.write_batch(&batch, &[], stand) {
            Err(Error::Write(transaction::Error::TooLarge, _)) => {}
            written => return written,
        }
        // The brokers refuse a batch as a whole: only what is refused alone is too large.
        for (at, item) in batch.iter().enumerate() {
            match self.write_batch(std::slice::from_ref(item), &batch[at + 1..], Stand::Unfinished) {
                Err(Error::Write(transaction::Error::TooLarge, _)) => {
                    self.journal.refused();
                    let Item { at, id, endpoint, .. } = item;
                    let (id, endpoint, at) = (id.clone(), endpoint.clone(), at.clone());
                    tally.went_not(&endpoint);
                    tally.refuse(Refused { id, endpoint, at, why: Why::TooLarge });
                }
                written => written?,
            }
        }
        self.write_batch(&[], &[], stand)
    }

    fn write_batch(&mut self, items: &[Item], left: &[Item], stand: Stand) -> Result<(), Error> {
        let mut proposal = self.journal.propose(items, left, stand, now());
        let entries = std::mem::take(&mut proposal.entries).into_iter();
        let records = items.iter().map(|item| item.record.clone());
        self.write(records.chain(entries.map(|entry| said(&self.state, entry))).collect())?;
        self.journal.accept(proposal);
        Ok(())
    }

    #[expect(clippy::needless_pass_by_value, reason = "made for this")]
    fn write(&self, records: Vec<Outgoing>) -> Result<(), Error> {
        let mut tries = 1;
        loop {
            match self.writer.write(&records) {
                Ok(()) => return Ok(()),
                Err(transaction::Error::Aborted(error)) if tries < TRIES => {
                    warn!(%error, "a transaction was aborted, trying again");
                    tries += 1;
                    thread::sleep(BACKOFF);
                }
                Err(error) => return Err(failure(error, self.journal.name())),
            }
        }
    }
}

/// What would become of what is read, without a word to anybody.
pub fn plan(
    scanner: &mut Scanner,
    replay: &Replay,
    picker: &mut Picker,
    limit: Option<u64>,
    watch: Watch<'_>,
) -> Result<Tally, Error> {
    let (mut tally, mut seen_so_far) = (Tally::default(), replay.clone());
    let limit = limit.map(|limit| limit.saturating_sub(replay.counts.written));
    let mut reading = scanner.begin(&unread(&replay.spans))?;
    while limit.is_none_or(|limit| tally.count() < limit) {
        let seen = match reading.step()? {
            Step::Record(seen) => seen,
            Step::Nothing => continue,
            Step::End => break,
        };
        seen_so_far.counts.read += 1;
        match picker.judge(&seen) {
            Verdict::Other => {}
            Verdict::Taken => tally.taken += 1,
            Verdict::Refused(refused) => tally.refuse(refused),
            Verdict::Replay(delivery) => {
                let interval = picker.targets().interval(&delivery.endpoint);
                tally.goes(&delivery.endpoint.id, interval);
            }
        }
        seen_so_far.counts.matched = tally.count() + tally.taken + tally.refused();
        watch(&seen_so_far);
    }
    Ok(tally)
}

/// Counts how often letters were replayed before, over all that the replay may read.
pub fn survey(scanner: &mut Scanner, spans: &Spans, book: &Book) -> Result<Survey, Error> {
    let mut survey = Survey::default();
    let whole = |(topic, partition, span): (&str, i32, &super::Span)| Span {
        topic: topic.into(),
        partition,
        from: span.from,
        to: span.to,
    };
    let spans: Vec<Span> = flat(spans).map(whole).collect();
    scanner.read(&spans, |seen| {
        survey.look_at(seen, book);
        std::ops::ControlFlow::Continue(())
    })?;
    Ok(survey)
}

/// Where the logs of these topics begin now.
pub fn firsts(scanner: &Scanner, spans: &Spans) -> Result<Offsets, Error> {
    let mut firsts = Offsets::new();
    for (topic, partition, _) in flat(spans) {
        let (first, _) = scanner.watermarks(&TopicPartition { topic: topic.into(), partition })?;
        firsts.entry(topic.to_owned()).or_default().insert(partition, first);
    }
    Ok(firsts)
}

/// Offsets that were still to be read and are not there any more.
pub fn lost(spans: &Spans, firsts: &Offsets) -> i64 {
    let lost = |(topic, partition, span): (&str, i32, &super::Span)| {
        let first = firsts.get(topic).and_then(|firsts| firsts.get(&partition)).copied().unwrap_or(0);
        (first.min(span.to) - span.next).max(0)
    };
    flat(spans).map(lost).sum()
}

fn flat(spans: &Spans) -> impl Iterator<Item = (&str, i32, &super::Span)> {
    spans.iter().flat_map(|(topic, partitions)| {
        partitions.iter().map(move |(partition, span)| (topic.as_str(), *partition, span))
    })
}

fn unread(spans: &Spans) -> Vec<Span> {
    let span = |(topic, partition, span): (&str, i32, &super::Span)| Span {
        topic: topic.into(),
        partition,
        from: span.next,
        to: span.to,
    };
    flat(spans).map(span).collect()
}

/// May this replay go on?
pub fn check_goes_on(book: &Book, name: &str, of: Of) -> Result<(), Error> {
    let name = name.to_owned();
    if book.is_unreadable(&name) {
        return Err(Error::Later { name });
    }
    let Some(replay) = book.replay(&name) else { return Err(Error::Absent { name }) };
    if replay.v > VERSION {
        return Err(Error::Later { name });
    }
    if replay.of != of {
        let is = match replay.of {
            Of::Letters => "one of dead letters: arauto dlq replay",
            Of::Events => "a backfill: arauto backfill",
        };
        return Err(Error::Other { name, is });
    }
    match replay.stand {
        Stand::Unfinished => Ok(()),
        Stand::Finished => Err(Error::Over { name, stand: "finished" }),
        Stand::Cancelled => Err(Error::Over { name, stand: "cancelled" }),
    }
}

/// Is no other one to read the same?
pub fn check_alone(book: &Book, name: &str, replay: &Replay) -> Result<(), Error> {
    let Some((rival, (topic, partition))) = book.rival(name, replay) else { return Ok(()) };
    Err(Error::Rival { rival: rival.to_owned(), topic: topic.to_owned(), partition })
}

/// Whoever has this id is the one that does the replay.
fn transactional_id(prefix: &str, name: &str) -> String {
    format!("{prefix}.replay.{name}")
}

fn failure(error: transaction::Error, name: &str) -> Error {
    match error {
        transaction::Error::Fenced => Error::Fenced { name: name.to_owned() },
        error => Error::Write(error, name.to_owned()),
    }
}

fn said(topic: &str, entry: Entry) -> Outgoing {
    Outgoing { value: Some(entry.value.into()), ..unsaid(topic, entry.key) }
}

fn unsaid(topic: &str, key: String) -> Outgoing {
    Outgoing { topic: topic.to_owned(), key: Some(key.into()), value: None, headers: Headers::default() }
}

fn size(record: &Outgoing) -> usize {
    record.value.as_ref().map_or(0, bytes::Bytes::len) + record.headers.size()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_unfinished_and_understood_goes_on() {
        let check = |name: &str, value: &str, of, expected: &str| {
            let mut book = Book::default();
            book.apply(&super::super::key("n"), Some(value.as_bytes()));
            let told =
                check_goes_on(&book, name, of).map_or_else(|error| error.to_string(), |()| String::new());
            assert!(told.contains(expected) && told.is_empty() == expected.is_empty(), "{value}: {told}");
        };
        let record = |v: u32, stand: &str| {
            let options = r#"{"reset_id":false,"again":false,"max_replays":3}"#;
            let rest = format!(r#""filter":{{}},"options":{options},"spans":{{}}"#);
            format!(r#"{{"v":{v},"of":"letters","begun":1,"at":1,"stand":"{stand}",{rest}}}"#)
        };
        check("n", &record(1, "unfinished"), Of::Letters, "");
        check("m", &record(1, "unfinished"), Of::Letters, "there is no replay m");
        check("n", &record(1, "unfinished"), Of::Events, "is one of dead letters");
        check("n", &record(1, "finished"), Of::Letters, "is finished");
        check("n", &record(1, "cancelled"), Of::Letters, "is cancelled");
        check("n", &record(2, "unfinished"), Of::Letters, "a later release");
        check("n", r#"{"v":3}"#, Of::Letters, "a later release");
    }
}
