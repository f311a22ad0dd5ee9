//! One connection or one attempt, watched: how long each part took, who was there, and the certificate shown.
//!
//! Made of the parts every attempt is made of (guard, roots, connector, exchange) with somebody looking on between
//! them. Every probe makes a connection of its own, or there would be nothing to watch. Keeps nothing.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_types::HeaderMap;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::{
    DigitallySignedStruct, DistinguishedName, ProtocolVersion, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use rustls_platform_verifier::Verifier;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tower_service::Service;

use super::{
    Error, Target, certificate::Certificate, connect, exchange, failed, guard::Guard, sender::Sender,
};
use crate::pipeline::outcome::{Attempt, AttemptResult};

/// Makes probes.
#[derive(Debug, Clone)]
pub struct Prober {
    guard: Guard,
    verifier: Option<Arc<Verifier>>,
}

/// What was seen on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// How long its parts took.
    pub phases: Phases,
    /// What the name stands for; empty when the URL holds an address, or when resolving failed.
    pub addresses: Vec<IpAddr>,
    /// Who was connected to.
    pub peer: Option<SocketAddr>,
    /// The version of TLS.
    pub tls: Option<&'static str>,
    /// Was HTTP/2 agreed upon?
    pub http2: bool,
    /// The certificate shown, also when it was not trusted.
    pub certificate: Option<Certificate>,
}

/// How long each part took; `None` for what did not take place or did not come to its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// Resolving the name; an address needs none.
    pub dns: Option<Duration>,
    /// Connecting by TCP.
    pub connect: Option<Duration>,
    /// The TLS handshake.
    pub tls: Option<Duration>,
    /// From the connection to the status line: sending the request is in it.
    pub first_byte: Option<Duration>,
}

/// Why no connection could be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What an attempt would have come to.
    pub result: AttemptResult,
    /// Why.
    pub detail: String,
}

impl Prober {
    /// Trusts whom [`super::Client::new`] trusts.
    pub fn new(guard: Guard) -> Result<Self, Error> {
        Self::with_roots(guard, &[])
    }

    /// The same, trusting these certificates (PEM) besides.
    pub fn with_roots(guard: Guard, given: &[String]) -> Result<Self, Error> {
        Ok(Self { guard, verifier: connect::verifier(given)? })
    }

    /// Makes one attempt, exactly as a client does.
    pub async fn attempt(
        &self,
        target: &Target,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(Attempt, Seen), Error> {
        let notes = Notes::new();
        let sender = Sender::new(self.connector(&notes)?);
        let begun = notes.begin();
        let parties = (&sender, &self.guard);
        let (attempt, answered) = exchange(parties, target, (headers, body), begun, &mut |_| {}).await;
        Ok((attempt, notes.seen(answered)))
    }

    /// Connects, by TLS where the URL says so, and says nothing.
    pub async fn reach(&self, target: &Target) -> Result<(Result<(), Trouble>, Seen), Error> {
        let notes = Notes::new();
        if let Err(blocked) = self.guard.literal(&target.url) {
            let trouble = Trouble { result: AttemptResult::Blocked, detail: blocked.to_string() };
            return Ok((Err(trouble), notes.seen(None)));
        }
        let mut connector = self.connector(&notes)?;
        let begun = notes.begin();
        let connection = connector.call(target.uri.clone());
        let reached = match timeout_at(begun + target.timeout, connection).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                let (result, detail) = failed(&*error, true, target);
                Err(Trouble { result, detail })
            }
            Err(_) => Err(Trouble { result: AttemptResult::Timeout, detail: target.too_late() }),
        };
        Ok((reached, notes.seen(None)))
    }

    fn connector(&self, notes: &Notes) -> Result<Connector, Error> {
        let verifier = self
            .verifier
            .clone()
            .map(|inner| Arc::new(Witness { inner, notes: notes.clone() }) as Arc<dyn ServerCertVerifier>);
        let resolver = Watch::new(self.guard.clone(), notes, Marks::resolved);
        let tcp = Watch::new(connect::tcp(resolver), notes, Marks::connected);
        Ok(Watch::new(connect::https(connect::tls(verifier)?, tcp), notes, Marks::secured))
    }
}

