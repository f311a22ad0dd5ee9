//! Reads the state topic for commands about replays: what is known when they begin, and what is new since.
//!
//! Blocks its thread. Only committed records are read; behind a transaction that a killed writer left open it waits until
//! the brokers abort that.

use std::time::Duration;

use tokio::time::Instant;

use super::book::Book;
use crate::{
    config::settings::Settings,
    kafka::{
        consumer,
        observer::{Followed, Observer},
        topics::state_topic,
    },
    pipeline::{
        marker::Marked,
        state::{Entry, State},
        switch::Facts,
    },
};

/// Longest wait for the topic to be read, or for a record of ours to come back.
const DEADLINE: Duration = Duration::from_secs(60);
/// One look at it.
const LOOK: Duration = Duration::from_millis(100);

/// Why nothing is known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not exist.
    #[error("there is no topic {0} (topics.prefix); an instance makes it, or: arauto topics --create")]
    Absent(String),
    /// It is somebody else's.
    #[error(
        "the topic {topic} belongs to the group {owner:?}, the configuration says {group:?} (kafka.group)"
    )]
    Owned {
        /// The topic.
        topic: String,
        /// Whose it is.
        owner: String,
        /// Who we are.
        group: String,
    },
    /// The brokers did not give it to us in time.
    #[error("the topic {topic} could not be read to its end: {trouble}; try again")]
    Unread {
        /// The topic.
        topic: String,
        /// What the client said last.
        trouble: String,
    },
    /// Kafka.
    #[error("the brokers cannot be asked: {0}")]
    Kafka(#[from] consumer::Error),
}

/// What the state topic says that concerns replays.
pub struct Known {
    observer: Observer,
    topic: String,
    /// What it says of replays.
    pub book: Book,
    /// What it says of endpoints.
    pub facts: Facts,
    /// What it says of that which waits on tiers.
    pub marked: Marked,
}

impl Known {
    /// Reads all there is now.
    pub fn read(settings: &Settings, observer: &Observer) -> Result<Self, Error> {
        Self::read_until(settings, observer, None)
    }

    /// Reads until a record of ours, just written, has come: all that was written before it is known then.
    pub fn read_past(settings: &Settings, observer: &Observer, entry: &Entry) -> Result<Self, Error> {
        Self::read_until(settings, observer, Some(entry))
    }

    fn read_until(settings: &Settings, observer: &Observer, until: Option<&Entry>) -> Result<Self, Error> {
        let topic = state_topic(&settings.topics.prefix);
        if !observer.topics()?.contains_key(&topic) {
            return Err(Error::Absent(topic));
        }
        observer.follow(&topic)?;
        let (book, facts, marked) = (Book::default(), Facts::default(), Marked::default());
        let mut known = Self { observer: observer.clone(), topic, book, facts, marked };
        let mut state = State::default();
        known.follow(|read| match read {
            Some((key, value)) => {
                state.apply(key, value);
                until.is_some_and(|entry| is(entry, key, value))
            }
            None => until.is_none(),
        })?;
        match state.owner() {
            Some(owner) if owner != settings.kafka.group => {
                let (owner, group) = (owner.to_owned(), settings.kafka.group.clone());
                Err(Error::Owned { topic: known.topic, owner, group })
            }
            _ => Ok(known),
        }
    }

    /// Goes on reading until a record of ours has come back: all that was written before it is known then.
    pub fn follow_until(&mut self, entry: &Entry) -> Result<(), Error> {
        self.follow(|read| read.is_some_and(|(key, value)| is(entry, key, value)))
    }

    /// Takes in what comes until told that it is enough; told of the end of what is there with nothing.
    fn follow(&mut self, mut enough: impl FnMut(Option<(&str, Option<&[u8]>)>) -> bool) -> Result<(), Error> {
        let (deadline, mut trouble) = (Instant::now() + DEADLINE, None);
        loop {
            let done = match self.observer.next(LOOK) {
                Followed::Entry((key, value)) => {
                    // What should be written again is left to the instances.
                    self.facts.apply(&key, value.as_deref());
                    self.book.apply(&key, value.as_deref());
                    self.marked.apply(&key, value.as_deref());
                    enough(Some((&key, value.as_deref())))
                }
                Followed::End => enough(None),
                Followed::Trouble(error) => {
                    trouble = Some(error.to_string());
                    false
                }
                Followed::Nothing => false,
            };
            if done {
                return Ok(());
            }
            if Instant::now() > deadline {
                let trouble = trouble.unwrap_or_else(|| "no answer".to_owned());
                return Err(Error::Unread { topic: self.topic.clone(), trouble });
            }
        }
    }
}

fn is(entry: &Entry, key: &str, value: Option<&[u8]>) -> bool {
    entry.key == key && value == Some(&*entry.value)
}
