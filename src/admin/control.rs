//! What the admin server reaches of the pipeline, which comes into being only some time after the server listens.
//!
//! Filled once, by whoever builds the pipeline. Until then whoever asks is told to ask again.

use std::sync::{Arc, OnceLock};

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{
    pipeline::{lane::lanes::Lanes, switches::Switches},
    registry::Registry,
};

/// The slot; clones share it.
#[derive(Clone, Default)]
pub struct Control(Arc<OnceLock<Parts>>);

/// The parts that can be reached.
pub struct Parts {
    /// The endpoints.
    pub registry: Arc<Registry>,
    /// What is known of them besides their configuration.
    pub switches: Switches,
    /// The lanes.
    pub lanes: Arc<Lanes>,
}

/// There is no pipeline yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotYet;

impl Control {
    /// Nothing can be reached yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The pipeline exists from now on.
    pub fn fill(&self, parts: Parts) {
        // There is one pipeline in the life of a process; a second one would not be the one that was asked first.
        let first = self.0.set(parts).is_ok();
        debug_assert!(first, "one pipeline in the life of a process");
    }

    /// The parts, once there are any.
    pub(super) fn parts(&self) -> Result<&Parts, NotYet> {
        self.0.get().ok_or(NotYet)
    }
}

impl IntoResponse for NotYet {
    fn into_response(self) -> Response {
        let body = json!({ "error": "not started yet: the brokers have not answered so far; ask again" });
        (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
    }
}
