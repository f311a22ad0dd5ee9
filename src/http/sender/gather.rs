//! Gathers what is written, so that many small frames become one TLS record and one system call.
//!
//! h2 writes and flushes each DATA frame by itself. Here a flush does nothing; whoever drives the connection writes out
//! what was gathered after each time it has polled it, in the same task, so that nothing ever stays behind.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// As much is gathered: two TLS records of the largest size (RFC 8446, section 5.1).
const CAPACITY: usize = 32 * 1024;

/// A stream whose writes are gathered. Two hold it: the connection, and whoever drives that.
#[derive(Debug)]
pub(super) struct Gather<S>(Arc<Mutex<Gathered<S>>>);

#[derive(Debug)]
struct Gathered<S> {
    io: S,
    buffer: BytesMut,
    /// Was anything written that is not flushed yet?
    unflushed: bool,
}

impl<S> Gather<S> {
    pub(super) fn new(io: S) -> Self {
        Self(Arc::new(Mutex::new(Gathered { io, buffer: BytesMut::new(), unflushed: false })))
    }

    fn lock(&self) -> MutexGuard<'_, Gathered<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    /// Writes out what was gathered.
    pub(super) fn poll_write_out(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_write_out(context)
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    fn poll_write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(context, &self.buffer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_gather(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.buffer.len() >= CAPACITY {
            ready!(self.poll_write_out(context))?;
        }
        let taken = bytes.len().min(CAPACITY - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }
}

impl<S> Clone for Gather<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().io).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.lock().poll_gather(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gathered = self.lock();
        let mut taken = 0;
        for slice in slices {
            match gathered.poll_gather(context, slice) {
                Poll::Ready(Ok(some)) => {
                    taken += some;
                    if some < slice.len() {
                        break;
                    }
                }
                // What was taken before has to be told.
                Poll::Ready(Err(_)) | Poll::Pending if taken > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: whoever drives the connection writes out.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.lock();
        ready!(gathered.poll_write_out(context))?;
        Pin::new(&mut gathered.io).poll_shutdown(context)
    }
}
