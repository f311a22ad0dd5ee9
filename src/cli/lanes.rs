//! `arauto lanes`: what a running instance does for each endpoint just now, those in trouble first.
//!
//! It prints what `/lanes` of the admin server answers, and decides nothing.

use std::{
    io::{self, IsTerminal, Write as _},
    time::Duration,
};

use anyhow::Context;
use tokio::time::{MissedTickBehavior, interval};

use self::table::Table;
use super::{
    Done,
    admin::{self, Admin},
    paint::Paint,
};
use crate::pipeline::lane::report::Reports;

mod table;

/// Between two looks of `--watch`.
const EVERY: Duration = Duration::from_secs(1);
/// Lanes shown in place unless told otherwise: what fits on most screens.
const ON_A_SCREEN: usize = 18;

/// Home, without wrapping what is too wide; the rest of each line and of the screen is cleared as it is written over.
const BEGIN: &str = "\x1b[?7l\x1b[H";
const END_OF_LINE: &str = "\x1b[K\n";
const END: &str = "\x1b[J\x1b[?7h";

/// Show what each active endpoint's lane does, those in trouble first.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  arauto lanes
  arauto lanes --watch --top 10
  arauto lanes --admin 10.0.0.7:9464 --json | jq -r '.lanes[] | select(.breaker == \"open\").endpoint'

--json: {\"at\", \"lanes\"}, on one line for each look; a lane has endpoint, queued, waiting, in_flight, limit, concurrency, rate,
rate_limit, breaker, next_probe, paused, paused_until, disabled, cursor, failing_since, last_error, own_queue_lag. Times are
unix ms.")]
pub(super) struct Args {
    /// Again every second, in place, until Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// Show only so many. With --watch on a terminal: 18.
    #[arg(long, value_name = "COUNT")]
    top: Option<usize>,
    /// Which instance is asked.
    #[command(flatten)]
    pub(super) admin: admin::Which,
}

/// Prints once, or until Ctrl-C.
pub(super) async fn run(args: &Args, admin: &Admin, json: bool) -> anyhow::Result<Done> {
    let mut show = Show { json, top: args.top, in_place: false, paint: Paint::stdout() };
    if args.watch {
        show.in_place = !json && io::stdout().is_terminal();
        watch(&mut show, admin).await?;
    } else {
        show.reports(&admin.get("/lanes").await?, admin.address()).context("printing")?;
    }
    Ok(Done::Well)
}

/// The first look must succeed; later an instance may come and go.
async fn watch(show: &mut Show, admin: &Admin) -> anyhow::Result<()> {
    let stopped = tokio::signal::ctrl_c();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(stopped);
    let mut seen = false;
    loop {
        let look = async {
            ticks.tick().await;
            admin.get("/lanes").await
        };
        let looked = tokio::select! {
            stopped = &mut stopped => return stopped.context("waiting for Ctrl-C"),
            looked = look => looked,
        };
        match looked {
            Ok(reports) => show.reports(&reports, admin.address()),
            Err(error) if seen => show.trouble(&error),
            Err(error) => return Err(error),
        }
        .context("printing")?;
        seen = true;
    }
}

/// How it is printed.
struct Show {
    json: bool,
    top: Option<usize>,
    /// Over what was printed before.
    in_place: bool,
    paint: Paint,
}

impl Show {
    fn reports(&mut self, reports: &Reports, address: &str) -> io::Result<()> {
        if self.json {
            // One line each time: whoever watches reads line by line.
            return say(&format!("{}\n", serde_json::to_string(reports)?));
        }
        let top = self.top.or(self.in_place.then_some(ON_A_SCREEN)).unwrap_or(usize::MAX);
        self.page(&Table { reports, address, top, paint: self.paint }.to_string())
    }

    fn trouble(&mut self, error: &anyhow::Error) -> io::Result<()> {
        if self.json {
            // Whoever reads the objects reads no sentences.
            return writeln!(io::stderr(), "arauto: {error:#}");
        }
        self.page(&format!("{error:#}\n"))
    }

    fn page(&mut self, page: &str) -> io::Result<()> {
        if !self.in_place {
            return say(page);
        }
        let lines = page.lines().map(|line| format!("{line}{END_OF_LINE}"));
        say(&format!("{BEGIN}{}{END}", lines.collect::<String>()))
    }
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
