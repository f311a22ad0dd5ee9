//! All lanes: made on demand, taken down when idle, and what they share.
//!
//! Back-pressure in one paragraph. A lane's share is half of the window, divided among the lanes that hold anything by
//! the weight of their priority; so all lanes together never hold more than half, and what one may hold adapts to how
//! many are active. A partition hands deliveries to a lane until the lane holds its share (and the partition its part
//! of it). Then, if anything among what this partition handed over since the lane filled (looked at: as much as half a
//! share) went to another lane that has room (holds less than half of its share), the full lane stands in its way:
//! the oldest of what it holds is parked until it is below half, or, if all of that is under way, what it was to get.
//! Otherwise the partition is simply not read: Kafka is the queue, and a lane that is alone, or as busy as all others,
//! is never parked. A lane that cannot send within `hold` (breaker, pause, far slot) counts as full as soon as another
//! one has room, and keeps but one delivery to probe with. Between full and half lies the hysteresis; no clock decides.
//! A retry tier is always read on: what it has for a full lane is written anew, so that nobody's parked first attempt
//! waits behind it. A queue of an endpoint's own feeds one lane only, so nothing of it is ever parked for room.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::{Lane, Standing, core::Bounds, report::Report};
use crate::{
    app::tasks::Tasks,
    http,
    metrics::Metrics,
    pipeline::{
        delivery::Delivery,
        settle::Settler,
        switches::Switches,
        window::{Share, Window},
    },
    registry::Registry,
};

/// Lanes a partition remembers to have fed; more than a handful say nothing new about who has room.
const REMEMBERED: usize = 8;

/// What all lanes share.
pub struct Shared {
    /// The HTTP client.
    pub client: http::Client,
    /// Where deliveries end or go on.
    pub settler: Settler,
    /// What memory is bounded by.
    pub window: Arc<Window>,
    /// A wait this short stays in memory.
    pub hold: Duration,
    /// What is known of endpoints besides their configuration.
    pub switches: Switches,
    /// Where workers are spawned.
    pub tasks: Tasks,
    /// Where they count.
    pub metrics: Metrics,
    /// Told when a lane that somebody waits for has room again.
    pub(super) room: Notify,
    /// Sum of the weights of the lanes that hold anything.
    active: AtomicUsize,
    /// Deliveries in lanes.
    held: AtomicUsize,
    partitions: AtomicUsize,
    random: AtomicU64,
}

impl Shared {
    /// Nothing is active yet.
    pub fn new(
        client: http::Client,
        settler: Settler,
        window: Arc<Window>,
        hold: Duration,
        switches: Switches,
        (tasks, metrics): (Tasks, Metrics),
    ) -> Self {
        Self {
            client,
            settler,
            window,
            hold,
            switches,
            tasks,
            metrics,
            room: Notify::new(),
            active: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            partitions: AtomicUsize::new(1),
            random: AtomicU64::new(u64::from(std::process::id())),
        }
    }

    /// What a lane of that weight may hold: all lanes together half of the window, so that nobody is ever shut out.
    pub(super) fn bounds(&self, weight: usize) -> Bounds {
        let active = self.active.load(Ordering::Relaxed).max(weight);
        let part = |of: usize| (of / 2).saturating_mul(weight).checked_div(active).unwrap_or(0).max(1);
        let share = part(self.window.limit());
        // May a partition have its part of a lane although others have filled it? Not when lanes hold half of the
        // window already: many stuck ones times many partitions would be all of it.
        let grants = self.held.load(Ordering::Relaxed) < self.window.limit() / 2;
        let partitions = self.partitions.load(Ordering::Relaxed).max(1);
        let quota = if grants { (share / partitions).max(1) } else { 0 };
        Bounds { share, bytes: part(self.window.limit_bytes()), quota, hold: self.hold }
    }

