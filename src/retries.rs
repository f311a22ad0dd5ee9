//! What waits on retry topics, as operators see it: every delivery that is neither settled nor taken by an operator.
//!
//! Nothing here prints. Everything blocks its thread. What it sees is a moment's: a running instance goes on meanwhile.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use crate::{
    config::settings::Settings,
    kafka::{
        consumer::{self, TopicPartition},
        headers::{Envelope, Glance},
        observer::Observer,
        scan::{self, Names, Scanner, Seen, Span},
        topics::parse_tier,
    },
    pipeline::{
        Headers, Record,
        ledger::metadata::{self, Owed, Position},
        marker::{Marked, Original},
    },
    registry::{endpoint_hash, parse_hash_name},
};

pub mod taking;

/// Why what waits cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The brokers do not answer.
    #[error("the brokers cannot be asked: {0}")]
    Kafka(#[from] consumer::Error),
    /// A tier cannot be read.
    #[error(transparent)]
    Scan(#[from] scan::Error),
}

/// A delivery that waits.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Its record.
    pub record: Record,
    /// What it says.
    pub envelope: Envelope,
    /// The event's own headers.
    pub headers: Headers,
    /// The delay of its tier.
    pub delay: Duration,
}

impl Waiting {
    /// As markers see it.
    pub fn original(&self) -> Original<'_> {
        let Record { offset, timestamp, .. } = self.record;
        Original { offset, timestamp, delay: self.delay, envelope: &self.envelope }
    }
}

/// The tiers at one moment.
pub struct Tiers(Vec<Tier>);

/// A partition of a tier.
struct Tier {
    of: TopicPartition,
    delay: Duration,
    /// Where the group stands.
    position: Position,
    end: i64,
}

impl Tiers {
    /// Looks at all of them.
    pub fn look(settings: &Settings, observer: &Observer) -> Result<Self, Error> {
        let mut partitions = Vec::new();
        for (topic, numbers) in observer.topics()? {
            let Some(delay) = parse_tier(&settings.topics.prefix, &topic) else { continue };
            let topic: Arc<str> = topic.into();
            let of = |partition| (TopicPartition { topic: Arc::clone(&topic), partition }, delay);
            partitions.extend(numbers.into_iter().map(of));
        }
        let asked: Vec<_> = partitions.iter().map(|(of, _)| of.clone()).collect();
        let committed = observer.committed(&asked)?;
        let mut tiers = Vec::with_capacity(partitions.len());
        for ((of, delay), committed) in partitions.into_iter().zip(committed) {
            let (first, end) = observer.watermarks(&of)?;
            tiers.push(Tier { of, delay, position: position(committed, (first, end)), end });
        }
        Ok(Self(tiers))
    }

    /// How many records they have that may have to be read.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|tier| tier.span().len()).sum()
    }

    /// Is there nothing to read?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shows what waits, in the order of each partition. `glance` refuses a record before it is copied.
    pub fn scan(
        &self,
        scanner: &mut Scanner,
        marked: &Marked,
        glance: impl Fn(&Glance<'_>) -> bool,
        mut visit: impl FnMut(Waiting) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let spans: Vec<Span> = self.0.iter().map(Tier::span).collect();
        let mut names = Names::default();
        let seen = |seen: &Seen<'_>| match self.read(seen, &glance, &mut names) {
            Some((waiting, tier)) if !tier.is_taken(marked, &waiting) => visit(waiting),
            _ => ControlFlow::Continue(()),
        };
        Ok(scanner.read(&spans, seen)?)
    }

    fn read(
        &self,
        seen: &Seen<'_>,
        wanted: impl Fn(&Glance<'_>) -> bool,
        names: &mut Names,
    ) -> Option<(Waiting, &Tier)> {
        let is_of = |tier: &&Tier| (&*tier.of.topic, tier.of.partition) == (seen.topic(), seen.partition());
        let tier = self.0.iter().find(is_of)?;
        if !tier.may_be_owed(seen.offset()) || !wanted(&Glance::of(seen.headers())) {
            return None;
        }
        let record = seen.record(names);
        // What somebody else wrote there is no delivery; its reader dead-letters it.
        let (envelope, headers) = Envelope::read(&record).ok()?;
        tier.owes(record.offset, &envelope.endpoint)
            .then(|| (Waiting { record, envelope, headers, delay: tier.delay }, tier))
    }
}

