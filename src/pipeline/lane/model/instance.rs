//! One instance: what `source.rs`, `lanes.rs`, `lane.rs`, `settle.rs` and `assignment.rs` do, in plain words and one
//! step at a time.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    books::Pair,
    kafka::{Log, Of},
    line::{Flight, Lane, number, pair},
    world::Sim,
};
use crate::{
    config::settings::{Endpoint, OnRemoved},
    kafka::headers::Envelope,
    metrics::endpoint::Park,
    pipeline::{
        Event, Record,
        delivery::{Delivery, Held, millis},
        lane::core::{Bounds, Next, Standing},
        ledger::{Carried, Ledger, metadata::Owed},
        outcome::{self, AttemptResult, Outcome, Reason},
        switch::{Disabled, Why, url_hash},
        ticket::Partition,
        window::Class,
    },
};

#[derive(Default)]
pub(super) struct Instance {
    /// The endpoints it knows, by number.
    pub(super) endpoints: Vec<Option<Arc<Endpoint>>>,
    pub(super) readers: BTreeMap<Of, Reader>,
    pub(super) lanes: Vec<Lane>,
    pub(super) writes: Vec<Write>,
}

/// The source of one partition.
pub(super) struct Reader {
    pub(super) life: Arc<Partition>,
    /// Opened and not handed over yet.
    pub(super) handing: VecDeque<Delivery>,
    /// The lanes it has fed, each with the number of the last event it got.
    fed: Vec<(usize, usize)>,
    events: usize,
    /// Settled, and not committed.
    pub(super) settled: Vec<Pair>,
}

/// A record on its way to the brokers.
pub(super) struct Write {
    pub(super) delivery: Delivery,
    pub(super) to: To,
    reason: Reason,
    /// Does it still hold its place in its lane?
    held: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Tier(Duration),
    Dead,
}

impl Instance {
    pub(super) fn assign(&mut self, of: Of, sim: &mut Sim) {
        let position = sim.kafka.position(of);
        sim.note(|| format!("assigned {of:?} at {position:?}"));
        let epoch = sim.epochs;
        sim.epochs += 1;
        let (metrics, stop) = (sim.metrics.clone(), CancellationToken::new());
        let tier = (of.log.tier(), of.own.is_some());
        let life = Partition::new((format!("{of:?}").into(), 0), tier, epoch, position, stop, metrics);
        life.ledger().touch();
        let (handing, fed) = (VecDeque::new(), Vec::new());
        let reader = Reader { life: Arc::new(life), handing, fed, events: 0, settled: Vec::new() };
        self.readers.insert(of, reader);
    }

    /// When the next record of a partition can be read, if there is one.
    pub(super) fn readable(&self, of: Of, sim: &Sim) -> Option<i64> {
        let reader = &self.readers[&of];
        let ledger = reader.life.ledger();
        if !reader.handing.is_empty() || ledger.is_crowded() {
            return None;
        }
        let Some(record) = sim.kafka.next(of.log, ledger.next()) else {
            return (sim.kafka.end(of.log) > ledger.next()).then_some(sim.now);
        };
        let delay = of.log.tier().unwrap_or_default();
        let due = sim.kafka.due(of.log, record.offset);
        Some(record.timestamp.min(sim.now).saturating_add(millis(delay)).min(due))
    }

    pub(super) fn read(&mut self, of: Of, sim: &mut Sim) {
        let life = Arc::clone(&self.readers[&of].life);
        let next = life.ledger().next();
        let Some(record) = sim.kafka.next(of.log, next).cloned() else {
            return life.ledger().reached_end(sim.kafka.end(of.log));
        };
        self.reader(of).events += 1;
        let carried = life.ledger().carried(record.offset);
        if carried == Carried::Settled {
            life.ledger().open(record.offset, record.timestamp, &[]);
            return;
        }
        match of.log {
            Log::Source(_) => self.read_event(of, &life, &record, &carried, sim),
            Log::Tier(_) => self.read_retry(of, &life, &record, sim),
        }
    }

