//! Reads one value in the form a key wants; one of another form is reported with what would do.
//!
//! What comes from a reference, or is asked for as a secret, is never quoted.

use std::{fmt, ops::RangeInclusive, time::Duration};

use toml::de::{DeTable, DeValue};

use super::{Reader, kind};
use crate::config::{
    mistake::Place,
    reference,
    secret::Secret,
    settings::Rate,
    value::{self, tier_name},
    written::{List, Text, Written},
};

const DURATION: &str = "a duration such as \"250ms\", \"5s\", \"10m\", \"2h\" or \"3d\"";
const OR_NEVER: &str = ", or \"never\"";

/// One value being read.
pub(in crate::config) struct Value<'v, 'e> {
    pub(super) node: &'v DeValue<'v>,
    pub(super) place: Place,
    pub(super) name: Name,
    pub(super) reader: &'v mut Reader<'e>,
}

/// What a value is called in messages.
#[derive(Clone, Copy)]
pub(super) struct Name {
    pub(super) key: &'static str,
    pub(super) table: &'static str,
    /// An entry of the key's array or table is meant.
    pub(super) entry: bool,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.entry {
            f.write_str("an entry of ")?;
        }
        f.write_str(self.key)?;
        match self.table {
            "" => Ok(()),
            table => write!(f, " in {table}"),
        }
    }
}

impl<'v, 'e> Value<'v, 'e> {
    /// A string; a reference is resolved.
    pub(in crate::config) fn text(self) -> Option<Text> {
        self.string("a string")
    }

    /// A string that no message may show.
    pub(in crate::config) fn secret(self) -> Option<Secret> {
        self.string("a string").map(|text| Secret::new(text.value))
    }

    /// `true` or `false`.
    pub(in crate::config) fn flag(mut self) -> Option<bool> {
        match self.node {
            DeValue::Boolean(flag) => Some(*flag),
            _ => self.unfit("true or false"),
        }
    }

