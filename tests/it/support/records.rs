//! Kafka records as tests write and read them: owned, with everything a promise can be about.
//!
//! Values only; `cluster.rs` carries them to and from the broker.

use rdkafka::{
    Message, Timestamp,
    message::{BorrowedMessage, Header, Headers, OwnedHeaders},
};

/// A record to be produced.
#[derive(Debug, Clone)]
pub(crate) struct NewRecord {
    pub(crate) topic: String,
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    pub(crate) timestamp: Option<i64>,
}

impl NewRecord {
    /// A record without key and headers, in the partition librdkafka chooses, stamped now.
    pub(crate) fn new(topic: &str, value: impl Into<Vec<u8>>) -> Self {
        Self { value: Some(value.into()), ..Self::tombstone(topic) }
    }

    /// A record without a value.
    pub(crate) fn tombstone(topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            partition: None,
            key: None,
            value: None,
            headers: Vec::new(),
            timestamp: None,
        }
    }

    /// With a key.
    pub(crate) fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// In this partition.
    pub(crate) fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// With one more header.
    pub(crate) fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), Some(value.into())));
        self
    }

    /// With one more header whose value is null, which is not the same as empty.
    pub(crate) fn null_header(mut self, name: &str) -> Self {
        self.headers.push((name.to_owned(), None));
        self
    }

    /// With this timestamp, in unix milliseconds.
    pub(crate) fn timestamp(mut self, ms: i64) -> Self {
        self.timestamp = Some(ms);
        self
    }

    /// The headers in rdkafka's form.
    pub(super) fn rdkafka_headers(&self) -> OwnedHeaders {
        self.headers
            .iter()
            .fold(OwnedHeaders::new_with_capacity(self.headers.len()), |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_ref() })
            })
    }
}

/// Where a produced record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// What a group has committed for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) partition: i32,
    /// `None`: nothing.
    pub(crate) offset: Option<i64>,
    pub(crate) metadata: String,
}

/// A record as read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Tells `CreateTime` from `LogAppendTime` as well.
    pub(crate) timestamp: Timestamp,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// The first header of this name as text; `None` if there is none or its value is null.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        value.as_deref().map(|value| std::str::from_utf8(value).expect("a header of text"))
    }

    /// The first header of this name as a number.
    pub(crate) fn number(&self, name: &str) -> i64 {
        let text = self.header(name).unwrap_or_else(|| panic!("no header {name} in {:?}", self.headers));
        text.parse().unwrap_or_else(|_| panic!("header {name} is no number: {text}"))
    }

    /// The headers Arauto did not add.
    pub(crate) fn original_headers(&self) -> Vec<(String, Option<Vec<u8>>)> {
        self.headers.iter().filter(|(name, _)| !name.starts_with("arauto-")).cloned().collect()
    }

    pub(super) fn from_message(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().map(|headers| {
            let owned = |header: Header<'_, &[u8]>| (header.key.to_owned(), header.value.map(<[u8]>::to_vec));
            headers.iter().map(owned).collect()
        });
        Self {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        }
    }
}
