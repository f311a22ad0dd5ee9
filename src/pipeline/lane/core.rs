//! The decisions of one lane, without clock, lock, task or socket: what goes next, what has to wait, what is parked
//! and until when. The lane around it asks with the time in its hand and does what it is told.

use std::{collections::HashMap, time::Duration};

use super::{
    breaker::{self, Breaker},
    flow::Flow,
    lanes::LONGEST_MOMENT,
    limit::{Limit, Signal},
    order::{Line, Order},
    pace::Pace,
    queue::Queue,
    trial::Trial,
};
use crate::{
    config::settings::{Endpoint, Ordering},
    metrics::endpoint::Park,
    pipeline::{
        delivery::{Delivery, millis},
        outcome::{self, Attempt, AttemptResult, Outcome, Reason},
        switch::{Switch, url_hash},
        window::Share,
    },
};

/// The first wait of what is parked with no better idea when it may go, unless told otherwise; it doubles with each
/// further park (four times it, quadrupled with each, is the furthest that a guessed slot is believed) …
const FIRST_WAIT: i64 = 5_000;
/// … up to this: how late, at most, a paused endpoint's deliveries follow when it goes on.
const LONGEST_WAIT: i64 = 15 * 60 * 1000;

/// So many milliseconds after it had to wait for its rate limiter a lane still counts as throttled.
const THROTTLED: i64 = 1_000;

/// Round trips from one attempt at a time to the default `concurrency`, doubling with each.
const RAMP: f64 = 6.0;

/// A lane that is slower than brisk by no more than this factor is tried …
const NEARLY: f64 = 4.0;
/// … for this part of a moment: long enough for others to run dry.
const TRIED_FOR: f64 = 0.5;

/// A turn in this process that is waited for longer than this means that it has more to do than it can: there are a hundred
/// others in front …
const LONG_TURN: Duration = Duration::from_millis(2);
/// … and an attempt that takes no more than so many of them waits here for a good part of it, not for its receiver.
const CROWDED: u32 = 4;

/// What a lane knows and decides. Times are unix milliseconds.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) queue: Queue,
    pub(super) order: Order,
    pub(super) limit: Limit,
    pub(super) breaker: Breaker,
    pub(super) pace: Pace,
    flow: Flow,
    trial: Trial,
    /// What this process itself adds to the duration of an attempt just now, at most; and how long each wait for a turn
    /// in it takes.
    pub(super) late: Duration,
    pub(super) turn: Duration,
    /// Attempts under way.
    pub(super) in_flight: usize,
    /// Beginnings and ends of deliveries.
    pub(super) moves: u64,
    /// Deliveries taken in and not yet on their way out, and their bytes.
    held: usize,
    held_bytes: usize,
    held_by: HashMap<Share, usize>,
    /// Those of them that came from the endpoint's own queue.
    held_own: usize,
    /// The order that is kept. Another one begins when all of the old one is settled.
    ordering: Ordering,
    /// Nothing is sent until somebody says so.
    pub(super) paused: bool,
    /// Everything is to be dead-lettered.
    pub(super) disabled: bool,
    /// The receiver asked for a pause until then.
    pub(super) paused_until: i64,
    /// The limiter's next slot, when the last one who asked had to wait.
    slot: i64,
    /// The first wait of what is parked with no better idea when it may go.
    pub(super) first_wait: i64,
    /// Since when every attempt failed, and has that been noted down?
    pub(super) failing_since: Option<i64>,
    noted: bool,
    pub(super) last_error: Option<String>,
}

/// What may be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// So many may be in flight.
    Open(usize),
    /// Nothing may go before then.
    Until(i64, Park),
    /// Nothing may go until something changes.
    Paused,
}

/// What a worker does next.
#[derive(Debug)]
pub(super) enum Next {
    /// Attempt this one; or end it, when nothing is sent any more.
    Deliver(Box<Delivery>, Option<Begun>),
    /// Nothing can go before then.
    Sleep(Duration),
    /// Nothing is to be done that others do not do already.
    Stop,
}

/// What an attempt belongs to; for [`Core::ended`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    limit: u64,
    breaker: u64,
}

/// What the end of an attempt changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ended {
    /// It is the first success after failures.
    pub(super) recovered: bool,
    /// Every attempt has failed since then, this one included.
    pub(super) failing_since: Option<i64>,
    /// The breaker was closed, and is open until then.
    pub(super) opened: Option<i64>,
}

/// What the lane's share of the window is just now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Deliveries.
    pub(super) share: usize,
    /// Bytes.
    pub(super) bytes: usize,
    /// What one partition may have of it whatever others have; zero when that is not granted now.
    pub(super) quota: usize,
    /// A wait this long is too long to be spent in the window when others want the room.
    pub(super) hold: Duration,
    /// A wait for room that is shorter, in milliseconds, costs less than to write and read deliveries once more.
    pub(super) moment: f64,
}

/// What a partition finds when it wants to hand something to the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There is room.
    Room,
    /// There is room, but nothing can be sent within the longest wait that is spent in memory.
    Blocked,
    /// Its share of the window is held.
    Full,
}

