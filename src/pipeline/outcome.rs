//! What an attempt's result means: one table, pure, every row tested.
//!
//! Never performs I/O and never reads a clock.
#![warn(clippy::wildcard_enum_match_arm)]

use std::time::{Duration, UNIX_EPOCH};

use crate::config::settings;

/// What came of one HTTP request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptResult {
    /// A status line was received.
    Status(u16),
    /// The time-out ran out before a status line, or while reading the body of an answer that was not 2xx.
    Timeout,
    /// The connection could not be made.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The name did not resolve.
    Dns,
    /// The connection broke, or what came back was not HTTP.
    Reset,
    /// The address is not allowed.
    Blocked,
}

impl AttemptResult {
    /// The status, if a status line was received.
    pub fn status(self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(status),
            Self::Timeout | Self::Connect | Self::Tls | Self::Dns | Self::Reset | Self::Blocked => None,
        }
    }
}

/// A `Retry-After` header: either form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// Seconds from the answer.
    After(Duration),
    /// An HTTP date, in unix milliseconds.
    At(i64),
}

impl RetryAfter {
    /// Reads the header's value (RFC 9110, 10.2.3): whole seconds or an HTTP date in any of its three spellings.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            // More digits than fit are still a number: a very long wait, which the policy cuts.
            return Some(Self::After(Duration::from_secs(text.parse().unwrap_or(u64::MAX))));
        }
        let date = httpdate::parse_http_date(text).ok()?;
        let since = date.duration_since(UNIX_EPOCH).ok()?;
        i64::try_from(since.as_millis()).ok().map(Self::At)
    }

    /// The wait from `now_ms` on, cut to `longest`; nothing when there is nothing left to wait for.
    fn wait(self, now_ms: i64, longest: Duration) -> Option<Duration> {
        let wait = match self {
            Self::After(wait) => wait,
            Self::At(at) => Duration::from_millis(u64::try_from(at.saturating_sub(now_ms)).unwrap_or(0)),
        };
        Some(wait.min(longest)).filter(|wait| !wait.is_zero())
    }
}

/// One finished attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// What came of it.
    pub result: AttemptResult,
    /// `Retry-After`, when the answer had a readable one.
    pub retry_after: Option<RetryAfter>,
    /// The error, or the beginning of the answer's body (at most 2 KiB, lossy UTF-8, without control characters).
    pub detail: String,
    /// How long it took, body included.
    pub duration: Duration,
}

/// The closed set of `arauto-reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are the words of the contract.
pub enum Reason {
    Status,
    Timeout,
    Connect,
    Tls,
    Dns,
    BlockedAddress,
    Throttled,
    Breaker,
    Paused,
    Shutdown,
    Gone,
    Rejected,
    Exhausted,
    Expired,
    Disabled,
    UnknownEndpoint,
    Full,
    Cancelled,
    Auth,
    Expression,
    InvalidEvent,
    TooLarge,
}

impl Reason {
    /// Every reason, in the order of declaration.
    pub const ALL: [Self; 22] = [
        Self::Status,
        Self::Timeout,
        Self::Connect,
        Self::Tls,
        Self::Dns,
        Self::BlockedAddress,
        Self::Throttled,
        Self::Breaker,
        Self::Paused,
        Self::Shutdown,
        Self::Gone,
        Self::Rejected,
        Self::Exhausted,
        Self::Expired,
        Self::Disabled,
        Self::UnknownEndpoint,
        Self::Full,
        Self::Cancelled,
        Self::Auth,
        Self::Expression,
        Self::InvalidEvent,
        Self::TooLarge,
    ];

    /// Its name in headers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Dns => "dns",
            Self::BlockedAddress => "blocked_address",
            Self::Throttled => "throttled",
            Self::Breaker => "breaker",
            Self::Paused => "paused",
            Self::Shutdown => "shutdown",
            Self::Gone => "gone",
            Self::Rejected => "rejected",
            Self::Exhausted => "exhausted",
            Self::Expired => "expired",
            Self::Disabled => "disabled",
            Self::UnknownEndpoint => "unknown_endpoint",
            Self::Full => "full",
            Self::Cancelled => "cancelled",
            Self::Auth => "auth",
            Self::Expression => "expression",
            Self::InvalidEvent => "invalid_event",
            Self::TooLarge => "too_large",
        }
    }
}

/// What an attempt led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It arrived.
    Delivered,
    /// It will be made again.
    Retry {
        /// Not before this long from now.
        after: Duration,
        /// Why.
        reason: Reason,
        /// Does it use up a step of the schedule?
        charged: bool,
    },
    /// It will not be tried again by itself.
    Dead {
        /// Why.
        reason: Reason,
    },
}

