//! What positions do for markers: the state topic is read up to now when that is asked for, and markers that cover
//! nothing any more are forgotten.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use super::Positions;
use crate::{
    kafka::{consumer::TopicPartition, producer::Outgoing, topics::state_topic},
    pipeline::{delivery::now, marker, state::Entry, switches},
};

/// Longest wait for the state topic to be read up to now; retries wait as long.
const CATCH_UP: Duration = Duration::from_secs(2);

impl Positions {
    /// Takes in all that the state topic says now, so that markers are known up to now; gives up after a moment.
    pub fn catch_up(&self) {
        let (asked, deadline) = (now(), Instant::now() + CATCH_UP);
        let of = TopicPartition { topic: state_topic(&self.options.prefix).into(), partition: 0 };
        let trouble = match self.options.observer.end_within(&of, CATCH_UP) {
            Ok(end) => loop {
                if self.is_read_to(&of, end) {
                    return self.options.markers.know(asked);
                }
                if self.options.stop.is_cancelled() || Instant::now() > deadline {
                    break "it was not read to its end in time".to_owned();
                }
                self.look();
            },
            Err(error) => error.to_string(),
        };
        self.options.markers.give_up(now());
        if !self.options.stop.is_cancelled() {
            warn!(topic = %of.topic, trouble, "the state topic cannot be read, retries go on without it");
        }
    }

    /// Forgets the markers of a partition that its readers have passed for good.
    pub fn forget_passed(&self, of: &TopicPartition, committed: i64) {
        for number in self.options.markers.passed((&of.topic, of.partition), committed) {
            let key = marker::key(number);
            debug!(topic = %of.topic, partition = of.partition, %key, "marker passed, it is forgotten");
            self.options.markers.take_in(&key, None);
            let entry = Entry { key, value: Vec::new() };
            let record = switches::record(&state_topic(&self.options.prefix), entry);
            self.send(&Outgoing { value: None, ..record });
        }
    }

    fn is_read_to(&self, of: &TopicPartition, end: i64) -> bool {
        let _alone = self.looking();
        matches!(self.options.observer.position(of), Ok(Some(position)) if position >= end)
    }
}