impl Core {
    /// Nothing is known of the receiver: it begins with one at a time, or with a probe if it was failing.
    pub(super) fn new(endpoint: &Endpoint, switch: &Switch, now: i64) -> Self {
        let failing = switch.failing_since(&url_hash(&endpoint.url)).is_some();
        let mut core = Self {
            queue: Queue::default(),
            order: Order::default(),
            limit: Limit::new(endpoint.concurrency),
            breaker: Breaker::new(failing, now),
            pace: Pace::default(),
            flow: Flow::default(),
            trial: Trial::default(),
            late: Duration::ZERO,
            turn: Duration::ZERO,
            in_flight: 0,
            moves: 0,
            held: 0,
            held_bytes: 0,
            held_by: HashMap::new(),
            held_own: 0,
            ordering: endpoint.ordering,
            paused: false,
            disabled: false,
            paused_until: 0,
            slot: 0,
            first_wait: FIRST_WAIT,
            failing_since: None,
            noted: false,
            last_error: None,
        };
        core.switched(endpoint, switch);
        core
    }

    /// Goes by what is known of the endpoint besides its configuration; says whether it sends otherwise than before.
    pub(super) fn switched(&mut self, endpoint: &Endpoint, switch: &Switch) -> bool {
        let url = url_hash(&endpoint.url);
        let before = (self.disabled, self.paused);
        let disabled = switch.disabled_for(&url).is_some();
        if self.disabled && !disabled {
            self.start_over();
        }
        self.disabled = disabled;
        // What is given up does not wait.
        self.paused = !disabled && (endpoint.paused || switch.paused_since().is_some());
        match switch.failing_since(&url) {
            Some(since) => self.failing_since = Some(self.failing_since.map_or(since, |own| own.min(since))),
            // It worked on another instance, or was enabled.
            None if self.noted => self.failing_since = None,
            None => self.failing_since = self.failing_since.filter(|since| *since > switch.enabled_at()),
        }
        self.noted = switch.failing_since(&url).is_some();
        before != (self.disabled, self.paused)
    }

    /// Deliveries taken in and not yet on their way out.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Counts one in; the first one makes the lane active.
    pub(super) fn hold(&mut self, (partition, own): (Share, bool), bytes: usize) {
        self.held += 1;
        self.held_own += usize::from(own);
        self.held_bytes += bytes;
        *self.held_by.entry(partition).or_default() += 1;
    }

    /// Counts one out.
    pub(super) fn release(&mut self, (partition, own): (Share, bool), bytes: usize) {
        self.held -= 1;
        self.held_own -= usize::from(own);
        self.held_bytes -= bytes;
        if let Some(held) = self.held_by.get_mut(&partition) {
            *held -= 1;
            if *held == 0 {
                self.held_by.remove(&partition);
            }
        }
    }

    /// Is there room for one more of this partition?
    pub(super) fn standing(
        &mut self,
        endpoint: &Endpoint,
        (partition, own): (Share, bool),
        bounds: Bounds,
        now: i64,
    ) -> Standing {
        if own && self.ordering != endpoint.ordering {
            // Another order begins when all of the old one is settled.
            if self.held_own > 0 {
                return Standing::Full;
            }
            self.ordering = endpoint.ordering;
        }
        let of_partition = self.held_of(partition);
        let full = self.held >= bounds.share || (self.held > 0 && self.held_bytes >= bounds.bytes);
        if full && of_partition >= bounds.quota {
            return Standing::Full;
        }
        if self.is_blocked(bounds.hold, now) { Standing::Blocked } else { Standing::Room }
    }

    /// Does it hold less than half of its share, and can it send?
    pub(super) fn has_room(&self, bounds: Bounds, now: i64) -> bool {
        let little = self.held < bounds.share.div_ceil(2) && self.held_bytes <= bounds.bytes / 2;
        little && !self.is_blocked(bounds.hold, now)
    }

    /// Does it take in what is not due before long, but only because a slot was given to it when there was less room?
    pub(super) fn takes_early(&self, endpoint: &Endpoint, bounds: Bounds, now: i64) -> bool {
        !self.disabled && endpoint.rate.is_none() && self.has_room(bounds, now)
    }

    /// What it holds of this life of a partition.
    pub(super) fn held_of(&self, partition: Share) -> usize {
        self.held_by.get(&partition).copied().unwrap_or(0)
    }

    /// Does it hold anything of this life of a partition?
    pub(super) fn holds(&self, partition: Share) -> bool {
        self.held_by.contains_key(&partition)
    }

    /// Takes one in, or back, to go when it is due, when it is its turn and when the limits allow.
    pub(super) fn push(&mut self, delivery: Delivery, now: i64) {
        if let Some(delivery) = self.order.enter(self.ordering, delivery) {
            self.queue.push(delivery, now);
        }
    }

    /// One that was out of its line is settled: the next one may go.
    pub(super) fn over(&mut self, line: Line, now: i64) {
        if let Some(next) = self.order.over(line) {
            self.queue.push(next, now);
        }
    }

