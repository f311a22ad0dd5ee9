//! Until when the certificates of receivers are valid: learnt from the connections that deliveries make anyway.
//!
//! One look per new TLS connection, at what its handshake brought; none per attempt, and no connection for its own sake.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use http_types::Uri;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use rustls::CertificateError;
use tokio::net::TcpStream;
use tower_service::Service;
use url::Url;

use super::{causes, certificate::Certificate, sender::BoxError};

/// Until when each receiver's certificate is valid. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Expiry(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By host and port; unix milliseconds.
    known: Mutex<HashMap<Box<str>, i64>>,
    changes: AtomicU64,
}

impl Expiry {
    /// Until when the certificate is valid that was shown there last, in unix milliseconds; `None` before any was.
    pub fn of(&self, url: &Url) -> Option<i64> {
        let place = place(url.host_str()?, url.port_or_known_default()?);
        self.known().get(&*place).copied()
    }

    /// Another number than before: something has changed.
    pub fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }

    /// Forgets all receivers but those of these URLs.
    pub fn keep<'u>(&self, urls: impl Iterator<Item = &'u Url>) {
        let places = urls.filter_map(|url| Some(place(url.host_str()?, url.port_or_known_default()?)));
        let places: HashSet<Box<str>> = places.collect();
        self.known().retain(|place, _| places.contains(place));
    }

    fn note(&self, uri: &Uri, not_after: i64) {
        let Some(host) = uri.host() else { return };
        let before = self.known().insert(place(host, uri.port_u16().unwrap_or(443)), not_after);
        if before != Some(not_after) {
            self.0.changes.fetch_add(1, Ordering::Release);
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Box<str>, i64>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(host: &str, port: u16) -> Box<str> {
    format!("{host}:{port}").into()
}

/// Connects by `inner`, and looks at the certificate.
#[derive(Debug, Clone)]
pub(super) struct Watched<S> {
    inner: S,
    expiry: Expiry,
}

impl<S> Watched<S> {
    pub(super) fn new(inner: S, expiry: Expiry) -> Self {
        Self { inner, expiry }
    }
}

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

impl<S> Service<Uri> for Watched<S>
where
    S: Service<Uri, Response = Stream, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (expiry, of) = (self.expiry.clone(), uri.clone());
        let connection = self.inner.call(uri);
        Box::pin(async move {
            let connected = connection.await;
            let not_after = match &connected {
                Ok(stream) => shown(stream),
                Err(error) => expired(&**error),
            };
            not_after.into_iter().for_each(|not_after| expiry.note(&of, not_after));
            connected
        })
    }
}

fn shown(stream: &Stream) -> Option<i64> {
    let MaybeHttpsStream::Https(stream) = stream else { return None };
    let (_, tls) = stream.inner().get_ref();
    let certificate = Certificate::parse(tls.peer_certificates()?.first()?)?;
    Some(certificate.not_after)
}

/// Of one that is refused because its time is over; others say nothing about when that will be.
fn expired(error: &(dyn std::error::Error + 'static)) -> Option<i64> {
    let refused = causes(error).find_map(|cause| match cause.downcast_ref()? {
        rustls::Error::InvalidCertificate(why) => Some(why),
        _ => None,
    });
    match refused? {
        CertificateError::ExpiredContext { not_after, .. } => {
            i64::try_from(not_after.as_secs()).ok()?.checked_mul(1000)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_are_known_by_host_and_port() {
        let expiry = Expiry::default();
        let notes = [
            ("https://a.example/hook", 1),
            ("https://a.example:8443/", 2),
            ("https://[::1]:9443/", 3),
            ("https://b.example/", 4),
            ("https://b.example/other", 5),
            ("https://b.example/other", 5),
        ];
        for (uri, not_after) in notes {
            expiry.note(&uri.parse().unwrap(), not_after);
        }
        assert_eq!(expiry.changes(), 5);
        let of = |url: &str| expiry.of(&url.parse().unwrap());
        assert_eq!(of("https://A.example:443/any?thing"), Some(1));
        assert_eq!(of("https://a.example:8443"), Some(2));
        assert_eq!(of("https://[0:0::1]:9443/"), Some(3));
        assert_eq!(of("https://b.example/"), Some(5));
        assert_eq!(of("https://c.example/"), None);
        let kept: Url = "https://b.example/".parse().unwrap();
        expiry.keep(std::iter::once(&kept));
        assert_eq!((of("https://a.example/"), of("https://b.example/x")), (None, Some(5)));
    }
}
