//! One task per assigned partition: reads, opens tickets, routes, hands to lanes. Retry tiers wait until due.
//!
//! It never looks at a result: the ticket is the only way back. With the window full, or a lane pushing back, it
//! does not read, and Kafka is the queue.

use std::sync::Arc;

use tokio::time::sleep;
use tracing::{debug, warn};

use super::{
    Event, Record,
    assignment::Shared,
    delivery::{Delivery, Held, now},
    lane::lanes::Fed,
    ledger::{Carried, Ledger, metadata::Owed},
    own::Reads,
    route::{Verdict, explain, may_have},
    ticket::Partition,
    window::{Class, Place},
};
use crate::{
    config::settings::{self, Endpoint, Priority},
    kafka::consumer::{Next, Queue},
    metrics::{self, Unmatched, endpoint::Origin},
    otel,
    registry::{endpoint_hash, hash_name},
};

mod tier;

/// The reader of one assigned partition, through all its lives.
pub(super) struct Source {
    shared: Arc<Shared>,
    queue: Queue,
    life: Arc<Partition>,
    fed: Fed,
    topic: Arc<metrics::Topic>,
    /// When the partition was assigned, in unix milliseconds.
    since: i64,
    matches: Vec<Arc<Endpoint>>,
}

/// What one opened record is for.
struct Opened {
    held: Arc<Held>,
    sequence: u64,
}

impl Source {
    pub(super) fn new(shared: Arc<Shared>, queue: Queue, life: Arc<Partition>) -> Self {
        let topic = shared.metrics.topic(&life.topic);
        Self { shared, queue, life, fed: Fed::default(), topic, since: now(), matches: Vec::new() }
    }

    /// Reads until the partition is taken away.
    pub(super) async fn run(mut self) {
        loop {
            let life = Arc::clone(&self.life);
            tokio::select! {
                // Stopping wins: nothing is opened any more once the partition is to go.
                biased;
                () = life.stop.cancelled() => return,
                () = life.ticket_lost() => {
                    life.stop.run_until_cancelled(self.begin_anew(None)).await;
                }
                () = self.step() => {}
            }
        }
    }

    async fn step(&mut self) {
        if self.life.ledger().is_crowded() {
            let Partition { topic, id, .. } = &*self.life;
            debug!(%topic, partition = id, "intake stops until less is owed out of order");
        }
        while self.life.ledger().is_crowded() {
            sleep(self.shared.commit_interval).await;
        }
        match self.queue.next().await {
            None => self.step_over_holes().await,
            Some(Next::Record(record)) => {
                if record.offset < self.life.ledger().next() {
                    let offset = record.offset;
                    warn!(topic = %record.topic, partition = record.partition, offset, "offset below what was read");
                    return self.reset().await;
                }
                self.life.take_in_hand(record.timestamp);
                match self.life.tier {
                    None => self.source_record(record).await,
                    Some(delay) => self.tier_record(record, delay).await,
                }
                self.life.hand_is_free();
            }
            Some(Next::OutOfRange | Next::Truncated) => self.reset().await,
        }
    }

    /// Nothing came for a while. When the log ends above what was read, there may be only holes in between, such as
    /// transaction markers. Control records went through our queue unseen, and with them the client's position; all
    /// that it has passed was read before, and is in the ledger now.
    async fn step_over_holes(&mut self) {
        let next = self.life.ledger().next();
        if self.life.seen_end().is_none_or(|end| end <= next) {
            return;
        }
        let (consumer, of) = (self.queue.consumer.clone(), self.queue.of.clone());
        let position = self.shared.blocking("position", move || consumer.position(&of)).await;
        if let Some(Ok(Some(position))) = position {
            self.life.ledger().reached_end(position);
        }
    }

