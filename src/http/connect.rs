//! How connections are made: resolved by the guard, TLS by rustls with the platform's roots.

use std::{sync::Arc, time::Duration};

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{HttpConnector, dns::GaiResolver};
use rustls::{
    ClientConfig, RootCertStore,
    client::danger::ServerCertVerifier,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use rustls_platform_verifier::Verifier;

use super::{
    Error,
    expiry::{Expiry, Watched},
    guard::Guard,
    sender::Sender,
    timed,
};

/// Longest wait for a connection, shared by the addresses of the name: a first address that swallows packets must
/// leave time for the second within the default `timeout` of 15 s.
const CONNECT: Duration = Duration::from_secs(10);

/// A sender that trusts the roots of the platform and these certificates (PEM) besides. What receivers show is noted.
pub(super) fn sender(guard: Guard, roots: &[String], expiry: Expiry) -> Result<Sender, Error> {
    let verifier = verifier(roots)?.map(|verifier| verifier as Arc<dyn ServerCertVerifier>);
    let tcp = timed::Tcp(tcp(timed::Resolver(guard)));
    Ok(Sender::new(timed::Connector(Watched::new(https(tls(verifier)?, tcp), expiry))))
}

/// Connections to wherever the operator says, which no guard has a say in; trusts whom every attempt trusts.
pub(super) fn unguarded() -> Result<HttpsConnector<HttpConnector>, Error> {
    let verifier = verifier(&[])?.map(|verifier| verifier as Arc<dyn ServerCertVerifier>);
    Ok(https(tls(verifier)?, tcp(GaiResolver::new())))
}

/// Puts TLS over connections where the URL says so.
pub(super) fn https<T>(tls: ClientConfig, tcp: T) -> HttpsConnector<T> {
    HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .wrap_connector(tcp)
}

/// Connects to what `resolver` finds.
pub(super) fn tcp<R>(resolver: R) -> HttpConnector<R> {
    let mut http = HttpConnector::new_with_resolver(resolver);
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT));
    http
}

/// TLS that trusts whom `verifier` trusts; without one, nobody.
pub(super) fn tls(verifier: Option<Arc<dyn ServerCertVerifier>>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = match verifier {
        Some(verifier) => builder.dangerous().with_custom_certificate_verifier(verifier),
        None => builder.with_root_certificates(RootCertStore::empty()),
    };
    Ok(builder.with_no_client_auth())
}

/// Judges certificates by the roots of the platform and the given ones (PEM). `None`: this machine has no roots.
pub(super) fn verifier(roots: &[String]) -> Result<Option<Arc<Verifier>>, Error> {
    let roots: Vec<CertificateDer<'static>> = roots
        .iter()
        .map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()))
        .collect::<Result<_, _>>()
        .map_err(Error::Certificate)?;
    let given = !roots.is_empty();
    match Verifier::new_with_extra_roots(roots, Arc::new(ring::default_provider())) {
        Ok(verifier) => Ok(Some(Arc::new(verifier))),
        Err(error) if given => Err(error.into()),
        Err(error) => {
            // A container without any root certificate can still serve http endpoints.
            tracing::warn!(%error, "no root certificates found, https endpoints will fail");
            Ok(None)
        }
    }
}
