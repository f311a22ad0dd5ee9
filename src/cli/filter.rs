//! The flags that say which dead letters are meant, common to all commands about them.

use clap::builder::PossibleValuesParser;

use super::{Usage, date};
use crate::{
    letters::{expression, filter::Filter, reasons},
    pipeline::delivery::now,
};

/// Which letters; a flag given several times means any of the values, several flags mean all of them.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
#[command(
    next_help_heading = "Which letters (a repeated flag: any of its values; several flags: all of them)"
)]
pub(super) struct Args {
    /// Endpoint id; `*` stands for any characters.
    #[arg(long = "endpoint", value_name = "GLOB")]
    endpoints: Vec<String>,
    /// Why it died.
    #[arg(long = "reason", value_name = "REASON", value_parser = PossibleValuesParser::new(reasons()))]
    reasons: Vec<String>,
    /// Last HTTP status: `503`, or a class such as `5xx`.
    #[arg(long = "status", value_name = "STATUS", value_parser = status)]
    statuses: Vec<(u16, u16)>,
    /// Event type; `*` stands for any characters.
    #[arg(long = "type", value_name = "GLOB")]
    types: Vec<String>,
    /// Source topic; `*` stands for any characters.
    #[arg(long = "topic", value_name = "GLOB")]
    topics: Vec<String>,
    /// Tenant.
    #[arg(long = "tenant", value_name = "TENANT")]
    tenants: Vec<String>,
    /// Webhook id.
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<String>,
    /// Died at this time or later: `2h` (ago), `today`, `yesterday` (UTC), 2026-01-31, 2026-01-31T08:00:00Z, or unix
    /// seconds.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Died before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Partition of the dead-letter topic.
    #[arg(long = "partition", value_name = "N")]
    partitions: Vec<i32>,
    /// Offset in the dead-letter topic, or several: `10-20`, `10-`.
    #[arg(long = "offset", value_name = "N", value_parser = offsets)]
    offsets: Vec<(i64, i64)>,
    /// CEL expression over body, headers and more (see --help).
    #[arg(long = "where", value_name = "CEL", long_help = where_help())]
    expression: Option<String>,
    /// So many at most.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

impl Args {
    /// The filter they stand for, as of now; a wrong time or expression is wrong usage.
    pub(super) fn resolve(&self) -> anyhow::Result<Filter> {
        let (since, until) = resolve(&self.since, &self.until, &self.expression)?;
        Ok(Filter {
            endpoints: self.endpoints.clone(),
            reasons: self.reasons.clone(),
            statuses: self.statuses.clone(),
            types: self.types.clone(),
            topics: self.topics.clone(),
            tenants: self.tenants.clone(),
            ids: self.ids.clone(),
            since,
            until,
            partitions: self.partitions.clone(),
            offsets: self.offsets.clone(),
            expression: self.expression.clone(),
            limit: self.limit,
        })
    }
}

/// The times of `--since` and `--until` as of now, and a look at the expression of `--where`; wrong ones are wrong usage.
pub(super) fn resolve(
    since: &Option<String>,
    until: &Option<String>,
    condition: &Option<String>,
) -> anyhow::Result<(Option<i64>, Option<i64>)> {
    let now = now();
    let time = |flag: &str, text: &Option<String>| -> anyhow::Result<Option<i64>> {
        let Some(text) = text else { return Ok(None) };
        let wrong = || Usage(format!("{flag} {text:?} is no time; write {}", date::FORMS));
        Ok(Some(date::parse(text, now).ok_or_else(wrong)?))
    };
    if let Some(text) = condition {
        expression::Expression::new(text).map_err(|error| Usage(format!("--where {text:?}: {error}")))?;
    }
    Ok((time("--since", since)?, time("--until", until)?))
}

/// The help of `--where`, for every command that has it.
pub(super) fn where_help() -> String {
    let mut help = "CEL expression (https://cel.dev), such as\n  \
                    value.amount > 100 && type == 'order.paid'\n  \
                    has(headers.region) && headers.region.startsWith('eu-')\n  \
                    value.lines.exists(line, line.sku == 'A-1')\n\
                    Variables:\n"
        .to_owned();
    for (name, what) in expression::VARIABLES {
        help.push_str(&format!("  {name:10} {what}\n"));
    }
    help.push_str(
        "What an expression fails on (a member that is not there, text compared with a number) does not match; how \
         often that was is said at the end.",
    );
    help
}

fn status(text: &str) -> Result<(u16, u16), String> {
    let class = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX"));
    let range = match class {
        Some(class) => {
            number(class).filter(|class: &u16| (1..=5).contains(class)).map(|c| (c * 100, c * 100 + 99))
        }
        None => number(text).filter(|status| (100..=599).contains(status)).map(|status| (status, status)),
    };
    range.ok_or_else(|| "write a status such as 503, or a class such as 5xx".to_owned())
}

fn offsets(text: &str) -> Result<(i64, i64), String> {
    let range = match text.split_once('-') {
        None => number(text).map(|offset| (offset, offset)),
        Some((first, "")) => number(first).map(|first| (first, i64::MAX)),
        Some((first, last)) => number(first).zip(number(last)).filter(|(first, last)| first <= last),
    };
    range.ok_or_else(|| "write an offset such as 17, or offsets such as 10-20 or 10-".to_owned())
}

/// Digits only: no sign.
fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Test {
        #[command(flatten)]
        filter: Args,
    }

