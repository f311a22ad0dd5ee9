//! One endpoint's lane: it does what its core decides. The life of each of its deliveries is in `life.rs`.
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
    runtime::Runtime,
};
use super::{
    delivery::{Delivery, millis, now},
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
mod life;
mod limit;
#[cfg(test)]
mod model;
mod order;
mod pace;
mod parking;
mod queue;
pub mod report;
mod runtime;
mod trial;

/// A lane that has done nothing for this long is taken down, if nothing would be forgotten …
const IDLE: Duration = Duration::from_secs(60);
/// … and after this long in any case: longer than any breaker stays open by default.
const FORGOTTEN: Duration = Duration::from_secs(15 * 60);
/// Each so many deliveries a worker measures how long it waits for its turn.
const MEASURED: u32 = 32;

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

    /// How long is it waited for while it is full, before it is looked at again? `None`: it is too slow for that.
    pub fn worth_waiting(&self) -> Option<Duration> {
        let bounds = self.bounds();
        self.lock().core.worth_waiting(bounds, now())
    }

    /// Is there room for one that comes before its slot, as it may?
    fn takes_early(&self) -> bool {
        let endpoint = self.endpoint();
        let bounds = self.shared.bounds(endpoint.priority);
        self.lock().core.takes_early(&endpoint, bounds, now())
    }

    /// Can it send nothing for long, whatever its rate?
    pub fn is_shut(&self) -> bool {
        self.lock().core.is_shut(self.shared.hold, now())
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
        let mut delivered: u32 = 0;
        loop {
            match self.next() {
                Next::Deliver(delivery, begun) => {
                    let flight = working.flight.insert(InFlight { lane: &self, begun });
                    self.deliver_one(delivery, flight).await;
                    working.flight = None;
                    delivered = delivered.wrapping_add(1);
                    if delivered.is_multiple_of(MEASURED) {
                        self.shared.lateness.measure_turn().await;
                    }
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
        state.core.moves += 1;
        if let Some(begun) = self.begun {
            state.core.abandoned(begun);
        }
        self.lane.metrics.in_flight.set(state.core.in_flight);
    }
}
