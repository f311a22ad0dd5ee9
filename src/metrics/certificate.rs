//! Time left of receivers' certificates: worked out at each scrape from when they end.

use std::collections::{BTreeMap, BTreeSet};

use super::{Families, forget};

/// When the certificates end, in unix milliseconds, by label.
#[derive(Default)]
pub(super) struct Certificates {
    ends: BTreeMap<String, i64>,
    shown: BTreeSet<String>,
}

impl Certificates {
    /// These are all that are known now; of those that share a label the first to end counts.
    pub(super) fn set(&mut self, ends: impl Iterator<Item = (String, i64)>) {
        self.ends.clear();
        for (label, end) in ends {
            let first = self.ends.entry(label).or_insert(end);
            *first = end.min(*first);
        }
    }

    pub(super) fn show(&mut self, families: &Families, now_ms: i64) {
        for (label, end) in &self.ends {
            let left = end.saturating_sub(now_ms) as f64 / 1000.0;
            families.certificate_expiry.with_label_values(&[label]).set(left);
        }
        let known: BTreeSet<String> = self.ends.keys().cloned().collect();
        for gone in self.shown.difference(&known) {
            forget(&families.certificate_expiry, &[gone.as_str()]);
        }
        self.shown = known;
    }
}
