//! What becomes of one record that a replay reads: not meant, taken before, refused, or replayed.
//!
//! Knows the two kinds there are, dead letters and events of source topics; writes nothing, counts nothing.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    Options,
    book::Book,
    target::{Targets, Why},
};
use crate::{
    config::settings::Endpoint,
    kafka::{
        headers::{Envelope, Glance},
        scan::{Names, Seen},
    },
    letters::{
        Letter,
        expression::{Expression, Subject},
        filter::{Filter, Place},
        matcher::{Failures, Matcher},
    },
    pipeline::{
        Event, Headers,
        decode::{Decoder, id},
        outcome::Reason,
        route::{Verdict as Route, explain},
    },
};

/// What becomes of a record.
pub enum Verdict {
    /// It is not meant.
    Other,
    /// It is meant, but was taken before.
    Taken,
    /// It is meant, but cannot go.
    Refused(Refused),
    /// It goes.
    Replay(Box<Delivery>),
}

/// Something that is meant and cannot go.
#[derive(Debug, Clone)]
pub struct Refused {
    /// The webhook id; empty when it has none.
    pub id: Arc<str>,
    /// The endpoint it was for; empty when it names none.
    pub endpoint: Arc<str>,
    /// Where the record stands.
    pub at: At,
    /// Why not.
    pub why: Why,
}

/// Where a record stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// A delivery that begins anew; when it is due is not decided yet.
pub struct Delivery {
    /// Where it goes.
    pub endpoint: Arc<Endpoint>,
    /// What the record says of it.
    pub envelope: Envelope,
    /// The event's own headers.
    pub headers: Headers,
    /// The event's value.
    pub value: Option<Bytes>,
    /// Where the record stands that it is made of.
    pub at: At,
}

/// Judges what is read.
pub enum Picker {
    /// Dead letters.
    Letters(Box<Letters>),
    /// Events of source topics.
    Events(Box<Events>),
}

impl Picker {
    /// The verdict on a record.
    pub fn judge(&mut self, seen: &Seen<'_>) -> Verdict {
        match self {
            Self::Letters(letters) => letters.judge(seen),
            Self::Events(events) => events.judge(seen),
        }
    }

    /// The endpoints.
    pub fn targets(&self) -> &Targets {
        match self {
            Self::Letters(letters) => &letters.targets,
            Self::Events(events) => &events.targets,
        }
    }

    /// Records that the filter's expression failed on.
    pub fn failures(&self) -> &Failures {
        match self {
            Self::Letters(letters) => letters.matcher.failures(),
            Self::Events(events) => &events.failures,
        }
    }
}

/// Judges dead letters.
pub struct Letters {
    /// Which are meant.
    pub matcher: Matcher,
    /// Where they can go.
    pub targets: Targets,
    /// Who took what before.
    pub book: Book,
    /// How they are replayed.
    pub options: Options,
    /// What the replay is called.
    pub name: String,
    /// How often letters were replayed before, where their own header does not tell.
    pub survey: Survey,
}

impl Letters {
    fn judge(&mut self, seen: &Seen<'_>) -> Verdict {
        match self.matcher.pick(seen) {
            Some(letter) => self.judge_letter(letter),
            None => Verdict::Other,
        }
    }

    fn judge_letter(&self, letter: Letter) -> Verdict {
        let (partition, offset, died) = (letter.record.partition, letter.record.offset, letter.died());
        let mut takes = self.book.takes(partition, offset, died);
        // Whatever this replay took it never takes again.
        if takes.any(|take| !self.options.again || take.by == self.name) {
            return Verdict::Taken;
        }
        match self.way_of(&letter) {
            Ok((endpoint, replays)) => {
                let (endpoint, replays) = (Arc::clone(endpoint), replays + 1);
                let Letter { record, envelope, event } = letter;
                let replayed_trace = envelope.ok().and_then(|envelope| envelope.trace);
                let envelope = Envelope { replayed_trace, ..self.envelope(&event, &endpoint, replays) };
                let (headers, value) = (event.headers, record.value);
                let at = At { topic: record.topic, partition, offset };
                Verdict::Replay(Box::new(Delivery { endpoint, envelope, headers, value, at }))
            }
            Err(why) => Verdict::Refused(Refused {
                id: letter.id().unwrap_or_default().into(),
                endpoint: letter.endpoint().unwrap_or_default().into(),
                at: At { topic: letter.record.topic, partition, offset },
                why,
            }),
        }
    }

