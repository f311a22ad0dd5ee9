//! placeholder
use serde::{Deserialize, Serialize};
/// One active lane as `/lanes` shows it. Times are unix milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Report {
    pub endpoint: String,
    pub queued: usize,
    pub waiting: usize,
    pub in_flight: usize,
    pub limit: usize,
    pub concurrency: usize,
    pub rate: f64,
    pub rate_limit: Option<f64>,
    pub breaker: Breaker,
    pub next_probe: Option<i64>,
    pub paused: bool,
    pub paused_until: Option<i64>,
    pub disabled: Option<String>,
    pub cursor: Option<i64>,
    pub last_error: Option<String>,
}
/// x
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Breaker {
    Closed,
    Probing,
    Open,
}
