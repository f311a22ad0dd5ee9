//! How the brokers answer our clients. A series goes when its broker does.

use std::{collections::BTreeSet, time::Duration};

use super::{Families, forget};

/// Which of our clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// The main group's consumer.
    Consumer,
    /// The producer of everything that is written.
    Producer,
}

impl Client {
    fn as_str(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::Producer => "producer",
        }
    }
}

/// How one broker answered one client lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its id.
    pub id: i32,
    /// From a request to its answer, on average; `None` when it was asked nothing.
    pub round_trip: Option<Duration>,
    /// Requests without an answer yet.
    pub waiting: i64,
}

/// The brokers that have series, of each client.
#[derive(Default)]
pub(super) struct Brokers {
    known: [BTreeSet<i32>; 2],
}

impl Brokers {
    /// These are all there are now.
    pub(super) fn show(&mut self, families: &Families, client: Client, brokers: &[Broker]) {
        let now: BTreeSet<i32> = brokers.iter().map(|broker| broker.id).collect();
        let before = std::mem::replace(&mut self.known[client as usize], now);
        for gone in before.difference(&self.known[client as usize]) {
            let labels = [gone.to_string()];
            forget(&families.broker_round_trip, &[&labels[0], client.as_str()]);
            forget(&families.broker_waiting, &[&labels[0], client.as_str()]);
        }
        for Broker { id, round_trip, waiting } in brokers {
            let id = id.to_string();
            let labels = [id.as_str(), client.as_str()];
            families.broker_waiting.with_label_values(&labels).set(*waiting);
            match round_trip {
                Some(mean) => families.broker_round_trip.with_label_values(&labels).set(mean.as_secs_f64()),
                // What it was then says nothing of now.
                None => forget(&families.broker_round_trip, &labels),
            }
        }
    }
}
