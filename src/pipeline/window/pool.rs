//! Something scarce that partitions share, and who gets what becomes free of it. It never waits itself.
//!
//! Whoever asks gets while there is room and nobody waits. What becomes free goes to the classes that wait by their
//! weights, and within a class to the partition that holds least, the longest waiting among equals. If that one asks
//! for more than is left, those behind it that fit go past it, until as much went past it as it asks for (at most all
//! there is); then nobody of its class goes before it, and what becomes free gathers until it fits. What asks for more
//! than there is fits when nothing is held.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::{
    Share,
    class::{Class, Turns},
};

/// Behind one that does not fit this many are looked at. They hold more or came later, so nobody is wronged when one
/// further back would have fitted; it bounds what is done under the lock.
const LOOK_PAST: usize = 16;

/// So much of something, shared.
#[derive(Debug)]
pub(super) struct Pool {
    limit: usize,
    state: Mutex<State>,
}

/// The place in line of whoever waits.
#[derive(Debug)]
pub(super) struct InLine {
    /// Its number in line.
    pub(super) number: u64,
    /// Resolves when it was granted.
    pub(super) granted: oneshot::Receiver<()>,
}

/// Who asks, and for how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ask {
    /// The partition.
    pub(super) share: Share,
    /// How urgent it is.
    pub(super) class: Class,
    /// At least 1.
    pub(super) amount: usize,
}

impl Pool {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn used(&self) -> usize {
        self.lock().used
    }

    /// Takes, or waits in line.
    pub(super) fn ask(&self, ask: Ask) -> Result<(), InLine> {
        let mut state = self.lock();
        if state.waiting == 0 && state.fits(ask.amount, self.limit) {
            state.take(ask.share, ask.amount);
            return Ok(());
        }
        let (grant, granted) = oneshot::channel();
        let number = state.line_up(ask, grant);
        // It may fit where those before it do not.
        state.grant(self.limit);
        Err(InLine { number, granted })
    }

    /// Gives back what was taken or granted.
    pub(super) fn give_back(&self, ask: Ask) {
        let mut state = self.lock();
        state.put(ask.share, ask.amount);
        state.grant(self.limit);
    }

    /// Waits no more; what was granted meanwhile goes back.
    pub(super) fn leave(&self, ask: Ask, number: u64) {
        let mut state = self.lock();
        if state.remove(ask.share, ask.class, number).is_none() {
            state.put(ask.share, ask.amount);
        }
        state.grant(self.limit);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    /// What each partition holds; none that holds nothing.
    held: HashMap<Share, usize>,
    lines: [Line; Class::ALL.len()],
    turns: Turns,
    /// How many wait, in all lines.
    waiting: usize,
    /// How many ever waited; numbers them.
    lined_up: u64,
}

/// Those of one class who wait.
#[derive(Debug, Default)]
struct Line {
    /// Each partition that waits, by what it holds and the number of its longest waiting.
    order: BTreeSet<(usize, u64, Share)>,
    waiters: HashMap<Share, VecDeque<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    amount: usize,
    /// What went past it while it was first.
    passed: usize,
    grant: oneshot::Sender<()>,
}

impl State {
    fn fits(&self, amount: usize, limit: usize) -> bool {
        self.used == 0 || self.used.saturating_add(amount) <= limit
    }

    fn take(&mut self, share: Share, amount: usize) {
        self.used += amount;
        let held = self.held.entry(share).or_default();
        let before = *held;
        *held += amount;
        self.moved(share, before, before + amount);
    }

    fn put(&mut self, share: Share, amount: usize) {
        self.used -= amount;
        let held = self.held.get_mut(&share).expect("whoever gives back holds it");
        *held -= amount;
        let after = *held;
        if after == 0 {
            self.held.remove(&share);
        }
        self.moved(share, after + amount, after);
    }

    fn moved(&mut self, share: Share, before: usize, after: usize) {
        if self.waiting > 0 {
            self.lines.iter_mut().for_each(|line| line.moved(share, before, after));
        }
    }

