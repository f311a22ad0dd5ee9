//! Ids of events: the `webhook-id` receivers de-duplicate with. The same event has the same id for ever.
//!
//! Never contains a dot, which separates the id from what follows it in the signed content.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

/// Longest id taken as it is.
pub const MAX_LEN: usize = 64;

/// The id of an event that brings none: from where and when it stands. The time is in it because a topic that
/// was deleted and made again starts over at offset 0.
pub fn of_coordinates(ns: &str, topic: &str, partition: i32, offset: i64, timestamp_ms: i64) -> Arc<str> {
    derive(format_args!("{ns}\0{topic}\0{partition}\0{offset}\0{timestamp_ms}"))
}

/// The id of a `CloudEvents` event, whose source and id are unique together.
pub fn of_cloudevent(source: &str, id: &str) -> Arc<str> {
    derive(format_args!("cloudevents\0{source}\0{id}"))
}

/// The id of an event that names it in a header or member: the value itself where it can be an id.
pub fn of_value(value: &str) -> Arc<str> {
    if is_plain(value) { Arc::from(value) } else { derive(format_args!("id\0{value}")) }
}

/// 1–64 of `A-Z a-z 0-9 _ -`.
pub fn is_plain(id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (1..=MAX_LEN).contains(&id.len()) && id.bytes().all(plain)
}

/// `msg_` and 20 bytes of the hash: 160 bits in 32 characters, without padding.
fn derive(parts: fmt::Arguments<'_>) -> Arc<str> {
    let mut hash = Hash(Sha256::new());
    hash.write_fmt(parts).expect("hashing text does not fail");
    let mut id = *b"msg_00000000000000000000000000000000";
    BASE32_NOPAD.encode_mut(&hash.0.finalize()[..20], &mut id[4..]);
    id.make_ascii_lowercase();
    Arc::from(std::str::from_utf8(&id).expect("base32 is ASCII"))
}

/// Takes formatted text straight into the hash, without a string in between.
struct Hash(Sha256);

impl Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let vectors = include_str!("../../../tests/vectors/ids.json");
        let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
        for case in vectors["cases"].as_array().unwrap() {
            let parts: Vec<&str> =
                case["parts"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
            let id = match parts[..] {
                ["cloudevents", source, id] => of_cloudevent(source, id),
                ["id", value] => of_value(value),
                [ns, topic, partition, offset, timestamp] => of_coordinates(
                    ns,
                    topic,
                    partition.parse().unwrap(),
                    offset.parse().unwrap(),
                    timestamp.parse().unwrap(),
                ),
                _ => panic!("a case of an unknown kind: {parts:?}"),
            };
            assert_eq!(Some(&*id), case["id"].as_str(), "{parts:?}");
        }
    }

    #[test]
    fn plain_values_are_ids_themselves() {
        let (longest, too_long) = ("x".repeat(64), "x".repeat(65));
        for id in ["a", "A-z_09", longest.as_str()] {
            assert_eq!(&*of_value(id), id);
        }
        for value in ["a.b", "a b", "ä", "", too_long.as_str()] {
            assert!(of_value(value).starts_with("msg_") && is_plain(&of_value(value)), "{value}");
        }
    }
}
