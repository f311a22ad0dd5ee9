//! Arauto's promises, each proven by one module: a real Kafka broker, real receivers, the real binary.

// All of this is test code; the lint's own exception sees only `#[test]` functions.
#![allow(clippy::unwrap_used)]

mod adaptive;
mod addresses;
mod at_least_once;
mod backfill;
mod backpressure;
mod blocked_many;
mod breaker;
mod broker_restart;
mod cli;
mod config;
mod dead_letter;
mod dependencies;
mod dev;
mod dlq_filters;
mod dlq_marks;
mod dlq_purge;
mod dlq_replay;
mod dlq_round_trip;
mod dlq_show;
mod dlq_terminal;
mod doctor;
mod endpoint_changes;
mod fairness;
mod fan_out_duplicates;
mod few_duplicates;
mod gone;
mod http;
mod isolation;
mod lag;
mod lanes;
mod metrics;
mod ordering;
mod own_queues;
mod paused;
mod poison;
mod positions;
mod priorities;
mod probe;
mod produce_trouble;
mod rate_limit;
mod raw;
mod rebalance;
mod receiver;
mod reload;
mod retries;
mod retries_release;
mod retry_after;
mod rig;
mod shutdown;
mod sign_verify;
mod signing;
mod support;