    fn line_up(&mut self, Ask { share, class, amount }: Ask, grant: oneshot::Sender<()>) -> u64 {
        self.waiting += 1;
        self.lined_up += 1;
        let number = self.lined_up;
        let held = self.held.get(&share).copied().unwrap_or(0);
        self.lines[class as usize].push(share, held, Waiter { number, amount, passed: 0, grant });
        number
    }

    fn remove(&mut self, share: Share, class: Class, number: u64) -> Option<Waiter> {
        let held = self.held.get(&share).copied().unwrap_or(0);
        let waiter = self.lines[class as usize].remove(share, held, number)?;
        self.waiting -= 1;
        Some(waiter)
    }

    /// Grants while the next in turn fits.
    fn grant(&mut self, limit: usize) {
        while self.waiting > 0 && self.fits(1, limit) {
            let waits = |class| self.line(class).is_waiting();
            let class = self.turns.next(waits).expect("somebody waits");
            let Some((share, number)) = self.next_in_line(class, limit) else { return };
            let Self { lines, turns, .. } = self;
            turns.served(class, |class| lines[class as usize].is_waiting());
            let waiter = self.remove(share, class, number).expect("it was found in line");
            self.take(share, waiter.amount);
            waiter.grant.send(()).expect("whoever waits no more leaves the line first");
        }
    }

    /// The first in line if it fits, else one that fits past it, which is counted.
    fn next_in_line(&mut self, class: Class, limit: usize) -> Option<(Share, u64)> {
        let mut order = self.line(class).order.iter().map(|(_, number, share)| (*share, *number));
        let (first, number) = order.next()?;
        let waiter = self.line(class).first_of(first);
        if self.fits(waiter.amount, limit) {
            return Some((first, number));
        }
        if waiter.passed >= waiter.amount.min(limit) {
            return None;
        }
        let amount = |share| self.line(class).first_of(share).amount;
        let past = order.take(LOOK_PAST).find(|(share, _)| self.fits(amount(*share), limit))?;
        let amount = amount(past.0);
        self.lines[class as usize].first_of_mut(first).passed += amount;
        Some(past)
    }

    fn line(&self, class: Class) -> &Line {
        &self.lines[class as usize]
    }
}

impl Line {
    fn is_waiting(&self) -> bool {
        !self.order.is_empty()
    }

    fn push(&mut self, share: Share, held: usize, waiter: Waiter) {
        let waiters = self.waiters.entry(share).or_default();
        if waiters.is_empty() {
            self.order.insert((held, waiter.number, share));
        }
        waiters.push_back(waiter);
    }

    fn remove(&mut self, share: Share, held: usize, number: u64) -> Option<Waiter> {
        let waiters = self.waiters.get_mut(&share)?;
        let at = waiters.binary_search_by_key(&number, |waiter| waiter.number).ok()?;
        let waiter = waiters.remove(at);
        if at == 0 {
            self.order.remove(&(held, number, share));
            match waiters.front() {
                Some(next) => self.order.insert((held, next.number, share)),
                None => self.waiters.remove(&share).is_some(),
            };
        }
        waiter
    }

    /// A partition holds more or less than before.
    fn moved(&mut self, share: Share, before: usize, after: usize) {
        let Some(first) = self.waiters.get(&share).and_then(VecDeque::front) else { return };
        self.order.remove(&(before, first.number, share));
        self.order.insert((after, first.number, share));
    }

    fn first_of(&self, share: Share) -> &Waiter {
        &self.waiters[&share][0]
    }

