//! How few notices are enough: about one thing of one endpoint at once and then at most one in a while, and no more
//! than so many a minute about all together. Pure; times are unix milliseconds.
//!
//! What is left out is told later, as a count of what a notice stands for: at the end of the while, or, if too many
//! endpoints have something, at the end of the minute in one notice about all of them. So counts add up to what
//! happened, but for what a crash takes with it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::notice::{Kind, Notice, Several};

/// Told in one minute at most; a person reads no more, and the topic hardly notices.
const PER_MINUTE: u32 = 60;
const MINUTE: i64 = 60_000;
/// How an endpoint does is told at once so many times in a while, since each says that the one before is over.
const CHANGES: u32 = 4;
/// Endpoints that are named in a notice about several.
const NAMED: usize = 10;

/// Decides which notices are written, and when.
#[derive(Debug)]
pub(super) struct Limiter {
    /// How long about the same thing nothing more is told, in milliseconds.
    repeat: i64,
    windows: HashMap<Key, Window>,
    /// When windows end, in that order: all are equally long.
    ends: VecDeque<(i64, Key)>,
    minute: i64,
    told: u32,
    /// Of each kind, what found no room in the minute.
    rest: [Option<Notice>; Kind::ALL.len()],
}

type Key = (Topic, Arc<str>);

/// Kinds that are limited together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Topic {
    /// Failing, working again, disabled: of these only the latest is true.
    State,
    Dead,
    Breaker,
    Certificate,
}

/// A while that began with a notice.
#[derive(Debug, Default)]
struct Window {
    told: u32,
    left_out: Option<Notice>,
}

impl Topic {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::EndpointFailing | Kind::EndpointRecovered | Kind::EndpointDisabled => Self::State,
            Kind::DeliveryDead => Self::Dead,
            Kind::BreakerOpened => Self::Breaker,
            Kind::CertificateExpiring => Self::Certificate,
        }
    }

    fn at_once(self) -> u32 {
        match self {
            Self::State => CHANGES,
            Self::Dead | Self::Breaker | Self::Certificate => 1,
        }
    }
}

impl Limiter {
    pub(super) fn new(repeat: i64) -> Self {
        let (windows, ends, rest) = (HashMap::new(), VecDeque::new(), Default::default());
        Self { repeat, windows, ends, minute: i64::MIN, told: 0, rest }
    }

    /// Something happened to an endpoint; returns what is to be told now.
    pub(super) fn offer(&mut self, notice: Notice, now: i64) -> Option<Notice> {
        let Some(endpoint) = &notice.endpoint else { return self.within_the_minute(notice, now) };
        let topic = Topic::of(notice.kind);
        let window = self.window((topic, Arc::clone(endpoint)), now);
        if window.told < topic.at_once() && window.left_out.is_none() {
            window.told += 1;
            return self.within_the_minute(notice, now);
        }
        window.leave_out(notice);
        None
    }

    /// One that was to be told could not be written: it is told with those of the next while.
    pub(super) fn take_back(&mut self, notice: Notice, now: i64) {
        match &notice.endpoint {
            Some(endpoint) => {
                let key = (Topic::of(notice.kind), Arc::clone(endpoint));
                self.window(key, now).leave_out(notice);
            }
            None => {
                let rest = &mut self.rest[notice.kind as usize];
                *rest = Some(rest.take().map_or_else(|| notice.clone(), |rest| together(rest, &notice)));
            }
        }
    }

    /// What is to be told because its time has come.
    pub(super) fn due(&mut self, now: i64) -> Vec<Notice> {
        let mut told = Vec::new();
        if now.saturating_sub(self.minute) >= MINUTE {
            told.extend(self.rest.iter_mut().filter_map(Option::take));
        }
        while let Some((_, key)) = self.ends.pop_front_if(|(end, _)| *end <= now) {
            let Some(window) = self.windows.remove(&key) else { continue };
            let Some(left_out) = window.left_out else { continue };
            // It goes on: the next while begins with it.
            self.window(key.clone(), now).told = key.0.at_once();
            told.extend(self.within_the_minute(left_out, now));
        }
        told
    }