/// Where reading begins, as an instance would begin: a tier that nobody has read yet at its start, and so one whose log
/// is another one than what was committed is of.
fn position(committed: Option<(i64, String)>, (first, end): (i64, i64)) -> Position {
    let Some((offset, text)) = committed.filter(|(offset, _)| (first..=end).contains(offset)) else {
        return Position::at(first);
    };
    let position = metadata::decode(offset, &text).filter(|position| position.horizon <= end);
    position.unwrap_or(Position::at(offset))
}

impl Tier {
    fn span(&self) -> Span {
        let Self { of, position, end, .. } = self;
        Span { topic: Arc::clone(&of.topic), partition: of.partition, from: position.base, to: *end }
    }

    fn may_be_owed(&self, offset: i64) -> bool {
        offset >= self.position.horizon || self.owed(offset).is_some()
    }

    /// Is the delivery at this offset not settled yet?
    fn owes(&self, offset: i64, endpoint: &str) -> bool {
        let is_named = |hashes: &Vec<u32>| {
            let hash = parse_hash_name(endpoint).unwrap_or_else(|| endpoint_hash(endpoint));
            hashes.contains(&hash)
        };
        match self.owed(offset) {
            _ if offset >= self.position.horizon => true,
            None => false,
            Some(Owed::All) => true,
            Some(Owed::To(hashes)) => is_named(hashes),
        }
    }

    fn owed(&self, offset: i64) -> Option<&Owed> {
        let runs = &self.position.owed;
        let next = runs.partition_point(|run| run.last < offset);
        runs.get(next).filter(|run| run.first <= offset).map(|run| &run.owed)
    }

    fn is_taken(&self, marked: &Marked, waiting: &Waiting) -> bool {
        marked.act((&self.of.topic, self.of.partition), &waiting.original()).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::ledger::metadata::{Run, encode};

    #[test]
    fn what_the_commit_says_is_settled_does_not_wait() {
        let crm = endpoint_hash("crm");
        let owed = vec![
            Run { first: 10, last: 12, owed: Owed::To(vec![crm]) },
            Run { first: 15, last: 15, owed: Owed::All },
        ];
        let position = Position { base: 10, horizon: 20, owed };
        let of = TopicPartition { topic: "arauto.retry.5m".into(), partition: 0 };
        let tier = Tier { of, delay: Duration::ZERO, position, end: 30 };
        let by_hash = crate::registry::hash_name(crm);
        for (offset, endpoint, expected) in [
            (10, "crm", true),
            (12, "crm", true),
            (12, by_hash.as_str(), true),
            (12, "erp", false),
            (13, "crm", false),
            (15, "erp", true),
            (19, "crm", false),
            (20, "crm", true),
        ] {
            assert_eq!(tier.owes(offset, endpoint), expected, "{offset} {endpoint}");
        }
        assert!(tier.may_be_owed(12) && !tier.may_be_owed(13) && tier.may_be_owed(29));
        let span = tier.span();
        assert_eq!((span.from, span.to), (10, 30));
    }

    #[test]
    fn a_position_of_another_log_is_as_good_as_none() {
        let owed = vec![Run { first: 10, last: 12, owed: Owed::All }];
        let known = Position { base: 10, horizon: 20, owed };
        let text = encode(&known).0;
        for (committed, bounds, expected) in [
            (None, (3, 30), Position::at(3)),
            (Some((10, text.clone())), (3, 30), known),
            (Some((10, "junk".to_owned())), (3, 30), Position::at(10)),
            (Some((10, text.clone())), (3, 15), Position::at(10)),
            (Some((10, text.clone())), (11, 30), Position::at(11)),
            (Some((10, text)), (0, 5), Position::at(0)),
        ] {
            assert_eq!(position(committed, bounds), expected, "{bounds:?}");
        }
    }
}
