//! A server that says exactly the bytes it is told to, for what no well-behaved one would do.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, rustls};

/// What follows the answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Then {
    /// The next request on this connection.
    Keep,
    /// The end of the connection.
    Close,
    /// Silence.
    Hang,
    /// A byte every 20 ms, for ever.
    Drip,
    /// As many bytes as the other side takes.
    Flood,
}

/// A running server; ends when dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    log: Arc<Log>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
pub(crate) struct Log {
    connections: AtomicUsize,
    requests: Mutex<Vec<Request>>,
}

impl Log {
    /// Remembers a request; how many there are now.
    pub(crate) fn note(&self, request: Request) -> usize {
        let mut requests = self.requests.lock().unwrap();
        requests.push(request);
        requests.len()
    }
}

/// A request as it came over the wire.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Server {
    /// Answers every request with these bytes.
    pub(crate) async fn start(answer: impl Into<Vec<u8>>, then: Then) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        Self::with(move |stream, log| {
            let answer = Arc::clone(&answer);
            async move { talk(stream, &answer, then, &log).await }
        })
        .await
    }

    /// The same behind TLS.
    pub(crate) async fn tls(config: rustls::ServerConfig, answer: &'static str) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::with(move |stream, log| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    talk(stream, answer.as_bytes(), Then::Keep, &log).await;
                }
            }
        })
        .await
    }

    /// Gives each connection to `serve`.
    pub(crate) async fn with<F>(serve: impl Fn(TcpStream, Arc<Log>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let log = Arc::new(Log::default());
        let mut tasks = JoinSet::new();
        let seen = Arc::clone(&log);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                seen.connections.fetch_add(1, SeqCst);
                connections.spawn(serve(stream, Arc::clone(&seen)));
            }
        });
        Self { addr, log, _tasks: tasks }
    }

    pub(crate) fn connections(&self) -> usize {
        self.log.connections.load(SeqCst)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.requests.lock().unwrap().clone()
    }
}

impl Request {
    /// A header's value, by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: &[u8], then: Then, log: &Log) {
    while let Some(request) = read(&mut stream).await {
        log.note(request);
        if stream.write_all(answer).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        match then {
            Then::Keep => {}
            Then::Close => return,
            Then::Hang => std::future::pending().await,
            Then::Drip => {
                while stream.write_all(b".").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Then::Flood => while stream.write_all(&[b'x'; 16 * 1024]).await.is_ok() {},
        }
    }
}

/// The next request; `None` at the end of the connection.
pub(crate) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let mut request = Request { head: String::from_utf8(head).unwrap(), body: Vec::new() };
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    request.body.resize(length, 0);
    stream.read_exact(&mut request.body).await.ok()?;
    Some(request)
}

/// A self-signed certificate for a name: what the server needs, and the PEM a client may trust.
pub(crate) fn certificate(name: &str, alpn: &[&str]) -> (rustls::ServerConfig, String) {
    certificate_until(name, alpn, 2099)
}

/// The same, valid until the last day of a year.
pub(crate) fn certificate_until(name: &str, alpn: &[&str], year: i32) -> (rustls::ServerConfig, String) {
    certificate_ending(name, alpn, (year, 12, 31))
}

/// The same, valid until the beginning of a day (UTC).
pub(crate) fn certificate_ending(
    name: &str,
    alpn: &[&str],
    (year, month, day): (i32, u8, u8),
) -> (rustls::ServerConfig, String) {
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(year, month, day);
    params.distinguished_name.push(rcgen::DnType::CommonName, "a receiver");
    let signing_key = rcgen::KeyPair::generate().unwrap();
    let cert = params.self_signed(&signing_key).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    (config, cert.pem())
}
