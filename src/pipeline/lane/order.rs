//! Keeps the order of an endpoint with an ordering: of each key (or of each partition) one delivery is out, those
//! behind it wait for it to be settled. Pure. Only what comes from a queue of the endpoint's own has an order.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use bytes::Bytes;

use crate::{
    config::settings::Ordering,
    pipeline::{delivery::Delivery, window::Share},
};

/// What is in order among itself: a life of a partition, or one key of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Line {
    partition: Share,
    key: Option<Bytes>,
}

/// The lines, each with those behind the one that is out.
#[derive(Debug, Default)]
pub(super) struct Order {
    lines: HashMap<Line, VecDeque<Delivery>>,
    behind: usize,
}

impl Order {
    /// Gives the delivery back if it may go; it is out until its line is told [`Order::over`]. An event without a key
    /// has no place in an order by key.
    pub(super) fn enter(&mut self, ordering: Ordering, mut delivery: Delivery) -> Option<Delivery> {
        if delivery.line.is_some() {
            // It is out already, and came back to be tried again.
            return Some(delivery);
        }
        let Some(line) = line(ordering, &delivery) else { return Some(delivery) };
        match self.lines.entry(line) {
            Entry::Occupied(mut behind) => {
                behind.get_mut().push_back(delivery);
                self.behind += 1;
                None
            }
            Entry::Vacant(vacant) => {
                delivery.line = Some(vacant.key().clone());
                vacant.insert(VecDeque::new());
                Some(delivery)
            }
        }
    }

    /// The one that was out is settled; returns the one behind it, which is out now.
    pub(super) fn over(&mut self, line: Line) -> Option<Delivery> {
        let Entry::Occupied(mut entry) = self.lines.entry(line) else { return None };
        let Some(mut next) = entry.get_mut().pop_front() else {
            entry.remove();
            return None;
        };
        self.behind -= 1;
        next.line = Some(entry.key().clone());
        Some(next)
    }

    /// Takes out those behind, and forgets the lines, of one life of a partition.
    pub(super) fn take_back(&mut self, partition: Share) -> Vec<Delivery> {
        let lines = self.lines.extract_if(|line, _| line.partition == partition);
        let taken: Vec<Delivery> = lines.flat_map(|(_, behind)| behind).collect();
        self.behind -= taken.len();
        taken
    }

    /// Takes out all those behind.
    pub(super) fn take_all(&mut self) -> Vec<Delivery> {
        self.behind = 0;
        self.lines.drain().flat_map(|(_, behind)| behind).collect()
    }

    /// How many wait behind others.
    pub(super) fn behind(&self) -> usize {
        self.behind
    }

    /// Is nothing out?
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

fn line(ordering: Ordering, delivery: &Delivery) -> Option<Line> {
    let from = delivery.ticket.partition();
    if !from.own {
        return None;
    }
    let key = match ordering {
        Ordering::None => return None,
        Ordering::Endpoint => None,
        Ordering::Key => Some(delivery.event().key.clone()?),
    };
    Some(Line { partition: from.epoch, key })
}
