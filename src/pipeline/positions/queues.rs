//! What positions know of queues of endpoints' own, and where their groups begin.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
};

use super::{Error, Positions};
use crate::{
    kafka::{consumer::TopicPartition, producer::Outgoing, topics::state_topic},
    pipeline::{
        ledger::metadata::{self, Position},
        own::{MovedOut, narrow},
        state::{self, Entry, Offsets, Queue, State},
        switches,
    },
};

impl Positions {
    /// The queues that endpoints have, or had, of their own, by the endpoints' ids.
    pub fn queues(&self) -> HashMap<String, Queue> {
        self.state().queues().clone()
    }

    /// Endpoints that gave their own queues up, and from where on the main group delivers to them.
    pub fn moved_out(&self) -> Arc<MovedOut> {
        Arc::clone(&self.moved_out.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes down what is so of an endpoint's own queue from now on; returns when every instance can know it.
    pub fn note_queue(&self, endpoint: &str, queue: &Queue) -> Result<(), Error> {
        self.write(state::queue(endpoint, queue));
        self.read_until("tell of an own queue", |state, _| state.queues().get(endpoint) == Some(queue))
    }

    /// Nothing needs to be known of an endpoint's own queue any more.
    pub fn forget_queue(&self, endpoint: &str) -> Result<(), Error> {
        let entry = Entry { key: state::queue_key(endpoint), value: Vec::new() };
        let record = switches::record(&state_topic(&self.options.prefix), entry);
        self.send(&Outgoing { value: None, ..record });
        self.read_until("forget an own queue", |state, _| !state.queues().contains_key(endpoint))
    }

    /// Where the main group stands by its commits; `None` where it has none.
    pub fn main(&self, partitions: &[TopicPartition]) -> Result<Vec<Option<Position>>, Error> {
        let committed = self.options.observer.committed(partitions)?;
        let position =
            |(offset, text): (i64, String)| metadata::decode(offset, &text).unwrap_or(Position::at(offset));
        Ok(committed.into_iter().map(|committed| committed.map(position)).collect())
    }

    /// Where the main group stands, or begins, as far as one endpoint (by its hash) is concerned; not below the offsets
    /// in `from`. `None` for a partition of which nothing is known.
    pub fn narrowed(
        &self,
        partitions: &[TopicPartition],
        endpoint: u32,
        from: &Offsets,
    ) -> Result<Vec<Option<Position>>, Error> {
        let main = self.main(partitions)?;
        let state = self.state();
        let position = |(of, main): (&TopicPartition, Option<Position>)| {
            let from = from.get(&*of.topic).and_then(|offsets| offsets.get(&of.partition)).copied();
            let begins = match main {
                Some(main) => main,
                // Its topic was deleted and made again: it has another log, which is read from its start.
                None if state.is_begun(&of.topic, of.partition) => Position::at(0),
                None => Position::at(state.start(&of.topic, of.partition)?),
            };
            Some(narrow(&begins, endpoint, from.unwrap_or(0)))
        };
        Ok(partitions.iter().zip(main).map(position).collect())
    }

    pub(super) fn see_queues(&self, state: &State) {
        let gone = state.queues().iter().filter(|(_, queue)| !queue.own && !queue.from.is_empty());
        let moved = MovedOut(gone.map(|(id, queue)| (id.clone(), queue.from.clone())).collect());
        *self.moved_out.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(moved);
    }

    pub(super) fn is_queue(key: &str) -> bool {
        key.starts_with(&state::queue_key(""))
    }
}