    fn first_of_mut(&mut self, share: Share) -> &mut Waiter {
        let waiters = self.waiters.get_mut(&share).expect("it is in the order, so it waits");
        &mut waiters[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::window::Class::{High, HighLate, Low, LowLate, Normal, NormalLate};

    fn ask(share: Share, class: Class, amount: usize) -> Ask {
        Ask { share, class, amount }
    }

    /// A pool and who waits for it, in the order in which they asked.
    struct Rig {
        pool: Pool,
        waiting: Vec<(Ask, InLine)>,
    }

    impl Rig {
        fn new(limit: usize) -> Self {
            Self { pool: Pool::new(limit), waiting: Vec::new() }
        }

        /// Was it there at once, or granted while it lined up?
        fn ask(&mut self, ask: Ask) -> bool {
            match self.pool.ask(ask) {
                Ok(()) => true,
                Err(in_line) => {
                    self.waiting.push((ask, in_line));
                    self.granted().is_some_and(|granted| granted.contains(&ask))
                }
            }
        }

        fn give_back(&mut self, ask: Ask) -> Vec<Ask> {
            self.pool.give_back(ask);
            self.granted().unwrap_or_default()
        }

        /// Whoever was granted since it was asked last.
        fn granted(&mut self) -> Option<Vec<Ask>> {
            let granted = |waiting: &mut (Ask, InLine)| waiting.1.granted.try_recv().is_ok();
            let granted: Vec<_> = self.waiting.extract_if(.., granted).map(|(ask, _)| ask).collect();
            (!granted.is_empty()).then_some(granted)
        }

        fn leave(&mut self, at: usize) {
            let (ask, in_line) = self.waiting.remove(at);
            self.pool.leave(ask, in_line.number);
        }

        /// What is held is what partitions hold, and nobody waits who could go on.
        fn check(&self, held: &[Ask]) {
            let state = self.pool.lock();
            assert_eq!(state.used, held.iter().map(|ask| ask.amount).sum::<usize>());
            assert_eq!(state.used, state.held.values().sum::<usize>());
            assert!(state.held.values().all(|held| *held > 0));
            assert_eq!(state.waiting, self.waiting.len());
            let in_line = state.lines.iter().flat_map(|line| line.waiters.values());
            assert_eq!(in_line.map(VecDeque::len).sum::<usize>(), self.waiting.len());
            for line in &state.lines {
                assert_eq!(line.order.len(), line.waiters.len());
                for (held, number, share) in &line.order {
                    assert_eq!(state.held.get(share).copied().unwrap_or(0), *held);
                    assert_eq!(line.first_of(*share).number, *number);
                }
            }
            assert!(self.waiting.is_empty() || state.used > 0, "they wait for nothing");
        }
    }

    /// Serves so many turns of one place while these wait, each from a partition of its own that asks again at once.
    fn turns(waiting: &[Class], count: usize) -> Vec<Class> {
        let mut rig = Rig::new(1);
        let mut held = ask(0, Normal, 1);
        rig.ask(held);
        for (share, class) in (1..).zip(waiting) {
            assert!(!rig.ask(ask(share, *class, 1)));
        }
        let mut served = Vec::new();
        for _ in 0..count {
            let granted = rig.give_back(held);
            assert_eq!(granted.len(), 1);
            held = granted[0];
            served.push(held.class);
            rig.ask(held);
            rig.check(&[held]);
        }
        served
    }

    #[test]
    fn classes_have_turns_by_weight() {
        for (waiting, count, expected) in [
            (&[Low][..], 10, &[(Low, 10)][..]),
            (&[High, Normal, Low], 84, &[(High, 64), (Normal, 16), (Low, 4)]),
            (&[Normal, NormalLate], 20, &[(Normal, 16), (NormalLate, 4)]),
            (&[HighLate, Normal], 20, &[(HighLate, 10), (Normal, 10)]),
            // Weights are of classes, not of those who wait in them.
            (&[Normal, Low, Low, Low], 20, &[(Normal, 16), (Low, 4)]),
            (
                &[LowLate, Low, NormalLate, Normal, HighLate, High],
                105,
                &[(High, 64), (HighLate, 16), (Normal, 16), (NormalLate, 4), (Low, 4), (LowLate, 1)],
            ),
        ] {
            let served = turns(waiting, count);
            for (class, turns) in expected {
                let had = served.iter().filter(|other| *other == class).count();
                assert_eq!(had, *turns, "{class:?} among {waiting:?}");
            }
        }
    }

    #[test]
    fn turns_are_spread_evenly() {
        let served = turns(&[Normal, Low], 10);
        assert_eq!(served, [Normal, Normal, Low, Normal, Normal, Normal, Normal, Low, Normal, Normal]);
    }

    #[test]
    fn within_a_class_whoever_holds_least_goes_first() {
        let mut rig = Rig::new(6);
        for (share, amount) in [(1, 3), (2, 2), (3, 1)] {
            assert!(rig.ask(ask(share, Normal, amount)));
        }
        for share in [1, 2, 3, 4, 5] {
            assert!(!rig.ask(ask(share, Normal, 1)));
        }
        // The two that hold nothing come in the order in which they asked.
        for (back, next) in [(1, 4), (1, 5), (1, 1), (2, 2), (2, 3)] {
            assert_eq!(rig.give_back(ask(back, Normal, 1)), [ask(next, Normal, 1)]);
        }
    }

    #[test]
    fn a_large_one_is_passed_by_as_much_as_it_asks_for() {
        let mut rig = Rig::new(100);
        let small = ask(2, Normal, 10);
        for _ in 0..10 {
            assert!(rig.ask(small));
        }
        let large = ask(1, Normal, 30);
        assert!(!rig.ask(large));
        for _ in 0..10 {
            assert!(!rig.ask(small));
        }
        for past in 1..=3 {
            assert_eq!(rig.give_back(small), [small], "{past}");
        }
        // Now it gathers.
        assert_eq!(rig.give_back(small), []);
        assert_eq!(rig.give_back(small), []);
        assert_eq!(rig.give_back(small), [large]);
        assert_eq!(rig.give_back(small), [small]);
    }

    #[test]
    fn one_that_fits_goes_past_without_waiting() {
        let mut rig = Rig::new(100);
        assert!(rig.ask(ask(1, Normal, 80)));
        assert!(!rig.ask(ask(2, Normal, 50)));
        assert!(rig.ask(ask(3, Normal, 20)), "there is room for it");
        assert!(!rig.ask(ask(3, Normal, 1)));
    }

    #[test]
    fn one_larger_than_all_there_is_is_admitted_alone() {
        let mut rig = Rig::new(100);
        let (small, huge) = (ask(1, Normal, 50), ask(2, Normal, 1_000));
        assert!(rig.ask(small) && rig.ask(small));
        assert!(!rig.ask(huge));
        assert!(!rig.ask(small) && !rig.ask(small) && !rig.ask(small));
        // As much as there is goes past it.
        assert_eq!(rig.give_back(small), [small]);
        assert_eq!(rig.give_back(small), [small]);
        assert_eq!(rig.give_back(small), []);
        assert_eq!(rig.give_back(small), [huge]);
        rig.check(&[huge]);
        assert_eq!(rig.give_back(huge), [small]);
    }

    #[test]
    fn whoever_leaves_is_in_nobodys_way() {
        let mut rig = Rig::new(100);
        assert!(rig.ask(ask(1, Normal, 70)));
        // As much went past the large one as may.
        assert!(!rig.ask(ask(2, Normal, 31)));
        assert!(rig.ask(ask(3, Normal, 30)));
        rig.pool.give_back(ask(3, Normal, 30));
        assert!(rig.ask(ask(4, Normal, 5)));
        assert!(!rig.ask(ask(5, Normal, 10)));
        rig.leave(0);
        assert_eq!(rig.granted(), Some(vec![ask(5, Normal, 10)]));
    }

    #[test]
    fn large_and_small_events_have_the_same_bytes() {
        let mut rig = Rig::new(64 << 10);
        let (large, small) = (ask(1, Normal, 1 << 10), ask(2, Normal, 1));
        let mut held = VecDeque::new();
        for ask in [small, large] {
            while rig.ask(ask) {
                held.push_back(ask);
            }
        }
        let mut bytes = [0, 0];
        for _ in 0..300_000 {
            let back = held.pop_front().expect("something is held");
            for granted in rig.give_back(back) {
                bytes[usize::from(granted == small)] += granted.amount;
                held.push_back(granted);
                if rig.ask(granted) {
                    held.push_back(granted);
                }
            }
        }
        let [large, small] = bytes.map(|bytes| bytes as f64);
        assert!((0.8..1.25).contains(&(large / small)), "{large} {small}");
    }

    /// `SplitMix64` (<https://prng.di.unimi.it/splitmix64.c>).
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
        }
    }