    fn read_event(
        &mut self,
        of: Of,
        life: &Arc<Partition>,
        record: &Record,
        carried: &Carried,
        sim: &mut Sim,
    ) {
        let wants = |endpoint: &&Arc<Endpoint>| match of.own {
            Some(own) => number(&endpoint.id) == own,
            None => !sim.is_own(number(&endpoint.id)),
        };
        let mut matches: Vec<Arc<Endpoint>> =
            self.endpoints.iter().flatten().filter(wants).cloned().collect();
        let mut gone = Vec::new();
        if let Carried::Owed(Owed::To(owed)) = carried {
            let all: Vec<usize> = (0..self.endpoints.len()).collect();
            matches.retain(|endpoint| owed.contains(&sim.hashes[number(&endpoint.id)]));
            let known = |number: &usize| matches.iter().any(|e| super::line::number(&e.id) == *number);
            let owed = |number: &usize| owed.contains(&sim.hashes[*number]);
            gone = all.into_iter().filter(|number| owed(number) && !known(number)).collect();
        }
        let names: Vec<Arc<str>> = matches
            .iter()
            .map(|endpoint| Arc::clone(&endpoint.id))
            .chain(gone.iter().map(|number| format!("e{number}").into()))
            .collect();
        if matches!(carried, Carried::New | Carried::Owed(Owed::All)) {
            for endpoint in 0..self.endpoints.len() {
                if sim.is_own(endpoint) == of.own.is_some() && of.own.is_none_or(|own| own == endpoint) {
                    let wanted = names.iter().any(|name| number(name) == endpoint);
                    sim.books.fate((record.partition, record.offset, endpoint)).wanted = wanted;
                }
            }
        }
        let event = super::world::event(record);
        let opened = Self::open(life, record, event, &names, sim);
        let known = matches.len();
        for (slot, delivery) in opened.into_iter().enumerate() {
            if slot < known {
                self.reader(of).handing.push_back(delivery);
            } else {
                self.unknown(delivery, false, sim);
            }
        }
    }

    fn read_retry(&mut self, of: Of, life: &Arc<Partition>, record: &Record, sim: &mut Sim) {
        let (envelope, original) = Envelope::read(record).expect("we wrote it");
        let mut event = super::world::event(record);
        event.topic = Arc::clone(&envelope.source_topic);
        (event.partition, event.offset) = (envelope.source_partition, envelope.source_offset);
        (event.timestamp, event.key) = (envelope.source_timestamp, envelope.key.clone());
        event.headers = original;
        let names = [Arc::clone(&envelope.endpoint)];
        let opened = Self::open(life, record, event, &names, sim).pop().unwrap();
        let mut delivery = opened.with(&envelope);
        let Some(endpoint) = self.endpoints[number(&envelope.endpoint)].clone() else {
            return self.unknown(delivery, false, sim);
        };
        delivery.unknown_since = None;
        if delivery.age(sim.now) >= endpoint.retry.max_age {
            return self.dead(delivery, false, Reason::Expired, sim);
        }
        if delivery.due - sim.now > millis(sim.plan.hold) && !self.take_early(&delivery, sim) {
            return self.later(delivery, false, envelope.reason, sim);
        }
        self.reader(of).handing.push_back(delivery);
    }

    fn open(
        life: &Arc<Partition>,
        record: &Record,
        event: Event,
        endpoints: &[Arc<str>],
        sim: &mut Sim,
    ) -> Vec<Delivery> {
        let hashes: Vec<u32> = endpoints.iter().map(|id| sim.hashes[number(id)]).collect();
        let sequence = life.ledger().open(record.offset, record.timestamp, &hashes);
        let bytes = now_or_never(sim.window.bytes(life.epoch, 10));
        let held = Arc::new(Held { event, bytes });
        let delivery = |(slot, id): (usize, &Arc<str>)| {
            let place = now_or_never(sim.window.place(life.epoch, Class::Normal));
            let ticket = life.ticket(Ledger::place(sequence, slot));
            let priority = sim.plan.priorities[number(id)];
            let first = Delivery::first(Arc::clone(&held), Arc::clone(id), priority, (ticket, place));
            Delivery { first_seen: sim.now, due: sim.now, ..first }
        };
        endpoints.iter().enumerate().map(delivery).collect()
    }

