//! Configuration files for tests: what nearly every test wants is there, the rest is set key by key.
//!
//! It knows the keys a test must have to run at all and nothing of what Arauto makes of them: any key can be
//! set to any value, right or wrong.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use toml::{Table, Value};

/// A signing secret for tests: 24 bytes, the fewest that are allowed.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A configuration under construction.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    table: Table,
}

impl Config {
    /// Reads `topics` from their beginning with this group, on one node; short tiers (`1s`, `3s`) of one
    /// partition; the admin server on a free port; JSON logs; endpoints may live on the loopback.
    pub(crate) fn new(brokers: &str, group: &str, prefix: &str, topics: &[&str]) -> Self {
        Self::default()
            .set("kafka.brokers", brokers)
            .set("kafka.group", group)
            .set("kafka.topics", topics.to_vec())
            .set("kafka.start", "earliest")
            .set("topics.prefix", prefix)
            .set("topics.tiers", vec!["1s", "3s"])
            .set("topics.partitions", 1)
            .set("limits.hold", "1s")
            .set("security.allow", vec!["127.0.0.0/8"])
            .set("admin.listen", "127.0.0.1:0")
            .set("log.format", "json")
            // A receiver that fails on purpose would soon get nothing more; who wants to see that, sets it.
            .set("defaults.breaker.minimum", 1_000_000)
    }

    /// Sets a key, written with dots: `limits.hold`.
    pub(crate) fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        set(&mut self.table, key, value.into());
        self
    }

    /// Leaves a key out, written with dots.
    pub(crate) fn without(mut self, key: &str) -> Self {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        let table = if section.is_empty() { &mut self.table } else { descend(&mut self.table, section) };
        table.remove(name);
        self
    }

    /// Sets a librdkafka property; their names have dots of their own.
    pub(crate) fn property(mut self, name: &str, value: &str) -> Self {
        descend(&mut self.table, "kafka.properties").insert(name.to_owned(), value.into());
        self
    }

    /// Adds an endpoint.
    pub(crate) fn endpoint(mut self, endpoint: Endpoint) -> Self {
        let endpoints = self.table.entry("endpoints").or_insert_with(|| Value::Array(Vec::new()));
        endpoints.as_array_mut().expect("endpoints are an array").push(Value::Table(endpoint.table));
        self
    }

    /// The file's text.
    pub(crate) fn text(&self) -> String {
        toml::to_string(&self.table).expect("a table can be written")
    }

    /// Writes `arauto.toml` into a directory of its own.
    pub(crate) fn write(&self) -> ConfigFile {
        let dir = TempDir::with_prefix("arauto-config-").expect("a temporary directory");
        let file = ConfigFile { dir };
        file.rewrite(self);
        file
    }
}

/// A configuration on disk, removed when dropped.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    dir: TempDir,
}

impl ConfigFile {
    /// The file.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("arauto.toml")
    }

    /// Its directory, for included files and secrets.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Replaces its content.
    pub(crate) fn rewrite(&self, config: &Config) {
        std::fs::write(self.path(), config.text()).unwrap();
    }
}

/// An endpoint under construction.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    table: Table,
}

impl Endpoint {
    /// An endpoint that signs with [`SECRET`].
    pub(crate) fn new(id: &str, url: &str) -> Self {
        let endpoint = Self { table: Table::new() };
        endpoint.set("id", id).set("url", url).set("secrets", vec![SECRET])
    }

    /// Sets a key, written with dots: `retry.schedule`.
    pub(crate) fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        set(&mut self.table, key, value.into());
        self
    }
}

fn set(table: &mut Table, key: &str, value: Value) {
    match key.rsplit_once('.') {
        Some((section, name)) => descend(table, section).insert(name.to_owned(), value),
        None => table.insert(key.to_owned(), value),
    };
}

fn descend<'a>(table: &'a mut Table, path: &str) -> &'a mut Table {
    path.split('.').fold(table, |table, name| {
        let inner = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
        inner.as_table_mut().expect("a section is a table")
    })
}
