//! What `arauto dev` has seen: which sample events are still on their way, and what each endpoint made of its own.
//!
//! Pure. Events that somebody else published are counted, but never waited for.

use std::collections::HashMap;

use serde::Serialize;

use super::seen::{Fate, Seen};
use crate::{config::settings::Endpoint, registry::pattern};

/// The tally.
#[derive(Debug)]
pub(super) struct Board {
    endpoints: Vec<Row>,
    /// Sample events that have not reached their end everywhere, by number.
    open: HashMap<u64, Open>,
    published: u64,
    ended: u64,
}

/// One endpoint's line of the summary.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) endpoint: String,
    pub(super) attempts: u64,
    /// Attempts that were not answered with 2xx.
    pub(super) failed: u64,
    pub(super) delivered: u64,
    pub(super) dead_letters: u64,
    /// Attempts whose signature is not good.
    pub(super) unverified: u64,
    /// From publishing to the 2xx, mean over the sample events.
    pub(super) mean_latency_ms: Option<u64>,
    #[serde(skip)]
    timed: (u64, u64),
    #[serde(skip)]
    types: Option<Vec<String>>,
}

#[derive(Debug)]
struct Open {
    published_ms: i64,
    /// The endpoints at which it has not ended.
    left: Vec<usize>,
}

impl Board {
    pub(super) fn new<'e>(endpoints: impl IntoIterator<Item = &'e Endpoint>) -> Self {
        let row = |endpoint: &Endpoint| Row {
            endpoint: endpoint.id.to_string(),
            attempts: 0,
            failed: 0,
            delivered: 0,
            dead_letters: 0,
            unverified: 0,
            mean_latency_ms: None,
            timed: (0, 0),
            types: endpoint.types.clone(),
        };
        let endpoints = endpoints.into_iter().map(row).collect();
        Self { endpoints, open: HashMap::new(), published: 0, ended: 0 }
    }

    /// A sample event is about to be published.
    pub(super) fn publish(&mut self, number: u64, event_type: &str, now: i64) {
        let wants = |row: &Row| {
            row.types
                .as_ref()
                .is_none_or(|types| types.iter().any(|pattern| pattern::matches(pattern, event_type)))
        };
        let left = (0..self.endpoints.len()).filter(|at| wants(&self.endpoints[*at])).collect();
        self.open.insert(number, Open { published_ms: now, left });
        self.published += 1;
    }

    /// Counts something, after filling in how long it took. `number` is that of the sample event.
    pub(super) fn see(&mut self, seen: &mut Seen, number: Option<u64>) {
        let Some(at) = self.endpoints.iter().position(|row| row.endpoint == seen.endpoint) else { return };
        let open = number.and_then(|number| self.open.get_mut(&number));
        seen.latency_ms = open.as_ref().and_then(|open| u64::try_from(seen.at - open.published_ms).ok());
        let ended = self.endpoints[at].count(seen);
        if let Some(open) = open.filter(|_| ended) {
            open.left.retain(|left| *left != at);
            if open.left.is_empty() {
                self.ended += 1;
                number.and_then(|number| self.open.remove(&number));
            }
        }
    }

    /// How many sample events were published.
    pub(super) fn published(&self) -> u64 {
        self.published
    }

    /// How many of them have reached their end at every endpoint that wants them.
    pub(super) fn ended(&self) -> u64 {
        self.ended
    }

    /// Was every webhook's signature good?
    pub(super) fn all_verified(&self) -> bool {
        self.endpoints.iter().all(|row| row.unverified == 0)
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.endpoints
    }
}

impl Row {
    /// Counts it; is it the end of the delivery?
    fn count(&mut self, seen: &Seen) -> bool {
        match seen.fate {
            Fate::DeadLetter { .. } => {
                self.dead_letters += 1;
                true
            }
            Fate::Attempt { status, verified, .. } => {
                let delivered = (200..300).contains(&status);
                self.attempts += 1;
                self.unverified += u64::from(!verified);
                self.delivered += u64::from(delivered);
                self.failed += u64::from(!delivered);
                if let Some(latency) = seen.latency_ms.filter(|_| delivered) {
                    self.timed = (self.timed.0 + 1, self.timed.1 + latency);
                    self.mean_latency_ms = self.timed.1.checked_div(self.timed.0);
                }
                delivered
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        let row = |endpoint: &str, types: Option<&str>| Row {
            endpoint: endpoint.to_owned(),
            attempts: 0,
            failed: 0,
            delivered: 0,
            dead_letters: 0,
            unverified: 0,
            mean_latency_ms: None,
            timed: (0, 0),
            types: types.map(|types| vec![types.to_owned()]),
        };
        let endpoints = vec![row("all", None), row("paid", Some("*.paid"))];
        Board { endpoints, open: HashMap::new(), published: 0, ended: 0 }
    }

    fn seen(endpoint: &str, fate: Fate) -> Seen {
        Seen {
            at: 1_250,
            event_type: String::new(),
            id: String::new(),
            endpoint: endpoint.to_owned(),
            latency_ms: None,
            fate,
        }
    }

    fn answered(status: u16) -> Fate {
        Fate::Attempt { attempt: 1, status, verified: true }
    }

    fn dead() -> Fate {
        Fate::DeadLetter { attempts: 3, reason: "exhausted", status: None }
    }

    #[test]
    fn an_event_has_ended_when_it_has_everywhere() {
        let mut board = board();
        board.publish(1, "order.paid", 1_000);
        board.publish(2, "order.created", 1_000);
        for (endpoint, fate, number, ended) in [
            ("all", answered(200), Some(1), 0),
            ("paid", answered(503), Some(1), 0),
            ("paid", dead(), Some(1), 1),
            // Again, which at least once allows.
            ("paid", dead(), Some(1), 1),
            ("all", answered(200), None, 1),
            ("nobody", answered(200), Some(2), 1),
            ("all", answered(204), Some(2), 2),
        ] {
            board.see(&mut seen(endpoint, fate), number);
            assert_eq!(board.ended(), ended);
        }
        let [all, paid] = board.rows() else { panic!("two endpoints") };
        assert_eq!((all.attempts, all.delivered, all.mean_latency_ms), (3, 3, Some(250)));
        assert_eq!((paid.attempts, paid.failed, paid.dead_letters), (1, 1, 2));
        assert!(board.all_verified());
    }

    #[test]
    fn one_bad_signature_is_remembered() {
        let mut board = board();
        let fate = Fate::Attempt { attempt: 1, status: 200, verified: false };
        board.see(&mut seen("all", fate), None);
        assert!(!board.all_verified());
    }
}