    /// Hands over what was opened first; false when its lane pushes back.
    pub(super) fn hand(&mut self, of: Of, sim: &mut Sim) -> bool {
        let Some(delivery) = self.reader(of).handing.pop_front() else { return false };
        let Some(at) = self.lane(number(&delivery.endpoint), sim) else {
            self.unknown(delivery, false, sim);
            return true;
        };
        let (from_tier, own) = (of.log.tier().is_some(), of.own.is_some());
        let epoch = delivery.ticket.partition().epoch;
        let (bounds, now) = (self.bounds(sim), sim.now);
        let lane = &mut self.lanes[at];
        let standing = lane.core.standing(&lane.endpoint, (epoch, own), bounds, now);
        let room = match standing {
            Standing::Room => true,
            Standing::Blocked if own => true,
            Standing::Blocked if from_tier => false,
            Standing::Blocked if self.another_has_room(of, at, sim) => {
                self.park_oldest(at, sim);
                false
            }
            Standing::Blocked => true,
            Standing::Full if from_tier => {
                let sends = !self.lanes[at].core.is_blocked(bounds.hold, now);
                sends && self.park_some(at, 1, sim) > 0
            }
            Standing::Full if self.another_has_room(of, at, sim) => self.park_oldest(at, sim),
            Standing::Full => {
                self.reader(of).handing.push_front(delivery);
                return false;
            }
        };
        if room {
            let reader = self.reader(of);
            let events = reader.events;
            reader.fed.retain(|(lane, _)| *lane != at);
            reader.fed.push((at, events));
            let lane = &mut self.lanes[at];
            lane.core.hold((epoch, own), delivery.bytes());
            lane.core.push(delivery, now);
            lane.wakes = Some(now);
        } else {
            self.park(at, delivery, false, sim);
        }
        true
    }

    fn take_early(&mut self, delivery: &Delivery, sim: &Sim) -> bool {
        let Some(at) = self.lane(number(&delivery.endpoint), sim) else { return false };
        let Lane { core, endpoint, .. } = &self.lanes[at];
        delivery.keeps_a_slot() && core.takes_early(endpoint, self.bounds(sim), sim.now)
    }

    fn another_has_room(&self, of: Of, full: usize, sim: &Sim) -> bool {
        let reader = &self.readers[&of];
        let bounds = self.bounds(sim);
        let shut = self.lanes[full].core.is_shut(bounds.hold, sim.now);
        let since = if shut { 0 } else { reader.events.saturating_sub(bounds.share.div_ceil(2)) };
        let with_room = |(at, last): &(usize, usize)| {
            *last > since && *at != full && self.lanes[*at].core.has_room(bounds, sim.now)
        };
        reader.fed.iter().any(with_room)
    }

    fn park_oldest(&mut self, at: usize, sim: &mut Sim) -> bool {
        let bounds = self.bounds(sim);
        let core = &self.lanes[at].core;
        let half = bounds.share.div_ceil(2);
        let kept = if core.is_blocked(bounds.hold, sim.now) { 1 } else { half.saturating_sub(1) };
        let held = core.held();
        held - self.park_some(at, held.saturating_sub(kept), sim) < bounds.share
    }

    fn park_some(&mut self, at: usize, count: usize, sim: &mut Sim) -> usize {
        let shed = self.lanes[at].core.queue.shed(count);
        let parked = shed.len();
        shed.into_iter().for_each(|delivery| self.park(at, delivery, true, sim));
        parked
    }

