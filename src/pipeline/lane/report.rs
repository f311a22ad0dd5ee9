//! How one lane stands, for people who look: the body of `/lanes`, and which of them are in trouble.
//!
//! Plain values. Times are unix milliseconds by the clock of the instance that reports.

use std::{cmp::Reverse, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Lane;
use crate::pipeline::{
    delivery::now,
    stall::{Part, Sight},
    switch::url_hash,
};

/// All active lanes, those in trouble first: the body of `/lanes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reports {
    /// When they stood so.
    pub at: i64,
    /// The lanes; whoever does nothing and has no trouble is not among them.
    pub lanes: Vec<Report>,
}

/// One lane. Times are unix milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The endpoint's id.
    pub endpoint: String,
    /// Deliveries that could go now, or when those before them have gone.
    pub queued: usize,
    /// Deliveries held in memory until they are due.
    pub waiting: usize,
    /// Attempts under way.
    pub in_flight: usize,
    /// Attempts that may be under way at once, as things are.
    pub limit: usize,
    /// Attempts that may be under way at once at most, as configured.
    pub concurrency: usize,
    /// Deliveries per second that arrived lately.
    pub rate: f64,
    /// Deliveries per second at most, as configured; absent when unlimited.
    pub rate_limit: Option<f64>,
    /// The breaker's state.
    pub breaker: Breaker,
    /// When the next delivery may go, while the breaker is not closed.
    pub next_probe: Option<i64>,
    /// Is nothing sent until the configuration or an operator says so?
    pub paused: bool,
    /// The receiver asked for a pause until then.
    pub paused_until: Option<i64>,
    /// Why nothing is sent and everything is dead-lettered: `gone` or `failing`.
    pub disabled: Option<String>,
    /// The last slot reserved for what was parked, while no later look showed that it lies too far ahead.
    pub cursor: Option<i64>,
    /// Since when every attempt has failed.
    pub failing_since: Option<i64>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Events its own queue has not settled, in the partitions this instance reads; absent without an own queue.
    pub own_queue_lag: Option<i64>,
}

/// A breaker's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Breaker {
    /// Everything goes.
    Closed,
    /// One at a time goes, to see.
    Probing,
    /// Nothing goes.
    Open,
}

/// What is the matter with a lane, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Everything is dead-lettered.
    Disabled,
    /// The breaker is open.
    Open,
    /// The breaker lets single ones through, to see.
    Probing,
    /// Nothing is sent until somebody says so.
    Paused,
    /// The receiver asked for a pause.
    AskedToWait,
    /// The last attempt failed, or many did before.
    Failing,
    /// Nothing.
    None,
}

impl Lane {
    /// How it stands; `None` when it does nothing and nothing is the matter with it.
    pub(super) fn report(&self) -> Option<Report> {
        let runtime = self.runtime.load();
        let mut state = self.lock();
        let now = now();
        let url = url_hash(&runtime.endpoint.url);
        let switch = self.shared.switches.get(&self.id);
        let report = Report {
            endpoint: self.id.to_string(),
            queued: state.core.queue.ready() + state.core.order.behind(),
            waiting: state.core.queue.waiting(),
            in_flight: state.core.in_flight,
            limit: state.core.limit.current(),
            concurrency: runtime.endpoint.concurrency,
            rate: state.core.pace.rate(now),
            rate_limit: runtime.endpoint.rate.map(|rate| 1.0 / rate.interval().as_secs_f64()),
            breaker: match state.core.breaker.level() {
                0 => Breaker::Closed,
                1 => Breaker::Probing,
                _ => Breaker::Open,
            },
            next_probe: state.core.breaker.next_probe(now),
            paused: state.core.paused,
            paused_until: Some(state.core.paused_until).filter(|until| *until > now),
            disabled: switch.disabled_for(&url).map(|disabled| disabled.why.as_str().to_owned()),
            cursor: state.core.pace.cursor(now),
            failing_since: state.core.failing_since,
            last_error: state.core.last_error.clone(),
            own_queue_lag: None,
        };
        (state.core.held() > 0 || state.core.disabled || !state.core.is_quiet(now)).then_some(report)
    }
}

impl Lane {
    /// How it stands, while it has something to do that nothing holds back.
    pub(super) fn sight(&self) -> Option<Sight> {
        let endpoint = self.endpoint();
        let state = self.lock();
        let core = &state.core;
        core.could_go_on(&endpoint, now()).then(|| Sight {
            part: Part::Lane(Arc::clone(&self.id)),
            progress: core.moves,
            waiting: (core.queue.ready() + core.order.behind() + core.in_flight) as u64,
            // An attempt that is under way ends within this.
            may_take: endpoint.timeout,
        })
    }
}

impl Report {
    /// What is the matter with it.
    pub fn trouble(&self) -> Trouble {
        if self.disabled.is_some() {
            Trouble::Disabled
        } else if self.breaker == Breaker::Open {
            Trouble::Open
        } else if self.breaker == Breaker::Probing {
            Trouble::Probing
        } else if self.paused {
            Trouble::Paused
        } else if self.paused_until.is_some() {
            Trouble::AskedToWait
        } else if self.failing_since.is_some() {
            Trouble::Failing
        } else {
            Trouble::None
        }
    }

    /// What it holds and what is under way.
    pub fn held(&self) -> usize {
        self.queued + self.waiting + self.in_flight
    }
}

/// The worst first; among equals whoever holds more, then by name.
pub fn sort(reports: &mut [Report]) {
    reports.sort_by(|a, b| {
        let rank = |report: &Report| (report.trouble(), Reverse(report.held()));
        rank(a).cmp(&rank(b)).then_with(|| a.endpoint.cmp(&b.endpoint))
    });
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A lane that does nothing and has no trouble.
    pub(crate) fn lane(endpoint: &str) -> Report {
        Report {
            endpoint: endpoint.to_owned(),
            queued: 0,
            waiting: 0,
            in_flight: 0,
            limit: 1,
            concurrency: 64,
            rate: 0.0,
            rate_limit: None,
            breaker: Breaker::Closed,
            next_probe: None,
            paused: false,
            paused_until: None,
            disabled: None,
            cursor: None,
            failing_since: None,
            last_error: None,
            own_queue_lag: None,
        }
    }

    #[test]
    fn the_worst_come_first_and_then_the_fullest() {
        let expected = [
            Report { disabled: Some("gone".to_owned()), paused: true, ..lane("gone") },
            Report { breaker: Breaker::Open, paused: true, ..lane("open") },
            Report { breaker: Breaker::Probing, failing_since: Some(1), ..lane("probing") },
            Report { paused: true, queued: 9, ..lane("paused") },
            Report { paused: true, queued: 1, ..lane("paused and emptier") },
            Report { paused_until: Some(1), ..lane("asked to wait") },
            Report { failing_since: Some(1), ..lane("failing") },
            Report { queued: 5, last_error: Some("long ago".to_owned()), ..lane("busy") },
            Report { in_flight: 2, waiting: 2, ..lane("less busy") },
            lane("a"),
            lane("b"),
        ];
        let mut sorted = expected.clone();
        sorted.reverse();
        sort(&mut sorted);
        assert_eq!(sorted, expected);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let reports = Reports {
            at: 1_700_000_000_000,
            lanes: vec![Report { rate_limit: Some(50.0), breaker: Breaker::Open, ..lane("crm") }],
        };
        let text = serde_json::to_string(&reports).unwrap();
        assert!(text.contains(r#""breaker":"open""#), "{text}");
        assert_eq!(serde_json::from_str::<Reports>(&text).unwrap(), reports);
    }
}
