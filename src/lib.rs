//! Arauto delivers Kafka events as signed webhooks. Start reading at [`pipeline`].

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod dev;
pub mod doctor;
pub mod http;
pub mod kafka;
pub mod letters;
pub mod log;
pub mod metrics;
pub mod otel;
pub mod pipeline;
pub mod registry;
pub mod replay;
pub mod retries;
pub mod story;