    fn park(&mut self, at: usize, mut delivery: Delivery, held: bool, sim: &mut Sim) {
        let Lane { core, endpoint, .. } = &mut self.lanes[at];
        let why = core.park(&mut delivery, endpoint, sim.random.share(), sim.now);
        if why == Park::Breaker {
            let wait = Duration::from_millis((delivery.due - sim.now).max(0).unsigned_abs());
            sim.books.parked(pair(&delivery), &endpoint.retry.schedule, wait);
        } else {
            sim.books.parked_otherwise(pair(&delivery));
        }
        let tier = sim.tier_for(delivery.due);
        self.write(delivery, held, To::Tier(tier), why.reason(), sim);
    }

    fn bounds(&self, sim: &Sim) -> Bounds {
        let held: usize = self.lanes.iter().map(|lane| lane.core.held()).sum();
        let left = sim.plan.places.saturating_sub(held);
        let share = (2 * left).max(1);
        let quota = if left > 0 { (share / self.readers.len().max(1)).max(1) } else { 0 };
        // Waiting for a brisk lane would be settled at once here: there is no time within a step.
        Bounds { share, bytes: 10_000, quota, hold: sim.plan.hold, moment: 0.0 }
    }

    fn lane(&mut self, number: usize, sim: &Sim) -> Option<usize> {
        if let Some(at) = self.lanes.iter().position(|lane| lane.number == number && !lane.gone) {
            return Some(at);
        }
        let endpoint = self.endpoints[number].as_ref()?;
        self.lanes.push(Lane::new(endpoint, sim));
        Some(self.lanes.len() - 1)
    }

    /// A lane's worker looks what is to be done.
    pub(super) fn turn(&mut self, at: usize, sim: &mut Sim) {
        let lane = &mut self.lanes[at];
        let Next::Deliver(delivery, begun) = lane.next(sim) else { return };
        let Some(begun) = begun else {
            lane.core.in_flight -= 1;
            return self.dead(*delivery, true, Reason::Disabled, sim);
        };
        if delivery.age(sim.now) >= lane.endpoint.retry.max_age {
            lane.core.in_flight -= 1;
            lane.core.abandoned(begun);
            return self.dead(*delivery, true, Reason::Expired, sim);
        }
        lane.begin(delivery, begun, sim);
    }

    /// An attempt has its answer.
    pub(super) fn finish(&mut self, at: usize, flight: usize, sim: &mut Sim) {
        let now = sim.now;
        let lane = &mut self.lanes[at];
        let Flight { mut delivery, begun, at: from, attempt, endpoint, .. } =
            lane.flights.swap_remove(flight);
        let pair = pair(&delivery);
        let same = lane.endpoint.url == endpoint.url;
        delivery.first_attempt.get_or_insert(from);
        let mut so_far = delivery.count(&attempt, now);
        if attempt.result == AttemptResult::Status(410) {
            so_far.gone_counts = same && from > sim.switch(lane.number).enabled_at();
        }
        let outcome = outcome::judge(&attempt, &endpoint.retry, &so_far, sim.random.share());
        sim.note(|| format!("e{} {pair:?}: {:?}, {outcome:?}", lane.number, attempt.result));
        if same {
            lane.answered(&attempt, now);
            let was = lane.core.breaker.level();
            lane.core.ended(begun, (&attempt, &outcome), &endpoint, now);
            lane.watch_breaker(was, &endpoint.breaker, now);
        } else {
            lane.core.abandoned(begun);
        }
        lane.core.in_flight -= 1;
        lane.wakes = Some(now);
        match outcome {
            Outcome::Delivered => {
                sim.books.fate(pair).delivered += 1;
                sim.books.ended(pair);
                self.settle(*delivery, true, sim);
            }
            Outcome::Retry { after, reason, charged, .. } => {
                delivery.due = now.saturating_add(millis(after));
                delivery.uncharged += u32::from(!charged);
                sim.books.failed(pair, charged, delivery.due);
                self.try_later(at, *delivery, after, reason, sim);
            }
            Outcome::Dead { reason } => {
                if reason == Reason::Gone {
                    let (why, url) = (Why::Gone, url_hash(&endpoint.url));
                    sim.facts.disable(&endpoint.id, Disabled { why, begun: from, url });
                    self.switched(number(&endpoint.id), sim);
                    if delivery.ticket.partition().is_fenced() {
                        return self.hand_back(*delivery, true, sim);
                    }
                }
                if reason == Reason::Exhausted {
                    sim.books.exhausted(pair, &endpoint.retry.schedule);
                }
                self.dead(*delivery, true, reason, sim);
            }
        }
    }

