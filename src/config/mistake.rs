//! What is wrong with a configuration: every mistake with its place, what was found and what would do.
//!
//! A mistake never holds a secret; whoever words one sees to that (see `config/read/value.rs`).

use std::{collections::HashSet, fmt, sync::Arc};

use serde::Serialize;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// The file, as it was named on the command line or found by `include`.
    pub file: String,
    /// Line, from 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// Column in characters, from 1; 0 when the file as a whole is meant.
    pub column: usize,
    /// What was found.
    pub message: String,
    /// What would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

/// All mistakes of a configuration by file and line; never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// The mistakes, by file and line.
    pub fn as_slice(&self) -> &[Mistake] {
        &self.0
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// A place in one of the files of a [`Report`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Place {
    /// Which file.
    pub(super) file: usize,
    /// Byte offset; `None`: the file as a whole.
    pub(super) offset: Option<usize>,
}

/// Collects mistakes while the files are read and checked.
#[derive(Debug, Default)]
pub(super) struct Report {
    files: Vec<Source>,
    found: Vec<Found>,
    /// A mistake in the defaults shows again in every endpoint that takes them; it is told once.
    told: HashSet<(Place, String)>,
}

#[derive(Debug)]
struct Source {
    name: String,
    text: Arc<str>,
    /// Where each line begins.
    lines: Vec<usize>,
    /// Lines with a syntax error.
    broken: Vec<usize>,
    /// From this line on nothing can be said, because something before it was never closed.
    lost_from: Option<usize>,
}

impl Source {
    /// Line and column in characters, both from 1.
    fn line_column(&self, offset: usize) -> (usize, usize) {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let line = self.lines.partition_point(|start| *start <= end);
        (line, self.text[self.lines[line - 1]..end].chars().count() + 1)
    }
}

#[derive(Debug)]
struct Found {
    place: Place,
    kind: Kind,
    message: String,
    help: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Syntax,
    Missing,
    Other,
}

impl Report {
    /// Adds a file; its number goes into the places.
    pub(super) fn file(&mut self, name: String, text: Arc<str>) -> usize {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        self.files.push(Source { name, text, lines, broken: Vec::new(), lost_from: None });
        self.files.len() - 1
    }

    /// Something that is there and is wrong.
    pub(super) fn add(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.push(place, Kind::Other, message.into(), Some(help.into()));
    }

    /// Something that had to be there.
    pub(super) fn missing(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.push(place, Kind::Missing, message.into(), Some(help.into()));
    }

    /// Errors of the TOML parser in one file. One per line is told: the others follow from it. When something was
    /// never closed, all that comes after its first sign does, except the news itself.
    pub(super) fn syntax(&mut self, file: usize, errors: &[toml::de::Error]) {
        let unclosed = |message: &str| message.starts_with("unclosed");
        let mut errors: Vec<_> =
            errors.iter().map(|e| (e.span().map_or(0, |span| span.start), e.message())).collect();
        errors.sort_by_key(|(offset, message)| (*offset, !unclosed(message)));
        let lost = errors.iter().any(|(_, message)| unclosed(message));
        for (offset, message) in errors {
            let source = &mut self.files[file];
            let (line, _) = source.line_column(offset);
            if source.broken.is_empty() || unclosed(message) || !(lost || source.broken.contains(&line)) {
                let place = Place { file, offset: Some(offset) };
                source.broken.push(line);
                if lost {
                    source.lost_from.get_or_insert(line);
                }
                self.push(place, Kind::Syntax, format!("not TOML: {message}"), None);
            }
        }
    }

    /// A place for people, e.g. `config/arauto.toml:12:5`.
    pub(super) fn describe(&self, place: Place) -> String {
        let source = &self.files[place.file];
        match place.offset {
            Some(offset) => {
                let (line, column) = source.line_column(offset);
                format!("{}:{line}:{column}", source.name)
            }
            None => source.name.clone(),
        }
    }

    /// The mistakes, if there are any. What merely follows from a syntax error is left out.
    pub(super) fn finish(self) -> Result<(), Mistakes> {
        let any_broken = self.files.iter().any(|source| !source.broken.is_empty());
        let mut mistakes = Vec::new();
        for found in self.found {
            let source = &self.files[found.place.file];
            let (line, column) = found.place.offset.map_or((0, 0), |offset| source.line_column(offset));
            let follows = match found.kind {
                Kind::Syntax => false,
                Kind::Missing => any_broken,
                Kind::Other => {
                    source.broken.contains(&line) || source.lost_from.is_some_and(|from| line >= from)
                }
            };
            if !follows {
                let (message, help) = (found.message, found.help);
                mistakes.push((
                    found.place.file,
                    Mistake { file: source.name.clone(), line, column, message, help },
                ));
            }
        }
        mistakes.sort_by_key(|(file, mistake)| (*file, mistake.line, mistake.column));
        let mistakes: Vec<_> = mistakes.into_iter().map(|(_, mistake)| mistake).collect();
        if mistakes.is_empty() { Ok(()) } else { Err(Mistakes(mistakes)) }
    }

    fn push(&mut self, place: Place, kind: Kind, message: String, help: Option<String>) {
        if self.told.insert((place, message.clone())) {
            self.found.push(Found { place, kind, message, help });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        for (text, offset, expected) in [
            ("", 0, (1, 1)),
            ("ab", 1, (1, 2)),
            ("é=1", 2, (1, 2)),
            ("a\nbç x", 6, (2, 4)),
            ("a\r\nb", 3, (2, 1)),
            ("a\n", 99, (2, 1)),
        ] {
            let mut report = Report::default();
            let file = report.file(String::new(), text.into());
            assert_eq!(report.files[file].line_column(offset), expected, "{text:?} {offset}");
        }
    }
}
