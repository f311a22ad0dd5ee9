//! One endpoint's lane: its queue, its rate and concurrency, and the life of each of its deliveries.
//!
//! There is no standing task. Workers are started while there is something to send, never more than the endpoint's
//! concurrency, and end when there is not; at most one of them sleeps until the next delivery may go.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use self::runtime::Runtime;
use super::{
    delivery::{Delivery, now},
    outcome::{self, Outcome, Reason},
    route::may_have,
    window::Share,
};
use crate::{
    config::settings::Endpoint,
    metrics::{self, endpoint::Park},
};

pub mod lanes;
mod runtime;

/// A lane that has done nothing for this long is taken down.
const IDLE: Duration = Duration::from_secs(60);
/// Weight of the newest attempt in the mean duration that due times of parked deliveries are spaced by.
const NEWEST: f64 = 0.1;

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
    /// What may go as soon as the limits allow.
    ready: VecDeque<Delivery>,
    /// The same of a limited endpoint, come back from a retry tier for its slot: it goes first. Were it to queue, or
    /// to be parked, behind what is read meanwhile, it would be written again and again.
    returned: VecDeque<Delivery>,
    /// What waits in memory, by due time and order of arrival.
    waiting: BTreeMap<(i64, u64), Delivery>,
    arrivals: u64,
    in_flight: usize,
    /// Workers alive, the sleeper included.
    workers: usize,
    sleeping: bool,
    held: usize,
    held_by: HashMap<Share, usize>,
    /// Does anybody wait for room here?
    watched: bool,
    /// The next free slot for what is parked, in unix milliseconds.
    cursor: f64,
    mean_duration: Duration,
    used: Instant,
    retired: bool,
}

/// What a partition finds when it wants to hand something to the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There is room.
    Room,
    /// Its share of the window is held.
    Full,
}

/// What a worker does next.
enum Next {
    /// Attempt this one; another worker should be started when there is more.
    Deliver { delivery: Box<Delivery>, more: bool },
    /// Sleep until then, or until woken.
    Sleep(Duration),
    /// End; it is not counted among the workers any more.
    Stop,
}

