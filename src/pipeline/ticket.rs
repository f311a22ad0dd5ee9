//! One life of an assigned partition, and the tickets that may settle in it.
//!
//! A ticket travels with its delivery and is the only way back to the ledger. It settles, or it is handed back
//! (the event stays owed), or it is lost, which is loud: a lost ticket never advances an offset.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{
    ledger::{Ledger, Place, metadata::Position},
    stall::{Part, Sight},
    window::Share,
};
use crate::metrics::Metrics;

/// In hand: nothing; a record without a timestamp.
const NOTHING: i64 = -1;
const UNDATED: i64 = -2;

/// One life of one assigned partition. Results of an earlier life can neither settle nor commit in a later one.
#[derive(Debug)]
pub struct Partition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub id: i32,
    /// The delay, if this is a partition of a retry tier.
    pub tier: Option<Duration>,
    /// Is it read for one endpoint with a queue of its own?
    pub own: bool,
    /// Its number among all lives of this process; also its share of the window.
    pub epoch: Share,
    /// Cancelled when the partition is taken away; the same for all its lives until then.
    pub stop: CancellationToken,
    /// Has its position been committed and noted down as begun?
    pub begun: AtomicBool,
    ledger: Mutex<Ledger>,
    fenced: AtomicBool,
    lost: AtomicBool,
    /// The log's end as it was last seen from beside.
    end: AtomicI64,
    /// Timestamp of the record that was read and not opened yet, or one of [`NOTHING`] and [`UNDATED`].
    in_hand: AtomicI64,
    /// The last commit that was acknowledged, and whether the brokers were seen behind it.
    committed: AtomicI64,
    behind: AtomicBool,
    /// Tickets out.
    out: AtomicUsize,
    changed: Notify,
    metrics: Metrics,
}

impl Partition {
    /// A new life that begins at a position.
    pub fn new(
        (topic, id): (Arc<str>, i32),
        (tier, own): (Option<Duration>, bool),
        epoch: Share,
        position: Position,
        stop: CancellationToken,
        metrics: Metrics,
    ) -> Self {
        Self {
            topic,
            id,
            tier,
            own,
            epoch,
            stop,
            begun: AtomicBool::new(false),
            ledger: Mutex::new(Ledger::new(position)),
            fenced: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            end: AtomicI64::new(-1),
            in_hand: AtomicI64::new(NOTHING),
            committed: AtomicI64::new(-1),
            behind: AtomicBool::new(false),
            out: AtomicUsize::new(0),
            changed: Notify::new(),
            metrics,
        }
    }

    /// The ledger; the lock is never held across an await.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A ticket for one place of the ledger.
    pub fn ticket(self: &Arc<Self>, place: Place) -> Ticket {
        self.out.fetch_add(1, Ordering::AcqRel);
        Ticket { partition: Arc::clone(self), place, spent: false }
    }

    /// Ends this life: what settles from now on changes nothing any more.
    pub fn fence(&self) {
        self.fenced.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Has this life ended?
    pub fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }

    /// Must what came from it leave memory, because this life ends?
    pub fn is_ending(&self) -> bool {
        self.stop.is_cancelled() || self.is_fenced()
    }

    /// The log's end as it was last seen from beside.
    pub fn seen_end(&self) -> Option<i64> {
        Some(self.end.load(Ordering::Acquire)).filter(|end| *end >= 0)
    }

    /// The log's end was seen.
    pub fn see_end(&self, end: i64) {
        self.end.store(end, Ordering::Release);
    }

    /// Timestamp (unix milliseconds) of the oldest event read and not settled, or in hand and not opened yet.
    pub fn oldest_timestamp(&self) -> Option<i64> {
        let in_hand = Some(self.in_hand.load(Ordering::Relaxed)).filter(|timestamp| *timestamp >= 0);
        self.ledger().oldest_timestamp().or(in_hand)
    }

    /// A record was taken in hand.
    pub fn take_in_hand(&self, timestamp: i64) {
        let timestamp = if timestamp < 0 { UNDATED } else { timestamp };
        self.in_hand.store(timestamp, Ordering::Relaxed);
    }

    /// What was in hand is opened.
    pub fn hand_is_free(&self) {
        self.in_hand.store(NOTHING, Ordering::Relaxed);
    }

    /// How reading stands, while there is something to read and nothing to wait for. What is in hand waits for its tier,
    /// for its lane or for room, and who is crowded for deliveries.
    pub fn reading(&self, own: Option<&Arc<str>>) -> Option<Sight> {
        let (next, crowded) = {
            let ledger = self.ledger();
            (ledger.next(), ledger.is_crowded())
        };
        let free = !self.is_ending() && !crowded && self.in_hand.load(Ordering::Relaxed) == NOTHING;
        let unread = self.seen_end()? - next;
        (free && unread > 0).then(|| Sight {
            part: Part::Reading(Arc::clone(&self.topic), self.id, own.cloned()),
            progress: next.unsigned_abs(),
            waiting: unread.unsigned_abs(),
            may_take: Duration::ZERO,
        })
    }

