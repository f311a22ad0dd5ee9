//! One lane: a real core, the attempts under way, and what is watched of them from beside.

use std::sync::Arc;

use super::{books::Pair, world::Sim};
use crate::{
    config::settings::Endpoint,
    pipeline::{
        delivery::{Delivery, millis},
        lane::core::{Begun, Core, Next},
        outcome::{Attempt, AttemptResult},
        switch::{Switch, url_hash},
    },
};

pub(super) struct Lane {
    pub(super) number: usize,
    pub(super) core: Core,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) flights: Vec<Flight>,
    /// When its worker looks again; `None`: when something changes.
    pub(super) wakes: Option<i64>,
    /// Its endpoint was removed.
    pub(super) gone: bool,
    /// Theoretical arrival time of the rate limiter (GCRA), in microseconds.
    arrival: i64,
    watched: Watched,
}

/// What must not be sent, told without asking the core.
#[derive(Default)]
struct Watched {
    arrival: i64,
    paused_until: i64,
    shut_until: i64,
    /// Attempts begun so far, and how many that were when the breaker opened last.
    begun: u64,
    begun_when_shut: u64,
}

/// An attempt under way.
pub(super) struct Flight {
    pub(super) delivery: Box<Delivery>,
    pub(super) begun: Begun,
    pub(super) at: i64,
    pub(super) ends: i64,
    pub(super) attempt: Attempt,
    /// As it was when the attempt began.
    pub(super) endpoint: Arc<Endpoint>,
    number: u64,
}

/// The pair a delivery is of.
pub(super) fn pair(delivery: &Delivery) -> Pair {
    let event = delivery.event();
    (event.partition, event.offset, number(&delivery.endpoint))
}

/// The number in an endpoint's id.
pub(super) fn number(id: &str) -> usize {
    id[1..].parse().unwrap()
}

impl Lane {
    pub(super) fn new(endpoint: &Arc<Endpoint>, sim: &Sim) -> Self {
        let (number, now) = (number(&endpoint.id), sim.now);
        Self {
            number,
            core: Core::new(endpoint, &sim.switch(number), now),
            endpoint: Arc::clone(endpoint),
            flights: Vec::new(),
            wakes: Some(now),
            gone: false,
            arrival: 0,
            watched: Watched::default(),
        }
    }

    /// What its worker does next; at most one attempt.
    pub(super) fn next(&mut self, sim: &Sim) -> Next {
        let (endpoint, arrival) = (&self.endpoint, &mut self.arrival);
        let next = self.core.next(
            endpoint,
            || admit(arrival, endpoint, sim.now).map_err(std::time::Duration::from_micros),
            sim.now,
        );
        self.wakes = match &next {
            Next::Deliver(..) => Some(sim.now),
            Next::Sleep(time) => Some(sim.now + millis(*time).max(1)),
            Next::Stop => None,
        };
        next
    }

    /// An attempt begins, and what of all that is promised could be broken by it is looked at.
    pub(super) fn begin(&mut self, delivery: Box<Delivery>, begun: Begun, sim: &mut Sim) {
        let (now, pair) = (sim.now, pair(&delivery));
        let watched = &mut self.watched;
        watched.begun += 1;
        let since_shut = |flight: &&Flight| flight.number > watched.begun_when_shut;
        let probing = self.core.breaker.level() == 1 && self.flights.iter().any(|flight| since_shut(&flight));
        let paced = admit(&mut watched.arrival, &self.endpoint, now).is_ok();
        let switch = sim.switch(self.number);
        let disabled = switch.disabled_for(&url_hash(&self.endpoint.url)).is_some();
        let broken = [
            (delivery.due > now && !delivery.keeps_a_slot(), "attempted before its due time"),
            (self.flights.len() >= self.endpoint.concurrency, "more in flight than the limit allows"),
            (switch.paused_since().is_some(), "sent while paused"),
            (disabled, "sent while disabled"),
            (watched.paused_until > now, "sent during a pause the receiver asked for"),
            (watched.shut_until > now, "sent while the breaker was open"),
            (probing, "more than one probe at once"),
            (!paced, "sent faster than the rate"),
        ];
        for (_, promise) in broken.into_iter().filter(|(broken, _)| *broken) {
            sim.books.require(false, promise, pair);
        }
        sim.books.attempt(pair, &self.endpoint, now);
        let mut attempt = sim.moods[self.number].answer(&mut sim.random, self.endpoint.timeout, now);
        attempt.duration = attempt.duration.min(self.endpoint.timeout);
        let ends = now + millis(attempt.duration);
        sim.note(|| format!("e{} attempt {pair:?}, {:?} at {ends}", self.number, attempt.result));
        let number = self.watched.begun;
        let endpoint = Arc::clone(&self.endpoint);
        self.flights.push(Flight { delivery, begun, at: now, ends, attempt, endpoint, number });
    }

    /// The receiver's answer came in; what it asks for is to be kept from now on.
    pub(super) fn answered(&mut self, attempt: &Attempt, now: i64) {
        use crate::pipeline::outcome::RetryAfter::{After, At};
        let may_pause = matches!(attempt.result, AttemptResult::Status(408 | 425 | 429 | 500..=599));
        let until = match attempt.retry_after {
            Some(After(wait)) => now + millis(wait),
            Some(At(at)) => at,
            None => 0,
        };
        if may_pause {
            let most = now + millis(self.endpoint.retry.max_pause);
            self.watched.paused_until = self.watched.paused_until.max(until.min(most));
        }
    }

    /// The breaker may have opened.
    pub(super) fn watch_breaker(&mut self, was: u8, policy: &crate::config::settings::Breaker, now: i64) {
        if self.core.breaker.level() == 2 && was != 2 {
            self.watched.shut_until = now + millis(policy.open_for);
            self.watched.begun_when_shut = self.watched.begun;
        }
    }

    /// Goes on with another version of its endpoint.
    pub(super) fn update(&mut self, endpoint: &Arc<Endpoint>, switch: &Switch, now: i64) {
        let old = std::mem::replace(&mut self.endpoint, Arc::clone(endpoint));
        self.core.limit.set_most(endpoint.concurrency);
        if old.url != endpoint.url {
            self.core.start_over();
            self.forget();
        }
        if (old.rate, old.burst) != (endpoint.rate, endpoint.burst) {
            (self.arrival, self.watched.arrival) = (0, 0);
            self.core.forget_slots();
        }
        self.switched(switch, now);
    }

    /// The endpoint was paused, resumed, disabled or enabled.
    pub(super) fn switched(&mut self, switch: &Switch, now: i64) {
        let was_disabled = self.core.disabled;
        self.core.switched(&self.endpoint, switch);
        if was_disabled && !self.core.disabled {
            self.forget();
        }
        self.wakes = Some(now);
    }

    /// It is another receiver now, or is to be treated as one.
    fn forget(&mut self) {
        let Watched { arrival, begun, .. } = self.watched;
        self.watched = Watched { arrival, begun, begun_when_shut: begun, ..Watched::default() };
    }
}

/// GCRA, in microseconds: takes a place, or tells how long until there is one.
fn admit(arrival: &mut i64, endpoint: &Endpoint, now: i64) -> Result<(), u64> {
    let Some(rate) = endpoint.rate else { return Ok(()) };
    let interval = i64::try_from(rate.interval().as_micros()).unwrap();
    let now = now * 1000;
    let earliest = *arrival - interval * (i64::from(endpoint.burst) - 1);
    if earliest > now {
        return Err(earliest.abs_diff(now));
    }
    *arrival = (*arrival).max(now) + interval;
    Ok(())
}
