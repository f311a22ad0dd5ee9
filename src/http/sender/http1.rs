//! One HTTP/1.1 connection, driven by whoever uses it.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use http_types::{Request, Response};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::http1,
};
use hyper_util::client::legacy::connect::Connected;

use super::Io;

type Outgoing = Request<Full<Bytes>>;

/// One connection.
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// Reads and writes; gone when the connection has ended, for then it tells whoever still waits for it.
    driver: Option<http1::Connection<Io, Full<Bytes>>>,
    pub(super) connected: Connected,
}

impl Connection {
    pub(super) async fn open(io: Io, connected: Connected) -> Result<Self, hyper::Error> {
        let (sender, driver) = http1::Builder::new().handshake(io).await?;
        Ok(Self { sender, driver: Some(driver), connected })
    }

    /// Sends one request; gives it back when nothing of it can have been sent.
    pub(super) async fn send(
        &mut self,
        request: Outgoing,
    ) -> Result<Response<Incoming>, (Option<Outgoing>, hyper::Error)> {
        let answer = self.sender.try_send_request(request);
        let answer = driven(&mut self.driver, answer).await;
        answer.map_err(|mut error| (error.take_message(), error.into_error()))
    }

    /// The next part of an answer's body; `None` at its end, or when it breaks off.
    pub(super) async fn chunk(&mut self, body: &mut Incoming) -> Option<Bytes> {
        while !body.is_end_stream() {
            let frame = driven(&mut self.driver, body.frame()).await?.ok()?;
            if let Ok(chunk) = frame.into_data() {
                return Some(chunk);
            }
        }
        None
    }

    /// Can another request be sent over it? Also finds out whether the other side has closed it.
    pub(super) fn is_ready(&mut self) -> bool {
        drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready()
    }
}

/// Waits for what depends on the connection, and drives it meanwhile.
async fn driven<F: Future>(driver: &mut Option<http1::Connection<Io, Full<Bytes>>>, what: F) -> F::Output {
    let mut what = pin!(what);
    poll_fn(|context| {
        if let Poll::Ready(done) = what.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        drive(driver, context);
        what.as_mut().poll(context)
    })
    .await
}

fn drive(driver: &mut Option<http1::Connection<Io, Full<Bytes>>>, context: &mut Context<'_>) {
    // An error is told to whoever waits for an answer.
    if driver.as_mut().is_some_and(|driver| Pin::new(driver).poll(context).is_ready()) {
        *driver = None;
    }
}
