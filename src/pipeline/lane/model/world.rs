//! One schedule: what is configured, and what happens, step by step, until everything has come to rest.

use std::{sync::Arc, sync::LazyLock, time::Duration};

use bytes::Bytes;

use super::{
    books::Books,
    instance::Instance,
    kafka::{Kafka, Log, Of},
    random::Random,
    receiver::Mood,
};
use crate::{
    config::settings::{self, Endpoint, OnRemoved, Ordering, Priority, Rate},
    metrics::Metrics,
    pipeline::{
        Event, Headers, Record,
        retry::Ladder,
        switch::{Command, Facts, Switch, url_hash},
        window::Window,
    },
    registry::{endpoint_hash, tests::endpoint},
};

/// Delays of the tiers, in seconds.
const TIERS: [u64; 3] = [5, 60, 300];
const PARTITIONS: i32 = 2;
/// Rounds until a schedule must have come to rest; many times what one takes.
const MOST_ROUNDS: usize = 50_000;

/// What is the same through a schedule.
pub(super) struct Plan {
    pub(super) hold: Duration,
    /// Half of the window.
    pub(super) places: usize,
    pub(super) ladder: Ladder,
    pub(super) grace: i64,
    pub(super) on_removed: OnRemoved,
    pub(super) priorities: Vec<Priority>,
}

/// Everything around the instances. Times are milliseconds.
pub(super) struct Sim {
    pub(super) now: i64,
    pub(super) random: Random,
    pub(super) kafka: Kafka,
    pub(super) books: Books,
    pub(super) plan: Plan,
    pub(super) moods: Vec<Mood>,
    pub(super) facts: Facts,
    /// Of the endpoints' ids.
    pub(super) hashes: Vec<u32>,
    own: Vec<bool>,
    pub(super) epochs: u64,
    pub(super) metrics: Metrics,
    pub(super) window: Arc<Window>,
    story: Option<Vec<String>>,
}

pub(super) struct World {
    sim: Sim,
    instances: [Instance; 2],
    /// What is configured, which instances learn at different moments.
    endpoints: Vec<Option<Arc<Endpoint>>>,
    /// Partitions that nobody has, and the instance that gets them.
    unassigned: Vec<Of>,
    /// Nothing is lost without warning.
    calm: bool,
}

/// Something that can happen now.
#[derive(Debug, Clone, Copy)]
enum Step {
    Read(usize, Of),
    Hand(usize, Of),
    Turn(usize, usize),
    Finish(usize, usize),
    Acknowledge(usize),
    Assign(Of),
}

impl Sim {
    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{:>9} {}", self.now, what()));
        }
    }

    pub(super) fn is_own(&self, endpoint: usize) -> bool {
        self.own[endpoint]
    }

    pub(super) fn switch(&self, endpoint: usize) -> Switch {
        self.facts.get(&format!("e{endpoint}"))
    }

    pub(super) fn tier_for(&self, due: i64) -> Duration {
        self.plan.ladder.tier_for(Duration::from_millis((due - self.now).max(0).unsigned_abs()))
    }
}