    fn try_later(&mut self, at: usize, delivery: Delivery, after: Duration, reason: Reason, sim: &mut Sim) {
        let ordered = delivery.line.is_some();
        let share = self.bounds(sim).share;
        let lane = &mut self.lanes[at];
        let may_hold = after <= sim.plan.hold && lane.core.held() <= share;
        if !delivery.must_leave() && lane.gone {
            return self.unknown(delivery, true, sim);
        }
        if !delivery.must_leave() && (ordered || may_hold) {
            return lane.core.push(delivery, sim.now);
        }
        if ordered {
            return self.hand_back(delivery, true, sim);
        }
        self.later(delivery, true, reason, sim);
    }

    fn later(&mut self, delivery: Delivery, held: bool, reason: Reason, sim: &mut Sim) {
        let tier = sim.tier_for(delivery.due);
        self.write(delivery, held, To::Tier(tier), reason, sim);
    }

    fn dead(&mut self, delivery: Delivery, held: bool, reason: Reason, sim: &mut Sim) {
        self.write(delivery, held, To::Dead, reason, sim);
    }

    fn unknown(&mut self, mut delivery: Delivery, held: bool, sim: &mut Sim) {
        let since = *delivery.unknown_since.get_or_insert(sim.now);
        let left = sim.plan.grace - (sim.now - since);
        if left > 0 {
            delivery.due = delivery.due.max(sim.now + (sim.now - since).clamp(1_000, 60_000).min(left));
            return self.later(delivery, held, Reason::UnknownEndpoint, sim);
        }
        match sim.plan.on_removed {
            OnRemoved::Dead => self.dead(delivery, held, Reason::UnknownEndpoint, sim),
            OnRemoved::Drop => {
                let pair = pair(&delivery);
                sim.books.fate(pair).dropped += 1;
                sim.books.ended(pair);
                self.settle(delivery, held, sim);
            }
        }
    }

    fn write(&mut self, delivery: Delivery, held: bool, to: To, reason: Reason, sim: &mut Sim) {
        sim.note(|| format!("{:?} to {to:?} as {reason:?}, due {}", pair(&delivery), delivery.due));
        let held = held && (delivery.line.is_some() || !self.release(&delivery));
        self.writes.push(Write { delivery, to, reason, held });
    }

    /// The brokers acknowledge a record.
    pub(super) fn acknowledge(&mut self, write: usize, sim: &mut Sim) {
        let write = self.writes.remove(write);
        write.append(sim);
        self.settle(write.delivery, write.held, sim);
    }

    fn settle(&mut self, delivery: Delivery, held: bool, sim: &mut Sim) {
        let pair = pair(&delivery);
        sim.note(|| format!("settled {pair:?}"));
        let epoch = delivery.ticket.partition().epoch;
        let reader = self.readers.values_mut().find(|reader| reader.life.epoch == epoch);
        match reader {
            Some(reader) if !reader.life.is_fenced() => reader.settled.push(pair),
            _ => {}
        }
        if held {
            self.release(&delivery);
        }
        let line = delivery.line.clone();
        let number = number(&delivery.endpoint);
        delivery.ticket.settle();
        if let (Some(line), Some(lane)) = (line, self.lanes.iter_mut().find(|lane| lane.number == number)) {
            lane.core.over(line, sim.now);
            lane.wakes = Some(sim.now);
        }
    }

    /// It stays owed, and whoever reads the partition next knows nothing of it.
    fn hand_back(&mut self, delivery: Delivery, held: bool, sim: &mut Sim) {
        sim.note(|| format!("handed back {:?}", pair(&delivery)));
        sim.books.forget(pair(&delivery));
        if held {
            self.release(&delivery);
        }
        delivery.ticket.hand_back();
    }

