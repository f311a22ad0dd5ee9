//! `arauto health`: is a running instance ready, or alive at all? For scripts, and for containers without a shell.
#![allow(clippy::print_stdout)] // The output is the point.

use serde::Deserialize;

use super::{
    Done,
    admin::{self, Admin},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  arauto health
  arauto health --live
  until arauto health --admin 10.0.0.7:9464; do sleep 1; done

Ready: a member of the group, whose brokers answer, whose records they take, and whose work moves. Alive: none of its parts
has stopped, whatever brokers and receivers do; only who is not alive is helped by a restart.

--json: what /readyz answers, with ready, why, state, joined, brokers, produce_trouble, stalled, last_reload; with --live an
object with alive and why.

Exit codes: 0 it is, 1 it is not, or nobody answers, 2 wrong usage or configuration.")]
pub(super) struct Args {
    /// Ask whether it is alive instead of whether it is ready.
    #[arg(long)]
    live: bool,
    /// Which instance is asked.
    #[command(flatten)]
    pub(super) admin: admin::Which,
}

/// What is looked at of the body of `/readyz`.
#[derive(Deserialize)]
struct Readiness {
    ready: bool,
    why: Option<String>,
}

pub(super) async fn run(args: &Args, admin: &Admin, json: bool) -> anyhow::Result<Done> {
    let (well, line) = if args.live { alive(admin, json).await? } else { ready(admin, json).await? };
    println!("{line}");
    Ok(if well { Done::Well } else { Done::Failed })
}

async fn ready(admin: &Admin, json: bool) -> anyhow::Result<(bool, String)> {
    let body = admin.page("/readyz").await?.body;
    let Readiness { ready, why } = admin.parse(&body)?;
    let line = match why {
        _ if json => String::from_utf8_lossy(&body).into_owned(),
        None => "ready".to_owned(),
        Some(why) => format!("not ready: {why}"),
    };
    Ok((ready, line))
}

async fn alive(admin: &Admin, json: bool) -> anyhow::Result<(bool, String)> {
    let answer = admin.page("/livez").await?;
    let told = String::from_utf8_lossy(&answer.body).trim().to_owned();
    let alive = answer.status == 200;
    let why = told.strip_prefix("not alive: ");
    let line = if json { serde_json::json!({ "alive": alive, "why": why }).to_string() } else { told };
    Ok((alive, line))
}
