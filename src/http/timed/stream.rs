//! A connection that tells how it was opened. Everything else is passed on.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};

use super::Opening;

/// Head and body of a request that are no longer than this together are sent as one piece: to copy them costs less than
/// what the operating system does for two (`writev`, where one is a plain `send`).
const SMALL: usize = 4096;

/// A connection, and how it was opened if anybody wanted to know.
#[derive(Debug)]
pub(in crate::http) struct Stream<S> {
    pub(super) io: S,
    pub(super) opening: Option<Opening>,
}

impl<S: Connection> Connection for Stream<S> {
    fn connected(&self) -> Connected {
        let connected = self.io.connected();
        match &self.opening {
            Some(opening) => connected.extra(opening.clone()),
            // What is known of a connection is copied into each of its answers, and nobody asks for it without a clock.
            None if connected.is_negotiated_h2() => Connected::new().negotiated_h2(),
            None => Connected::new(),
        }
    }
}

impl<S: Read + Unpin> Read for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<S: Write + Unpin> Write for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        if length <= SMALL {
            let mut joined = [0; SMALL];
            let mut free = &mut joined[..];
            for buffer in buffers {
                let (filled, rest) = free.split_at_mut(buffer.len());
                filled.copy_from_slice(buffer);
                free = rest;
            }
            return Pin::new(&mut self.io).poll_write(context, &joined[..length]);
        }
        Pin::new(&mut self.io).poll_write_vectored(context, buffers)
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;

    use super::*;

    /// Tells of each write how long it was, and whether it came in one piece; takes half of each.
    #[derive(Default)]
    struct Far {
        writes: Vec<(usize, bool)>,
        taken: Vec<u8>,
    }

    impl tokio::io::AsyncWrite for Far {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            piece: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = piece.len().div_ceil(2);
            self.writes.push((piece.len(), true));
            self.taken.extend(&piece[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            pieces: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let length = pieces.iter().map(|piece| piece.len()).sum();
            self.writes.push((length, false));
            pieces.iter().for_each(|piece| self.taken.extend(&**piece));
            Poll::Ready(Ok(length))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_is_small_is_one_piece_and_nothing_of_it_is_lost() {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(SMALL + 1).collect();
        for (split, length, in_one) in
            [(0, 0, true), (1, 3, true), (300, 1_324, true), (SMALL, SMALL, true), (300, SMALL + 1, false)]
        {
            let (head, body) = bytes[..length].split_at(split);
            let mut stream = Stream { io: TokioIo::new(Far::default()), opening: None };
            let pieces = [io::IoSlice::new(head), io::IoSlice::new(body)];
            let written = Pin::new(&mut stream).poll_write_vectored(&mut context, &pieces);
            let Poll::Ready(Ok(written)) = written else { panic!("{written:?}") };
            let far = stream.io.into_inner();
            assert_eq!(far.writes, [(length, in_one)]);
            assert_eq!(far.taken, bytes[..written], "{length}");
        }
    }
}