    fn release(&mut self, delivery: &Delivery) -> bool {
        let number = number(&delivery.endpoint);
        let (from, bytes) = (delivery.ticket.partition(), delivery.bytes());
        let lane = self.lanes.iter_mut().find(|lane| lane.number == number).expect("its lane is there");
        lane.core.release((from.epoch, from.own), bytes);
        lane.wakes = lane.wakes.or(None);
        true
    }

    pub(super) fn commit(&mut self, of: Of, acknowledged: bool, sim: &mut Sim) {
        let reader = self.readers.get_mut(&of).unwrap();
        let Some(commit) = reader.life.ledger().take_commit() else { return };
        if commit.metadata.len() > 4096 {
            sim.books.broken(format!("{} bytes of metadata", commit.metadata.len()));
        }
        if !acknowledged {
            return reader.life.ledger().touch();
        }
        reader.settled.clear();
        sim.note(|| format!("committed {of:?} {}", commit.offset));
        sim.kafka.commit(of, commit.offset, commit.metadata);
    }

    /// Gives a partition up as it should be done: nothing is repeated, unless `late` or the last commit fails.
    pub(super) fn give_up(&mut self, of: Of, late: bool, commits: bool, sim: &mut Sim) {
        sim.note(|| format!("gives up {of:?}, late: {late}, commits: {commits}"));
        let life = Arc::clone(&self.readers[&of].life);
        life.stop.cancel();
        for delivery in std::mem::take(&mut self.reader(of).handing) {
            delivery.ticket.hand_back();
        }
        for delivery in self.take_back(life.epoch) {
            if delivery.attempts > 0 && delivery.line.is_none() {
                let tier = if delivery.due <= sim.now { Duration::ZERO } else { sim.tier_for(delivery.due) };
                self.write(delivery, true, To::Tier(tier), Reason::Shutdown, sim);
            } else {
                self.hand_back(delivery, true, sim);
            }
        }
        while !late && self.drain_one(life.epoch, sim) {}
        self.repeat(life.epoch, sim);
        self.commit(of, commits, sim);
        self.lose(of, sim);
    }

    /// The first thing under way of a life ends, if there is one.
    fn drain_one(&mut self, epoch: u64, sim: &mut Sim) -> bool {
        let of_it = |delivery: &Delivery| delivery.ticket.partition().epoch == epoch;
        if let Some(write) = self.writes.iter().position(|write| of_it(&write.delivery)) {
            self.acknowledge(write, sim);
            return true;
        }
        let all = self.lanes.iter().enumerate().flat_map(|(at, lane)| {
            let flights = lane.flights.iter().enumerate();
            flights.filter(|(_, flight)| of_it(&flight.delivery)).map(move |(n, flight)| (flight.ends, at, n))
        });
        let Some((ends, at, flight)) = all.min() else { return false };
        sim.now = sim.now.max(ends);
        self.finish(at, flight, sim);
        true
    }

    /// What is under way of a life stays owed, and ends all the same.
    fn repeat(&mut self, epoch: u64, sim: &mut Sim) {
        let flights = self.lanes.iter().flat_map(|lane| &lane.flights).map(|flight| &*flight.delivery);
        let all = flights.chain(self.writes.iter().map(|write| &write.delivery));
        for delivery in all.filter(|delivery| delivery.ticket.partition().epoch == epoch) {
            sim.books.fate(pair(delivery)).extra += 1;
        }
    }

    /// A partition is gone: what settles from now on changes nothing any more.
    pub(super) fn lose(&mut self, of: Of, sim: &mut Sim) {
        let mut reader = self.readers.remove(&of).unwrap();
        reader.life.stop.cancel();
        reader.life.fence();
        reader.settled.drain(..).for_each(|pair| sim.books.fate(pair).extra += 1);
        for delivery in reader.handing.drain(..) {
            sim.books.forget(pair(&delivery));
        }
        for delivery in self.take_back(reader.life.epoch) {
            self.hand_back(delivery, true, sim);
        }
    }

