//! One HTTP/2 connection for all requests to a host, driven by a task of its own.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, Reason, RecvStream,
    client::{Builder, SendRequest},
};
use http_types::{Request, Response};
use hyper::rt::Executor as _;
use hyper_util::{
    client::legacy::connect::Connected,
    rt::{TokioExecutor, TokioIo},
};
use tokio::time::{Instant, interval_at};

use super::{Io, gather::Gather};

/// What a receiver may send ahead of our reading, per request and per connection.
const WINDOWS: (u32, u32) = (64 * 1024, 1024 * 1024);
/// Requests at once before the receiver has said how many it takes: what RFC 9113 (section 6.5.2) recommends to allow.
const AT_ONCE: usize = 100;
/// The longest list of headers that is taken.
const LONGEST_HEADERS: u32 = 16 * 1024;
/// A dead connection would time out everything that goes over it, so it is asked this often while anything does, and
/// has as long to answer.
const PING: Duration = Duration::from_secs(15);

type Connection = h2::client::Connection<Gather<TokioIo<Io>>, Bytes>;

/// The connection, for those who send.
pub(super) struct Link {
    sender: SendRequest<Bytes>,
    streams: Streams,
    pub(super) connected: Connected,
}

/// How many requests are under way.
type Streams = Arc<AtomicUsize>;

/// A request under way.
pub(super) struct Stream(Streams);

impl Stream {
    fn begin(streams: &Streams) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(streams))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a request has no answer, and whether anything of it was sent.
pub(super) struct Error {
    pub(super) error: h2::Error,
    pub(super) sent: bool,
}

impl Link {
    pub(super) async fn open(io: Io, connected: Connected) -> Result<Self, h2::Error> {
        let gather = Gather::new(TokioIo::new(io));
        let (sender, connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .initial_max_send_streams(AT_ONCE)
            .max_header_list_size(LONGEST_HEADERS)
            .handshake(gather.clone())
            .await?;
        let streams = Streams::default();
        // It ends when nobody holds the connection any more; nothing of a shutdown waits for it.
        TokioExecutor::new().execute(drive(connection, gather, Arc::clone(&streams)));
        Ok(Self { sender, streams, connected })
    }

    /// Sends one request, as soon as the receiver takes one more.
    pub(super) async fn send(
        &self,
        request: Request<()>,
        body: Bytes,
    ) -> Result<(Response<RecvStream>, Stream), Error> {
        let unsent = |error| Error { error, sent: false };
        let stream = Stream::begin(&self.streams);
        let mut sender = self.sender.clone().ready().await.map_err(unsent)?;
        let (answer, mut outgoing) = sender.send_request(request, body.is_empty()).map_err(unsent)?;
        drop(sender);
        let sent = |error| Error { error, sent: true };
        if !body.is_empty() {
            outgoing.send_data(body, true).map_err(sent)?;
        }
        Ok((answer.await.map_err(sent)?, stream))
    }

    /// Does any request go over it?
    pub(super) fn is_used(&self) -> bool {
        self.streams.load(Ordering::Relaxed) > 0
    }
}

/// The next part of an answer's body; `None` at its end, or when it breaks off.
pub(super) async fn chunk(body: &mut RecvStream) -> Option<Bytes> {
    if body.is_end_stream() {
        return None;
    }
    let chunk = body.data().await?.ok()?;
    body.flow_control().release_capacity(chunk.len()).ok()?;
    Some(chunk)
}

/// Does the receiver say that it has not looked at the request (RFC 9113, section 8.7)?
pub(super) fn is_unprocessed(error: &h2::Error) -> bool {
    let reason = error.reason();
    let refused = error.is_reset() && reason == Some(Reason::REFUSED_STREAM);
    // Told only those requests that are above the last one it has worked on.
    let left = error.is_go_away() && reason == Some(Reason::NO_ERROR);
    error.is_remote() && (refused || left)
}

/// Reads and writes until the connection ends: nobody holds it any more, the other side ended it, or it is dead.
async fn drive(mut connection: Connection, gather: Gather<TokioIo<Io>>, streams: Streams) {
    let mut ping_pong = connection.ping_pong();
    let mut ticks = interval_at(Instant::now() + PING, PING);
    let mut asked = false;
    poll_fn(|context| {
        while ticks.poll_tick(context).is_ready() {
            if asked {
                // It had a whole interval to answer in.
                return Poll::Ready(());
            }
            if streams.load(Ordering::Relaxed) > 0 {
                asked = ping_pong.as_mut().is_some_and(|pings| pings.send_ping(Ping::opaque()).is_ok());
            }
        }
        asked &= !ping_pong.as_mut().is_some_and(|pings| answered(pings, context));
        let ended = Pin::new(&mut connection).poll(context).is_ready();
        // Here, after all frames that were ready, is where what they are gathered in is written.
        let written = gather.poll_write_out(context);
        if ended || matches!(written, Poll::Ready(Err(_))) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

fn answered(pings: &mut PingPong, context: &mut Context<'_>) -> bool {
    pings.poll_pong(context).is_ready()
}