impl World {
    pub(super) fn new(seed: u64, calm: bool, told: bool) -> Self {
        // Registering them costs more than a schedule.
        static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics::new(10));
        let mut random = Random::new(seed);
        let count = 1 + random.below(4);
        let endpoints: Vec<_> = (0..count).map(|number| some_endpoint(number, &mut random)).collect();
        let plan = Plan {
            hold: Duration::from_secs(5),
            places: random.pick(&[2, 4, 10, 40]),
            ladder: Ladder::new(TIERS.map(Duration::from_secs)),
            grace: 120_000,
            on_removed: random.pick(&[OnRemoved::Dead, OnRemoved::Drop]),
            priorities: endpoints.iter().map(|endpoint| endpoint.priority).collect(),
        };
        let own = endpoints.iter().map(|endpoint| endpoint.ordering != Ordering::None).collect();
        let sim = Sim {
            now: 1_000_000,
            kafka: Kafka::default(),
            books: Books::default(),
            plan,
            moods: vec![Mood::Fine; count],
            facts: Facts::default(),
            hashes: endpoints.iter().map(|endpoint| endpoint_hash(&endpoint.id)).collect(),
            own,
            epochs: 0,
            metrics: METRICS.clone(),
            window: Arc::new(Window::new(1_000_000, 1 << 40)),
            story: told.then(Vec::new),
            random,
        };
        let endpoints: Vec<_> = endpoints.into_iter().map(|endpoint| Some(Arc::new(endpoint))).collect();
        let mut instances = <[Instance; 2]>::default();
        instances.iter_mut().for_each(|instance| instance.endpoints.clone_from(&endpoints));
        let mut world = Self { unassigned: Vec::new(), sim, instances, endpoints, calm };
        world.unassigned = world.partitions();
        for endpoint in world.endpoints.clone().iter().flatten() {
            world.sim.note(|| settings_of(endpoint));
        }
        world
    }

    /// All partitions, as their groups read them.
    fn partitions(&self) -> Vec<Of> {
        let sources = || (0..PARTITIONS).map(Log::Source);
        let tiers = [0].into_iter().chain(TIERS).map(|tier| Log::Tier(tier * 1000));
        let main = sources().chain(tiers).map(|log| Of { own: None, log });
        let own = (0..self.endpoints.len()).filter(|endpoint| self.sim.own[*endpoint]);
        main.chain(own.flat_map(|own| sources().map(move |log| Of { own: Some(own), log }))).collect()
    }

    pub(super) fn story(&self) -> String {
        self.sim.story.as_deref().unwrap_or_default().join("\n")
    }

    /// Runs the schedule; tells what was broken.
    pub(super) fn run(&mut self) -> Option<String> {
        for _ in 0..20 + self.sim.random.below(100) {
            self.disturb();
            self.some_steps();
            if self.sim.books.broken.is_some() {
                return self.sim.books.broken.clone();
            }
        }
        self.come_to_rest();
        self.sim.books.broken.clone()
    }

    /// Something that comes from outside.
    fn disturb(&mut self) {
        let at = self.sim.random.below(2);
        match self.sim.random.below(60) {
            0..20 => self.produce(),
            20..30 => self.commit(),
            30..40 => self.sim.now += self.sim.random.pick(&[1, 50, 1_000, 6_000]),
            40..46 => _ = self.wait(),
            46..49 => {
                let (endpoint, mood) = (self.some_endpoint(), self.sim.random.pick(&Mood::ALL));
                self.sim.note(|| format!("e{endpoint} is {mood:?} now"));
                self.sim.moods[endpoint] = mood;
            }
            49 => self.pause(),
            50 => {
                let endpoint = self.some_endpoint();
                self.command(endpoint, Command::Enable);
            }
            51..53 => self.reload(),
            53 => self.learn(at),
            54..57 => self.rebalance(at),
            57 if !self.calm => self.crash(at),
            58 if !self.calm => {
                let held: Vec<Of> = self.instances[at].readers.keys().copied().collect();
                if !held.is_empty() {
                    let of = self.sim.random.pick(&held);
                    self.instances[at].lose_unprepared(of, &mut self.sim);
                    self.unassigned.push(of);
                }
            }
            _ => {}
        }
    }

    fn some_endpoint(&mut self) -> usize {
        self.sim.random.below(self.endpoints.len())
    }

    fn produce(&mut self) {
        let sim = &mut self.sim;
        let partition = sim.random.below(PARTITIONS as usize) as i32;
        for _ in 0..1 + sim.random.below(4) {
            let hole = i64::from(sim.random.one_in(8));
            let keys = [None, Some("a"), Some("b")];
            let key = sim.random.pick(&keys).map(|key| Bytes::from_static(key.as_bytes()));
            let now = sim.now;
            let offset =
                sim.kafka.append(Log::Source(partition), hole, (key.clone(), Headers::default()), now);
            sim.note(|| format!("produced {partition}:{offset} {key:?}"));
            sim.books.keys.insert((partition, offset), key);
        }
    }

    fn commit(&mut self) {
        for instance in &mut self.instances {
            let acknowledged = !self.sim.random.one_in(8);
            let all: Vec<Of> = instance.readers.keys().copied().collect();
            all.into_iter().for_each(|of| instance.commit(of, acknowledged, &mut self.sim));
        }
        if self.sim.random.one_in(16) {
            self.check_reachable();
        }
    }

    fn pause(&mut self) {
        let endpoint = self.some_endpoint();
        let paused = self.sim.switch(endpoint).paused_since().is_some();
        self.command(endpoint, if paused { Command::Resume } else { Command::Pause });
    }

    fn command(&mut self, endpoint: usize, command: Command) {
        self.sim.note(|| format!("e{endpoint} {command:?}"));
        self.sim.facts.command(&format!("e{endpoint}"), command, self.sim.now);
        self.switched(endpoint);
    }

    /// What one instance has found out reaches the others.
    fn all_switched(&mut self) {
        for endpoint in 0..self.endpoints.len() {
            let switch = self.sim.switch(endpoint);
            let unknown = |instance: &Instance| {
                let lanes = instance.lanes.iter().filter(|lane| lane.number == endpoint);
                let disabled = |endpoint: &Endpoint| switch.disabled_for(&url_hash(&endpoint.url)).is_some();
                lanes.into_iter().any(|lane| lane.core.disabled != disabled(&lane.endpoint))
            };
            if self.instances.iter().any(unknown) {
                self.switched(endpoint);
            }
        }
    }

    fn switched(&mut self, endpoint: usize) {
        self.instances.iter_mut().for_each(|instance| instance.switched(endpoint, &self.sim));
    }

    /// The configuration changes; instances learn it when they do.
    fn reload(&mut self) {
        let number = self.some_endpoint();
        let Some(old) = self.endpoints[number].clone() else { return };
        let mut new = Endpoint::clone(&old);
        let random = &mut self.sim.random;
        let fresh = some_endpoint(number, random);
        match random.below(6) {
            0 => new.concurrency = fresh.concurrency,
            1 => (new.rate, new.burst) = (fresh.rate, fresh.burst),
            2 => new.retry.schedule = fresh.retry.schedule,
            3 => new.url = format!("https://example.com/{}", random.below(1000)).parse().unwrap(),
            4 => new.breaker = fresh.breaker,
            _ if new.ordering == Ordering::None => {
                self.sim.note(|| format!("e{number} is removed"));
                self.endpoints[number] = None;
                return;
            }
            _ => {}
        }
        self.sim.note(|| format!("changes: {}", settings_of(&new)));
        // What is checked by the schedule is only certain while there is one.
        if new.retry.schedule != old.retry.schedule {
            let fates = self.sim.books.fates.iter_mut().filter(|((_, _, of), _)| *of == number);
            fates.for_each(|(_, fate)| fate.forgotten = true);
        }
        self.endpoints[number] = Some(Arc::new(new));
    }

    fn learn(&mut self, at: usize) {
        self.instances[at].update(&self.endpoints, &mut self.sim);
    }

    fn rebalance(&mut self, at: usize) {
        let held: Vec<Of> = self.instances[at].readers.keys().copied().collect();
        for of in held {
            if self.sim.random.one_in(3) {
                let late = !self.calm && self.sim.random.one_in(4);
                let commits = self.calm || !self.sim.random.one_in(4);
                self.instances[at].give_up(of, late, commits, &mut self.sim);
                self.all_switched();
                self.unassigned.push(of);
            }
        }
    }

    fn crash(&mut self, at: usize) {
        self.sim.note(|| format!("instance {at} crashes"));
        let lost = self.instances[at].crash(&mut self.sim);
        self.unassigned.extend(lost);
        self.learn(at);
        self.check_reachable();
    }

    /// Some of what can happen, in any order.
    fn some_steps(&mut self) {
        for _ in 0..self.sim.random.below(3) {
            for step in self.steps_in_any_order() {
                if !self.sim.random.one_in(3) {
                    self.take(step);
                }
            }
        }
    }

    fn steps_in_any_order(&mut self) -> Vec<Step> {
        let mut steps = self.steps();
        for at in (1..steps.len()).rev() {
            steps.swap(at, self.sim.random.below(at + 1));
        }
        steps
    }

    /// Everything that can happen now.
    fn steps(&self) -> Vec<Step> {
        let now = self.sim.now;
        let mut steps: Vec<Step> = self.unassigned.iter().map(|of| Step::Assign(*of)).collect();
        for (at, instance) in self.instances.iter().enumerate() {
            for (of, reader) in &instance.readers {
                if !reader.handing.is_empty() {
                    steps.push(Step::Hand(at, *of));
                } else if instance.readable(*of, &self.sim).is_some_and(|ready| ready <= now) {
                    steps.push(Step::Read(at, *of));
                }
            }
            for (number, lane) in instance.lanes.iter().enumerate() {
                if lane.wakes.is_some_and(|wakes| wakes <= now) {
                    steps.push(Step::Turn(at, number));
                }
                let ended = lane.flights.iter().filter(|flight| flight.ends <= now);
                steps.extend(ended.map(|_| Step::Finish(at, number)));
            }
            steps.extend(instance.writes.iter().map(|_| Step::Acknowledge(at)));
        }
        steps
    }

    /// Takes a step, if it still is one.
    fn take(&mut self, step: Step) -> bool {
        let Self { sim, instances, unassigned, .. } = self;
        let now = sim.now;
        match step {
            Step::Read(at, of) => {
                let instance = &mut instances[at];
                let ready = instance.readers.contains_key(&of)
                    && instance.readable(of, sim).is_some_and(|ready| ready <= now);
                if ready {
                    instance.read(of, sim);
                }
                ready
            }
            Step::Hand(at, of) => instances[at].readers.contains_key(&of) && instances[at].hand(of, sim),
            Step::Turn(at, lane) => {
                instances[at].turn(lane, sim);
                true
            }
            Step::Finish(at, lane) => {
                let flights = &instances[at].lanes[lane].flights;
                let ended: Vec<usize> = (0..flights.len()).filter(|n| flights[*n].ends <= now).collect();
                if ended.is_empty() {
                    return false;
                }
                let flight = sim.random.pick(&ended);
                instances[at].finish(lane, flight, sim);
                self.all_switched();
                true
            }
            Step::Acknowledge(at) => {
                let writes = instances[at].writes.len();
                if writes > 0 {
                    let write = sim.random.below(writes);
                    instances[at].acknowledge(write, sim);
                }
                writes > 0
            }
            Step::Assign(of) => {
                unassigned.retain(|other| *other != of);
                let at = sim.random.below(2);
                instances[at].assign(of, sim);
                true
            }
        }
    }

    /// Time passes until the next thing can happen.
    fn wait(&mut self) -> bool {
        let now = self.sim.now;
        let mut next = i64::MAX;
        for instance in &self.instances {
            let ready = instance.readers.keys().filter_map(|of| instance.readable(*of, &self.sim));
            let lanes = instance.lanes.iter();
            let woken = lanes.clone().filter_map(|lane| lane.wakes);
            let ends = lanes.flat_map(|lane| lane.flights.iter().map(|flight| flight.ends));
            next = ready.chain(woken).chain(ends).filter(|at| *at > now).fold(next, i64::min);
        }
        if next == i64::MAX {
            return false;
        }
        self.sim.now = next;
        true
    }

    /// Nobody disturbs any more, and everything ends.
    fn come_to_rest(&mut self) {
        self.sim.note(|| "nothing is disturbed any more".to_owned());
        for endpoint in 0..self.endpoints.len() {
            if self.sim.moods[endpoint] != Mood::Gone || self.sim.random.one_in(2) {
                self.sim.moods[endpoint] = Mood::Fine;
            }
            self.command(endpoint, Command::Resume);
        }
        self.learn(0);
        self.learn(1);
        for _ in 0..MOST_ROUNDS {
            let steps = self.steps_in_any_order();
            // Whether a lane still pushes back is only known by trying.
            let taken = steps.into_iter().filter(|step| self.take(*step)).count();
            if self.sim.books.broken.is_some() {
                return;
            }
            if self.sim.random.one_in(16) {
                self.commit();
            }
            if taken == 0 && !self.wait() {
                return self.finish();
            }
        }
        self.sim.books.broken("it never comes to rest".to_owned());
    }

    fn finish(&mut self) {
        let idle = |instance: &Instance| {
            let lanes = instance.lanes.iter();
            lanes.map(|lane| lane.core.held() + lane.core.in_flight).sum::<usize>()
                + instance.readers.values().map(|reader| reader.handing.len()).sum::<usize>()
        };
        let held: usize = self.instances.iter().map(idle).sum();
        if held > 0 {
            let lanes: Vec<String> = self
                .instances
                .iter()
                .flat_map(|instance| &instance.lanes)
                .map(|lane| format!("e{} wakes {:?}: {:?}", lane.number, lane.wakes, lane.core))
                .collect();
            self.sim.note(|| lanes.join("\n"));
            self.sim.books.broken(format!("{held} deliveries wait for nothing"));
        }
        self.sim.books.close();
    }

    /// From what Kafka has alone, nothing that has not ended is lost.
    fn check_reachable(&mut self) {
        let mut reachable = std::collections::BTreeSet::new();
        for of in self.partitions() {
            let mut ledger = crate::pipeline::ledger::Ledger::new(self.sim.kafka.position(of));
            let base = ledger.base();
            let Some(records) = self.sim.kafka.logs.get(&of.log) else { continue };
            for (offset, record) in records.range(base..) {
                use crate::pipeline::ledger::{Carried, metadata::Owed};
                let carried = ledger.carried(*offset);
                let owed = |endpoint: usize| match &carried {
                    Carried::New | Carried::Owed(Owed::All) => true,
                    Carried::Owed(Owed::To(owed)) => owed.contains(&self.sim.hashes[endpoint]),
                    Carried::Settled => false,
                };
                if let Log::Source(partition) = of.log {
                    let mine = |endpoint: &usize| of.own.is_none_or(|own| own == *endpoint);
                    let all = (0..self.endpoints.len()).filter(mine).filter(|endpoint| owed(*endpoint));
                    reachable.extend(all.map(|endpoint| (partition, *offset, endpoint)));
                } else if let Ok((envelope, _)) = crate::kafka::headers::Envelope::read(record) {
                    let endpoint = super::line::number(&envelope.endpoint);
                    if owed(endpoint) {
                        reachable.insert((envelope.source_partition, envelope.source_offset, endpoint));
                    }
                }
            }
        }
        let fates = &self.sim.books.fates;
        let lost =
            fates.iter().find(|(pair, fate)| fate.wanted && fate.ends() == 0 && !reachable.contains(pair));
        if let Some((pair, fate)) = lost {
            let what = format!("lost if everything crashed now: {pair:?} {fate:?}");
            self.sim.books.broken(what);
        }
    }
}

