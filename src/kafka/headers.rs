//! Headers: the envelope of records on retry and dead-letter topics, both directions.
//!
//! Touches neither the value nor the original headers. Pure; a record somebody else wrote there is an error that
//! names the header, never a panic and never a guess.

use std::{
    fmt::{Display, Write as _},
    sync::{Arc, LazyLock},
};

use bytes::Bytes;

use crate::{
    otel::context::Context,
    pipeline::{Event, Headers, Record, decode::id, outcome::Reason},
    registry,
};

/// Longest `arauto-error`, in bytes.
pub const MAX_ERROR: usize = 512;

/// What a delivery takes along on a retry or dead-letter topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The webhook id.
    pub id: Arc<str>,
    /// The endpoint's id, or its [`registry::hash_name`] when only that is known.
    pub endpoint: Arc<str>,
    /// The event's topic.
    pub source_topic: Arc<str>,
    /// The event's partition.
    pub source_partition: i32,
    /// The event's offset.
    pub source_offset: i64,
    /// The event's timestamp in unix milliseconds; -1 when it has none.
    pub source_timestamp: i64,
    /// The event's key.
    pub key: Option<Bytes>,
    /// Attempts made so far.
    pub attempts: u32,
    /// When the event was first seen, in unix milliseconds.
    pub first_seen: i64,
    /// When the first attempt began, in unix milliseconds.
    pub first_attempt: Option<i64>,
    /// When the next attempt is due, in unix milliseconds.
    pub due: i64,
    /// Why it is on this topic.
    pub reason: Reason,
    /// The last HTTP status.
    pub status: Option<u16>,
    /// The last error or response excerpt; cut to [`MAX_ERROR`] bytes when written.
    pub error: Option<String>,
    /// How often it was replayed.
    pub replays: u32,
    /// Since when, in unix milliseconds, its endpoint has been unknown.
    pub unknown_since: Option<i64>,
    /// How often in a row it was parked without an attempt.
    pub parks: u32,
    /// Attempts among `attempts` that are not charged to the schedule.
    pub uncharged: u32,
    /// The delivery's span, where there are traces.
    pub trace: Option<Context>,
    /// The span of the delivery that this one replays.
    pub replayed_trace: Option<Context>,
}

/// A record on one of our topics that we did not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("header {header} {problem}")]
pub struct Malformed {
    /// The header's name.
    pub header: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Is this the name of one of our headers, in any spelling, of this release or another?
pub fn is_ours(name: &str) -> bool {
    name.as_bytes().get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"arauto-"))
}

impl Envelope {
    /// The envelope of a delivery nothing has happened to yet.
    pub fn new(event: &Event, endpoint: Arc<str>, reason: Reason, first_seen: i64, due: i64) -> Self {
        Self {
            id: Arc::clone(&event.id),
            endpoint,
            source_topic: Arc::clone(&event.topic),
            source_partition: event.partition,
            source_offset: event.offset,
            source_timestamp: event.timestamp,
            key: event.key.clone(),
            attempts: 0,
            first_seen,
            first_attempt: None,
            due,
            reason,
            status: None,
            error: None,
            replays: 0,
            unknown_since: None,
            parks: 0,
            uncharged: 0,
            trace: None,
            replayed_trace: None,
        }
    }

    /// The headers of the record: the original ones as they are, ours behind them.
    pub fn write(&self, original: &Headers) -> Headers {
        let mut headers = Vec::with_capacity(original.0.len() + Field::ALL.len());
        headers.extend_from_slice(&original.0);
        self.each(|field, value| headers.push((field.name(), Some(Bytes::copy_from_slice(value)))));
        Headers(headers)
    }

    /// The same one by one, for who puts them where they are needed at once.
    pub fn write_to(&self, original: Option<&Headers>, mut put: impl FnMut(&str, Option<&[u8]>)) {
        original.iter().flat_map(|headers| &headers.0).for_each(|(name, value)| put(name, value.as_deref()));
        self.each(|field, value| put(field.as_str(), Some(value)));
    }

