//! Reads the letters that are meant, counting and showing how far it is.

use std::{ops::ControlFlow, sync::Arc};

use anyhow::Context;

use super::row::letters;
use crate::{
    cli::progress::Progress,
    config::settings::Settings,
    kafka::{
        observer::Observer,
        scan::{Scanner, Span, Step},
        topics::dead_topic,
    },
    letters::{Letter, filter::Filter, matcher::Matcher, spans},
    pipeline::decode::Decoder,
    replay::{
        book::Book,
        known::{self, Known},
    },
};

/// The dead-letter topic, a filter, and where the letters it may mean are.
pub(super) struct Reader {
    scanner: Scanner,
    matcher: Matcher,
    spans: Vec<Span>,
}

impl Reader {
    /// Looks where there is something to read.
    pub(super) fn new(settings: &Settings, filter: Filter) -> anyhow::Result<Self> {
        let scanner = Scanner::new(&settings.kafka)?;
        let spans = spans::of(&scanner, &dead_topic(&settings.topics.prefix), &filter)?;
        Ok(Self { scanner, matcher: Matcher::new(filter, decoder(settings))?, spans })
    }

    /// The same over stretches that are known already.
    pub(super) fn over(settings: &Settings, filter: Filter, spans: Vec<Span>) -> anyhow::Result<Self> {
        let scanner = Scanner::new(&settings.kafka)?;
        Ok(Self { scanner, matcher: Matcher::new(filter, decoder(settings))?, spans })
    }

    /// Offsets to be read, which are about as many records.
    pub(super) fn total(&self) -> u64 {
        self.spans.iter().map(Span::len).sum()
    }

    /// Shows every letter that is meant, those of one partition in their order, partitions in any; as many as the
    /// filter's limit says.
    pub(super) fn each(
        &mut self,
        progress: &mut Progress,
        mut visit: impl FnMut(&mut Progress, Letter) -> anyhow::Result<ControlFlow<()>>,
    ) -> anyhow::Result<()> {
        let limit = self.matcher.filter().limit.unwrap_or(u64::MAX);
        let mut reading = self.scanner.begin(&self.spans)?;
        while progress.counts().matched < limit {
            let seen = match reading.step()? {
                Step::Record(seen) => seen,
                Step::Nothing => {
                    progress.show();
                    continue;
                }
                Step::End => break,
            };
            progress.read();
            if let Some(letter) = self.matcher.pick(&seen) {
                progress.matched();
                if visit(progress, letter)?.is_break() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The same, one partition after the other.
    pub(super) fn each_in_order(
        &mut self,
        progress: &mut Progress,
        mut visit: impl FnMut(&mut Progress, Letter) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for span in std::mem::take(&mut self.spans) {
            self.spans = vec![span];
            self.each(progress, |progress, letter| visit(progress, letter).map(ControlFlow::Continue))?;
        }
        Ok(())
    }

    /// Says how often the filter's expression failed, for the end of a command.
    pub(super) fn warn(&self) {
        let failures = self.matcher.failures();
        let Some(first) = &failures.first else { return };
        let missed = letters(failures.count);
        eprintln!("arauto: --where failed on {missed}, which did not match; the first is {first}");
    }
}

/// Finds types and tenants; ids stand in the envelopes.
pub(super) fn decoder(settings: &Settings) -> Arc<Decoder> {
    let namespace = settings.events.namespace.as_deref().unwrap_or_default().into();
    Arc::new(Decoder::new(&settings.events, namespace).with_notices(&settings.topics.prefix))
}

/// What is known of replays. Where there is no state topic yet nothing was ever replayed.
pub(super) fn book(settings: &Settings) -> anyhow::Result<Book> {
    let observer =
        Observer::new(&settings.kafka).context("the Kafka client cannot be made (kafka.properties)")?;
    match Known::read(settings, &observer) {
        Ok(known) => Ok(known.book),
        Err(known::Error::Absent(_)) => Ok(Book::default()),
        Err(error) => Err(error.into()),
    }
}
