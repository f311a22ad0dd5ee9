//! What is known of an event's deliveries, put together from the attempt log, the retry topics and the dead letters:
//! one story per endpoint, in order of time. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{letters::Letter, pipeline::attempts::Entry, retries::Waiting};

/// All that was found of one webhook id.
#[derive(Debug, Default)]
pub struct Found {
    /// Of the attempt log.
    pub entries: Vec<Entry<'static>>,
    /// Of the dead-letter topic, each with the replays that took it.
    pub letters: Vec<(Letter, Vec<Replay>)>,
    /// Of the retry topics.
    pub waiting: Vec<Waiting>,
}

/// A replay took a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Its name.
    pub by: String,
    /// When, to the minute.
    pub at: i64,
}

/// Where an event is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Source {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp; -1 when it has none.
    pub timestamp: i64,
}

/// The story of one delivery.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Story {
    /// Whom it is for.
    pub endpoint: String,
    /// How it stands.
    pub state: State,
    /// What happened.
    pub steps: Vec<Step>,
}

/// How a delivery stands, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It arrived.
    Delivered,
    /// It waits on a retry topic.
    Waiting,
    /// It is a dead letter that nobody has replayed.
    Dead,
    /// Its endpoint was removed, and it was dropped.
    Dropped,
    /// It has not ended: it is held in memory, being attempted or on its way; or its end was not written down.
    UnderWay,
}

/// Something that happened. Times are unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// When.
    pub at: i64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
#[allow(missing_docs)] // The names are those of the attempt log and of the headers.
pub enum What {
    /// An attempt, or an end without one.
    Attempt {
        attempt: Option<u32>,
        outcome: String,
        reason: Option<String>,
        status: Option<u16>,
        duration_ms: Option<i64>,
        error: Option<String>,
        due: Option<i64>,
    },
    /// It became a dead letter.
    DeadLetter {
        topic: String,
        partition: i32,
        offset: i64,
        reason: Option<String>,
        status: Option<u16>,
        error: Option<String>,
        attempts: u32,
    },
    /// A replay took the dead letter.
    Replayed { by: String },
    /// It waits.
    Waiting {
        topic: String,
        partition: i32,
        offset: i64,
        reason: &'static str,
        status: Option<u16>,
        error: Option<String>,
        attempts: u32,
        due: i64,
    },
}

/// A step and its place among the others: within a millisecond the second number tells.
type Ordered = ((i64, u8), Step);

impl Found {
    /// Is nothing known?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.letters.is_empty() && self.waiting.is_empty()
    }

    /// The event's type, if anybody says it.
    pub fn event_type(&self) -> Option<&str> {
        let logged = self.entries.first().map(|entry| &*entry.event_type);
        logged.or_else(|| self.letters.first().map(|(letter, _)| &*letter.event.event_type))
    }

    /// Where its event is; several when several events have this id.
    pub fn sources(&self) -> BTreeSet<Source> {
        let logged = self.entries.iter().map(|entry| Source {
            topic: entry.source_topic.to_string(),
            partition: entry.source_partition,
            offset: entry.source_offset,
            timestamp: entry.source_timestamp,
        });
        let letters = self.letters.iter().filter_map(|(letter, _)| letter.envelope.as_ref().ok());
        let enveloped = letters.chain(self.waiting.iter().map(|waiting| &waiting.envelope));
        let enveloped = enveloped.map(|envelope| Source {
            topic: envelope.source_topic.to_string(),
            partition: envelope.source_partition,
            offset: envelope.source_offset,
            timestamp: envelope.source_timestamp,
        });
        logged.chain(enveloped).collect()
    }

    /// The stories, by endpoint.
    pub fn stories(&self) -> Vec<Story> {
        let mut steps: BTreeMap<&str, Vec<Ordered>> = BTreeMap::new();
        for entry in &self.entries {
            let ended = entry.time.saturating_add(entry.duration_ms.unwrap_or(0));
            steps.entry(&entry.endpoint).or_default().push(((ended, 0), attempted(entry)));
        }
        for (letter, replays) in &self.letters {
            let endpoint = letter.endpoint().unwrap_or_default();
            let known = steps.entry(endpoint).or_default();
            known.push(((letter.died(), 1), died(letter)));
            for replay in replays {
                // Its time is told to the minute, those of the attempts it led to exactly.
                let first = self.first_after(endpoint, letter.subject().replays);
                let at = first.map_or(replay.at, |first| first.min(replay.at)).max(letter.died());
                known.push(((at, 2), Step { at, what: What::Replayed { by: replay.by.clone() } }));
            }
        }
        for waiting in &self.waiting {
            // What waits is how it stands, whatever the clocks say.
            steps.entry(&waiting.envelope.endpoint).or_default().push(((i64::MAX, 3), waits(waiting)));
        }
        let story = |(endpoint, mut steps): (&str, Vec<Ordered>)| {
            steps.sort_by_key(|(order, _)| *order);
            let steps: Vec<Step> = steps.into_iter().map(|(_, step)| step).collect();
            Story { endpoint: endpoint.to_owned(), state: state(&steps), steps }
        };
        steps.into_iter().map(story).collect()
    }

    /// When the first attempt began that was made after so many replays and one more.
    fn first_after(&self, endpoint: &str, replays: u32) -> Option<i64> {
        let later = self.entries.iter().filter(|entry| entry.endpoint == endpoint && entry.replays > replays);
        later.map(|entry| entry.time).min()
    }
}

