//! One endpoint's lane: it does what its core decides, and holds the life of each of its deliveries.
//!
//! There is no standing task. Workers are started while there is something to send, never more than may be in flight,
//! and end when there is not; at most one of them sleeps until the next delivery may go.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tracing::info;

pub use self::{core::Standing, order::Line};
use self::{
    core::{Begun, Core, Next},
    report::Report,
    runtime::Runtime,
};
use super::{
    delivery::{Delivery, millis, now},
    outcome::{self, Attempt, AttemptResult, Outcome, Reason},
    route::may_have,
    switch::{Why, url_hash},
    ticket::Partition,
    window::Share,
};
use crate::{
    config::settings::{self, Endpoint},
    metrics,
};

mod breaker;
mod core;
mod flow;
pub mod lanes;
mod lateness;
mod limit;
#[cfg(test)]
mod model;
mod order;
mod pace;
mod queue;
pub mod report;
mod runtime;

/// A lane that has done nothing for this long is taken down, if nothing would be forgotten …
const IDLE: Duration = Duration::from_secs(60);
/// … and after this long in any case: longer than any breaker stays open by default.
const FORGOTTEN: Duration = Duration::from_secs(15 * 60);
/// Failing for this long is noted down, so that a restart does not forget since when.
const NOTED_AFTER: Duration = Duration::from_secs(60);

/// One endpoint's lane.
pub struct Lane {
    /// The endpoint's id.
    pub id: Arc<str>,
    shared: Arc<lanes::Shared>,
    runtime: ArcSwap<Runtime>,
    state: Mutex<State>,
    /// Wakes the worker that sleeps.
    wake: Notify,
    metrics: metrics::endpoint::Lane,
}

struct State {
    core: Core,
    /// Workers alive, the sleeper included.
    workers: usize,
    sleeping: bool,
    /// Does anybody wait until it is not full any more?
    watched: bool,
    /// Does anybody wait until it has room, to read past another one?
    wanted: bool,
    used: Instant,
    retired: bool,
}

impl Lane {
    fn new(endpoint: &Arc<Endpoint>, shared: &Arc<lanes::Shared>) -> Arc<Self> {
        let metrics = shared.metrics.lane(&endpoint.id);
        let switch = shared.switches.get(&endpoint.id);
        let mut core = Core::new(endpoint, &switch, now());
        // The shortest wait that may have to be spent on a retry topic.
        core.first_wait = millis(shared.hold);
        Arc::new(Self {
            id: Arc::clone(&endpoint.id),
            shared: Arc::clone(shared),
            runtime: ArcSwap::from_pointee(Runtime::new(Arc::clone(endpoint), None)),
            state: Mutex::new(State {
                core,
                workers: 0,
                sleeping: false,
                watched: false,
                wanted: false,
                used: Instant::now(),
                retired: false,
            }),
            wake: Notify::new(),
            metrics,
        })
    }

    /// Takes a delivery in; gives it back when the lane has been taken down.
    pub fn push(self: &Arc<Self>, mut delivery: Delivery) -> Result<(), Box<Delivery>> {
        let mut state = self.lock();
        if state.retired {
            return Err(Box::new(delivery));
        }
        delivery.hold = Some(self.hold(&mut state, &delivery));
        self.enqueue(&mut state, delivery);
        Ok(())
    }

    /// Is there room for one more of this partition? Whoever is told that there is not is woken when there is.
    pub fn standing(&self, partition: &Partition) -> Standing {
        let endpoint = self.endpoint();
        let bounds = self.shared.bounds(endpoint.priority);
        let mut state = self.lock();
        let standing = state.core.standing(&endpoint, (partition.epoch, partition.own), bounds, now());
        state.watched |= standing == Standing::Full;
        standing
    }

    /// Does it hold less than half of its share, and can it send? If not, whoever asks is woken when it holds less.
    pub fn has_room(&self) -> bool {
        let bounds = self.bounds();
        let mut state = self.lock();
        let room = state.core.has_room(bounds, now());
        state.wanted |= !room;
        room
    }

    /// Will it have room again in a moment, at its pace?
    pub fn is_brisk(&self) -> bool {
        let bounds = self.bounds();
        self.lock().core.is_brisk(bounds, now())
    }

    /// Can it send nothing for long, whatever its rate?
    pub fn is_shut(&self) -> bool {
        self.lock().core.is_shut(self.shared.hold, now())
    }

