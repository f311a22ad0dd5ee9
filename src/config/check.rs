//! What the user wrote → what we run on. Every value is checked by itself and against the others, and every
//! default applied. A mistake never stops the checks: something that would do stands in for it until the end.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use url::Url;

use super::{
    AddressRule,
    file::{self, File},
    level,
    mistake::{Place, Report},
    settings::{
        Admin, Attempts, Endpoint, Events, FactSource, IdSource, Kafka, Limits, Log, LogFormat, Notices,
        OnRemoved, Protocol, Queue, Security, Settings, Start, Topics,
    },
    value::tier_name,
    written::{Key, List, Text, Written},
};

mod endpoint;
mod header;
mod keys;
mod otel;
mod policy;
mod property;
mod topic;

/// Makes settings of a file; they may be used only if the report stays empty.
pub(super) fn settings(file: &File, rule: AddressRule<'_>, report: &mut Report) -> Settings {
    let group = non_empty(&file.kafka.group, "arauto", "group in [kafka]", report);
    let topics = topics(file, &group, report);
    let kafka = kafka(file, group, &topics.prefix, report);
    policy::own_mistakes(&file.defaults, report);
    let sources = file.kafka.topics.set().filter(|list| list.value.complete).map(|_| &*kafka.topics);
    let attempts = Attempts {
        topic: topic::attempts(&file.attempts.topic, &topics.prefix, report),
        retention: file.attempts.retention.or(days(7)),
    };
    let security = security(&file.security, report);
    let allow = allow_is_known(file, &security).then_some(&*security.allow);
    let judge = |url: &Url| allow.map_or(Ok(()), |allow| rule(allow, url));
    let https_only = security.https_only;
    let notices = notices(&file.notices);
    let notices_topic = format!("{}.notices", topics.prefix);
    let context = endpoint::Context {
        defaults: &file.defaults,
        sources,
        notices: notices.enabled.then_some(&*notices_topic),
        https_only,
        judge: &judge,
    };
    let endpoints = endpoints(file, &context, report);
    let limits = limits(&file.limits, &topics.tiers, &endpoints, report);
    own_queues(file, &endpoints, limits.own_queues, report);
    Settings {
        on_removed: file.on_removed.or(OnRemoved::Dead),
        unknown_grace: file.unknown_grace.or(minutes(10)),
        kafka,
        topics,
        events: events(&file.events, report),
        limits,
        attempts,
        security,
        admin: admin(&file.admin, report),
        log: log(&file.log, report),
        otel: otel::otel(&file.otel, report),
        notices,
        endpoints: endpoints.into_iter().map(|(_, endpoint)| Arc::new(endpoint)).collect(),
    }
}

fn kafka(file: &File, group: String, prefix: &str, report: &mut Report) -> Kafka {
    let written = &file.kafka;
    if written.brokers.is_absent() {
        report.missing(written.place, "no brokers in [kafka]", "write brokers = \"host:9092\"");
    }
    let brokers = non_empty(&written.brokers, "", "brokers in [kafka]", report);
    let mut topics = Vec::new();
    let help = "write topics = [\"orders\", \"^shop-.*\"]";
    match &written.topics {
        Key::Absent => report.missing(written.place, "no topics in [kafka]", help),
        Key::Set(list) if list.value.items.is_empty() && list.value.complete => {
            report.add(list.place, "topics in [kafka] is empty", help);
        }
        Key::Set(list) => topics = topic::sources(&list.value, prefix, report),
        Key::Wrong => {}
    }
    Kafka {
        brokers,
        group,
        topics,
        start: written.start.or(Start::Latest),
        protocol: written.protocol.or(Protocol::Auto),
        properties: property::all(&written.properties, report),
    }
}

fn topics(file: &File, group: &str, report: &mut Report) -> Topics {
    let written = &file.topics;
    Topics {
        prefix: topic::prefix(written, &file.kafka, group, report),
        tiers: topic::tiers(&written.tiers, report),
        retention: written.retention.or(days(14)),
        dead_retention: written.dead_retention.or(days(30)),
        partitions: i32::try_from(written.partitions.or(6)).expect("its range was checked while reading"),
        replication: i32::try_from(written.replication.or(-1))
            .ok()
            .filter(|factor| *factor != 0)
            .unwrap_or_else(|| {
                let place = written.replication.set().map_or(written.place, |w| w.place);
                report.add(
                    place,
                    "replication in [topics] is 0",
                    "write 1 or more, or -1 for the brokers' default",
                );
                -1
            }),
        create: written.create.or(true),
    }
}

