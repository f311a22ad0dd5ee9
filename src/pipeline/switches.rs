//! The switches of all endpoints: what the state topic says of them, and the only writer of it here.
//!
//! What is said here takes effect here at once and is written for as long as it takes; whoever has to know that every
//! instance and every restart will know it waits for the brokers. Nothing here holds a lock while it waits.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tracing::{info, warn};
use url::Url;

use super::{
    Headers,
    delivery::now,
    state::Entry,
    switch::{Command, Disabled, Facts, Switch, Why, url_hash},
};
use crate::{
    app::tasks::Tasks,
    kafka::{
        producer::{Outgoing, Producer},
        topics::state_topic,
    },
};

/// Between tries of a record that does not get through.
const BACKOFF: Duration = Duration::from_millis(500);
/// Records written at once; should all endpoints begin to fail, their records take turns.
const AT_ONCE: usize = 100;

/// The switches. Cheap to clone.
#[derive(Clone)]
pub struct Switches(Arc<Inner>);

struct Inner {
    topic: String,
    producer: Producer,
    tasks: Tasks,
    turns: Semaphore,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    facts: Facts,
    /// Endpoints whose lanes and gauges have not been told yet.
    changed: HashSet<String>,
}

impl Switches {
    /// Nothing is known yet. `prefix` is that of our topics.
    pub fn new(prefix: &str, producer: Producer, tasks: Tasks) -> Self {
        let (topic, turns) = (state_topic(prefix), Semaphore::new(AT_ONCE));
        Self(Arc::new(Inner { topic, producer, tasks, turns, known: Mutex::default() }))
    }

    /// What is known of an endpoint.
    pub fn get(&self, id: &str) -> Switch {
        self.known().facts.get(id)
    }

    /// Takes in one record of the state topic; returns what has to be written again.
    pub fn take_in(&self, key: &str, value: Option<&[u8]>) -> Option<Entry> {
        let mut known = self.known();
        let applied = known.facts.apply(key, value);
        known.changed.extend(applied.changed);
        applied.again
    }

    /// The endpoints of which other things are known than when this was asked last.
    pub fn take_changed(&self) -> HashSet<String> {
        std::mem::take(&mut self.known().changed)
    }

    /// Nothing is sent to this URL of the endpoint any more; is that new? Resolves to true when the brokers have it,
    /// after as long as it takes; to false when the process ends before.
    pub fn disable(
        &self,
        id: &str,
        why: Why,
        begun: i64,
        url: &Url,
    ) -> (bool, impl Future<Output = bool> + Send + use<>) {
        warn!(endpoint = id, why = why.as_str(), "endpoint disabled, its deliveries are dead-lettered");
        let disabled = Disabled { why, begun, url: url_hash(url) };
        let mut is_new = false;
        let entry = self.change(id, |facts| {
            is_new = facts.get(id).disabled_for(&disabled.url).is_none();
            facts.disable(id, disabled)
        });
        (is_new, self.write(entry))
    }

    /// Does what an operator says; resolves as [`Switches::disable`] does.
    pub fn command(&self, id: &str, command: Command) -> impl Future<Output = bool> + Send + use<> {
        info!(endpoint = id, ?command, "told by an operator");
        let entry = self.change(id, |facts| facts.command(id, command, now()));
        self.write(entry)
    }

    /// Every attempt has failed since then; written down once. Did nobody know that it fails?
    pub fn note_failing(&self, id: &str, since: i64, url: &Url) -> bool {
        let mut is_new = false;
        self.note(id, |facts| {
            let known = facts.get(id).failing_since(&url_hash(url));
            let entry = facts.fails(id, since, url, now());
            is_new = known.is_none() && entry.is_some();
            entry
        });
        is_new
    }

    /// An attempt succeeded after others had failed; since when, if that was noted down.
    pub fn note_success(&self, id: &str) -> Option<i64> {
        let mut since = None;
        self.note(id, |facts| {
            since = facts.failing_since(id);
            facts.works(id, now())
        });
        since
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Facts) -> Entry) -> Entry {
        let mut known = self.known();
        known.changed.insert(id.to_owned());
        change(&mut known.facts)
    }

    /// Asked with every attempt that fails; nothing is new with all but the first.
    fn note(&self, id: &str, note: impl FnOnce(&mut Facts) -> Option<Entry>) {
        let entry = {
            let mut known = self.known();
            let entry = note(&mut known.facts);
            known.changed.extend(entry.is_some().then(|| id.to_owned()));
            entry
        };
        if let Some(entry) = entry {
            drop(self.write(entry));
        }
    }

    /// Writes a record whether or not anybody waits for it.
    fn write(&self, entry: Entry) -> impl Future<Output = bool> + Send + use<> {
        let switches = self.clone();
        let end = self.0.tasks.token().clone();
        let written = self.0.tasks.spawn("switch", async move {
            end.run_until_cancelled(switches.write_until_acknowledged(entry)).await.is_some()
        });
        async move { written.await.unwrap_or(false) }
    }

    async fn write_until_acknowledged(&self, entry: Entry) {
        let Inner { topic, producer, turns, .. } = &*self.0;
        let _turn = turns.acquire().await.expect("the semaphore is never closed");
        let record = record(topic, entry);
        while let Err(trouble) = producer.send(&record).await {
            warn!(%topic, error = %trouble, "state record not written, trying again");
            tokio::time::sleep(BACKOFF).await;
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A state record on its way.
pub fn record(topic: &str, entry: Entry) -> Outgoing {
    Outgoing {
        topic: topic.to_owned(),
        key: Some(Bytes::from(entry.key)),
        value: Some(Bytes::from(entry.value)),
        headers: Headers::default(),
    }
}
