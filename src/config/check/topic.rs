//! Topic names and patterns, and that no source is a topic of our own.

use std::{collections::HashSet, time::Duration};

use regex::Regex;

use super::{
    super::{
        file::{Kafka, Topics},
        mistake::Report,
        settings::{Attempts, TopicSelector},
        value::tier_name,
        written::{Key, List, Text, Written},
    },
    seconds,
};

/// Kafka's longest topic name.
const LONGEST_NAME: usize = 249;

/// Our own topics besides the tiers, as they are called unless `attempts.topic` says otherwise.
const OWN: [&str; 4] = ["dead", "state", Attempts::NAME, "notices"];

/// Longest prefix: our longest ending, `.retry.` and a delay, is below 49.
const LONGEST_PREFIX: usize = 200;

/// Entries of `kafka.topics`.
pub(super) fn sources(list: &List<Text>, prefix: &str, report: &mut Report) -> Vec<TopicSelector> {
    let mut seen = HashSet::new();
    let mut selectors = Vec::new();
    for item in &list.items {
        if !seen.insert(&*item.value.value) {
            report.add(item.place, format!("{} stands in topics twice", item.value), "remove one of them");
            continue;
        }
        let Some(selector) = selector(item, report) else {
            continue;
        };
        if let Some(own) = own_topic(&selector, prefix) {
            let message = format!("{} selects {own:?}, a topic of Arauto's own", item.value);
            let help = format!("select no topic that begins with \"{prefix}.\", or set topics.prefix");
            report.add(item.place, message, help);
        }
        selectors.push(selector);
    }
    selectors
}

/// A name, or a pattern anchored at both ends.
pub(super) fn selector(item: &Written<Text>, report: &mut Report) -> Option<TopicSelector> {
    let text = &item.value.value;
    if !text.starts_with('^') {
        if is_name(text) {
            return Some(TopicSelector::Name(text.clone()));
        }
        let help = "write 1 to 249 of a-z A-Z 0-9 . _ -, or a pattern that begins with ^";
        report.add(item.place, format!("{} is no topic name", item.value), help);
        return None;
    }
    match Regex::new(&format!("^(?:{text})$")) {
        Ok(pattern) => Some(TopicSelector::Pattern(pattern, text.clone())),
        Err(error) => {
            // The last line says what is wrong; those before it quote the pattern, which may be a reference's.
            let error = error.to_string();
            let why = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            let message = format!("{} is no regular expression: {why}", item.value);
            report.add(item.place, message, "write a pattern such as \"^orders-.*\"");
            None
        }
    }
}

/// The prefix of our topics: as written, or the group's name.
pub(super) fn prefix(written: &Topics, kafka: &Kafka, group: &str, report: &mut Report) -> String {
    let fits = |name: &str| is_name(name) && name.len() <= LONGEST_PREFIX;
    match (&written.prefix, kafka.group.set()) {
        (Key::Set(prefix), _) => {
            if !fits(&prefix.value.value) {
                let message = format!("prefix in [topics] is {}", prefix.value);
                report.add(prefix.place, message, "write 1 to 200 of a-z A-Z 0-9 . _ -");
            }
            prefix.value.value.clone()
        }
        (Key::Absent, Some(name)) if !fits(group) && !group.trim().is_empty() => {
            let message = format!("the group {} cannot begin a topic's name", name.value);
            report.add(name.place, message, "set topics.prefix: 1 to 200 of a-z A-Z 0-9 . _ -");
            group.to_owned()
        }
        (Key::Absent | Key::Wrong, _) => group.to_owned(),
    }
}

/// Where attempts are logged: a topic of our own that is nothing else; so it is never read as events.
pub(super) fn attempts(written: &Key<Text>, prefix: &str, report: &mut Report) -> Option<String> {
    let topic = written.set().filter(|topic| !topic.value.value.is_empty())?;
    let name = &topic.value.value;
    let rest = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
    let is_other = |rest: &str| {
        rest != Attempts::NAME && (OWN.contains(&rest) || rest.starts_with("retry.") || rest == "retry")
    };
    if !is_name(name) || rest.is_none_or(|rest| rest.is_empty() || is_other(rest)) {
        let message = format!("topic in [attempts] is {}", topic.value);
        let help = format!(
            "write \"{prefix}.{}\", or another name that begins with \"{prefix}.\" and is taken by none of Arauto's topics",
            Attempts::NAME
        );
        report.add(topic.place, message, help);
    }
    Some(name.clone())
}

