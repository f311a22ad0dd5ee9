//! All lanes: made on demand, taken down when idle, and what they share.
//!
//! Back-pressure in one paragraph. A lane's share is half of the window divided by the lanes that hold anything. A
//! partition hands deliveries to a lane until the lane holds its share (and the partition its part of it). Then, if a
//! lane that this partition has fed since still has room (holds less than half of its share), the full lane stands
//! in its way: the oldest of what it holds is parked until it is below half. Otherwise the partition is simply not
//! read: Kafka is the queue, and a lane that is alone, or as busy as all others, is never parked.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::{Lane, Standing};
use crate::{
    app::tasks::Tasks,
    http,
    metrics::Metrics,
    pipeline::{
        delivery::Delivery,
        settle::Settler,
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
    /// Where workers are spawned.
    pub tasks: Tasks,
    /// Where they count.
    pub metrics: Metrics,
    /// Told when a lane that somebody waits for has room again.
    pub(super) room: Notify,
    active: AtomicUsize,
    partitions: AtomicUsize,
    feeds: AtomicU64,
    random: AtomicU64,
}

impl Shared {
    /// Nothing is active yet.
    pub fn new(
        client: http::Client,
        settler: Settler,
        window: Arc<Window>,
        hold: Duration,
        tasks: Tasks,
        metrics: Metrics,
    ) -> Self {
        Self {
            client,
            settler,
            window,
            hold,
            tasks,
            metrics,
            room: Notify::new(),
            active: AtomicUsize::new(0),
            partitions: AtomicUsize::new(1),
            feeds: AtomicU64::new(0),
            random: AtomicU64::new(u64::from(std::process::id())),
        }
    }

    /// Deliveries one lane may hold: all lanes together half of the window, so that nobody is ever shut out.
    pub(super) fn share(&self) -> usize {
        (self.window.limit() / 2 / self.active.load(Ordering::Relaxed).max(1)).max(1)
    }

    pub(super) fn partitions(&self) -> usize {
        self.partitions.load(Ordering::Relaxed).max(1)
    }

    pub(super) fn became_active(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn became_idle(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
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
            let partition = delivery.ticket.partition().epoch;
            loop {
                let room = self.shared.room.notified();
                match lane.standing(partition) {
                    Standing::Room => break,
                    Standing::Full { since } if fed.another_has_room(since, &lane) => {
                        lane.park_oldest();
                        break;
                    }
                    Standing::Full { .. } => room.await,
                }
            }
            let feed = self.shared.feeds.fetch_add(1, Ordering::Relaxed) + 1;
            let delivery = slot.take().expect("the slot was just seen to be filled");
            match lane.push(delivery, feed) {
                Ok(()) => fed.note(&lane, feed),
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
                    lane.take_all().into_iter().for_each(|delivery| self.shared.settler.unknown(delivery));
                }
            }
        }
    }

    /// Takes down lanes that have done nothing for a while.
    pub fn retire_idle(&self) {
        self.lock().retain(|_, lane| !lane.retire());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lanes a partition has fed lately, and when.
#[derive(Default)]
pub struct Fed(VecDeque<(Arc<Lane>, u64)>);

impl Fed {
    fn note(&mut self, lane: &Arc<Lane>, feed: u64) {
        if let Some((_, last)) = self.0.iter_mut().find(|(known, _)| Arc::ptr_eq(known, lane)) {
            *last = feed;
            return;
        }
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((Arc::clone(lane), feed));
    }

    fn another_has_room(&self, since: u64, full: &Arc<Lane>) -> bool {
        // Every one is asked, so that each of them wakes us when it has room.
        let with_room =
            |(lane, feed): &&(Arc<Lane>, u64)| *feed > since && !Arc::ptr_eq(lane, full) && lane.has_room();
        self.0.iter().filter(with_room).count() > 0
    }
}
