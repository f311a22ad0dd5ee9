//! The commands. The only place besides `app` that prints or uses `anyhow`.

pub mod listen;
