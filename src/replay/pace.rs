//! Due times: spread so that each endpoint gets its letters at a rate, over restarts as well. Pure.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::config::settings::{Endpoint, Rate};

/// The rate where an endpoint has no limit that a tenth could be taken of.
const UNLIMITED: Rate = Rate { count: 50, per: Duration::from_secs(1) };
/// Part of an endpoint's limit that a replay takes: the rest is for what is new.
const SHARE: u32 = 10;
/// Endpoints whose next due time is written down one by one; of the others the last one stands for all.
const WRITTEN: usize = 200;

/// Time between two letters for an endpoint, in microseconds.
pub fn interval(endpoint: &Endpoint, asked: Option<Rate>) -> i64 {
    let micros = |rate: Rate, share: u32| rate.per.as_micros() * u128::from(share) / u128::from(rate.count);
    let interval = match (asked, endpoint.rate) {
        (Some(asked), _) => micros(asked, 1),
        (None, Some(limit)) => micros(limit, SHARE),
        (None, None) => micros(UNLIMITED, 1),
    };
    i64::try_from(interval).unwrap_or(i64::MAX / 4)
}

/// When the next letter of each endpoint is due, in unix microseconds: a rate may be above one in a millisecond.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    next: BTreeMap<String, i64>,
    /// The same for every endpoint that is not among them.
    #[serde(default, skip_serializing_if = "is_zero")]
    others: i64,
}

impl Pace {
    /// The due time, in unix milliseconds, of the endpoint's next letter; never before now.
    pub fn due(&mut self, endpoint: &str, interval: i64, now_ms: i64) -> i64 {
        let now = now_ms.saturating_mul(1000);
        if let Some(next) = self.next.get_mut(endpoint) {
            let due = now.max(*next);
            *next = due.saturating_add(interval);
            return due / 1000;
        }
        let due = now.max(self.others);
        self.next.insert(endpoint.to_owned(), due.saturating_add(interval));
        due / 1000
    }

    /// What of it has to be written down: what is over is left out, and the record stays small.
    #[must_use]
    pub fn kept(&self, now_ms: i64) -> Self {
        let now = now_ms.saturating_mul(1000);
        let mut ahead: Vec<_> = self.next.iter().filter(|(_, next)| **next > now).collect();
        ahead.sort_unstable_by_key(|(_, next)| std::cmp::Reverse(**next));
        let dropped = ahead.get(WRITTEN).map_or(0, |(_, next)| **next);
        ahead.truncate(WRITTEN);
        let next = ahead.into_iter().map(|(endpoint, next)| (endpoint.clone(), *next)).collect();
        Self { next, others: Some(self.others.max(dropped)).filter(|others| *others > now).unwrap_or(0) }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dues(pace: &mut Pace, interval: i64, now: i64, count: usize) -> Vec<i64> {
        (0..count).map(|_| pace.due("crm", interval, now)).collect()
    }

    #[test]
    fn letters_are_spread_by_the_rate() {
        let mut pace = Pace::default();
        assert_eq!(dues(&mut pace, 20_000, 1_000, 4), [1_000, 1_020, 1_040, 1_060]);
        assert_eq!(pace.due("erp", 20_000, 1_000), 1_000, "each endpoint has a pace of its own");
        // Above one in a millisecond.
        assert_eq!(dues(&mut Pace::default(), 400, 5, 6), [5, 5, 5, 6, 6, 7]);
    }

    #[test]
    fn what_goes_on_later_neither_floods_nor_looks_back() {
        let mut pace = Pace::default();
        dues(&mut pace, 1_000_000, 0, 10);
        let kept = pace.kept(5_000);
        assert_eq!(dues(&mut kept.clone(), 1_000_000, 5_000, 2), [10_000, 11_000]);
        assert_eq!(pace.kept(60_000), Pace::default());
        assert_eq!(dues(&mut kept.clone(), 1_000_000, 60_000, 2), [60_000, 61_000]);
    }

    #[test]
    fn few_endpoints_are_written_down_and_none_is_early() {
        let mut pace = Pace::default();
        let count = i64::try_from(WRITTEN).unwrap() + 2;
        for n in 0..count {
            pace.due(&format!("e{n}"), (n + 1) * 1_000_000, 0);
        }
        let mut kept = pace.kept(0);
        assert_eq!(kept.next.len(), WRITTEN);
        assert_eq!(kept.due(&format!("e{}", count - 1), 1, 0), count * 1_000);
        assert_eq!(kept.due("e0", 1, 0), 2_000, "as late as the last of those left out");
    }
}
