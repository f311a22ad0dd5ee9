//! What one lane holds and is not under way: who goes next, what waits until when, what is parked first. Pure.
//!
//! Among classes (priority, and whether it is a retry) turns are shared by weight; within a class what came back from
//! a wait goes first, the longest due before the others, and fresh events after it.

use std::collections::{BTreeMap, VecDeque, btree_map::OccupiedEntry};

use crate::pipeline::{
    delivery::Delivery,
    window::{Class, Share, Turns},
};

/// The queue of a lane.
#[derive(Debug, Default)]
pub(super) struct Queue {
    lines: [Line; Class::ALL.len()],
    turns: Turns,
    /// What is not due yet, by due time and order of arrival.
    waiting: BTreeMap<(i64, u64), Delivery>,
    /// The same for what only keeps to a slot that was reserved for it.
    reserved: BTreeMap<(i64, u64), Delivery>,
    arrivals: u64,
    ready: usize,
}

#[derive(Debug, Default)]
struct Line {
    /// Back from a retry tier or a wait in memory, by due time and order of arrival.
    returned: BTreeMap<(i64, u64), Delivery>,
    /// In the order they were read.
    fresh: VecDeque<Delivery>,
}

impl Queue {
    /// Takes one in, to wait or to go.
    pub(super) fn push(&mut self, delivery: Delivery, now: i64) {
        if delivery.due > now {
            let key = self.key(&delivery);
            let line = if delivery.keeps_a_slot() { &mut self.reserved } else { &mut self.waiting };
            line.insert(key, delivery);
        } else {
            self.line_up(delivery);
        }
    }

    /// Lines up what has become due.
    pub(super) fn promote(&mut self, now: i64) {
        while let Some(due) = pop_due(&mut self.waiting, now).or_else(|| pop_due(&mut self.reserved, now)) {
            self.line_up(due);
        }
    }

    /// Lines up so many before their slots have come.
    pub(super) fn bring_forward(&mut self, count: usize) {
        for _ in 0..count {
            let Some((_, delivery)) = self.reserved.pop_first() else { return };
            self.line_up(delivery);
        }
    }

    /// The one whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Delivery> {
        let Self { lines, turns, ready, .. } = self;
        let could = |class| !lines[class as usize].is_empty();
        let class = turns.next(could)?;
        turns.served(class, could);
        *ready -= 1;
        lines[class as usize].pop()
    }

    /// Any of those that may go; to mark that they had to wait.
    pub(super) fn first_mut(&mut self) -> Option<&mut Delivery> {
        self.lines.iter_mut().find_map(Line::first_mut)
    }

    /// When the next of those that wait is due.
    pub(super) fn next_due(&self) -> Option<i64> {
        first_due(&self.waiting).into_iter().chain(first_due(&self.reserved)).min()
    }

    /// How many may go.
    pub(super) fn ready(&self) -> usize {
        self.ready
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len() + self.reserved.len()
    }

    /// How many of them only keep to a slot.
    pub(super) fn reserved(&self) -> usize {
        self.reserved.len()
    }

    /// Is nothing here?
    pub(super) fn is_empty(&self) -> bool {
        self.ready == 0 && self.waiting() == 0
    }

    /// Takes out so many to be parked: of the lowest class the oldest fresh ones first, then what came before its slot,
    /// then what is due last, then what waits longest. Whoever came back for its slot would otherwise be written again
    /// and again. What came from a queue of the endpoint's own has its place there, in an order perhaps, and is left
    /// alone.
    pub(super) fn shed(&mut self, count: usize) -> Vec<Delivery> {
        let mut shed = Vec::new();
        for Line { fresh, .. } in self.lines.iter_mut().rev() {
            let mut at = 0;
            while shed.len() < count && at < fresh.len() {
                if is_shared(&fresh[at]) {
                    shed.extend(fresh.remove(at));
                } else {
                    at += 1;
                }
            }
        }
        self.ready -= shed.len();
        shed_last(&mut self.reserved, count, &mut shed);
        let before = shed.len();
        for Line { returned, .. } in self.lines.iter_mut().rev() {
            shed_last(returned, count, &mut shed);
        }
        self.ready -= shed.len() - before;
        shed_last(&mut self.waiting, count, &mut shed);
        shed
    }

    /// Takes out what came from one life of a partition.
    pub(super) fn take_back(&mut self, partition: Share) -> Vec<Delivery> {
        self.take_if(|delivery| delivery.ticket.partition().epoch == partition)
    }

    /// Takes out whatever is chosen.
    pub(super) fn take_if(&mut self, mut chosen: impl FnMut(&Delivery) -> bool) -> Vec<Delivery> {
        let mut taken = Vec::new();
        for Line { returned, fresh } in &mut self.lines {
            taken.extend(
                returned.extract_if(.., |_, delivery| chosen(delivery)).map(|(_, delivery)| delivery),
            );
            let (own, others): (Vec<_>, _) = std::mem::take(fresh).into_iter().partition(&mut chosen);
            *fresh = others.into();
            taken.extend(own);
        }
        self.ready -= taken.len();
        for line in [&mut self.waiting, &mut self.reserved] {
            taken.extend(line.extract_if(.., |_, delivery| chosen(delivery)).map(|(_, delivery)| delivery));
        }
        taken
    }

    fn line_up(&mut self, delivery: Delivery) {
        self.ready += 1;
        let returned = delivery.attempts > 0 || delivery.ticket.partition().tier.is_some();
        let class = Class::new(delivery.priority, delivery.attempts > 0) as usize;
        if returned {
            let key = self.key(&delivery);
            self.lines[class].returned.insert(key, delivery);
        } else {
            self.lines[class].fresh.push_back(delivery);
        }
    }

    fn key(&mut self, delivery: &Delivery) -> (i64, u64) {
        self.arrivals += 1;
        (delivery.due, self.arrivals)
    }
}

fn pop_due(line: &mut BTreeMap<(i64, u64), Delivery>, now: i64) -> Option<Delivery> {
    line.first_entry().filter(|entry| entry.key().0 <= now).map(OccupiedEntry::remove)
}

fn first_due(line: &BTreeMap<(i64, u64), Delivery>) -> Option<i64> {
    line.first_key_value().map(|((due, _), _)| *due)
}

fn shed_last(from: &mut BTreeMap<(i64, u64), Delivery>, count: usize, shed: &mut Vec<Delivery>) {
    let last = from.iter().rev().filter(|(_, delivery)| is_shared(delivery)).map(|(key, _)| *key);
    let last: Vec<_> = last.take(count - shed.len()).collect();
    shed.extend(last.iter().filter_map(|key| from.remove(key)));
}

fn is_shared(delivery: &Delivery) -> bool {
    !delivery.ticket.partition().own
}

impl Line {
    fn is_empty(&self) -> bool {
        self.returned.is_empty() && self.fresh.is_empty()
    }

    fn pop(&mut self) -> Option<Delivery> {
        self.returned.pop_first().map(|(_, delivery)| delivery).or_else(|| self.fresh.pop_front())
    }

    fn first_mut(&mut self) -> Option<&mut Delivery> {
        self.returned.first_entry().map(OccupiedEntry::into_mut).or(self.fresh.front_mut())
    }
}
