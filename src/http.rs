//! One attempt over HTTP: the only place that names reqwest.
//!
//! One pooled client for all endpoints; per endpoint only a [`Target`]. Never follows a redirect, never reads a
//! proxy from the environment, never decodes a body, never returns an error: a failing endpoint is an [`Attempt`].

use std::{error::Error as StdError, fmt::Write as _, io, time::Duration};

use bytes::Bytes;
use http_types::{HeaderMap, Uri, header::RETRY_AFTER};
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::pipeline::outcome::{Attempt, AttemptResult, RetryAfter};

pub mod ask;
pub mod guard;

/// How much of an answer's body is read, so that its connection can be used again (design, section 5).
const READ: usize = 64 * 1024;
/// How much of it is kept for the operator (design, section 5).
const KEPT: usize = 2 * 1024;
/// Idle connections kept to one host. Above any sensible `concurrency`, below what would exhaust descriptors.
const IDLE_PER_HOST: usize = 512;
/// How long they are kept: less than the 60 s after which the load balancers of AWS and others close theirs, so
/// that we rarely write into a connection that is being closed.
const IDLE: Duration = Duration::from_secs(50);
/// Longest wait for a connection, shared by the addresses of the name: a first address that swallows packets must
/// leave time for the second within the default `timeout` of 15 s.
const CONNECT: Duration = Duration::from_secs(10);
/// HTTP/2: a dead connection would time out everything multiplexed on it, so it is asked this often.
const PING: Duration = Duration::from_secs(15);
/// HTTP/2: what a receiver may send ahead of our reading, per request and per connection.
const WINDOWS: (u32, u32) = (64 * 1024, 1024 * 1024);

/// The client all endpoints share.
#[derive(Debug, Clone)]
pub struct Client {
    inner: reqwest::Client,
    guard: guard::Guard,
}

/// Where one endpoint's attempts go.
#[derive(Debug, Clone)]
pub struct Target {
    url: Url,
    timeout: Duration,
}

/// What can go wrong before any attempt.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client cannot be built.
    #[error("cannot build the http client")]
    Client(#[from] reqwest::Error),
    /// The URL is none HTTP can use.
    #[error("the url cannot be used for http")]
    Url(#[from] http_types::uri::InvalidUri),
}

impl Target {
    /// A URL (`http` or `https`) and the longest time one attempt may take, body included.
    pub fn new(url: &Url, timeout: Duration) -> Result<Self, Error> {
        // reqwest converts at every request; what cannot be converted is found here, once.
        url.as_str().parse::<Uri>()?;
        Ok(Self { url: url.clone(), timeout })
    }
}

impl Client {
    /// A client that trusts the roots of the platform (`SSL_CERT_FILE` and `SSL_CERT_DIR` replace them).
    pub fn new(guard: guard::Guard) -> Result<Self, Error> {
        Self::with_roots(guard, &[])
    }

    /// The same, trusting these certificates (PEM) besides.
    pub fn with_roots(guard: guard::Guard, given: &[String]) -> Result<Self, Error> {
        install_provider();
        let roots = given
            .iter()
            .map(|pem| reqwest::Certificate::from_pem(pem.as_bytes()))
            .collect::<Result<Vec<_>, _>>()?;
        let merged = builder(&guard).tls_certs_merge(roots).build();
        let inner = match merged {
            Ok(client) => client,
            Err(error) if !given.is_empty() => return Err(error.into()),
            Err(error) => {
                // A container without any root certificate can still serve http endpoints.
                tracing::warn!(error = %chain(&error), "no root certificates found, https endpoints will fail");
                builder(&guard).tls_certs_only([]).build()?
            }
        };
        Ok(Self { inner, guard })
    }

    /// Makes one attempt. The body is sent as it is.
    pub async fn attempt(&self, target: &Target, headers: HeaderMap, body: Bytes) -> Attempt {
        let started = Instant::now();
        let (result, retry_after, detail) = self.exchange(target, headers, body, started).await;
        Attempt { result, retry_after, detail, duration: started.elapsed() }
    }

    async fn exchange(
        &self,
        target: &Target,
        headers: HeaderMap,
        body: Bytes,
        started: Instant,
    ) -> (AttemptResult, Option<RetryAfter>, String) {
        // A literal address never reaches the resolver.
        if let Err(blocked) = self.guard.literal(&target.url) {
            return (AttemptResult::Blocked, None, blocked.to_string());
        }
        let deadline = started + target.timeout;
        let mut request = reqwest::Request::new(reqwest::Method::POST, target.url.clone());
        *request.headers_mut() = headers;
        *request.body_mut() = Some(body.into());
        let mut response = match timeout_at(deadline, self.inner.execute(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let (result, detail) = failed(&error.without_url(), target.url.scheme() == "https");
                return (result, None, detail);
            }
            Err(_) => {
                return (AttemptResult::Timeout, None, format!("no answer within {:?}", target.timeout));
            }
        };
        let status = response.status();
        let hint = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let hint = hint.and_then(RetryAfter::parse);
        let mut kept = Vec::new();
        // A body that breaks off changes nothing: the status line has said what became of the delivery.
        match timeout_at(deadline, read(&mut response, &mut kept)).await {
            Err(_) if !status.is_success() => {
                let detail = format!("{status}, and its body did not end within {:?}", target.timeout);
                (AttemptResult::Timeout, hint, detail)
            }
            Ok(()) | Err(_) => (AttemptResult::Status(status.as_u16()), hint, excerpt(&kept)),
        }
    }
}

/// reqwest takes the process's provider; a second call (tests, dev) finds it set already.
fn install_provider() {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::trace!("a tls provider was installed before");
    }
}

