//! Acts on what became of a delivery: settles it, or writes it to a retry or dead-letter topic and settles it then.
//!
//! A record that does not get through is tried again for as long as it takes; until then its offset is held.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::{Semaphore, SemaphorePermit},
};
use tracing::{debug, error, warn};

use super::{
    attempts,
    delivery::{Delivery, Held, millis, now},
    outcome::{Attempt, Outcome, Reason},
    retry::Ladder,
};
use crate::{
    admin::health::Health,
    app::tasks::Tasks,
    config::settings::OnRemoved,
    kafka::{
        headers::{self, Envelope},
        producer::{Acknowledged, Error, Native, Outgoing, Producer},
        topics::{dead_topic, tier_topic},
    },
    metrics::{Metrics, Produced, endpoint::Park},
    notices::{DeadDelivery, Facts, Kind, Notices, excerpt},
    otel::End,
};

/// Records written at once; more wait their turn. Keeps the client's queue short whatever the window is.
const PRODUCE_WINDOW: usize = 2_000;
/// Waits between tries of a record that does not get through.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// Shortest and longest wait between looks for an unknown endpoint, in milliseconds: configurations reach instances
/// within seconds, and who waits longest of all should not be late by more than a minute.
const UNKNOWN_LOOKS: (i64, i64) = (1_000, 60_000);

/// What a [`Settler`] is made of.
pub struct Options {
    /// Prefix of the topics we own.
    pub prefix: String,
    /// The tiers that are written to.
    pub ladder: Ladder,
    /// What becomes of deliveries whose endpoint was removed.
    pub on_removed: OnRemoved,
    /// How long an endpoint may be unknown, in milliseconds.
    pub unknown_grace: i64,
    /// The producer.
    pub producer: Producer,
    /// Where it is written down for later.
    pub attempts: attempts::Log,
    /// Where work is spawned.
    pub tasks: Tasks,
    /// Where it is counted.
    pub metrics: Metrics,
    /// Where trouble shows.
    pub health: Health,
    /// Where dead letters are told of.
    pub notices: Notices,
}

/// Ends deliveries, or hands them on through Kafka. Cheap to clone.
#[derive(Clone)]
pub struct Settler(Arc<Inner>);

struct Inner {
    options: Options,
    tiers: HashMap<Duration, Target>,
    dead: Target,
    window: Semaphore,
    runtime: Handle,
}

/// One of our topics, and where what is written to it is counted.
struct Target {
    topic: String,
    produced: Produced,
}

/// A delivery that is to be safe on a topic before it is settled.
struct Writing {
    delivery: Delivery,
    to: Destination,
    reason: Reason,
    shed: Shed,
    pending: Pending,
}

/// Where a record goes, and what is counted once it is safe.
#[derive(Debug, Clone, Copy)]
enum Destination {
    /// On to a later tier; counted before, or not at all.
    Onwards(Duration),
    /// To a tier without an attempt.
    Parked(Duration, Park),
    Dead,
}

impl Settler {
    /// A settler; to be made within the runtime.
    pub fn new(options: Options) -> Self {
        let target = |topic: String| Target { produced: options.metrics.produced(&topic), topic };
        let tiers = options.ladder.tiers().chain([Duration::ZERO]);
        let tiers = tiers.map(|tier| (tier, target(tier_topic(&options.prefix, tier)))).collect();
        let dead = target(dead_topic(&options.prefix));
        let window = Semaphore::new(PRODUCE_WINDOW);
        Self(Arc::new(Inner { options, tiers, dead, window, runtime: Handle::current() }))
    }

    /// An attempt that began then has ended and is counted in its delivery.
    pub fn attempted(&self, delivery: &Delivery, began: i64, attempt: &Attempt, outcome: &Outcome) {
        self.0.options.attempts.attempted(delivery, began, attempt, outcome);
    }

    /// It arrived, with this attempt and so long after its event's timestamp.
    pub fn delivered(&self, delivery: Delivery, attempt: &Attempt, latency: Option<Duration>) {
        debug!(
            id = %delivery.event().id,
            endpoint = %delivery.endpoint,
            outcome = "delivered",
            attempts = delivery.attempts,
            status = delivery.status,
            duration_ms = millis(attempt.duration),
            latency_ms = latency.map(millis),
            "delivery finished"
        );
        delivery.end(End::Delivered);
    }

