//! Leaves out warnings that repeat, and tells how many there were.
//!
//! The same warning is written once in a while; of one message about one endpoint (or topic, partition, facility of the
//! client) a few with different details are. Errors, which somebody must act on, are left out only when there are many.
//! Everything below passes untouched. Memory is bounded: when too much is going on at once, a message is judged without
//! regard to what it is about.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    warn,
};
use tracing_subscriber::{Layer, layer::Context};

/// What repeats within this time is left out: long enough to read by, short enough to see that it goes on.
const WINDOW: Duration = Duration::from_secs(10);
/// Lines of one message about one thing within that time: some dead letters of an endpoint are to be seen, not all.
const BURST: usize = 10;
/// Things kept apart at most, some 100 bytes each.
const MOST: usize = 1_000;
/// Fields that say what a message is about.
const ABOUT: [&str; 4] = ["endpoint", "topic", "partition", "facility"];

/// The layer. Clones share what they know.
#[derive(Clone, Default)]
pub struct Repeats(Arc<Mutex<Table>>);

impl Repeats {
    /// Tells of what was left out and is over; with `all` also of what goes on.
    pub(super) fn tell(&self, all: bool) {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now(), all);
        for LeftOut { what, count } in told {
            let Text { message, about } = what;
            let within = WINDOW.as_secs();
            warn!(
                left_out = count,
                message_repeated = message,
                about,
                within_seconds = within,
                "warnings left out"
            );
        }
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // What tells of them is not one of them.
        if *metadata.level() > Level::WARN || metadata.target() == module_path!() {
            return true;
        }
        let mut digest = Digest::default();
        event.record(&mut digest);
        let callsite = hash(&metadata.callsite());
        let line = Line {
            message: callsite,
            thing: hash(&(callsite, digest.about.finish())),
            details: (*metadata.level() == Level::WARN).then(|| digest.all.finish()),
        };
        let text = || {
            let mut text = Text::default();
            event.record(&mut text);
            text
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).admits(&line, text, Instant::now())
    }
}

/// A line to be judged, by hashes: two that are taken for one cost a line.
#[derive(Debug, Clone, Copy)]
struct Line {
    message: u64,
    /// The message and what it is about.
    thing: u64,
    /// Everything it says, if saying it again is worth nothing.
    details: Option<u64>,
}

/// What was written lately.
#[derive(Debug, Default)]
struct Table(HashMap<u64, Entry>);

#[derive(Debug)]
struct Entry {
    since: Instant,
    /// Details of the lines that were written.
    written: Vec<u64>,
    left_out: u64,
    /// Of the first that was left out.
    what: Option<Text>,
}

/// What is told of lines that were not written.
#[derive(Debug, PartialEq, Eq)]
struct LeftOut {
    what: Text,
    count: u64,
}

impl Table {
    fn admits(&mut self, line: &Line, text: impl FnOnce() -> Text, now: Instant) -> bool {
        let full = self.0.len() >= MOST && !self.0.contains_key(&line.thing);
        let key = if full { line.message } else { line.thing };
        let entry = self.0.entry(key).or_insert_with(|| Entry::new(now));
        if now.duration_since(entry.since) >= WINDOW {
            (entry.since, entry.written) = (now, Vec::new());
        }
        let again = line.details.is_some_and(|details| entry.written.contains(&details));
        if again || entry.written.len() >= BURST {
            entry.left_out += 1;
            entry.what.get_or_insert_with(text);
            return false;
        }
        entry.written.push(line.details.unwrap_or_default());
        true
    }

    /// What was left out of that which is over, or of all; it is told once.
    fn take(&mut self, now: Instant, all: bool) -> Vec<LeftOut> {
        let mut told = Vec::new();
        self.0.retain(|_, entry| {
            let over = now.duration_since(entry.since) >= WINDOW;
            if over || all {
                let count = std::mem::take(&mut entry.left_out);
                told.extend(entry.what.take().map(|what| LeftOut { what, count }));
            }
            !over
        });
        told
    }
}

impl Entry {
    fn new(since: Instant) -> Self {
        Self { since, written: Vec::new(), left_out: 0, what: None }
    }
}

/// Hashes of what an event says and of what it is about.
#[derive(Default)]
struct Digest {
    all: DefaultHasher,
    about: DefaultHasher,
}

