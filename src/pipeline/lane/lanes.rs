//! All lanes: made on demand, taken down when idle, and what they share.
//!
//! Back-pressure in one paragraph. Lanes hold half of the window at most, together. A normal lane's share is twice what
//! they have left of that half, and a third of it at most; others' is a multiple or a part of it by the weight of their
//! priority. So it adapts to how many are active and to how much they hold, and those that hold next to nothing take
//! next to nothing from the others. A partition hands deliveries to a lane until the lane holds its share (and the
//! partition its part of it). Then, if any event read lately (looked at: as many as a quarter of the window) went to
//! another lane that has room (holds less than half of its share and can send), the full lane stands in its way: the
//! oldest of what it holds is parked until it is below half, or, if all of that is under way, what it was to get.
//! Otherwise the partition is simply not read: Kafka is the queue, and a lane that is alone, or as busy as all others,
//! is never parked. Nor is a brisk one, which at its measured pace has room again in a moment: writing and reading its
//! deliveries once more would take longer. One that misses that by little is tried (`trial.rs`): it may be slow only
//! because the others take the machine from it. A lane that cannot send within `hold` (breaker, pause, far slot) counts
//! as full as soon as another one that was fed before has room, and keeps but one delivery to probe with. Between full
//! and half lies the hysteresis. A retry tier is always read on, so that nobody's parked first attempt waits there
//! behind others: what it has for a full lane takes the place of the oldest fresh delivery, of what came before its
//! slot, or of what is due last, and is written anew only when it is that itself, or when the lane cannot send. The slot
//! that it got when there was no room is a guess, unless it is a rate's: its tier hands it over before when the lane has
//! room, and the lane sends it when it has nothing else to do. A queue of an endpoint's own feeds one lane only, so
//! nothing of it is ever parked for room.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

use super::{Lane, Standing, core::Bounds, lateness::Lateness, report::Report};
use crate::{
    app::tasks::Tasks,
    config::settings::Priority,
    http,
    metrics::Metrics,
    notices::Notices,
    pipeline::{
        delivery::Delivery,
        settle::Settler,
        stall::Sight,
        switches::Switches,
        window::{Class, Share, Window},
    },
    registry::Registry,
};

/// A normal lane's share is this multiple of what all lanes have left, so that a few busy ones come to use most of it …
const GREED: usize = 2;

/// … and this part of it all at most: one that is alone is no faster with more, and twice as much took 4 MiB.
const PART: usize = 3;

/// Of its last events a partition looks at as many as this part of the window's places: half as many again as a lane
/// that is alone may hold. So many are parked in vain, at most, when only one lane's events come any more; and among
/// many lanes, with small shares each, all that are fed at all are seen.
const LOOK_BACK: usize = 4;

/// Endpoints a partition remembers to have fed, and as many from before those. It bounds memory when endpoints are many;
/// all of one event should fit, so that those of them that have room are found behind many that have not.
const REMEMBERED: usize = 512;

/// A full lane is waited for, whoever else has room, when half of its share is gone in a moment: in as many milliseconds
/// as the window has places, divided by this. Full lanes have a sixth of the window together, or more, so those that are
/// waited for drain 4,000 deliveries a second or more: then it is the process that is slow, and what is parked would only
/// add to its work.
const WAITED_FOR: f64 = 50.0;

/// The longest moment: how long, at most, others wait for a lane that was fast until now.
pub(super) const LONGEST_MOMENT: Duration = Duration::from_millis(300);

