//! What is known of endpoints besides their configuration: disabled, paused by an operator, failing since when.
//!
//! Pure. The knowledge lives in the state topic, a record for each fact of each endpoint, so that whoever writes one
//! fact never takes back another. Every fact carries the time it was stated at, and of two the later counts: in
//! whichever order they are read, all instances come to the same. Whoever reads an earlier one after a later one
//! writes the later one again, since the topic keeps what was written last.

use std::collections::HashMap;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use url::Url;

use super::state::Entry;
use crate::config::settings::Endpoint;

pub mod report;

/// The version of the records written here; a reader takes any version and the fields it knows.
const VERSION: u32 = 1;
/// What the keys of our records begin with.
const PREFIX: &str = "endpoint/";

/// One endpoint's switch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Switch {
    disabled: Option<Disabled>,
    enabled: Option<Enabled>,
    paused: Option<Paused>,
    failing: Option<Failing>,
}

/// It was disabled: by an attempt, for the URL it was made to. Times are unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disabled {
    /// Why.
    pub why: Why,
    /// When the attempt began whose answer said so.
    pub begun: i64,
    /// Which URL, as [`url_hash`] has it.
    pub url: String,
}

/// Why an endpoint was disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// It answered 410.
    Gone,
    /// It failed for `disable_after` without one success.
    Failing,
}

/// What an operator may tell an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Attempts count anew from now on.
    Enable,
    /// Nothing is sent, everything waits.
    Pause,
    /// It goes on after a pause.
    Resume,
}

/// What is known of all endpoints that anything is known of.
#[derive(Debug, Clone, Default)]
pub struct Facts(HashMap<String, Switch>);

/// What a record of the state topic changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The endpoint of which other things are known now.
    pub changed: Option<String>,
    /// What has to be written again, because something earlier was written after it.
    pub again: Option<Entry>,
}

/// An operator enabled it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Enabled {
    at: i64,
}

/// An operator paused it, or let it go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Paused {
    at: i64,
    paused: bool,
}

/// Every attempt to this URL has failed for a while, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Failing {
    at: i64,
    since: Option<i64>,
    url: String,
}

/// How a URL is written down: it may hold a secret, and only whether it is the same is ever asked.
pub fn url_hash(url: &Url) -> String {
    HEXLOWER.encode(&Sha256::digest(url.as_str())[..8])
}

impl Switch {
    /// Why it is disabled, if it is for this URL: an answer to an attempt that began before the last enabling does
    /// not count.
    pub fn disabled_for(&self, url_hash: &str) -> Option<&Disabled> {
        let counts = |disabled: &&Disabled| disabled.url == url_hash && disabled.begun > self.enabled_at();
        self.disabled.as_ref().filter(counts)
    }

    /// When an operator enabled it last; 0: never.
    pub fn enabled_at(&self) -> i64 {
        self.enabled.as_ref().map_or(0, |enabled| enabled.at)
    }

    /// Since when an operator has paused it.
    pub fn paused_since(&self) -> Option<i64> {
        self.paused.as_ref().filter(|paused| paused.paused).map(|paused| paused.at)
    }

    /// Since when every attempt to this URL has failed, once that has lasted long enough to be noted down.
    pub fn failing_since(&self, url_hash: &str) -> Option<i64> {
        let failing = self.failing.as_ref().filter(|failing| failing.url == url_hash)?;
        failing.since.filter(|since| *since > self.enabled_at())
    }
}

impl Why {
    /// Its name in records, metrics and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }
}

impl Command {
    /// Why it could not take effect on that endpoint, and what to do instead.
    pub fn refused(self, endpoint: &Endpoint) -> Option<&'static str> {
        match self {
            Self::Enable if !endpoint.enabled => Some(
                "the configuration has enabled = false for it; change it there, a running instance reloads",
            ),
            Self::Resume if endpoint.paused => Some(
                "the configuration has paused = true for it; change it there, a running instance reloads",
            ),
            Self::Enable | Self::Pause | Self::Resume => None,
        }
    }
}

impl Facts {
    /// What is known of an endpoint.
    pub fn get(&self, id: &str) -> Switch {
        self.0.get(id).cloned().unwrap_or_default()
    }