    pub(super) fn took_one(&self) {
        self.held.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn gave_one_back(&self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn became_active(&self, weight: usize) {
        self.active.fetch_add(weight, Ordering::Relaxed);
    }

    pub(super) fn became_idle(&self, weight: usize) {
        self.active.fetch_sub(weight, Ordering::Relaxed);
    }

    /// A number from 0 to 1, good enough to spread retries: splitmix64 (<https://prng.di.unimi.it/splitmix64.c>).
    pub(super) fn jitter(&self) -> f64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.random.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Endpoint id → lane.
pub struct Lanes {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    lanes: Mutex<HashMap<Arc<str>, Arc<Lane>>>,
}

impl Lanes {
    /// No lanes yet.
    pub fn new(shared: Shared, registry: Arc<Registry>) -> Self {
        Self { shared: Arc::new(shared), registry, lanes: Mutex::default() }
    }

    /// How many partitions are assigned; each has its part of every lane's share.
    pub fn set_partitions(&self, count: usize) {
        self.shared.partitions.store(count, Ordering::Relaxed);
    }

    /// The endpoint's lane; `None` when it is not among the endpoints (any more).
    fn lane(&self, endpoint: &str) -> Option<Arc<Lane>> {
        let mut lanes = self.lock();
        if let Some(lane) = lanes.get(endpoint) {
            return Some(Arc::clone(lane));
        }
        // Under the lock: an update comes either before, and this is its set, or after, and finds the new lane.
        let snapshot = self.registry.snapshot();
        let lane = Lane::new(snapshot.by_id(endpoint)?, &self.shared);
        lanes.insert(Arc::clone(&lane.id), Arc::clone(&lane));
        Some(lane)
    }

    /// Hands a delivery to its endpoint's lane; waits while the lane pushes back. Cancel-safe: a delivery that was
    /// not handed over stays in its slot.
    pub async fn hand(&self, slot: &mut Option<Delivery>, fed: &mut Fed) {
        while let Some(delivery) = slot.as_ref() {
            let Some(lane) = self.lane(&delivery.endpoint) else {
                return slot.take().into_iter().for_each(|delivery| self.shared.settler.unknown(delivery));
            };
            let partition = delivery.ticket.partition();
            let (from_tier, own) = (partition.tier.is_some(), partition.own);
            let room = loop {
                let room = self.shared.room.notified();
                match lane.standing(partition.epoch, own) {
                    Standing::Room => break true,
                    Standing::Blocked if own => break true,
                    Standing::Blocked if from_tier => break false,
                    Standing::Blocked if fed.another_has_room(&lane) => {
                        lane.park_oldest();
                        break false;
                    }
                    Standing::Blocked => break true,
                    Standing::Full if from_tier => break false,
                    Standing::Full if fed.another_has_room(&lane) => break lane.park_oldest(),
                    Standing::Full => room.await,
                }
            };
            let delivery = slot.take().expect("the slot was just seen to be filled");
            if !room {
                fed.count += 1;
                return lane.pass_by(delivery);
            }
            match lane.push(delivery) {
                Ok(()) => fed.note(&lane),
                // The lane was taken down in between; there will be a new one.
                Err(delivery) => *slot = Some(*delivery),
            }
        }
    }

    /// Takes out of all lanes what came from one life of a partition and is not under way.
    pub fn take_back(&self, partition: Share) -> Vec<Delivery> {
        let lanes: Vec<_> = self.lock().values().cloned().collect();
        lanes.iter().flat_map(|lane| lane.take_back(partition)).collect()
    }

    /// Goes on with the endpoints there are now. What waits for one that is not among them is no longer known.
    pub fn update(&self) {
        let snapshot = self.registry.snapshot();
        let lanes: Vec<_> = self.lock().values().cloned().collect();
        for lane in lanes {
            match snapshot.by_id(&lane.id) {
                Some(endpoint) => lane.update(endpoint),
                None => {
                    self.lock().remove(&lane.id);
                    lane.close().into_iter().for_each(|delivery| self.shared.settler.unknown(delivery));
                }
            }
        }
    }

    /// What is known of an endpoint besides its configuration has changed.
    pub fn switched(&self, endpoint: &str) {
        let lane = self.lock().get(endpoint).cloned();
        lane.into_iter().for_each(|lane| lane.switched());
    }

    /// How the lanes stand that do anything, or that something is the matter with.
    pub fn reports(&self) -> Vec<Report> {
        let lanes: Vec<_> = self.lock().values().cloned().collect();
        lanes.iter().filter_map(|lane| lane.report()).collect()
    }

    /// Takes down lanes that have done nothing for a while.
    pub fn retire_idle(&self) {
        self.lock().retain(|_, lane| !lane.retire());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lanes a partition has fed lately, and when: counted in what it handed over.
#[derive(Default)]
pub struct Fed {
    lanes: VecDeque<(Arc<Lane>, usize)>,
    count: usize,
}

impl Fed {
    fn note(&mut self, lane: &Arc<Lane>) {
        self.count += 1;
        if let Some((_, last)) = self.lanes.iter_mut().find(|(known, _)| Arc::ptr_eq(known, lane)) {
            *last = self.count;
            return;
        }
        if self.lanes.len() == REMEMBERED {
            self.lanes.pop_front();
        }
        self.lanes.push_back((Arc::clone(lane), self.count));
    }

    fn another_has_room(&self, full: &Arc<Lane>) -> bool {
        let lately = self.count.saturating_sub(full.half());
        // Every one is asked, so that each of them wakes us when it has room.
        let with_room = |(lane, last): &&(Arc<Lane>, usize)| {
            *last > lately && !Arc::ptr_eq(lane, full) && lane.has_room()
        };
        self.lanes.iter().filter(with_room).count() > 0
    }
}
