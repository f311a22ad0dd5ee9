//! Walks a parsed TOML file key by key.
//!
//! Every key asked for is a known key; what is left in a table at the end is unknown. Nothing here knows what a
//! key means.

use std::{path::PathBuf, sync::LazyLock};

use toml::de::{DeTable, DeValue};

use super::{
    mistake::{Place, Report},
    reference::Env,
    written::{Key, Written},
};

pub(super) mod value;

use value::{Name, Value};

/// What reading one file needs.
pub(super) struct Reader<'e> {
    /// Where mistakes go.
    pub(super) report: Report,
    /// How `env:` is read.
    pub(super) env: Env<'e>,
    /// What `file:` is relative to.
    pub(super) folder: PathBuf,
    /// The file's number in the report.
    pub(super) file: usize,
}

/// A table being read.
pub(super) struct Table<'t, 'e> {
    node: &'t DeTable<'t>,
    /// How the table is called in messages, e.g. `[kafka]`; empty for the top level.
    name: &'static str,
    place: Place,
    known: Vec<&'static str>,
    reader: &'t mut Reader<'e>,
}

impl<'t, 'e> Table<'t, 'e> {
    /// Reads the top level of a file.
    pub(super) fn root<T>(
        node: &'t DeTable<'t>,
        reader: &'t mut Reader<'e>,
        read: impl FnOnce(&mut Table<'_, 'e>) -> T,
    ) -> T {
        let place = Place { file: reader.file, offset: None };
        Table { node, name: "", place, known: Vec::new(), reader }.run(read)
    }

    /// Where the table begins.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Reads one key.
    pub(super) fn key<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Value<'_, 'e>) -> Option<T>,
    ) -> Key<T> {
        self.known.push(key);
        let Some((_, node)) = self.node.get_key_value(key) else {
            return Key::Absent;
        };
        let place = self.at(node.span().start);
        let name = Name { key, table: self.name, entry: false };
        match read(Value { node: node.get_ref(), place, name, reader: self.reader }) {
            Some(value) => Key::Set(Written { value, place }),
            None => Key::Wrong,
        }
    }

    /// Reads a table within this one; without it, what an empty one would give.
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        name: &'static str,
        read: impl FnOnce(&mut Table<'_, 'e>) -> T,
    ) -> T {
        static EMPTY: LazyLock<DeTable<'static>> = LazyLock::new(DeTable::new);
        self.known.push(key);
        let (mut node, mut place): (&DeTable<'_>, Place) = (&EMPTY, self.place);
        if let Some((_, found)) = self.node.get_key_value(key) {
            place = self.at(found.span().start);
            match found.get_ref() {
                DeValue::Table(table) => node = table,
                other => self.reader.report.add(
                    place,
                    format!("\"{key}\" is {}", kind(other)),
                    format!("begin the section with {name} on a line of its own"),
                ),
            }
        }
        Table { node, name, place, known: Vec::new(), reader: self.reader }.run(read)
    }

    /// Reads an array of tables.
    pub(super) fn sections<T>(
        &mut self,
        key: &'static str,
        name: &'static str,
        mut read: impl FnMut(&mut Table<'_, 'e>) -> T,
    ) -> Vec<T> {
        self.known.push(key);
        let Some((_, found)) = self.node.get_key_value(key) else {
            return Vec::new();
        };
        let DeValue::Array(entries) = found.get_ref() else {
            let place = self.at(found.span().start);
            let message = format!("\"{key}\" is {}", kind(found.get_ref()));
            self.reader.report.add(
                place,
                message,
                format!("begin each entry with {name} on a line of its own"),
            );
            return Vec::new();
        };
        let mut all = Vec::with_capacity(entries.len());
        for entry in entries.iter() {
            let place = self.at(entry.span().start);
            match entry.get_ref() {
                DeValue::Table(node) => {
                    all.push(
                        Table { node, name, place, known: Vec::new(), reader: self.reader }.run(&mut read),
                    );
                }
                other => {
                    let help = format!("begin each entry with {name} on a line of its own");
                    self.reader.report.add(
                        place,
                        format!("\"{key}\" has an entry that is {}", kind(other)),
                        help,
                    );
                }
            }
        }
        all
    }

    fn run<T>(mut self, read: impl FnOnce(&mut Table<'_, 'e>) -> T) -> T {
        let value = read(&mut self);
        self.refuse_unknown();
        value
    }

    fn refuse_unknown(&mut self) {
        for (key, _) in self.node.iter() {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let place = self.at(key.span().start);
            let message = match self.name {
                "" => format!("unknown key {name:?} at the top level"),
                table => format!("unknown key {name:?} in {table}"),
            };
            let help = match nearest(name, self.known.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("known here: {}", self.known.join(", ")),
            };
            self.reader.report.add(place, message, help);
        }
    }

    fn at(&self, offset: usize) -> Place {
        Place { file: self.reader.file, offset: Some(offset) }
    }
}

/// The known word a typing mistake was meant to be, if one is near.
pub(crate) fn nearest<'n>(word: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    // A third of the letters, and one in the shortest: beyond that, suggestions puzzle more than they help.
    let most = (word.chars().count() / 3).max(1);
    known
        .map(|candidate| {
            let like = candidate.to_ascii_lowercase().replace('-', "_");
            (strsim::damerau_levenshtein(&word, &like), candidate)
        })
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn kind(node: &DeValue<'_>) -> &'static str {
    match node {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_keys_are_found() {
        for (word, expected) in [
            ("brokerz", Some("brokers")),
            ("Brokers", Some("brokers")),
            ("max-age", Some("max_age")),
            ("timeuot", Some("timeout")),
            ("ids", Some("id")),
            ("method", None),
            ("tls", None),
            ("", None),
        ] {
            let known = ["brokers", "max_age", "timeout", "id", "types"];
            assert_eq!(nearest(word, known.into_iter()), expected, "{word}");
        }
    }
}