    /// What a worker does next. `admit` takes a place of the rate, or tells how long until there is one.
    pub(super) fn next(
        &mut self,
        endpoint: &Endpoint,
        admit: impl FnOnce() -> Result<(), Duration>,
        now: i64,
    ) -> Next {
        self.queue.promote(now);
        let mut next = None;
        if self.queue.ready() == 0 && self.queue.reserved() > 0 {
            next = self.bring_forward(endpoint, now);
        }
        if self.queue.ready() == 0 {
            let next = next.into_iter().chain(self.queue.next_due()).min();
            let wait = next.map(|next| Duration::from_millis(next.abs_diff(now)));
            return wait.map_or(Next::Stop, Next::Sleep);
        }
        let sends = !self.disabled && endpoint.enabled;
        if sends {
            match self.gate(now) {
                Gate::Paused => return Next::Stop,
                Gate::Until(until, _) => return Next::Sleep(Duration::from_millis(until.abs_diff(now))),
                Gate::Open(at_once) if self.in_flight >= at_once => return Next::Stop,
                Gate::Open(_) => {}
            }
            if let Err(wait) = admit() {
                self.slot = now.saturating_add(millis(wait));
                self.queue.first_mut().into_iter().for_each(|first| first.throttled = true);
                return Next::Sleep(wait);
            }
        }
        let Some(delivery) = self.queue.pop() else { return Next::Stop };
        self.in_flight += 1;
        self.moves += 1;
        if self.in_flight == 1 {
            self.flow.begins(now);
        }
        let begun = sends.then(|| Begun {
            limit: self.limit.begins(self.in_flight),
            breaker: self.breaker.begins(now, endpoint.timeout),
        });
        Next::Deliver(Box::new(delivery), begun)
    }

    /// Lines up what keeps a slot, as many as could go now; or tells when some can. Slots of a rate are the rate's.
    fn bring_forward(&mut self, endpoint: &Endpoint, now: i64) -> Option<i64> {
        if self.disabled || !endpoint.enabled || endpoint.rate.is_some() {
            return None;
        }
        match self.gate(now) {
            Gate::Open(at_once) if self.in_flight < at_once => {
                self.queue.bring_forward(at_once - self.in_flight);
                // It has nothing else to do: whatever was reserved was reserved too far ahead.
                self.pace.forget_slots();
                None
            }
            Gate::Until(until, _) => Some(until),
            Gate::Open(_) | Gate::Paused => None,
        }
    }

    /// An attempt has ended, as judged.
    pub(super) fn ended(
        &mut self,
        begun: Begun,
        (attempt, outcome): (&Attempt, &Outcome),
        endpoint: &Endpoint,
        now: i64,
    ) -> Ended {
        // Also when this delivery has had its last attempt: the next one is not to be the receiver's trouble.
        if let Some(wait) = outcome::asked_pause(attempt, &endpoint.retry, now) {
            self.paused_until = self.paused_until.max(now.saturating_add(millis(wait)));
        }
        self.limit.ended(begun.limit, signal(attempt, self.late, self.turn));
        self.flow.ended(self.queue.ready() > 0, now);
        let Some(ok) = is_success(outcome) else {
            self.breaker.abandoned(begun.breaker);
            return Ended::default();
        };
        let was_closed = self.breaker.level() == 0;
        if self.breaker.ended(begun.breaker, ok, &endpoint.breaker, now) {
            // From a probe to full speed by a ramp.
            self.limit.start_over();
        }
        if ok {
            self.pace.arrived(attempt.duration, now);
            return Ended { recovered: self.failing_since.take().is_some(), ..Ended::default() };
        }
        self.pace.failed(attempt.duration);
        self.last_error = Some(describe(attempt));
        let failing_since = Some(*self.failing_since.get_or_insert(now));
        Ended { failing_since, opened: self.breaker.next_probe(now).filter(|_| was_closed), recovered: false }
    }

    /// An attempt was given up, or none was made.
    pub(super) fn abandoned(&mut self, begun: Begun) {
        self.breaker.abandoned(begun.breaker);
    }