    /// Takes in one record of the state topic. Those that are of something else, or cannot be read, are left alone:
    /// they may be of a later release. A null value removes a fact.
    pub fn apply(&mut self, key: &str, value: Option<&[u8]>) -> Applied {
        // Neither ids nor the names of facts have a slash.
        let Some((id, name)) = key.strip_prefix(PREFIX).and_then(|rest| rest.split_once('/')) else {
            return Applied::default();
        };
        match name {
            Disabled::NAME => self.read::<Disabled>(id, value),
            Enabled::NAME => self.read::<Enabled>(id, value),
            Paused::NAME => self.read::<Paused>(id, value),
            Failing::NAME => self.read::<Failing>(id, value),
            _ => Applied::default(),
        }
    }

    /// Does what an operator says; the record that tells everybody.
    pub fn command(&mut self, id: &str, command: Command, now: i64) -> Entry {
        let Switch { disabled, enabled, paused, .. } = self.get(id);
        match command {
            Command::Enable => {
                let earlier = disabled.map(|disabled| disabled.begun).max(enabled.map(|enabled| enabled.at));
                self.state(id, Enabled { at: after(earlier, now) })
            }
            Command::Pause | Command::Resume => {
                let at = after(paused.map(|paused| paused.at), now);
                self.state(id, Paused { at, paused: command == Command::Pause })
            }
        }
    }

    /// An attempt has shown that the endpoint is to be disabled; the record that tells everybody.
    pub fn disable(&mut self, id: &str, disabled: Disabled) -> Entry {
        self.state(id, disabled)
    }

    /// Every attempt has failed since then; the record to write, unless that is known.
    pub fn fails(&mut self, id: &str, since: i64, url: &Url, now: i64) -> Option<Entry> {
        let (switch, url) = (self.get(id), url_hash(url));
        let known = switch.failing_since(&url).is_some_and(|known| known <= since);
        if known || since <= switch.enabled_at() {
            return None;
        }
        let at = after(switch.failing.map(|failing| failing.at), now);
        Some(self.state(id, Failing { at, since: Some(since), url }))
    }

    /// An attempt succeeded; the record to write, if it was known to fail.
    pub fn works(&mut self, id: &str, now: i64) -> Option<Entry> {
        let Failing { at, since: Some(_), url } = self.0.get(id)?.failing.clone()? else { return None };
        Some(self.state(id, Failing { at: after(Some(at), now), since: None, url }))
    }

    /// Since when every attempt has failed, whatever the URL, as long as nobody said that one did not.
    pub fn failing_since(&self, id: &str) -> Option<i64> {
        self.0.get(id)?.failing.as_ref()?.since
    }

    fn state<F: Fact>(&mut self, id: &str, fact: F) -> Entry {
        let known = F::of(self.0.entry(id.to_owned()).or_default());
        let fact = known.take().filter(|known| known.at() > fact.at()).unwrap_or(fact);
        entry(id, known.insert(fact))
    }

    fn read<F: Fact>(&mut self, id: &str, value: Option<&[u8]>) -> Applied {
        let theirs = match value.map(serde_json::from_slice::<F>) {
            Some(Ok(theirs)) => Some(theirs),
            Some(Err(_)) => return Applied::default(),
            None => None,
        };
        let ours = F::of(self.0.entry(id.to_owned()).or_default());
        match (&*ours, &theirs) {
            (ours, theirs) if ours == theirs => Applied::default(),
            (Some(ours), Some(theirs)) if ours.at() > theirs.at() => {
                Applied { changed: None, again: Some(entry(id, ours)) }
            }
            _ => {
                *ours = theirs;
                Applied { changed: Some(id.to_owned()), again: None }
            }
        }
    }
}

/// Clocks differ between machines: what is said last has to count whatever they show.
fn after(earlier: Option<i64>, now: i64) -> i64 {
    earlier.map_or(now, |earlier| now.max(earlier.saturating_add(1)))
}

/// One thing that is known of an endpoint.
trait Fact: Serialize + DeserializeOwned + PartialEq {
    /// The end of its records' keys.
    const NAME: &'static str;

    /// The time it was stated at.
    fn at(&self) -> i64;

    /// Its place in a switch.
    fn of(switch: &mut Switch) -> &mut Option<Self>;
}

impl Fact for Disabled {
    const NAME: &'static str = "disabled";

    fn at(&self) -> i64 {
        self.begun
    }

    fn of(switch: &mut Switch) -> &mut Option<Self> {
        &mut switch.disabled
    }
}