    /// Parks the oldest it holds until it is below half of its share, or all but one to probe with when it cannot
    /// send for long; what is under way stays. Is there room now?
    pub fn park_oldest(&self) -> bool {
        let bounds = self.bounds();
        let state = self.lock();
        let held = state.core.held();
        let half = bounds.share.div_ceil(2);
        let kept = if state.core.is_blocked(bounds.hold, now()) { 1 } else { half.saturating_sub(1) };
        let parked = self.park_some(state, held.saturating_sub(kept));
        held - parked < bounds.share
    }

    /// Makes way for one that came back: fresh ones are parked before it, and those that are due later. Is there room?
    pub fn make_way(&self) -> bool {
        let bounds = self.bounds();
        let state = self.lock();
        !state.core.is_blocked(bounds.hold, now()) && self.park_some(state, 1) > 0
    }

    /// Parks so many, if so many are not under way; how many?
    fn park_some(&self, mut state: MutexGuard<'_, State>, count: usize) -> usize {
        let endpoint = self.endpoint();
        let shed = state.core.queue.shed(count);
        let parked: Vec<_> = shed
            .into_iter()
            .map(|mut delivery| {
                let why = state.core.park(&mut delivery, &endpoint, self.shared.jitter(), now());
                (delivery, why)
            })
            .collect();
        self.show(&state);
        drop(state);
        let count = parked.len();
        parked.into_iter().for_each(|(delivery, why)| self.shared.settler.park(delivery, why));
        count
    }

    /// Parks what has not been taken in.
    pub fn pass_by(&self, mut delivery: Delivery) {
        let endpoint = self.endpoint();
        let why = self.lock().core.park(&mut delivery, &endpoint, self.shared.jitter(), now());
        self.shared.settler.park(delivery, why);
    }

    /// Takes out what came from one life of a partition and is not under way.
    pub fn take_back(&self, partition: Share) -> Vec<Delivery> {
        let mut state = self.lock();
        if !state.core.holds(partition) {
            return Vec::new();
        }
        let mut back = state.core.queue.take_back(partition);
        back.extend(state.core.order.take_back(partition));
        self.show(&state);
        back
    }

    /// Takes nothing in any more, and gives out everything that is not under way: its endpoint is gone.
    pub fn close(&self) -> Vec<Delivery> {
        let mut state = self.lock();
        state.retired = true;
        let mut all = state.core.queue.take_if(|_| true);
        all.extend(state.core.order.take_all());
        self.show(&state);
        all
    }

    /// Goes on with another version of its endpoint. What was learnt of another receiver means nothing any more.
    pub fn update(self: &Arc<Self>, endpoint: &Arc<Endpoint>) {
        let old = self.runtime.load_full();
        self.runtime.store(Arc::new(Runtime::new(Arc::clone(endpoint), Some(&old))));
        let moved = {
            let mut state = self.lock();
            state.core.limit.set_most(endpoint.concurrency);
            if old.endpoint.url != endpoint.url {
                state.core.start_over();
            }
            if old.endpoint.rate != endpoint.rate || old.endpoint.burst != endpoint.burst {
                state.core.forget_slots();
            }
            state.core.queue.take_if(|delivery| is_moved(endpoint, delivery))
        };
        moved.into_iter().for_each(|delivery| self.shared.settler.moved(delivery));
        self.switched();
    }

    /// Is it the endpoint's own queue's to deliver?
    fn is_moved(&self, delivery: &Delivery) -> bool {
        is_moved(&self.runtime.load().endpoint, delivery)
    }

    /// What is known of the endpoint besides its configuration has changed, or may have.
    pub fn switched(self: &Arc<Self>) {
        let mut state = self.lock();
        // Asked under the lock: of two who tell at the same time, the later one must not go by what was before.
        let (endpoint, switch) = (self.endpoint(), self.shared.switches.get(&self.id));
        if state.core.switched(&endpoint, &switch) {
            let Core { disabled, paused, .. } = state.core;
            info!(endpoint = %self.id, disabled, paused, "lane switched");
        }
        self.show(&state);
        self.wake.notify_one();
        self.start_worker(&mut state);
    }

    /// Takes the lane down if it has done nothing for a while.
    fn retire(&self) -> bool {
        let mut state = self.lock();
        let idle = state.used.elapsed();
        let done = state.core.held() == 0 && state.workers == 0 && idle > IDLE;
        state.retired |= done && (state.core.is_quiet(now()) || idle > FORGOTTEN);
        state.retired
    }