    /// Partitions ask, give back and leave at random; amounts up to more than there is.
    fn simulate(seed: u64, limit: usize, most: usize) {
        let mut random = Random(seed);
        let mut rig = Rig::new(limit);
        let (mut held, mut since): (Vec<Ask>, HashMap<u64, usize>) = Default::default();
        for step in 0..20_000 {
            match random.below(10) {
                0..5 => {
                    let share = random.below(20) as Share;
                    let class = Class::ALL[random.below(Class::ALL.len())];
                    let amount = 1 + random.below(most);
                    // A partition waits for one thing at a time, as a rule.
                    if random.below(8) > 0 && rig.waiting.iter().any(|(ask, _)| ask.share == share) {
                        continue;
                    }
                    match rig.pool.ask(ask(share, class, amount)) {
                        Ok(()) => held.push(ask(share, class, amount)),
                        Err(in_line) => {
                            since.insert(in_line.number, step);
                            rig.waiting.push((ask(share, class, amount), in_line));
                        }
                    }
                }
                5..9 if !held.is_empty() => {
                    let back = held.swap_remove(random.below(held.len()));
                    rig.pool.give_back(back);
                }
                _ if !rig.waiting.is_empty() => rig.leave(random.below(rig.waiting.len())),
                _ => {}
            }
            held.extend(rig.granted().unwrap_or_default());
            rig.check(&held);
            // Nobody is forgotten: what is held is given back sooner or later, and everybody's turn comes.
            let oldest = rig.waiting.iter().map(|(_, in_line)| since[&in_line.number]).min();
            assert!(oldest.is_none_or(|since| step - since < 2_000), "seed {seed}: {:?}", rig.waiting);
        }
        while !rig.waiting.is_empty() {
            rig.leave(random.below(rig.waiting.len()));
            held.extend(rig.granted().unwrap_or_default());
            rig.check(&held);
        }
        held.drain(..).for_each(|ask| rig.pool.give_back(ask));
        rig.check(&[]);
    }