    /// Gives a delivery that is to be parked its due time; says why it is parked. `jitter` is from 0 to 1.
    pub(super) fn park(
        &mut self,
        delivery: &mut Delivery,
        endpoint: &Endpoint,
        jitter: f64,
        now: i64,
    ) -> Park {
        let spacing = self.pace.spacing(endpoint.rate, self.limit.expected(), now);
        let (from, why) = match self.gate(now) {
            Gate::Paused => (now, Park::Paused),
            Gate::Until(until, why) => (until, why),
            Gate::Open(_) if endpoint.rate.is_some() => (now, Park::Throttled),
            // The receiver asked another instance for the pause that it still waits for.
            Gate::Open(_) if delivery.due > now && delivery.reason == Some(Reason::Throttled) => {
                (now, Park::Throttled)
            }
            Gate::Open(_) => (now, Park::Full),
        };
        // What it waited for until now says nothing about how long this will last.
        if delivery.reason.replace(why.reason()) != Some(why.reason()) {
            delivery.parks = 0;
        }
        let slot = match why {
            // A dead endpoint's backlog must not circulate faster than its schedule.
            Park::Breaker => from.max(now + self.step(delivery, endpoint, jitter)),
            // Nobody knows when it goes on.
            Park::Paused => from + self.doubled(delivery.parks),
            Park::Throttled | Park::Full | Park::Shutdown | Park::UnknownEndpoint => match spacing {
                Some(spacing) => {
                    let slot = self.pace.reserve(from, self.held, spacing);
                    if endpoint.rate.is_some() {
                        delivery.due = slot.max(delivery.due);
                        return why;
                    }
                    // How fast it will be is a guess, which is believed the further the more often it was right.
                    slot.min(from + self.doubled(delivery.parks.saturating_add(1).saturating_mul(2)))
                }
                // Nobody knows how fast it will be.
                None => from + self.doubled(delivery.parks),
            },
        };
        delivery.due = slot.max(delivery.due);
        delivery.parks = delivery.parks.saturating_add(1);
        why
    }

    /// The schedule's next step for one that is parked because its endpoint does not work: further with each park.
    fn step(&self, delivery: &Delivery, endpoint: &Endpoint, jitter: f64) -> i64 {
        let made = delivery.attempts.saturating_sub(delivery.uncharged).saturating_add(delivery.parks);
        let schedule = &endpoint.retry.schedule;
        let step = schedule.get(made as usize).or(schedule.last());
        let jittered = |step: &Duration| millis(step.mul_f64(1.0 + endpoint.retry.jitter * jitter));
        step.map_or_else(|| self.doubled(delivery.parks), jittered)
    }

    /// The wait of what was parked so often before.
    fn doubled(&self, parks: u32) -> i64 {
        self.first_wait.saturating_mul(1 << parks.min(20)).min(LONGEST_WAIT)
    }

    /// How long is it waited for while it is full, before it is looked at again? `None`: it is too slow for that.
    pub(super) fn worth_waiting(&mut self, bounds: Bounds, now: i64) -> Option<Duration> {
        if self.drains_within(bounds.moment, bounds, now) {
            self.trial.passed();
            return Some(LONGEST_MOMENT);
        }
        if !self.drains_within(bounds.moment * NEARLY, bounds, now) {
            return None;
        }
        let remaining = self.trial.remaining(bounds.moment * TRIED_FOR, now)?;
        Some(Duration::from_millis(remaining.unsigned_abs()))
    }

    /// Is half of its share gone within so many milliseconds, as fast as it has drained lately? While it speeds up that
    /// says little: then it has to be at full speed within that time. What a limit holds back is slow on purpose.
    fn drains_within(&self, moment: f64, bounds: Bounds, now: i64) -> bool {
        let throttled = self.slot.saturating_add(THROTTLED) > now;
        if throttled || self.is_blocked(bounds.hold, now) {
            return false;
        }
        if self.limit.is_ramping() {
            let round_trip = moment / RAMP;
            let soon = self.pace.mean().is_none_or(|mean| mean <= round_trip);
            return soon && self.flow.is_brisk(0, round_trip, now);
        }
        self.flow.is_brisk(bounds.share.div_ceil(2), moment, now)
    }

    /// Can nothing be sent within that time?
    pub(super) fn is_blocked(&self, within: Duration, now: i64) -> bool {
        let far = !self.disabled && self.slot > now.saturating_add(millis(within));
        far || self.is_shut(within, now)
    }

    /// Can nothing be sent within that time, whatever the rate?
    pub(super) fn is_shut(&self, within: Duration, now: i64) -> bool {
        if self.disabled {
            return false;
        }
        match self.gate(now) {
            Gate::Paused => true,
            Gate::Until(until, _) => until > now.saturating_add(millis(within)),
            Gate::Open(_) => false,
        }
    }

    /// Is there something that it could send now, or an attempt that will end?
    pub(super) fn could_go_on(&self, endpoint: &Endpoint, now: i64) -> bool {
        let due = self.queue.ready() > 0 || self.queue.next_due().is_some_and(|due| due <= now);
        let sends = !self.disabled && endpoint.enabled;
        let open = !sends || (matches!(self.gate(now), Gate::Open(_)) && self.slot <= now);
        self.in_flight > 0 || (due && open)
    }

    /// Would nothing be forgotten if the lane were taken down?
    pub(super) fn is_quiet(&self, now: i64) -> bool {
        self.held == 0
            && self.order.is_empty()
            && self.breaker.is_quiet()
            && self.paused_until <= now
            && self.pace.cursor(now).is_none()
    }

    /// It is another receiver now, or it was told to begin anew: what was learnt means nothing any more.
    pub(super) fn start_over(&mut self) {
        self.limit.forget();
        self.breaker.forget();
        self.pace.start_over();
        self.flow.start_over();
        self.trial.passed();
        (self.paused_until, self.slot, self.failing_since, self.last_error) = (0, 0, None, None);
    }

