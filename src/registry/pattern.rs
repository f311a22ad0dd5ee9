//! Patterns of event types: `*` stands for any run of characters, dots included; nothing else has a meaning.
//!
//! Matching one pattern is linear in the text, and a type finds its patterns among many by their literal ends.

use std::collections::{BTreeMap, HashMap};

/// Does the whole text match?
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((prefix, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
    let ends = text.strip_prefix(prefix).and_then(|text| text.strip_suffix(suffix));
    let Some(mut text) = ends else {
        return false;
    };
    // Each part at its first place: a later one could only leave less room for the parts behind it.
    for part in middle.split('*') {
        let Some(at) = text.find(part) else {
            return false;
        };
        text = &text[at + part.len()..];
    }
    true
}

/// Many patterns, each known by a number.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    exact: HashMap<Box<str>, u32>,
    /// Those with a `*`, by what stands before the first and behind the last one.
    open: Lengths<Lengths<BTreeMap<Box<str>, u32>>>,
}

impl Patterns {
    /// The number of a pattern: the one it has, or `next`.
    pub(super) fn add(&mut self, pattern: &str, next: u32) -> u32 {
        let Some((prefix, rest)) = pattern.split_once('*') else {
            return *self.exact.entry(pattern.into()).or_insert(next);
        };
        let suffix = rest.rsplit_once('*').map_or(rest, |(_, suffix)| suffix);
        *self.open.entry(prefix).entry(suffix).entry(pattern.into()).or_insert(next)
    }

    /// Appends the numbers of all patterns that match.
    pub(super) fn find(&self, text: &str, found: &mut Vec<u32>) {
        found.extend(self.exact.get(text));
        self.open.each(
            |len| text.get(..len),
            |suffixes| {
                suffixes.each(
                    |len| text.get(text.len().checked_sub(len)?..),
                    |patterns| {
                        found.extend(
                            patterns.iter().filter(|(pattern, _)| matches(pattern, text)).map(|(_, n)| n),
                        );
                    },
                );
            },
        );
    }
}

/// A map that is asked for every key of which a text is the start (or the end): once per length of key there is.
#[derive(Debug, Default)]
struct Lengths<T> {
    lengths: Vec<usize>,
    entries: HashMap<Box<str>, T>,
}

impl<T: Default> Lengths<T> {
    fn entry(&mut self, key: &str) -> &mut T {
        if let Err(at) = self.lengths.binary_search(&key.len()) {
            self.lengths.insert(at, key.len());
        }
        self.entries.entry(key.into()).or_default()
    }

    /// `part` gives the piece of that length, nothing when the text is too short or would be cut inside a
    /// character.
    fn each<'t>(&self, part: impl Fn(usize) -> Option<&'t str>, mut visit: impl FnMut(&T)) {
        let parts = self.lengths.iter().filter_map(|len| part(*len));
        parts.filter_map(|part| self.entries.get(part)).for_each(&mut visit);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let matched = |text: &&&str| matches(pattern, text);
        assert_eq!(yes.iter().find(|text| !matched(text)), None, "{pattern} should match");
        assert_eq!(no.iter().find(matched), None, "{pattern} should not match");
    }

    #[test]
    fn a_star_is_any_run_of_characters() {
        check("order.created", &["order.created"], &["order.create", "order.created.", "Order.created", ""]);
        check("", &[""], &["a"]);
        check("*", &["", "a", "a.b", "ü\n"], &[]);
        check("order.*", &["order.", "order.a", "order.a.b"], &["order", "a.order.b"]);
        check("*.created", &[".created", "a.b.created"], &["created", "a.created.b"]);
        check("a*a", &["aa", "aba", "aaa"], &["a", "ab", "ba"]);
        check("a*b*c", &["abc", "a.b.c", "abbcc", "abcbc"], &["ac", "acb", "abcd"]);
        check("a*bc*cd", &["abccd", "abc.cd", "abcbcd", "abcbccd"], &["abcd"]);
        check("**a**", &["a", "xax"], &["", "x"]);
        check("a?[b]\\", &["a?[b]\\"], &["axb", "a\\"]);
        check("ü*ß", &["üß", "ü-ß"], &["u-ß", "ü"]);
    }

    #[test]
    fn matching_is_linear() {
        let (pattern, text) = ("*a".repeat(2_000) + "b", "a".repeat(200_000));
        assert!(!matches(&pattern, &text));
    }

    proptest! {
        #[test]
        fn agrees_with_a_regular_expression(pattern in "[abü.*]{0,8}", text in "[abü.]{0,10}") {
            let parts: Vec<String> = pattern.split('*').map(regex::escape).collect();
            let regex = regex::Regex::new(&format!("^(?s:{})$", parts.join(".*"))).unwrap();
            prop_assert_eq!(matches(&pattern, &text), regex.is_match(&text));
        }

        #[test]
        fn many_are_found_as_each_matches(
            patterns in proptest::collection::vec("[abü.*]{0,5}", 0..40),
            text in "[abü.]{0,8}",
        ) {
            let mut all = Patterns::default();
            let numbers: Vec<u32> = (0..).zip(&patterns).map(|(next, pattern)| all.add(pattern, next)).collect();
            let mut found = Vec::new();
            all.find(&text, &mut found);
            for (pattern, number) in patterns.iter().zip(&numbers) {
                prop_assert_eq!(found.contains(number), matches(pattern, &text), "{} on {}", pattern, text);
            }
        }
    }
}
