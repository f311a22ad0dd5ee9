//! Arauto's promises, each proven by one module: a real Kafka broker, real receivers, the real binary.

// All of this is test code; the lint's own exception sees only `#[test]` functions.
#![allow(clippy::unwrap_used)]

mod config;
mod dependencies;
mod rig;
mod support;
