//! How a value was written: whether, where, and how it may be shown.

use std::fmt;

use super::mistake::Place;

/// One key as the user left it.
#[derive(Debug, Clone)]
pub(super) enum Key<T> {
    /// It is not there.
    Absent,
    /// It is there and is wrong, which has been reported; checks that would only repeat it look the other way.
    Wrong,
    /// It is there.
    Set(Written<T>),
}

impl<T> Key<T> {
    /// The value and its place, when there is a usable one.
    pub(super) fn set(&self) -> Option<&Written<T>> {
        match self {
            Self::Set(written) => Some(written),
            Self::Absent | Self::Wrong => None,
        }
    }

    /// Was the key written at all?
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl<T: Clone> Key<T> {
    /// The value, or what applies without it.
    pub(super) fn or(&self, default: T) -> T {
        self.set().map_or(default, |written| written.value.clone())
    }

    /// This key, or the one it overrides.
    pub(super) fn over(&self, below: &Self) -> Self {
        if self.is_absent() { below.clone() } else { self.clone() }
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Written<T> {
    /// The value.
    pub(super) value: T,
    /// Where it stands.
    pub(super) place: Place,
}

/// An array.
#[derive(Debug, Clone)]
pub(super) struct List<T> {
    /// The entries that are right.
    pub(super) items: Vec<Written<T>>,
    /// No entry was wrong.
    pub(super) complete: bool,
}

/// A string; `Display` is how a message may show it.
#[derive(Clone)]
pub(super) struct Text {
    /// Its value, references resolved.
    pub(super) value: String,
    /// The reference it came from. Such a value is never shown: it may be a secret.
    pub(super) reference: Option<String>,
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reference {
            Some(reference) => write!(f, "the value of {reference}"),
            None => write!(f, "{:?}", self.value),
        }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
