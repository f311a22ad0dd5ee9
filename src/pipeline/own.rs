//! Queues of endpoints' own: whose events a group reads, and where the group of one endpoint begins. Pure.

use std::{collections::HashMap, sync::Arc};

use super::{
    ledger::metadata::{Owed, Position, Run},
    state::Offsets,
};

/// Whose deliveries a consumer group's source partitions are read for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reads {
    /// For every endpoint without a queue of its own: the group of the configuration, which reads the tiers too.
    Everyone,
    /// For this endpoint alone.
    Endpoint(Arc<str>),
}

impl Reads {
    /// Is it a queue of an endpoint's own?
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Endpoint(_))
    }
}

/// The name of an endpoint's own group.
pub fn group_of(group: &str, endpoint: &str) -> String {
    format!("{group}.{endpoint}")
}

/// What of a position concerns one endpoint, by its hash; nothing below `from` does.
pub fn narrow(position: &Position, endpoint: u32, from: i64) -> Position {
    let concerns = |run: &&Run| match &run.owed {
        Owed::All => true,
        Owed::To(hashes) => hashes.contains(&endpoint),
    };
    let clipped = |run: &Run| Run { first: run.first.max(from), last: run.last, owed: run.owed.clone() };
    let runs = position.owed.iter().filter(concerns).filter(|run| run.last >= from).map(clipped);
    let owed: Vec<Run> = runs.map(|run| Run { owed: Owed::To(vec![endpoint]), ..run }).collect();
    let horizon = position.horizon.max(from);
    let base = owed.first().map_or(horizon, |run| run.first);
    Position { base, horizon, owed }
}

/// Endpoints that gave their own queues up, and from where on the main group delivers to them.
#[derive(Debug, Default)]
pub struct MovedOut(pub HashMap<String, Offsets>);

impl MovedOut {
    /// Was the event delivered by the queue that the endpoint had of its own?
    pub fn covers(&self, endpoint: &str, (topic, partition): (&str, i32), offset: i64) -> bool {
        let from = self.0.get(endpoint).and_then(|offsets| offsets.get(topic)?.get(&partition));
        from.is_some_and(|from| offset < *from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: i64, last: i64, owed: &[u32]) -> Run {
        let owed = if owed.is_empty() { Owed::All } else { Owed::To(owed.to_vec()) };
        Run { first, last, owed }
    }

    fn check(owed: &[Run], from: i64, expected: (i64, i64, &[(i64, i64)])) {
        let position = Position { base: 10, horizon: 100, owed: owed.to_vec() };
        let Position { base, horizon, owed } = narrow(&position, 7, from);
        assert!(owed.iter().all(|run| run.owed == Owed::To(vec![7])));
        let runs: Vec<_> = owed.iter().map(|run| (run.first, run.last)).collect();
        assert_eq!((base, horizon, &*runs), expected);
    }

    #[test]
    fn a_position_is_narrowed_to_what_concerns_one_endpoint() {
        check(&[], 0, (100, 100, &[]));
        check(&[run(10, 20, &[3])], 0, (100, 100, &[]));
        check(&[run(10, 20, &[3]), run(30, 40, &[3, 7])], 0, (30, 100, &[(30, 40)]));
        check(&[run(10, 20, &[]), run(30, 40, &[7])], 0, (10, 100, &[(10, 20), (30, 40)]));
        // What it has delivered by itself before is not delivered again.
        check(&[run(10, 20, &[]), run(30, 40, &[7])], 35, (35, 100, &[(35, 40)]));
        check(&[run(10, 20, &[])], 50, (100, 100, &[]));
        check(&[run(10, 20, &[])], 200, (200, 200, &[]));
    }

    #[test]
    fn what_an_own_queue_has_delivered_is_known_by_offset() {
        let offsets = Offsets::from([("orders".to_owned(), [(1, 5)].into())]);
        let moved = MovedOut(HashMap::from([("crm".to_owned(), offsets)]));
        for (endpoint, of, offset, expected) in [
            ("crm", ("orders", 1), 4, true),
            ("crm", ("orders", 1), 5, false),
            ("crm", ("orders", 0), 4, false),
            ("crm", ("payments", 1), 4, false),
            ("erp", ("orders", 1), 4, false),
        ] {
            assert_eq!(moved.covers(endpoint, of, offset), expected, "{endpoint} {of:?} {offset}");
        }
    }
}
