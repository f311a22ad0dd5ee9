//! Topics and rights as files for the tools that make them: Kafka's own command line, Strimzi, Terraform. Pure text.

use std::fmt::{self, Display, Write};

use crate::kafka::{
    rights::{Operation, Pattern, Resource, Right},
    topics::Topic,
};

/// Everything one installation needs on its cluster.
#[derive(Debug)]
pub(super) struct Plan {
    /// Topics of its own.
    pub(super) topics: Vec<Topic>,
    /// Who is allowed what: the users' names and their rights.
    pub(super) users: Vec<(String, Vec<Right>)>,
    /// The name of the cluster, for whoever wants to know.
    pub(super) cluster: String,
}

/// For which tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// A script that calls kafka-topics.sh and kafka-acls.sh.
    KafkaCli,
    /// Resources for the Strimzi operator (0.49 or later).
    Strimzi,
    /// A file for Terraform with the provider Mongey/kafka.
    Terraform,
}

impl Plan {
    /// The file.
    pub(super) fn write(&self, format: Format) -> String {
        let mut text = String::new();
        let written = match format {
            Format::KafkaCli => self.kafka_cli(&mut text),
            Format::Strimzi => self.strimzi(&mut text),
            Format::Terraform => self.terraform(&mut text),
        };
        written.expect("a string takes everything");
        text
    }

    fn kafka_cli(&self, out: &mut String) -> fmt::Result {
        out.push_str(KAFKA_CLI);
        for Topic { name, partitions, replication, config } in &self.topics {
            write!(out, "\ntopic {} --partitions {partitions}", Shell(name))?;
            if *replication > 0 {
                write!(out, " --replication-factor {replication}")?;
            }
            for (key, value) in config {
                write!(out, " \\\n    --config {key}={value}")?;
            }
        }
        out.push('\n');
        for (right, users) in self.holders() {
            let Right { resource, name, pattern, operations, why } = right;
            let what = match resource {
                Resource::Topic => "topic",
                Resource::Group => "group",
                Resource::TransactionalId => "transactional-id",
            };
            write!(out, "\n# {why}\nallow --{what} {}", Shell(name))?;
            if *pattern == Pattern::Prefixed {
                out.push_str(" --resource-pattern-type prefixed");
            }
            operations.iter().try_for_each(|operation| write!(out, " --operation {}", operation.name()))?;
            for user in users {
                let principal = format!("User:{user}");
                write!(out, " \\\n    --allow-principal {}", Shell(&principal))?;
            }
        }
        out.push('\n');
        Ok(())
    }

    /// Each right with all who have it.
    fn holders(&self) -> Vec<(&Right, Vec<&str>)> {
        let mut holders: Vec<(&Right, Vec<&str>)> = Vec::new();
        for (user, rights) in &self.users {
            for right in rights {
                match holders.iter_mut().find(|(known, _)| *known == right) {
                    Some((_, users)) => users.push(user),
                    None => holders.push((right, vec![user])),
                }
            }
        }
        holders
    }

    fn strimzi(&self, out: &mut String) -> fmt::Result {
        out.push_str(
            "# Made by `arauto topics --format strimzi`. Topics and users of a cluster that Strimzi runs.\n",
        );
        let cluster = Quoted(&self.cluster);
        for Topic { name, partitions, replication, config } in &self.topics {
            let resource = resource_name(name);
            write!(
                out,
                "---\napiVersion: kafka.strimzi.io/v1\nkind: KafkaTopic\nmetadata:\n  name: {resource}\n"
            )?;
            write!(
                out,
                "  labels:\n    strimzi.io/cluster: {cluster}\nspec:\n  topicName: {}\n",
                Quoted(name)
            )?;
            writeln!(out, "  partitions: {partitions}")?;
            if *replication > 0 {
                writeln!(out, "  replicas: {replication}")?;
            }
            out.push_str("  config:\n");
            config.iter().try_for_each(|(key, value)| writeln!(out, "    {key}: {}", Quoted(value)))?;
        }
        for (user, rights) in &self.users {
            let resource = resource_name(user);
            write!(
                out,
                "---\napiVersion: kafka.strimzi.io/v1\nkind: KafkaUser\nmetadata:\n  name: {resource}\n"
            )?;
            write!(out, "  labels:\n    strimzi.io/cluster: {cluster}\nspec:\n")?;
            out.push_str(
                "  authentication:\n    type: scram-sha-512\n  authorization:\n    type: simple\n    acls:\n",
            );
            for Right { resource, name, pattern, operations, why } in rights {
                let kind = match resource {
                    Resource::Topic => "topic",
                    Resource::Group => "group",
                    Resource::TransactionalId => "transactionalId",
                };
                let pattern = match pattern {
                    Pattern::Literal => "literal",
                    Pattern::Prefixed => "prefix",
                };
                writeln!(out, "      # {why}")?;
                writeln!(
                    out,
                    "      - resource: {{ type: {kind}, name: {}, patternType: {pattern} }}",
                    Quoted(name)
                )?;
                writeln!(out, "        operations: [{}]", names(operations))?;
            }
        }
        Ok(())
    }

