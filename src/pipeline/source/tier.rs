//! Records of retry tiers: they wait until they are ready, go on, or are settled because an operator has taken them.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::debug;

use super::Source;
use crate::{
    config::settings::{Endpoint, Priority},
    kafka::headers::Envelope,
    metrics::endpoint::Origin,
    otel,
    pipeline::{
        Event, Record,
        delivery::{Delivery, millis, now},
        ledger::Carried,
        marker::{self, Act, Original},
        outcome::Reason,
        route::may_have,
    },
    registry::{endpoint_hash, parse_hash_name},
};

/// A wait on a tier that is longer than this gives the prefetched records back: pausing costs a fetch, memory is
/// held otherwise.
const LONG_WAIT: Duration = Duration::from_secs(60);

impl Source {
    pub(super) async fn tier_record(&mut self, record: Record, delay: Duration) {
        if self.life.ledger().carried(record.offset) == Carried::Settled {
            return self.settled(&record, None);
        }
        let (envelope, original) = match Envelope::read(&record) {
            Ok(read) => read,
            Err(malformed) => {
                self.shared.settler.malformed(&record, &malformed.to_string()).await;
                return self.settled(&record, None);
            }
        };
        if self.is_taken_until_ready(&record, &envelope, delay).await {
            return;
        }
        // What is ready as well is delivered soon; what is not would only be held.
        let since = now().saturating_sub(millis(delay));
        self.queue.read_ahead(|next| next.timestamp <= since);
        let bytes = self.room_for(&record).await;
        self.know_markers().await;
        // From here on it is acted on, whatever operators say later.
        if self.is_taken(&record, &envelope, delay) {
            return;
        }
        let value = record.value.clone();
        let event = self.shared.decoder.restore(&envelope, original, value);
        let endpoint = self.find(&envelope, &event);
        let hash = endpoint.as_ref().map_or_else(
            || parse_hash_name(&envelope.endpoint).unwrap_or_else(|| endpoint_hash(&envelope.endpoint)),
            |endpoint| endpoint_hash(&endpoint.id),
        );
        let opened = self.open(event, (record.offset, record.timestamp), bytes, &[hash]);
        let name = endpoint.as_ref().map_or_else(|| Arc::clone(&envelope.endpoint), |e| Arc::clone(&e.id));
        let own = opened.held.event.priority;
        let priority =
            endpoint.as_ref().map_or(Priority::Normal, |endpoint| own.unwrap_or(endpoint.priority));
        let urgent = (priority, envelope.attempts > 0);
        let mut delivery = self.delivery(&opened, 0, name, urgent).await.with(&envelope);
        delivery.trace = otel::go_on(self.shared.tracer.as_ref(), delivery.event(), &envelope);
        self.go_on(endpoint.as_ref(), delivery, envelope.reason).await;
    }

    /// Has an operator released or cancelled it? Then its copy goes on, and this original is settled.
    fn is_taken(&self, record: &Record, envelope: &Envelope, delay: Duration) -> bool {
        let Record { topic, partition, offset, timestamp, .. } = record;
        let original = Original { offset: *offset, timestamp: *timestamp, delay, envelope };
        let Some(act) = self.shared.markers.act((topic, *partition), &original) else { return false };
        debug!(%topic, partition, offset, ?act, "settled by an operator");
        if act == Act::Cancel {
            // Whoever cancelled it wrote the dead letter, but counts nothing.
            self.shared.metrics.endpoint(&envelope.endpoint).dead(Reason::Cancelled);
            self.end_trace(record, envelope);
        }
        self.settled(record, None);
        true
    }

    /// A delivery ends that never became one here.
    fn end_trace(&self, record: &Record, envelope: &Envelope) {
        let Some(tracer) = &self.shared.tracer else { return };
        let Ok((_, original)) = Envelope::read(record) else { return };
        let event = &self.shared.decoder.restore(envelope, original, record.value.clone());
        let Envelope { endpoint, attempts, replays, first_seen, .. } = envelope;
        let (attempts, replays, first_seen) = (*attempts, *replays, *first_seen);
        if let Some(trace) = otel::go_on(Some(tracer), event, envelope) {
            let ended = otel::Ended { event, endpoint, attempts, replays, first_seen };
            trace.ended(&ended, otel::End::Dead(Reason::Cancelled));
        }
    }

    /// Returns when all is known that operators said until a moment ago.
    async fn know_markers(&self) {
        let markers = &self.shared.markers;
        if markers.are_known(now(), self.since) {
            return;
        }
        let _turn = markers.turn().await;
        if !markers.are_known(now(), self.since) {
            let positions = Arc::clone(&self.shared.positions);
            self.shared.blocking("markers", move || positions.catch_up()).await;
        }
    }

    /// What a ready tier record does next.
    async fn go_on(&mut self, endpoint: Option<&Arc<Endpoint>>, mut delivery: Delivery, reason: Reason) {
        let settler = &self.shared.settler;
        let Some(endpoint) = endpoint else { return settler.unknown(delivery) };
        delivery.unknown_since = None;
        if delivery.replays > 0
            && delivery.attempts == 0
            && reason != Reason::Shutdown
            && self.life.tier == Some(Duration::ZERO)
        {
            self.shared.metrics.endpoint(&endpoint.id).opened(Origin::Replay);
        }
        if !endpoint.enabled {
            return settler.removed(delivery, Reason::Disabled);
        }
        if delivery.age(now()) >= endpoint.retry.max_age {
            return settler.give_up(delivery, Reason::Expired);
        }
        let remaining = delivery.due.saturating_sub(now());
        if remaining > millis(self.shared.hold) && !self.shared.lanes.take_early(&delivery) {
            return settler.later(delivery, reason);
        }
        self.hand(delivery).await;
    }

    /// Waits until the record has been on its tier for the delay, or is due, whichever is first. The brokers' clock
    /// may be ahead of ours: it never waits longer than the delay. True as soon as an operator has taken it.
    async fn is_taken_until_ready(&mut self, record: &Record, envelope: &Envelope, delay: Duration) -> bool {
        let appended = record.timestamp.min(now());
        let ready = marker::ready(appended, delay, envelope.due);
        let mut paused = false;
        let taken = loop {
            let changed = self.shared.markers.changed();
            let left = u64::try_from(ready.saturating_sub(now())).unwrap_or(0);
            let taken = self.is_taken(record, envelope, delay);
            if taken || left == 0 {
                break taken;
            }
            if !paused && Duration::from_millis(left) > LONG_WAIT {
                paused = self.pause(true).await;
            }
            // In slices, because the clock may be set meanwhile.
            tokio::select! {
                () = sleep(Duration::from_millis(left).min(LONG_WAIT)) => {}
                () = changed => {}
            }
        };
        if paused {
            self.pause(false).await;
        }
        taken
    }

    async fn pause(&self, pause: bool) -> bool {
        let (consumer, of) = (self.queue.consumer.clone(), self.queue.of.clone());
        let done = self
            .shared
            .blocking("pause", move || if pause { consumer.pause(&of) } else { consumer.resume(&of) })
            .await;
        matches!(done, Some(Ok(())))
    }

    fn find(&self, envelope: &Envelope, event: &Event) -> Option<Arc<Endpoint>> {
        let registry = self.shared.registry.snapshot();
        let found = match parse_hash_name(&envelope.endpoint) {
            Some(hash) => registry.by_hash(hash).find(|endpoint| may_have(endpoint, event)),
            None => registry.by_id(&envelope.endpoint).filter(|endpoint| may_have(endpoint, event)),
        };
        found.cloned()
    }
}
