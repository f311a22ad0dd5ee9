//! What stands in the way of an installation: each thing Arauto relies on, looked at or tried, with the mend.
//!
//! Nothing here prints, and nothing is changed that matters: what is written is taken back ([`crate::kafka::trial`]),
//! and what says whether an instance runs is a position on a topic the group never reads.

use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::{
    config::settings::Settings,
    kafka::{observer::Observer, topics::Admin},
};

mod brokers;
mod receivers;
mod rights;
mod topics;

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but not as it could, or only for now.
    Warning,
    /// It does not work, or a promise is not kept.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it is.
    pub verdict: Verdict,
    /// What kind of thing it is.
    pub area: Area,
    /// Which one.
    pub what: String,
    /// What was found.
    pub found: String,
    /// What to do; nothing if it is as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

/// What kind of thing was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // The names say it.
pub enum Area {
    Configuration,
    Brokers,
    Clock,
    Rights,
    Topics,
    Endpoints,
}

impl Finding {
    /// As it should be.
    pub fn ok(area: Area, what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, area, what: what.into(), found: found.into(), mend: None }
    }

    /// It works, but.
    pub fn warning(area: Area, what: impl Into<String>, found: impl Into<String>, mend: &str) -> Self {
        Self { verdict: Verdict::Warning, mend: Some(mend.to_owned()), ..Self::ok(area, what, found) }
    }

    /// It does not work.
    pub fn problem(area: Area, what: impl Into<String>, found: impl Into<String>, mend: &str) -> Self {
        Self { verdict: Verdict::Problem, mend: Some(mend.to_owned()), ..Self::ok(area, what, found) }
    }
}

/// Looks at everything; `tell` hears each finding as soon as it is there. Without brokers only the endpoints are looked
/// at besides.
pub async fn examine(settings: &Settings, mut tell: impl FnMut(Finding)) {
    let (reached, findings) = brokers::look(&settings.kafka).await;
    findings.into_iter().for_each(&mut tell);
    if reached {
        match Admin::new(&settings.kafka) {
            Ok(admin) => examine_cluster(settings, &admin, &mut tell).await,
            Err(error) => {
                let mend = "correct kafka.properties";
                tell(Finding::problem(Area::Brokers, "client", error.to_string(), mend));
            }
        }
    }
    receivers::look(settings).await.into_iter().for_each(tell);
}

async fn examine_cluster(settings: &Settings, admin: &Admin, tell: &mut impl FnMut(Finding)) {
    let inspection = match admin.inspect(settings).await {
        Ok(inspection) => inspection,
        Err(error) => {
            let mend = "see whether the brokers are overloaded or restarting, and try again";
            return tell(Finding::problem(Area::Topics, "all", error.to_string(), mend));
        }
    };
    topics::look(settings, &inspection).into_iter().for_each(&mut *tell);
    rights::by_admin(settings, admin, &inspection).await.into_iter().for_each(&mut *tell);
    let (settings, existing) = (settings.clone(), inspection);
    let tried = spawn_blocking(move || {
        let observer = Observer::new(&settings.kafka);
        observer.map(|observer| rights::by_clients(&settings, &observer, &existing))
    });
    match tried.await {
        Ok(Ok(findings)) => findings.into_iter().for_each(tell),
        Ok(Err(error)) => {
            tell(Finding::problem(Area::Brokers, "client", error.to_string(), "correct kafka.properties"));
        }
        // A check that panicked has found something, too.
        Err(error) => tell(Finding::problem(Area::Rights, "all", error.to_string(), "report this as a bug")),
    }
}
