//! What a replay would do or has done, as a table for people and as JSON.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::Duration,
};

use indicatif::{HumanCount, HumanDuration};
use serde::Serialize;
use serde_json::Value;

use super::super::{Done, date::rfc3339};
use crate::{
    letters::matcher::Failures,
    replay::{Counts, Of, Replay, tally::Tally},
};

/// Refusals shown to people one by one; JSON has up to a thousand.
const SHOWN: usize = 20;

/// A plan, or what was done.
pub(super) struct Report {
    pub(super) name: String,
    /// Was it done, or is it a plan?
    pub(super) done: bool,
    /// When it was begun, if it goes on.
    pub(super) begun: Option<i64>,
    /// Backfills that have sent some of it before.
    pub(super) earlier: Vec<String>,
    /// Offsets that retention has removed before they were read.
    pub(super) lost: i64,
    pub(super) replay: Replay,
    pub(super) tally: Tally,
    pub(super) failures: Failures,
}

#[derive(Serialize)]
struct Json<'a> {
    name: &'a str,
    dry_run: bool,
    filter: &'a Value,
    /// Over all runs of this name.
    total: Counts,
    replayed: u64,
    taken: u64,
    refused: u64,
    lost: i64,
    seconds: f64,
    endpoints: Vec<Going<'a>>,
    reasons: BTreeMap<&'static str, u64>,
    refusals: Vec<Refusal<'a>>,
    /// Records that --where failed on.
    failed: u64,
    earlier: &'a [String],
}

#[derive(Serialize)]
struct Going<'a> {
    endpoint: &'a str,
    count: u64,
    per_second: f64,
    seconds: f64,
}

#[derive(Serialize)]
struct Refusal<'a> {
    id: &'a str,
    endpoint: &'a str,
    topic: &'a str,
    partition: i32,
    offset: i64,
    why: &'static str,
}

impl Report {
    /// Says it on stdout.
    pub(super) fn show(&self, json: bool) -> anyhow::Result<Done> {
        let mut out = io::stdout().lock();
        if json {
            serde_json::to_writer(&mut out, &self.json())?;
            writeln!(out)?;
        } else {
            self.write(&mut out)?;
        }
        Ok(Done::Well)
    }

    /// Says what is going to be done where it is asked about.
    pub(super) fn announce(&self) -> io::Result<()> {
        self.write(&mut io::stderr().lock())
    }

    /// What is asked.
    pub(super) fn question(&self) -> String {
        let (count, endpoints) = (self.tally.count(), self.endpoints());
        let takes = HumanDuration(self.tally.takes());
        format!("Send {} {} to {endpoints}, over {takes:#}?", HumanCount(count), self.noun(count))
    }

    fn json(&self) -> Json<'_> {
        let Self { tally, replay, .. } = self;
        let going = tally.endpoints.iter().map(|(endpoint, share)| Going {
            endpoint,
            count: share.count,
            per_second: per_second(share.interval),
            seconds: share.takes().as_secs_f64(),
        });
        let refusals = tally.listed.iter().map(|refused| Refusal {
            id: &refused.id,
            endpoint: &refused.endpoint,
            topic: &refused.at.topic,
            partition: refused.at.partition,
            offset: refused.at.offset,
            why: refused.why.as_str(),
        });
        Json {
            name: &self.name,
            dry_run: !self.done,
            filter: &replay.filter,
            total: replay.counts,
            replayed: tally.count(),
            taken: tally.taken,
            refused: tally.refused(),
            lost: self.lost,
            seconds: tally.takes().as_secs_f64(),
            endpoints: going.collect(),
            reasons: tally.reasons.iter().map(|(why, count)| (why.as_str(), *count)).collect(),
            refusals: refusals.collect(),
            failed: self.failures.count,
            earlier: &self.earlier,
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { name, tally, replay, .. } = self;
        if let Some(begun) = self.begun {
            let (written, begun) = (HumanCount(replay.counts.written), rfc3339(begun));
            let filter = &replay.filter;
            writeln!(out, "{name} goes on; begun {begun} with {filter}, {written} sent so far")?;
        }
        let count = tally.count();
        let verb = if self.done { "sent" } else { "would send" };
        write!(out, "{verb} {} {}", HumanCount(count), self.noun(count))?;
        if count > 0 {
            write!(out, " to {}, over {:#}", self.endpoints(), HumanDuration(tally.takes()))?;
        }
        writeln!(out, "{}", if self.done { format!(" ({name})") } else { String::new() })?;
        self.write_endpoints(out)?;
        if tally.taken > 0 {
            let taken = HumanCount(tally.taken);
            writeln!(out, "left out: {taken} replayed before (--again takes them once more)")?;
        }
        self.write_refusals(out)?;
        self.write_notes(out)
    }