impl Visit for Digest {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = Hashed(DefaultHasher::new());
        write!(text, "{value:?}").expect("a hasher takes every write");
        let said = (field.index(), text.0.finish());
        said.hash(&mut self.all);
        if ABOUT.contains(&field.name()) {
            said.hash(&mut self.about);
        }
    }
}

struct Hashed(DefaultHasher);

impl fmt::Write for Hashed {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// What an event says, as much as is told of those left out.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Text {
    message: String,
    about: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else if ABOUT.contains(&field.name()) {
            let space = if self.about.is_empty() { "" } else { " " };
            write!(self.about, "{space}{}={value:?}", field.name()).expect("a string takes every write");
        }
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: u64, about: u64, details: impl Into<Option<u64>>) -> Line {
        Line { message, thing: message * 1_000_000 + about, details: details.into() }
    }

    fn text(message: &str) -> Text {
        Text { message: message.to_owned(), about: String::new() }
    }

    fn told(table: &mut Table, now: Instant, all: bool) -> Vec<(String, u64)> {
        let mut told: Vec<_> =
            table.take(now, all).into_iter().map(|left| (left.what.message, left.count)).collect();
        told.sort();
        told
    }

    #[test]
    fn the_same_is_written_once_and_counted() {
        let (mut table, start) = (Table::default(), Instant::now());
        let mut admits = |line, after| table.admits(&line, || text("a"), start + Duration::from_secs(after));
        assert!(admits(line(1, 1, 7), 0));
        assert!(!admits(line(1, 1, 7), 1));
        assert!(!admits(line(1, 1, 7), 9));
        assert!(admits(line(1, 1, 8), 9), "other details");
        assert!(admits(line(1, 2, 7), 9), "about something else");
        assert!(admits(line(2, 1, 7), 9), "another message");
        assert!(admits(line(1, 1, 7), 10), "a while later");
        assert_eq!(told(&mut table, start + Duration::from_secs(19), false), [], "it may go on");
        assert_eq!(told(&mut table, start + Duration::from_secs(20), false), [("a".to_owned(), 2)]);
        assert_eq!(told(&mut table, start + Duration::from_secs(20), true), [], "told once");
        assert!(table.0.is_empty());
    }

    #[test]
    fn a_flood_of_different_ones_becomes_a_few_and_so_does_one_of_errors() {
        for details in [|n| Some(n), |_| None] {
            let (mut table, now) = (Table::default(), Instant::now());
            let written = (0..1_000).filter(|n| table.admits(&line(1, 1, details(*n)), || text("a"), now));
            assert_eq!(written.count(), BURST);
            assert_eq!(told(&mut table, now, true), [("a".to_owned(), 1_000 - BURST as u64)]);
        }
    }

    #[test]
    fn memory_is_bounded() {
        let (mut table, now) = (Table::default(), Instant::now());
        let written = (0..100_000).filter(|n| table.admits(&line(1, *n, 7), || text("a"), now)).count();
        // One for each thing that is kept apart, and one for all others.
        assert_eq!((written, table.0.len()), (MOST + 1, MOST + 1));
        assert_eq!(told(&mut table, now, true), [("a".to_owned(), 100_000 - written as u64)]);
    }

    #[test]
    fn only_warnings_and_errors_are_looked_at() {
        use tracing_subscriber::{Registry, layer::SubscriberExt};

        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<(Level, Text)>>>);

        impl<S: Subscriber> Layer<S> for Lines {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                let mut text = Text::default();
                event.record(&mut text);
                self.0.lock().unwrap().push((*event.metadata().level(), text));
            }
        }

        let (repeats, lines) = (Repeats::default(), Lines::default());
        let subscriber = Registry::default().with(repeats.clone()).with(lines.clone());
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..20 {
                warn!(endpoint = %"crm", "same");
                warn!(endpoint = %"crm", n, "different");
                tracing::error!("error");
                tracing::info!("info");
            }
            repeats.tell(true);
        });
        let lines = lines.0.lock().unwrap();
        let of = |message: &str| lines.iter().filter(|(_, text)| text.message == message).count();
        let counts = ["same", "different", "error", "info", "warnings left out"].map(of);
        assert_eq!(counts, [1, BURST, BURST, 20, 3]);
    }
}
