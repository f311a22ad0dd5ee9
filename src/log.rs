//! The log of a running process: which levels are written, and that repeated warnings are told once.
//!
//! Knows neither the writer nor the format; whoever sets logging up takes the [`Filter`] and the [`Repeats`] in.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::{info, warn};
use tracing_subscriber::{
    EnvFilter, Registry,
    reload::{self, Handle},
};

pub use self::repeats::Repeats;
use crate::config::level;

mod repeats;

/// Between looks for warnings that were left out; what is told may be that late.
const LOOK: Duration = Duration::from_secs(1);

/// The layer that decides by level and module; what it leaves out costs one look at a cached answer.
pub type Filter = reload::Layer<EnvFilter, Registry>;

/// How the log is told to write other levels, while everything runs. Cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    filter: Handle<EnvFilter, Registry>,
    level: Mutex<String>,
    repeats: Repeats,
}

impl Log {
    /// A log that begins with these levels, and what has to be made part of the subscriber.
    pub fn new(level: &str) -> Result<(Self, Filter, Repeats), level::Wrong> {
        let (layer, filter) = reload::Layer::new(level::parse(level)?);
        let repeats = Repeats::default();
        let inner = Inner { filter, level: Mutex::new(level.to_owned()), repeats: repeats.clone() };
        Ok((Self(Arc::new(inner)), layer, repeats))
    }

    /// The levels written now, as a filter.
    pub fn level(&self) -> String {
        self.lock().clone()
    }

    /// Writes other levels from now on. What librdkafka itself logs was decided when its clients were made.
    pub fn set(&self, level: &str) -> Result<(), level::Wrong> {
        let filter = level::parse(level)?;
        let mut current = self.lock();
        // Told before and after, so that one of the lines is written whichever way it changes.
        info!(before = *current, after = level, "log level changes");
        if let Err(error) = self.0.filter.reload(filter) {
            // Nobody logs, so nobody reads this.
            warn!(%error, "log level not changed");
        }
        info!(level, "log level changed");
        level.clone_into(&mut current);
        Ok(())
    }

    /// Tells for ever how many warnings were left out, when they have ceased or gone on for a while.
    pub async fn keep_telling(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.0.repeats.tell(false);
        }
    }

    /// Tells how many were left out so far: nobody will later.
    pub fn tell_all(&self) {
        self.0.repeats.tell(true);
    }

    fn lock(&self) -> MutexGuard<'_, String> {
        self.0.level.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_none_changes_nothing() {
        let (log, _filter, _) = Log::new("info").unwrap();
        assert_eq!(log.set("inof"), Err(level::Wrong::Near("info")));
        assert_eq!(log.level(), "info");
        log.set("arauto=debug").unwrap();
        assert_eq!(log.level(), "arauto=debug");
        assert!(Log::new("loud").is_err());
    }
}