    /// The rate is another one: the slots that were reserved by the old one mean nothing any more.
    pub(super) fn forget_slots(&mut self) {
        self.slot = 0;
        self.pace.forget_slots();
    }

    fn gate(&self, now: i64) -> Gate {
        if self.paused {
            return Gate::Paused;
        }
        let at_once = match self.breaker.gate(now) {
            breaker::Gate::Closed => self.limit.current(),
            breaker::Gate::Probe => 1,
            breaker::Gate::Shut(until) => return Gate::Until(until.max(self.paused_until), Park::Breaker),
        };
        if self.paused_until > now {
            Gate::Until(self.paused_until, Park::Throttled)
        } else {
            Gate::Open(at_once)
        }
    }
}

/// What the result says about the receiver's capacity.
fn signal(attempt: &Attempt, late: Duration, turn: Duration) -> Signal {
    use AttemptResult::{Blocked, Connect, Dns, Reset, Status, Timeout, Tls};
    let crowded = turn > LONG_TURN && turn * CROWDED >= attempt.duration;
    let took = attempt.duration.saturating_sub(late);
    match attempt.result {
        Status(200..=299) if crowded => Signal::Crowded(took),
        Status(200..=299) => Signal::Success(took),
        Status(429 | 503) | Timeout | Connect | Reset | Tls | Dns => Signal::Overload,
        Status(_) | Blocked => Signal::Neutral,
    }
}

/// What the outcome says about the endpoint's health; nothing when the receiver only asked for a pause, or is gone.
fn is_success(outcome: &Outcome) -> Option<bool> {
    match outcome {
        Outcome::Delivered => Some(true),
        Outcome::Retry { charged: false, .. } => None,
        Outcome::Retry { .. } => Some(false),
        // It answers, and means it.
        Outcome::Dead { reason: Reason::Rejected } => Some(true),
        Outcome::Dead { reason: Reason::Exhausted | Reason::Expired } => Some(false),
        Outcome::Dead { .. } => None,
    }
}