    /// Nothing more will happen: everything that was left out.
    pub(super) fn end(&mut self, now: i64) -> Vec<Notice> {
        self.ends.clear();
        let left_out: Vec<_> = self.windows.drain().filter_map(|(_, window)| window.left_out).collect();
        let mut told: Vec<_> =
            left_out.into_iter().filter_map(|notice| self.within_the_minute(notice, now)).collect();
        told.extend(self.rest.iter_mut().filter_map(Option::take));
        told
    }

    fn window(&mut self, key: Key, now: i64) -> &mut Window {
        let Self { windows, ends, repeat, .. } = self;
        windows.entry(key).or_insert_with_key(|key| {
            ends.push_back((now.saturating_add(*repeat), key.clone()));
            Window::default()
        })
    }

    fn within_the_minute(&mut self, notice: Notice, now: i64) -> Option<Notice> {
        // The clock may have been set back.
        if now.saturating_sub(self.minute) >= MINUTE || now < self.minute {
            (self.minute, self.told) = (now, 0);
        }
        if self.told < PER_MINUTE {
            self.told += 1;
            return Some(notice);
        }
        let rest = &mut self.rest[notice.kind as usize];
        *rest = Some(match rest.take() {
            Some(rest) => together(rest, &notice),
            None => shared(&notice),
        });
        None
    }
}

impl Window {
    fn leave_out(&mut self, notice: Notice) {
        let count = notice.count + self.left_out.as_ref().map_or(0, |left_out| left_out.count);
        // One that could not be written comes back late.
        let newest = self.left_out.take().filter(|left_out| left_out.at > notice.at).unwrap_or(notice);
        self.left_out = Some(Notice { count, ..newest });
    }
}

/// The same as a notice about several.
fn shared(notice: &Notice) -> Notice {
    let endpoints = notice.endpoints.clone().or_else(|| {
        Some(Several { number: 1, some: notice.endpoint.iter().map(ToString::to_string).collect() })
    });
    // What one of them knows is not for the others' eyes.
    Notice { endpoint: None, tenant: None, endpoints, facts: super::Facts::default(), ..notice.clone() }
}

