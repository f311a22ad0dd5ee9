//! Where a running instance is asked, and what is said when it does not answer.

use anyhow::{Context, anyhow, bail};
use serde::de::DeserializeOwned;

use super::Usage;
use crate::{
    config::settings,
    http::ask::{Answer, Asker, Error},
};

/// Which instance is meant.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Admin address of a running instance, instead of the configuration's (which is then not read).
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<String>,
}

/// The admin server of a running instance.
pub(super) struct Admin {
    asker: Asker,
    address: String,
}

impl Which {
    /// The instance that was named, or the one the configuration describes.
    pub(super) fn find(
        &self,
        configured: impl FnOnce() -> anyhow::Result<settings::Admin>,
    ) -> anyhow::Result<Admin> {
        let address = match &self.admin {
            Some(named) => named.clone(),
            None => reachable(&configured()?)?,
        };
        Ok(Admin { asker: Asker::new()?, address })
    }
}

impl Admin {
    /// What a page says, as JSON.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.read(self.asker.get(&self.url(path)).await)
    }

    /// What a page says when it has been told something.
    pub(super) async fn put<T: DeserializeOwned>(&self, path: &str, body: String) -> anyhow::Result<T> {
        self.read(self.asker.put(&self.url(path), body).await)
    }

    /// Whatever a page answers, with whatever status.
    pub(super) async fn page(&self, path: &str) -> anyhow::Result<Answer> {
        self.answered(self.asker.get(&self.url(path)).await)
    }

    /// The address it is asked at.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn read<T: DeserializeOwned>(&self, answer: Result<Answer, Error>) -> anyhow::Result<T> {
        let address = &self.address;
        let answer = self.answered(answer)?;
        if !(200..300).contains(&answer.status) {
            bail!("{address} answered {}: {}", answer.status, told(&answer.body));
        }
        self.parse(&answer.body)
    }

    fn answered(&self, answer: Result<Answer, Error>) -> anyhow::Result<Answer> {
        let address = &self.address;
        answer.map_err(|error| match error {
            Error::Connect(why) => anyhow!(
                "nobody answers at {address} ({why}); is an instance running there? Name its admin.listen with --admin HOST:PORT"
            ),
            Error::Answer(why) => anyhow!("{address} gave no answer: {why}"),
            Error::Client(_) => error.into(),
        })
    }

    /// What an answer says.
    pub(super) fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> anyhow::Result<T> {
        let context = || format!("{} is no admin server of this version of Arauto", self.address);
        serde_json::from_slice(body).with_context(context)
    }
}

/// The reason an answer gives, or what else there is to read in it.
fn told(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Told {
        error: String,
    }

    match serde_json::from_slice::<Told>(body) {
        Ok(told) => told.error,
        Err(_) => {
            String::from_utf8_lossy(body).trim().chars().filter(|c| !c.is_control()).take(200).collect()
        }
    }
}

/// Where the server that listens there is reached from the same machine.
fn reachable(admin: &settings::Admin) -> anyhow::Result<String> {
    let Some(mut listen) = admin.listen else {
        let told = "admin.listen is \"off\", so a running instance cannot be asked; give it an address and restart it";
        return Err(Usage(told.to_owned()).into());
    };
    if listen.port() == 0 {
        let told = "admin.listen has port 0: the system chose one, which the instance has logged (\"admin listening\"); name it with --admin HOST:PORT";
        return Err(Usage(told.to_owned()).into());
    }
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen.ip() {
            std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(listen.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_listens_everywhere_is_reached_here() {
        let rows = [
            (Some("127.0.0.1:9464"), Ok("127.0.0.1:9464")),
            (Some("10.1.2.3:80"), Ok("10.1.2.3:80")),
            (Some("0.0.0.0:9464"), Ok("127.0.0.1:9464")),
            (Some("[::]:9464"), Ok("[::1]:9464")),
            (Some("127.0.0.1:0"), Err("--admin")),
            (None, Err("\"off\"")),
        ];
        for (listen, expected) in rows {
            let listen = listen.map(|address| address.parse().unwrap());
            let got = reachable(&settings::Admin {
                listen,
                max_endpoint_series: 1,
                stalled_after: std::time::Duration::from_secs(60),
            });
            match (got, expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected),
                (Err(error), Err(told)) => assert!(error.to_string().contains(told), "{error}"),
                (got, _) => panic!("{listen:?}: {got:?}"),
            }
        }
    }

    #[test]
    fn a_refusal_is_told_in_its_own_words() {
        for (body, expected) in [
            (&br#"{"error":"not started yet"}"#[..], "not started yet"),
            (b"404 page\x1b[31m not found\n", "404 page[31m not found"),
            (b"", ""),
        ] {
            assert_eq!(told(body), expected);
        }
    }
}
