//! What an attempt's result means: one table, pure, every row tested.
//!
//! Never performs I/O and never reads a clock.
#![warn(clippy::wildcard_enum_match_arm)]

use std::time::Duration;

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

/// A `Retry-After` header: either form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// Seconds from the answer.
    After(Duration),
    /// An HTTP date, in unix milliseconds.
    At(i64),
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
        /// Does the receiver ask that the whole lane pauses that long?
        pause_lane: bool,
    },
    /// It will not be tried again by itself.
    Dead {
        /// Why.
        reason: Reason,
    },
}
