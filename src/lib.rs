//! Arauto delivers Kafka events as signed webhooks. Start reading at [`pipeline`].

pub mod config {
    //! Configuration.
    pub mod secret;
    pub mod settings;
}
pub mod pipeline;
pub mod registry;
pub mod kafka {
    //! Everything Kafka.
    pub mod headers;
}
pub mod cli {
    //! The commands.
    pub mod check;
}
