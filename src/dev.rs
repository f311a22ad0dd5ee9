//! What `arauto dev`, `arauto listen`, the tests and the benches share. No delivery goes through here.

pub mod broker;
pub mod receiver;
pub mod sample;
pub mod script;
