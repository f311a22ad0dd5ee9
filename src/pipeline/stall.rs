//! Does work stand still that could go on? Pure: it is shown, at intervals, how far each part of the pipeline has come.
//!
//! A part is shown only while it has work that nothing holds back: a lane that is paused, throttled, shut by its breaker
//! or without anything due is not, nor a partition whose reader waits for a tier, for its lane or for room. Whatever is
//! shown moves within a moment if all is well, so one that has not for long is stuck, whoever is to blame for it.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

/// A part of the pipeline that can stand still by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Part {
    /// The reading of a partition, for everyone or for one endpoint with a queue of its own.
    Reading(Arc<str>, i32, Option<Arc<str>>),
    /// The commits of a partition.
    Commits(Arc<str>, i32, Option<Arc<str>>),
    /// An endpoint's lane.
    Lane(Arc<str>),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, topic, partition, own) = match self {
            Self::Reading(topic, partition, own) => ("reading", topic, partition, own),
            Self::Commits(topic, partition, own) => ("commits of", topic, partition, own),
            Self::Lane(endpoint) => return write!(f, "sending to {endpoint}"),
        };
        write!(f, "{what} {topic}/{partition}")?;
        own.iter().try_for_each(|endpoint| write!(f, " for {endpoint}"))
    }
}

/// A part that has work it could go on with, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Which.
    pub part: Part,
    /// How far it has come: any number that is another one after any movement.
    pub progress: u64,
    /// How much work waits: records, or deliveries.
    pub waiting: u64,
    /// It may take this long for reasons of its own, such as a receiver that answers slowly.
    pub may_take: Duration,
}

/// A part that stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stalled {
    /// Which.
    pub part: Part,
    /// For how long.
    pub still: Duration,
    /// How much work waits.
    pub waiting: u64,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, still, waiting } = self;
        write!(f, "{part}: {waiting} waiting, nothing has moved for {} s", still.as_secs())
    }
}

/// Remembers what was shown, and since when it has not moved.
#[derive(Debug)]
pub struct Detector {
    patience: Duration,
    seen: HashMap<Part, Seen>,
}

#[derive(Debug)]
struct Seen {
    progress: u64,
    since: Instant,
}

impl Detector {
    /// Nothing was shown yet. A part is stalled when it has not moved for `patience`, and for as long as it may take.
    pub fn new(patience: Duration) -> Self {
        Self { patience, seen: HashMap::new() }
    }

    /// Shown all parts that could go on: those that stand still. Whatever is not shown begins anew when it is again.
    pub fn look(&mut self, sights: impl IntoIterator<Item = Sight>, now: Instant) -> Vec<Stalled> {
        let before = std::mem::take(&mut self.seen);
        let mut stalled = Vec::new();
        for Sight { part, progress, waiting, may_take } in sights {
            let unmoved = before.get(&part).filter(|seen| seen.progress == progress);
            let since = unmoved.map_or(now, |seen| seen.since);
            let still = now.duration_since(since);
            if still >= self.patience + may_take {
                stalled.push(Stalled { part: part.clone(), still, waiting });
            }
            self.seen.insert(part, Seen { progress, since });
        }
        stalled
    }

    /// Nothing is known any more, for instance because the process itself did not run.
    pub fn forget(&mut self) {
        self.seen.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn lane(progress: u64, may_take: u64) -> Sight {
        let part = Part::Lane("crm".into());
        Sight { part, progress, waiting: 3, may_take: Duration::from_secs(may_take) }
    }

    /// Looks every ten seconds; after how many of them is it stalled for the first time?
    fn first_stalled(looks: impl IntoIterator<Item = Option<Sight>>) -> Option<usize> {
        let begun = Instant::now();
        let mut detector = Detector::new(PATIENCE);
        looks.into_iter().enumerate().position(|(n, sight)| {
            let now = begun + Duration::from_secs(10) * u32::try_from(n).unwrap();
            !detector.look(sight, now).is_empty()
        })
    }

    #[test]
    fn whoever_could_go_on_and_does_not_for_long_is_stalled() {
        let still = || std::iter::repeat_n(Some(lane(7, 0)), 20);
        let stops = |at: usize, then: Option<Sight>| still().take(at).chain([then]).chain(still());
        type Row = (&'static str, Vec<Option<Sight>>, Option<usize>);
        let rows: [Row; 7] = [
            ("nothing waits", vec![None; 20], None),
            ("it does not move", still().collect(), Some(6)),
            ("it moves with every look", (0..20).map(|n| Some(lane(n, 0))).collect(), None),
            ("it moves every 50 s", (0..40).map(|n| Some(lane(n / 5, 0))).collect(), None),
            ("it moved once", stops(5, Some(lane(8, 0))).collect(), Some(12)),
            ("it was held back once", stops(5, None).collect(), Some(12)),
            ("it may take 20 s", std::iter::repeat_n(Some(lane(7, 20)), 20).collect(), Some(8)),
        ];
        for (what, looks, expected) in rows {
            assert_eq!(first_stalled(looks), expected, "{what}");
        }
    }

    #[test]
    fn parts_are_told_apart() {
        let begun = Instant::now();
        let mut detector = Detector::new(PATIENCE);
        let reading = |partition, progress| Sight {
            part: Part::Reading("orders".into(), partition, None),
            progress,
            waiting: 1,
            may_take: Duration::ZERO,
        };
        assert!(detector.look([lane(1, 0), reading(0, 5), reading(1, 5)], begun).is_empty());
        let stalled = detector.look([lane(2, 0), reading(0, 5), reading(1, 6)], begun + PATIENCE);
        let told: Vec<String> = stalled.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["reading orders/0: 1 waiting, nothing has moved for 60 s"]);
        detector.forget();
        assert!(detector.look([reading(0, 5)], begun + PATIENCE).is_empty());
    }

    #[test]
    fn a_part_says_what_it_is() {
        let topic = || Arc::from("orders");
        for (part, expected) in [
            (Part::Reading(topic(), 3, None), "reading orders/3"),
            (Part::Reading(topic(), 3, Some("crm".into())), "reading orders/3 for crm"),
            (Part::Commits(topic(), 3, None), "commits of orders/3"),
            (Part::Lane("crm".into()), "sending to crm"),
        ] {
            assert_eq!(part.to_string(), expected);
        }
    }
}