    fn each(&self, put: impl FnMut(Field, &[u8])) {
        let mut ours = Ours { put, text: String::with_capacity(64) };
        ours.text(Field::Id, &self.id);
        ours.text(Field::Endpoint, &self.endpoint);
        ours.text(Field::SourceTopic, &self.source_topic);
        ours.show(Field::SourcePartition, self.source_partition);
        ours.show(Field::SourceOffset, self.source_offset);
        ours.show(Field::SourceTimestamp, self.source_timestamp);
        ours.show(Field::Attempts, self.attempts);
        ours.show(Field::FirstSeen, self.first_seen);
        ours.show(Field::Due, self.due);
        ours.text(Field::Reason, self.reason.as_str());
        ours.show(Field::Replays, self.replays);
        if let Some(key) = &self.key {
            (ours.put)(Field::Key, key);
        }
        ours.show_if_any(Field::FirstAttempt, self.first_attempt);
        ours.show_if_any(Field::Status, self.status);
        if let Some(error) = &self.error {
            ours.text(Field::Error, cut(error));
        }
        ours.show_if_any(Field::UnknownSince, self.unknown_since);
        ours.show_if_any(Field::Parks, Some(self.parks).filter(|parks| *parks > 0));
        ours.show_if_any(Field::Uncharged, Some(self.uncharged).filter(|uncharged| *uncharged > 0));
        ours.show_if_any(Field::Traceparent, self.trace);
        ours.show_if_any(Field::ReplayedTraceparent, self.replayed_trace);
    }

    /// The envelope of a record and its original headers. Headers of ours that this release does not know, as a
    /// later one may write them, are passed over.
    pub fn read(record: &Record) -> Result<(Self, Headers), Malformed> {
        let fields = Fields::of(&record.headers);
        let envelope = Self {
            id: fields.text(Field::Id, "is not a webhook id", id::is_plain)?,
            endpoint: fields.text(Field::Endpoint, "is not an endpoint id", is_endpoint)?,
            source_topic: fields.text(Field::SourceTopic, "is not a topic", |topic| !topic.is_empty())?,
            source_partition: fields.number(Field::SourcePartition)?,
            source_offset: fields.number(Field::SourceOffset)?,
            source_timestamp: fields.number(Field::SourceTimestamp)?,
            key: fields.get(Field::Key).cloned(),
            attempts: fields.number(Field::Attempts)?,
            first_seen: fields.number(Field::FirstSeen)?,
            first_attempt: fields.number_if_any(Field::FirstAttempt)?,
            due: fields.number(Field::Due)?,
            reason: fields.reason()?,
            status: fields.number_if_any(Field::Status)?,
            error: fields.get(Field::Error).map(|error| cut(&String::from_utf8_lossy(error)).to_owned()),
            replays: fields.number_if_any(Field::Replays)?.unwrap_or(0),
            unknown_since: fields.number_if_any(Field::UnknownSince)?,
            parks: fields.number_if_any(Field::Parks)?.unwrap_or(0),
            uncharged: fields.number_if_any(Field::Uncharged)?.unwrap_or(0),
            trace: fields.context(Field::Traceparent),
            replayed_trace: fields.context(Field::ReplayedTraceparent),
        };
        let original = record.headers.0.iter().filter(|(name, _)| !is_ours(name)).cloned().collect();
        Ok((envelope, Headers(original)))
    }

    /// What is left of a delivery too large for any topic: where its event stands and what was tried, to be
    /// written without value and original headers.
    #[must_use]
    pub fn coordinates_only(&self) -> Self {
        Self { key: None, error: None, reason: Reason::TooLarge, ..self.clone() }
    }
}

