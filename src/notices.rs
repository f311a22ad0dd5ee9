//! Notices: what people must hear of is an event too, on a topic of our own that endpoints may subscribe to.
//!
//! Whoever has something to tell does so in passing: nothing here waits, and a notice that cannot be written costs no
//! delivery anything. How few there are decides `limit.rs`. Trouble with the delivery of notices makes none: a
//! receiver of notices that fails would hear of itself for ever.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tracing::{debug, warn};

pub use self::notice::{DeadDelivery, Facts, Kind};
use self::{limit::Limiter, notice::Notice};
use crate::{
    config::settings::{Endpoint, TopicSelector},
    kafka::{
        producer::{Outgoing, Producer},
        topics::notices_topic,
    },
    metrics::{Metrics, Noticed},
    pipeline::{
        Headers,
        delivery::{millis, now},
    },
    registry::Registry,
};

mod limit;
mod notice;

/// What the time has come for is looked for this often.
const LOOK: Duration = Duration::from_secs(1);

/// The same that retry records and dead letters carry.
const EXCERPT: usize = 512;

/// How a notice is told from other records: <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>.
const CONTENT_TYPE: &[u8] = b"application/cloudevents+json; charset=utf-8";

/// Where notices are told, if they are wanted. Cheap to clone.
#[derive(Clone, Default)]
pub struct Notices(Option<Arc<Inner>>);

/// What [`Notices`] are made of.
pub struct Options {
    /// Prefix of our topics.
    pub prefix: String,
    /// Our group.
    pub group: String,
    /// About the same thing at most one in this time.
    pub repeat: Duration,
    /// Writes them.
    pub producer: Producer,
    /// Knows whose endpoint it is about.
    pub registry: Arc<Registry>,
    /// Where they are counted.
    pub metrics: Metrics,
}

struct Inner {
    topic: String,
    source: String,
    /// Another one in each process.
    instance: u64,
    written: AtomicU64,
    limiter: Mutex<Limiter>,
    producer: Producer,
    registry: Arc<Registry>,
    metrics: Metrics,
}

impl Notices {
    /// Notices are wanted.
    pub fn new(options: Options) -> Self {
        let Options { prefix, group, repeat, producer, registry, metrics } = options;
        metrics.begin_notices();
        Self(Some(Arc::new(Inner {
            topic: notices_topic(&prefix),
            source: format!("arauto/{}", escaped(&group)),
            instance: getrandom::u64().unwrap_or_else(|_| now().unsigned_abs()),
            written: AtomicU64::new(0),
            limiter: Mutex::new(Limiter::new(millis(repeat))),
            producer,
            registry,
            metrics,
        })))
    }

    /// Something happened to an endpoint. `facts` is asked only if somebody wants to know.
    pub fn tell(&self, kind: Kind, endpoint: &str, facts: impl FnOnce() -> Facts) {
        let Some(inner) = &self.0 else { return };
        let snapshot = inner.registry.snapshot();
        let known = snapshot.by_id(endpoint);
        if known.is_some_and(|endpoint| inner.gets_notices_only(endpoint)) {
            return self.suppress(kind);
        }
        let tenant = known.and_then(|endpoint| endpoint.tenant.as_deref()).map(Arc::from);
        let (facts, at) = (facts(), now());
        let endpoint = Some(known.map_or_else(|| endpoint.into(), |known| Arc::clone(&known.id)));
        let notice = Notice { kind, endpoint, tenant, facts, count: 1, endpoints: None, at };
        let told = inner.limiter().offer(notice, at);
        match told {
            Some(notice) => inner.write(notice),
            None => self.suppress(kind),
        }
    }

    /// Something happened with the delivery of a notice.
    pub fn suppress(&self, kind: Kind) {
        self.0.iter().for_each(|inner| inner.metrics.noticed(kind, Noticed::Suppressed));
    }

    /// Tells what was left out when its time has come, for ever.
    pub async fn run(self) {
        let Some(inner) = self.0 else { return };
        loop {
            tokio::time::sleep(LOOK).await;
            let due = inner.limiter().due(now());
            due.into_iter().for_each(|notice| inner.write(notice));
        }
    }

    /// The process ends: what was left out is told now, and has so long to get through. Blocks its thread.
    pub fn end(&self, longest: Duration) {
        let Some(inner) = &self.0 else { return };
        let left_out = inner.limiter().end(now());
        left_out.into_iter().for_each(|notice| inner.write(notice));
        if let Err(error) = inner.producer.flush(longest) {
            debug!(%error, "not every notice got through in time");
        }
    }
}

impl Inner {
    fn write(self: &Arc<Self>, notice: Notice) {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:016x}-{number}", self.instance);
        let record = Outgoing {
            topic: self.topic.clone(),
            key: notice.endpoint.as_ref().map(|endpoint| Bytes::copy_from_slice(endpoint.as_bytes())),
            value: Some(notice.event(&self.source, &id).into()),
            headers: Headers(vec![("content-type".into(), Some(Bytes::from_static(CONTENT_TYPE)))]),
        };
        let inner = Arc::clone(self);
        self.producer.begin_then(&record, move |sent| match sent {
            Ok(_) => inner.metrics.noticed(notice.kind, Noticed::Ok),
            Err(error) => {
                let (topic, kind) = (&inner.topic, notice.kind.as_str());
                warn!(%topic, kind, %error, "notice not written, it is told with the next one");
                inner.metrics.noticed(notice.kind, Noticed::Error);
                inner.limiter().take_back(notice, now());
            }
        });
    }

    fn gets_notices_only(&self, endpoint: &Endpoint) -> bool {
        let is_notices =
            |topic: &TopicSelector| matches!(topic, TopicSelector::Name(name) if *name == self.topic);
        endpoint.topics.as_ref().is_some_and(|topics| topics.iter().all(is_notices))
    }

    fn limiter(&self) -> MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As much of an error as a notice tells; nothing of none.
pub fn excerpt(error: &str) -> Option<String> {
    (!error.is_empty()).then(|| error[..error.floor_char_boundary(EXCERPT)].to_owned())
}

/// A group's name as a segment of a URI reference (RFC 3986).
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_uri_reference() {
        for (name, expected) in [("shop.eu-1_a~b", "shop.eu-1_a~b"), ("my group/é", "my%20group%2F%C3%A9")] {
            assert_eq!(escaped(name), expected);
        }
    }
}