fn attempted(entry: &Entry<'static>) -> Step {
    let owned = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
    Step {
        at: entry.time,
        what: What::Attempt {
            attempt: entry.attempt,
            outcome: entry.outcome.to_string(),
            reason: owned(&entry.reason),
            status: entry.status,
            duration_ms: entry.duration_ms,
            error: owned(&entry.error),
            due: entry.due,
        },
    }
}

fn died(letter: &Letter) -> Step {
    Step {
        at: letter.died(),
        what: What::DeadLetter {
            topic: letter.record.topic.to_string(),
            partition: letter.record.partition,
            offset: letter.record.offset,
            reason: letter.reason().map(str::to_owned),
            status: letter.status(),
            error: letter.error().map(str::to_owned),
            attempts: letter.attempts(),
        },
    }
}

fn waits(waiting: &Waiting) -> Step {
    let envelope = &waiting.envelope;
    Step {
        at: waiting.record.timestamp,
        what: What::Waiting {
            topic: waiting.record.topic.to_string(),
            partition: waiting.record.partition,
            offset: waiting.record.offset,
            reason: envelope.reason.as_str(),
            status: envelope.status,
            error: envelope.error.clone(),
            attempts: envelope.attempts,
            due: envelope.due,
        },
    }
}

/// The last step tells.
fn state(steps: &[Step]) -> State {
    match steps.last().map(|step| &step.what) {
        Some(What::Waiting { .. }) => State::Waiting,
        Some(What::DeadLetter { .. }) => State::Dead,
        Some(What::Attempt { outcome, .. }) => match outcome.as_str() {
            "delivered" => State::Delivered,
            "dead" => State::Dead,
            "dropped" => State::Dropped,
            _ => State::UnderWay,
        },
        Some(What::Replayed { .. }) | None => State::UnderWay,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        config::settings::Events,
        pipeline::{Headers, Record, decode::Decoder},
    };

    fn entry(endpoint: &str, time: i64, attempt: Option<u32>, outcome: &str, replays: u32) -> Entry<'static> {
        let attempt =
            attempt.map(|attempt| format!(r#""attempt":{attempt},"duration_ms":10,"#)).unwrap_or_default();
        let text = format!(
            r#"{{"v":1,"id":"msg_1","endpoint":"{endpoint}","type":"order.paid","time":{time},{attempt}"outcome":"{outcome}","replays":{replays},"source_topic":"orders","source_partition":0,"source_offset":5,"source_timestamp":900}}"#
        );
        Entry::read(text.as_bytes()).unwrap()
    }

    fn record(topic: &str, timestamp: i64, replays: u32) -> Record {
        let replays = replays.to_string();
        let headers = [
            ("arauto-id", "msg_1"),
            ("arauto-endpoint", "crm"),
            ("arauto-source-topic", "orders"),
            ("arauto-source-partition", "0"),
            ("arauto-source-offset", "5"),
            ("arauto-source-timestamp", "900"),
            ("arauto-attempts", "2"),
            ("arauto-first-seen", "950"),
            ("arauto-due", "9000"),
            ("arauto-reason", "exhausted"),
            ("arauto-replays", &replays),
        ];
        let header =
            |(name, value): (&str, &str)| (name.into(), Some(Bytes::copy_from_slice(value.as_bytes())));
        let headers = Headers(headers.map(header).into());
        Record { topic: topic.into(), partition: 0, offset: 3, timestamp, key: None, value: None, headers }
    }

    fn letter(died: i64, replays: u32) -> Letter {
        let events =
            Events { event_type: vec![], id: vec![], namespace: None, tenant: vec![], priority: vec![] };
        Letter::read(record("a.dead", died, replays), &Decoder::new(&events, "".into()))
    }

    fn told(found: &Found) -> Vec<(String, State, Vec<&'static str>)> {
        let word = |step: &Step| match step.what {
            What::Attempt { attempt: None, .. } => "end",
            What::Attempt { .. } => "attempt",
            What::DeadLetter { .. } => "letter",
            What::Replayed { .. } => "replay",
            What::Waiting { .. } => "wait",
        };
        let stories = found.stories().into_iter();
        stories.map(|story| (story.endpoint, story.state, story.steps.iter().map(word).collect())).collect()
    }

    #[test]
    fn steps_are_told_in_order_and_the_last_says_how_it_stands() {
        let mut found = Found {
            entries: vec![
                entry("crm", 2_000, Some(2), "dead", 0),
                entry("crm", 1_000, Some(1), "retry", 0),
                entry("erp", 1_000, Some(1), "delivered", 0),
            ],
            ..Found::default()
        };
        let crm = |state, steps: &[&'static str]| ("crm".to_owned(), state, steps.to_vec());
        assert_eq!(told(&found)[0], crm(State::Dead, &["attempt", "attempt"]));
        assert_eq!(told(&found)[1], ("erp".to_owned(), State::Delivered, vec!["attempt"]));
        // The letter is written when the attempt ends.
        let replay = Replay { by: "night".to_owned(), at: 60_000 };
        found.letters.push((letter(2_010, 0), vec![]));
        assert_eq!(told(&found)[0], crm(State::Dead, &["attempt", "attempt", "letter"]));
        found.letters[0].1.push(replay);
        assert_eq!(told(&found)[0], crm(State::UnderWay, &["attempt", "attempt", "letter", "replay"]));
        // The replay's time is told to the minute: the attempt it led to was later.
        found.entries.push(entry("crm", 5_000, Some(1), "delivered", 1));
        let all = ["attempt", "attempt", "letter", "replay", "attempt"];
        assert_eq!(told(&found)[0], crm(State::Delivered, &all));
        let replayed = &found.stories()[0].steps[3];
        assert_eq!(replayed.at, 5_000);
        assert_eq!((found.event_type(), found.sources().len()), (Some("order.paid"), 1));
    }

    #[test]
    fn what_waits_is_told_last_and_what_ended_without_an_attempt_too() {
        let (envelope, headers) =
            crate::kafka::headers::Envelope::read(&record("a.retry.5s", 500, 0)).unwrap();
        let record = record("a.retry.5s", 500, 0);
        let found = Found {
            entries: vec![entry("crm", 1_000, Some(1), "retry", 0), entry("erp", 7, None, "dropped", 0)],
            waiting: vec![Waiting { record, envelope, headers, delay: std::time::Duration::from_secs(5) }],
            ..Found::default()
        };
        let told = told(&found);
        assert_eq!(told[0], ("crm".to_owned(), State::Waiting, vec!["attempt", "wait"]));
        assert_eq!(told[1], ("erp".to_owned(), State::Dropped, vec!["end"]));
        assert!(!found.is_empty() && Found::default().is_empty());
    }

    #[test]
    fn an_attempt_that_fails_is_under_way() {
        let found = Found { entries: vec![entry("crm", 1, Some(1), "retry", 0)], ..Found::default() };
        assert_eq!(told(&found)[0].1, State::UnderWay);
    }
}
