//! `[kafka.properties]`: which librdkafka properties may not be set, because what we promise stands on them.
//!
//! Whether a name exists at all only the client can say, at start.
//! <https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md>

use super::super::{
    mistake::Report,
    secret::Secret,
    written::{Key, Written},
};

/// Refused properties, and what to do instead.
const REFUSED: [(&str, &str); 37] = [
    ("bootstrap.servers", "set kafka.brokers"),
    ("metadata.broker.list", "set kafka.brokers"),
    ("group.id", "set kafka.group"),
    ("group.protocol", "set kafka.protocol"),
    ("group.protocol.type", "set kafka.protocol"),
    ("group.remote.assignor", "set kafka.protocol"),
    ("partition.assignment.strategy", "set kafka.protocol"),
    ("auto.offset.reset", "set kafka.start"),
    ("enable.auto.commit", "set limits.commit_interval"),
    ("auto.commit.enable", "set limits.commit_interval"),
    ("auto.commit.interval.ms", "set limits.commit_interval"),
    ("queued.max.messages.kbytes", "set limits.prefetch"),
    ("queued.min.messages", "set limits.prefetch"),
    ("fetch.message.max.bytes", "set limits.prefetch"),
    ("max.partition.fetch.bytes", "set limits.prefetch"),
    ("fetch.max.bytes", "set limits.prefetch"),
    ("fetch.queue.backoff.ms", "set limits.prefetch"),
    ("enable.auto.offset.store", UNSETTLED),
    ("offset.store.method", UNSETTLED),
    ("offset.store.path", UNSETTLED),
    ("offset.store.sync.interval.ms", UNSETTLED),
    ("isolation.level", "remove it: only committed records are read"),
    ("enable.partition.eof", "remove it: the ledger needs to know where a partition ends"),
    ("allow.auto.create.topics", "remove it: topics.create is for our own topics, others must exist"),
    ("statistics.interval.ms", "remove it: what the clients tell of themselves is shown by /metrics"),
    ("enable.idempotence", ACKNOWLEDGED),
    ("enable.gapless.guarantee", ACKNOWLEDGED),
    ("acks", ACKNOWLEDGED),
    ("request.required.acks", ACKNOWLEDGED),
    ("max.in.flight", ACKNOWLEDGED),
    ("max.in.flight.requests.per.connection", ACKNOWLEDGED),
    ("retries", ACKNOWLEDGED),
    ("message.send.max.retries", ACKNOWLEDGED),
    ("queuing.strategy", ACKNOWLEDGED),
    ("delivery.report.only.error", ACKNOWLEDGED),
    ("transactional.id", ACKNOWLEDGED),
    ("transaction.timeout.ms", ACKNOWLEDGED),
];

const UNSETTLED: &str = "remove it: an offset is committed only when its deliveries are settled";
const ACKNOWLEDGED: &str =
    "remove it: retry and dead-letter records are written idempotently and acknowledged by all replicas";

/// The properties to pass through.
pub(super) fn all(
    written: &Key<Vec<(Written<String>, Secret)>>,
    report: &mut Report,
) -> Vec<(String, Secret)> {
    let mut kept: Vec<(String, Secret)> = Vec::new();
    for (name, value) in written.set().into_iter().flat_map(|w| &w.value) {
        if let Some((_, help)) = REFUSED.iter().find(|(refused, _)| *refused == name.value) {
            report.add(name.place, format!("{:?} may not be set in [kafka.properties]", name.value), *help);
        } else if kept.iter().any(|(other, _)| *other == name.value) {
            let message = format!("{:?} stands in [kafka.properties] twice", name.value);
            report.add(name.place, message, "remove one of them");
        } else {
            kept.push((name.value.clone(), value.clone()));
        }
    }
    kept
}
