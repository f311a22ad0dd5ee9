//! `POST /endpoints/{id}/enable`, `pause` and `resume`: an operator's word, which every instance hears.
//!
//! Answered when the brokers have it, with how the endpoint stands then.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header::ORIGIN},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::json;
use tokio::time::timeout;

use super::{
    FOREIGN,
    control::{Control, NotYet},
};
use crate::{
    config::read::nearest,
    pipeline::switch::{Command, report::Report},
};

/// How long the brokers may take to acknowledge; the producer itself gives a try up after this long.
const ACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Why a word is not acted upon.
enum Refusal {
    NotYet(NotYet),
    /// From a page in a browser.
    Foreign,
    /// No such endpoint; perhaps another one is meant.
    Unknown(String, Option<String>),
    /// It could not take effect, and what to do instead.
    InVain(String, &'static str),
    /// It takes effect here, and the brokers do not have it yet.
    Unacknowledged,
}

pub(super) fn routes(control: Control) -> Router {
    let told = |command| {
        post(async move |State(control): State<Control>, Path(id): Path<String>, headers: HeaderMap| {
            tell(&control, &id, command, &headers).await
        })
    };
    Router::new()
        .route("/endpoints/{id}/enable", told(Command::Enable))
        .route("/endpoints/{id}/pause", told(Command::Pause))
        .route("/endpoints/{id}/resume", told(Command::Resume))
        .with_state(control)
}

async fn tell(
    control: &Control,
    id: &str,
    command: Command,
    headers: &HeaderMap,
) -> Result<Json<Report>, Refusal> {
    if headers.contains_key(ORIGIN) {
        return Err(Refusal::Foreign);
    }
    let parts = control.parts().map_err(Refusal::NotYet)?;
    let snapshot = parts.registry.snapshot();
    let Some(endpoint) = snapshot.by_id(id) else {
        let near = nearest(id, snapshot.endpoints().iter().map(|endpoint| &*endpoint.id));
        return Err(Refusal::Unknown(id.to_owned(), near.map(str::to_owned)));
    };
    if let Some(why) = command.refused(endpoint) {
        return Err(Refusal::InVain(id.to_owned(), why));
    }
    let written = parts.switches.command(id, command);
    parts.lanes.switched(id);
    match timeout(ACKNOWLEDGED, written).await {
        Ok(true) => Ok(Json(Report::new(endpoint, &parts.switches.get(id)))),
        Ok(false) | Err(_) => Err(Refusal::Unacknowledged),
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Self::NotYet(not_yet) => return not_yet.into_response(),
            Self::Foreign => (StatusCode::FORBIDDEN, FOREIGN.to_owned()),
            Self::Unknown(id, None) => (StatusCode::NOT_FOUND, format!("there is no endpoint {id:?}")),
            Self::Unknown(id, Some(near)) => {
                (StatusCode::NOT_FOUND, format!("there is no endpoint {id:?}; did you mean {near:?}?"))
            }
            Self::InVain(id, why) => (StatusCode::CONFLICT, format!("{id} stays as it is: {why}")),
            Self::Unacknowledged => {
                let error = "the brokers have not acknowledged it yet: it is in effect on this instance only, which \
                             goes on trying to write it down until it ends";
                (StatusCode::SERVICE_UNAVAILABLE, error.to_owned())
            }
        };
        (status, Json(json!({ "error": error }))).into_response()
    }
}
