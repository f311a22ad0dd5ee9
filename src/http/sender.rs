//! Sends requests over connections that are kept, by hyper (HTTP/1.1) and h2 (HTTP/2), without a client around them.
//!
//! Whoever makes an attempt over HTTP/1.1 drives its connection as well, in the same task: an answer wakes one task
//! instead of two, and nothing is handed from one to the other. HTTP/2 is one connection for all, with a task of its own.
//!
//! A request is sent again, over another connection, when the receiver cannot have worked on it: a kept connection had
//! ended before anything was written (RFC 9110, section 9.2.2), or the receiver says so (RFC 9113, section 8.7).

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use http_types::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, HOST},
};
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use tower_service::Service;

use self::host::{Host, Hosts, Link};
use super::Target;

mod gather;
pub(super) mod host;
mod http1;
mod http2;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A connection, TLS included.
type Io = Box<dyn Stream>;

/// What requests are sent with. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sender {
    connector: Arc<dyn Connect>,
    hosts: Arc<Hosts>,
}

/// Why there is no answer. The cause is a source of its own, so that it is found by its type.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// There was no connection to be had.
    #[error("{0}")]
    Connect(#[source] BoxError),
    /// HTTP/1.1 went wrong.
    #[error("{0}")]
    Http1(#[from] hyper::Error),
    /// HTTP/2 went wrong.
    #[error("{0}")]
    Http2(#[from] ::h2::Error),
}

impl Failure {
    pub(super) fn is_connect(&self) -> bool {
        matches!(self, Self::Connect(_))
    }
}

/// The head of an answer, and what comes after it.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Body,
}

enum Body {
    Http1 { body: hyper::body::Incoming, connection: Box<http1::Connection>, host: Arc<Host> },
    Http2 { body: ::h2::RecvStream, _stream: http2::Stream },
}

impl Answer {
    /// The next part of the body; `None` at its end, or when it breaks off.
    pub(super) async fn chunk(&mut self) -> Option<Bytes> {
        match &mut self.body {
            Body::Http1 { body, connection, .. } => connection.chunk(body).await,
            Body::Http2 { body, .. } => http2::chunk(body).await,
        }
    }

    /// Gives the connection back, if its answer was read to the end.
    pub(super) fn done(self) {
        if let Body::Http1 { body, connection, host } = self.body {
            drop(body);
            host.give_back(connection);
        }
    }
}

impl Sender {
    /// Sends over connections that `connector` makes.
    pub(super) fn new<C>(connector: C) -> Self
    where
        C: Service<Uri, Error = BoxError> + Clone + Send + Sync + 'static,
        C::Response: Stream + Connection,
        C::Future: Send,
    {
        Self { connector: Arc::new(connector), hosts: Arc::default() }
    }

    /// Posts once, and once more for each way in which nothing can have come of it. `met` is told of each connection it
    /// goes over.
    pub(super) async fn post(
        &self,
        target: &Target,
        mut headers: HeaderMap,
        body: Bytes,
        met: &mut (dyn FnMut(&Connected) + Send),
    ) -> Result<Answer, Failure> {
        let host = target.host(&self.hosts);
        let mut before = Vec::new();
        loop {
            let (link, kept) = self.link(&host, target).await?;
            match link {
                Link::Http1(mut connection) => {
                    met(&connection.connected);
                    headers.entry(HOST).or_insert_with(|| target.name.clone());
                    match connection.send(http1_request(target, headers, body.clone())).await {
                        Ok(response) => {
                            let (head, body) = response.into_parts();
                            let body = Body::Http1 { body, connection, host };
                            return Ok(Answer { status: head.status, headers: head.headers, body });
                        }
                        Err((Some(unsent), _)) if kept => headers = unsent.into_parts().0.headers,
                        Err((_, error)) => return Err(error.into()),
                    }
                }
                Link::Http2(link) => {
                    met(&link.connected);
                    let request = http2_request(target, headers.clone(), body.len());
                    match link.send(request, body.clone()).await {
                        Ok((response, stream)) => {
                            let (head, body) = response.into_parts();
                            let body = Body::Http2 { body, _stream: stream };
                            return Ok(Answer { status: head.status, headers: head.headers, body });
                        }
                        Err(http2::Error { error, sent: false }) => {
                            host.forget(&link);
                            if !kept {
                                return Err(error.into());
                            }
                        }
                        Err(http2::Error { error, .. }) => match http2::unprocessed(&error) {
                            // A new connection may refuse what the old one has left: each of it happens once.
                            Some(why) if !before.contains(&why) => before.push(why),
                            Some(_) | None => return Err(error.into()),
                        },
                    }
                }
            }
        }
    }

    /// A connection to send over; was it kept from before?
    async fn link(&self, host: &Arc<Host>, target: &Target) -> Result<(Link, bool), Failure> {
        if let Some(link) = host.link() {
            return Ok((link, true));
        }
        // Where one connection is for all, one of all makes it.
        let _turn = host.turn().await;
        if let Some(link) = host.link() {
            return Ok((link, true));
        }
        self.hosts.sweep();
        let (io, connected) = self.connector.connect(target.uri.clone()).await.map_err(Failure::Connect)?;
        if connected.is_negotiated_h2() {
            let link = Arc::new(http2::Link::open(io, connected).await?);
            host.share(&link);
            return Ok((Link::Http2(link), false));
        }
        host.share_nothing();
        let connection = http1::Connection::open(io, connected).await?;
        Ok((Link::Http1(Box::new(connection)), false))
    }
}

/// RFC 9112, section 3.2.1: what is asked for, without the receiver's name.
fn http1_request(target: &Target, headers: HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.path.clone();
    *request.headers_mut() = headers;
    request
}

/// RFC 9113, section 8.3.1: the receiver's name is part of what is asked for.
fn http2_request(target: &Target, mut headers: HeaderMap, length: usize) -> Request<()> {
    headers.remove(HOST);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = target.uri.clone();
    *request.headers_mut() = headers;
    request
}

/// What a connector of any kind is here.
trait Connect: Send + Sync {
    fn connect(&self, uri: Uri) -> Connecting;
}

type Connecting = Pin<Box<dyn Future<Output = Result<(Io, Connected), BoxError>> + Send>>;

impl<C> Connect for C
where
    C: Service<Uri, Error = BoxError> + Clone + Send + Sync + 'static,
    C::Response: Stream + Connection,
    C::Future: Send,
{
    fn connect(&self, uri: Uri) -> Connecting {
        let mut connector = self.clone();
        Box::pin(async move {
            std::future::poll_fn(|context| connector.poll_ready(context)).await?;
            let io = connector.call(uri).await?;
            let connected = io.connected();
            Ok((Box::new(io) as Io, connected))
        })
    }
}

/// Bytes both ways.
pub(super) trait Stream: Read + Write + Send + Unpin + 'static {}

impl<T: Read + Write + Send + Unpin + 'static> Stream for T {}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}