/// What a record on one of our topics says of itself, for a look at many: borrowed, and nothing is checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // The names are those of the headers.
pub struct Glance<'a> {
    pub id: Option<&'a [u8]>,
    pub endpoint: Option<&'a [u8]>,
    pub source_topic: Option<&'a [u8]>,
    pub source_partition: Option<&'a [u8]>,
    pub source_offset: Option<&'a [u8]>,
    pub attempts: Option<&'a [u8]>,
    pub reason: Option<&'a [u8]>,
    pub status: Option<&'a [u8]>,
    pub error: Option<&'a [u8]>,
    pub replays: Option<&'a [u8]>,
}

impl<'a> Glance<'a> {
    /// Looks at a record's headers; of several with one name the last is ours.
    pub fn of(headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> Self {
        let mut glance = Self::default();
        for (name, value) in headers {
            let Some(name) = name.strip_prefix("arauto-") else { continue };
            match name {
                "id" => glance.id = value,
                "endpoint" => glance.endpoint = value,
                "source-topic" => glance.source_topic = value,
                "source-partition" => glance.source_partition = value,
                "source-offset" => glance.source_offset = value,
                "attempts" => glance.attempts = value,
                "reason" => glance.reason = value,
                "status" => glance.status = value,
                "error" => glance.error = value,
                "replays" => glance.replays = value,
                _ => {}
            }
        }
        glance
    }

    /// The same of a record that was copied.
    pub fn of_record(record: &'a Record) -> Self {
        Self::of(record.headers.0.iter().map(|(name, value)| (&**name, value.as_deref())))
    }

    /// One of them as text.
    pub fn text(value: Option<&'a [u8]>) -> Option<&'a str> {
        std::str::from_utf8(value?).ok()
    }

    /// One of them as a number.
    pub fn number<N: std::str::FromStr>(value: Option<&'a [u8]>) -> Option<N> {
        Self::text(value)?.parse().ok()
    }
}

/// Our headers.
#[derive(Debug, Clone, Copy)]
enum Field {
    Id,
    Endpoint,
    SourceTopic,
    SourcePartition,
    SourceOffset,
    SourceTimestamp,
    Attempts,
    FirstSeen,
    Due,
    Reason,
    Replays,
    Key,
    FirstAttempt,
    Status,
    Error,
    UnknownSince,
    Parks,
    Uncharged,
    Traceparent,
    ReplayedTraceparent,
}

impl Field {
    /// In the order of their declaration, which is their index and the order in which they are written.
    const ALL: [Self; 20] = [
        Self::Id,
        Self::Endpoint,
        Self::SourceTopic,
        Self::SourcePartition,
        Self::SourceOffset,
        Self::SourceTimestamp,
        Self::Attempts,
        Self::FirstSeen,
        Self::Due,
        Self::Reason,
        Self::Replays,
        Self::Key,
        Self::FirstAttempt,
        Self::Status,
        Self::Error,
        Self::UnknownSince,
        Self::Parks,
        Self::Uncharged,
        Self::Traceparent,
        Self::ReplayedTraceparent,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Id => "arauto-id",
            Self::Endpoint => "arauto-endpoint",
            Self::SourceTopic => "arauto-source-topic",
            Self::SourcePartition => "arauto-source-partition",
            Self::SourceOffset => "arauto-source-offset",
            Self::SourceTimestamp => "arauto-source-timestamp",
            Self::Attempts => "arauto-attempts",
            Self::FirstSeen => "arauto-first-seen",
            Self::Due => "arauto-due",
            Self::Reason => "arauto-reason",
            Self::Replays => "arauto-replays",
            Self::Key => "arauto-key",
            Self::FirstAttempt => "arauto-first-attempt",
            Self::Status => "arauto-status",
            Self::Error => "arauto-error",
            Self::UnknownSince => "arauto-unknown-since",
            Self::Parks => "arauto-parks",
            Self::Uncharged => "arauto-uncharged",
            Self::Traceparent => "arauto-traceparent",
            Self::ReplayedTraceparent => "arauto-replayed-traceparent",
        }
    }

    /// The name, shared by all records.
    fn name(self) -> Arc<str> {
        static NAMES: LazyLock<[Arc<str>; Field::ALL.len()]> =
            LazyLock::new(|| Field::ALL.map(|field| Arc::from(field.as_str())));
        Arc::clone(&NAMES[self as usize])
    }
}

/// Our headers on their way out; what is no text yet becomes it in one buffer.
struct Ours<P> {
    put: P,
    text: String,
}

impl<P: FnMut(Field, &[u8])> Ours<P> {
    fn text(&mut self, field: Field, value: &str) {
        (self.put)(field, value.as_bytes());
    }