/// Retry tiers, ascending.
pub(super) fn tiers(written: &Key<List<Duration>>, report: &mut Report) -> Vec<Duration> {
    let Some(list) = written.set() else {
        return [5, 15, 60, 300, 900, 3_600, 14_400].map(seconds).to_vec();
    };
    if list.value.items.is_empty() && list.value.complete {
        let help = "write at least one delay; \"0s\" is always there besides";
        report.add(list.place, "tiers in [topics] is empty", help);
    }
    let mut tiers = Vec::new();
    for item in &list.value.items {
        if tiers.contains(&item.value) {
            let name = tier_name(item.value);
            report.add(item.place, format!("the tier {name} stands in tiers twice"), "remove one of them");
        } else {
            tiers.push(item.value);
        }
    }
    tiers.sort_unstable();
    tiers
}

/// A topic of ours that a selector selects.
fn own_topic(selector: &TopicSelector, prefix: &str) -> Option<String> {
    match selector {
        TopicSelector::Name(name) => {
            let rest = name.strip_prefix(prefix)?.strip_prefix('.')?;
            (OWN.contains(&rest) || rest.starts_with("retry.")).then(|| name.clone())
        }
        TopicSelector::Pattern(pattern, _) => own_names(prefix).find(|name| pattern.is_match(name)),
    }
}

/// Names our topics have or could have: every tier of up to three digits in each unit stands for those with more.
fn own_names(prefix: &str) -> impl Iterator<Item = String> {
    let fixed = OWN.into_iter().map(move |name| format!("{prefix}.{name}"));
    let delays = (0..1_000).flat_map(|n| ["s", "ms", "m", "h", "d"].map(|unit| format!("{n}{unit}")));
    fixed.chain(delays.map(move |delay| format!("{prefix}.retry.{delay}")))
}

/// What Kafka takes for a topic's name.
/// <https://github.com/apache/kafka/blob/trunk/clients/src/main/java/org/apache/kafka/common/internals/Topic.java>
fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len())
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::{super::super::mistake::Place, *};

    #[test]
    fn names() {
        for (text, expected) in [
            ("orders", true),
            ("a.b_c-D9", true),
            (&"x".repeat(249), true),
            (&"x".repeat(250), false),
            ("", false),
            (".", false),
            ("..", false),
            ("a b", false),
            ("é", false),
        ] {
            assert_eq!(is_name(text), expected, "{text:?}");
        }
    }

    #[test]
    fn attempts_are_logged_on_a_topic_of_their_own() {
        let (place, mut nothing) = (Place { file: 0, offset: None }, Report::default());
        let empty = Text { value: String::new(), reference: None };
        assert_eq!(attempts(&Key::Set(Written { value: empty, place }), "arauto", &mut nothing), None);
        for (name, expected) in [
            ("arauto.attempts", true),
            ("arauto.log.v2", true),
            ("attempts", false),
            ("arauto", false),
            ("arauto.", false),
            ("arauto.dead", false),
            ("arauto.state", false),
            ("arauto.notices", false),
            ("arauto.retry.5s", false),
            ("arauto.two words", false),
            ("arautology", false),
        ] {
            let mut report = Report::default();
            report.file("arauto.toml".to_owned(), "".into());
            let value = Text { value: name.to_owned(), reference: None };
            let topic = attempts(&Key::Set(Written { value, place }), "arauto", &mut report);
            assert_eq!((topic.as_deref(), report.finish().is_ok()), (Some(name), expected), "{name}");
        }
    }

    #[test]
    fn own_topics_are_found() {
        for (text, expected) in [
            ("orders", None),
            ("arauto", None),
            ("arauto.deadline", None),
            ("arauto.dead", Some("arauto.dead")),
            ("arauto.retry.7s", Some("arauto.retry.7s")),
            ("arauto.notices", Some("arauto.notices")),
            ("^orders-.*", None),
            ("^arauto", None),
            ("^.*", Some("arauto.dead")),
            ("^.*\\.state", Some("arauto.state")),
            ("^[^.]*\\.retry\\.15m", Some("arauto.retry.15m")),
            ("^(?i)ARAUTO\\.retry\\.2d", Some("arauto.retry.2d")),
        ] {
            let selector = match text.strip_prefix('^') {
                Some(_) => TopicSelector::Pattern(Regex::new(&format!("^(?:{text})$")).unwrap(), text.into()),
                None => TopicSelector::Name(text.into()),
            };
            assert_eq!(own_topic(&selector, "arauto").as_deref(), expected, "{text}");
        }
    }
}