    /// The partition is lost without a word before.
    pub(super) fn lose_unprepared(&mut self, of: Of, sim: &mut Sim) {
        sim.note(|| format!("lost {of:?}"));
        self.repeat(self.readers[&of].life.epoch, sim);
        self.lose(of, sim);
    }

    /// The end of the process: memory is lost, some requests and records were through already.
    pub(super) fn crash(&mut self, sim: &mut Sim) -> Vec<Of> {
        let lost: Vec<Of> = self.readers.keys().copied().collect();
        lost.iter().for_each(|of| self.repeat(self.readers[of].life.epoch, sim));
        for write in std::mem::take(&mut self.writes) {
            write.delivery.ticket.partition().fence();
            if sim.random.one_in(2) {
                write.append(sim);
            }
        }
        for flight in self.lanes.iter_mut().flat_map(|lane| lane.flights.drain(..)) {
            flight.delivery.ticket.partition().fence();
            let pair = pair(&flight.delivery);
            sim.books.forget(pair);
            if matches!(flight.attempt.result, AttemptResult::Status(200..=299)) && sim.random.one_in(2) {
                sim.books.fate(pair).delivered += 1;
                sim.books.ended(pair);
            }
        }
        lost.iter().for_each(|of| self.lose(*of, sim));
        self.lanes.clear();
        lost
    }

    fn take_back(&mut self, epoch: u64) -> Vec<Delivery> {
        let mut back = Vec::new();
        for lane in self.lanes.iter_mut().filter(|lane| !lane.gone) {
            back.extend(lane.core.queue.take_back(epoch));
            back.extend(lane.core.order.take_back(epoch));
        }
        back.sort_by_key(|delivery| (pair(delivery), delivery.due));
        back
    }

    /// Takes in what there is to know of the endpoints now.
    pub(super) fn update(&mut self, endpoints: &[Option<Arc<Endpoint>>], sim: &mut Sim) {
        self.endpoints = endpoints.to_vec();
        for at in 0..self.lanes.len() {
            let number = self.lanes[at].number;
            if let Some(endpoint) = &endpoints[number] {
                self.lanes[at].update(endpoint, &sim.switch(number), sim.now);
            } else if !self.lanes[at].gone {
                let lane = &mut self.lanes[at];
                lane.gone = true;
                let mut all = lane.core.queue.take_if(|_| true);
                all.extend(lane.core.order.take_all());
                all.sort_by_key(|delivery| (pair(delivery), delivery.due));
                all.into_iter().for_each(|delivery| self.unknown(delivery, true, sim));
            }
        }
    }

    /// An endpoint was paused, resumed, disabled or enabled.
    pub(super) fn switched(&mut self, number: usize, sim: &Sim) {
        let switch = sim.switch(number);
        let lanes = self.lanes.iter_mut().filter(|lane| lane.number == number);
        lanes.for_each(|lane| lane.switched(&switch, sim.now));
    }

    fn reader(&mut self, of: Of) -> &mut Reader {
        self.readers.get_mut(&of).expect("it is assigned")
    }
}

impl Write {
    fn append(&self, sim: &mut Sim) {
        let pair = pair(&self.delivery);
        match self.to {
            To::Tier(tier) => {
                let log = Log::Tier(u64::try_from(tier.as_millis()).unwrap());
                let event = self.delivery.event();
                let headers = self.delivery.envelope(self.reason).write(&event.headers);
                let now = sim.now;
                let offset = sim.kafka.append(log, 0, (None, headers), now);
                sim.kafka.note_due(log, offset, self.delivery.due);
            }
            To::Dead => {
                sim.books.fate(pair).dead += 1;
                sim.books.ended(pair);
            }
        }
    }
}

/// The model's window is never full.
fn now_or_never<F: Future>(future: F) -> F::Output {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => unreachable!("the window has room"),
    }
}