    /// How it stands; `None` when it does nothing and nothing is the matter with it.
    fn report(&self) -> Option<Report> {
        let runtime = self.runtime.load();
        let mut state = self.lock();
        let now = now();
        let url = url_hash(&runtime.endpoint.url);
        let switch = self.shared.switches.get(&self.id);
        let report = Report {
            endpoint: self.id.to_string(),
            queued: state.core.queue.ready() + state.core.order.behind(),
            waiting: state.core.queue.waiting(),
            in_flight: state.core.in_flight,
            limit: state.core.limit.current(),
            concurrency: runtime.endpoint.concurrency,
            rate: state.core.pace.rate(now),
            rate_limit: runtime.endpoint.rate.map(|rate| 1.0 / rate.interval().as_secs_f64()),
            breaker: match state.core.breaker.level() {
                0 => report::Breaker::Closed,
                1 => report::Breaker::Probing,
                _ => report::Breaker::Open,
            },
            next_probe: state.core.breaker.next_probe(now),
            paused: state.core.paused,
            paused_until: Some(state.core.paused_until).filter(|until| *until > now),
            disabled: switch.disabled_for(&url).map(|disabled| disabled.why.as_str().to_owned()),
            cursor: state.core.pace.cursor(now),
            failing_since: state.core.failing_since,
            last_error: state.core.last_error.clone(),
            own_queue_lag: None,
        };
        (state.core.held() > 0 || state.core.disabled || !state.core.is_quiet(now)).then_some(report)
    }