fn together(rest: Notice, notice: &Notice) -> Notice {
    let more = shared(notice).endpoints.unwrap_or_default();
    let mut endpoints = rest.endpoints.clone().unwrap_or_default();
    endpoints.number += more.number;
    let room = NAMED.saturating_sub(endpoints.some.len());
    endpoints.some.extend(more.some.into_iter().take(room));
    Notice { count: rest.count + notice.count, at: notice.at, endpoints: Some(endpoints), ..rest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notices::Facts;

    const HOUR: i64 = 60 * MINUTE;

    fn notice(kind: Kind, endpoint: &str, at: i64) -> Notice {
        let (endpoint, facts) = (Some(endpoint.into()), Facts::default());
        Notice { kind, endpoint, tenant: Some("acme".into()), facts, count: 1, endpoints: None, at }
    }

    fn dead(endpoint: &str, at: i64) -> Notice {
        notice(Kind::DeliveryDead, endpoint, at)
    }

    /// Endpoint and count.
    fn told(notices: impl IntoIterator<Item = Notice>) -> Vec<(String, u64)> {
        let name = |notice: &Notice| notice.endpoint.as_deref().unwrap_or("several").to_owned();
        notices.into_iter().map(|notice| (name(&notice), notice.count)).collect()
    }

    fn row(endpoint: &str, count: u64) -> Vec<(String, u64)> {
        vec![(endpoint.to_owned(), count)]
    }

    #[test]
    fn a_storm_is_one_notice_at_once_and_one_in_a_while_and_the_counts_add_up() {
        let mut limiter = Limiter::new(HOUR);
        let mut all = Vec::new();
        for at in (0..10_000).map(|n| n * 1_000) {
            all.extend(limiter.due(at));
            all.extend(limiter.offer(dead("crm", at), at));
        }
        // 10,000 seconds are two hours and three quarters.
        assert_eq!(told(all.clone()), [row("crm", 1), row("crm", 3_599), row("crm", 3_600)].concat());
        all.extend(limiter.due(12_000_000));
        assert_eq!(told(all.split_off(3)), row("crm", 2_800));
        // Quiet for a while: the next one is told at once.
        assert_eq!(limiter.due(12_000_000 + HOUR), []);
        assert_eq!(told(limiter.offer(dead("crm", 0), 12_000_000 + HOUR)), row("crm", 1));
    }

    #[test]
    fn one_endpoint_does_not_silence_another_nor_one_thing_another() {
        let mut limiter = Limiter::new(HOUR);
        for kind in [Kind::DeliveryDead, Kind::BreakerOpened, Kind::CertificateExpiring] {
            for endpoint in ["crm", "erp"] {
                assert_eq!(told(limiter.offer(notice(kind, endpoint, 0), 0)), row(endpoint, 1));
                assert_eq!(limiter.offer(notice(kind, endpoint, 1), 1), None);
            }
        }
    }

    #[test]
    fn one_that_comes_back_late_does_not_hide_what_came_after_it() {
        use Kind::{EndpointFailing, EndpointRecovered};
        let mut limiter = Limiter::new(HOUR);
        for at in 0..4 {
            assert!(limiter.offer(notice(EndpointFailing, "crm", at), at).is_some());
        }
        assert_eq!(limiter.offer(notice(EndpointRecovered, "crm", 5), 5), None);
        limiter.take_back(notice(EndpointFailing, "crm", 3), 30_000);
        let due: Vec<_> = limiter.due(HOUR).into_iter().map(|notice| (notice.kind, notice.count)).collect();
        assert_eq!(due, [(EndpointRecovered, 2)]);
    }

    #[test]
    fn of_how_an_endpoint_does_the_latest_is_told_last() {
        use Kind::{EndpointDisabled, EndpointFailing, EndpointRecovered};
        let mut limiter = Limiter::new(HOUR);
        let changes = [EndpointFailing, EndpointRecovered].repeat(5);
        let mut kinds = Vec::new();
        for (at, kind) in (0..).zip(changes) {
            kinds.extend(limiter.offer(notice(kind, "crm", at), at).map(|notice| notice.kind));
        }
        assert_eq!(kinds, [EndpointFailing, EndpointRecovered].repeat(2));
        assert_eq!(limiter.offer(notice(EndpointDisabled, "crm", 20), 20), None);
        let last = limiter.due(HOUR);
        assert_eq!((last[0].kind, last[0].count, last[0].at, last.len()), (EndpointDisabled, 7, 20, 1));
    }

    #[test]
    fn too_many_in_a_minute_share_one_and_nobody_is_told_of_another_tenant() {
        let mut limiter = Limiter::new(HOUR);
        let at_once = (0..100).filter_map(|n| limiter.offer(dead(&format!("e{n}"), n), n)).count();
        assert_eq!(at_once, PER_MINUTE as usize);
        assert_eq!(limiter.due(MINUTE - 1), []);
        let [rest] = &limiter.due(MINUTE)[..] else { panic!("one for all") };
        let several = rest.endpoints.clone().unwrap();
        assert_eq!(
            (rest.count, several.number, several.some.len(), &*several.some[0]),
            (40, 40, NAMED, "e60")
        );
        assert_eq!((&rest.endpoint, &rest.tenant, rest.at), (&None, &None, 99));
        // Their whiles have begun all the same.
        assert_eq!(limiter.offer(dead("e99", 0), MINUTE), None);
        assert_eq!(told(limiter.offer(dead("new", 0), MINUTE)), row("new", 1));
        assert_eq!(told(limiter.due(HOUR + 99)), row("e99", 1));
    }

    #[test]
    fn what_could_not_be_written_is_told_later_and_so_is_all_at_the_end() {
        let mut limiter = Limiter::new(HOUR);
        let first = limiter.offer(dead("crm", 0), 0).unwrap();
        limiter.offer(dead("crm", 1), 1);
        limiter.take_back(first, 2);
        limiter.take_back(dead("erp", 2), 2);
        limiter.take_back(shared(&dead("a", 3)), 3);
        limiter.take_back(shared(&dead("b", 3)), 3);
        let mut all = told(limiter.end(4));
        all.sort();
        assert_eq!(all, [row("crm", 2), row("erp", 1), row("several", 2)].concat());
        assert_eq!((limiter.end(4), limiter.due(2 * HOUR)), (vec![], vec![]));
    }
}