/// What is known of a delivery when one of its attempts has finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SoFar {
    /// Charged attempts made before this one: 0 at the first. It says which step of the schedule comes next.
    pub attempts: u32,
    /// Time since the delivery was first seen.
    pub age: Duration,
    /// Now, in unix milliseconds.
    pub now_ms: i64,
    /// Does a 410 count? Not when the attempt began before the endpoint was last enabled.
    pub gone_counts: bool,
}

/// Decides what an attempt leads to. `jitter` is drawn by the caller from 0 to 1 and only ever lengthens a wait.
pub fn judge(attempt: &Attempt, policy: &settings::Retry, so_far: &SoFar, jitter: f64) -> Outcome {
    use AttemptResult::{Blocked, Connect, Dns, Reset, Status, Timeout, Tls};
    let again = |reason| retry(reason, policy, so_far, jitter);
    match attempt.result {
        Status(200..=299) => Outcome::Delivered,
        Status(410) if so_far.gone_counts => Outcome::Dead { reason: Reason::Gone },
        Status(410) => again(Reason::Status),
        Status(status) if is_final(status, policy) => Outcome::Dead { reason: Reason::Rejected },
        Status(status @ (408 | 425 | 429 | 500..=599)) => match asked_pause(attempt, policy, so_far.now_ms) {
            Some(wait) => pause(wait, status, policy, so_far),
            None => again(Reason::Status),
        },
        // Redirects, the other 4xx, and what is no status of HTTP at all (1xx as the last word, 600 and above).
        Status(0..=199 | 300..=u16::MAX) => again(Reason::Status),
        Timeout => again(Reason::Timeout),
        // The closed set of reasons has no word for a broken connection; `arauto_attempts_total` tells them apart.
        Connect | Reset => again(Reason::Connect),
        Tls => again(Reason::Tls),
        Dns => again(Reason::Dns),
        Blocked => Outcome::Dead { reason: Reason::BlockedAddress },
    }
}

/// For how long the receiver asks that nothing be sent to it, whatever becomes of the delivery it answered.
pub fn asked_pause(attempt: &Attempt, policy: &settings::Retry, now_ms: i64) -> Option<Duration> {
    let AttemptResult::Status(status @ (408 | 425 | 429 | 500..=599)) = attempt.result else { return None };
    let hint = attempt.retry_after.filter(|_| !is_final(status, policy))?;
    hint.wait(now_ms, policy.max_pause)
}

/// A failed attempt: the schedule's next step, or the end.
fn retry(reason: Reason, policy: &settings::Retry, so_far: &SoFar, jitter: f64) -> Outcome {
    match step(policy, so_far) {
        None => Outcome::Dead { reason: Reason::Exhausted },
        Some(_) if so_far.age >= policy.max_age => Outcome::Dead { reason: Reason::Expired },
        Some(step) => Outcome::Retry { after: lengthen(step, policy.jitter, jitter), reason, charged: true },
    }
}

/// The receiver named the wait. It is kept to exactly: no jitter, which could only make it later.
fn pause(wait: Duration, status: u16, policy: &settings::Retry, so_far: &SoFar) -> Outcome {
    // 429 and 503 with a time say "not now", not "this failed".
    let charged = !matches!(status, 429 | 503);
    if charged && step(policy, so_far).is_none() {
        return Outcome::Dead { reason: Reason::Exhausted };
    }
    if so_far.age >= policy.max_age {
        return Outcome::Dead { reason: Reason::Expired };
    }
    Outcome::Retry { after: wait, reason: Reason::Status, charged }
}

fn step(policy: &settings::Retry, so_far: &SoFar) -> Option<Duration> {
    let next = usize::try_from(so_far.attempts).unwrap_or(usize::MAX);
    policy.schedule.get(next).copied()
}

/// Is the status in `dead_on`? 408, 425 and 429 mean "later", so `"4xx"` does not cover them; naming them does.
fn is_final(status: u16, policy: &settings::Retry) -> bool {
    let temporary = matches!(status, 408 | 425 | 429);
    policy.dead_on.iter().any(|&(low, high)| (low..=high).contains(&status) && (!temporary || low == high))
}

