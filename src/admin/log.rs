//! `GET /log` and `PUT /log`: which levels this instance logs, read and changed while it runs.
//!
//! What is put here holds until the process ends or `log.level` changes in the configuration.

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header::ORIGIN},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use super::FOREIGN;
use crate::log::Log;

/// The longest filter: some hundred modules.
const LONGEST: usize = 4 * 1024;

pub(super) fn routes(log: Log) -> Router {
    let routes = get(async |State(log): State<Log>| shown(&log)).put(put);
    Router::new().route("/log", routes).layer(DefaultBodyLimit::max(LONGEST)).with_state(log)
}

async fn put(State(log): State<Log>, headers: HeaderMap, level: String) -> Response {
    if headers.contains_key(ORIGIN) {
        return (StatusCode::FORBIDDEN, Json(json!({ "error": FOREIGN }))).into_response();
    }
    let level = level.trim();
    match log.set(level) {
        Ok(()) => shown(&log).into_response(),
        Err(wrong) => {
            let error = format!("{level:?} is no filter of levels: {wrong}");
            (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response()
        }
    }
}

fn shown(log: &Log) -> Json<Value> {
    Json(json!({ "level": log.level() }))
}
