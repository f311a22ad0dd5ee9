//! How far long work has come: a bar on stderr, only where somebody watches it on a terminal.

use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The bar is told of so many records at once, so that counting costs nothing beside reading.
const STRIDE: u64 = 512;
/// It goes on moving this often while nothing comes.
const TICK: Duration = Duration::from_millis(200);
const TEMPLATE: &str = "{spinner} {bar:24} {percent:>3}%  {msg}  {per_sec}, {eta} left";

/// What was read and what came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Records read.
    pub(super) read: u64,
    /// Those that are meant.
    pub(super) matched: u64,
    /// Those that were written.
    pub(super) written: u64,
}

/// Counts, and shows it.
pub(super) struct Progress {
    counts: Counts,
    bar: ProgressBar,
}

impl Progress {
    /// Of so many records at most. Nothing is drawn unless stderr is a terminal.
    pub(super) fn new(total: u64) -> Self {
        Self::on(total, ProgressDrawTarget::stderr())
    }

    /// Never draws: what is printed meanwhile goes to the same terminal.
    pub(super) fn hidden() -> Self {
        Self::on(0, ProgressDrawTarget::hidden())
    }

    fn on(total: u64, target: ProgressDrawTarget) -> Self {
        let style = ProgressStyle::with_template(TEMPLATE);
        let style = style.expect("the template is a constant that a test has made");
        let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style);
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Self { counts: Counts::default(), bar }
    }

    /// A record was read.
    pub(super) fn read(&mut self) {
        self.counts.read += 1;
        if self.counts.read.is_multiple_of(STRIDE) {
            self.show();
        }
    }

    /// It is meant.
    pub(super) fn matched(&mut self) {
        self.counts.matched += 1;
    }

    /// So many more were written.
    pub(super) fn written(&mut self, more: u64) {
        self.counts.written += more;
    }

    /// All counts at once, for work that counts by itself.
    pub(super) fn set(&mut self, counts: Counts) {
        self.counts = counts;
        self.show();
    }

    /// Tells the terminal how it stands: now and then, and when nothing comes.
    pub(super) fn show(&self) {
        if !self.bar.is_hidden() {
            self.bar.set_message(message(&self.counts));
            self.bar.set_position(self.counts.read);
        }
    }

    /// What came of it so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes the bar away.
    pub(super) fn finish(self) -> Counts {
        self.bar.finish_and_clear();
        self.counts
    }
}

fn message(counts: &Counts) -> String {
    let Counts { read, matched, written } = *counts;
    let mut message = format!("{} read", HumanCount(read));
    for (count, what) in [(matched, "matched"), (written, "written")] {
        if count > 0 {
            message.push_str(&format!(", {} {what}", HumanCount(count)));
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_without_a_terminal() {
        let mut progress = Progress::hidden();
        (0..1_500).for_each(|_| progress.read());
        progress.matched();
        progress.written(2);
        assert_eq!(progress.counts(), progress.finish());
    }

    #[test]
    fn only_what_there_is_is_said() {
        let check = |read, matched, written, expected: &str| {
            assert_eq!(message(&Counts { read, matched, written }), expected);
        };
        check(0, 0, 0, "0 read");
        check(2_000, 30, 0, "2,000 read, 30 matched");
        check(2_000, 30, 7, "2,000 read, 30 matched, 7 written");
    }
}
