//! Releases or cancels what waits for one endpoint: exactly once, whatever is killed meanwhile.
//!
//! Copies and the markers that cover their originals are written in one transaction, batch by batch; so what was taken
//! is known wherever it ends, and whoever begins again takes the rest. There is one writer at a time: a later one takes
//! over, and reads the markers only then, so none is passed over.
//!
//! While an instance runs, what is ready soon is left to its reader ([`AHEAD`]). Some of that is only about to go
//! on to another tier; it is looked for again afterwards. Without members of the group nobody can act on anything.

use std::{collections::BTreeSet, ops::ControlFlow, time::Duration};

use bytes::Bytes;

use super::{Tiers, Waiting};
use crate::{
    config::settings::Settings,
    kafka::{
        consumer::{self, TopicPartition},
        observer::Observer,
        producer::Outgoing,
        scan::Scanner,
        topics::{dead_topic, state_topic, tier_topic},
        transaction::{self, Writer},
    },
    pipeline::{
        delivery::{millis, now},
        marker::{AHEAD, Act, CLOCKS, KNOWN_WITHIN, Marked, Marker},
        outcome::Reason,
        switches,
    },
    replay::known::{self, Known},
};

/// Records and bytes copied in one transaction: written in a fraction of a second, during which readers of the tier
/// `0s` and of the state topic wait.
const BATCH: usize = 1_000;
const BATCH_BYTES: usize = 4 << 20;
/// Looks at what is on the move between tiers. A wait is shorter after each; more are needed only if readers stand still.
const LOOKS: usize = 5;