    async fn source_record(&mut self, record: Record) {
        if self.shared.reads == Reads::Everyone {
            self.topic.event();
        }
        let carried = self.life.ledger().carried(record.offset);
        if carried == Carried::Settled {
            return self.settled(&record, None);
        }
        if record.value.is_none() {
            return self.settled(&record, Some(Unmatched::Tombstone));
        }
        let bytes = self.room_for(&record).await;
        let event = self.shared.decoder.decode(record);
        let mut matches = std::mem::take(&mut self.matches);
        matches.clear();
        let gone = match self.shared.reads.clone() {
            Reads::Everyone => self.match_everyone(&event, &carried, &mut matches),
            Reads::Endpoint(id) => self.match_own(&id, &event, &carried, &mut matches).await,
        };
        let (offset, timestamp) = (event.offset, event.timestamp);
        let hashes: Vec<u32> =
            matches.iter().map(|e| endpoint_hash(&e.id)).chain(gone.iter().copied()).collect();
        let opened = self.open(event, (offset, timestamp), bytes, &hashes);
        self.fed.event();
        for (slot, endpoint) in matches.iter().enumerate() {
            let urgent = (opened.held.event.priority.unwrap_or(endpoint.priority), false);
            let mut delivery = self.delivery(&opened, slot, Arc::clone(&endpoint.id), urgent).await;
            delivery.trace = otel::begin(self.shared.tracer.as_ref(), delivery.event());
            self.shared.metrics.endpoint(&endpoint.id).opened(Origin::Source);
            self.hand(delivery).await;
        }
        for (slot, hash) in gone.into_iter().enumerate() {
            let name: Arc<str> = hash_name(hash).into();
            self.shared.metrics.endpoint(&name).opened(Origin::Source);
            let urgent = (Priority::Normal, false);
            let mut delivery = self.delivery(&opened, matches.len() + slot, name, urgent).await;
            delivery.trace = otel::begin(self.shared.tracer.as_ref(), delivery.event());
            self.shared.settler.unknown(delivery);
        }
        self.matches = matches;
    }

    /// Whom the main group delivers an event to, and the hashes of endpoints that are not known but owed it.
    fn match_everyone(&self, event: &Event, carried: &Carried, matches: &mut Vec<Arc<Endpoint>>) -> Vec<u32> {
        self.shared.registry.snapshot().route(event, matches);
        let gone = self.keep_owed(carried, event, matches);
        if matches.is_empty() && gone.is_empty() {
            self.topic.unmatched(Unmatched::NoEndpoint);
        }
        let moved = self.shared.positions.moved_out();
        let of = (&*event.topic, event.partition);
        matches.retain(|endpoint| {
            endpoint.queue == settings::Queue::Shared && !moved.covers(&endpoint.id, of, event.offset)
        });
        gone
    }

    /// The same for an endpoint's own group. When the endpoint is not known, nothing is read past: its group is about
    /// to be left, and goes on here should the endpoint come back.
    async fn match_own(
        &self,
        id: &str,
        event: &Event,
        carried: &Carried,
        matches: &mut Vec<Arc<Endpoint>>,
    ) -> Vec<u32> {
        let Some(endpoint) = self.shared.registry.snapshot().by_id(id).cloned() else {
            self.life.stop.cancelled().await;
            return Vec::new();
        };
        if explain(event, &endpoint) == Verdict::Wanted {
            matches.push(endpoint);
        }
        self.keep_owed(carried, event, matches)
    }

    /// Narrows the matches to what an earlier life left owed; returns the hashes of endpoints that are not known.
    fn keep_owed(&self, carried: &Carried, event: &Event, matches: &mut Vec<Arc<Endpoint>>) -> Vec<u32> {
        let Carried::Owed(Owed::To(owed)) = carried else { return Vec::new() };
        matches.retain(|endpoint| owed.contains(&endpoint_hash(&endpoint.id)));
        let registry = self.shared.registry.snapshot();
        let mut gone = Vec::new();
        for hash in owed {
            if matches.iter().any(|endpoint| endpoint_hash(&endpoint.id) == *hash) {
                continue;
            }
            match registry.by_hash(*hash).find(|endpoint| may_have(endpoint, event)) {
                // It wanted the event when it was read first.
                Some(endpoint) if endpoint.enabled => matches.push(Arc::clone(endpoint)),
                // Its own group owes it now.
                Some(endpoint)
                    if endpoint.queue == settings::Queue::Own && self.shared.reads == Reads::Everyone => {}
                _ => gone.push(*hash),
            }
        }
        gone
    }