/// A partition that waits for room looks again after this long: a lane may have come to have room without giving
/// anything back, because others hold less or its pause is over.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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
    /// Where they tell what people must hear of.
    pub notices: Notices,
    /// Told when a lane that somebody waits for has room again.
    pub(super) room: Notify,
    /// Deliveries in lanes, and their bytes.
    held: AtomicUsize,
    held_bytes: AtomicUsize,
    partitions: AtomicUsize,
    pub(super) lateness: Lateness,
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
        (tasks, metrics, notices): (Tasks, Metrics, Notices),
    ) -> Self {
        Self {
            client,
            settler,
            window,
            hold,
            switches,
            tasks,
            metrics,
            notices,
            room: Notify::new(),
            held: AtomicUsize::new(0),
            held_bytes: AtomicUsize::new(0),
            partitions: AtomicUsize::new(1),
            lateness: Lateness::default(),
            random: AtomicU64::new(u64::from(std::process::id())),
        }
    }

    /// What a lane may hold of what is there for all of them.
    pub(super) fn bounds(&self, priority: Priority) -> Bounds {
        let (places, held) = (self.window.for_lanes(), self.held.load(Ordering::Relaxed));
        let share = part(places, held, priority);
        let bytes = part(self.window.bytes_for_lanes(), self.held_bytes.load(Ordering::Relaxed), priority);
        // May a partition have its part of a lane although others have filled it? Not when lanes hold all they may
        // already: many stuck ones times many partitions would be all of it.
        let partitions = self.partitions.load(Ordering::Relaxed).max(1);
        let quota = if held < places { (share / partitions).max(1) } else { 0 };
        let moment = (self.window.limit() as f64 / WAITED_FOR).min(LONGEST_MOMENT.as_secs_f64() * 1_000.0);
        Bounds { share, bytes, quota, hold: self.hold, moment }
    }

    pub(super) fn took_one(&self, bytes: usize) {
        self.held.fetch_add(1, Ordering::Relaxed);
        self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn gave_one_back(&self, bytes: usize) {
        self.held.fetch_sub(1, Ordering::Relaxed);
        self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
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

/// The most one lane may have of `all` while all lanes together hold so much of it: a dynamic threshold as in switches
/// that share memory (Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", 1998). So
/// many greedy lanes of equal weight come to hold equal parts, and leave half such a part for whoever comes next.
fn part(all: usize, held: usize, priority: Priority) -> usize {
    let weight = |priority| usize::try_from(Class::new(priority, false).weight()).unwrap_or(1);
    let normal = all.saturating_sub(held).saturating_mul(GREED).min(all / PART);
    (normal.saturating_mul(weight(priority)) / weight(Priority::Normal)).max(1)
}

/// Endpoint id → lane.
pub struct Lanes {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    lanes: Mutex<HashMap<Arc<str>, Arc<Lane>>>,
    /// Events that own queues have not settled yet, as far as they are read here.
    own_lags: Mutex<HashMap<Arc<str>, i64>>,
}

impl Lanes {
    /// No lanes yet.
    pub fn new(shared: Shared, registry: Arc<Registry>) -> Self {
        Self { shared: Arc::new(shared), registry, lanes: Mutex::default(), own_lags: Mutex::default() }
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
        'slot: while let Some(delivery) = slot.as_ref() {
            let Some(lane) = self.lane(&delivery.endpoint) else {
                return slot.take().into_iter().for_each(|delivery| self.shared.settler.unknown(delivery));
            };
            if lane.is_moved(delivery) {
                return slot.take().into_iter().for_each(|delivery| self.shared.settler.moved(delivery));
            }
            let partition = delivery.ticket.partition();
            let (from_tier, own) = (partition.tier.is_some(), partition.own);
            let room = loop {
                let room = self.shared.room.notified();
                match lane.standing(partition) {
                    Standing::Room => break true,
                    Standing::Blocked if own => break true,
                    Standing::Blocked if from_tier => break false,
                    Standing::Blocked if self.another_has_room(fed, &lane) => {
                        lane.park_oldest();
                        break false;
                    }
                    Standing::Blocked => break true,
                    Standing::Full => {
                        let wait = lane.worth_waiting();
                        if wait.is_none() && from_tier {
                            break lane.make_way();
                        }
                        if wait.is_none() && self.another_has_room(fed, &lane) {
                            break lane.park_oldest();
                        }
                        // It looks again in any case.
                        drop(timeout(wait.unwrap_or(LOOK_AGAIN), room).await);
                    }
                }
                if lane.is_moved(delivery) {
                    continue 'slot;
                }
            };
            let delivery = slot.take().expect("the slot was just seen to be filled");
            if !room {
                return lane.pass_by(delivery);
            }
            match lane.push(delivery) {
                Ok(()) => fed.note(&lane.id),
                // The lane was taken down in between; there will be a new one.
                Err(delivery) => *slot = Some(*delivery),
            }
        }
    }

    /// Has another lane room that was fed since this one filled? Whoever is told that none has is woken when one has.
    /// One that cannot send at all does not drain while it is waited for: any other that was fed counts.
    fn another_has_room(&self, fed: &mut Fed, full: &Lane) -> bool {
        let lately = if full.is_shut() { usize::MAX } else { self.shared.window.limit() / LOOK_BACK };
        let lanes = self.lock();
        let has_room = |endpoint: &&Arc<str>| {
            let idle = || self.registry.snapshot().by_id(endpoint).is_some();
            ***endpoint != *full.id && lanes.get(*endpoint).map_or_else(idle, |lane| lane.has_room())
        };
        let roomy = fed.lately(lately).find(has_room).cloned();
        let found = roomy.is_some();
        fed.roomy = roomy.or(fed.roomy.take());
        found
    }

    /// Was it parked for want of room that there is now, long before the slot that it got then?
    pub fn take_early(&self, delivery: &Delivery) -> bool {
        delivery.keeps_a_slot() && self.lane(&delivery.endpoint).is_some_and(|lane| lane.takes_early())
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
        // Whoever waits for room may have nothing to wait for any more.
        self.shared.room.notify_waiters();
    }

    /// What is known of an endpoint besides its configuration has changed.
    pub fn switched(&self, endpoint: &str) {
        let lane = self.lock().get(endpoint).cloned();
        lane.into_iter().for_each(|lane| lane.switched());
    }

    /// How the lanes stand that do anything, or that something is the matter with.
    pub fn reports(&self) -> Vec<Report> {
        let lanes: Vec<_> = self.lock().values().cloned().collect();
        let own_lags = self.own_lags.lock().unwrap_or_else(PoisonError::into_inner);
        let lag = |id: &str| own_lags.get(id).copied();
        let reports = lanes.iter().filter_map(|lane| lane.report());
        reports.map(|report| Report { own_queue_lag: lag(&report.endpoint), ..report }).collect()
    }

    /// The lanes that have something to do that nothing holds back.
    pub fn sights(&self) -> Vec<Sight> {
        let lanes: Vec<_> = self.lock().values().cloned().collect();
        lanes.iter().filter_map(|lane| lane.sight()).collect()
    }

    /// What own queues have not settled yet was looked up.
    pub fn set_own_lags(&self, lags: HashMap<Arc<str>, i64>) {
        *self.own_lags.lock().unwrap_or_else(PoisonError::into_inner) = lags;
    }

    /// Measures for ever how late the process is with its own work.
    pub async fn measure_lateness(&self) {
        self.shared.lateness.measure().await;
    }

    /// Takes down lanes that have done nothing for a while.
    pub fn retire_idle(&self) {
        self.lock().retain(|_, lane| !lane.retire());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The endpoints a partition has fed, and when: counted in events that it read.
#[derive(Default)]
pub struct Fed {
    /// Each with the number of the last event it got.
    latest: HashMap<Arc<str>, usize>,
    /// Those from before there were too many.
    before: HashMap<Arc<str>, usize>,
    /// The one whose lane had room when that was asked last; it is asked first.
    roomy: Option<Arc<str>>,
    events: usize,
}

impl Fed {
    /// One more event was read.
    pub fn event(&mut self) {
        self.events += 1;
    }

    fn note(&mut self, endpoint: &Arc<str>) {
        if let Some(last) = self.latest.get_mut(endpoint) {
            *last = self.events;
            return;
        }
        if self.latest.len() == REMEMBERED {
            self.before = std::mem::take(&mut self.latest);
        }
        self.latest.insert(Arc::clone(endpoint), self.events);
    }

    /// Those fed with the last so many events, as long as it is remembered.
    fn lately(&self, events: usize) -> impl Iterator<Item = &Arc<str>> {
        let since = self.events.saturating_sub(events);
        let fed_since = move |(endpoint, last): (_, &usize)| (*last > since).then_some(endpoint);
        let last = |endpoint: &Arc<str>| self.latest.get(endpoint).or_else(|| self.before.get(endpoint));
        let roomy = self.roomy.iter().filter_map(move |endpoint| Some((endpoint, last(endpoint)?)));
        roomy.chain(&self.latest).chain(&self.before).filter_map(fed_since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lanes come to hold of a thousand places when all are fed at once, as fast as they may.
    fn fill(busy: &[Priority], held_already: usize) -> Vec<usize> {
        let mut held = vec![0; busy.len()];
        let weight = |priority| Class::new(priority, false).weight();
        let next = |held: &[usize]| {
            let all_held = held_already + held.iter().sum::<usize>();
            let more = (0..busy.len()).filter(|lane| held[*lane] < part(1_000, all_held, busy[*lane]));
            more.min_by_key(|lane| held[*lane] as i64 * weight(Priority::High) / weight(busy[*lane]))
        };
        while let Some(lane) = next(&held) {
            held[lane] += 1;
        }
        held
    }

    #[test]
    fn greedy_lanes_come_to_hold_equal_parts_and_leave_half_of_one_for_the_next() {
        use Priority::{High, Low, Normal};
        let idle = |count: usize| vec![Normal; count];
        for (busy, held_already, expected) in [
            // A few leave more.
            (idle(1), 0, vec![333]),
            (idle(2), 0, vec![333; 2]),
            (idle(3), 0, vec![286; 3]),
            (idle(12), 0, vec![80; 12]),
            // 150 others that hold one each.
            (idle(1), 150, vec![333]),
            (idle(50), 150, vec![16; 50]),
            (vec![High, Normal, Low], 0, vec![695, 174, 44]),
        ] {
            for (held, expected) in fill(&busy, held_already).iter().zip(&expected) {
                assert!(
                    held.abs_diff(*expected) <= expected / 10 + 1,
                    "{held} instead of {expected} among {busy:?}"
                );
            }
        }
    }

    /// `arauto_window_used_ratio`: the thresholds are those of `deploy/k8s/components/keda` and of the alert
    /// `ArautoWindowFull`.
    #[test]
    fn two_full_lanes_need_no_more_instances_three_do_and_five_are_a_full_window() {
        let used = |lanes: usize| fill(&vec![Priority::Normal; lanes], 0).iter().sum::<usize>();
        assert!(used(2) <= 800 && used(3) > 800, "{} and {}", used(2), used(3));
        assert!(used(4) <= 900 && used(5) > 900, "{} and {}", used(4), used(5));
    }

    #[test]
    fn nobody_is_shut_out_when_nothing_is_left() {
        assert_eq!(part(1_000, 1_000, Priority::Low), 1);
    }

    #[test]
    fn a_partition_remembers_whom_it_fed_with_its_last_events() {
        let names = |count: usize| (0..count).map(|n| Arc::from(n.to_string().as_str()));
        let lately = |fed: &Fed, events| {
            let mut found: Vec<String> = fed.lately(events).map(ToString::to_string).collect();
            found.sort();
            found.dedup();
            found
        };
        let mut fed = Fed::default();
        // An event for two, and then three more for the first of them.
        fed.event();
        names(2).for_each(|name| fed.note(&name));
        for _ in 0..3 {
            fed.event();
            fed.note(&Arc::from("0"));
        }
        assert_eq!(lately(&fed, 3), ["0"]);
        assert_eq!(lately(&fed, 4), ["0", "1"]);
        assert_eq!(lately(&fed, usize::MAX), ["0", "1"]);

        // One event for as many as are remembered: all of them, however many there were before.
        fed.event();
        names(REMEMBERED).for_each(|name| fed.note(&name));
        assert_eq!(lately(&fed, 1).len(), REMEMBERED);
        names(10 * REMEMBERED).for_each(|name| fed.note(&name));
        assert!(fed.latest.len() + fed.before.len() <= 2 * REMEMBERED);
    }
}