    /// It waits on a retry topic until it is due: an attempt failed, or it is on its way to a later due time.
    pub fn later(&self, delivery: Delivery, reason: Reason) {
        let tier = self.tier_for(delivery.due);
        self.hand_on(delivery, Destination::Onwards(tier), reason);
    }

    /// It waits on a retry topic without an attempt having been made.
    pub fn park(&self, delivery: Delivery, why: Park) {
        let tier = self.tier_for(delivery.due);
        self.hand_on(delivery, Destination::Parked(tier, why), why.reason());
    }

    /// It is handed on to whoever reads the partition next.
    pub fn pass_on(&self, delivery: Delivery) {
        let tier = if delivery.due <= now() { Duration::ZERO } else { self.tier_for(delivery.due) };
        self.hand_on(delivery, Destination::Parked(tier, Park::Shutdown), Reason::Shutdown);
    }

    /// It will not be tried (again), and there was no attempt that said so.
    pub fn give_up(&self, delivery: Delivery, reason: Reason) {
        self.0.options.attempts.dead(&delivery, reason);
        self.dead(delivery, reason);
    }

    /// It will not be tried again by itself.
    pub fn dead(&self, delivery: Delivery, reason: Reason) {
        self.hand_on(delivery, Destination::Dead, reason);
    }

    /// Its endpoint is not known here (any more): it waits until the grace has passed, then `on_removed` decides.
    pub fn unknown(&self, mut delivery: Delivery) {
        let now = now();
        let since = *delivery.unknown_since.get_or_insert(now);
        let left = self.0.options.unknown_grace - (now - since);
        if left > 0 {
            // As long again as it has been unknown: a few looks, not one as soon as it is read.
            let wait = (now - since).clamp(UNKNOWN_LOOKS.0, UNKNOWN_LOOKS.1).min(left);
            delivery.due = delivery.due.max(now + wait);
            return self.park(delivery, Park::UnknownEndpoint);
        }
        self.removed(delivery, Reason::UnknownEndpoint);
    }

    /// Its endpoint was removed or switched off for good.
    pub fn removed(&self, delivery: Delivery, reason: Reason) {
        match self.0.options.on_removed {
            OnRemoved::Dead => self.give_up(delivery, reason),
            OnRemoved::Drop => {
                self.0.options.attempts.dropped(&delivery, reason);
                debug!(
                    id = %delivery.event().id,
                    endpoint = %delivery.endpoint,
                    outcome = "dropped",
                    reason = reason.as_str(),
                    attempts = delivery.attempts,
                    "delivery finished"
                );
                self.0.options.metrics.endpoint(&delivery.endpoint).dropped();
                delivery.end(End::Dropped);
            }
        }
    }

    /// Its endpoint has a queue of its own now, which delivers it.
    pub fn moved(&self, delivery: Delivery) {
        self.0.options.metrics.endpoint(&delivery.endpoint).moved();
        delivery.end(End::Moved);
    }

    fn tier_for(&self, due: i64) -> Duration {
        self.0.options.ladder.tier_for(Duration::from_millis(due.saturating_sub(now()).max(0).unsigned_abs()))
    }

    fn hand_on(&self, mut delivery: Delivery, to: Destination, reason: Reason) {
        // It has left its lane; what it still holds of the window is bounded by the window itself. One that others
        // wait behind leaves it when it is safe.
        if delivery.line.is_none() {
            delivery.hold = None;
        }
        let mut writing =
            Writing { delivery, to, reason, shed: Shed::Nothing, pending: Pending::new(self.clone()) };
        if writing.pending.try_begin() {
            return self.write(writing);
        }
        let settler = self.clone();
        self.0.options.tasks.spawn("wait to hand on", async move {
            writing.pending.begin().await;
            settler.write(writing);
        });
    }

    /// The first try. Most get through, and no task is spent on them: the brokers' answer settles the delivery.
    fn write(&self, writing: Writing) {
        let (content, target) = (writing.content(), self.target(writing.to));
        self.0.options.producer.begin_then((&content, target), move |sent| {
            // On the client's thread; trying again starts a task, and so does the next one in a line that may go now.
            let settler = writing.pending.settler.clone();
            let _runtime = settler.0.runtime.enter();
            let sent = match sent {
                Err(Error::TooLarge) => Err(Error::TooLarge),
                sent => settler.count(settler.target(writing.to), sent),
            };
            match sent {
                Ok(at) => writing.written(at),
                Err(trouble) => {
                    let again = settler.clone();
                    let retry = async move { again.write_again(writing, trouble).await };
                    settler.0.options.tasks.spawn("hand on", retry);
                }
            }
        });
    }

