//! Arauto delivers Kafka events as signed webhooks. Start reading at [`pipeline`].

pub mod config {
    //! Configuration.
    pub mod secret;
    pub mod settings;
}
pub mod cli;
pub mod dev;
pub mod http;
pub mod pipeline;
