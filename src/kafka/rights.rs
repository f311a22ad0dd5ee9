//! What Arauto has to be allowed on the cluster, and nothing more. Pure: from the configuration alone.
//!
//! Kafka's own implications are relied on: Read and Write on a topic or group imply Describe, and Write on any topic
//! implies the idempotent producer's right (<https://kafka.apache.org/documentation/#operations_in_kafka>, KIP-679).

use crate::config::settings::{Queue, Settings, TopicSelector};

use super::topics::dead_topic;

/// A right on one resource, or on all whose names begin alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// What it is a right on.
    pub resource: Resource,
    /// Its name, or how the names begin; a literal `*` is all of them.
    pub name: String,
    /// Which of the two.
    pub pattern: Pattern,
    /// What is allowed.
    pub operations: Vec<Operation>,
    /// What for.
    pub why: &'static str,
}

/// Kinds of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// A topic.
    Topic,
    /// A consumer group.
    Group,
    /// An id that transactions are made under.
    TransactionalId,
}

/// How a name is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// As it is.
    Literal,
    /// As the beginning of names.
    Prefixed,
}

/// What can be allowed, named as Kafka does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Read records; join a group, and commit in it.
    Read,
    /// Write records.
    Write,
    /// Create topics.
    Create,
    /// Delete records or groups.
    Delete,
    /// Read a topic's configuration.
    DescribeConfigs,
}

/// What an instance (`arauto run`) needs.
pub fn of_instances(settings: &Settings) -> Vec<Right> {
    use Operation::{Create, Delete, DescribeConfigs, Read, Write};
    let (prefix, group) = (&settings.topics.prefix, &settings.kafka.group);
    let right = |resource, name: String, pattern, operations: &[Operation], why| Right {
        resource,
        name,
        pattern,
        operations: operations.to_vec(),
        why,
    };
    let source = |selector: &TopicSelector| {
        let (name, pattern) = selected(selector);
        right(
            Resource::Topic,
            name,
            pattern,
            &[Read, DescribeConfigs],
            "source: its events, and how large they may be",
        )
    };
    let mut rights: Vec<Right> = settings.kafka.topics.iter().map(source).collect();
    let own = if settings.topics.create {
        &[Read, Write, DescribeConfigs, Create][..]
    } else {
        &[Read, Write, DescribeConfigs]
    };
    let why = "its own topics: retry tiers, dead letters, state";
    rights.push(right(Resource::Topic, format!("{prefix}."), Pattern::Prefixed, own, why));
    rights.push(right(Resource::Group, group.clone(), Pattern::Literal, &[Read], "its group"));
    if settings.endpoints.iter().any(|endpoint| endpoint.queue == Queue::Own) {
        let why = "groups of endpoints with a queue of their own, deleted when that is given up";
        rights.push(right(Resource::Group, format!("{group}."), Pattern::Prefixed, &[Read, Delete], why));
    }
    rights
}

/// What people need besides who use `arauto dlq`, `backfill` and `retries`.
pub fn of_operators(settings: &Settings) -> Vec<Right> {
    let prefix = &settings.topics.prefix;
    vec![
        Right {
            resource: Resource::TransactionalId,
            name: format!("{prefix}."),
            pattern: Pattern::Prefixed,
            operations: vec![Operation::Write],
            why: "replays, backfills, what is done about retries: exactly once",
        },
        Right {
            resource: Resource::Topic,
            name: dead_topic(prefix),
            pattern: Pattern::Literal,
            operations: vec![Operation::Delete],
            why: "purging dead letters",
        },
    ]
}

/// The narrowest name that covers a selector: Kafka knows prefixes, but no patterns.
fn selected(selector: &TopicSelector) -> (String, Pattern) {
    match selector {
        TopicSelector::Name(name) => (name.clone(), Pattern::Literal),
        TopicSelector::Pattern(_, text) => match literal_prefix(text) {
            prefix if prefix.is_empty() => ("*".to_owned(), Pattern::Literal),
            prefix => (prefix, Pattern::Prefixed),
        },
    }
}

/// What every text begins with that a pattern matches. Empty when in doubt.
fn literal_prefix(pattern: &str) -> String {
    let mut prefix = String::new();
    if pattern.contains('|') {
        return prefix;
    }
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        let literal = match char {
            '\\' => match chars.next() {
                Some(escaped @ ('.' | '-' | '_')) => escaped,
                _ => break,
            },
            char if char.is_ascii_alphanumeric() || char == '-' || char == '_' => char,
            _ => break,
        };
        // Which may be absent.
        if matches!(chars.peek(), Some('?' | '*' | '{')) {
            break;
        }
        prefix.push(literal);
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_covered_by_what_all_it_matches_begins_with() {
        for (pattern, expected) in [
            ("orders", "orders"),
            (r"orders\..*", "orders."),
            (r"orders\.(eu|us)", ""),
            ("shop-[a-z]+", "shop-"),
            ("orders?", "order"),
            ("a{0,2}b", ""),
            ("a+b", "a"),
            (r"a\d", "a"),
            (".*", ""),
            ("(?i)orders", ""),
        ] {
            assert_eq!(literal_prefix(pattern), expected, "{pattern}");
            if !pattern.contains(['?', '{', '|']) {
                let regex = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
                let (name, kind) = selected(&TopicSelector::Pattern(regex, pattern.to_owned()));
                assert_eq!(kind == Pattern::Prefixed, name != "*", "{pattern}");
            }
        }
    }
}
