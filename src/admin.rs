//! The admin server: `/livez`, `/readyz`, `/metrics`, `/lanes`, `/log`, and an operator's word to `/endpoints/{id}`.
//!
//! It shows what other parts report and what is counted, for which it never asks Kafka or an endpoint anything, so a
//! probe is answered at once whatever is wrong.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde::Serialize;
use tokio::{
    net::TcpListener,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use self::{
    control::{Control, NotYet},
    health::{Detail, Health},
};
use crate::{
    log::Log,
    metrics::{self, Metrics},
    pipeline::{
        delivery::now,
        lane::report::{self, Reports},
    },
};

pub mod control;
mod endpoints;
pub mod health;
mod log;

/// Whoever can read this port must not be made to change what is behind it.
const FOREIGN: &str = "requests of pages in a browser (with an Origin) are refused";

/// How long connections may take to end once the server is told to stop. A scrape takes milliseconds; a client that
/// holds its connection open must not hold the process.
const LINGER: Duration = Duration::from_secs(1);

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}")]
    Bind {
        /// Where it should have listened.
        address: SocketAddr,
        /// Why it could not.
        source: io::Error,
    },
    /// Accepting connections failed.
    #[error("the admin server failed")]
    Serve(#[source] io::Error),
}

/// A bound admin server.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    router: Router,
}

impl Server {
    /// Binds; the address is the one bound, with the port the system chose for port 0.
    pub async fn bind(
        address: SocketAddr,
        metrics: Metrics,
        health: Health,
        (control, log): (Control, Log),
    ) -> Result<(Self, SocketAddr), Error> {
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = bound.await.map_err(|source| Error::Bind { address, source })?;
        info!(%address, "admin listening");
        Ok((Self { listener, router: router(metrics, health, control, log) }, address))
    }

    /// Serves until `stop`, then lets answers under way finish.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
        let (stopped, stopping) = tokio::sync::oneshot::channel::<()>();
        let stop = async move {
            stop.await;
            drop(stopped);
        };
        let serve = axum::serve(self.listener, self.router).with_graceful_shutdown(stop).into_future();
        tokio::pin!(serve);
        tokio::select! {
            result = &mut serve => result.map_err(Error::Serve),
            _ = stopping => match timeout(LINGER, serve).await {
                Ok(result) => result.map_err(Error::Serve),
                Err(_) => {
                    warn!("admin connections were still open at the end");
                    Ok(())
                }
            }
        }
    }
}

fn router(metrics: Metrics, health: Health, control: Control, log: Log) -> Router {
    let content_type = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
    Router::new()
        .route("/livez", get(livez).with_state(health.clone()))
        .route("/readyz", get(readyz).with_state(health))
        .route("/lanes", get(lanes).with_state(control.clone()))
        .route("/metrics", get(async move |State(metrics): State<Metrics>| (content_type, metrics.render())))
        .with_state(metrics)
        .merge(endpoints::routes(control))
        .merge(log::routes(log))
}

async fn livez(State(health): State<Health>) -> (StatusCode, String) {
    match health.stopped(Instant::now()) {
        None => (StatusCode::OK, "alive\n".to_owned()),
        Some(stopped) => (StatusCode::SERVICE_UNAVAILABLE, format!("not alive: {stopped}\n")),
    }
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    #[derive(Serialize)]
    struct Body {
        ready: bool,
        /// Why it is not.
        why: Option<String>,
        #[serde(flatten)]
        detail: Detail,
    }

    let detail = health.detail();
    let why = detail.obstacle();
    let ready = why.is_none();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Body { ready, why, detail }))
}