fn builder_without_guard() -> reqwest::ClientBuilder {
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().referer(false)
}

fn builder(guard: &guard::Guard) -> reqwest::ClientBuilder {
    builder_without_guard()
        .dns_resolver(guard.clone())
        .tcp_nodelay(true)
        .connect_timeout(CONNECT)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .pool_idle_timeout(IDLE)
        .http2_initial_stream_window_size(WINDOWS.0)
        .http2_initial_connection_window_size(WINDOWS.1)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
}

/// Reads to the end or to the cap. Behind the cap the connection is given up rather than read dry.
async fn read(response: &mut reqwest::Response, kept: &mut Vec<u8>) {
    let mut seen = 0;
    while seen <= READ {
        let Ok(Some(chunk)) = response.chunk().await else {
            return;
        };
        seen += chunk.len();
        let room = KEPT - kept.len();
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
}

/// Tells failures apart by the types in the chain of causes; their texts are for people.
fn failed(error: &reqwest::Error, https: bool) -> (AttemptResult, String) {
    if let Some(blocked) = causes(error).find_map(|cause| cause.downcast_ref::<guard::Blocked>()) {
        return (AttemptResult::Blocked, blocked.to_string());
    }
    let result = if error.is_dns() {
        AttemptResult::Dns
    } else if causes(error).any(|cause| cause.is::<rustls::Error>()) {
        AttemptResult::Tls
    } else if !error.is_connect() {
        AttemptResult::Reset
    } else if https && causes(error).any(broke_off) {
        // TCP was there, so it was the handshake that the other side broke off.
        AttemptResult::Tls
    } else {
        AttemptResult::Connect
    };
    (result, chain(error))
}

fn broke_off(cause: &(dyn StdError + 'static)) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData, UnexpectedEof};
    cause.downcast_ref::<io::Error>().is_some_and(|error| {
        matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | InvalidData | UnexpectedEof)
    })
}

/// An error and its causes. `source()` of an [`io::Error`] skips the error it was made from, so that is asked for.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|error| error as &(dyn StdError + 'static)).or_else(|| error.source())
    })
}

/// The error and its causes in one line, without repeating what an outer error already says.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            write!(text, ": {cause}").expect("a string takes every write");
        }
    }
    printable(&text)
}

fn excerpt(kept: &[u8]) -> String {
    printable(&String::from_utf8_lossy(kept))
}

/// At most 2 KiB, and nothing in it that a terminal or a log would obey.
fn printable(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text[..text.floor_char_boundary(KEPT)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_short_and_harmless() {
        let rows: [(&[u8], &str); 4] = [
            (b"", ""),
            (b"no\r\nsuch\torder", "no  such order"),
            (b"\x1b[31mred\x00", " [31mred "),
            ("caf\u{e9} \u{9b}".as_bytes(), "caf\u{e9}  "),
        ];
        for (bytes, expected) in rows {
            assert_eq!(excerpt(bytes), expected);
        }
        assert_eq!(excerpt(&[0xff; KEPT]).len(), KEPT - KEPT % 3);
    }

    #[test]
    fn causes_look_into_io_errors() {
        let inner = io::Error::other(rustls::Error::HandshakeNotComplete);
        let outer = io::Error::other(inner);
        assert!(causes(&outer).any(|cause| cause.is::<rustls::Error>()));
        assert_eq!(chain(&outer), rustls::Error::HandshakeNotComplete.to_string());
    }
}
