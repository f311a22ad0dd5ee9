//! How the process is, as its parts report it: what `/livez` and `/readyz` answer by.
//!
//! *Ready* is whoever delivers: a member of the group, whose brokers answer, whose records they take, and whose work moves.
//! *Alive* is whoever has not stopped in one of its parts, for good and for no reason outside of it. So brokers or
//! receivers that are away make nobody be killed, and what a new start would not mend does not ask for one.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use crate::pipeline::stall::Stalled;

/// Whoever watches the parts looks several times a second; when it has not for so long it has stopped itself.
const WATCHED: Duration = Duration::from_secs(60);
/// So many of the parts that stand still are told.
const TOLD: usize = 10;

/// The state of the process as its parts report it; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    detail: Detail,
    /// Records that are not acknowledged and are tried again.
    troubled: usize,
    /// When the parts were looked at last, and what has stopped.
    looked: Option<(Instant, Option<String>)>,
}

/// The body of `/readyz`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Detail {
    state: Phase,
    /// Member of the group; an instance that got no partition is one too.
    joined: bool,
    brokers: Brokers,
    /// Why records to retry or dead-letter topics are not acknowledged.
    produce_trouble: Option<String>,
    /// What has work, nothing to wait for, and does not move.
    stalled: Vec<String>,
    last_reload: Reload,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Phase {
    Starting,
    Running,
    Stopping,
}

#[derive(Debug, Clone, Serialize)]
struct Brokers {
    reachable: bool,
    detail: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
struct Reload {
    ok: bool,
    /// Why the last configuration read was rejected; the one before it is still in use.
    error: Option<String>,
}

impl Default for Detail {
    fn default() -> Self {
        Self {
            state: Phase::Starting,
            joined: false,
            brokers: Brokers { reachable: false, detail: Some("not connected yet".to_owned()) },
            produce_trouble: None,
            stalled: Vec::new(),
            last_reload: Reload { ok: true, error: None },
        }
    }
}

impl Detail {
    /// Why it is not ready; `None` when it is.
    pub(super) fn obstacle(&self) -> Option<String> {
        let unknown = || "no reason known".to_owned();
        if self.state == Phase::Stopping {
            Some("stopping".to_owned())
        } else if !self.brokers.reachable {
            Some(format!("brokers: {}", self.brokers.detail.clone().unwrap_or_else(unknown)))
        } else if !self.joined {
            Some("not a member of the group".to_owned())
        } else if let Some(trouble) = &self.produce_trouble {
            Some(format!("records are not acknowledged: {trouble}"))
        } else {
            self.stalled.first().map(|stalled| format!("stalled: {stalled}"))
        }
    }
}

impl Health {
    /// A process that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// We are a member of the group, with or without partitions, or are not.
    pub fn joined(&self, joined: bool) {
        let detail = &mut self.lock().detail;
        detail.joined = joined;
        if joined && detail.state == Phase::Starting {
            detail.state = Phase::Running;
        }
    }

    /// The brokers answer, or do not, and why.
    pub fn brokers(&self, reachable: bool, detail: Option<String>) {
        self.lock().detail.brokers = Brokers { reachable, detail };
    }

    /// Did the brokers answer when they were asked last?
    pub fn are_brokers_reachable(&self) -> bool {
        self.lock().detail.brokers.reachable
    }

    /// A record to a retry or dead-letter topic is not acknowledged, as long as what is returned is held.
    pub fn trouble(&self) -> Trouble {
        self.lock().troubled += 1;
        Trouble(self.clone())
    }

    /// This stands still although it has work and nothing to wait for.
    pub fn stalled(&self, stalled: &[Stalled]) {
        self.lock().detail.stalled = stalled.iter().take(TOLD).map(ToString::to_string).collect();
    }

    /// The configuration was read again. A rejected one leaves the process ready: the last good one is in use.
    pub fn reload(&self, result: Result<(), String>) {
        let error = result.err();
        self.lock().detail.last_reload = Reload { ok: error.is_none(), error };
    }

    /// The process stops; it is not ready from now on.
    pub fn stopping(&self) {
        self.lock().detail.state = Phase::Stopping;
    }

    /// The process stops.
    pub fn is_stopping(&self) -> bool {
        self.lock().detail.state == Phase::Stopping
    }

    /// Would `/readyz` say so?
    pub fn is_ready(&self) -> bool {
        self.lock().detail.obstacle().is_none()
    }