/// Why not all was taken. What was taken before stays taken, and is not taken again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another command has begun.
    #[error("another `arauto retries` command has taken over; let it end and say it again")]
    Fenced,
    /// It was written in part.
    #[error("a batch was not written ({0}); what was taken before stays taken, say it again for the rest")]
    Write(transaction::Error),
    /// The state topic.
    #[error(transparent)]
    Known(#[from] known::Error),
    /// What waits cannot be told.
    #[error(transparent)]
    Look(#[from] super::Error),
    /// The brokers do not answer.
    #[error("the brokers cannot be asked: {0}")]
    Kafka(#[from] consumer::Error),
}

/// What is to be taken.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What becomes of it.
    pub act: Act,
    /// Whose deliveries.
    pub endpoint: String,
    /// Only these webhook ids; all if there are none.
    pub ids: BTreeSet<String>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Taken {
    /// Deliveries released or cancelled.
    pub taken: u64,
    /// Those that are due so soon that they go by themselves.
    pub due_soon: u64,
    /// Those that their reader is about to send or to move, and did not until this ended.
    pub left: u64,
    /// Those among the taken that may be made twice all the same: the brokers were slow, or an instance started.
    pub uncertain: u64,
}

/// Tells how it goes on.
pub enum Progress {
    /// So many were taken by now.
    Taken(u64),
    /// So many are on the move between tiers; they are looked for again after a time.
    Moving(u64, Duration),
}

/// Takes what is wanted.
pub fn take(settings: &Settings, wanted: &Wanted, mut tell: impl FnMut(Progress)) -> Result<Taken, Error> {
    let prefix = &settings.topics.prefix;
    let writer = Writer::begin(&settings.kafka, &format!("{prefix}.retries")).map_err(write_error)?;
    let observer = Observer::new(&settings.kafka)?;
    let never_read = TopicPartition { topic: state_topic(prefix).into(), partition: 0 };
    // After the writer became the only one: what an earlier one has committed is seen here.
    let marked = Known::read(settings, &observer)?.marked;
    let mut scanner = Scanner::new(&settings.kafka).map_err(super::Error::from)?;
    let mut taking = Taking {
        settings,
        wanted,
        writer,
        running: observer.has_members(&never_read)?,
        observer,
        never_read,
        marked,
        batch: Batch::default(),
        result: Taken::default(),
        moving: Vec::new(),
    };
    for look in 1..=LOOKS {
        taking.look(&mut scanner, look == 1, &mut tell)?;
        let Some(latest) = taking.moving.iter().max() else { break };
        taking.result.left = taking.moving.len() as u64;
        if look == LOOKS {
            break;
        }
        let wait = Duration::from_millis((latest - now()).max(0).unsigned_abs()) + KNOWN_WITHIN;
        tell(Progress::Moving(taking.result.left, wait));
        std::thread::sleep(wait);
    }
    if !taking.running && taking.result.taken > 0 && taking.is_running()? {
        taking.result.uncertain = taking.result.taken;
    }
    Ok(taking.result)
}

struct Taking<'a> {
    settings: &'a Settings,
    wanted: &'a Wanted,
    writer: Writer,
    observer: Observer,
    never_read: TopicPartition,
    /// Is anybody a member of the group?
    running: bool,
    marked: Marked,
    batch: Batch,
    result: Taken,
    /// When each of those is ready that are not due then, but left to their reader.
    moving: Vec<i64>,
}

#[derive(Default)]
struct Batch {
    waiting: Vec<Waiting>,
    bytes: usize,
}

impl Taking<'_> {
    /// One look at all tiers. After the first one the tier `0s` is left out: it has our own copies.
    fn look(
        &mut self,
        scanner: &mut Scanner,
        first: bool,
        tell: &mut impl FnMut(Progress),
    ) -> Result<(), Error> {
        (self.result.due_soon, self.result.left) = (0, 0);
        self.moving.clear();
        let tiers = Tiers::look(self.settings, &self.observer)?;
        let wanted = self.wanted;
        let marked = self.marked.clone();
        let mut failed = None;
        tiers.scan(
            scanner,
            &marked,
            |glance| {
                let id = || glance.id.and_then(|id| std::str::from_utf8(id).ok());
                wanted.ids.is_empty() || id().is_some_and(|id| wanted.ids.contains(id))
            },
            |waiting| {
                let is_meant = first || !waiting.delay.is_zero();
                if !is_meant || !waiting.original().is_for(&wanted.endpoint) {
                    return ControlFlow::Continue(());
                }
                self.batch.bytes += waiting.record.value.as_ref().map_or(0, Bytes::len);
                self.batch.waiting.push(waiting);
                let full = self.batch.waiting.len() >= BATCH || self.batch.bytes >= BATCH_BYTES;
                match full.then(|| self.write(tell)) {
                    Some(Err(error)) => {
                        failed = Some(error);
                        ControlFlow::Break(())
                    }
                    Some(Ok(())) | None => ControlFlow::Continue(()),
                }
            },
        )?;
        failed.map_or_else(|| self.write(tell), Err)
    }

    /// Writes the batch: copies, and the markers that cover their originals.
    fn write(&mut self, tell: &mut impl FnMut(Progress)) -> Result<(), Error> {
        let waiting = std::mem::take(&mut self.batch).waiting;
        if waiting.is_empty() {
            return Ok(());
        }
        self.running = self.running || self.is_running()?;
        let begun = now();
        let after = self.running.then(|| begun + millis(AHEAD));
        let (mut records, mut markers) = (Vec::new(), Vec::<Marker>::new());
        for waiting in &waiting {
            let ready = waiting.original().ready();
            let is_due = self.wanted.act == Act::Release && waiting.envelope.due <= begun;
            if is_due || after.is_some_and(|after| ready <= after) {
                self.leave(waiting, ready, begun + millis(AHEAD));
                continue;
            }
            self.mark(&mut markers, waiting, after);
            records.push(self.copy(waiting, begun));
        }
        let copies = records.len() as u64;
        if copies == 0 {
            return Ok(());
        }
        let state = state_topic(&self.settings.topics.prefix);
        for marker in markers {
            let entry = marker.entry(self.marked.next_number(begun));
            self.marked.apply(&entry.key, Some(&entry.value));
            records.push(switches::record(&state, entry));
        }
        self.writer.write(&records).map_err(write_error)?;
        // All of the time that is left for it was needed: a reader may have been earlier.
        if after.is_some_and(|after| now() > after - millis(KNOWN_WITHIN + CLOCKS)) {
            self.result.uncertain += copies;
        }
        self.result.taken += copies;
        tell(Progress::Taken(self.result.taken));
        Ok(())
    }

    fn leave(&mut self, waiting: &Waiting, ready: i64, soon: i64) {
        if waiting.envelope.due <= soon {
            self.result.due_soon += 1;
        } else {
            self.moving.push(ready);
        }
    }

    fn mark(&self, markers: &mut Vec<Marker>, waiting: &Waiting, after: Option<i64>) {
        let (topic, partition) = (&*waiting.record.topic, waiting.record.partition);
        let is_of = |marker: &&mut Marker| (&*marker.topic, marker.partition) == (topic, partition);
        let by_id = !self.wanted.ids.is_empty();
        match markers.iter_mut().find(is_of) {
            Some(marker) => marker.add(&waiting.original(), by_id),
            None => {
                let Wanted { act, endpoint, .. } = self.wanted;
                let mut marker = Marker::new(*act, endpoint, (topic, partition), after);
                marker.add(&waiting.original(), by_id);
                markers.push(marker);
            }
        }
    }

    fn copy(&self, waiting: &Waiting, now: i64) -> Outgoing {
        let prefix = &self.settings.topics.prefix;
        let mut envelope = waiting.envelope.clone();
        // It may have been named by its hash only.
        envelope.endpoint = self.wanted.endpoint.as_str().into();
        let topic = match self.wanted.act {
            Act::Release => {
                envelope.due = now;
                envelope.parks = 0;
                if envelope.replays > 0 && envelope.attempts == 0 {
                    // Or its reader would take it for a replay that begins, and count it once more.
                    envelope.reason = Reason::Shutdown;
                }
                tier_topic(prefix, Duration::ZERO)
            }
            Act::Cancel => {
                envelope.reason = Reason::Cancelled;
                dead_topic(prefix)
            }
        };
        let key = Some(Bytes::copy_from_slice(self.wanted.endpoint.as_bytes()));
        let headers = envelope.write(&waiting.headers);
        Outgoing { topic, key, value: waiting.record.value.clone(), headers }
    }

    fn is_running(&self) -> Result<bool, Error> {
        Ok(self.observer.has_members(&self.never_read)?)
    }
}

fn write_error(error: transaction::Error) -> Error {
    match error {
        transaction::Error::Fenced => Error::Fenced,
        other => Error::Write(other),
    }
}
