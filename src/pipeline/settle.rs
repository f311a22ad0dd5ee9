//! Acts on what became of a delivery: settles it, or writes it to a retry or dead-letter topic and settles it then.
//!
//! A record that does not get through is tried again for as long as it takes; until then its offset is held.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tracing::{debug, error, warn};

use super::{
    Headers,
    delivery::{Delivery, now},
    outcome::Reason,
    retry::Ladder,
};
use crate::{
    admin::Health,
    app::tasks::Tasks,
    config::settings::OnRemoved,
    kafka::{
        headers,
        producer::{Error, Outgoing, Producer},
        topics::{dead_topic, tier_topic},
    },
    metrics::{Metrics, endpoint::Park},
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
    /// Where work is spawned.
    pub tasks: Tasks,
    /// Where it is counted.
    pub metrics: Metrics,
    /// Where trouble shows.
    pub health: Health,
}

/// Ends deliveries, or hands them on through Kafka. Cheap to clone.
#[derive(Clone)]
pub struct Settler(Arc<Inner>);

struct Inner {
    options: Options,
    window: Semaphore,
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
    /// A settler.
    pub fn new(options: Options) -> Self {
        Self(Arc::new(Inner { options, window: Semaphore::new(PRODUCE_WINDOW) }))
    }

    /// It arrived.
    pub fn delivered(&self, delivery: Delivery) {
        delivery.settle();
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
            OnRemoved::Dead => self.dead(delivery, reason),
            OnRemoved::Drop => {
                debug!(id = %delivery.event().id, endpoint = %delivery.endpoint, "delivery dropped");
                self.0.options.metrics.endpoint(&delivery.endpoint).dropped();
                delivery.settle();
            }
        }
    }

    /// Its endpoint has a queue of its own now, which delivers it.
    pub fn moved(&self, delivery: Delivery) {
        self.0.options.metrics.endpoint(&delivery.endpoint).moved();
        delivery.settle();
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
        let settler = self.clone();
        self.0.options.tasks.spawn("hand on", async move { settler.write(delivery, to, reason).await });
    }

    async fn write(&self, delivery: Delivery, to: Destination, reason: Reason) {
        let Inner { options, window } = &*self.0;
        let pending = Pending::new(&options.metrics);
        let _turn = window.acquire().await.expect("the semaphore is never closed");
        let mut to = to;
        let mut reason = reason;
        let mut shed = Shed::Nothing;
        let mut backoff = FIRST_BACKOFF;
        loop {
            let topic = match to {
                Destination::Onwards(tier) | Destination::Parked(tier, _) => {
                    tier_topic(&options.prefix, tier)
                }
                Destination::Dead => dead_topic(&options.prefix),
            };
            let sent = options.producer.send(&outgoing(&delivery, &topic, reason, shed)).await;
            count(&options.metrics, &topic, sent.is_ok());
            match sent {
                Ok(acknowledged) => {
                    if let Some(appended) = acknowledged.appended {
                        options.metrics.clock_skew((appended - now()) as f64 / 1000.0);
                    }
                    options.health.produce_trouble(None);
                    break;
                }
                Err(Error::TooLarge) if shed == Shed::Nothing => shed = Shed::Error,
                Err(Error::TooLarge) if shed == Shed::Error => {
                    (to, reason, shed) = (Destination::Dead, Reason::TooLarge, Shed::AllButCoordinates);
                }
                Err(trouble) => {
                    if delivery.ticket.partition().is_fenced() {
                        // Another instance owes it now.
                        return delivery.ticket.hand_back();
                    }
                    warn!(%topic, error = %trouble, "record not written, its offset is held; trying again");
                    options.health.produce_trouble(Some(format!("{topic}: {trouble}")));
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(LONGEST_BACKOFF);
                }
            }
        }
        drop(pending);
        self.written(delivery, to, reason);
    }

    fn written(&self, delivery: Delivery, to: Destination, reason: Reason) {
        let endpoint = self.0.options.metrics.endpoint(&delivery.endpoint);
        match to {
            Destination::Onwards(_) => {}
            Destination::Parked(_, why) => endpoint.parked(why),
            Destination::Dead => {
                endpoint.dead(reason);
                let (id, attempts) = (&delivery.event().id, delivery.attempts);
                let Delivery { endpoint, status, .. } = &delivery;
                warn!(%id, %endpoint, reason = reason.as_str(), attempts, status, "dead letter");
            }
        }
        delivery.settle();
    }

    /// Dead-letters a tier record that cannot be read as a delivery, byte for byte, and returns once it is safe.
    pub async fn malformed(&self, record: &super::Record, why: &str) {
        let Inner { options, .. } = &*self.0;
        let topic = dead_topic(&options.prefix);
        let mut outgoing = Outgoing {
            topic: topic.clone(),
            key: record.key.clone(),
            value: record.value.clone(),
            headers: headers::foreign(record, why),
        };
        error!(topic = %record.topic, partition = record.partition, offset = record.offset, why, "foreign record on a retry topic");
        let mut backoff = FIRST_BACKOFF;
        while let Err(trouble) = options.producer.send(&outgoing).await {
            count(&options.metrics, &topic, false);
            if matches!(trouble, Error::TooLarge) && outgoing.value.is_some() {
                // Like any other record that no topic takes: where it stood, and nothing else.
                (outgoing.key, outgoing.value) = (None, None);
                outgoing.headers.0.retain(|(name, _)| headers::is_ours(name));
                continue;
            }
            warn!(%topic, error = %trouble, "record not written, its offset is held; trying again");
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
        count(&options.metrics, &topic, true);
    }
}

fn count(metrics: &Metrics, topic: &str, ok: bool) {
    let produced = metrics.produced(topic);
    if ok { produced.ok() } else { produced.error() }
}

/// A record that is not acknowledged yet.
struct Pending<'a>(&'a Metrics);

impl<'a> Pending<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.produce_pending(1);
        Self(metrics)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.produce_pending(-1);
    }
}

/// What an oversized record has shed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shed {
    Nothing,
    Error,
    AllButCoordinates,
}

fn outgoing(delivery: &Delivery, topic: &str, reason: Reason, shed: Shed) -> Outgoing {
    let event = delivery.event();
    let mut envelope = delivery.envelope(reason);
    if shed != Shed::Nothing {
        envelope.shed_error();
    }
    let nothing = Headers::default();
    let (value, original) = match shed {
        Shed::Nothing | Shed::Error => (event.value.clone(), &event.headers),
        Shed::AllButCoordinates => {
            envelope = envelope.coordinates_only();
            (None, &nothing)
        }
    };
    let key = Some(Bytes::copy_from_slice(delivery.endpoint.as_bytes()));
    Outgoing { topic: topic.to_owned(), key, value, headers: envelope.write(original) }
}