async fn lanes(State(control): State<Control>) -> Result<Json<Reports>, NotYet> {
    let mut lanes = control.parts()?.lanes.reports();
    report::sort(&mut lanes);
    Ok(Json(Reports { at: now(), lanes }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    struct Rig {
        address: SocketAddr,
        health: Health,
        stop: tokio::sync::oneshot::Sender<()>,
        server: tokio::task::JoinHandle<Result<(), Error>>,
        client: reqwest::Client,
    }

    impl Rig {
        async fn start() -> Self {
            // Another test may have been first; either way one is installed.
            rustls::crypto::ring::default_provider().install_default().ok();
            let health = Health::new();
            let loopback = "127.0.0.1:0".parse().unwrap();
            let parts = (Control::new(), Log::new("info").unwrap().0);
            let bound = Server::bind(loopback, Metrics::new(10), health.clone(), parts).await;
            let (server, address) = bound.unwrap();
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let tasks = crate::app::tasks::Tasks::new();
            let server = tasks.spawn("admin", server.run(async { drop(stopped.await) }));
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            Self { address, health, stop, server, client }
        }

        async fn get(&self, path: &str) -> (u16, String, String) {
            let answer = self.client.get(format!("http://{}{path}", self.address)).send().await.unwrap();
            let content_type = answer.headers().get("content-type");
            let content_type =
                content_type.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
            (answer.status().as_u16(), content_type, answer.text().await.unwrap())
        }

        async fn readyz(&self) -> (u16, Value) {
            let (status, content_type, body) = self.get("/readyz").await;
            assert_eq!(content_type, "application/json");
            (status, serde_json::from_str(&body).unwrap())
        }
    }

    #[tokio::test]
    async fn serves_what_it_should_and_nothing_else() {
        let rig = Rig::start().await;
        assert_eq!(rig.get("/livez").await.0, 200);
        let (status, content_type, body) = rig.get("/metrics").await;
        assert_eq!((status, content_type.as_str()), (200, "text/plain; version=0.0.4"));
        assert!(body.contains("arauto_build_info{"));
        assert_eq!(rig.get("/").await.0, 404);
        let (status, _, body) = rig.get("/lanes").await;
        assert!(status == 503 && body.contains("not started yet"), "{status} {body}");
        assert_eq!(rig.get("/config").await.0, 404);
        let pause = rig.client.post(format!("http://{}/endpoints/crm/pause", rig.address));
        assert_eq!(pause.try_clone().unwrap().send().await.unwrap().status(), 503);
        assert_eq!(pause.header("origin", "null").send().await.unwrap().status(), 403);
    }

    #[tokio::test]
    async fn readiness_follows_what_is_reported() {
        let rig = Rig::start().await;
        let (status, body) = rig.readyz().await;
        assert_eq!(status, 503);
        assert_eq!((&body["ready"], &body["state"]), (&json!(false), &json!("starting")));

        rig.health.brokers(true, None);
        rig.health.joined(true);
        let (status, body) = rig.readyz().await;
        assert_eq!(status, 200);
        assert_eq!(
            body,
            json!({
                "ready": true, "why": null, "state": "running", "joined": true,
                "brokers": {"reachable": true, "detail": null},
                "produce_trouble": null, "stalled": [], "last_reload": {"ok": true, "error": null},
            })
        );

        rig.health.reload(Err("arauto.toml:3:1: unknown key".to_owned()));
        let (status, body) = rig.readyz().await;
        assert_eq!(status, 200, "the last good configuration is in use");
        assert_eq!(body["last_reload"], json!({"ok": false, "error": "arauto.toml:3:1: unknown key"}));

        let trouble = rig.health.trouble();
        trouble.is("not enough replicas".to_owned());
        assert_eq!(rig.readyz().await.0, 503);
        drop(trouble);
        rig.health.brokers(false, Some("all brokers are down".to_owned()));
        assert_eq!(rig.readyz().await.0, 503);
        rig.health.brokers(true, None);
        assert_eq!(rig.readyz().await.0, 200);
        rig.health.stopping();
        assert_eq!(rig.readyz().await.1["state"], json!("stopping"));
        assert_eq!(rig.readyz().await.0, 503);
    }

    #[tokio::test]
    async fn liveness_follows_what_has_stopped_and_nothing_else() {
        let rig = Rig::start().await;
        assert_eq!(rig.readyz().await.0, 503);
        assert_eq!(rig.get("/livez").await.0, 200);
        rig.health.looked(Some("the polling thread, for 301 s".to_owned()), Instant::now());
        let (status, _, body) = rig.get("/livez").await;
        assert_eq!((status, body.as_str()), (503, "not alive: the polling thread, for 301 s\n"));
        rig.health.looked(None, Instant::now());
        assert_eq!(rig.get("/livez").await.0, 200);
    }

    #[tokio::test]
    async fn a_connection_kept_open_does_not_hold_the_server() {
        let rig = Rig::start().await;
        assert_eq!(rig.get("/livez").await.0, 200);
        let _idle = tokio::net::TcpStream::connect(rig.address).await.unwrap();
        rig.stop.send(()).unwrap();
        timeout(Duration::from_secs(5), rig.server).await.unwrap().unwrap().unwrap();
    }
}
