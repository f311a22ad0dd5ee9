//! The pipeline: the one page that shows how an event becomes webhooks.
//!
//! ```text
//!             endpoints ····snapshot····┐
//!                                       ▼
//! Kafka ─► source ─► decode ─► route ─► lane ─► sign ─► deliver ─► outcome ─► settle ─┬─► done
//!            │                                                                        ├─► retry topic (tier)
//!            │ opens one ticket per delivery                     settles the ticket    └─► dead-letter topic
//!            └───────────────► ledger ◄───────────────────────────────┘
//!                                 └─► commit ─► Kafka group offsets (+ metadata)
//! ```
//!
//! `Record → Event → Delivery { event, endpoint, ticket } → Attempt → Outcome → (ticket settled)`. A retry topic is a
//! source topic whose records wait until they are due and name their endpoint already: same task, lanes and settling.
//!
//! What people must hear of on the way (a dead letter, an endpoint that fails) is told in passing
//! ([`crate::notices`]), becomes an event of a topic of our own, and goes the same way to whoever asks for it.
//!
//! # Invariants, mostly absences
//!
//! 1. No stage holds a handle to an earlier one. The ticket is the only way back.
//! 2. An offset is committed only when every delivery opened for it, and for all before it, is settled.
//! 3. A retry or dead-letter record is acknowledged by the brokers before its ticket is settled, never after.
//! 4. One endpoint's trouble costs the others its bounded share of the window and nothing else.
//! 5. `decode`, `route`, `sign`, `outcome`, `retry`, `ledger`, `stall`, `state`, `switch` and `marker` read no clock, no
//!    network, no environment.
//! 6. The bytes signed are the bytes sent, and those of the Kafka record.
//! 7. Nothing is dropped silently: every event ends in one counted outcome per matching endpoint.
//! 8. No lock is held across an await; nothing that blocks runs on a runtime worker.
//!
//! # Non-obvious
//!
//! * Partition queues are split before the assignment takes effect. Split afterwards, records that were fetched in
//!   between would arrive on the main queue. librdkafka keeps a forwarding set by the application.
//! * The main queue must be polled although no record arrives on it: rebalances and errors do.
//! * A split queue can miss its wake-up (rust-rdkafka issue 840); an idle one is looked at every second.
//! * Offsets have holes. The watermark steps to the next offset that was *read*. At the end of a partition there is
//!   none; then the client's own position tells, which control records move on unseen (`source.rs`,
//!   `step_over_holes`). An end seen elsewhere must not be trusted: another replica may be behind it.
//! * A partition whose position left the log cannot be sought, only assigned anew, and that only while no rebalance
//!   waits for its answer ([`crate::kafka::consumer::Consumer::restart`]).
//! * A pause outlives the assignment it was made in.
//! * Brokers measure batches, so one record too large takes others with it; only what was refused alone is too large.
//! * A commit that was refused for some of its partitions looks like success; what the brokers have is compared with
//!   what we believe ([`ticket::Partition::compare_committed`]).
//! * Brokers accept a commit of whoever has the right generation, owner of the partition or not: a life of a partition
//!   that has ended is fenced under the lock that makes the list of commits ([`commit`]).
//! * Manual commits refused as stale are not retried by librdkafka ([`commit::Committer::commit_finally`]).
//! * Pausing throws fetched records away. It is used for waits of a minute and more on retry tiers, nowhere else.
//! * A worker of a lane decides to end under the lock that shows it that there is nothing to do; otherwise a delivery
//!   pushed in between would find no worker and start none.
//!
//! # Scale on paper
//!
//! What limits what, from unit costs measured on two cores that broker, receiver and Arauto share (`benches/`; 1 KiB events,
//! one HMAC each), and what follows for 1,000,000 deliveries/s. Nothing of that size has been run.
//!
//! | unit | cost |
//! |---|---|
//! | a delivery, everything included; with 100,000 endpoints instead of one | 18 µs of CPU; 35 µs |
//! | of these: the kernel's TCP | about 6 µs |
//! | sign; route; ledger (open and settle) | 0.9 µs; 0.3 µs; 14 ns |
//! | a trip through a retry tier: written, read, decoded, without its attempt | 11 µs here, about as much at the broker |
//! | an endpoint that does nothing | 0.8 KiB allocated, 3.1 KiB resident after loading |
//! | an instance at rest; its prefetch per busy partition; its window | 25 MiB; 1 MiB; 64 MiB at most |
//!
//! * **One process**: CPU, 28,000 to 55,000 deliveries/s per core. Next the one thread that librdkafka has per broker, which
//!   needs about 1 µs per record.
//! * **One partition**: its one reading task, about 2.5 µs per event; before that its prefetch, 30 MiB/s while the other
//!   partitions of its broker are idle (`kafka/consumer.rs`, `FETCH_WAIT`). Retry tiers have 2 MiB more, together
//!   (`AHEAD_BYTES` there): all retries of an endpoint are in one partition, and come when its events have ceased.
//! * **One endpoint**: its `rate`; then `concurrency` ÷ round trip per instance, 64 at 50 ms are 1,280/s; several instances
//!   multiply both.
//! * **One cluster**: a delivery that succeeds costs it one fetched record and nothing else. Commits: every instance sends
//!   one request per `commit_interval` with all its partitions, a few dozen bytes each, 4 KiB at most. Tiers: below.
//!
//! **1,000,000 deliveries/s over 100,000 endpoints**, ten each per second, one endpoint per event:
//!
//! * CPU 35 s per second; at 60 % of what cores can do, 60 cores: 15 instances of four cores, 17 to lose two.
//! * Partitions: 34 by prefetch alone, 51 for three per instance; 136 let every instance have eight and the group grow.
//! * Memory per instance: 25 + 64 + 8 MiB, 300 MiB of endpoints, and their lanes while they are active: half a GiB.
//! * Network: 1 GiB/s from the cluster, 1.4 GiB/s to the receivers.
//! * Commits: 17 × 10 requests/s; eight partitions each: 5 KiB/s per instance as a rule, 320 KiB/s with full metadata.
//! * With 5 % of the endpoints down, 50,000 deliveries/s take the other way. By the default ladder and schedule each is
//!   written 4.5 times within the first five minutes, 11 times within the first 40 minutes, 50 times within the 28 hours
//!   of the whole schedule. When it has lasted that long, writes come to 2,500,000/s: the tiers, not the deliveries,
//!   are what the cluster has to be built for, and they hold 7 TB. After 40 minutes they are 540,000/s, eight cores of
//!   Arauto and as many of brokers. `disable_after`, and a `410`, end it; a schedule of a few long waits halves it. An open
//!   breaker costs no attempts, but no fewer writes.
//!
//! The next bottleneck is that last one: a wait is composed of tiers from the top down, so one of ten hours with jitter is
//! written eleven times, where a due time rounded to a tier would be written twice.

