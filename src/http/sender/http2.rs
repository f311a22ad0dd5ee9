//! One HTTP/2 connection for all requests to a host, driven by a task of its own.

use std::{
    future::poll_fn,
    mem,
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
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::{Io, gather::Gather};

/// What a receiver may send ahead of our reading, per request and per connection.
const WINDOWS: (u32, u32) = (64 * 1024, 1024 * 1024);
/// Requests at once before the receiver has said how many it takes: what RFC 9113 (section 6.5.2) recommends to allow.
const AT_ONCE: usize = 100;
/// The longest list of headers that is taken.
const LONGEST_HEADERS: u32 = 16 * 1024;
/// A dead connection would time out everything that goes over it, so it is asked this often if anything did since, and
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
        Self::asked_every(PING, io, connected).await
    }

    async fn asked_every(every: Duration, io: Io, connected: Connected) -> Result<Self, h2::Error> {
        let gather = Gather::new(TokioIo::new(io));
        let (sender, mut connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .initial_max_send_streams(AT_ONCE)
            .max_header_list_size(LONGEST_HEADERS)
            .handshake(gather.clone())
            .await?;
        let streams = Streams::default();
        let pulse = Pulse::new(connection.ping_pong(), every);
        // It ends when nobody holds the connection any more; nothing of a shutdown waits for it.
        TokioExecutor::new().execute(drive(connection, gather, Arc::clone(&streams), pulse));
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
        if !body.is_empty() {
            // Where it is not taken the request has ended already, and only the answer tells how.
            outgoing.send_data(body, true).ok();
        }
        let answer = answer.await.map_err(|error| Error { error, sent: true })?;
        Ok((answer, stream))
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

/// How a receiver says that it has not looked at a request (RFC 9113, section 8.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unprocessed {
    /// It takes no more of them at the moment.
    Refused,
    /// It ends the connection.
    Left,
}

/// Does this error say so?
pub(super) fn unprocessed(error: &h2::Error) -> Option<Unprocessed> {
    match error.reason().filter(|_| error.is_remote())? {
        Reason::REFUSED_STREAM if error.is_reset() => Some(Unprocessed::Refused),
        // Told only those requests that are above the last one it has worked on.
        Reason::NO_ERROR if error.is_go_away() => Some(Unprocessed::Left),
        _ => None,
    }
}

/// Finds out whether the other side is still there.
struct Pulse {
    pings: Option<PingPong>,
    ticks: Interval,
    /// Was there any request since it was asked last?
    used: bool,
    asked: bool,
}

impl Pulse {
    fn new(pings: Option<PingPong>, every: Duration) -> Self {
        let mut ticks = interval_at(Instant::now() + every, every);
        // Who asks late still leaves a whole interval to answer in.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { pings, ticks, used: false, asked: false }
    }

    /// Has a whole interval gone by without an answer? Asks where it is time to.
    fn is_gone(&mut self, used: bool, context: &mut Context<'_>) -> bool {
        let Some(pings) = &mut self.pings else { return false };
        // A request that timed out between two ticks was one too.
        self.used |= used;
        if self.asked && pings.poll_pong(context).is_ready() {
            self.asked = false;
        }
        while self.ticks.poll_tick(context).is_ready() {
            if self.asked {
                return true;
            }
            self.asked = mem::take(&mut self.used) && pings.send_ping(Ping::opaque()).is_ok();
        }
        false
    }
}

/// Reads and writes until the connection ends: nobody holds it any more, the other side ended it, or it is dead.
async fn drive(mut connection: Connection, gather: Gather<TokioIo<Io>>, streams: Streams, mut pulse: Pulse) {
    poll_fn(|context| {
        let ended = Pin::new(&mut connection).poll(context).is_ready();
        // After what has come was read: the answer that is waited for may be in it.
        let gone = pulse.is_gone(streams.load(Ordering::Relaxed) > 0, context);
        // Here, after all frames that were ready, is where what they are gathered in is written.
        let broken = matches!(gather.poll_write_out(context), Poll::Ready(Err(_)));
        if ended || gone || broken { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, DuplexStream, duplex},
        time::timeout,
    };

    use super::*;

    const PATIENT: Duration = Duration::from_secs(20);
    const EVERY: Duration = Duration::from_millis(400);

    async fn link() -> (Link, DuplexStream) {
        let (near, far) = duplex(64 * 1024);
        let link = Link::asked_every(EVERY, Box::new(TokioIo::new(near)), Connected::new()).await.unwrap();
        (link, far)
    }

    async fn send(link: &Link, body: &'static str) -> Result<(), Error> {
        let mut request = Request::new(());
        *request.method_mut() = http_types::Method::POST;
        *request.uri_mut() = http_types::Uri::from_static("https://localhost/");
        link.send(request, Bytes::from_static(body.as_bytes())).await.map(drop)
    }

    /// Reads, and says nothing.
    async fn swallow(mut far: DuplexStream) {
        let mut bytes = [0; 1024];
        while far.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
    }

    /// Speaks HTTP/2, and answers no request before it was `patient`.
    async fn serve(far: DuplexStream, patient: Duration) {
        let mut server = h2::server::handshake(far).await.unwrap();
        let mut held = Vec::new();
        let mut until = std::pin::pin!(tokio::time::sleep(patient));
        loop {
            tokio::select! {
                request = server.accept() => match request {
                    Some(Ok((_, answer))) => held.push(answer),
                    Some(Err(_)) | None => return,
                },
                () = &mut until, if !held.is_empty() => {
                    held.drain(..).for_each(|mut answer| drop(answer.send_response(Response::new(()), true)));
                }
            }
        }
    }

    #[tokio::test]
    async fn a_connection_that_answers_nothing_ends_within_two_intervals() {
        let (link, far) = link().await;
        let ended =
            async { timeout(PATIENT, send(&link, "{}")).await.expect("it should have been given up") };
        let (ended, ()) = tokio::join!(ended, swallow(far));
        assert!(ended.is_err_and(|error| error.sent));
        assert!(send(&link, "{}").await.is_err_and(|error| !error.sent));
    }

    #[tokio::test]
    async fn requests_that_time_out_between_two_intervals_are_noticed_too() {
        let (link, far) = link().await;
        let dead = async {
            while timeout(EVERY / 200, send(&link, "{}")).await.is_err() {
                // None is under way for nearly all of an interval.
                tokio::time::sleep(EVERY / 2).await;
            }
        };
        let both = async { tokio::join!(dead, swallow(far)) };
        timeout(PATIENT, both).await.expect("it should have been given up");
    }

    #[tokio::test]
    async fn a_slow_receiver_is_not_taken_for_dead() {
        let (link, far) = link().await;
        tokio::select! {
            answered = send(&link, "{}") => assert!(answered.is_ok()),
            () = serve(far, EVERY * 5) => panic!("the connection ended"),
        }
    }

    #[tokio::test]
    async fn our_own_stall_is_not_taken_for_the_others_death() {
        let (link, far) = link().await;
        let stall = async {
            tokio::time::sleep(EVERY / 2).await;
            // The whole process stands still for several intervals.
            std::thread::sleep(EVERY * 4);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answered = send(&link, "{}") => assert!(answered.is_ok()),
            () = serve(far, EVERY * 6) => panic!("the connection ended"),
            () = stall => {}
        }
    }
}
