//! Arauto's promises, each proven by one module: a real Kafka broker, real receivers, the real binary.

// All of this is test code; the lint's own exception sees only `#[test]` functions.
#![allow(clippy::unwrap_used)]

mod addresses;
mod at_least_once;
mod config;
mod dependencies;
mod few_duplicates;
mod http;
mod raw;
mod rebalance;
mod receiver;
mod retries;
mod rig;
mod shutdown;
mod signing;
mod support;
