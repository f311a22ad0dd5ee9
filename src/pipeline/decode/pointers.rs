//! JSON pointers ([RFC 6901]) looked up together: one pass over the value, building nothing but the answers.
//!
//! Never recurses deeper than the longest pointer, whatever the value looks like: what no pointer leads into is
//! skipped by `serde_json` without a stack.
//!
//! [RFC 6901]: https://www.rfc-editor.org/rfc/rfc6901

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The answer to each pointer: a string itself, a number or bool as it is written, otherwise nothing.
pub(super) type Found<'v> = Vec<Option<Cow<'v, str>>>;

/// A set of pointers as a tree of their tokens.
#[derive(Debug, Default)]
pub(super) struct Pointers {
    root: Node,
    len: usize,
}

#[derive(Debug, Default)]
struct Node {
    /// The token as an index of an array, if it is one: without leading zeros.
    index: Option<usize>,
    slot: Option<usize>,
    children: Vec<(Box<str>, Node)>,
}

impl Pointers {
    /// Adds a pointer; its answer is at the returned place. A repeated one shares its place; text that is no
    /// pointer has a place that stays empty.
    pub(super) fn add(&mut self, pointer: &str) -> usize {
        if !pointer.is_empty() && !pointer.starts_with('/') {
            self.len += 1;
            return self.len - 1;
        }
        let mut node = &mut self.root;
        for token in pointer.split('/').skip(1) {
            node = node.child_or_new(&token.replace("~1", "/").replace("~0", "~"));
        }
        *node.slot.get_or_insert_with(|| {
            self.len += 1;
            self.len - 1
        })
    }

    /// All answers. A value that is not JSON from its first to its last byte has none.
    pub(super) fn find<'v>(&self, json: &'v [u8]) -> Found<'v> {
        let mut found = vec![None; self.len];
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let walked = Walk { node: &self.root, found: &mut found }.deserialize(&mut deserializer);
        if walked.and_then(|()| deserializer.end()).is_err() {
            found.fill(None);
        }
        found
    }
}

impl Node {
    fn child(&self, token: &str) -> Option<&Self> {
        self.children.iter().find(|(name, _)| **name == *token).map(|(_, node)| node)
    }

    fn item(&self, index: usize) -> Option<&Self> {
        self.children.iter().find(|(_, node)| node.index == Some(index)).map(|(_, node)| node)
    }

    fn child_or_new(&mut self, token: &str) -> &mut Self {
        let at = self.children.iter().position(|(name, _)| **name == *token).unwrap_or_else(|| {
            let index = token.parse().ok().filter(|index: &usize| index.to_string() == token);
            self.children.push((token.into(), Self { index, ..Self::default() }));
            self.children.len() - 1
        });
        &mut self.children[at].1
    }

    fn clear(&self, found: &mut [Option<Cow<'_, str>>]) {
        if let Some(slot) = self.slot {
            found[slot] = None;
        }
        self.children.iter().for_each(|(_, node)| node.clear(found));
    }
}

/// One JSON value and the part of the tree that applies to it.
struct Walk<'n, 'f, 'v> {
    node: &'n Node,
    found: &'f mut [Option<Cow<'v, str>>],
}

impl<'v> DeserializeSeed<'v> for Walk<'_, '_, 'v> {
    type Value = ();

    fn deserialize<D: Deserializer<'v>>(self, value: D) -> Result<(), D::Error> {
        let Some(slot) = self.node.slot else {
            return value.deserialize_any(self);
        };
        let raw = <&'v RawValue>::deserialize(value)?.get();
        self.found[slot] = fact(raw);
        if self.node.children.is_empty() {
            return Ok(());
        }
        // Another pointer leads on from here: the same text once more.
        serde_json::Deserializer::from_str(raw).deserialize_any(self).map_err(serde::de::Error::custom)
    }
}

impl<'v> Visitor<'v> for Walk<'_, '_, 'v> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'v>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(child) = map.next_key_seed(Key(self.node))? {
            let Some(node) = child else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            // Of a repeated member the last one counts, as in most parsers, and with all that is in it.
            node.clear(self.found);
            map.next_value_seed(Walk { node, found: self.found })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'v>>(self, mut seq: A) -> Result<(), A::Error> {
        for index in 0_usize.. {
            let more = match self.node.item(index) {
                Some(node) => seq.next_element_seed(Walk { node, found: self.found })?.is_some(),
                None => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A member's name, turned into its node without being copied.
struct Key<'n>(&'n Node);

impl<'v, 'n> DeserializeSeed<'v> for Key<'n> {
    type Value = Option<&'n Node>;

    fn deserialize<D: Deserializer<'v>>(self, name: D) -> Result<Self::Value, D::Error> {
        name.deserialize_str(self)
    }
}

impl<'n> Visitor<'_> for Key<'n> {
    type Value = Option<&'n Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.child(name))
    }
}