    async fn room_for(&self, record: &Record) -> Place {
        self.shared.window.bytes(self.life.epoch, record.size().max(1)).await
    }

    /// Nothing is owed of it (any more).
    fn settled(&self, record: &Record, unmatched: Option<Unmatched>) {
        if let Some(reason) = unmatched.filter(|_| self.shared.reads == Reads::Everyone) {
            self.topic.unmatched(reason);
        }
        self.life.ledger().open(record.offset, record.timestamp, &[]);
    }

    /// Opens an event for its endpoints where its record stands: on a tier that is not where the event stands.
    fn open(&self, event: Event, (offset, timestamp): (i64, i64), bytes: Place, endpoints: &[u32]) -> Opened {
        let sequence = self.life.ledger().open(offset, timestamp, endpoints);
        Opened { held: Arc::new(Held { event, bytes }), sequence }
    }

    /// One delivery of an opened event; `urgent` is its priority, and whether it was attempted before.
    async fn delivery(
        &self,
        opened: &Opened,
        slot: usize,
        endpoint: Arc<str>,
        urgent: (Priority, bool),
    ) -> Delivery {
        let place = self.shared.window.place(self.life.epoch, Class::new(urgent.0, urgent.1)).await;
        let ticket = self.life.ticket(Ledger::place(opened.sequence, slot));
        Delivery::first(Arc::clone(&opened.held), endpoint, urgent.0, (ticket, place))
    }

    /// Hands a delivery to its lane. When the partition is taken away meanwhile the event stays owed.
    async fn hand(&mut self, delivery: Delivery) {
        let mut slot = Handing(Some(delivery));
        self.shared.lanes.hand(&mut slot.0, &mut self.fed).await;
    }

    /// The position is not in the log any more, or the log is another one.
    async fn reset(&mut self) {
        let read_up_to = self.life.ledger().next();
        let (consumer, of) = (self.queue.consumer.clone(), self.queue.of.clone());
        let positions = Arc::clone(&self.shared.positions);
        let start = self
            .shared
            .blocking("reset", move || positions.after_reset(&consumer, &of, read_up_to))
            .await
            .flatten();
        if start.is_some() {
            self.begin_anew(start).await;
        }
    }

    /// A new life of the partition: what the old one held can settle nothing any more. It begins at a new position
    /// when the log changed, else at the committed one.
    async fn begin_anew(&mut self, fresh: Option<i64>) {
        let Some(life) = self.shared.next_life(&self.life, fresh) else {
            // It is over: the partition, or the process.
            return self.life.stop.cancelled().await;
        };
        let start = life.ledger().base();
        debug!(topic = %life.topic, partition = life.id, start, "the partition begins a new life");
        self.life = life;
        self.queue.forget();
        loop {
            let (consumer, of) = (self.queue.consumer.clone(), self.queue.of.clone());
            let stop = self.life.stop.clone();
            match self.shared.blocking("restart", move || consumer.restart(&of, start, &stop)).await {
                Some(Ok(())) | None => return,
                // The partition is being taken away, and whoever does it waits for us.
                Some(Err(_)) if self.life.stop.is_cancelled() => return,
                Some(Err(error)) => warn!(%error, "partition not begun anew, trying again"),
            }
            sleep(self.shared.commit_interval).await;
        }
    }
}

/// A delivery on its way into a lane; goes back unsettled when that is cancelled.
struct Handing(Option<Delivery>);

impl Drop for Handing {
    fn drop(&mut self) {
        if let Some(delivery) = self.0.take() {
            delivery.ticket.hand_back();
        }
    }
}
