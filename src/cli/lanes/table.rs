//! The table of lanes: one line each, aligned, times as people say them.

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

use crate::{
    cli::{
        listen::clock,
        paint::{DIM, GREEN, Paint, RED, YELLOW},
        words::{counted, span},
    },
    pipeline::lane::report::{Report, Reports, Trouble},
};

/// This much of an error is shown; `--json` has all of it.
const ERROR: usize = 80;

const COLUMNS: [&str; 9] =
    ["ENDPOINT", "STATE", "QUEUED", "WAITING", "IN FLIGHT", "LIMIT", "RATE", "PARKED UP TO", "LAST ERROR"];
/// Text begins at the left of its column, numbers end at the right of it.
const TEXT: [bool; COLUMNS.len()] = [true, true, false, false, false, false, false, false, true];
const STATE: usize = 1;

type Cells = [String; COLUMNS.len()];

/// A table of lanes as text.
pub(super) struct Table<'r> {
    pub(super) reports: &'r Reports,
    /// Which instance it is of.
    pub(super) address: &'r str,
    /// Lines at most.
    pub(super) top: usize,
    pub(super) paint: Paint,
}

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Reports { at, lanes } = self.reports;
        let shown = &lanes[..self.top.min(lanes.len())];
        let in_trouble = lanes.iter().filter(|lane| lane.trouble() != Trouble::None).count();
        let time = clock(*at);
        // To the second: it is for people.
        let time = &time[..time.rfind('.').unwrap_or(time.len())];
        let head = format!(
            "{} active at {}, {in_trouble} in trouble, {time} UTC",
            counted(lanes.len(), "lane"),
            self.address
        );
        writeln!(f, "{}\n", self.paint.paint(DIM, &head))?;
        if lanes.is_empty() {
            return writeln!(f, "Nothing is under way, and no endpoint is in trouble.");
        }
        let rows: Vec<(Cells, Trouble)> =
            shown.iter().map(|lane| (cells(lane, *at), lane.trouble())).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|(cells, _)| cells[column].chars().count());
            cells.chain([COLUMNS[column].len()]).max().unwrap_or(0)
        };
        let widths = std::array::from_fn(width);
        let heads = COLUMNS.map(str::to_owned);
        writeln!(f, "{}", self.paint.paint(DIM, &line(&aligned(&heads, widths))))?;
        for (cells, trouble) in rows {
            let mut cells = aligned(&cells, widths);
            cells[STATE] = self.paint.paint(colour(trouble), &cells[STATE]);
            writeln!(f, "{}", line(&cells))?;
        }
        match lanes.len() - shown.len() {
            0 => Ok(()),
            more => writeln!(f, "{}", self.paint.paint(DIM, &format!("and {}", counted(more, "more lane")))),
        }
    }
}

fn aligned(cells: &Cells, widths: [usize; COLUMNS.len()]) -> Cells {
    std::array::from_fn(|column| {
        let (cell, width) = (&cells[column], widths[column]);
        if TEXT[column] { format!("{cell:width$}") } else { format!("{cell:>width$}") }
    })
}

fn line(cells: &Cells) -> String {
    cells.join("  ").trim_end().to_owned()
}

fn cells(lane: &Report, at: i64) -> Cells {
    let rate = match lane.rate_limit {
        Some(limit) => format!("{} of {}/s", decimal(lane.rate), decimal(limit)),
        None => format!("{}/s", decimal(lane.rate)),
    };
    [
        lane.endpoint.clone(),
        state(lane, at),
        lane.queued.to_string(),
        lane.waiting.to_string(),
        lane.in_flight.to_string(),
        format!("{}/{}", lane.limit, lane.concurrency),
        rate,
        lane.cursor.map_or_else(|| "-".to_owned(), |cursor| format!("+{}", time(cursor - at))),
        lane.last_error.as_deref().map_or_else(|| "-".to_owned(), cut),
    ]
}