type Resolver = Watch<Guard, std::vec::IntoIter<SocketAddr>>;
type Tcp = Watch<HttpConnector<Resolver>, TokioIo<TcpStream>>;
type Connector = Watch<HttpsConnector<Tcp>, MaybeHttpsStream<TokioIo<TcpStream>>>;

/// Passes calls on, and looks at what comes of them.
struct Watch<S, R> {
    inner: S,
    notes: Notes,
    look: fn(&mut Marks, &R),
}

impl<S, R> Watch<S, R> {
    fn new(inner: S, notes: &Notes, look: fn(&mut Marks, &R)) -> Self {
        Self { inner, notes: notes.clone(), look }
    }
}

/// Written out: a derived one would ask for `R: Clone`.
impl<S: Clone, R> Clone for Watch<S, R> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), &self.notes, self.look)
    }
}

impl<Q, S, R> Service<Q> for Watch<S, R>
where
    S: Service<Q, Response = R>,
    S::Future: Send + 'static,
    R: 'static,
{
    type Response = R;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<R, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Q) -> Self::Future {
        let (call, notes, look) = (self.inner.call(request), self.notes.clone(), self.look);
        Box::pin(async move {
            let response = call.await?;
            look(&mut notes.lock(), &response);
            Ok(response)
        })
    }
}

/// What those who look on write down.
#[derive(Debug, Clone)]
struct Notes(Arc<Mutex<Marks>>);

/// The moments at which the parts ended, and what was seen then.
#[derive(Debug)]
struct Marks {
    begun: Instant,
    resolved: Option<Instant>,
    connected: Option<Instant>,
    secured: Option<Instant>,
    seen: Seen,
}

impl Notes {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Marks {
            begun: Instant::now(),
            resolved: None,
            connected: None,
            secured: None,
            seen: Seen::default(),
        })))
    }

    /// From here on time counts: making what connects is not part of it.
    fn begin(&self) -> Instant {
        let now = Instant::now();
        self.lock().begun = now;
        now
    }

    fn seen(&self, answered: Option<Instant>) -> Seen {
        let marks = self.lock();
        let since = |earlier: Instant| move |at: Instant| at.saturating_duration_since(earlier);
        let before_tcp = marks.resolved.unwrap_or(marks.begun);
        let phases = Phases {
            dns: marks.resolved.map(since(marks.begun)),
            connect: marks.connected.map(since(before_tcp)),
            tls: marks.secured.zip(marks.connected).map(|(secured, connected)| since(connected)(secured)),
            first_byte: answered.map(since(marks.secured.or(marks.connected).unwrap_or(before_tcp))),
        };
        Seen { phases, ..marks.seen.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Marks {
    fn resolved(&mut self, addresses: &std::vec::IntoIter<SocketAddr>) {
        self.resolved = Some(Instant::now());
        self.seen.addresses = addresses.as_slice().iter().map(SocketAddr::ip).collect();
    }

    fn connected(&mut self, stream: &TokioIo<TcpStream>) {
        self.connected = Some(Instant::now());
        self.seen.peer = stream.inner().peer_addr().ok();
    }

    fn secured(&mut self, stream: &MaybeHttpsStream<TokioIo<TcpStream>>) {
        let MaybeHttpsStream::Https(stream) = stream else { return };
        self.secured = Some(Instant::now());
        let (_, tls) = stream.inner().get_ref();
        self.seen.http2 = tls.alpn_protocol() == Some(b"h2");
        self.seen.tls = tls.protocol_version().map(|version| match version {
            ProtocolVersion::TLSv1_3 => "TLS 1.3",
            ProtocolVersion::TLSv1_2 => "TLS 1.2",
            _ => "TLS",
        });
    }
}

/// Keeps the certificate that is shown, and leaves the judging to the verifier of all attempts.
#[derive(Debug)]
struct Witness {
    inner: Arc<Verifier>,
    notes: Notes,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.notes.lock().seen.certificate = Certificate::parse(end_entity);
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.inner.requires_raw_public_keys()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.inner.root_hint_subjects()
    }
}