    async fn write_again(&self, mut writing: Writing, trouble: Error) {
        let Inner { options, .. } = &*self.0;
        let in_trouble = options.health.trouble();
        let mut backoff = FIRST_BACKOFF;
        let mut target = self.target(writing.to);
        let mut sent = match trouble {
            // With its whole batch; that says nothing of the record yet.
            Error::TooLarge => {
                self.count(target, options.producer.send_alone((&writing.content(), target)).await)
            }
            Error::Full | Error::Closed | Error::Kafka(_) => Err(trouble),
        };
        loop {
            match sent {
                Ok(at) => return writing.written(at),
                Err(Error::TooLarge) if writing.shed() => target = self.target(writing.to),
                Err(trouble) => {
                    if writing.delivery.ticket.partition().is_fenced() {
                        // Another instance owes it now.
                        return writing.delivery.ticket.hand_back();
                    }
                    let topic = &target.topic;
                    warn!(%topic, error = %trouble, "record not written, its offset is held; trying again");
                    in_trouble.is(format!("{topic}: {trouble}"));
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(LONGEST_BACKOFF);
                }
            }
            sent = self.count(target, options.producer.send((&writing.content(), target)).await);
        }
    }

    fn target(&self, to: Destination) -> &Target {
        match to {
            Destination::Onwards(tier) | Destination::Parked(tier, _) => {
                self.0.tiers.get(&tier).expect("the ladder has no other tiers, and 0s is always there")
            }
            Destination::Dead => &self.0.dead,
        }
    }

    /// Takes in what the brokers said of a record.
    fn count(&self, target: &Target, sent: Result<Acknowledged, Error>) -> Result<Acknowledged, Error> {
        target.count(sent.is_ok());
        let acknowledged = sent?;
        if let Some(appended) = acknowledged.appended {
            self.0.options.metrics.clock_skew((appended - now()) as f64 / 1000.0);
        }
        Ok(acknowledged)
    }

    /// It is on the dead-letter topic.
    fn dead_lettered(&self, delivery: &Delivery, reason: Reason, at: Acknowledged) {
        self.0.options.metrics.endpoint(&delivery.endpoint).dead(reason);
        if reason == Reason::TooLarge {
            // It was to go elsewhere.
            self.0.options.attempts.dead(delivery, reason);
        }
        let (id, attempts) = (&delivery.event().id, delivery.attempts);
        let Delivery { endpoint, status, .. } = delivery;
        // What a receiver answered stays in the letter: it may repeat what was sent, secrets and all.
        let error = delivery.error.as_deref().filter(|_| status.is_none()).map(headers::cut);
        warn!(%id, %endpoint, reason = reason.as_str(), attempts, status, error, "dead letter");
        self.tell(delivery, reason, at);
    }

    /// A dead letter is something to hear of, unless it is of a notice.
    fn tell(&self, delivery: &Delivery, reason: Reason, at: Acknowledged) {
        let (notices, event) = (&self.0.options.notices, delivery.event());
        if event.notice {
            return notices.suppress(Kind::DeliveryDead);
        }
        notices.tell(Kind::DeliveryDead, &delivery.endpoint, || Facts {
            since: Some(delivery.first_seen),
            reason: Some(reason.as_str()),
            status: delivery.status,
            error: delivery.error.as_deref().and_then(excerpt),
            delivery: Some(DeadDelivery {
                id: event.id.to_string(),
                r#type: event.event_type.to_string(),
                attempts: delivery.attempts,
                letter: format!("{}:{}", at.partition, at.offset),
                event: format!("{}:{}:{}", event.topic, event.partition, event.offset),
            }),
            ..Facts::default()
        });
    }