fn describe(attempt: &Attempt) -> String {
    use AttemptResult::{Blocked, Connect, Dns, Reset, Status, Timeout, Tls};
    let what = match attempt.result {
        Status(status) => status.to_string(),
        Timeout => "timeout".to_owned(),
        Connect => "connect".to_owned(),
        Tls => "tls".to_owned(),
        Dns => "dns".to_owned(),
        Reset => "reset".to_owned(),
        Blocked => "blocked".to_owned(),
    };
    if attempt.detail.is_empty() { what } else { format!("{what}: {}", attempt.detail) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pipeline::switch::{Command, Disabled, Facts, Why},
        registry::tests::endpoint,
    };

    const BOUNDS: Bounds =
        Bounds { share: 10, bytes: 1_000, quota: 1, hold: Duration::from_secs(5), moment: 150.0 };

    fn holding(count: usize, bytes: usize) -> Core {
        let mut core = Core::new(&endpoint("a"), &Switch::default(), 0);
        (0..count).for_each(|_| core.hold((1, false), bytes));
        core
    }

    #[test]
    fn room_is_half_a_share() {
        for (count, bytes, room) in
            [(0, 1, true), (4, 1, true), (5, 1, false), (2, 250, true), (2, 251, false)]
        {
            assert_eq!(holding(count, bytes).has_room(BOUNDS, 0), room, "{count} of {bytes} bytes");
        }
    }

    #[test]
    fn a_lane_that_cannot_send_stands_in_the_way_and_has_no_room() {
        type Make = fn(&mut Core);
        let rows: [(Make, bool, bool); 5] = [
            (|_| {}, false, false),
            (|core| core.paused = true, true, true),
            (|core| core.paused_until = 5_001, true, true),
            (|core| core.paused_until = 5_000, false, false),
            // It drains, however slowly.
            (|core| core.slot = 5_001, true, false),
        ];
        for (make, blocked, shut) in rows {
            let mut core = holding(1, 1);
            make(&mut core);
            assert_eq!((core.is_blocked(BOUNDS.hold, 0), core.is_shut(BOUNDS.hold, 0)), (blocked, shut));
            assert_eq!(core.has_room(BOUNDS, 0), !blocked);
            let standing = if blocked { Standing::Blocked } else { Standing::Room };
            assert_eq!(core.standing(&endpoint("a"), (1, false), BOUNDS, 0), standing);
        }
    }

    #[test]
    fn an_attempt_that_mostly_waits_here_says_that_it_is_crowded() {
        use AttemptResult::Status;
        let ms = Duration::from_millis;
        // What it took, what this process adds to that, and one turn of it.
        let rows = [
            (Status(200), 8, 4, 2, Signal::Success(ms(4))),
            (Status(200), 12, 4, 3, Signal::Crowded(ms(8))),
            (Status(200), 13, 4, 3, Signal::Success(ms(9))),
            (Status(200), 3, 4, 3, Signal::Crowded(ms(0))),
            (Status(500), 8, 4, 3, Signal::Neutral),
            (Status(503), 8, 4, 3, Signal::Overload),
        ];
        for (result, took, late, turn, expected) in rows {
            let attempt = Attempt { result, retry_after: None, detail: String::new(), duration: ms(took) };
            assert_eq!(signal(&attempt, ms(late), ms(turn)), expected, "{took} {late} {turn}");
        }
    }

    #[test]
    fn one_that_cannot_send_is_not_waited_for() {
        let mut core = holding(1, 1);
        core.flow.begins(5_000);
        assert_eq!(core.worth_waiting(BOUNDS, 5_025), Some(LONGEST_MOMENT));
        // It has not been answered for longer than it may take: it is tried, once.
        let tried = |left| Some(Duration::from_millis(left));
        assert_eq!(core.worth_waiting(BOUNDS, 5_026), tried(75));
        assert_eq!(core.worth_waiting(BOUNDS, 5_100), tried(1));
        assert_eq!(core.worth_waiting(BOUNDS, 5_101), None);
        core.start_over();
        core.flow.begins(6_000);
        core.pace.arrived(Duration::from_millis(26), 6_000);
        assert_eq!(
            core.worth_waiting(BOUNDS, 6_000),
            tried(75),
            "at full speed only after six times as long"
        );
        core.start_over();
        core.pace.arrived(Duration::from_millis(101), 6_000);
        assert_eq!(core.worth_waiting(BOUNDS, 6_000), None, "far too late");
        core.start_over();
        core.slot = 5_001;
        assert_eq!(core.worth_waiting(BOUNDS, 6_000), None);
        (core.slot, core.paused) = (0, true);
        assert_eq!(core.worth_waiting(BOUNDS, 6_000), None);
    }

    #[test]
    fn one_that_is_slower_than_brisk_is_tried_and_waited_for_again_when_that_made_it_brisk() {
        let mut core = holding(1, 1);
        core.limit.set_most(1);
        let end = |core: &mut Core, from: i64, gap: i64| {
            (0..200).for_each(|n| core.flow.ended(true, from + n * gap));
            from + 199 * gap
        };
        // Half of its share is five, which may take 150 ms.
        let now = end(&mut core, 0, 40);
        assert_eq!(core.worth_waiting(BOUNDS, now), Some(Duration::from_millis(75)));
        assert_eq!(core.worth_waiting(BOUNDS, now + 75), None);
        let now = end(&mut core, now, 20);
        assert_eq!(core.worth_waiting(BOUNDS, now), Some(LONGEST_MOMENT));
        let now = end(&mut core, now, 40);
        assert_eq!(core.worth_waiting(BOUNDS, now), Some(Duration::from_millis(75)));
        let now = end(&mut core, now, 130);
        assert_eq!(core.worth_waiting(BOUNDS, now), None, "four times as long and more");
    }

    #[test]
    fn a_disabled_lane_holds_nothing_back() {
        let mut facts = Facts::default();
        let mut endpoint = endpoint("a");
        endpoint.paused = true;
        let url = url_hash(&endpoint.url);
        let mut core = Core::new(&endpoint, &facts.get("a"), 0);
        assert!(core.paused && core.is_blocked(BOUNDS.hold, 0));
        (core.paused_until, core.slot) = (60_000, 60_000);
        facts.disable("a", Disabled { why: Why::Failing, begun: 7, url });
        assert!(core.switched(&endpoint, &facts.get("a")));
        assert!(core.disabled && !core.paused && !core.is_blocked(BOUNDS.hold, 0));
        assert!(!core.switched(&endpoint, &facts.get("a")), "nothing new");
        // Enabled again it is still paused, and what was learnt of it is forgotten.
        facts.command("a", Command::Enable, 8);
        assert!(core.switched(&endpoint, &facts.get("a")));
        assert_eq!((core.disabled, core.paused, core.paused_until, core.slot), (false, true, 0, 0));
    }

    #[test]
    fn since_when_it_fails_is_what_all_instances_know() {
        let (mut facts, endpoint) = (Facts::default(), endpoint("a"));
        let mut core = Core::new(&endpoint, &facts.get("a"), 0);
        core.failing_since = Some(20);
        // Another one has seen it fail before …
        facts.fails("a", 10, &endpoint.url, 100);
        core.switched(&endpoint, &facts.get("a"));
        assert_eq!(core.failing_since, Some(10));
        // … and then work.
        facts.works("a", 101);
        core.switched(&endpoint, &facts.get("a"));
        assert_eq!(core.failing_since, None);
        // What nobody noted down yet is forgotten by an enabling, and by nothing else.
        core.failing_since = Some(200);
        core.switched(&endpoint, &facts.get("a"));
        assert_eq!(core.failing_since, Some(200));
        facts.command("a", Command::Enable, 201);
        core.switched(&endpoint, &facts.get("a"));
        assert_eq!(core.failing_since, None);
        // A lane that begins knows it, and begins with a probe.
        facts.fails("a", 300, &endpoint.url, 400);
        let core = Core::new(&endpoint, &facts.get("a"), 500);
        assert_eq!((core.failing_since, core.breaker.level()), (Some(300), 1));
    }

    #[test]
    fn a_partition_has_its_quota_of_a_full_lane() {
        let mut core = holding(10, 1);
        let mut standing = |partition, quota| {
            core.standing(&endpoint("a"), (partition, false), Bounds { quota, ..BOUNDS }, 0)
        };
        assert_eq!(standing(2, 1), Standing::Room);
        assert_eq!(standing(2, 0), Standing::Full);
        assert_eq!(standing(1, 1), Standing::Full);
    }

    /// A delivery that is due then. Its partition is over, so that nobody misses its ticket.
    async fn due(at: i64) -> Delivery {
        use crate::pipeline::{
            Event,
            delivery::Held,
            ledger::{Ledger, metadata::Position},
            ticket::Partition,
            window,
        };
        let (stop, metrics) = (tokio_util::sync::CancellationToken::new(), crate::metrics::Metrics::new(1));
        let life = Partition::new(("orders".into(), 0), (None, false), 1, Position::at(0), stop, metrics);
        life.fence();
        let window = std::sync::Arc::new(window::Window::new(10, 100));
        let event = Event {
            topic: "orders".into(),
            partition: 0,
            offset: 0,
            timestamp: 0,
            key: None,
            value: None,
            headers: crate::pipeline::Headers::default(),
            id: "msg".into(),
            event_type: "order".into(),
            tenant: None,
            priority: None,
            notice: false,
        };
        let held = std::sync::Arc::new(Held { event, bytes: window.bytes(1, 1).await });
        let class = window::Class::new(crate::config::settings::Priority::Normal, false);
        let place = window.place(1, class).await;
        let ticket = std::sync::Arc::new(life).ticket(Ledger::place(0, 0));
        let priority = crate::config::settings::Priority::Normal;
        Delivery { due: at, ..Delivery::first(held, "a".into(), priority, (ticket, place)) }
    }

    #[tokio::test]
    async fn what_keeps_a_slot_goes_early_when_there_is_nothing_else_to_do() {
        use crate::config::settings::Rate;
        type Make = fn(&mut Core, &mut Endpoint, &mut Delivery);
        // The time is 1,000; all three are due at 9,000, and two may be under way at once.
        let rows: [(&str, Make, usize); 11] = [
            ("slots", |_, _, _| {}, 2),
            ("one is under way", |core, _, _| core.in_flight = 1, 1),
            ("both are", |core, _, _| core.in_flight = 2, 0),
            ("for another reason", |_, _, delivery| delivery.reason = Some(Reason::Throttled), 0),
            ("attempted", |_, _, delivery| delivery.attempts = 1, 0),
            ("replayed, at somebody's rate", |_, _, delivery| delivery.replays = 1, 0),
            ("asked to wait", |core, _, _| core.paused_until = 1_001, 0),
            ("paused", |core, _, _| core.paused = true, 0),
            (
                "slots of a rate",
                |_, endpoint, _| endpoint.rate = Some(Rate { count: 5, per: Duration::from_secs(1) }),
                0,
            ),
            // They are given up when they are due.
            ("switched off", |_, endpoint, _| endpoint.enabled = false, 0),
            ("disabled", |core, _, _| core.disabled = true, 0),
        ];
        for (what, make, expected) in rows {
            let mut endpoint = endpoint("a");
            endpoint.concurrency = 2;
            let mut core = Core::new(&endpoint, &Switch::default(), 0);
            while core.limit.current() < 2 {
                let begun = core.limit.begins(1);
                core.limit.ended(begun, Signal::Success(Duration::from_millis(1)));
            }
            for _ in 0..3 {
                let mut delivery = due(9_000).await;
                delivery.reason = Some(Reason::Full);
                make(&mut core, &mut endpoint, &mut delivery);
                core.push(delivery, 1_000);
            }
            core.pace.reserve(9_000, 0, 1.0);
            let mut went = 0;
            let then = loop {
                match core.next(&endpoint, || Ok(()), 1_000) {
                    Next::Deliver(..) => went += 1,
                    then => break then,
                }
            };
            assert_eq!(went, expected, "{what}");
            assert_eq!(core.pace.cursor(1_000).is_none(), expected > 0, "{what}");
            let wait = if what == "asked to wait" { 1 } else { 8_000 };
            assert!(
                matches!(then, Next::Sleep(time) if time == Duration::from_millis(wait)),
                "{what}: {then:?}"
            );
            assert_eq!(core.queue.waiting(), 3 - expected, "{what}");
            assert_eq!(core.queue.next_due(), Some(9_000), "{what}");
        }
    }

    #[tokio::test]
    async fn a_slot_that_is_a_guess_is_believed_the_further_the_more_often_it_was_right() {
        use crate::config::settings::Rate;
        let mut endpoint = endpoint("a");
        let mut core = Core::new(&endpoint, &Switch::default(), 0);
        let mut delivery = due(0).await;
        let mut parked = |core: &mut Core, endpoint: &Endpoint| {
            assert_eq!(core.park(&mut delivery, endpoint, 0.0, 1_000).reason(), delivery.reason.unwrap());
            std::mem::take(&mut delivery.due) - 1_000
        };
        // Nothing is known yet.
        assert_eq!(parked(&mut core, &endpoint), 5_000);
        // A day for what is held, which 64 at once could do.
        core.pace.arrived(Duration::from_secs(64), 0);
        core.held = 86_400;
        assert_eq!([(); 3].map(|()| parked(&mut core, &endpoint)), [80_000, 320_000, 900_000]);
        core.held = 7;
        core.pace.forget_slots();
        assert_eq!(parked(&mut core, &endpoint), 8_000, "no further than it is");
        // The receiver's pause, of which another instance knows, is exact.
        core.pace.forget_slots();
        delivery.reason = Some(Reason::Throttled);
        delivery.due = 90_000;
        assert_eq!(core.park(&mut delivery, &endpoint, 0.0, 1_000), Park::Throttled);
        assert_eq!(std::mem::take(&mut delivery.due), 90_000);
        core.pace.forget_slots();
        let mut parked = |core: &mut Core, endpoint: &Endpoint| {
            core.park(&mut delivery, endpoint, 0.0, 1_000);
            std::mem::take(&mut delivery.due) - 1_000
        };
        // Of a rate they are exact.
        endpoint.rate = Some(Rate { count: 1, per: Duration::from_secs(10) });
        core.held = 6;
        assert_eq!([(); 2].map(|()| parked(&mut core, &endpoint)), [70_000, 80_000]);
    }

    #[tokio::test]
    async fn what_came_before_its_slot_makes_way_for_what_is_due() {
        let mut core = Core::new(&endpoint("a"), &Switch::default(), 0);
        for (attempts, due_at, reason) in [
            (1, 2_000, Reason::Status),
            (1, 500, Reason::Status),
            (0, 9_000, Reason::Full),
            (0, 500, Reason::Full),
        ] {
            let reason = Some(reason);
            core.push(Delivery { attempts, reason, ..due(due_at).await }, 1_000);
        }
        let mut shed = || {
            let ready = core.queue.ready();
            let shed = core.queue.shed(1).pop().map(|delivery| (delivery.attempts, delivery.due));
            (shed, ready - core.queue.ready())
        };
        assert_eq!(shed(), (Some((0, 500)), 1), "fresh");
        assert_eq!(shed(), (Some((0, 9_000)), 0), "early");
        assert_eq!(shed(), (Some((1, 500)), 1), "due");
        assert_eq!(shed(), (Some((1, 2_000)), 0), "waits");
        assert_eq!(shed(), (None, 0));
    }

    #[test]
    fn whoever_has_room_takes_in_early_what_is_no_slot_of_a_rate() {
        use crate::config::settings::Rate;
        let mut endpoint = endpoint("a");
        let takes = |core: &Core, endpoint: &Endpoint| core.takes_early(endpoint, BOUNDS, 0);
        assert!(takes(&holding(4, 1), &endpoint));
        assert!(!takes(&holding(5, 1), &endpoint));
        let mut core = holding(1, 1);
        core.paused_until = 5_001;
        assert!(!takes(&core, &endpoint));
        (core.paused_until, core.disabled) = (0, true);
        assert!(!takes(&core, &endpoint), "it sends nothing, and has nothing to be early for");
        endpoint.rate = Some(Rate { count: 1, per: Duration::from_secs(1) });
        assert!(!takes(&holding(0, 0), &endpoint));
    }

    #[tokio::test]
    async fn a_lane_could_go_on_with_what_is_due_and_not_held_back_or_under_way() {
        type Make = fn(&mut Core, &mut Endpoint);
        // The time is 1,000; the delivery, if there is one, is due then.
        let rows: [(&str, Option<i64>, Make, bool); 11] = [
            ("nothing", None, |_, _| {}, false),
            ("due", Some(1_000), |_, _| {}, true),
            ("due later", Some(1_001), |_, _| {}, false),
            ("paused", Some(1_000), |core, _| core.paused = true, false),
            ("asked to wait", Some(1_000), |core, _| core.paused_until = 1_001, false),
            ("asked to wait until now", Some(1_000), |core, _| core.paused_until = 1_000, true),
            ("throttled", Some(1_000), |core, _| core.slot = 1_001, false),
            ("its slot has come", Some(1_000), |core, _| core.slot = 1_000, true),
            (
                "disabled, whatever its rate",
                Some(1_000),
                |core, _| (core.disabled, core.slot) = (true, 9_000),
                true,
            ),
            (
                "switched off",
                Some(1_000),
                |core, endpoint| (core.slot, endpoint.enabled) = (9_000, false),
                true,
            ),
            ("an attempt is under way", None, |core, _| core.in_flight = 1, true),
        ];
        for (what, due_at, make, expected) in rows {
            let mut endpoint = endpoint("a");
            let mut core = Core::new(&endpoint, &Switch::default(), 0);
            if let Some(at) = due_at {
                core.queue.push(due(at).await, 0);
            }
            make(&mut core, &mut endpoint);
            assert_eq!(core.could_go_on(&endpoint, 1_000), expected, "{what}");
        }
    }
}
