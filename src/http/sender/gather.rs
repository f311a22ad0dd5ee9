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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        time::timeout,
    };

    use super::*;

    /// Everything here takes milliseconds; a starved machine may take longer.
    const PATIENT: Duration = Duration::from_secs(20);

    /// Several times what is gathered, and no two places alike.
    fn bytes() -> Vec<u8> {
        (0..CAPACITY).flat_map(|n| u32::try_from(n).unwrap().to_be_bytes()).collect()
    }

    /// What comes out when `write` takes bytes until there are none, by a driver that writes out whenever it can.
    async fn through(
        room: usize,
        write: impl Fn(Pin<&mut Gather<DuplexStream>>, &mut Context<'_>, &[u8]) -> Poll<io::Result<usize>>,
    ) {
        let sent = bytes();
        let (near, mut far) = duplex(room);
        let gather = Gather::new(near);
        let (mut writer, mut rest) = (gather.clone(), &sent[..]);
        let driver = std::future::poll_fn(|context| {
            while !rest.is_empty() {
                match write(Pin::new(&mut writer), context, rest) {
                    Poll::Ready(taken) => rest = &rest[taken.unwrap()..],
                    Poll::Pending => break,
                }
            }
            let written = gather.poll_write_out(context);
            if rest.is_empty() { written } else { Poll::Pending }
        });
        let mut came = vec![0; sent.len()];
        let both = async { tokio::join!(driver, far.read_exact(&mut came)) };
        let (written, read) = timeout(PATIENT, both).await.expect("it stands still");
        written.unwrap();
        assert_eq!(read.unwrap(), sent.len());
        assert!(came == sent, "the bytes or their order have changed");
    }

    #[tokio::test]
    async fn all_bytes_come_in_their_order_through_any_needle_eye() {
        for room in [7, CAPACITY - 1, CAPACITY, 1 << 20] {
            through(room, |gather, context, bytes| gather.poll_write(context, bytes)).await;
            // An empty one among them, and two that fill exactly what is gathered.
            through(room, |gather, context, bytes| {
                let (a, rest) = bytes.split_at(bytes.len().min(3));
                let (b, c) = rest.split_at(rest.len().min(CAPACITY - 3));
                let slices = [a, &[], b, c].map(io::IoSlice::new);
                gather.poll_write_vectored(context, &slices)
            })
            .await;
        }
    }

    #[tokio::test]
    async fn a_flush_writes_nothing_and_writing_out_writes_all() {
        let (near, mut far) = duplex(1024);
        let gather = Gather::new(near);
        let mut writer = gather.clone();
        writer.write_all(b"one").await.unwrap();
        writer.flush().await.unwrap();
        writer.write_all(b", two").await.unwrap();
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut came = [0; 8];
        {
            let mut read = std::pin::pin!(far.read_exact(&mut came));
            assert!(read.as_mut().poll(&mut context).is_pending());
            assert!(gather.poll_write_out(&mut context).is_ready());
            assert!(read.as_mut().poll(&mut context).is_ready());
        }
        assert_eq!(&came, b"one, two");
    }

    #[tokio::test]
    async fn a_shutdown_leaves_nothing_behind() {
        let sent = bytes();
        let (near, mut far) = duplex(7);
        let mut writer = Gather::new(near);
        let mut came = Vec::new();
        let write = async {
            writer.write_all(&sent[..CAPACITY]).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let both = async { tokio::join!(write, far.read_to_end(&mut came)) };
        let ((), read) = timeout(PATIENT, both).await.expect("it stands still");
        read.unwrap();
        assert!(came == sent[..CAPACITY]);
    }

    #[tokio::test]
    async fn a_broken_stream_is_an_error_and_not_a_wait() {
        let (near, far) = duplex(7);
        drop(far);
        let mut writer = Gather::new(near);
        writer.write_all(b"gathered").await.unwrap();
        let written = std::future::poll_fn(|context| writer.poll_write_out(context)).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