    /// Dead-letters a tier record that cannot be read as a delivery, byte for byte, and returns once it is safe.
    pub async fn malformed(&self, record: &super::Record, why: &str) {
        let Inner { options, dead, .. } = &*self.0;
        let topic = &dead.topic;
        let mut outgoing = Outgoing {
            topic: topic.clone(),
            key: record.key.clone(),
            value: record.value.clone(),
            headers: headers::foreign(record, why),
        };
        error!(topic = %record.topic, partition = record.partition, offset = record.offset, why, "foreign record on a retry topic");
        let (mut backoff, mut in_trouble) = (FIRST_BACKOFF, None);
        while let Err(trouble) = options.producer.send(&outgoing).await {
            dead.count(false);
            if matches!(trouble, Error::TooLarge) && outgoing.value.is_some() {
                // Like any other record that no topic takes: where it stood, and nothing else.
                (outgoing.key, outgoing.value) = (None, None);
                outgoing.headers.0.retain(|(name, _)| headers::is_ours(name));
                continue;
            }
            warn!(%topic, error = %trouble, "record not written, its offset is held; trying again");
            in_trouble.get_or_insert_with(|| options.health.trouble()).is(format!("{topic}: {trouble}"));
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
        dead.count(true);
    }
}

impl Target {
    fn count(&self, ok: bool) {
        if ok { self.produced.ok() } else { self.produced.error() }
    }
}

impl Writing {
    /// What of it is written.
    fn content(&self) -> Content {
        let (envelope, held) = (self.delivery.envelope(self.reason), Arc::clone(&self.delivery.held));
        match self.shed {
            Shed::Nothing => Content { envelope, held: Some(held) },
            Shed::Error => Content { envelope: Envelope { error: None, ..envelope }, held: Some(held) },
            Shed::AllButCoordinates => Content { envelope: envelope.coordinates_only(), held: None },
        }
    }

    /// It is safe: what is to be counted is, and it is settled.
    fn written(self, at: Acknowledged) {
        let Self { delivery, to, reason, pending, .. } = self;
        let settler = &pending.settler;
        match to {
            Destination::Onwards(_) => {}
            Destination::Parked(_, why) => settler.0.options.metrics.endpoint(&delivery.endpoint).parked(why),
            Destination::Dead => settler.dead_lettered(&delivery, reason, at),
        }
        drop(pending);
        match to {
            Destination::Onwards(_) | Destination::Parked(..) => delivery.settle(),
            Destination::Dead => delivery.end(End::Dead(reason)),
        }
    }

    /// It was too large by itself: less of it may fit. Is there less?
    fn shed(&mut self) -> bool {
        match self.shed {
            Shed::Nothing => self.shed = Shed::Error,
            Shed::Error => {
                self.shed = Shed::AllButCoordinates;
                (self.to, self.reason) = (Destination::Dead, Reason::TooLarge);
            }
            Shed::AllButCoordinates => return false,
        }
        true
    }
}

/// A record that is not acknowledged yet: it is counted, and has a place among those that are written, or waits for one.
struct Pending {
    settler: Settler,
    has_begun: bool,
}

impl Pending {
    fn new(settler: Settler) -> Self {
        settler.0.options.metrics.produce_pending(1);
        Self { settler, has_begun: false }
    }

    /// Takes a place if there is one.
    fn try_begin(&mut self) -> bool {
        let place = self.settler.0.window.try_acquire();
        self.has_begun = place.map(SemaphorePermit::forget).is_ok();
        self.has_begun
    }

    /// Waits for a place.
    async fn begin(&mut self) {
        let place = self.settler.0.window.acquire().await;
        place.expect("the semaphore is never closed").forget();
        self.has_begun = true;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Inner { options, window, .. } = &*self.settler.0;
        options.metrics.produce_pending(-1);
        window.add_permits(usize::from(self.has_begun));
    }
}

/// What an oversized record has shed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shed {
    Nothing,
    Error,
    AllButCoordinates,
}

/// What a record of a delivery carries: its envelope, and the event unless that is too large.
struct Content {
    envelope: Envelope,
    held: Option<Arc<Held>>,
}

impl<'a> From<(&'a Content, &'a Target)> for Native<'a> {
    fn from((content, target): (&'a Content, &'a Target)) -> Self {
        let Content { envelope, held } = content;
        let event = held.as_ref().map(|held| &held.event);
        let value = event.and_then(|event| event.value.as_deref());
        Self::new(&target.topic, (Some(envelope.endpoint.as_bytes()), value), |put| {
            envelope.write_to(event.map(|event| &event.headers), put);
        })
    }
}
