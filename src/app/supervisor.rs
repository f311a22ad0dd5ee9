//! What the service manager that started us is told (systemd's `sd_notify` protocol); nothing when there is none.
//!
//! <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>. It decides nothing: whoever watches the parts
//! says what is to be said.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sd_notify::NotifyState;
use tracing::debug;

/// Tells a supervisor how we are. Clones tell the same one.
#[derive(Debug, Clone)]
pub(super) struct Supervisor(Arc<Said>);

#[derive(Debug)]
struct Said {
    /// Is there a supervisor?
    there: bool,
    every: Option<Duration>,
    ready: AtomicBool,
    status: Mutex<String>,
}

impl Supervisor {
    /// Nothing was said yet.
    pub(super) fn new() -> Self {
        let every = sd_notify::watchdog_enabled().map(|longest| longest / 2);
        let there = std::env::var_os("NOTIFY_SOCKET").is_some();
        Self(Arc::new(Said { there, every, ready: AtomicBool::new(false), status: Mutex::default() }))
    }

    /// How often it wants to hear that we are alive: twice in the time after which it gives us up.
    pub(super) fn every(&self) -> Option<Duration> {
        self.0.every
    }

    /// We are ready; said once.
    pub(super) fn ready(&self) {
        if !self.0.ready.swap(true, Ordering::AcqRel) {
            self.tell(&[NotifyState::Ready]);
        }
    }

    /// How we are, in one line; said when it has changed.
    pub(super) fn status(&self, status: &str) {
        let mut said = self.0.status.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != status {
            self.tell(&[NotifyState::Status(status)]);
            status.clone_into(&mut said);
        }
    }

    /// The configuration is being read again, until what is returned is dropped.
    pub(super) fn reloading(&self) -> Reloading {
        // Before we are ready a second "ready" would be the first one.
        let ready = self.0.ready.load(Ordering::Acquire);
        if ready {
            match NotifyState::monotonic_usec_now() {
                Ok(now) => self.tell(&[NotifyState::Reloading, now]),
                Err(error) => debug!(%error, "no monotonic clock, the supervisor is not told of a reload"),
            }
        }
        Reloading(ready.then(|| self.clone()))
    }

    /// We stop.
    pub(super) fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// We are alive.
    pub(super) fn alive(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    fn tell(&self, state: &[NotifyState<'_>]) {
        if !self.0.there {
            return;
        }
        let told: io::Result<()> = sd_notify::notify(state);
        if let Err(error) = told {
            // It notices by itself what it is not told, and there is nobody else to tell.
            debug!(%error, ?state, "the supervisor could not be told");
        }
    }
}

/// The configuration is being read again.
#[derive(Debug)]
pub(super) struct Reloading(Option<Supervisor>);

impl Drop for Reloading {
    fn drop(&mut self) {
        self.0.iter().for_each(|supervisor| supervisor.tell(&[NotifyState::Ready]));
    }
}
