//! The HTTP client for a collector of spans. The address guard has no say in it: the collector is the operator's own.

use std::time::Duration;

use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::hyper::HyperClient;

use super::{Error, connect};

/// A client that trusts whom every attempt trusts.
pub fn client(timeout: Duration) -> Result<HyperClient<HttpsConnector<HttpConnector>>, Error> {
    Ok(HyperClient::new(connect::unguarded()?, timeout, None))
}