    fn terraform(&self, out: &mut String) -> fmt::Result {
        out.push_str(TERRAFORM);
        let replication =
            self.topics.iter().map(|topic| topic.replication).find(|replication| *replication > 0);
        write!(
            out,
            "\nvariable \"replication_factor\" {{\n  type    = number\n  default = {}\n}}\n",
            replication.unwrap_or(3)
        )?;
        out.push_str("\nlocals {\n  topics = {\n");
        for Topic { name, partitions, config, .. } in &self.topics {
            writeln!(out, "    {} = {{\n      partitions = {partitions}\n      config = {{", Quoted(name))?;
            config
                .iter()
                .try_for_each(|(key, value)| writeln!(out, "        {} = {}", Quoted(key), Quoted(value)))?;
            out.push_str("      }\n    }\n");
        }
        out.push_str("  }\n\n  rights = [\n");
        for (user, rights) in &self.users {
            for Right { resource, name, pattern, operations, why } in rights {
                let kind = match resource {
                    Resource::Topic => "Topic",
                    Resource::Group => "Group",
                    Resource::TransactionalId => "TransactionalID",
                };
                let operations: Vec<String> =
                    operations.iter().map(|o| Quoted(o.name()).to_string()).collect();
                let principal = format!("User:{user}");
                writeln!(out, "    # {why}")?;
                writeln!(
                    out,
                    "    {{ user = {}, type = \"{kind}\", name = {}, pattern = \"{pattern:?}\", operations = [{}] }},",
                    Quoted(&principal),
                    Quoted(name),
                    operations.join(", ")
                )?;
            }
        }
        out.push_str("  ]\n}\n");
        out.push_str(TERRAFORM_RESOURCES);
        Ok(())
    }
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "Read",
            Self::Write => "Write",
            Self::Create => "Create",
            Self::Delete => "Delete",
            Self::DescribeConfigs => "DescribeConfigs",
        }
    }
}

fn names(operations: &[Operation]) -> String {
    operations.iter().map(|operation| operation.name()).collect::<Vec<_>>().join(", ")
}

/// A name that Kubernetes takes: lower case, letters, digits, `-` and `.`.
fn resource_name(name: &str) -> String {
    let legal = |char: char| {
        if char.is_ascii_alphanumeric() || char == '.' { char.to_ascii_lowercase() } else { '-' }
    };
    name.chars().map(legal).collect()
}

/// A word of a shell's command line.
struct Shell<'a>(&'a str);

impl Display for Shell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |char: char| char.is_ascii_alphanumeric() || "._-:/@".contains(char);
        if !self.0.is_empty() && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        write!(f, "'{}'", self.0.replace('\'', r"'\''"))
    }
}

/// A text in double quotes, as YAML and Terraform read it; both know the escapes of JSON.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = serde_json::to_string(self.0).map_err(|_| fmt::Error)?;
        f.write_str(&quoted.replace("${", "$${"))
    }
}

const KAFKA_CLI: &str = r#"#!/usr/bin/env bash
# Made by `arauto topics --format kafka-cli`. To be run by somebody who may create topics and grant rights, with Kafka's
# own tools on the PATH; what exists already is left as it is:
#   BOOTSTRAP=kafka:9092 COMMAND_CONFIG=admin.properties bash kafka.sh
set -euo pipefail

options=(--bootstrap-server "${BOOTSTRAP:-localhost:9092}")
if [ -n "${COMMAND_CONFIG:-}" ]; then
    options+=(--command-config "$COMMAND_CONFIG")
fi

topic() {
    kafka-topics.sh "${options[@]}" --create --if-not-exists --topic "$@"
}

allow() {
    kafka-acls.sh "${options[@]}" --add "$@"
}
"#;

const TERRAFORM: &str = r#"# Made by `arauto topics --format terraform`, for the provider Mongey/kafka.
terraform {
  required_providers {
    kafka = {
      source = "Mongey/kafka"
    }
  }
}
"#;

const TERRAFORM_RESOURCES: &str = r#"
resource "kafka_topic" "arauto" {
  for_each           = local.topics
  name               = each.key
  partitions         = each.value.partitions
  replication_factor = var.replication_factor
  config             = each.value.config
}

resource "kafka_acl" "arauto" {
  for_each = {
    for right in flatten([
      for right in local.rights : [
        for operation in right.operations : merge(right, { operation = operation })
      ]
    ]) : "${right.user} ${right.operation} ${right.type} ${right.name}" => right
  }
  acl_principal                = each.value.user
  acl_host                     = "*"
  acl_permission_type          = "Allow"
  acl_operation                = each.value.operation
  resource_type                = each.value.type
  resource_name                = each.value.name
  resource_pattern_type_filter = each.value.pattern
}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_texts_are_quoted_where_they_must_be() {
        for (word, expected) in [
            ("User:arauto", "User:arauto"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("*", "'*'"),
            ("", "''"),
        ] {
            assert_eq!(Shell(word).to_string(), expected);
        }
        for (text, expected) in [("a", r#""a""#), (r#"a"b"#, r#""a\"b""#), ("${a}", r#""$${a}""#)] {
            assert_eq!(Quoted(text).to_string(), expected);
        }
        assert_eq!(resource_name("Arauto_x.retry.5s"), "arauto-x.retry.5s");
    }
}