    /// In one line, for people.
    pub fn summary(&self) -> String {
        let state = self.lock();
        if let Some((_, Some(stopped))) = &state.looked {
            return format!("not alive: {stopped}");
        }
        match (state.detail.obstacle(), &state.detail.last_reload.error) {
            (Some(obstacle), _) => format!("not ready: {obstacle}"),
            (None, Some(error)) => {
                let first = error.lines().next().unwrap_or_default();
                format!("ready, but the configuration read last was rejected: {first}")
            }
            (None, None) => "ready".to_owned(),
        }
    }

    /// The parts were looked at: has one stopped, and which?
    pub fn looked(&self, stopped: Option<String>, now: Instant) {
        self.lock().looked = Some((now, stopped));
    }

    /// What has stopped, if anything has; also whoever looks at the parts.
    pub fn stopped(&self, now: Instant) -> Option<String> {
        let (at, stopped) = self.lock().looked.clone()?;
        let unwatched = now.duration_since(at) > WATCHED;
        stopped.or_else(|| unwatched.then(|| "nobody looks at the parts any more".to_owned()))
    }

    pub(super) fn detail(&self) -> Detail {
        self.lock().detail.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A record that is not acknowledged and is tried again.
pub struct Trouble(Health);

impl Trouble {
    /// What the last try has led to.
    pub fn is(&self, trouble: String) {
        self.0.lock().detail.produce_trouble = Some(trouble);
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.troubled -= 1;
        if state.troubled == 0 {
            state.detail.produce_trouble = None;
        }
    }
}

impl fmt::Debug for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trouble")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::stall::Part;

    fn running() -> Health {
        let health = Health::new();
        health.brokers(true, None);
        health.joined(true);
        health
    }

    #[test]
    fn each_condition_of_being_ready() {
        type Make = fn(&Health);
        let stalled = |health: &Health| {
            let part = Part::Lane("crm".into());
            health.stalled(&[Stalled { part, still: Duration::from_secs(61), waiting: 2 }]);
        };
        let rows: [(Make, &str); 9] = [
            (|_| {}, "ready"),
            (|health| health.joined(false), "not ready: not a member of the group"),
            (|health| health.brokers(false, Some("timed out".to_owned())), "not ready: brokers: timed out"),
            (stalled, "not ready: stalled: sending to crm: 2 waiting, nothing has moved for 61 s"),
            (|health| health.stopping(), "not ready: stopping"),
            (
                |health| health.reload(Err("a.toml:1:1: no\nand more".to_owned())),
                "ready, but the configuration read last was rejected: a.toml:1:1: no",
            ),
            (|health| health.looked(None, Instant::now()), "ready"),
            (
                |health| health.looked(Some("the runtime".to_owned()), Instant::now()),
                "not alive: the runtime",
            ),
            (
                |health| {
                    health.stalled(&[]);
                    health.joined(true);
                },
                "ready",
            ),
        ];
        for (make, expected) in rows {
            let health = running();
            make(&health);
            assert_eq!(health.summary(), expected);
            assert_eq!(health.is_ready(), !expected.starts_with("not ready"), "{expected}");
        }
        assert_eq!(Health::new().summary(), "not ready: brokers: not connected yet");
    }

    #[test]
    fn records_in_trouble_are_told_until_the_last_of_them_is_out_of_it() {
        let health = running();
        let (one, two) = (health.trouble(), health.trouble());
        one.is("arauto.dead: refused".to_owned());
        assert!(!health.is_ready());
        two.is("arauto.retry.5s: refused".to_owned());
        drop(two);
        assert!(!health.is_ready(), "one is still not acknowledged");
        drop(one);
        assert!(health.is_ready());
    }

    #[test]
    fn what_has_stopped_is_told_and_so_is_that_nobody_looks() {
        let (health, now) = (Health::new(), Instant::now());
        assert_eq!(health.stopped(now), None, "nobody has begun to look");
        health.looked(None, now);
        assert_eq!(health.stopped(now + WATCHED), None);
        let later = now + WATCHED + Duration::from_secs(1);
        assert_eq!(health.stopped(later).as_deref(), Some("nobody looks at the parts any more"));
        health.looked(Some("the polling thread".to_owned()), now);
        assert_eq!(health.stopped(now).as_deref(), Some("the polling thread"));
    }
}