/// What is different between endpoints here.
fn settings_of(endpoint: &Endpoint) -> String {
    let Endpoint { id, url, timeout, concurrency, rate, burst, ordering, retry, breaker, .. } = endpoint;
    format!(
        "{id} at {}, {timeout:?}, {concurrency} at once, {rate:?} by {burst}, order {ordering:?}, {retry:?}, {breaker:?}",
        url.path()
    )
}

fn some_endpoint(number: usize, random: &mut Random) -> Endpoint {
    let seconds = Duration::from_secs;
    let id = format!("e{number}");
    let schedules: [&[u64]; 4] = [&[1, 4, 20], &[5, 30, 120, 300], &[2], &[3, 3, 3, 3, 3]];
    let schedule = random.pick(&schedules).iter().map(|step| seconds(*step)).collect();
    let rate = Rate { count: random.pick(&[1, 5, 50]), per: seconds(1) };
    Endpoint {
        timeout: seconds(random.pick(&[1, 10])),
        concurrency: 1 + random.below(6),
        rate: random.one_in(3).then_some(rate),
        burst: random.pick(&[1, 3]),
        ordering: random.pick(&[Ordering::None, Ordering::None, Ordering::Key, Ordering::Endpoint]),
        priority: random.pick(&[Priority::High, Priority::Normal, Priority::Low]),
        retry: settings::Retry {
            schedule,
            jitter: random.pick(&[0.0, 0.2]),
            max_age: seconds(random.pick(&[7_200, 86_400])),
            max_pause: seconds(60),
            dead_on: Vec::new(),
        },
        breaker: settings::Breaker {
            failures: 0.5,
            minimum: random.pick(&[1, 3, 8]),
            open_for: seconds(random.pick(&[3, 30])),
            max_open: seconds(random.pick(&[60, 120])),
        },
        ..endpoint(&id)
    }
}

/// The event a record is of, or carries.
pub(super) fn event(record: &Record) -> Event {
    Event {
        topic: Arc::clone(&record.topic),
        partition: record.partition,
        offset: record.offset,
        timestamp: record.timestamp,
        key: record.key.clone(),
        value: record.value.clone(),
        headers: Headers::default(),
        id: "msg_1".into(),
        event_type: "order.made".into(),
        tenant: None,
        priority: None,
        notice: false,
    }
}
