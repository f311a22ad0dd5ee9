//! The HTTP client for a collector of spans. The address guard has no say in it: the collector is the operator's own.

use std::{sync::Arc, time::Duration};

use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::{HttpConnector, dns::GaiResolver};
use opentelemetry_http::hyper::HyperClient;
use rustls::client::danger::ServerCertVerifier;

use super::{Error, connect};

/// A client that trusts whom every attempt trusts.
pub fn client(timeout: Duration) -> Result<HyperClient<HttpsConnector<HttpConnector>>, Error> {
    let verifier = connect::verifier(&[])?.map(|verifier| verifier as Arc<dyn ServerCertVerifier>);
    let tcp = connect::tcp(GaiResolver::new());
    Ok(HyperClient::new(connect::https(connect::tls(verifier)?, tcp), timeout, None))
}