    /// A whole number.
    pub(in crate::config) fn int(mut self, range: RangeInclusive<i64>) -> Option<i64> {
        let wanted = || format!("a whole number from {} to {}", range.start(), range.end());
        let DeValue::Integer(number) = self.node else {
            return self.unfit(&wanted());
        };
        match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(value) if range.contains(&value) => Some(value),
            _ => self.refuse(&format!("is {}", number.as_str()), &wanted()),
        }
    }

    /// A number with or without a fraction.
    pub(in crate::config) fn number(mut self, wanted: &str, fits: impl Fn(f64) -> bool) -> Option<f64> {
        let written = match self.node {
            DeValue::Float(number) => number.as_str(),
            DeValue::Integer(number) => number.as_str(),
            _ => return self.unfit(wanted),
        };
        match written.parse() {
            Ok(value) if fits(value) => Some(value),
            _ => self.refuse(&format!("is {written}"), wanted),
        }
    }

    /// A duration.
    pub(in crate::config) fn duration(mut self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let text = self.sibling().string(DURATION)?;
        self.duration_of(&text, &range, "")
    }

    /// A duration; `None` inside: never.
    pub(in crate::config) fn duration_or_never(
        mut self,
        range: RangeInclusive<Duration>,
    ) -> Option<Option<Duration>> {
        let text = self.sibling().string(&format!("{DURATION}{OR_NEVER}"))?;
        match &*text.value {
            "never" => Some(None),
            _ => self.duration_of(&text, &range, OR_NEVER).map(Some),
        }
    }

    fn duration_of(
        &mut self,
        text: &Text,
        range: &RangeInclusive<Duration>,
        or_else: &str,
    ) -> Option<Duration> {
        match value::parse_duration(&text.value) {
            Ok(duration) if range.contains(&duration) => Some(duration),
            Ok(_) => {
                let (from, to) = (tier_name(*range.start()), tier_name(*range.end()));
                let wanted = format!("a duration from \"{from}\" to \"{to}\"{or_else}");
                self.refuse(&format!("is {text}"), &wanted)
            }
            Err(wrong) => self.refuse(&format!("is {text}, which {wrong}"), &format!("{DURATION}{or_else}")),
        }
    }

    /// A size in bytes.
    pub(in crate::config) fn size(mut self, range: RangeInclusive<usize>) -> Option<usize> {
        const WANTED: &str = "a size such as \"64KiB\" or \"1MiB\"";
        let text = self.sibling().string(WANTED)?;
        match value::parse_size(&text.value) {
            Ok(size) if range.contains(&size) => Some(size),
            Ok(_) => {
                let wanted = format!("a size from {} to {} bytes", range.start(), range.end());
                self.refuse(&format!("is {text}"), &wanted)
            }
            Err(wrong) => self.refuse(&format!("is {text}, which {wrong}"), WANTED),
        }
    }

    /// A rate; `None` inside: unlimited.
    pub(in crate::config) fn rate(mut self) -> Option<Option<Rate>> {
        const WANTED: &str =
            "a rate such as \"50/s\", \"600/m\" or \"10000/h\" (1 to 1000000), or \"unlimited\"";
        let text = self.sibling().string(WANTED)?;
        match value::parse_rate(&text.value) {
            Ok(rate) => Some(rate),
            Err(wrong) => self.refuse(&format!("is {text}, which {wrong}"), WANTED),
        }
    }

    /// One of a few words.
    pub(in crate::config) fn word<T: Copy>(mut self, words: &[(&str, T)]) -> Option<T> {
        let listed = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
        let text = self.sibling().string(&listed)?;
        match words.iter().find(|(word, _)| *word == text.value) {
            Some((_, value)) => Some(*value),
            None => self.refuse(&format!("is {text}"), &listed),
        }
    }

    /// An array whose entries are read one by one.
    pub(in crate::config) fn list<T>(
        mut self,
        mut read: impl FnMut(Value<'_, 'e>) -> Option<T>,
    ) -> Option<List<T>> {
        let DeValue::Array(entries) = self.node else {
            return self.unfit("an array, [\"…\", \"…\"]");
        };
        let mut list = List { items: Vec::with_capacity(entries.len()), complete: true };
        for entry in entries.iter() {
            let place = Place { file: self.place.file, offset: Some(entry.span().start) };
            let name = Name { entry: true, ..self.name };
            match read(Value { node: entry.get_ref(), place, name, reader: self.reader }) {
                Some(value) => list.items.push(Written { value, place }),
                None => list.complete = false,
            }
        }
        Some(list)
    }

    /// A table of names and secret strings, in the order they were written.
    pub(in crate::config) fn pairs(mut self) -> Option<Vec<(Written<String>, Secret)>> {
        let DeValue::Table(table) = self.node else {
            return self.unfit("a table of names and strings");
        };
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut pairs = Vec::with_capacity(entries.len());
        for (key, node) in entries {
            let place = Place { file: self.place.file, offset: Some(key.span().start) };
            let name = Name { entry: true, ..self.name };
            let value = Value { node: node.get_ref(), place, name, reader: self.reader };
            if let Some(secret) = value.secret() {
                pairs.push((Written { value: key.get_ref().to_string(), place }, secret));
            }
        }
        Some(pairs)
    }

    /// A table of property names and secret values. `a.b = 1` and `"a.b" = "1"` are the same property: TOML reads
    /// the first as a table in a table, and nobody should have to know.
    pub(in crate::config) fn properties(mut self) -> Option<Vec<(Written<String>, Secret)>> {
        let DeValue::Table(table) = self.node else {
            return self.unfit("a table of librdkafka properties");
        };
        let mut properties = Vec::new();
        self.flatten("", table, &mut properties);
        properties.sort_by_key(|(name, _)| name.place.offset);
        Some(properties)
    }

    fn flatten(&mut self, prefix: &str, table: &DeTable<'_>, into: &mut Vec<(Written<String>, Secret)>) {
        for (key, node) in table.iter() {
            let name = format!("{prefix}{}", key.get_ref());
            let place = Place { file: self.place.file, offset: Some(key.span().start) };
            let value = match node.get_ref() {
                DeValue::Table(inner) => {
                    self.flatten(&format!("{name}."), inner, into);
                    continue;
                }
                DeValue::Integer(number) if number.radix() == 10 => Some(Secret::new(number.as_str())),
                DeValue::Float(number) => Some(Secret::new(number.as_str())),
                DeValue::Boolean(flag) => Some(Secret::new(flag.to_string())),
                other => {
                    let name = Name { entry: true, ..self.name };
                    Value { node: other, place, name, reader: self.reader }.secret()
                }
            };
            if let Some(value) = value {
                into.push((Written { value: name, place }, value));
            }
        }
    }

    /// A TOML value that may be an integer or a string, e.g. an HTTP status.
    pub(in crate::config) fn int_or_text(self) -> Option<Result<i64, Text>> {
        match self.node {
            DeValue::Integer(_) => self.int(i64::MIN..=i64::MAX).map(Ok),
            _ => self.string("a whole number or a string").map(Err),
        }
    }

    fn string(mut self, wanted: &str) -> Option<Text> {
        let DeValue::String(text) = self.node else {
            return self.unfit(wanted);
        };
        match reference::resolve(text, &self.reader.folder, self.reader.env) {
            None => Some(Text { value: text.to_string(), reference: None }),
            Some(Ok(value)) => Some(Text { value, reference: Some(text.to_string()) }),
            Some(Err(error)) => {
                let message = format!("{} is {text:?}, which {error}", self.name);
                self.reader.report.add(
                    self.place,
                    message,
                    "write a reference that holds a value, or the value itself",
                );
                None
            }
        }
    }

    /// The same value again, for a reader that reads it in two steps.
    fn sibling(&mut self) -> Value<'_, 'e> {
        Value { node: self.node, place: self.place, name: self.name, reader: self.reader }
    }

    fn unfit<T>(&mut self, wanted: &str) -> Option<T> {
        self.refuse(&format!("is {}", kind(self.node)), wanted)
    }

    fn refuse<T>(&mut self, found: &str, wanted: &str) -> Option<T> {
        self.reader.report.add(self.place, format!("{} {found}", self.name), format!("write {wanted}"));
        None
    }
}