    fn write_endpoints(&self, out: &mut impl Write) -> io::Result<()> {
        let endpoints = &self.tally.endpoints;
        let going = || endpoints.iter().filter(|(_, share)| share.count > 0);
        if going().count() == 0 {
            return Ok(());
        }
        let width = going().map(|(endpoint, _)| endpoint.len()).max().unwrap_or(0).max(8);
        writeln!(out, "  {:width$}  {:>10}  {:>8}  {:>6}", "ENDPOINT", "COUNT", "RATE", "TAKES")?;
        for (endpoint, share) in going() {
            let count = HumanCount(share.count).to_string();
            let (rate, takes) = (rate(share.interval), format!("{:#}", HumanDuration(share.takes())));
            writeln!(out, "  {endpoint:width$}  {count:>10}  {rate:>8}  {takes:>6}")?;
        }
        Ok(())
    }

    fn write_refusals(&self, out: &mut impl Write) -> io::Result<()> {
        let Tally { reasons, listed, .. } = &self.tally;
        for (why, count) in reasons {
            writeln!(out, "refused: {} ({}): {why}", HumanCount(*count), why.as_str())?;
        }
        for refused in listed.iter().take(SHOWN) {
            let at = format!("{}:{}:{}", refused.at.topic, refused.at.partition, refused.at.offset);
            let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
            let (id, endpoint) = (dash(&refused.id), dash(&refused.endpoint));
            writeln!(out, "  {id}  {endpoint}  {at}  {}", refused.why.as_str())?;
        }
        let more = self.tally.refused().saturating_sub(u64::try_from(SHOWN).unwrap_or(0));
        if more > 0 {
            writeln!(out, "  and {} more (--json lists a thousand)", HumanCount(more))?;
        }
        Ok(())
    }

    fn write_notes(&self, out: &mut impl Write) -> io::Result<()> {
        if self.lost > 0 {
            writeln!(out, "lost: retention has removed {} offsets before they were read", self.lost)?;
        }
        if let (true, Some(first)) = (self.failures.count > 0, &self.failures.first) {
            let count = HumanCount(self.failures.count);
            writeln!(out, "--where failed on {count} records, which do not match; the first: {first}")?;
        }
        if !self.earlier.is_empty() {
            let names = self.earlier.join(", ");
            writeln!(out, "sent before, in part or all: {names}; receivers see the same webhook ids again")?;
        }
        Ok(())
    }

    fn endpoints(&self) -> String {
        let mut going = self.tally.endpoints.iter().filter(|(_, share)| share.count > 0);
        match (going.next(), going.count()) {
            (None, _) => "no endpoint".to_owned(),
            (Some((endpoint, _)), 0) => endpoint.to_string(),
            (Some(_), others) => format!("{} endpoints", others + 1),
        }
    }

    fn noun(&self, count: u64) -> &'static str {
        match (self.replay.of, count) {
            (Of::Letters, 1) => "dead letter",
            (Of::Letters, _) => "dead letters",
            (Of::Events, 1) => "event",
            (Of::Events, _) => "events",
        }
    }
}

/// Says that a replay was ended where it stood.
pub(super) fn cancelled(name: &str, replay: &Replay, json: bool) -> anyhow::Result<Done> {
    let mut out = io::stdout().lock();
    if json {
        let told = serde_json::json!({ "name": name, "cancelled": true, "total": replay.counts });
        writeln!(out, "{told}")?;
    } else {
        let written = HumanCount(replay.counts.written);
        writeln!(out, "{name} is ended where it stood: {written} were sent, and stay on their way")?;
    }
    Ok(Done::Well)
}