fn events(written: &file::Events, report: &mut Report) -> Events {
    let facts = |key: &Key<List<Text>>, default: &[FactSource], report: &mut Report| match key.set() {
        Some(list) => list.value.items.iter().filter_map(|item| fact(item, report)).collect(),
        None => default.to_vec(),
    };
    let header = |name: &str| FactSource::Header(name.to_owned());
    let type_default = [header("ce_type"), FactSource::Json("/type".to_owned())];
    Events {
        event_type: facts(&written.event_type, &type_default, report),
        id: match written.id.set() {
            Some(list) => list.value.items.iter().filter_map(|item| id_source(item, report)).collect(),
            None => vec![IdSource::CloudEvents],
        },
        namespace: written.namespace.set().map(|w| w.value.value.clone()).filter(|name| !name.is_empty()),
        tenant: facts(&written.tenant, &[header("tenant")], report),
        priority: facts(&written.priority, &[header("priority")], report),
    }
}

fn id_source(item: &Written<Text>, report: &mut Report) -> Option<IdSource> {
    if item.value.value == "cloudevents" {
        return Some(IdSource::CloudEvents);
    }
    fact(item, report).map(IdSource::Fact)
}

fn fact(item: &Written<Text>, report: &mut Report) -> Option<FactSource> {
    let text = &item.value;
    if let Some(name) = text.value.strip_prefix("header:").filter(|name| !name.is_empty()) {
        return Some(FactSource::Header(name.to_owned()));
    }
    if let Some(pointer) = text.value.strip_prefix("json:")
        && is_pointer(pointer)
    {
        return Some(FactSource::Json(pointer.to_owned()));
    }
    let help = "write \"header:NAME\" or \"json:/pointer\" (\"cloudevents\" is for id only)";
    report.add(item.place, format!("{text} is no source of a fact"), help);
    None
}

/// RFC 6901: every token begins with `/`, and `~` stands only before 0 or 1.
fn is_pointer(text: &str) -> bool {
    text.starts_with('/') && text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']))
}

fn security(written: &file::Security, report: &mut Report) -> Security {
    let mut allow = Vec::new();
    for item in written.allow.set().into_iter().flat_map(|list| &list.value.items) {
        let text = &item.value.value;
        match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            Ok(network) => allow.push(network.trunc()),
            Err(_) => report.add(
                item.place,
                format!("{} is no network", item.value),
                "write one such as \"10.20.0.0/16\" or \"fd00:20::/32\"",
            ),
        }
    }
    Security { allow, https_only: written.https_only.or(false) }
}

fn admin(written: &file::Admin, report: &mut Report) -> Admin {
    const DEFAULT: &str = "127.0.0.1:9464";
    let text = written.listen.set().map_or(DEFAULT, |w| &*w.value.value);
    let listen = match text {
        "off" => None,
        address => address
            .parse()
            .map_err(|_| {
                if let Some(listen) = written.listen.set() {
                    let help = "write an IP address and a port, such as \"127.0.0.1:9464\", or \"off\"";
                    report.add(listen.place, format!("listen in [admin] is {}", listen.value), help);
                }
            })
            .ok(),
    };
    Admin {
        listen,
        max_endpoint_series: count(written.max_endpoint_series.or(1_000)),
        stalled_after: written.stalled_after.or(seconds(60)),
    }
}

fn log(written: &file::Log, report: &mut Report) -> Log {
    let text = non_empty(&written.level, "info", "level in [log]", report);
    if let Some(key) = written.level.set()
        && let Err(wrong) = level::parse(&text)
    {
        let wrong = match wrong {
            // It would tell what a reference holds.
            level::Wrong::Near(_) if key.value.reference.is_some() => level::Wrong::Word,
            wrong => wrong,
        };
        report.add(key.place, format!("level in [log] is {}", key.value), wrong.to_string());
    }
    Log { level: text, format: written.format.or(LogFormat::Auto) }
}

fn notices(written: &file::Notices) -> Notices {
    Notices {
        enabled: written.enabled.or(true),
        repeat: written.repeat.or(minutes(60)),
        certificate: written.certificate.or(days(14)),
    }
}