    fn show(&mut self, field: Field, value: impl Display) {
        self.text.clear();
        write!(self.text, "{value}").expect("the buffer grows");
        (self.put)(field, self.text.as_bytes());
    }

    fn show_if_any(&mut self, field: Field, value: Option<impl Display>) {
        value.into_iter().for_each(|value| self.show(field, value));
    }
}

/// The values of our headers in one record. Ours are the last of their name, as we write them.
struct Fields<'a>([Option<&'a Bytes>; Field::ALL.len()]);

impl<'a> Fields<'a> {
    fn of(headers: &'a Headers) -> Self {
        let mut fields = [None; Field::ALL.len()];
        // They come in the order in which they are written, so the next one is looked for where the last one was.
        let mut order = Field::ALL.iter().cycle();
        for (name, value) in headers.0.iter().filter(|(name, _)| is_ours(name)) {
            let mut near = order.by_ref().take(Field::ALL.len());
            if let Some(field) = near.find(|field| field.as_str() == &**name) {
                fields[*field as usize] = value.as_ref();
            }
        }
        Self(fields)
    }

    fn get(&self, field: Field) -> Option<&'a Bytes> {
        self.0[field as usize]
    }

    fn text_if_any(&self, field: Field) -> Result<Option<&'a str>, Malformed> {
        let utf8 = |value| std::str::from_utf8(value).map_err(|_| malformed(field, "is not UTF-8"));
        self.get(field).map(|value| utf8(value)).transpose()
    }

    fn text(&self, field: Field, problem: &'static str, ok: fn(&str) -> bool) -> Result<Arc<str>, Malformed> {
        let text = self.text_if_any(field)?.ok_or(malformed(field, "is missing"))?;
        if ok(text) { Ok(Arc::from(text)) } else { Err(malformed(field, problem)) }
    }

    fn number_if_any<N: std::str::FromStr>(&self, field: Field) -> Result<Option<N>, Malformed> {
        let number = |text: &str| text.parse().map_err(|_| malformed(field, "is not a number in range"));
        self.text_if_any(field)?.map(number).transpose()
    }

    fn number<N: std::str::FromStr>(&self, field: Field) -> Result<N, Malformed> {
        self.number_if_any(field)?.ok_or(malformed(field, "is missing"))
    }

    /// A trace is nothing a delivery may fail for: one that cannot be read is none.
    fn context(&self, field: Field) -> Option<Context> {
        std::str::from_utf8(self.get(field)?).ok().and_then(Context::parse)
    }

    fn reason(&self) -> Result<Reason, Malformed> {
        let word = self.text_if_any(Field::Reason)?.ok_or(malformed(Field::Reason, "is missing"))?;
        let known = Reason::ALL.into_iter().find(|reason| reason.as_str() == word);
        known.ok_or(malformed(Field::Reason, "is not a known reason"))
    }
}

