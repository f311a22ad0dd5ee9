//! Which stretches of a topic must be read to find what a filter asks for.

use std::sync::Arc;

use super::filter::Filter;
use crate::kafka::{
    consumer::TopicPartition,
    scan::{self, Scanner, Span},
};

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The topic is not there.
    #[error("there is no topic {0} (topics.prefix); an instance makes it, or: arauto topics --create")]
    NoTopic(String),
    /// It has no such partition.
    #[error("{topic} has no partition {partition}, only 0 to {last} (--partition)")]
    NoPartition {
        /// The topic.
        topic: String,
        /// The partition asked for.
        partition: i32,
        /// The last there is.
        last: i32,
    },
    /// The brokers could not tell.
    #[error(transparent)]
    Scan(#[from] scan::Error),
}

/// The stretches, as the topic is now, in the order of the partitions. They begin where time and offsets allow;
/// whatever a producer's clock says, records past the first that is too late are looked at too.
pub fn of(scanner: &Scanner, topic: &str, filter: &Filter) -> Result<Vec<Span>, Error> {
    let topics = scanner.topics()?;
    let partitions = topics.get(topic).ok_or_else(|| Error::NoTopic(topic.to_owned()))?;
    let last = partitions.last().copied().unwrap_or(-1);
    if let Some(&partition) = filter.partitions.iter().find(|wanted| !partitions.contains(wanted)) {
        return Err(Error::NoPartition { topic: topic.to_owned(), partition, last });
    }
    let topic: Arc<str> = topic.into();
    let wanted = |partition: &&i32| filter.partitions.is_empty() || filter.partitions.contains(partition);
    let mut spans = Vec::new();
    for &partition in partitions.iter().filter(wanted) {
        let of = TopicPartition { topic: Arc::clone(&topic), partition };
        let (first, end) = scanner.watermarks(&of)?;
        let mut from = first;
        if let Some(since) = filter.since.filter(|_| first < end) {
            from = from.max(scanner.offset_at(&of, since)?);
        }
        let (from, to) = narrow((from, end), &filter.offsets);
        let span = Span { topic: Arc::clone(&topic), partition, from, to };
        spans.extend((!span.is_empty()).then_some(span));
    }
    Ok(spans)
}

/// What of a stretch lies between the lowest and the highest offset asked for.
fn narrow((from, to): (i64, i64), offsets: &[(i64, i64)]) -> (i64, i64) {
    let lowest = offsets.iter().map(|(first, _)| *first).min().unwrap_or(from);
    let end = offsets.iter().map(|(_, last)| last.saturating_add(1)).max().unwrap_or(to);
    (from.max(lowest), to.min(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_between_the_offsets_is_read() {
        for (offsets, expected) in [
            (&[][..], (10, 20)),
            (&[(12, 14)], (12, 15)),
            (&[(18, 18), (12, 12)], (12, 19)),
            (&[(0, i64::MAX)], (10, 20)),
            (&[(0, 5)], (10, 6)),
            (&[(30, 40)], (30, 20)),
        ] {
            assert_eq!(narrow((10, 20), offsets), expected, "{offsets:?}");
        }
    }
}