    fn filter(arguments: &[&str]) -> anyhow::Result<Filter> {
        Test::try_parse_from([&["test"], arguments].concat())?.filter.resolve()
    }

    #[test]
    fn statuses() {
        for (text, expected) in [
            ("503", Some((503, 503))),
            ("5xx", Some((500, 599))),
            ("4XX", Some((400, 499))),
            ("6xx", None),
            ("xx", None),
            ("+503", None),
            ("99", None),
            ("5x", None),
            ("", None),
        ] {
            assert_eq!(status(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn ranges_of_offsets() {
        for (text, expected) in [
            ("17", Some((17, 17))),
            ("10-20", Some((10, 20))),
            ("10-", Some((10, i64::MAX))),
            ("9223372036854775807", Some((i64::MAX, i64::MAX))),
            ("20-10", None),
            ("-5", None),
            ("-", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(offsets(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn flags_become_a_filter() {
        assert_eq!(filter(&[]).unwrap(), Filter::default());
        let arguments = "--endpoint crm --endpoint shop-* --reason gone --status 5xx --type order.* --topic orders \
                         --tenant acme --id msg_1 --since 1970-01-02 --until 1700000000 --partition 2 --offset 7 \
                         --where status>1 --limit 3";
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let expected = Filter {
            endpoints: words(&["crm", "shop-*"]),
            reasons: words(&["gone"]),
            statuses: vec![(500, 599)],
            types: words(&["order.*"]),
            topics: words(&["orders"]),
            tenants: words(&["acme"]),
            ids: words(&["msg_1"]),
            since: Some(86_400_000),
            until: Some(1_700_000_000_000),
            partitions: vec![2],
            offsets: vec![(7, 7)],
            expression: Some("status>1".to_owned()),
            limit: Some(3),
        };
        assert_eq!(filter(&arguments).unwrap(), expected);
    }

    #[test]
    fn mistakes_are_told_with_what_to_write() {
        let mistake = |arguments: &[&str]| filter(arguments).unwrap_err().to_string();
        assert!(
            mistake(&["--since", "sometime"]).starts_with(r#"--since "sometime" is no time; write 2h (ago)"#)
        );
        assert!(mistake(&["--where", "valu.a"]).contains(r#"there is no variable "valu""#));
        assert!(mistake(&["--reason", "boredom"]).contains("exhausted"));
        assert!(mistake(&["--status", "ok"]).contains("a class such as 5xx"));
    }
}