/// The headers of a foreign record on its way from a retry topic to the dead-letter topic: its own, and why and from
/// where it was moved.
pub fn foreign(record: &Record, why: &str) -> Headers {
    let ours = [
        (Field::SourceTopic, record.topic.to_string()),
        (Field::SourcePartition, record.partition.to_string()),
        (Field::SourceOffset, record.offset.to_string()),
        (Field::SourceTimestamp, record.timestamp.to_string()),
        (Field::Reason, Reason::InvalidEvent.as_str().to_owned()),
        (Field::Error, cut(why).to_owned()),
    ];
    let original = record.headers.0.iter().filter(|(name, _)| !is_ours(name)).cloned();
    Headers(
        original.chain(ours.into_iter().map(|(field, value)| (field.name(), Some(text(&value))))).collect(),
    )
}

fn malformed(field: Field, problem: &'static str) -> Malformed {
    Malformed { header: field.as_str(), problem }
}

fn is_endpoint(name: &str) -> bool {
    // Endpoint ids and webhook ids are made of the same characters.
    id::is_plain(name) || registry::parse_hash_name(name).is_some()
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// As much of an error as is kept.
pub fn cut(error: &str) -> &str {
    &error[..error.floor_char_boundary(MAX_ERROR)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Envelope {
        Envelope {
            id: "msg_1".into(),
            endpoint: "crm".into(),
            source_topic: "orders".into(),
            source_partition: 3,
            source_offset: i64::MAX,
            source_timestamp: -1,
            key: Some(Bytes::from_static(b"\x00\xff")),
            attempts: 2,
            first_seen: 1,
            first_attempt: Some(2),
            due: 3,
            reason: Reason::Status,
            status: Some(503),
            error: Some("zu früh".into()),
            replays: 4,
            unknown_since: Some(5),
            parks: 6,
            uncharged: 1,
            trace: Some(Context { trace: 7, span: 8, sampled: true }),
            replayed_trace: Some(Context { trace: 7, span: 9, sampled: false }),
        }
    }

    fn bare() -> Envelope {
        let (first_attempt, status, error, unknown_since) = (None, None, None, None);
        Envelope {
            key: None,
            first_attempt,
            status,
            error,
            unknown_since,
            replays: 0,
            parks: 0,
            uncharged: 0,
            trace: None,
            replayed_trace: None,
            ..full()
        }
    }

    fn original() -> Headers {
        let value = |value: &'static [u8]| Some(Bytes::from_static(value));
        let headers = [("a", value(b"\xff\x00")), ("b", None), ("a", value(b"")), ("", value(b"x"))];
        Headers(headers.map(|(name, value)| (Arc::from(name), value)).into())
    }

    fn record(headers: Headers) -> Record {
        let topic = "arauto.retry.5s".into();
        Record { topic, partition: 0, offset: 0, timestamp: 0, key: None, value: None, headers }
    }

    fn check(envelope: &Envelope, original: &Headers) {
        let written = envelope.write(original);
        assert_eq!(written.0[..original.0.len()], original.0, "original headers come first, untouched");
        let mut one_by_one = Vec::new();
        envelope.write_to(Some(original), |name, value| {
            one_by_one.push((Arc::from(name), value.map(Bytes::copy_from_slice)));
        });
        assert_eq!(one_by_one, written.0);
        let read = Envelope::read(&record(written));
        assert_eq!(read, Ok((envelope.clone(), original.clone())));
    }

    #[test]
    fn what_is_written_is_read() {
        check(&full(), &original());
        check(&full(), &Headers::default());
        check(&bare(), &original());
        check(&Envelope { key: Some(Bytes::new()), ..bare() }, &original());
        check(&Envelope { endpoint: registry::hash_name(7).into(), ..bare() }, &original());
        check(&full().coordinates_only(), &Headers::default());
        for reason in Reason::ALL {
            check(&Envelope { reason, ..full() }, &original());
        }
    }

    #[test]
    fn the_order_in_which_they_come_does_not_matter() {
        let mut headers = full().write(&original());
        headers.0.reverse();
        headers.0.rotate_left(7);
        let (read, _) = Envelope::read(&record(headers)).unwrap();
        assert_eq!(read, full());
    }

    #[test]
    fn names_and_values_are_the_contract() {
        let written = full().write(&Headers::default());
        let mut lines: Vec<String> =
            written.0.iter().map(|(n, v)| format!("{n}={}", v.as_ref().unwrap().escape_ascii())).collect();
        lines.sort();
        let want = [
            "arauto-attempts=2",
            "arauto-due=3",
            "arauto-endpoint=crm",
            r"arauto-error=zu fr\xc3\xbch",
            "arauto-first-attempt=2",
            "arauto-first-seen=1",
            "arauto-id=msg_1",
            r"arauto-key=\x00\xff",
            "arauto-parks=6",
            "arauto-reason=status",
            "arauto-replayed-traceparent=00-00000000000000000000000000000007-0000000000000009-00",
            "arauto-replays=4",
            "arauto-source-offset=9223372036854775807",
            "arauto-source-partition=3",
            "arauto-source-timestamp=-1",
            "arauto-source-topic=orders",
            "arauto-status=503",
            "arauto-traceparent=00-00000000000000000000000000000007-0000000000000008-01",
            "arauto-uncharged=1",
            "arauto-unknown-since=5",
        ];
        assert_eq!(lines, want);
        let absent = ["arauto-key", "arauto-status", "arauto-error", "arauto-first-attempt", "arauto-parks"];
        let bare = bare().write(&Headers::default());
        assert!(bare.0.iter().all(|(name, _)| !absent.contains(&&**name)), "{bare:?}");
    }

    #[test]
    fn reasons_are_the_closed_set() {
        let words: Vec<&str> = Reason::ALL.map(Reason::as_str).into();
        let contract = "status timeout connect tls dns blocked_address throttled breaker paused shutdown gone \
                        rejected exhausted expired disabled unknown_endpoint full cancelled auth expression \
                        invalid_event too_large";
        assert_eq!(words.join(" "), contract);
    }

    #[test]
    fn the_error_is_cut_between_characters() {
        let long = Envelope { error: Some(format!("x{}", "ü".repeat(400))), ..full() };
        let (read, _) = Envelope::read(&record(long.write(&original()))).unwrap();
        assert_eq!(read.error.unwrap(), format!("x{}", "ü".repeat(255)));
    }

    fn check_malformed(header: &str, value: Option<&'static [u8]>, want: &str) {
        let mut headers = full().write(&original());
        headers.0.retain(|(name, _)| **name != *header);
        headers.0.push((header.into(), value.map(Bytes::from_static)));
        assert_eq!(Envelope::read(&record(headers)).unwrap_err().to_string(), want);
    }

    #[test]
    fn junk_is_named() {
        check_malformed("arauto-id", None, "header arauto-id is missing");
        check_malformed("arauto-id", Some(b"a.b"), "header arauto-id is not a webhook id");
        check_malformed("arauto-endpoint", Some(b"\xff"), "header arauto-endpoint is not UTF-8");
        check_malformed("arauto-endpoint", Some(b"#12"), "header arauto-endpoint is not an endpoint id");
        check_malformed("arauto-source-topic", Some(b""), "header arauto-source-topic is not a topic");
        check_malformed("arauto-attempts", Some(b"-1"), "header arauto-attempts is not a number in range");
        check_malformed("arauto-status", Some(b"99999"), "header arauto-status is not a number in range");
        check_malformed("arauto-due", Some(b""), "header arauto-due is not a number in range");
        check_malformed("arauto-reason", Some(b"reset"), "header arauto-reason is not a known reason");
        assert_eq!(Envelope::read(&record(Headers::default())).unwrap_err().header, "arauto-id");
    }

    #[test]
    fn headers_of_another_release_are_passed_over() {
        let mut headers = full().write(&original());
        headers.0.push(("arauto-colour".into(), None));
        assert_eq!(Envelope::read(&record(headers)), Ok((full(), original())));
    }
}