impl Lane {
    fn new(endpoint: &Arc<Endpoint>, shared: &Arc<lanes::Shared>) -> Arc<Self> {
        let metrics = shared.metrics.lane(&endpoint.id, endpoint.concurrency);
        Arc::new(Self {
            id: Arc::clone(&endpoint.id),
            shared: Arc::clone(shared),
            runtime: ArcSwap::from_pointee(Runtime::new(Arc::clone(endpoint), None)),
            state: Mutex::new(State::new()),
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
    pub fn standing(&self, partition: Share) -> Standing {
        let share = self.shared.share();
        let quota = (share / self.shared.partitions()).max(1);
        let mut state = self.lock();
        let own = state.held_by.get(&partition).copied().unwrap_or(0);
        if state.held < share || (own < quota && self.shared.grants_quota()) {
            return Standing::Room;
        }
        state.watched = true;
        Standing::Full
    }

    /// Does it hold less than half of its share? If not, whoever asks is woken when it does.
    pub fn has_room(&self) -> bool {
        let mut state = self.lock();
        let room = state.held < self.half();
        state.watched |= !room;
        room
    }

    /// Parks the oldest it holds until it is below half of its share; what is under way stays. Is there room now?
    pub fn park_oldest(&self) -> bool {
        let mut parked = Vec::new();
        let room = {
            let mut state = self.lock();
            let enough = (state.held + 1).saturating_sub(self.half());
            while parked.len() < enough {
                let Some(mut delivery) = state.ready.pop_front().or_else(|| state.returned.pop_back()) else {
                    break;
                };
                delivery.due = self.next_slot(&mut state);
                parked.push(delivery);
            }
            while parked.len() < enough {
                let Some((_, delivery)) = state.waiting.pop_last() else { break };
                self.shared.window.end_wait();
                parked.push(delivery);
            }
            self.show(&state);
            state.held - parked.len() < self.shared.share()
        };
        parked.into_iter().for_each(|delivery| self.settle_as_parked(delivery));
        room
    }

    /// Parks what has not been taken in, because all the lane holds is under way.
    pub fn pass_by(&self, mut delivery: Delivery) {
        delivery.due = self.next_slot(&mut self.lock());
        self.settle_as_parked(delivery);
    }

    fn settle_as_parked(&self, delivery: Delivery) {
        let limited = self.runtime.load().limiter.is_some();
        self.shared.settler.park(delivery, if limited { Park::Throttled } else { Park::Full });
    }

    /// Half of its share of the window.
    pub fn half(&self) -> usize {
        self.shared.share().div_ceil(2)
    }

    /// Takes out what came from one life of a partition and is not under way.
    pub fn take_back(&self, partition: Share) -> Vec<Delivery> {
        let mut state = self.lock();
        let ours = |delivery: &Delivery| delivery.ticket.partition().epoch == partition;
        let mut back = Vec::new();
        let State { ready, returned, .. } = &mut *state;
        for queue in [returned, ready] {
            let (own, others): (Vec<_>, _) = std::mem::take(queue).into_iter().partition(ours);
            *queue = others.into();
            back.extend(own);
        }
        back.extend(state.waiting.extract_if(.., |_, delivery| ours(delivery)).map(|(_, delivery)| {
            self.shared.window.end_wait();
            delivery
        }));
        self.show(&state);
        back
    }

    /// Takes out everything that is not under way.
    pub fn take_all(&self) -> Vec<Delivery> {
        let mut state = self.lock();
        let mut all: Vec<Delivery> = std::mem::take(&mut state.returned).into();
        all.append(&mut std::mem::take(&mut state.ready).into());
        all.extend(
            std::mem::take(&mut state.waiting).into_values().inspect(|_| self.shared.window.end_wait()),
        );
        self.show(&state);
        all
    }

    /// Goes on with another version of its endpoint.
    pub fn update(self: &Arc<Self>, endpoint: &Arc<Endpoint>) {
        let old = self.runtime.load_full();
        self.runtime.store(Arc::new(Runtime::new(Arc::clone(endpoint), Some(&old))));
        self.metrics.concurrency_limit.set(endpoint.concurrency);
        let mut state = self.lock();
        self.wake.notify_one();
        self.start_worker(&mut state);
    }

    /// Takes the lane down if it has done nothing for a while.
    fn retire(&self) -> bool {
        let mut state = self.lock();
        state.retired |= state.held == 0 && state.workers == 0 && state.used.elapsed() > IDLE;
        state.retired
    }

    /// The life of one delivery, from its turn to its outcome.
    async fn deliver_one(self: &Arc<Self>, mut delivery: Box<Delivery>) {
        let runtime = self.runtime.load_full();
        let settler = &self.shared.settler;
        // The endpoint may have changed while the delivery was queued.
        if !may_have(&runtime.endpoint, delivery.event()) {
            return settler.unknown(*delivery);
        }
        if !runtime.endpoint.enabled {
            return settler.removed(*delivery, Reason::Disabled);
        }
        if delivery.age() >= runtime.endpoint.retry.max_age {
            return settler.dead(*delivery, Reason::Expired);
        }
        let begun = now();
        delivery.first_attempt.get_or_insert(begun);
        let attempt = runtime.attempt(&self.shared.client, &delivery, begun).await;
        let so_far = delivery.count(&attempt);
        self.metrics.endpoint.attempt(attempt.result, attempt.duration);
        let jitter = self.shared.jitter();
        match outcome::judge(&attempt, &runtime.endpoint.retry, &so_far, jitter) {
            Outcome::Delivered => {
                self.metrics.endpoint.delivered(delivery.latency());
                settler.delivered(*delivery);
            }
            Outcome::Retry { after, reason, charged, pause_lane: _ } => {
                self.metrics.endpoint.retried(reason);
                delivery.due = now() + i64::try_from(after.as_millis()).unwrap_or(i64::MAX / 2);
                delivery.uncharged += u32::from(!charged);
                self.try_later(*delivery, after, reason);
            }
            Outcome::Dead { reason } => settler.dead(*delivery, reason),
        }
    }

    /// A short wait stays in memory where there is room, a longer one goes to a retry topic.
    fn try_later(self: &Arc<Self>, delivery: Delivery, after: Duration, reason: Reason) {
        let may_hold = after <= self.shared.hold && self.shared.window.may_wait();
        let mut state = self.lock();
        // Asked under the lock: whoever gives the partition up takes back what waits after it said so.
        let stays = !delivery.must_leave() && !state.retired;
        if may_hold && stays && state.held <= self.shared.share() {
            return self.enqueue(&mut state, delivery);
        }
        drop(state);
        self.shared.settler.later(delivery, reason);
    }

    fn enqueue(self: &Arc<Self>, state: &mut State, delivery: Delivery) {
        state.used = Instant::now();
        if delivery.due > now() {
            state.arrivals += 1;
            let key = (delivery.due, state.arrivals);
            state.waiting.insert(key, delivery);
            self.shared.window.begin_wait();
        } else {
            state.line_up(delivery, self.runtime.load().limiter.is_some());
        }
        self.show(state);
        if state.sleeping {
            self.wake.notify_one();
        } else {
            self.start_worker(state);
        }
    }

    fn start_worker(self: &Arc<Self>, state: &mut State) {
        let limit = self.runtime.load().endpoint.concurrency;
        if state.workers < limit && state.has_work() {
            state.workers += 1;
            self.shared.tasks.spawn("lane worker", Arc::clone(self).work());
        }
    }

    async fn work(self: Arc<Self>) {
        let mut working = Working { lane: &self, in_flight: None, counted: true };
        loop {
            match self.next() {
                Next::Deliver { delivery, more } => {
                    if more {
                        self.start_worker(&mut self.lock());
                    }
                    working.in_flight = Some(InFlight::new(&self));
                    self.deliver_one(delivery).await;
                    working.in_flight = None;
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

    fn next(&self) -> Next {
        let runtime = self.runtime.load();
        let mut state = self.lock();
        let now = now();
        while let Some(entry) = state.waiting.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let due = entry.remove();
            self.shared.window.end_wait();
            state.line_up(due, runtime.limiter.is_some());
        }
        self.show(&state);
        let sleep = if state.in_flight >= runtime.endpoint.concurrency {
            return state.stop_worker();
        } else if state.is_nothing_ready() {
            let Some((due, _)) = state.waiting.keys().next() else { return state.stop_worker() };
            Duration::from_millis(due.abs_diff(now))
        } else if let Err(wait) = runtime.admit() {
            let State { ready, returned, .. } = &mut *state;
            let first = returned.front_mut().or_else(|| ready.front_mut());
            first.expect("something is ready").throttled = true;
            wait
        } else {
            let delivery = state.returned.pop_front().or_else(|| state.ready.pop_front());
            let delivery = delivery.expect("something is ready");
            if delivery.throttled {
                self.metrics.endpoint.throttled();
            }
            let more = !state.sleeping && state.has_work();
            self.show(&state);
            return Next::Deliver { delivery: Box::new(delivery), more };
        };
        if state.sleeping {
            // It may sleep longer than it should now.
            self.wake.notify_one();
            return state.stop_worker();
        }
        state.sleeping = true;
        Next::Sleep(sleep)
    }

    /// The next free slot of the lane, behind everything it holds and everything it parked before.
    fn next_slot(&self, state: &mut State) -> i64 {
        let runtime = self.runtime.load();
        let drain = state.mean_duration.as_secs_f64() * 1000.0 / runtime.endpoint.concurrency as f64;
        let rate = runtime.endpoint.rate.map_or(0.0, |rate| rate.interval().as_secs_f64() * 1000.0);
        let spacing = drain.max(rate);
        let behind_the_held = now() as f64 + spacing * state.held as f64;
        state.cursor = state.cursor.max(behind_the_held) + spacing;
        state.cursor as i64
    }

    fn hold(self: &Arc<Self>, state: &mut State, delivery: &Delivery) -> Hold {
        let partition = delivery.ticket.partition().epoch;
        state.held += 1;
        self.shared.took_one();
        *state.held_by.entry(partition).or_default() += 1;
        if state.held == 1 {
            self.shared.became_active();
        }
        Hold { lane: Arc::clone(self), partition }
    }

    fn release(&self, partition: Share) {
        let mut state = self.lock();
        state.held -= 1;
        self.shared.gave_one_back();
        if let Some(held) = state.held_by.get_mut(&partition) {
            *held -= 1;
            if *held == 0 {
                state.held_by.remove(&partition);
            }
        }
        state.used = Instant::now();
        if state.held == 0 {
            self.shared.became_idle();
        }
        // Somewhat below full, so that a waiting partition is not woken for every single place.
        let (share, half) = (self.shared.share(), self.half());
        if state.watched && state.held < share - share / 4 {
            state.watched = state.held >= half;
            self.shared.room.notify_waiters();
        }
    }

    fn show(&self, state: &State) {
        self.metrics.queued.set(state.ready.len() + state.returned.len());
        self.metrics.waiting.set(state.waiting.len());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            returned: VecDeque::new(),
            waiting: BTreeMap::new(),
            arrivals: 0,
            in_flight: 0,
            workers: 0,
            sleeping: false,
            held: 0,
            held_by: HashMap::new(),
            watched: false,
            cursor: 0.0,
            mean_duration: Duration::ZERO,
            used: Instant::now(),
            retired: false,
        }
    }

    fn has_work(&self) -> bool {
        !self.is_nothing_ready() || !self.waiting.is_empty()
    }

    fn is_nothing_ready(&self) -> bool {
        self.ready.is_empty() && self.returned.is_empty()
    }

    fn line_up(&mut self, delivery: Delivery, limited: bool) {
        if limited && delivery.ticket.partition().tier.is_some() {
            self.returned.push_back(delivery);
        } else {
            self.ready.push_back(delivery);
        }
    }

    /// Under the same lock as the look that found nothing to do: whoever comes next starts another worker.
    fn stop_worker(&mut self) -> Next {
        self.workers -= 1;
        Next::Stop
    }
}

/// A delivery's place in its lane; given back when dropped.
pub struct Hold {
    lane: Arc<Lane>,
    partition: Share,
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hold").field(&self.lane.id).finish()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.lane.release(self.partition);
    }
}

/// A worker alive; also when it panics, its places become free.
struct Working<'a> {
    lane: &'a Arc<Lane>,
    in_flight: Option<InFlight<'a>>,
    counted: bool,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.in_flight = None;
        if self.counted {
            let mut state = self.lane.lock();
            state.workers -= 1;
            self.lane.start_worker(&mut state);
        }
    }
}

/// An attempt under way.
struct InFlight<'a> {
    lane: &'a Lane,
    since: Instant,
}

impl<'a> InFlight<'a> {
    fn new(lane: &'a Lane) -> Self {
        let mut state = lane.lock();
        state.in_flight += 1;
        lane.metrics.in_flight.set(state.in_flight);
        Self { lane, since: Instant::now() }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut state = self.lane.lock();
        state.in_flight -= 1;
        state.mean_duration =
            state.mean_duration.mul_f64(1.0 - NEWEST) + self.since.elapsed().mul_f64(NEWEST);
        self.lane.metrics.in_flight.set(state.in_flight);
    }
}
