//! Build, start, drain: the only part that sees all the others.

pub mod signal;
pub mod tasks;
