//! One event for one endpoint, on its way.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Event,
    lane::{Hold, Line},
    outcome::{Attempt, Reason, SoFar},
    ticket::Ticket,
    window::Place,
};
use crate::{
    config::settings::Priority,
    kafka::headers::Envelope,
    otel::{End, Ended, Trace},
};

/// An event in memory, with the room its bytes take of the window.
#[derive(Debug)]
pub struct Held {
    /// The event.
    pub event: Event,
    /// Given back when the last delivery of the event is gone.
    pub bytes: Place,
}

/// One event for one endpoint. Times are unix milliseconds.
#[derive(Debug)]
pub struct Delivery {
    /// The event.
    pub held: Arc<Held>,
    /// The endpoint's id; `#` and its hash when only that is known.
    pub endpoint: Arc<str>,
    /// Attempts made so far.
    pub attempts: u32,
    /// Those among them that are not charged to the schedule.
    pub uncharged: u32,
    /// When it was first seen.
    pub first_seen: i64,
    /// When its first attempt began.
    pub first_attempt: Option<i64>,
    /// Not to be attempted before, unless it only keeps a slot ([`Delivery::keeps_a_slot`]).
    pub due: i64,
    /// How often it was replayed.
    pub replays: u32,
    /// How often it was parked in a row for the same reason with no slot of a rate reserved for it: how far its next wait
    /// may go grows with it.
    pub parks: u32,
    /// Why it was written to a retry topic the last time.
    pub reason: Option<Reason>,
    /// Since when its endpoint is unknown.
    pub unknown_since: Option<i64>,
    /// The last HTTP status.
    pub status: Option<u16>,
    /// The last error or response excerpt.
    pub error: Option<String>,
    /// Had it to wait for the rate limiter?
    pub throttled: bool,
    /// The duty to settle it.
    pub ticket: Ticket,
    /// Its place in the window.
    pub place: Place,
    /// Its place in a lane, while it is in one.
    pub hold: Option<Hold>,
    /// How soon it goes when not all can.
    pub priority: Priority,
    /// The line it is out of, when its endpoint keeps an order: the next one follows when this one is settled.
    pub line: Option<Line>,
    /// Its trace, where there are any.
    pub trace: Option<Box<Trace>>,
}

impl Delivery {
    /// A delivery that nothing has happened to yet.
    pub fn first(
        held: Arc<Held>,
        endpoint: Arc<str>,
        priority: Priority,
        (ticket, place): (Ticket, Place),
    ) -> Self {
        let now = now();
        Self {
            held,
            endpoint,
            attempts: 0,
            uncharged: 0,
            first_seen: now,
            first_attempt: None,
            due: now,
            replays: 0,
            parks: 0,
            reason: None,
            unknown_since: None,
            status: None,
            error: None,
            throttled: false,
            ticket,
            place,
            hold: None,
            priority,
            line: None,
            trace: None,
        }
    }

    /// The same with what its retry record says of it.
    pub fn with(self, envelope: &Envelope) -> Self {
        Self {
            attempts: envelope.attempts,
            uncharged: envelope.uncharged,
            first_seen: envelope.first_seen,
            first_attempt: envelope.first_attempt,
            due: envelope.due,
            replays: envelope.replays,
            parks: envelope.parks,
            reason: Some(envelope.reason),
            unknown_since: envelope.unknown_since,
            status: envelope.status,
            error: envelope.error.clone(),
            ..self
        }
    }

    /// What a retry or dead-letter record says of it.
    pub fn envelope(&self, reason: Reason) -> Envelope {
        let event = self.event();
        Envelope {
            attempts: self.attempts,
            uncharged: self.uncharged,
            first_attempt: self.first_attempt,
            replays: self.replays,
            parks: self.parks,
            unknown_since: self.unknown_since,
            status: self.status,
            error: self.error.clone(),
            trace: self.trace.as_ref().map(|trace| trace.own),
            replayed_trace: self.trace.as_ref().and_then(|trace| trace.replayed),
            ..Envelope::new(event, Arc::clone(&self.endpoint), reason, self.first_seen, self.due)
        }
    }

    /// The event.
    pub fn event(&self) -> &Event {
        &self.held.event
    }

    /// It has ended: its trace ends, its ticket is settled, and the next one in its line may go.
    pub fn end(self, end: End) {
        if let Some(trace) = &self.trace {
            let Self { endpoint, attempts, replays, first_seen, .. } = &self;
            let (attempts, replays, first_seen) = (*attempts, *replays, *first_seen);
            trace.ended(&Ended { event: self.event(), endpoint, attempts, replays, first_seen }, end);
        }
        self.settle();
    }

    /// Its ticket is settled, here or on a retry topic, and the next one in its line may go.
    pub fn settle(self) {
        self.ticket.settle();
        if let (Some(hold), Some(line)) = (self.hold, self.line) {
            hold.over(line);
        }
    }

    /// Bytes it holds of the window, together with the other deliveries of its event.
    pub fn bytes(&self) -> usize {
        self.held.bytes.amount()
    }

    /// Time since it was first seen.
    pub fn age(&self, now: i64) -> Duration {
        Duration::from_millis(u64::try_from(now.saturating_sub(self.first_seen)).unwrap_or(0))
    }

    /// Time since the event's timestamp; `None` when it has none.
    pub fn latency(&self) -> Option<Duration> {
        let timestamp = self.event().timestamp;
        (timestamp >= 0)
            .then(|| Duration::from_millis(u64::try_from(now().saturating_sub(timestamp)).unwrap_or(0)))
    }

    /// Takes in a finished attempt; returns what was known before it.
    pub fn count(&mut self, attempt: &Attempt, now: i64) -> SoFar {
        let attempts = self.attempts.saturating_sub(self.uncharged);
        let so_far = SoFar { attempts, age: self.age(now), now_ms: now, gone_counts: true };
        self.attempts = self.attempts.saturating_add(1);
        self.parks = 0;
        self.status = attempt.result.status();
        self.error = Some(attempt.detail.clone()).filter(|detail| !detail.is_empty());
        so_far
    }

    /// Was it parked for want of room before anything else happened to it? Then nobody asked for the time at which it is
    /// due: that is a slot, a guess when its lane has room, and it may go earlier.
    pub fn keeps_a_slot(&self) -> bool {
        self.reason == Some(Reason::Full) && self.attempts == 0 && self.replays == 0
    }

    /// Must it not wait in memory, because the partition it came from is being taken away?
    pub fn must_leave(&self) -> bool {
        self.ticket.partition().is_ending()
    }
}

/// The time of day in unix milliseconds, as this instance sees it.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).expect("the year is before 292 million")
}

/// A duration in whole milliseconds, however long it is.
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}