fn per_second(interval: i64) -> f64 {
    1_000_000.0 / Duration::from_micros(u64::try_from(interval).unwrap_or(1).max(1)).as_micros() as f64
}

/// A rate as one would write it.
fn rate(interval: i64) -> String {
    let per_second = per_second(interval);
    let (number, unit) = [(per_second, "s"), (per_second * 60.0, "m"), (per_second * 3600.0, "h")]
        .into_iter()
        .find(|(number, _)| *number >= 0.995)
        .unwrap_or((per_second * 86_400.0, "d"));
    let digits = usize::from((number - number.round()).abs() > 0.005);
    format!("{number:.digits$}/{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::{
        Options, Spans, Stand, VERSION,
        pace::Pace,
        pick::{At, Refused},
        target::Why,
    };

    fn report() -> Report {
        let options = Options { to: None, rate: None, reset_id: false, again: false, max_replays: 3 };
        let replay = Replay {
            v: VERSION,
            of: Of::Letters,
            begun: 1_700_000_000_000,
            at: 0,
            stand: Stand::Unfinished,
            filter: serde_json::json!({ "endpoints": ["crm"] }),
            options,
            spans: Spans::new(),
            counts: Counts { written: 1_000, ..Counts::default() },
            pace: Pace::default(),
        };
        let (tally, failures) = (Tally::default(), Failures::default());
        let (name, earlier) = ("n".to_owned(), Vec::new());
        Report { name, done: false, begun: None, earlier, lost: 0, replay, tally, failures }
    }

    fn text(report: &Report) -> String {
        let mut out = Vec::new();
        report.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_plan_says_everything() {
        let mut report = report();
        (0..1_200).for_each(|_| report.tally.goes(&"crm".into(), 200_000));
        report.tally.goes(&"a-long-name".into(), 20_000);
        report.tally.taken = 33;
        let at = At { topic: "a.dead".into(), partition: 1, offset: 7 };
        report.tally.refuse(Refused { id: "msg_1".into(), endpoint: "crm".into(), at, why: Why::MaxReplays });
        report.begun = Some(1_700_000_000_000);
        report.lost = 4;
        report.earlier = vec!["b".to_owned()];
        let expected = r#"n goes on; begun 2023-11-14T22:13:20Z with {"endpoints":["crm"]}, 1,000 sent so far
would send 1,201 dead letters to 2 endpoints, over 4m
  ENDPOINT          COUNT      RATE   TAKES
  a-long-name           1      50/s      0s
  crm               1,200       5/s      4m
left out: 33 replayed before (--again takes them once more)
refused: 1 (max_replays): replayed too often: mend the cause, then raise --max-replays
  msg_1  crm  a.dead:1:7  max_replays
lost: retention has removed 4 offsets before they were read
sent before, in part or all: b; receivers see the same webhook ids again
"#;
        assert_eq!(text(&report), expected);
        assert_eq!(report.question(), "Send 1,201 dead letters to 2 endpoints, over 4m?");
        let json = serde_json::to_value(report.json()).unwrap();
        assert_eq!((&json["dry_run"], &json["replayed"]), (&true.into(), &1_201.into()));
        assert_eq!(json["endpoints"][1]["per_second"], 5.0);
        assert_eq!(json["refusals"][0]["why"], "max_replays");
    }

    #[test]
    fn what_was_done_is_short() {
        let mut report = report();
        report.done = true;
        assert_eq!(text(&report), "sent 0 dead letters (n)\n");
        report.tally.goes(&"crm".into(), 1);
        assert!(text(&report).starts_with("sent 1 dead letter to crm, over 0s (n)\n"));
    }

    #[test]
    fn rates_are_told_as_they_are_written() {
        for (interval, expected) in [
            (20_000, "50/s"),
            (1_000_000, "1/s"),
            (400, "2500/s"),
            (666_667, "1.5/s"),
            (6_000_000, "10/m"),
            (60_000_000, "1/m"),
            (600_000_000, "6/h"),
            (36_000_000_000, "2.4/d"),
        ] {
            assert_eq!(rate(interval), expected, "{interval}");
        }
    }
}