    #[test]
    fn the_books_balance_and_nobody_starves() {
        for seed in 0..8 {
            simulate(seed, 16, 1);
            simulate(seed, 64, 80);
        }
    }

    /// Everybody always wants more; what is held ends in a random order.
    #[test]
    fn weights_and_shares_are_kept_under_saturation() {
        const ROUNDS: usize = 42_000;
        let mut random = Random(7);
        let mut rig = Rig::new(60);
        // Three partitions of each class, one of which had everything to begin with.
        let wants = |share: Share| ask(share, [High, Normal, Low][(share % 3) as usize], 1);
        let mut held: Vec<Ask> = (0..60).map(|_| wants(0)).collect();
        assert!(held.iter().all(|ask| rig.ask(*ask)));
        (0..9).for_each(|share| assert!(!rig.ask(wants(share))));
        let mut served: HashMap<Share, usize> = HashMap::new();
        for _ in 0..ROUNDS {
            for granted in rig.give_back(held.swap_remove(random.below(held.len()))) {
                *served.entry(granted.share).or_default() += 1;
                held.push(granted);
                assert!(!rig.ask(granted));
            }
        }
        for (class, expected) in [(0, 64), (1, 16), (2, 4)] {
            let of_class: Vec<usize> =
                (0..9).filter(|share| share % 3 == class).map(|share| served[&share]).collect();
            let fair = ROUNDS * expected / 84;
            assert!(of_class.iter().sum::<usize>().abs_diff(fair) <= fair / 50, "{of_class:?}");
            assert!(of_class.iter().all(|turns| turns.abs_diff(fair / 3) <= fair / 3 / 5), "{of_class:?}");
        }
    }
}