fn fact(raw: &str) -> Option<Cow<'_, str>> {
    match raw.as_bytes().first()? {
        b'"' if !raw.contains('\\') => Some(Cow::Borrowed(&raw[1..raw.len() - 1])),
        b'"' => serde_json::from_str(raw).ok().map(Cow::Owned),
        b't' | b'f' | b'-' | b'0'..=b'9' => Some(Cow::Borrowed(raw)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, pointers: &[&str], want: &[Option<&str>]) {
        let mut tree = Pointers::default();
        let slots: Vec<usize> = pointers.iter().map(|pointer| tree.add(pointer)).collect();
        let found = tree.find(json.as_bytes());
        let answers: Vec<Option<&str>> = slots.iter().map(|slot| found[*slot].as_deref()).collect();
        assert_eq!(answers, want, "{pointers:?} in {json}");
    }

    #[test]
    fn scalars_as_written_and_nothing_else() {
        let json = r#"{"s": "ä\n", "n": 1.50e2, "t": true, "f": false, "z": null, "o": {}, "a": [], "bad": "\ud800"}"#;
        check(json, &["/s", "/n", "/t", "/f"], &[Some("ä\n"), Some("1.50e2"), Some("true"), Some("false")]);
        check(json, &["/z", "/o", "/a", "/bad", "/none", "/s/0", ""], &[None; 7]);
        check("123456789012345678901234567890", &["", "/a"], &[Some("123456789012345678901234567890"), None]);
        check(r#" "root" "#, &[""], &[Some("root")]);
    }

    #[test]
    fn tokens_as_the_rfc_has_them() {
        let json = r#"{"a/b": 1, "m~n": 2, "": 3, " ": 4, "~1": 5, "x": ["y", {"z": 6}], "\u0061": 7}"#;
        let pointers = ["/a~1b", "/m~0n", "/", "/ ", "/~01", "/x/0", "/x/1/z", "/x/01", "/x/-", "/a"];
        let want =
            ["1", "2", "3", "4", "5", "y", "6", "", "", "7"].map(|w| Some(w).filter(|w| !w.is_empty()));
        check(json, &pointers, &want);
        check(json, &["/a", "/a", "not a pointer"], &[Some("7"), Some("7"), None]);
    }

    #[test]
    fn one_pointer_may_lead_on_from_another() {
        check(r#"{"a": {"b": {"c": 1}}, "d": 2}"#, &["/a", "/a/b/c", "/d"], &[None, Some("1"), Some("2")]);
        check(r#"{"a": "x", "d": 2}"#, &["/a", "/a/b/c", "/d"], &[Some("x"), None, Some("2")]);
    }

    #[test]
    fn of_repeated_members_the_last_counts() {
        check(r#"{"a": {"b": 1}, "a": {"c": 2}}"#, &["/a/b", "/a/c"], &[None, Some("2")]);
        check(r#"{"a": {"b": 1}, "a": 3}"#, &["/a", "/a/b"], &[Some("3"), None]);
    }

    #[test]
    fn junk_has_no_answers() {
        for json in
            ["", " ", "{", r#"{"a": 1"#, r#"{"a": 1} x"#, r#"{"a": 1}{}"#, r#"{"a": 1,}"#, "\u{feff}{}"]
        {
            check(json, &["/a"], &[None]);
        }
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_a_parsed_value(json in json(), pointer in "(/[ab01]){0,3}") {
            let text = |pointer: &str| json.pointer(pointer).and_then(|v| v.as_str());
            check(&json.to_string(), &[&pointer, "/a/b"], &[text(&pointer), text("/a/b")]);
        }

        #[test]
        fn random_bytes_are_no_danger(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let mut tree = Pointers::default();
            tree.add("/a");
            tree.add("");
            tree.find(&bytes);
        }
    }

    fn json() -> impl proptest::strategy::Strategy<Value = serde_json::Value> {
        use proptest::prelude::*;
        let leaf =
            prop_oneof![Just(serde_json::Value::Null), "[a\"\\\\]{0,3}".prop_map(serde_json::Value::from)];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                proptest::collection::hash_map("[ab01]", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }
}
