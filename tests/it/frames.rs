//! A receiver that speaks HTTP/2 frame by frame (RFC 9113, section 4.1), for what no library would let it say.

use std::{collections::VecDeque, io};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// RFC 9113, section 7.
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;

/// The receiver's end of a connection.
pub(crate) struct Frames {
    stream: TlsStream<TcpStream>,
    begun: VecDeque<u32>,
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// The head of a request.
    Begun(u32),
    /// Its end.
    Ended(u32),
}

impl Frames {
    /// Takes a connection; `at_once` requests at a time, if that is limited.
    pub(crate) async fn accept(
        acceptor: &TlsAcceptor,
        stream: TcpStream,
        at_once: Option<u32>,
    ) -> Option<Self> {
        let mut stream = acceptor.accept(stream).await.ok()?;
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.ok()?;
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut frames = Self { stream, begun: VecDeque::new() };
        // SETTINGS_MAX_CONCURRENT_STREAMS is 3.
        let settings = at_once.map(|limit| [&[0, 3], &limit.to_be_bytes()[..]].concat()).unwrap_or_default();
        frames.write(SETTINGS, 0, 0, &settings).await.ok()?;
        Some(frames)
    }

    /// What comes next; `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Came> {
        loop {
            if let Some(stream) = self.begun.pop_front() {
                return Some(Came::Ended(stream));
            }
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).await.ok()?;
            let (stream, last) = (u32::from_be_bytes(id), flags & END_STREAM > 0);
            match kind {
                HEADERS => {
                    self.begun.extend(last.then_some(stream));
                    return Some(Came::Begun(stream));
                }
                DATA if last => return Some(Came::Ended(stream)),
                SETTINGS if flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]).await.ok()?,
                PING if flags & ACK == 0 => self.write(PING, ACK, 0, &payload).await.ok()?,
                _ => {}
            }
        }
    }

    /// The next request that is there as a whole.
    pub(crate) async fn request(&mut self) -> Option<u32> {
        loop {
            if let Came::Ended(stream) = self.next().await? {
                return Some(stream);
            }
        }
    }

    /// Answers with 200 (RFC 7541, appendix A, index 8).
    pub(crate) async fn answer(&mut self, stream: u32) {
        self.write(HEADERS, END_STREAM | END_HEADERS, stream, &[0x88]).await.ok();
    }

    pub(crate) async fn reset(&mut self, stream: u32, code: u32) {
        self.write(RST_STREAM, 0, stream, &code.to_be_bytes()).await.ok();
    }

    /// Says that nothing beyond this stream was worked on.
    pub(crate) async fn go_away(&mut self, last: u32, code: u32) {
        self.write(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat()).await.ok();
    }

    /// Ends the connection in good order: what was said before arrives.
    pub(crate) async fn close(mut self) {
        self.stream.shutdown().await.ok();
        while self.next().await.is_some() {}
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame).await?;
        self.stream.flush().await
    }
}
