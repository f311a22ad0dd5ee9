//! Behaviour, against real sockets and real brokers: one module per promise.
#![allow(clippy::unwrap_used)] // Clippy spares tests but not the functions they share.

mod addresses;
mod http;
mod raw;
mod receiver;
mod signing;
