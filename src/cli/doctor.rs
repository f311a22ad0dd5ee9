//! `arauto doctor`: is everything as it has to be, and if not, what is to be done?

use std::{
    io::{self, Write},
    path::Path,
};

use super::{
    Done,
    paint::{DIM, GREEN, Paint, RED, YELLOW},
    words::counted,
};
use crate::{
    config::{mistake::Mistakes, settings::Settings},
    doctor::{Area, Finding, Verdict, examine},
};

/// Look for what stands in the way: configuration, brokers, rights, topics, clocks, endpoints.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Run it where an instance runs or is to run: it tries what an instance would do, from there. It may run beside instances,
and changes nothing that matters: what it writes it takes back (a transaction that is aborted), it reads at the ends of
topics, connects to endpoints without sending anything, and to see whether an instance runs it commits a position of the
group on the state topic, which the group never reads.

Each line is ok, a warning (it works, but ...), or a problem, followed by the mend. Exit code 1 if there is a problem.

Examples:
  arauto doctor
  arauto doctor --json | jq 'select(.verdict == \"problem\")'

--json: one object per line: {verdict: ok|warning|problem, area, what, found, mend}.")]
pub(super) struct Args {}

/// Examines an installation whose configuration is right.
pub(super) async fn run(settings: &Settings, path: &Path, json: bool) -> anyhow::Result<Done> {
    let mut page = Page::new(json);
    let endpoints = counted(settings.endpoints.len(), "endpoint");
    page.show(&Finding::ok(Area::Configuration, path.display().to_string(), endpoints));
    examine(settings, |finding| page.show(&finding)).await;
    page.end()
}

/// The configuration is wrong, so nothing else can be looked at.
pub(super) fn refuse(mistakes: &Mistakes, path: &Path, json: bool) -> anyhow::Result<Done> {
    let mut page = Page::new(json);
    let mend = "correct the file; arauto check says whether it is right";
    let path = path.display().to_string();
    page.show(&Finding::problem(Area::Configuration, path, mistakes.to_string().trim_end(), mend));
    page.end()
}

/// Findings as they come.
struct Page {
    json: bool,
    paint: Paint,
    problems: usize,
    warnings: usize,
    failed: Option<anyhow::Error>,
}

impl Page {
    fn new(json: bool) -> Self {
        Self { json, paint: Paint::stdout(), problems: 0, warnings: 0, failed: None }
    }

    fn show(&mut self, finding: &Finding) {
        match finding.verdict {
            Verdict::Ok => {}
            Verdict::Warning => self.warnings += 1,
            Verdict::Problem => self.problems += 1,
        }
        let mut out = io::stdout().lock();
        let written = if self.json {
            serde_json::to_string(finding).map_err(Into::into).and_then(|line| Ok(writeln!(out, "{line}")?))
        } else {
            write!(out, "{}", lines(finding, self.paint)).map_err(Into::into)
        };
        if let Err(error) = written {
            self.failed.get_or_insert(error);
        }
    }

    fn end(self) -> anyhow::Result<Done> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if !self.json {
            let mut out = io::stdout().lock();
            let (problems, warnings) = (counted(self.problems, "problem"), counted(self.warnings, "warning"));
            writeln!(out, "\n{problems}, {warnings}")?;
        }
        Ok(if self.problems > 0 { Done::Failed } else { Done::Well })
    }
}

fn lines(finding: &Finding, paint: Paint) -> String {
    let Finding { verdict, area, what, found, mend } = finding;
    let (word, colour) = match verdict {
        Verdict::Ok => ("ok", GREEN),
        Verdict::Warning => ("warning", YELLOW),
        Verdict::Problem => ("problem", RED),
    };
    let word = paint.paint(colour, &format!("{word:7}"));
    let area = format!("{:13}", name(*area));
    let mut lines = format!("{word}  {}  {what}: {found}\n", paint.paint(DIM, &area));
    if let Some(mend) = mend {
        lines += &format!("{:24}-> {mend}\n", "");
    }
    lines
}

fn name(area: Area) -> &'static str {
    match area {
        Area::Configuration => "configuration",
        Area::Brokers => "brokers",
        Area::Clock => "clock",
        Area::Rights => "rights",
        Area::Topics => "topics",
        Area::Endpoints => "endpoints",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_its_mend_another() {
        let ok = Finding::ok(Area::Brokers, "localhost:9092", "1 broker answers");
        assert_eq!(lines(&ok, Paint::none()), "ok       brokers        localhost:9092: 1 broker answers\n");
        let problem = Finding::problem(Area::Topics, "orders", "does not exist", "create it");
        let expected =
            "problem  topics         orders: does not exist\n                        -> create it\n";
        assert_eq!(lines(&problem, Paint::none()), expected);
    }
}
