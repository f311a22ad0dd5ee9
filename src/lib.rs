//! Arauto delivers Kafka events as signed webhooks. Start reading at [`pipeline`].

pub mod admin;
pub mod app;
pub mod cli;
pub mod config {
    //! Configuration.
    pub mod secret;
    pub mod settings;
}
pub mod kafka;
pub mod metrics;
pub mod pipeline;
