//! Questions to an admin server of ours, as the command line has them. Nothing of an endpoint goes this way.

use std::time::Duration;

use bytes::Bytes;

use super::chain;

/// An admin server answers from memory; one that does not answer within this is frozen or is none.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks, over connections it keeps.
#[derive(Debug, Clone)]
pub struct Asker(reqwest::Client);

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing to ask with can be made.
    #[error("no http client")]
    Client(#[source] reqwest::Error),
    /// Nobody listens there.
    #[error("{0}")]
    Connect(String),
    /// Somebody listens, and the answer did not come or broke off.
    #[error("{0}")]
    Answer(String),
}

impl Asker {
    /// Somebody to ask with.
    pub fn new() -> Result<Self, Error> {
        // reqwest takes the process's provider; a second call (tests, dev) finds it set already.
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::trace!("a tls provider was installed before");
        }
        let plain = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
        plain.timeout(PATIENCE).tls_certs_only([]).build().map(Self).map_err(Error::Client)
    }

    /// Asks for what is there.
    pub async fn get(&self, url: &str) -> Result<Answer, Error> {
        answer(self.0.get(url)).await
    }

    /// Asks for something to be as this says.
    pub async fn put(&self, url: &str, body: String) -> Result<Answer, Error> {
        answer(self.0.put(url).body(body)).await
    }

    /// Asks for something to be done.
    pub async fn post(&self, url: &str) -> Result<Answer, Error> {
        answer(self.0.post(url)).await
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Answer, Error> {
    let answered = async {
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok(Answer { status, body: response.bytes().await? })
    };
    answered.await.map_err(|error: reqwest::Error| {
        let error = error.without_url();
        let (connect, told) = (error.is_connect(), chain(&error));
        if connect { Error::Connect(told) } else { Error::Answer(told) }
    })
}
