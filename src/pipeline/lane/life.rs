//! The life of one delivery in its lane, from its turn to its outcome, and what the lane learns from it.

use std::{sync::Arc, time::Duration};

use super::{InFlight, Lane, core::Begun, is_moved};
use crate::{
    config::settings::Endpoint,
    notices::{Facts, Kind, excerpt},
    pipeline::{
        delivery::{Delivery, millis, now},
        outcome::{self, Attempt, AttemptResult, Outcome, Reason},
        route::may_have,
        switch::{Why, url_hash},
    },
};

/// Failing for this long is noted down, so that a restart does not forget since when.
const NOTED_AFTER: Duration = Duration::from_secs(60);

impl Lane {
    /// The life of one delivery, from its turn to its outcome.
    pub(super) async fn deliver_one(
        self: &Arc<Self>,
        mut delivery: Box<Delivery>,
        flight: &mut InFlight<'_>,
    ) {
        let runtime = self.runtime.load_full();
        let (endpoint, settler) = (&runtime.endpoint, &self.shared.settler);
        // The endpoint may have changed while the delivery was queued.
        if is_moved(endpoint, &delivery) {
            return settler.moved(*delivery);
        }
        if !may_have(endpoint, delivery.event()) {
            return settler.unknown(*delivery);
        }
        if !endpoint.enabled {
            return settler.removed(*delivery, Reason::Disabled);
        }
        let Some(begun) = flight.begun else { return settler.give_up(*delivery, Reason::Disabled) };
        let at = now();
        if delivery.age(at) >= endpoint.retry.max_age {
            return settler.give_up(*delivery, Reason::Expired);
        }
        delivery.first_attempt.get_or_insert(at);
        let attempt = runtime.attempt(&self.shared.client, &delivery, at).await;
        let mut so_far = delivery.count(&attempt, now());
        if attempt.result == AttemptResult::Status(410) {
            // What is gone must be what is configured now.
            let enabled_at = self.shared.switches.get(&self.id).enabled_at();
            so_far.gone_counts = at > enabled_at && self.endpoint().url == endpoint.url;
        }
        let outcome = outcome::judge(&attempt, &endpoint.retry, &so_far, self.shared.jitter());
        self.metrics.endpoint.attempt(attempt.result, attempt.duration);
        settler.attempted(&delivery, at, &attempt, &outcome);
        flight.begun = None;
        let failed_for_good = self.learn(begun, &attempt, &outcome, endpoint);
        match outcome {
            // The endpoint got a queue of its own meanwhile.
            Outcome::Retry { .. } | Outcome::Dead { .. } if self.is_moved(&delivery) => {
                settler.moved(*delivery);
            }
            Outcome::Delivered => {
                let latency = delivery.latency();
                self.metrics.endpoint.delivered(latency);
                settler.delivered(*delivery, &attempt, latency);
            }
            Outcome::Retry { after, reason, charged } => {
                self.metrics.endpoint.retried(reason);
                delivery.due = now().saturating_add(millis(after));
                delivery.uncharged += u32::from(!charged);
                self.try_later(*delivery, after, reason);
            }
            Outcome::Dead { reason: Reason::Gone } => {
                let known = self.disable(Why::Gone, at, endpoint).await;
                if !known || delivery.ticket.partition().is_fenced() {
                    return delivery.ticket.hand_back();
                }
                settler.dead(*delivery, Reason::Gone);
            }
            Outcome::Dead { reason } => settler.dead(*delivery, reason),
        }
        if failed_for_good {
            self.disable(Why::Failing, at, endpoint).await;
        }
    }

    /// Takes in what an attempt says about the receiver. Has it failed for so long that it is to be disabled?
    fn learn(&self, begun: Begun, attempt: &Attempt, outcome: &Outcome, endpoint: &Endpoint) -> bool {
        let now = now();
        let (ended, disabled) = {
            let mut state = self.lock();
            if self.runtime.load().endpoint.url != endpoint.url {
                // It says something about a receiver that is not ours any more.
                state.core.abandoned(begun);
                return false;
            }
            (state.core.late, state.core.turn) = self.shared.lateness.now();
            let ended = state.core.ended(begun, (attempt, outcome), endpoint, now);
            self.show(&state);
            (ended, state.core.disabled)
        };
        if ended.recovered {
            let since = self.shared.switches.note_success(&self.id);
            if since.is_some() {
                let facts = || Facts { since, ..Facts::default() };
                self.shared.notices.tell(Kind::EndpointRecovered, &self.id, facts);
            }
        }
        if ended.opened.is_some() {
            let facts = || Facts { until: ended.opened, ..last(attempt) };
            self.shared.notices.tell(Kind::BreakerOpened, &self.id, facts);
        }
        let Some(since) = ended.failing_since else { return false };
        let failing = now.saturating_sub(since);
        // Of a short patience a restart must not forget most.
        let noted_after = endpoint.disable_after.map_or(NOTED_AFTER, |longest| NOTED_AFTER.min(longest / 4));
        if failing >= millis(noted_after) {
            let is_new = self.shared.switches.note_failing(&self.id, since, &endpoint.url);
            if is_new {
                let facts = || Facts { since: Some(since), ..last(attempt) };
                self.shared.notices.tell(Kind::EndpointFailing, &self.id, facts);
            }
        }
        !disabled && endpoint.disable_after.is_some_and(|longest| failing >= millis(longest))
    }

    /// Nothing is sent any more from now on; returns when every instance can know it, or false when that will not be.
    async fn disable(self: &Arc<Self>, why: Why, begun: i64, endpoint: &Endpoint) -> bool {
        let since = self.shared.switches.get(&self.id).failing_since(&url_hash(&endpoint.url));
        let (is_new, written) = self.shared.switches.disable(&self.id, why, begun, &endpoint.url);
        if is_new {
            let facts = || Facts { since, reason: Some(why.as_str()), ..Facts::default() };
            self.shared.notices.tell(Kind::EndpointDisabled, &self.id, facts);
        }
        self.switched();
        written.await
    }

    /// A short wait stays in memory where there is room, a longer one goes to a retry topic; who keeps an order waits
    /// where it is.
    fn try_later(self: &Arc<Self>, delivery: Delivery, after: Duration, reason: Reason) {
        let ordered = delivery.line.is_some();
        let may_hold = after <= self.shared.hold;
        let share = self.bounds().share;
        let mut state = self.lock();
        // Asked under the lock: whoever gives the partition up takes back what waits after it said so.
        let stays = !delivery.must_leave();
        if stays && state.retired {
            // Nobody looks into a lane that was closed.
            drop(state);
            return self.shared.settler.unknown(delivery);
        }
        if stays && (ordered || (may_hold && state.core.held() <= share)) {
            return self.enqueue(&mut state, delivery);
        }
        drop(state);
        if ordered {
            // Behind others on a retry topic it would lose its place; whoever reads the partition next owes it.
            return delivery.ticket.hand_back();
        }
        self.shared.settler.later(delivery, reason);
    }
}

/// What a person wants to know of the last attempt.
fn last(attempt: &Attempt) -> Facts {
    Facts { status: attempt.result.status(), error: excerpt(&attempt.detail), ..Facts::default() }
}