    /// The life of one delivery, from its turn to its outcome.
    async fn deliver_one(self: &Arc<Self>, mut delivery: Box<Delivery>, flight: &mut InFlight<'_>) {
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
        let Some(begun) = flight.begun else { return settler.dead(*delivery, Reason::Disabled) };
        let at = now();
        if delivery.age(at) >= endpoint.retry.max_age {
            return settler.dead(*delivery, Reason::Expired);
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
        flight.begun = None;
        let failed_for_good = self.learn(begun, &attempt, &outcome, endpoint);
        match outcome {
            // The endpoint got a queue of its own meanwhile.
            Outcome::Retry { .. } | Outcome::Dead { .. } if self.is_moved(&delivery) => {
                settler.moved(*delivery);
            }
            Outcome::Delivered => {
                self.metrics.endpoint.delivered(delivery.latency());
                settler.delivered(*delivery);
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
            state.core.late = self.shared.lateness.of_round_trip();
            let ended = state.core.ended(begun, (attempt, outcome), endpoint, now);
            self.show(&state);
            (ended, state.core.disabled)
        };
        if ended.recovered {
            self.shared.switches.note_success(&self.id);
        }
        let Some(since) = ended.failing_since else { return false };
        let failing = now.saturating_sub(since);
        // Of a short patience a restart must not forget most.
        let noted_after = endpoint.disable_after.map_or(NOTED_AFTER, |longest| NOTED_AFTER.min(longest / 4));
        if failing >= millis(noted_after) {
            self.shared.switches.note_failing(&self.id, since, &endpoint.url);
        }
        !disabled && endpoint.disable_after.is_some_and(|longest| failing >= millis(longest))
    }

    /// Nothing is sent any more from now on; returns when every instance can know it, or false when that will not be.
    async fn disable(self: &Arc<Self>, why: Why, begun: i64, endpoint: &Endpoint) -> bool {
        let written = self.shared.switches.disable(&self.id, why, begun, &endpoint.url);
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

    fn enqueue(self: &Arc<Self>, state: &mut State, delivery: Delivery) {
        state.used = Instant::now();
        state.core.push(delivery, now());
        self.go_on(state);
    }

    /// There is more to do than before.
    fn go_on(self: &Arc<Self>, state: &mut State) {
        self.show(state);
        if state.sleeping {
            self.wake.notify_one();
        } else {
            self.start_worker(state);
        }
    }

    fn start_worker(self: &Arc<Self>, state: &mut State) {
        let core = &state.core;
        let idle = core.queue.is_empty() || core.paused;
        if !idle && state.workers < core.limit.current() {
            state.workers += 1;
            self.shared.tasks.spawn("lane worker", Arc::clone(self).work());
        }
    }

    async fn work(self: Arc<Self>) {
        let mut working = Working { lane: &self, flight: None, counted: true };
        loop {
            match self.next() {
                Next::Deliver(delivery, begun) => {
                    let flight = working.flight.insert(InFlight { lane: &self, begun });
                    self.deliver_one(delivery, flight).await;
                    working.flight = None;
                }
                Next::Sleep(time) => {
                    tokio::select! {
                        () = sleep(time) => {}
                        () = self.wake.notified() => {}
                    }
                    self.lock().sleeping = false;
                }
                Next::Stop => {
                    working.counted = false;
                    return;
                }
            }
        }
    }

    fn next(self: &Arc<Self>) -> Next {
        let runtime = self.runtime.load();
        let mut state = self.lock();
        let next = state.core.next(&runtime.endpoint, || runtime.admit(), now());
        self.show(&state);
        match &next {
            Next::Deliver(delivery, _) => {
                if delivery.throttled {
                    self.metrics.endpoint.throttled();
                }
                if state.core.queue.ready() > 0 {
                    self.go_on(&mut state);
                }
            }
            Next::Sleep(_) if state.sleeping => {
                // It may sleep longer than it should now.
                self.wake.notify_one();
                state.workers -= 1;
                return Next::Stop;
            }
            Next::Sleep(_) => state.sleeping = true,
            // Under the same lock as the look that found nothing to do: whoever comes next starts another worker.
            Next::Stop => state.workers -= 1,
        }
        next
    }

    fn hold(self: &Arc<Self>, state: &mut State, delivery: &Delivery) -> Hold {
        let from = delivery.ticket.partition();
        let (partition, bytes) = ((from.epoch, from.own), delivery.bytes());
        state.core.hold(partition, bytes);
        self.shared.took_one(bytes);
        Hold { lane: Arc::clone(self), partition, bytes }
    }

    fn release(&self, partition: (Share, bool), bytes: usize) {
        let mut state = self.lock();
        state.core.release(partition, bytes);
        self.shared.gave_one_back(bytes);
        state.used = Instant::now();
        if !state.watched && !state.wanted {
            return;
        }
        let bounds = self.bounds();
        // Somewhat below full, so that a waiting partition is not woken for every single place.
        let not_full = state.core.held() < bounds.share - bounds.share / 4;
        let roomy = state.wanted && state.core.has_room(bounds, now());
        // One whose own part of a full lane is half used up must not run dry: what it has may be more urgent.
        let low = state.watched && state.core.held_of(partition.0) == bounds.quota / 2;
        if (state.watched && not_full) || roomy || low {
            (state.watched, state.wanted) = (state.watched && !not_full, state.wanted && !roomy);
            self.shared.room.notify_waiters();
        }
    }

    fn bounds(&self) -> core::Bounds {
        self.shared.bounds(self.runtime.load().endpoint.priority)
    }

    fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.runtime.load().endpoint)
    }

    fn show(&self, state: &State) {
        let core = &state.core;
        self.metrics.queued.set(core.queue.ready() + core.order.behind());
        self.metrics.waiting.set(core.queue.waiting());
        self.metrics.in_flight.set(core.in_flight);
        self.metrics.concurrency_limit.set(core.limit.current());
        self.metrics.breaker.set(usize::from(core.breaker.level()));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does the endpoint's own queue deliver it again, because the endpoint had none when the main group opened it? Its
/// group began at or below every event that the main group had not settled then.
fn is_moved(endpoint: &Endpoint, delivery: &Delivery) -> bool {
    let from = delivery.ticket.partition();
    endpoint.queue == settings::Queue::Own && !from.own && from.tier.is_none()
}

/// A delivery's place in its lane; given back when dropped.
pub struct Hold {
    lane: Arc<Lane>,
    /// Which it came from, and whether that is read for this endpoint alone.
    partition: (Share, bool),
    bytes: usize,
}

impl Hold {
    /// The delivery was out of this line and is settled: the next one may go.
    pub(super) fn over(self, line: Line) {
        let mut state = self.lane.lock();
        state.core.over(line, now());
        self.lane.go_on(&mut state);
    }
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hold").field(&self.lane.id).finish()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.lane.release(self.partition, self.bytes);
    }
}

/// A worker alive; also when it panics, its places become free.
struct Working<'a> {
    lane: &'a Arc<Lane>,
    flight: Option<InFlight<'a>>,
    counted: bool,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.flight = None;
        if self.counted {
            let mut state = self.lane.lock();
            state.workers -= 1;
            self.lane.start_worker(&mut state);
        }
    }
}

/// An attempt under way; what it began is open until it was judged.
struct InFlight<'a> {
    lane: &'a Lane,
    begun: Option<Begun>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut state = self.lane.lock();
        state.core.in_flight -= 1;
        if let Some(begun) = self.begun {
            state.core.abandoned(begun);
        }
        self.lane.metrics.in_flight.set(state.core.in_flight);
    }
}
