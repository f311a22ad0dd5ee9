//! A page of metrics in Prometheus' text format, taken apart.
//!
//! Understands what Arauto writes (names, labels, values; no timestamps, no exemplars) and panics on anything
//! else, which makes every test that reads metrics a test of the format as well.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::collections::{BTreeMap, BTreeSet};

/// Label values by label name.
pub(crate) type Labels = BTreeMap<String, String>;

/// One scrape.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    series: Vec<(String, Labels, f64)>,
    /// `counter`, `gauge`, `histogram`, by name of the family.
    types: BTreeMap<String, String>,
}

impl Metrics {
    /// Takes a page apart.
    pub(crate) fn parse(page: &str) -> Self {
        let mut metrics = Self::default();
        for line in page.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').expect("a name and a type");
                metrics.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') && !line.is_empty() {
                metrics.series.push(parse_series(line));
            }
        }
        metrics
    }

    /// The sum over all series of this name that have (at least) these labels; 0 if there are none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|(_, value)| value).sum()
    }

    /// The value of the one series of this name that has (at least) these labels; `None` if there is none.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut matching = self.matching(name, labels);
        let value = matching.next().map(|(_, value)| value);
        assert!(matching.next().is_none(), "more than one series of {name} has the labels {labels:?}");
        value
    }

    /// The series of this name: labels and value.
    pub(crate) fn series(&self, name: &str) -> Vec<(&Labels, f64)> {
        self.matching(name, &[]).collect()
    }

    /// The type of each family by its name.
    pub(crate) fn types(&self) -> &BTreeMap<String, String> {
        &self.types
    }

    /// The values a label has, over all series of this name.
    pub(crate) fn label_values(&self, name: &str, label: &str) -> BTreeSet<&str> {
        self.matching(name, &[]).filter_map(|(labels, _)| labels.get(label).map(String::as_str)).collect()
    }

    fn matching<'a, 'q>(
        &'a self,
        name: &'q str,
        labels: &'q [(&'q str, &'q str)],
    ) -> impl Iterator<Item = (&'a Labels, f64)> {
        let has =
            |found: &Labels, (label, value): &(&str, &str)| found.get(*label).is_some_and(|v| v == value);
        self.series
            .iter()
            .filter(move |(found, has_labels, _)| {
                found == name && labels.iter().all(|pair| has(has_labels, pair))
            })
            .map(|(_, labels, value)| (labels, *value))
    }
}

/// `name{label="value",…} 1.5`
fn parse_series(line: &str) -> (String, Labels, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value in: {line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("no number in: {line}"));
    match series.split_once('{') {
        None => (series.to_owned(), Labels::new(), value),
        Some((name, labels)) => {
            let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("no closing brace in: {line}"));
            (name.to_owned(), parse_labels(labels), value)
        }
    }
}

fn parse_labels(mut text: &str) -> Labels {
    let mut labels = Labels::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").unwrap_or_else(|| panic!("no label in: {text}"));
        let (value, rest) = parse_label_value(rest);
        labels.insert(name.to_owned(), value);
        text = rest.strip_prefix(',').unwrap_or(rest);
    }
    labels
}

/// The value up to its closing quote, and what comes after that.
fn parse_label_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped)) => value.push(escaped),
                None => break,
            },
            other => value.push(other),
        }
    }
    panic!("no closing quote in: {text}")
}
