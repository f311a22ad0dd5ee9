//! A TCP receiver that breaks HTTP in ways a proper server cannot: never answers, lies about lengths, resets.
//!
//! It reads the request's head only so as to answer in time; it understands nothing of it. `hook.rs` is the
//! receiver for everything that is HTTP.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// One step of what happens on every connection.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Read until the end of a request's head.
    ReadHead,
    /// Send these bytes.
    Send(Vec<u8>),
    /// Send these bytes, wait, and again, for ever.
    Drip(Vec<u8>, Duration),
    /// Do nothing for this long.
    Wait(Duration),
    /// Reset the connection.
    Reset,
    /// Keep the connection open and do nothing, for ever.
    Hold,
}

/// A receiver. After the last step a connection is closed. Dropping it closes everything.
pub(crate) struct Raw {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Raw {
    /// Takes these steps on every connection.
    pub(crate) async fn start(steps: Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let serve = accept(listener, steps.into(), connections.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "ends with the receiver, not with the application's tasks"
        )]
        let server = tokio::spawn(serve);
        Self { address, connections, server }
    }

    /// Reads a request, sends these bytes and closes the connection.
    pub(crate) async fn answering(bytes: &str) -> Self {
        Self::start(vec![Step::ReadHead, Step::Send(bytes.as_bytes().to_vec())]).await
    }

    /// Accepts connections and never says a word.
    pub(crate) async fn silent() -> Self {
        Self::start(vec![Step::Hold]).await
    }

    /// Reads a request and resets the connection.
    pub(crate) async fn resetting() -> Self {
        Self::start(vec![Step::ReadHead, Step::Reset]).await
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/raw", self.address)
    }

    /// Its address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A URL where connections are refused: nobody listens on port 1 of the loopback.
pub(crate) fn refused_url() -> String {
    "http://127.0.0.1:1/".to_owned()
}

async fn accept(listener: TcpListener, steps: Arc<[Step]>, connections: Arc<AtomicUsize>) {
    // Dropped with this future, and every connection with it.
    let mut open = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::Relaxed);
        let steps = steps.clone();
        // A client that goes away in the middle is part of the game.
        open.spawn(async move { play(stream, &steps).await.unwrap_or_default() });
        while open.try_join_next().is_some() {}
    }
}

async fn play(mut stream: TcpStream, steps: &[Step]) -> std::io::Result<()> {
    for step in steps {
        match step {
            Step::ReadHead => read_head(&mut stream).await?,
            Step::Send(bytes) => stream.write_all(bytes).await?,
            Step::Drip(bytes, pause) => loop {
                stream.write_all(bytes).await?;
                tokio::time::sleep(*pause).await;
            },
            Step::Wait(pause) => tokio::time::sleep(*pause).await,
            Step::Reset => return stream.set_zero_linger(),
            Step::Hold => std::future::pending().await,
        }
    }
    stream.shutdown().await
}

async fn read_head(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}