impl Fact for Enabled {
    const NAME: &'static str = "enabled";

    fn at(&self) -> i64 {
        self.at
    }

    fn of(switch: &mut Switch) -> &mut Option<Self> {
        &mut switch.enabled
    }
}

impl Fact for Paused {
    const NAME: &'static str = "paused";

    fn at(&self) -> i64 {
        self.at
    }

    fn of(switch: &mut Switch) -> &mut Option<Self> {
        &mut switch.paused
    }
}

impl Fact for Failing {
    const NAME: &'static str = "failing";

    fn at(&self) -> i64 {
        self.at
    }

    fn of(switch: &mut Switch) -> &mut Option<Self> {
        &mut switch.failing
    }
}

fn entry<F: Fact>(id: &str, fact: &F) -> Entry {
    #[derive(Serialize)]
    struct Versioned<'a, F> {
        v: u32,
        #[serde(flatten)]
        fact: &'a F,
    }

    let value = serde_json::to_vec(&Versioned { v: VERSION, fact }).expect("plain values have a JSON form");
    Entry { key: format!("{PREFIX}{id}/{}", F::NAME), value }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "https://crm.example.com/hooks?token=secret";

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    fn disabled(begun: i64) -> Disabled {
        Disabled { why: Why::Gone, begun, url: url_hash(&url(HERE)) }
    }

    /// Reads records in order; what is known of `crm` in the end, and what was to be written again.
    fn read(records: &[Entry]) -> (Switch, Vec<Entry>) {
        let mut facts = Facts::default();
        let again = records.iter().filter_map(|entry| facts.apply(&entry.key, Some(&entry.value)).again);
        let again = again.collect();
        (facts.get("crm"), again)
    }

    fn is_disabled(switch: &Switch) -> bool {
        switch.disabled_for(&url_hash(&url(HERE))).is_some()
    }

    #[test]
    fn records_are_small_and_keep_urls_to_themselves() {
        let mut facts = Facts::default();
        let text = |entry: Entry| format!("{} {}", entry.key, String::from_utf8(entry.value).unwrap());
        let url = url(HERE);
        let hash = url_hash(&url);
        assert_eq!(hash.len(), 16);
        assert_eq!(
            text(facts.disable("crm", disabled(7))),
            format!(r#"endpoint/crm/disabled {{"v":1,"why":"gone","begun":7,"url":"{hash}"}}"#)
        );
        let said = |facts: &mut Facts, command| text(facts.command("crm", command, 9));
        assert_eq!(said(&mut facts, Command::Enable), r#"endpoint/crm/enabled {"v":1,"at":9}"#);
        let paused = r#"endpoint/crm/paused {"v":1,"at":9,"paused":true}"#;
        assert_eq!(said(&mut facts, Command::Pause), paused);
        // The second word within a millisecond is the later one all the same.
        let resumed = r#"endpoint/crm/paused {"v":1,"at":10,"paused":false}"#;
        assert_eq!(said(&mut facts, Command::Resume), resumed);
        let failing = format!(r#"endpoint/crm/failing {{"v":1,"at":20,"since":11,"url":"{hash}"}}"#);
        assert_eq!(facts.fails("crm", 11, &url, 20).map(text), Some(failing));
        let works = format!(r#"endpoint/crm/failing {{"v":1,"at":30,"since":null,"url":"{hash}"}}"#);
        assert_eq!(facts.works("crm", 30).map(text), Some(works));
    }

    #[test]
    fn an_answer_to_an_attempt_begun_before_the_last_enabling_does_not_count() {
        let rows = [
            (vec![], false),
            (vec![disabled(10)], true),
            // Whatever the clock of the machine shows where it was enabled.
            (vec![disabled(10), disabled(1_000)], true),
        ];
        for (found, expected) in rows {
            let mut facts = Facts::default();
            found.into_iter().for_each(|disabled| drop(facts.disable("crm", disabled)));
            assert_eq!(is_disabled(&facts.get("crm")), expected);
            facts.command("crm", Command::Enable, 500);
            assert!(!is_disabled(&facts.get("crm")));
            facts.disable("crm", disabled(499));
            assert!(!is_disabled(&facts.get("crm")), "it began before");
            facts.disable("crm", disabled(2_000));
            assert!(is_disabled(&facts.get("crm")), "it began after");
        }
    }

    #[test]
    fn another_url_is_another_receiver() {
        let mut facts = Facts::default();
        facts.disable("crm", disabled(10));
        facts.fails("crm", 5, &url(HERE), 20);
        let (here, there) = (url_hash(&url(HERE)), url_hash(&url("https://crm.example.com/")));
        let switch = facts.get("crm");
        assert!(switch.disabled_for(&here).is_some() && switch.disabled_for(&there).is_none());
        assert_eq!((switch.failing_since(&here), switch.failing_since(&there)), (Some(5), None));
    }

    #[test]
    fn of_two_records_the_later_said_counts_in_whichever_order_they_are_read() {
        let mut one = Facts::default();
        let records = |facts: &mut Facts| {
            let pause = facts.command("crm", Command::Pause, 1);
            let resume = facts.command("crm", Command::Resume, 2);
            let (early, late) = (facts.disable("crm", disabled(1)), facts.disable("crm", disabled(2)));
            [(pause, resume), (early, late)]
        };
        for (earlier, later) in records(&mut one) {
            let (in_order, none) = read(&[earlier.clone(), later.clone()]);
            let (swapped, again) = read(&[later.clone(), earlier]);
            assert_eq!((&in_order, none), (&swapped, vec![]));
            assert_eq!(again, [later], "a restart must come to the same");
        }
        // Two facts never take each other back.
        let mut other = Facts::default();
        let (pause, disable) = (one.command("crm", Command::Pause, 9), other.disable("crm", disabled(9)));
        for records in [[pause.clone(), disable.clone()], [disable, pause]] {
            let (switch, again) = read(&records);
            assert!(is_disabled(&switch) && switch.paused_since() == Some(9) && again.is_empty());
        }
    }

    #[test]
    fn failing_is_written_once_and_taken_back_once() {
        let (mut facts, url) = (Facts::default(), url(HERE));
        assert!(facts.works("crm", 1).is_none(), "nobody said that it fails");
        assert!(facts.fails("crm", 10, &url, 70).is_some());
        for since in [10, 20] {
            assert!(facts.fails("crm", since, &url, 80).is_none(), "known");
        }
        assert!(facts.fails("crm", 5, &url, 80).is_some(), "for longer than was known");
        assert!(facts.works("crm", 90).is_some());
        assert!(facts.works("crm", 91).is_none());
        assert_eq!(facts.get("crm").failing_since(&url_hash(&url)), None);
        // After an enabling only what fails since then counts.
        facts.command("crm", Command::Enable, 100);
        assert!(facts.fails("crm", 99, &url, 200).is_none());
        assert!(facts.fails("crm", 101, &url, 200).is_some());
        facts.command("crm", Command::Enable, 300);
        assert_eq!(facts.get("crm").failing_since(&url_hash(&url)), None);
    }

    #[test]
    fn junk_is_left_alone_and_later_versions_are_read() {
        let mut facts = Facts::default();
        for (key, value) in [
            ("endpoint/crm/paused", &b"\xff"[..]),
            ("endpoint/crm/paused", b"{}"),
            ("endpoint/crm/paused", b"[]"),
            ("endpoint/crm/disabled", br#"{"v":1,"why":"bored","begun":1,"url":"x"}"#),
            ("endpoint/crm/enabled", br#"{"at":"yesterday"}"#),
            ("endpoint/crm/cheered", br#"{"at":1}"#),
            ("endpoint/crm", b"{}"),
            ("endpoint/", b"{}"),
            ("owner", b"{}"),
            ("", b""),
        ] {
            assert_eq!(facts.apply(key, Some(value)), Applied::default(), "{key}");
        }
        assert_eq!(facts.get("crm"), Switch::default());
        let later = br#"{"v":9,"at":4,"paused":true,"by":"somebody"}"#;
        let changed = facts.apply("endpoint/crm/paused", Some(later)).changed;
        assert_eq!((changed.as_deref(), facts.get("crm").paused_since()), (Some("crm"), Some(4)));
        assert_eq!(facts.apply("endpoint/crm/paused", Some(later)), Applied::default(), "nothing new");
        let changed = facts.apply("endpoint/crm/paused", None).changed;
        assert_eq!((changed.as_deref(), facts.get("crm")), (Some("crm"), Switch::default()));
        assert_eq!(facts.apply("endpoint/crm/paused", None), Applied::default());
    }
}
