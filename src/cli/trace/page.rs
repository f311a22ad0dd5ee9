//! A story as people read it.

use std::time::Duration;

use super::{Event, Told};
use crate::{
    cli::{
        date::rfc3339,
        paint::{BOLD, DIM, GREEN, Paint, RED, YELLOW},
        words::{safe, span},
    },
    story::{State, Step, Story, What},
};

/// Everything that is told, as lines.
pub(super) fn of(told: &Told, now: i64, paint: Paint) -> String {
    let mut page = paint.paint(BOLD, &told.id);
    page.push_str(&told.event_type.as_ref().map(|kind| format!("  {}", safe(kind))).unwrap_or_default());
    page.push('\n');
    told.events.iter().for_each(|event| page.push_str(&format!("{}\n", self::event(event))));
    for story in &told.endpoints {
        page.push_str(&format!("\n{}\n", head(story, now, paint)));
        for step in &story.steps {
            page.push_str(&format!(
                "  {}  {}\n",
                paint.paint(DIM, &rfc3339(step.at)),
                line(step, now, paint)
            ));
        }
    }
    if told.attempt_log.is_none() {
        let note = "There is no attempt log (attempts.topic): only what waits or died is known.";
        page.push_str(&format!("\n{}\n", paint.paint(DIM, note)));
    }
    page
}

fn event(event: &Event) -> String {
    let source = &event.source;
    let time = if source.timestamp < 0 { "no time".to_owned() } else { rfc3339(source.timestamp) };
    let place = format!("event {}:{}:{}, {time}", source.topic, source.partition, source.offset);
    match (&event.bytes, &event.key) {
        (Some(bytes), Some(key)) => format!("{place}, {bytes} bytes, key {}", safe(key)),
        (Some(bytes), None) => format!("{place}, {bytes} bytes, no key"),
        (None, _) => format!("{place}, not there any more"),
    }
}

fn head(story: &Story, now: i64, paint: Paint) -> String {
    let (colour, state) = match story.state {
        State::Delivered => (GREEN, "delivered".to_owned()),
        State::Waiting => (YELLOW, format!("waits{}", next_due(story, now))),
        State::Dead => (RED, "dead".to_owned()),
        State::Dropped => (RED, "dropped".to_owned()),
        State::UnderWay => (YELLOW, "under way, or its end was not written down".to_owned()),
    };
    let endpoint = if story.endpoint.is_empty() { "endpoint unknown".into() } else { safe(&story.endpoint) };
    format!("{}  {}", paint.paint(BOLD, &endpoint), paint.paint(colour, &state))
}

fn next_due(story: &Story, now: i64) -> String {
    let due = story.steps.iter().rev().find_map(|step| match step.what {
        What::Waiting { due, .. } => Some(due),
        What::Attempt { .. } | What::DeadLetter { .. } | What::Replayed { .. } => None,
    });
    due.map(|due| format!(", due {}", when(due, now))).unwrap_or_default()
}

fn line(step: &Step, now: i64, paint: Paint) -> String {
    match &step.what {
        What::Attempt { attempt: Some(attempt), outcome, reason, status, duration_ms, error, due } => {
            let answer = status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
            let took = duration_ms.map(|took| format!(" in {took} ms")).unwrap_or_default();
            let reason = reason.as_deref().map(|reason| format!(" ({})", safe(reason))).unwrap_or_default();
            let due = due.map(|due| format!(", due again {}", rfc3339(due))).unwrap_or_default();
            let line = format!("attempt {attempt}: {answer}{took}, {}{reason}{due}", safe(outcome));
            with_error(line, error.as_deref(), paint)
        }
        What::Attempt { outcome, reason, .. } => {
            let reason = reason.as_deref().map(|reason| format!(" ({})", safe(reason))).unwrap_or_default();
            format!("{}{reason} without an attempt", safe(outcome))
        }
        What::DeadLetter { topic, partition, offset, reason, status, error, attempts } => {
            let why = why(reason.as_deref().unwrap_or("no reason"), *status);
            let line = format!("dead letter {topic}:{partition}:{offset} ({why}) after {}", tried(*attempts));
            with_error(line, error.as_deref(), paint)
        }
        What::Replayed { by } => format!("replayed by {}", safe(by)),
        What::Waiting { topic, partition, offset, reason, status, error, attempts, due } => {
            let why = why(reason, *status);
            let (at, due) = (format!("{topic}:{partition}:{offset}"), when(*due, now));
            let line = format!("waits on {at} ({why}) after {}, due {due}", tried(*attempts));
            with_error(line, error.as_deref(), paint)
        }
    }
}

fn why(reason: &str, status: Option<u16>) -> String {
    match status {
        Some(status) => format!("{} {status}", safe(reason)),
        None => safe(reason).into_owned(),
    }
}

fn tried(attempts: u32) -> String {
    format!("{attempts} attempt{}", if attempts == 1 { "" } else { "s" })
}

fn when(at: i64, now: i64) -> String {
    let left = Duration::from_millis((at - now).max(0).unsigned_abs());
    if left.is_zero() { "now".to_owned() } else { format!("{} (in {})", rfc3339(at), span(left)) }
}

fn with_error(line: String, error: Option<&str>, paint: Paint) -> String {
    match error {
        Some(error) => format!("{line}  {}", paint.paint(DIM, &safe(error))),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::Source;

    #[test]
    fn a_story_is_told_in_lines() {
        let source =
            Source { topic: "orders".to_owned(), partition: 3, offset: 7, timestamp: 1_700_000_000_000 };
        let attempt = What::Attempt {
            attempt: Some(1),
            outcome: "retry".to_owned(),
            reason: Some("status".to_owned()),
            status: Some(503),
            duration_ms: Some(12),
            error: Some("\x1b[31mlater".to_owned()),
            due: Some(1_700_000_005_000),
        };
        let waits = What::Waiting {
            topic: "a.retry.5s".to_owned(),
            partition: 0,
            offset: 9,
            reason: "status",
            status: Some(503),
            error: None,
            attempts: 1,
            due: 1_700_000_005_000,
        };
        let step = |at, what| Step { at, what };
        let steps = vec![step(1_700_000_000_100, attempt), step(1_700_000_000_200, waits)];
        let told = Told {
            id: "msg_1".to_owned(),
            event_type: Some("order.paid".to_owned()),
            events: vec![Event { source, found: true, key: None, bytes: Some(42) }],
            endpoints: vec![Story { endpoint: "crm".to_owned(), state: State::Waiting, steps }],
            attempt_log: None,
        };
        let expected = "\
msg_1  order.paid
event orders:3:7, 2023-11-14T22:13:20Z, 42 bytes, no key

crm  waits, due 2023-11-14T22:13:25Z (in 4s)
  2023-11-14T22:13:20Z  attempt 1: 503 in 12 ms, retry (status), due again 2023-11-14T22:13:25Z  \\u{1b}[31mlater
  2023-11-14T22:13:20Z  waits on a.retry.5s:0:9 (status 503) after 1 attempt, due 2023-11-14T22:13:25Z (in 4s)

There is no attempt log (attempts.topic): only what waits or died is known.
";
        assert_eq!(of(&told, 1_700_000_001_000, Paint::none()), expected);
    }
}
