//! Arauto delivers Kafka events as signed webhooks. Start reading at [`pipeline`].

pub mod config;
pub mod pipeline;