fn state(lane: &Report, at: i64) -> String {
    let until = |until: Option<i64>| time(until.unwrap_or(at) - at);
    match lane.trouble() {
        Trouble::Disabled => match lane.disabled.as_deref() {
            None | Some("") => "disabled".to_owned(),
            Some(why) => format!("disabled: {why}"),
        },
        Trouble::Open => format!("open, probe in {}", until(lane.next_probe)),
        Trouble::Probing => "probing".to_owned(),
        Trouble::Paused => "paused".to_owned(),
        Trouble::AskedToWait => format!("asked to wait {}", until(lane.paused_until)),
        Trouble::Failing => format!("failing for {}", time(at - lane.failing_since.unwrap_or(at))),
        Trouble::None => "ok".to_owned(),
    }
}

fn colour(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::Disabled | Trouble::Open => RED,
        Trouble::Probing | Trouble::Paused | Trouble::AskedToWait | Trouble::Failing => YELLOW,
        Trouble::None => GREEN,
    }
}

fn time(ms: i64) -> String {
    span(Duration::from_millis(ms.max(0).unsigned_abs()))
}

fn decimal(number: f64) -> String {
    let text = if number < 10.0 { format!("{number:.2}") } else { format!("{number:.1}") };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn cut(error: &str) -> String {
    match error.char_indices().nth(ERROR) {
        None => error.to_owned(),
        Some((end, _)) => format!("{}…", &error[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::lane::report::{Breaker, tests::lane};

    const NOW: i64 = 1_700_000_000_000;

    fn print(lanes: Vec<Report>, top: usize) -> String {
        let reports = Reports { at: NOW, lanes };
        Table { reports: &reports, address: "localhost:9464", top, paint: Paint::none() }.to_string()
    }

    #[test]
    fn it_is_aligned() {
        let dead = Report {
            breaker: Breaker::Open,
            next_probe: Some(NOW + 28_500),
            queued: 1,
            failing_since: Some(NOW - 60_000),
            cursor: Some(NOW + 725_000),
            last_error: Some("connect: refused".to_owned()),
            ..lane("dead")
        };
        let busy = Report {
            queued: 1_200,
            in_flight: 12,
            limit: 12,
            rate: 48.94,
            rate_limit: Some(50.0),
            ..lane("orders-of-everybody")
        };
        let expected = "\
3 lanes active at localhost:9464, 1 in trouble, 22:13:20 UTC

ENDPOINT             STATE               QUEUED  WAITING  IN FLIGHT  LIMIT          RATE  PARKED UP TO  LAST ERROR
dead                 open, probe in 29s       1        0          0   1/64           0/s       +12m 5s  connect: refused
orders-of-everybody  ok                    1200        0         12  12/64  48.9 of 50/s             -  -
and 1 more lane
";
        assert_eq!(print(vec![dead, busy, lane("idle")], 2), expected);
    }

    #[test]
    fn nothing_to_show_is_said() {
        assert!(print(vec![], 9).ends_with("Nothing is under way, and no endpoint is in trouble.\n"));
    }

    #[test]
    fn states_say_what_is_the_matter_and_for_how_long() {
        let rows = [
            (lane("a"), "ok"),
            (Report { failing_since: Some(NOW - 200_000), ..lane("a") }, "failing for 3m 20s"),
            (Report { paused_until: Some(NOW + 7_200_000), ..lane("a") }, "asked to wait 2h 0m"),
            (Report { paused: true, ..lane("a") }, "paused"),
            (Report { breaker: Breaker::Probing, ..lane("a") }, "probing"),
            (Report { breaker: Breaker::Open, next_probe: Some(NOW), ..lane("a") }, "open, probe in 0s"),
            (Report { disabled: Some("gone".to_owned()), ..lane("a") }, "disabled: gone"),
            (Report { disabled: Some(String::new()), ..lane("a") }, "disabled"),
        ];
        for (lane, expected) in rows {
            assert_eq!(state(&lane, NOW), expected);
        }
    }

    #[test]
    fn numbers_and_errors_are_short() {
        for (ms, expected) in [(-5, "0s"), (1, "1s"), (59_001, "1m 0s"), (90_061_000, "1d 1h")] {
            assert_eq!(time(ms), expected);
        }
        for (number, expected) in [(0.0, "0"), (0.05, "0.05"), (5.0, "5"), (50.0, "50"), (99.96, "100")] {
            assert_eq!(decimal(number), expected);
        }
        assert_eq!(cut(&"é".repeat(ERROR)), "é".repeat(ERROR));
        assert_eq!(cut(&"é".repeat(ERROR + 1)), format!("{}…", "é".repeat(ERROR)));
    }
}
