//! How `arauto dev` looks: a line for each thing that happens, aligned, and a table at the end; or JSON, one object
//! a line.

use std::io::{self, Write as _};

use serde_json::json;

use super::{
    board::{Board, Row},
    seen::{Fate, Seen},
};
use crate::cli::{
    listen::clock,
    paint::{BOLD, DIM, GREEN, Paint, RED, YELLOW},
};

/// What the user needs to know at the start.
pub(super) struct Start<'s> {
    pub(super) brokers: &'s str,
    pub(super) topic: &'s str,
    pub(super) metrics: Option<String>,
    pub(super) dead_letters: &'s str,
    /// How this program was called, to be typed again.
    pub(super) program: &'s str,
    /// Endpoint ids, with what is special about each.
    pub(super) endpoints: &'s [(String, &'static str)],
}

/// Prints to stdout.
pub(super) struct Show {
    json: bool,
    paint: Paint,
    width: usize,
}

impl Show {
    /// For these endpoints.
    pub(super) fn new(json: bool, endpoints: &[(String, &'static str)]) -> Self {
        let width = endpoints.iter().map(|(id, _)| id.len()).max().unwrap_or(0);
        Self { json, paint: Paint::stdout(), width }
    }

    pub(super) fn start(&self, start: &Start<'_>) -> io::Result<()> {
        let Start { brokers, topic, metrics, dead_letters, program, endpoints } = start;
        if self.json {
            let ids: Vec<_> = endpoints.iter().map(|(id, _)| id).collect();
            return say(&json!({
                "kind": "started", "brokers": brokers, "topic": topic, "metrics": metrics,
                "dead_letters": dead_letters, "endpoints": ids,
            })
            .to_string());
        }
        let dim = |text: &str| self.paint(DIM, text);
        let event = r#"'{"type":"order.paid"}'"#;
        let mut page = format!("{}\n\n", self.paint(BOLD, "arauto dev"));
        page += &format!("  {}   {brokers} (embedded), topic {topic}\n", dim("broker"));
        page += &format!("  {}  {}\n", dim("metrics"), metrics.as_deref().unwrap_or("off"));
        page += &format!(
            "  {}  echo {event} | {program} send --brokers {brokers} --topic {topic}\n",
            dim("publish")
        );
        page += &format!("           echo {event} | kcat -P -b {brokers} -t {topic}\n");
        page += &format!("  {}     kcat -C -b {brokers} -t {dead_letters}\n", dim("dead"));
        page += &format!("  {}     Ctrl-C\n\n", dim("stop"));
        for (id, nature) in *endpoints {
            page += &format!("  {id:width$}  {}\n", dim(nature), width = self.width);
        }
        let head = format!(
            "TIME          {:16} {:width$}  TRY  STATUS   LATENCY",
            "EVENT",
            "ENDPOINT",
            width = self.width
        );
        say(&format!("{page}\n{}", dim(&head)))
    }

    pub(super) fn seen(&self, seen: &Seen) -> io::Result<()> {
        if self.json {
            return say(&serde_json::to_string(seen)?);
        }
        let Seen { at, event_type, endpoint, latency_ms, fate, .. } = seen;
        let (number, status, what) = match fate {
            Fate::Attempt { attempt, status, verified } => {
                let colour = if (200..300).contains(status) { GREEN } else { YELLOW };
                let verified = if *verified {
                    self.paint(GREEN, "verified ✓")
                } else {
                    self.paint(RED, "NOT VERIFIED ✗")
                };
                (*attempt, self.paint(colour, &format!("{status:6}")), verified)
            }
            Fate::DeadLetter { attempts, reason, status } => {
                let last = status.map_or(String::new(), |status| format!(", last status {status}"));
                (*attempts, self.paint(RED, "dead  "), self.paint(RED, &format!("{reason}{last}")))
            }
        };
        let latency = latency_ms.map_or_else(|| "-".to_owned(), readable);
        let width = self.width;
        let time = self.paint(DIM, &clock(*at));
        say(&format!("{time}  {event_type:16} {endpoint:width$}  {number:3}  {status}  {latency:>8}  {what}"))
    }

    pub(super) fn summary(&self, board: &Board, first_ms: Option<u64>) -> io::Result<()> {
        if self.json {
            return say(&json!({
                "kind": "summary", "published": board.published(), "ended": board.ended(),
                "verified": board.all_verified(), "first_delivery_ms": first_ms, "endpoints": board.rows(),
            })
            .to_string());
        }
        let width = self.width;
        let columns =
            format!("{:width$}  ATTEMPTS  FAILED  DELIVERED   DEAD  UNVERIFIED  MEAN LATENCY", "ENDPOINT");
        let mut page = format!("\n{}\n", self.paint(DIM, &columns));
        for Row {
            endpoint, attempts, failed, delivered, dead_letters, unverified, mean_latency_ms, ..
        } in board.rows()
        {
            let latency = mean_latency_ms.map_or_else(|| "-".to_owned(), readable);
            page += &format!(
                "{endpoint:width$}  {attempts:8}  {failed:6}  {delivered:9}  {dead_letters:5}  {unverified:10}  {latency:>12}\n"
            );
        }
        let verified = if board.all_verified() {
            self.paint(GREEN, "every signature verified ✓")
        } else {
            self.paint(RED, "NOT every signature verified ✗")
        };
        let first = first_ms.map_or(String::new(), |ms| format!(", first delivery after {}", readable(ms)));
        say(&format!(
            "{page}\n{} events published, {} at their end everywhere{first}, {verified}",
            board.published(),
            board.ended()
        ))
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        self.paint.paint(colour, text)
    }
}

fn readable(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        _ => format!("{}.{:02} s", ms / 1000, ms % 1000 / 10),
    }
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    // A pipe is buffered by the block; whoever reads it wants each line now.
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_short() {
        for (ms, expected) in [(0, "0 ms"), (999, "999 ms"), (1_005, "1.00 s"), (61_230, "61.23 s")] {
            assert_eq!(readable(ms), expected);
        }
    }
}
