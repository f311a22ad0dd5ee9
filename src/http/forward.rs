//! Hands a received request on to a server of the user's choice, and its answer back: the tunnel of `arauto listen`.
//!
//! Nothing of a delivery goes this way, and the address guard has no say in it: whoever sits at the terminal has named
//! the server.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use http_types::{HeaderMap, HeaderName, Method, Request, StatusCode, Uri, header, uri::PathAndQuery};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::timeout;
use url::Url;

use super::{Error, chain, connect};

/// Longest wait for the whole answer: above the default `timeout` of 15 s, after which no sender waits any more.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest body of an answer; of a webhook's answer nobody reads more than the beginning.
const LARGEST: usize = 1024 * 1024;

/// Headers of a connection, not of a message (RFC 9110, 7.6.1), and those that follow from where and what is sent.
const NOT_PASSED_ON: [HeaderName; 8] = [
    header::CONNECTION,
    header::HOST,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Hands requests on.
#[derive(Debug, Clone)]
pub struct Forwarder {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    to: Url,
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// Its headers, without those of the connection.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody answered, or not with HTTP.
    #[error("{0}")]
    Failed(String),
    /// It took too long.
    #[error("no answer within {PATIENCE:?}")]
    TooLate,
}

impl Forwarder {
    /// Hands on to this URL. With a path of its own it gets everything; without one each request keeps its path.
    pub fn new(to: Url) -> Result<Self, Error> {
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connect::unguarded()?), to })
    }

    /// Hands one request on: the same method, headers and bytes.
    pub async fn forward(
        &self,
        method: Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Answer, NoAnswer> {
        let failed = |told: String| NoAnswer::Failed(told);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.uri(path).map_err(|error| failed(error.to_string()))?;
        *request.headers_mut() = passed_on(headers);
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| failed(chain(&error)))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, LARGEST).collect().await.map_err(|error| failed(chain(&*error)))?;
            Ok(Answer { status: head.status, headers: passed_on(&head.headers), body: body.to_bytes() })
        };
        timeout(PATIENCE, exchange).await.unwrap_or(Err(NoAnswer::TooLate))
    }

    fn uri(&self, path: &str) -> Result<Uri, http_types::Error> {
        let to: Uri = self.to.as_str().parse()?;
        if self.to.path() != "/" || self.to.query().is_some() {
            return Ok(to);
        }
        let mut parts = to.into_parts();
        parts.path_and_query = Some(path.parse::<PathAndQuery>()?);
        Ok(Uri::from_parts(parts)?)
    }
}

fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in NOT_PASSED_ON {
        headers.remove(name);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_path_keeps_each_request_at_its_own() {
        let rows = [
            ("http://localhost:3000", "http://localhost:3000/hook?a=b"),
            ("http://localhost:3000/", "http://localhost:3000/hook?a=b"),
            ("http://localhost:3000/in", "http://localhost:3000/in"),
            ("http://localhost:3000/?k=v", "http://localhost:3000/?k=v"),
            ("https://[::1]:8443", "https://[::1]:8443/hook?a=b"),
        ];
        for (to, expected) in rows {
            let forwarder = Forwarder::new(to.parse().unwrap()).unwrap();
            assert_eq!(forwarder.uri("/hook?a=b").unwrap(), expected);
        }
    }

    #[test]
    fn headers_of_the_connection_stay_behind() {
        let names =
            ["webhook-id", "host", "connection", "transfer-encoding", "content-length", "content-type"];
        let headers =
            names.iter().map(|name| (HeaderName::from_static(name), "x".parse().unwrap())).collect();
        let passed = passed_on(&headers);
        assert_eq!(passed.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["webhook-id", "content-type"]);
    }
}