    /// How the commits stand, while there is something to commit.
    pub fn commits(&self, own: Option<&Arc<str>>) -> Option<Sight> {
        let (base, committed) = (self.ledger().base(), self.believed_committed());
        (!self.is_ending() && base > committed).then(|| Sight {
            part: Part::Commits(Arc::clone(&self.topic), self.id, own.cloned()),
            progress: committed.max(0).unsigned_abs(),
            waiting: (base - committed.max(0)).unsigned_abs(),
            may_take: Duration::ZERO,
        })
    }

    /// Compares what the brokers say is committed with what we believe. The client does not report a partition that
    /// was refused while others of the same commit got through, so twice behind means: commit again.
    pub fn compare_committed(&self, believed: i64, committed: i64) {
        let before = self.behind.swap(committed < believed, Ordering::AcqRel);
        if before && committed < believed {
            let Self { topic, id, .. } = self;
            warn!(%topic, partition = id, committed, believed, "the brokers have an older commit than ours, committing again");
            self.metrics.commit(false);
            self.ledger().touch();
        }
    }

    /// The last commit that was acknowledged; -1 when none was.
    pub fn believed_committed(&self) -> i64 {
        self.committed.load(Ordering::Acquire)
    }

    /// A commit was acknowledged.
    pub fn acknowledged(&self, committed: i64) {
        self.committed.store(committed, Ordering::Release);
    }

    /// Was a ticket of it lost? Then it has to be opened again from its committed offset.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Resolves when no ticket is out any more.
    pub async fn all_back(&self) {
        loop {
            let changed = self.changed.notified();
            if self.out.load(Ordering::Acquire) == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Resolves when a ticket was lost.
    pub async fn ticket_lost(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_lost() {
                return;
            }
            changed.await;
        }
    }

    fn one_back(&self) {
        if self.out.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.changed.notify_waiters();
        }
    }
}

/// The duty to settle one delivery.
#[derive(Debug)]
pub struct Ticket {
    partition: Arc<Partition>,
    place: Place,
    spent: bool,
}

impl Ticket {
    /// The delivery is settled.
    pub fn settle(mut self) {
        self.spent = true;
        let mut ledger = self.partition.ledger();
        // Asked under the lock under which the next life copies what this one settled.
        if !self.partition.is_fenced() {
            ledger.settle(self.place);
        }
    }

    /// The delivery goes back unsettled: whoever reads the partition next owes it still.
    pub fn hand_back(mut self) {
        self.spent = true;
    }

    /// The life it belongs to.
    pub fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.spent && !self.partition.is_fenced() {
            let Partition { topic, id, .. } = &*self.partition;
            error!(%topic, partition = id, place = ?self.place, "ticket lost, this is a bug; partition is opened again");
            self.partition.metrics.ticket_lost();
            self.partition.lost.store(true, Ordering::Release);
            self.partition.changed.notify_waiters();
        }
        self.partition.one_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life() -> Arc<Partition> {
        let of = (Arc::from("orders"), 0);
        let (stop, metrics) = (CancellationToken::new(), Metrics::new(1));
        let life = Partition::new(of, (None, false), 1, Position::at(10), stop, metrics);
        life.see_end(15);
        life.acknowledged(10);
        Arc::new(life)
    }

    #[test]
    fn reading_is_shown_while_there_is_something_to_read_and_nothing_to_wait_for() {
        type Make = fn(&Partition);
        type Row = (&'static str, Make, Option<(u64, u64)>);
        let rows: [Row; 8] = [
            ("five records", |_| {}, Some((10, 5))),
            ("the end is not known", |life| life.see_end(-1), None),
            ("all is read", |life| life.see_end(10), None),
            ("a record is in hand", |life| life.take_in_hand(7), None),
            ("one without a timestamp is", |life| life.take_in_hand(-1), None),
            (
                "it was opened",
                |life| {
                    life.take_in_hand(-1);
                    life.ledger().open(10, -1, &[1]);
                    life.hand_is_free();
                },
                Some((11, 4)),
            ),
            ("it is taken away", |life| life.stop.cancel(), None),
            ("its life is over", Partition::fence, None),
        ];
        for (what, make, expected) in rows {
            let life = life();
            make(&life);
            let sight = life.reading(None);
            assert_eq!(sight.map(|sight| (sight.progress, sight.waiting)), expected, "{what}");
        }
        let dated = life();
        dated.take_in_hand(-1);
        assert_eq!(dated.oldest_timestamp(), None);
    }

    #[test]
    fn commits_are_shown_while_something_is_to_be_committed() {
        let life = life();
        assert_eq!(life.commits(None), None);
        let sequence = life.ledger().open(10, -1, &[1]);
        assert_eq!(life.commits(None), None);
        life.ticket(Ledger::place(sequence, 0)).settle();
        let sight = life.commits(Some(&"crm".into())).expect("one to commit");
        assert_eq!((sight.part.to_string().as_str(), sight.waiting), ("commits of orders/0 for crm", 1));
        life.acknowledged(11);
        assert_eq!(life.commits(None), None);
    }
}
