//! The keys that `[defaults]` and endpoints share: an endpoint's own, else the defaults', else ours.

use std::time::Duration;

use super::{
    super::{
        file::endpoint::{Breaker as WrittenBreaker, Policy, Retry as WrittenRetry},
        mistake::Report,
        settings::{Breaker, Ordering, Queue, Rate, Retry},
        value::tier_name,
        written::{Text, Written},
    },
    days, minutes, seconds,
};

/// What is wrong with `[defaults]` by itself, whether or not an endpoint takes it.
pub(super) fn own_mistakes(defaults: &Policy, report: &mut Report) {
    let ordering = defaults.ordering.or(Ordering::None);
    queue(defaults, defaults, ordering, report);
    retry(&defaults.retry, &defaults.retry, ordering, report);
    breaker(&defaults.breaker, &defaults.breaker, report);
}

/// Whose queue: an ordering implies one's own. A shared one may not be asked for in the same breath, or in the
/// endpoint against the ordering of the defaults.
pub(super) fn queue(own: &Policy, defaults: &Policy, ordering: Ordering, report: &mut Report) -> Queue {
    if ordering == Ordering::None {
        return own.queue.over(&defaults.queue).or(Queue::Shared);
    }
    if let Some(written) = own.queue.set().filter(|written| written.value == Queue::Shared) {
        let message = "queue = \"shared\" cannot keep the order that ordering asks for";
        report.add(written.place, message, "remove it, or write ordering = \"none\" beside it");
    }
    Queue::Own
}

/// Deliveries that may go at once: as written, or one second's worth.
pub(super) fn burst(written: i64, rate: Option<Rate>) -> u32 {
    match (u32::try_from(written).expect("its range was checked while reading"), rate) {
        (0, Some(rate)) => {
            let per = u32::try_from(rate.per.as_secs()).expect("an hour at most");
            (rate.count / per).max(1)
        }
        (burst, _) => burst.max(1),
    }
}

/// The retry policy. What is in order takes turns in place, so its schedule is short unless one is written.
pub(super) fn retry(
    own: &WrittenRetry,
    defaults: &WrittenRetry,
    ordering: Ordering,
    report: &mut Report,
) -> Retry {
    let schedule = match own.schedule.over(&defaults.schedule).set() {
        Some(written) => written.value.items.iter().map(|item| item.value).collect(),
        None if ordering == Ordering::None => {
            [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000].map(seconds).to_vec()
        }
        None => [5, 30, 300].map(seconds).to_vec(),
    };
    let dead_on = own.dead_on.over(&defaults.dead_on);
    let items = dead_on.set().into_iter().flat_map(|written| &written.value.items);
    Retry {
        schedule,
        jitter: own.jitter.over(&defaults.jitter).or(0.2),
        max_age: own.max_age.over(&defaults.max_age).or(days(3)),
        max_pause: own.max_pause.over(&defaults.max_pause).or(minutes(60)),
        dead_on: items.filter_map(|item| statuses(item, report)).collect(),
    }
}

/// The circuit breaker.
pub(super) fn breaker(own: &WrittenBreaker, defaults: &WrittenBreaker, report: &mut Report) -> Breaker {
    let (open_for, max_open) = (own.open_for.over(&defaults.open_for), own.max_open.over(&defaults.max_open));
    let first: Duration = open_for.or(seconds(30));
    let longest = max_open.or(minutes(10).max(first));
    // An endpoint's own key is to blame, if there is one, not the defaults that are right without it.
    let to_blame = [&own.max_open, &own.open_for, &max_open].into_iter().find_map(|key| key.set());
    if let Some(written) = to_blame.filter(|_| longest < first) {
        let message = format!("max_open is {}, below open_for, {}", tier_name(longest), tier_name(first));
        report.add(written.place, message, "write the longest pause, not below the first");
    }
    Breaker {
        failures: own.failures.over(&defaults.failures).or(0.5),
        minimum: u32::try_from(own.minimum.over(&defaults.minimum).or(20))
            .expect("its range was checked while reading"),
        open_for: first,
        max_open: longest,
    }
}

/// A status, or `4xx`: only client errors can be final at once, the others say "try again" or "done".
fn statuses(item: &Written<Result<i64, Text>>, report: &mut Report) -> Option<(u16, u16)> {
    let message = match &item.value {
        Ok(status) => match u16::try_from(*status) {
            Ok(status @ 400..=499) => return Some((status, status)),
            _ => format!("{status} in dead_on is no status of a client error"),
        },
        Err(text) if text.value.eq_ignore_ascii_case("4xx") => return Some((400, 499)),
        Err(text) => format!("{text} in dead_on is no status of a client error"),
    };
    report.add(item.place, message, "write whole numbers from 400 to 499, or \"4xx\"");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts() {
        let rate = |count, per| Some(Rate { count, per: Duration::from_secs(per) });
        for (written, rate, expected) in [
            (0, None, 1),
            (7, None, 7),
            (0, rate(50, 1), 50),
            (5, rate(50, 1), 5),
            (0, rate(600, 60), 10),
            (0, rate(59, 60), 1),
            (0, rate(10_000, 3_600), 2),
        ] {
            assert_eq!(burst(written, rate), expected, "{written} {rate:?}");
        }
    }
}
