//! One delivery that waits, as a line of a table or a line of JSON.

use std::{io::Write, time::Duration};

use serde::Serialize;

use crate::{
    cli::{
        date::rfc3339,
        paint::{DIM, Paint},
        words::span,
    },
    pipeline::decode::Decoder,
    retries::Waiting,
};

const COLUMNS: [&str; 8] = ["DUE", "IN", "ENDPOINT", "ID", "TYPE", "REASON", "ATTEMPTS", "AT"];

/// A delivery that waits. Times are unix milliseconds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) endpoint: String,
    pub(super) r#type: String,
    pub(super) reason: &'static str,
    pub(super) status: Option<u16>,
    pub(super) error: Option<String>,
    pub(super) attempts: u32,
    pub(super) replays: u32,
    pub(super) due: i64,
    pub(super) ready: i64,
    pub(super) first_seen: i64,
    /// Where its event is: topic:partition:offset.
    pub(super) source: String,
    /// Where it waits.
    pub(super) at: String,
}

impl Row {
    pub(super) fn new(waiting: Waiting, decoder: &Decoder) -> Self {
        let ready = waiting.original().ready();
        let Waiting { record, envelope, headers, .. } = waiting;
        let event = decoder.restore(&envelope, headers, record.value.clone());
        Self {
            id: envelope.id.to_string(),
            endpoint: envelope.endpoint.to_string(),
            r#type: event.event_type.to_string(),
            reason: envelope.reason.as_str(),
            status: envelope.status,
            error: envelope.error,
            attempts: envelope.attempts,
            replays: envelope.replays,
            due: envelope.due,
            ready,
            first_seen: envelope.first_seen,
            source: format!("{}:{}:{}", event.topic, event.partition, event.offset),
            at: format!("{}:{}:{}", record.topic, record.partition, record.offset),
        }
    }

    pub(super) fn write_json(&self, out: &mut impl Write) -> anyhow::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        Ok(writeln!(out)?)
    }

    /// The reason, with the status if there was one.
    pub(super) fn why(&self) -> String {
        match self.status {
            Some(status) => format!("{} {status}", self.reason),
            None => self.reason.to_owned(),
        }
    }

    fn cells(&self, now: i64) -> [String; COLUMNS.len()] {
        let left = Duration::from_millis((self.due - now).max(0).unsigned_abs());
        [
            rfc3339(self.due),
            span(left),
            self.endpoint.clone(),
            self.id.clone(),
            self.r#type.clone(),
            self.why(),
            self.attempts.to_string(),
            self.at.clone(),
        ]
    }
}

/// All of them as a table.
pub(super) fn table(rows: &[Row], now: i64, paint: Paint) -> String {
    let rows: Vec<_> = rows.iter().map(|row| row.cells(now)).collect();
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([COLUMNS[column].len()]).max().unwrap_or(0)
    });
    let line = |cells: &[String; COLUMNS.len()]| {
        let padded: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut table = paint.paint(DIM, &line(&COLUMNS.map(str::to_owned)));
    for row in &rows {
        table.push('\n');
        table.push_str(&line(row));
    }
    table.push('\n');
    table
}
