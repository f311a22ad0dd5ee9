//! `arauto log`: which levels a running instance logs, shown or changed for a while.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::{
    Done, Usage,
    admin::{self, Admin},
};
use crate::config::level;

/// Show which levels a running instance logs, or change them for a while.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is set holds on that instance until it ends, or until log.level changes in its configuration.

Examples:
  arauto log
  arauto log arauto=debug
  arauto log info --admin 10.0.0.7:9464

--json: {\"level\"}, what is logged now.

Exit codes: 0 done, 1 nobody answered, 2 wrong usage or configuration.")]
pub(super) struct Args {
    /// What to log: off, error, warn, info, debug or trace, also per module: `arauto=debug,rdkafka=warn`. Without it,
    /// what is logged now is shown.
    #[arg(value_name = "FILTER")]
    level: Option<String>,
    /// Which instance is told.
    #[command(flatten)]
    pub(super) admin: admin::Which,
}

/// What the admin server answers.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    level: String,
}

pub(super) async fn run(args: &Args, admin: &Admin, json: bool) -> anyhow::Result<Done> {
    let answer: Answer = match &args.level {
        None => admin.get("/log").await?,
        Some(level) => {
            level::parse(level)
                .map_err(|wrong| Usage(format!("{level:?} is no filter of levels: {wrong}")))?;
            admin.put("/log", level.clone()).await?
        }
    };
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, &answer)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{} logs {}", admin.address(), answer.level)?;
    }
    Ok(Done::Well)
}