fn limits(
    written: &file::Limits,
    tiers: &[Duration],
    endpoints: &[(Place, Endpoint)],
    report: &mut Report,
) -> Limits {
    let shortest = tiers.first().copied().unwrap_or_default();
    let longest = endpoints.iter().max_by_key(|(_, endpoint)| endpoint.timeout);
    let mut at_least = |key: &Key<Duration>, default: Duration, least: Duration, name: &str, why: &str| {
        if let Some(w) = key.set().filter(|w| w.value < least) {
            let message = format!("{name} in [limits] is {}, below {why}", tier_name(w.value));
            report.add(w.place, message, format!("write \"{}\" or more", tier_name(least)));
        }
        // Written nowhere, it follows what it has to cover.
        key.or(default.max(least))
    };
    let hold_why = format!("the shortest retry tier, {}", tier_name(shortest));
    let hold = at_least(&written.hold, seconds(5), shortest, "hold", &hold_why);
    let timeout = longest.map_or(Duration::ZERO, |(_, endpoint)| endpoint.timeout);
    let drain_why = longest.map_or_else(String::new, |(_, e)| {
        format!("the timeout of endpoint \"{}\", {}", e.id, tier_name(timeout))
    });
    let drain = at_least(&written.drain, seconds(20), timeout, "drain", &drain_why);
    Limits {
        in_flight: count(written.in_flight.or(10_000)),
        in_flight_bytes: written.in_flight_bytes.or(64 << 20),
        hold,
        prefetch: written.prefetch.or(1 << 20),
        drain,
        shutdown_grace: written.shutdown_grace.or(seconds(25)),
        commit_interval: written.commit_interval.or(Duration::from_millis(100)),
        own_queues: count(written.own_queues.or(64)),
    }
}

/// With networks that could not be read nothing can be said about addresses.
fn allow_is_known(file: &File, security: &Security) -> bool {
    match &file.security.allow {
        Key::Absent => true,
        Key::Wrong => false,
        Key::Set(list) => list.value.complete && list.value.items.len() == security.allow.len(),
    }
}

fn endpoints(file: &File, context: &endpoint::Context<'_>, report: &mut Report) -> Vec<(Place, Endpoint)> {
    let mut first: HashMap<&str, Place> = HashMap::new();
    let mut settled = Vec::with_capacity(file.endpoints.len());
    for written in &file.endpoints {
        if let Some(id) = written.id.set() {
            if let Some(other) = first.get(&*id.value.value) {
                let other = report.describe(*other);
                let message = format!("the endpoint id {} is taken already, at {other}", id.value);
                report.add(id.place, message, "give each endpoint an id of its own");
            } else {
                first.insert(&id.value.value, id.place);
            }
        }
        if let Some(endpoint) = endpoint::endpoint(written, context, report) {
            settled.push((written.id.set().map_or(written.place, |id| id.place), endpoint));
        }
    }
    settled
}

fn own_queues(file: &File, endpoints: &[(Place, Endpoint)], most: usize, report: &mut Report) {
    if matches!(file.limits.own_queues, Key::Wrong) {
        return;
    }
    let own: Vec<_> = endpoints.iter().filter(|(_, endpoint)| endpoint.queue == Queue::Own).collect();
    if let Some((place, endpoint)) = own.get(most) {
        let message = format!(
            "endpoint \"{}\" is one too many of {} with a queue of their own",
            endpoint.id,
            own.len()
        );
        let help =
            format!("raise limits.own_queues ({most}), or give up queue = \"own\" or the ordering of some");
        report.add(*place, message, help);
    }
}

/// A string that must hold something; `key` is what messages call it.
fn non_empty(written: &Key<Text>, default: &str, key: &str, report: &mut Report) -> String {
    let Some(text) = written.set() else {
        return default.to_owned();
    };
    if text.value.value.trim().is_empty() {
        report.add(
            text.place,
            format!("{key} is empty"),
            match default {
                "" => "write a value".to_owned(),
                default => format!("write a value, or leave the key out for \"{default}\""),
            },
        );
    }
    text.value.value.clone()
}

fn count(written: i64) -> usize {
    usize::try_from(written).expect("its range was checked while reading")
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn minutes(n: u64) -> Duration {
    seconds(n * 60)
}

fn days(n: u64) -> Duration {
    minutes(n * 24 * 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_rfc_6901() {
        for (text, expected) in [
            ("/type", true),
            ("/a/b~0c~1d", true),
            ("/", true),
            ("", false),
            ("type", false),
            ("/a~", false),
            ("/a~2", false),
        ] {
            assert_eq!(is_pointer(text), expected, "{text:?}");
        }
    }
}