use std::sync::Arc;

use bytes::Bytes;

use crate::config::settings::Priority;

pub mod assignment;
pub mod attempts;
pub mod commit;
pub mod decode;
pub mod delivery;
pub mod lane;
pub mod ledger;
pub mod marker;
pub mod markers;
pub mod outcome;
pub mod own;
pub mod positions;
pub mod request;
pub mod retry;
pub mod route;
pub mod settle;
pub mod sign;
mod source;
pub mod stall;
pub mod state;
pub mod switch;
pub mod switches;
pub mod ticket;
pub mod window;

/// One Kafka record, its bytes copied out of the client's buffer once and shared from there on.
#[derive(Debug, Clone)]
pub struct Record {
    /// Topic it was read from.
    pub topic: Arc<str>,
    /// Partition it was read from.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in unix milliseconds; -1 when it has none.
    pub timestamp: i64,
    /// Its key, absent when null.
    pub key: Option<Bytes>,
    /// Its value, absent when null (a tombstone).
    pub value: Option<Bytes>,
    /// Its headers, in their order.
    pub headers: Headers,
}

impl Record {
    /// Its bytes: key, value and headers.
    pub fn size(&self) -> usize {
        let bytes = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        bytes(&self.key) + bytes(&self.value) + self.headers.size()
    }
}

/// Kafka headers in their order; names may repeat, values may be null.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(Arc<str>, Option<Bytes>)>);

impl Headers {
    /// Their bytes: names and values.
    pub fn size(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len)).sum()
    }

    /// The last value of a header by its exact name, if it is there and not null.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().rev().find(|(n, _)| &**n == name).and_then(|(_, value)| value.as_ref())
    }

    /// The last value of a header by its name without regard to ASCII case, as UTF-8 text.
    pub fn text_ignore_case(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .and_then(|(_, value)| value.as_ref())
            .and_then(|value| std::str::from_utf8(value).ok())
    }
}

/// One record of a source topic with its facts. A retry record is turned back into the event it carries.
#[derive(Debug, Clone)]
pub struct Event {
    /// Source topic (not the retry topic).
    pub topic: Arc<str>,
    /// Partition of the source topic.
    pub partition: i32,
    /// Offset in the source topic.
    pub offset: i64,
    /// Timestamp in unix milliseconds; -1 when it has none.
    pub timestamp: i64,
    /// The event's key.
    pub key: Option<Bytes>,
    /// The event's value; a webhook's body, byte for byte. Absent for a tombstone.
    pub value: Option<Bytes>,
    /// The event's own headers, without any `arauto-*`.
    pub headers: Headers,
    /// The `webhook-id`: the same on every attempt for every endpoint.
    pub id: Arc<str>,
    /// The event type.
    pub event_type: Arc<str>,
    /// The tenant, if any.
    pub tenant: Option<Arc<str>>,
    /// The priority it asks for itself, if it does.
    pub priority: Option<Priority>,
    /// Is it a notice of our own? Only whoever asks for those gets it.
    pub notice: bool,
}
