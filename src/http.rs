//! One attempt over HTTP: the only place that names hyper, h2 and reqwest.
//!
//! Attempts go over connections of hyper (HTTP/1.1) and h2 (HTTP/2), which is what reqwest is made of, without its layers
//! (redirects, cookies, decoding, proxies) and without hyper's pooled client: none of that is wanted here, and it cost
//! more than signing (`sender.rs`). What asks an admin server ([`ask`]) uses reqwest.
//!
//! One set of connections for all endpoints; per endpoint only a [`Target`]. Never follows a redirect, never reads a
//! proxy from the environment, never decodes a body, never returns an error: a failing endpoint is an [`Attempt`].

use std::{
    error::Error as StdError,
    fmt::Write as _,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http_types::{
    HeaderMap, HeaderValue, Uri,
    header::{ACCEPT, RETRY_AFTER},
};
use hyper_util::client::legacy::connect::Connected;
use tokio::time::{Instant, timeout_at};
use url::{Position, Url};

use self::{
    expiry::Expiry,
    guard::Unresolved,
    sender::{
        Answer, Failure, Sender,
        host::{Host, Hosts, Origin},
    },
};
use crate::pipeline::outcome::{Attempt, AttemptResult, RetryAfter};

pub mod ask;
pub mod certificate;
pub mod collector;
mod connect;
pub mod expiry;
pub mod forward;
pub mod guard;
pub mod probe;
mod sender;
pub mod timed;

/// How much of an answer's body is read, so that its connection can be used again (design, section 5).
const READ: usize = 64 * 1024;
/// How much of it is kept for the operator (design, section 5).
const KEPT: usize = 2 * 1024;

/// The client all endpoints share.
#[derive(Debug, Clone)]
pub struct Client {
    sender: Sender,
    guard: guard::Guard,
    expiry: Expiry,
}

/// Where one endpoint's attempts go.
#[derive(Debug, Clone)]
pub struct Target {
    url: Url,
    uri: Uri,
    /// What HTTP/1.1 asks for, and of whom.
    path: Uri,
    name: HeaderValue,
    origin: Origin,
    /// Where the connections are kept, once somebody has sent there.
    host: OnceLock<Arc<Host>>,
    timeout: Duration,
}

/// What can go wrong before any attempt.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// TLS cannot be set up.
    #[error("cannot set up tls")]
    Tls(#[from] rustls::Error),
    /// A certificate to be trusted cannot be read.
    #[error("a certificate cannot be read")]
    Certificate(#[source] rustls::pki_types::pem::Error),
    /// The URL is none HTTP can use.
    #[error("the url cannot be used for http")]
    Url(#[from] http_types::uri::InvalidUri),
}

impl Target {
    /// A URL (`http` or `https`) and the longest time one attempt may take, body included.
    pub fn new(url: &Url, timeout: Duration) -> Result<Self, Error> {
        let uri: Uri = url.as_str().parse()?;
        let path = uri.path_and_query().map_or(Ok(Uri::default()), |path| path.as_str().parse())?;
        Ok(Self {
            uri,
            path,
            name: name(url).unwrap_or(HeaderValue::from_static("")),
            origin: url[..Position::BeforePath].into(),
            host: OnceLock::new(),
            url: url.clone(),
            timeout,
        })
    }

    fn host(&self, hosts: &Arc<Hosts>) -> Arc<Host> {
        let host = self.host.get_or_init(|| hosts.host(&self.origin));
        if host.is_of(hosts) { Arc::clone(host) } else { hosts.host(&self.origin) }
    }

    fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Its URL.
    pub fn url(&self) -> &Url {
        &self.url
    }

    fn too_late(&self) -> String {
        format!("no answer within {:?}", self.timeout)
    }
}

impl Client {
    /// A client that trusts the roots of the platform (`SSL_CERT_FILE` and `SSL_CERT_DIR` replace them).
    pub fn new(guard: guard::Guard) -> Result<Self, Error> {
        Self::with_roots(guard, &[])
    }

    /// The same, trusting these certificates (PEM) besides.
    pub fn with_roots(guard: guard::Guard, given: &[String]) -> Result<Self, Error> {
        let expiry = Expiry::default();
        Ok(Self { sender: connect::sender(guard.clone(), given, expiry.clone())?, guard, expiry })
    }

    /// Until when the certificates are valid that receivers have shown.
    pub fn expiry(&self) -> &Expiry {
        &self.expiry
    }

    /// Makes one attempt. The body is sent as it is.
    pub async fn attempt(&self, target: &Target, headers: HeaderMap, body: Bytes) -> Attempt {
        let started = Instant::now();
        exchange((&self.sender, &self.guard), target, (headers, body), started, &mut |_| {}).await.0
    }
}

/// One request and what came of it, with the moment of the status line. `met` is told of the connections it goes over.
async fn exchange(
    (sender, guard): (&Sender, &guard::Guard),
    target: &Target,
    (mut headers, body): (HeaderMap, Bytes),
    started: Instant,
    met: &mut (dyn FnMut(&Connected) + Send),
) -> (Attempt, Option<Instant>) {
    let done = |(result, retry_after, detail), answered| {
        (Attempt { result, retry_after, detail, duration: started.elapsed() }, answered)
    };
    // A literal address never reaches the resolver.
    if let Err(blocked) = guard.literal(&target.url) {
        return done((AttemptResult::Blocked, None, blocked.to_string()), None);
    }
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    let (mut answered, mut kept) = (None, Vec::new());
    let exchange = async {
        let answer = sender.post(target, headers, body, met).await?;
        let hint = answer.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        answered = Some((answer.status, hint.and_then(RetryAfter::parse), Instant::now()));
        read(answer, &mut kept).await;
        Ok::<(), Failure>(())
    };
    let ended = timeout_at(started + target.timeout, exchange).await;
    let what = match (ended, answered) {
        (Err(_), Some((status, hint, _))) if !status.is_success() => {
            let detail = format!("{status}, and its body did not end within {:?}", target.timeout);
            (AttemptResult::Timeout, hint, detail)
        }
        // A body that breaks off changes nothing: the status line has said what became of the delivery.
        (_, Some((status, hint, _))) => (AttemptResult::Status(status.as_u16()), hint, excerpt(&kept)),
        (Ok(Err(error)), None) => {
            let (result, detail) = failed(&error, error.is_connect(), target);
            (result, None, detail)
        }
        (Ok(Ok(())) | Err(_), None) => (AttemptResult::Timeout, None, target.too_late()),
    };
    done(what, answered.map(|(_, _, at)| at))
}

/// The `Host` of a URL, without the scheme's own port (RFC 9110, section 7.2).
fn name(url: &Url) -> Option<HeaderValue> {
    let name = url.host_str()?;
    let host = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
    HeaderValue::try_from(host).ok()
}

/// Reads to the end or to the cap. Behind the cap the connection is given up rather than read dry.
async fn read(mut answer: Answer, kept: &mut Vec<u8>) {
    let mut seen = 0;
    while let Some(chunk) = answer.chunk().await {
        seen += chunk.len();
        let room = KEPT - kept.len();
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if seen > READ {
            return;
        }
    }
    answer.done();
}

/// Tells failures apart by the types in the chain of causes; their texts are for people.
fn failed(
    error: &(dyn StdError + 'static),
    while_connecting: bool,
    target: &Target,
) -> (AttemptResult, String) {
    let unresolved = causes(error).find_map(|cause| cause.downcast_ref::<Unresolved>());
    if let Some(Unresolved::Blocked(blocked)) = unresolved {
        return (AttemptResult::Blocked, blocked.to_string());
    }
    let result = if unresolved.is_some() {
        AttemptResult::Dns
    } else if causes(error).any(|cause| cause.is::<rustls::Error>()) {
        AttemptResult::Tls
    } else if !while_connecting {
        AttemptResult::Reset
    } else if target.is_https() && causes(error).any(broke_off) {
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
    fn a_host_is_named_without_its_schemes_own_port() {
        for (url, expected) in [
            ("http://example.com/hook", "example.com"),
            ("http://example.com:80/", "example.com"),
            ("http://Example.com:8080/", "example.com:8080"),
            ("http://[::1]:443/", "[::1]:443"),
            ("http://user:word@example.com/", "example.com"),
            ("https://example.com/", "example.com"),
        ] {
            let target = Target::new(&url.parse().unwrap(), Duration::from_secs(1)).unwrap();
            assert_eq!(target.name, expected, "{url}");
        }
    }

    #[test]
    fn causes_look_into_io_errors() {
        let inner = io::Error::other(rustls::Error::HandshakeNotComplete);
        let outer = io::Error::other(inner);
        assert!(causes(&outer).any(|cause| cause.is::<rustls::Error>()));
        assert_eq!(chain(&outer), rustls::Error::HandshakeNotComplete.to_string());
    }
}