fn lengthen(wait: Duration, share: f64, jitter: f64) -> Duration {
    let extra = (share * jitter).clamp(0.0, 1.0);
    wait.saturating_add(wait.mul_f64(extra))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;
    const MINUTE: Duration = Duration::from_secs(60);

    fn policy() -> settings::Retry {
        settings::Retry {
            schedule: vec![MINUTE, 5 * MINUTE],
            jitter: 0.2,
            max_age: 600 * MINUTE,
            max_pause: 60 * MINUTE,
            dead_on: vec![],
        }
    }

    fn attempt(result: AttemptResult, retry_after: Option<RetryAfter>) -> Attempt {
        Attempt { result, retry_after, detail: String::new(), duration: Duration::ZERO }
    }

    fn so_far(attempts: u32) -> SoFar {
        SoFar { attempts, age: Duration::ZERO, now_ms: NOW, gone_counts: true }
    }

    fn check(result: AttemptResult, retry_after: Option<RetryAfter>, attempts: u32, expected: Outcome) {
        let got = judge(&attempt(result, retry_after), &policy(), &so_far(attempts), 0.0);
        assert_eq!(got, expected, "{result:?} {retry_after:?} after {attempts} attempts");
    }

    fn scheduled(after: Duration, reason: Reason) -> Outcome {
        Outcome::Retry { after, reason, charged: true }
    }

    fn paused(after: Duration, charged: bool) -> Outcome {
        Outcome::Retry { after, reason: Reason::Status, charged }
    }

    fn dead(reason: Reason) -> Outcome {
        Outcome::Dead { reason }
    }

    #[test]
    fn every_status_has_its_row() {
        for status in 200..=299 {
            check(AttemptResult::Status(status), None, 0, Outcome::Delivered);
            check(AttemptResult::Status(status), None, 9, Outcome::Delivered);
        }
        check(AttemptResult::Status(410), None, 0, dead(Reason::Gone));
        for status in (0..=199).chain(300..=409).chain(411..=700).chain([u16::MAX]) {
            check(AttemptResult::Status(status), None, 0, scheduled(MINUTE, Reason::Status));
            check(AttemptResult::Status(status), None, 1, scheduled(5 * MINUTE, Reason::Status));
            check(AttemptResult::Status(status), None, 2, dead(Reason::Exhausted));
        }
    }

    #[test]
    fn a_410_to_an_attempt_from_before_the_enabling_is_one_more_failure() {
        let before = SoFar { gone_counts: false, ..so_far(0) };
        let got = judge(&attempt(AttemptResult::Status(410), None), &policy(), &before, 0.0);
        assert_eq!(got, scheduled(MINUTE, Reason::Status));
    }

    #[test]
    fn every_failure_without_a_status_has_its_row() {
        let rows = [
            (AttemptResult::Timeout, Reason::Timeout),
            (AttemptResult::Connect, Reason::Connect),
            (AttemptResult::Reset, Reason::Connect),
            (AttemptResult::Tls, Reason::Tls),
            (AttemptResult::Dns, Reason::Dns),
        ];
        for (result, reason) in rows {
            check(result, None, 0, scheduled(MINUTE, reason));
            check(result, None, 2, dead(Reason::Exhausted));
        }
        check(AttemptResult::Blocked, None, 0, dead(Reason::BlockedAddress));
    }

    #[test]
    fn retry_after_pauses_the_lane() {
        let ten = Some(RetryAfter::After(Duration::from_secs(10)));
        for status in [408, 425, 500, 502, 504, 599] {
            check(AttemptResult::Status(status), ten, 0, paused(Duration::from_secs(10), true));
            check(AttemptResult::Status(status), ten, 2, dead(Reason::Exhausted));
        }
        for status in [429, 503] {
            check(AttemptResult::Status(status), ten, 0, paused(Duration::from_secs(10), false));
            check(AttemptResult::Status(status), ten, 2, paused(Duration::from_secs(10), false));
        }
        for status in [301, 400, 404, 499, 600] {
            check(AttemptResult::Status(status), ten, 0, scheduled(MINUTE, Reason::Status));
        }
        check(AttemptResult::Status(200), ten, 0, Outcome::Delivered);
        check(AttemptResult::Status(410), ten, 0, dead(Reason::Gone));
    }

    #[test]
    fn retry_after_is_cut_and_zero_or_past_means_none() {
        let busy = AttemptResult::Status(503);
        let hour = 60 * MINUTE;
        let plain = scheduled(MINUTE, Reason::Status);
        let rows = [
            (RetryAfter::After(hour), paused(hour, false)),
            (RetryAfter::After(hour + MINUTE), paused(hour, false)),
            (RetryAfter::After(Duration::from_secs(u64::MAX)), paused(hour, false)),
            (RetryAfter::After(Duration::ZERO), plain),
            (RetryAfter::At(NOW + 2500), paused(Duration::from_millis(2500), false)),
            (RetryAfter::At(NOW), plain),
            (RetryAfter::At(NOW - 1), plain),
            (RetryAfter::At(i64::MIN), plain),
            (RetryAfter::At(i64::MAX), paused(hour, false)),
        ];
        for (hint, expected) in rows {
            check(busy, Some(hint), 0, expected);
        }
    }

    #[test]
    fn dead_on_is_final_but_a_range_spares_what_means_later() {
        let judged = |dead_on: &[(u16, u16)], status| {
            let policy = settings::Retry { dead_on: dead_on.to_vec(), ..policy() };
            judge(&attempt(AttemptResult::Status(status), None), &policy, &so_far(0), 0.0)
        };
        let plain = scheduled(MINUTE, Reason::Status);
        let class = [(400, 499)];
        for status in [400, 404, 422, 499] {
            assert_eq!(judged(&class, status), dead(Reason::Rejected), "{status}");
        }
        for status in [408, 425, 429, 500, 302] {
            assert_eq!(judged(&class, status), plain, "{status}");
        }
        assert_eq!(judged(&[(429, 429)], 429), dead(Reason::Rejected));
        assert_eq!(judged(&[(404, 404), (501, 501)], 501), dead(Reason::Rejected));
        assert_eq!(judged(&class, 410), dead(Reason::Gone));
        assert_eq!(judged(&[(200, 299)], 204), Outcome::Delivered);
    }

    #[test]
    fn too_old_is_expired_whether_charged_or_not() {
        let ten = Some(RetryAfter::After(Duration::from_secs(10)));
        let old = |age, attempts| SoFar { attempts, age, now_ms: NOW, gone_counts: true };
        let busy = attempt(AttemptResult::Status(429), ten);
        let broken = attempt(AttemptResult::Status(500), None);
        let (limit, policy) = (policy().max_age, policy());
        for attempt in [&busy, &broken] {
            assert_eq!(judge(attempt, &policy, &old(limit, 0), 0.0), dead(Reason::Expired));
            let young = old(limit - Duration::from_millis(1), 0);
            assert!(matches!(judge(attempt, &policy, &young, 0.0), Outcome::Retry { .. }));
        }
        assert_eq!(judge(&broken, &policy, &old(limit, 2), 0.0), dead(Reason::Exhausted));
        let fine = attempt(AttemptResult::Status(200), None);
        assert_eq!(judge(&fine, &policy, &old(limit, 2), 0.0), Outcome::Delivered);
    }

    #[test]
    fn jitter_only_lengthens_and_leaves_retry_after_alone() {
        let after = |attempt: &Attempt, jitter| match judge(attempt, &policy(), &so_far(0), jitter) {
            Outcome::Retry { after, .. } => after,
            other @ (Outcome::Delivered | Outcome::Dead { .. }) => panic!("{other:?}"),
        };
        let broken = attempt(AttemptResult::Status(500), None);
        assert_eq!(after(&broken, 0.0), MINUTE);
        assert_eq!(after(&broken, 0.5), Duration::from_secs(66));
        assert_eq!(after(&broken, 1.0), Duration::from_secs(72));
        let busy = attempt(AttemptResult::Status(503), Some(RetryAfter::After(Duration::from_secs(10))));
        assert_eq!(after(&busy, 1.0), Duration::from_secs(10));
    }

    #[test]
    fn an_empty_schedule_means_no_retries() {
        let policy = settings::Retry { schedule: vec![], ..policy() };
        let got = judge(&attempt(AttemptResult::Timeout, None), &policy, &so_far(0), 0.0);
        assert_eq!(got, dead(Reason::Exhausted));
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let rows = [
            ("120", Some(RetryAfter::After(Duration::from_secs(120)))),
            (" 0 ", Some(RetryAfter::After(Duration::ZERO))),
            ("99999999999999999999999", Some(RetryAfter::After(Duration::from_secs(u64::MAX)))),
            ("Fri, 31 Dec 1999 23:59:59 GMT", Some(RetryAfter::At(946_684_799_000))),
            ("Friday, 31-Dec-99 23:59:59 GMT", Some(RetryAfter::At(946_684_799_000))),
            ("Fri Dec 31 23:59:59 1999", Some(RetryAfter::At(946_684_799_000))),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ];
        for (text, expected) in rows {
            assert_eq!(RetryAfter::parse(text), expected, "{text:?}");
        }
    }
}