    /// Where it goes, and how often it was replayed to there before.
    fn way_of(&self, letter: &Letter) -> Result<(&Arc<Endpoint>, u32), Why> {
        let envelope = letter.envelope.as_ref().map_err(|_| Why::Foreign)?;
        if letter.record.value.is_none() {
            return Err(Why::Empty);
        }
        let name = self.options.to.as_deref().unwrap_or(&envelope.endpoint);
        let endpoint = self.targets.find(name, &letter.event)?;
        let own = if *endpoint.id == *envelope.endpoint { envelope.replays } else { 0 };
        let replays = own.max(self.survey.replays(&envelope.id, &endpoint.id));
        if replays >= self.options.max_replays {
            return Err(Why::MaxReplays);
        }
        Ok((endpoint, replays))
    }

    fn envelope(&self, event: &Event, endpoint: &Endpoint, replays: u32) -> Envelope {
        let envelope = begin_anew(event, endpoint, replays);
        if self.options.reset_id {
            // The same for all endpoints of the event, as ids are; another one with each replay.
            let id = id::of_value(&format!("{}\0{}", self.name, event.id));
            return Envelope { id, ..envelope };
        }
        envelope
    }
}

/// Nothing is known of what was before; due and first seen are set when it is written.
fn begin_anew(event: &Event, endpoint: &Endpoint, replays: u32) -> Envelope {
    // It waits for its turn at the replay's rate.
    Envelope { replays, ..Envelope::new(event, Arc::clone(&endpoint.id), Reason::Throttled, 0, 0) }
}

/// How often letters were replayed, by webhook id and endpoint: what a letter's own header does not tell when it is
/// taken again, or sent to another endpoint. Holds those that were replayed at all, as hashes.
#[derive(Debug, Default)]
pub struct Survey {
    replays: HashMap<u64, u32>,
    seeds: RandomState,
}

impl Survey {
    /// Takes in any letter.
    pub fn look_at(&mut self, seen: &Seen<'_>, book: &Book) {
        let glance = Glance::of(seen.headers());
        let takes = book.takes(seen.partition(), seen.offset(), seen.timestamp()).count();
        self.count(glance, u32::try_from(takes).unwrap_or(u32::MAX));
    }

    fn count(&mut self, glance: Glance<'_>, takes: u32) {
        let (Some(id), Some(endpoint)) = (glance.id, glance.endpoint) else { return };
        let replays = Glance::number::<u32>(glance.replays).unwrap_or(0).saturating_add(takes);
        if replays > 0 {
            let known = self.replays.entry(self.seeds.hash_one((id, endpoint))).or_default();
            *known = replays.max(*known);
        }
    }

    fn replays(&self, id: &str, endpoint: &str) -> u32 {
        let hash = self.seeds.hash_one((id.as_bytes(), endpoint.as_bytes()));
        self.replays.get(&hash).copied().unwrap_or(0)
    }
}

/// Judges events of source topics for one endpoint.
pub struct Events {
    /// Which are meant besides.
    pub filter: Filter,
    /// The filter's expression.
    pub expression: Option<Expression>,
    /// Turns records into events, as running instances do.
    pub decoder: Arc<Decoder>,
    /// Where they can go.
    pub targets: Targets,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Names that repeat.
    pub names: Names,
    /// What the expression failed on.
    pub failures: Failures,
}

impl Events {
    fn judge(&mut self, seen: &Seen<'_>) -> Verdict {
        let place = Place { partition: seen.partition(), offset: seen.offset(), timestamp: seen.timestamp() };
        // A tombstone is nobody's.
        if seen.value().is_none() || !self.filter.admits_place(place) {
            return Verdict::Other;
        }
        let record = seen.record(&mut self.names);
        let topic = Arc::clone(&record.topic);
        let event = self.decoder.decode(record.clone());
        if !self.filter.admits_facts(&event.event_type, event.tenant.as_deref())
            || explain(&event, &self.endpoint) != Route::Wanted
        {
            return Verdict::Other;
        }
        match self.expression.as_ref().map(|expression| expression.holds(&Subject::of_event(&event))) {
            None | Some(Ok(true)) => {}
            Some(Ok(false)) => return Verdict::Other,
            Some(Err(why)) => {
                self.failures.add(&record, &why);
                return Verdict::Other;
            }
        }
        let at = At { topic, partition: event.partition, offset: event.offset };
        if let Err(why) = self.targets.find(&self.endpoint.id, &event) {
            let (id, endpoint) = (event.id, Arc::clone(&self.endpoint.id));
            return Verdict::Refused(Refused { id, endpoint, at, why });
        }
        let envelope = begin_anew(&event, &self.endpoint, 1);
        let (endpoint, headers, value) = (Arc::clone(&self.endpoint), event.headers, event.value);
        Verdict::Replay(Box::new(Delivery { endpoint, envelope, headers, value, at }))
    }
}
