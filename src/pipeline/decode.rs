//! Decode: a record becomes an event, with its type, its tenant and its id.
//!
//! Looks only at the record in hand: the same record gives the same event on every instance and after every
//! crash. The value is parsed at most once, and only if something in it is asked for. Never fails: what is not
//! there, empty, or not readable counts as not found, and the next source is asked.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;

use super::{Event, Headers, Record};
use crate::{
    config::settings::{Events, FactSource, IdSource, Priority},
    kafka::{
        headers::{self, Envelope},
        topics::notices_topic,
    },
};

pub mod id;
mod pointers;

use pointers::Pointers;

/// Turns records into events, as `[events]` says.
#[derive(Debug)]
pub struct Decoder {
    event_type: Vec<Source>,
    tenant: Vec<Source>,
    priority: Vec<Source>,
    id: Vec<OwnId>,
    pointers: Pointers,
    namespace: Arc<str>,
    notices: Option<Box<Notices>>,
}

/// The topic of our own notices; what they say of themselves stands where CloudEvents have it, whatever `[events]` says.
#[derive(Debug)]
struct Notices {
    topic: String,
    decoder: Decoder,
}

/// A fact source whose pointer, if it is one, is among those looked up together.
#[derive(Debug)]
enum Source {
    Header(String),
    Json(usize),
}

/// Where an id may stand in the event itself.
#[derive(Debug)]
enum OwnId {
    CloudEvents { source: usize, id: usize },
    Fact(Source),
}

impl Decoder {
    /// `namespace` goes into the ids of events that carry none.
    pub fn new(events: &Events, namespace: Arc<str>) -> Self {
        let mut pointers = Pointers::default();
        let mut sources = |list: &[FactSource]| list.iter().map(|s| source(s, &mut pointers)).collect();
        let (event_type, tenant) = (sources(&events.event_type), sources(&events.tenant));
        let priority = sources(&events.priority);
        let own_id = |from: &IdSource| match from {
            IdSource::CloudEvents => {
                OwnId::CloudEvents { source: pointers.add("/source"), id: pointers.add("/id") }
            }
            IdSource::Fact(fact) => OwnId::Fact(source(fact, &mut pointers)),
        };
        let id = events.id.iter().map(own_id).collect();
        Self { event_type, tenant, priority, id, pointers, namespace, notices: None }
    }

    /// The same, and knows the notices of these topics of ours from events.
    pub fn with_notices(mut self, prefix: &str) -> Self {
        let json = |pointer: &str| vec![FactSource::Json(pointer.to_owned())];
        let (event_type, tenant, id) = (json("/type"), json("/tenant"), vec![IdSource::CloudEvents]);
        let events = Events { event_type, id, namespace: None, tenant, priority: Vec::new() };
        let decoder = Self::new(&events, Arc::clone(&self.namespace));
        self.notices = Some(Box::new(Notices { topic: notices_topic(prefix), decoder }));
        self
    }

    /// Who decodes what comes from this topic; is it a notice?
    fn of(&self, topic: &str) -> (&Self, bool) {
        match &self.notices {
            Some(notices) if notices.topic == topic => (&notices.decoder, true),
            Some(_) | None => (self, false),
        }
    }

    /// The event of a record of a source topic. Its `arauto-*` headers mean nothing there (anyone can write
    /// them) and are left out, so that they cannot be mistaken for ours on a retry topic.
    pub fn decode(&self, mut record: Record) -> Event {
        record.headers.0.retain(|(name, _)| !headers::is_ours(name));
        let (decoder, notice) = self.of(&record.topic);
        let mut facts = Facts::of(decoder, &record.headers, record.value.as_ref());
        let event_type = facts.first(&decoder.event_type).unwrap_or_else(|| Arc::clone(&record.topic));
        let tenant = facts.first(&decoder.tenant);
        let priority = facts.priority();
        let id = facts.own_id().unwrap_or_else(|| {
            id::of_coordinates(
                &self.namespace,
                &record.topic,
                record.partition,
                record.offset,
                record.timestamp,
            )
        });
        Event {
            topic: record.topic,
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers: record.headers,
            id,
            event_type,
            tenant,
            priority,
            notice,
        }
    }

    /// The event a retry or dead-letter record carries: coordinates, key and id from its envelope, the other
    /// facts decoded again from its original headers and value.
    pub fn restore(&self, envelope: &Envelope, original: Headers, value: Option<Bytes>) -> Event {
        let (decoder, notice) = self.of(&envelope.source_topic);
        let mut facts = Facts::of(decoder, &original, value.as_ref());
        let event_type =
            facts.first(&decoder.event_type).unwrap_or_else(|| Arc::clone(&envelope.source_topic));
        let tenant = facts.first(&decoder.tenant);
        let priority = facts.priority();
        Event {
            topic: Arc::clone(&envelope.source_topic),
            partition: envelope.source_partition,
            offset: envelope.source_offset,
            timestamp: envelope.source_timestamp,
            key: envelope.key.clone(),
            value,
            headers: original,
            id: Arc::clone(&envelope.id),
            event_type,
            tenant,
            priority,
            notice,
        }
    }

    /// The id a record brings itself; without one it is derived from its coordinates.
    pub fn own_id(&self, headers: &Headers, value: Option<&Bytes>) -> Option<Arc<str>> {
        Facts::of(self, headers, value).own_id()
    }
}

fn source(source: &FactSource, pointers: &mut Pointers) -> Source {
    match source {
        FactSource::Header(name) => Source::Header(name.clone()),
        FactSource::Json(pointer) => Source::Json(pointers.add(pointer)),
    }
}

/// What one record says, its value parsed on the first question about it.
struct Facts<'a> {
    decoder: &'a Decoder,
    headers: &'a Headers,
    value: Option<&'a Bytes>,
    json: Option<pointers::Found<'a>>,
}

impl<'a> Facts<'a> {
    fn of(decoder: &'a Decoder, headers: &'a Headers, value: Option<&'a Bytes>) -> Self {
        Self { decoder, headers, value, json: None }
    }

    fn first(&mut self, sources: &[Source]) -> Option<Arc<str>> {
        sources.iter().find_map(|source| self.get(source)).map(Arc::from)
    }

    fn get(&mut self, source: &Source) -> Option<Cow<'a, str>> {
        match source {
            Source::Header(name) => self.header(name).map(Cow::Borrowed),
            Source::Json(slot) => self.json(*slot),
        }
    }

    /// The first source that has anything decides; what is none of the words asks for nothing.
    fn priority(&mut self) -> Option<Priority> {
        let decoder = self.decoder;
        let asked = decoder.priority.iter().find_map(|source| self.get(source))?;
        Priority::WORDS.into_iter().find(|(word, _)| asked.eq_ignore_ascii_case(word)).map(|(_, one)| one)
    }

    /// Empty counts as not there: as an id it would make all events one, as a type or tenant it names nothing.
    fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.text_ignore_case(name).filter(|text| !text.is_empty())
    }

    fn json(&mut self, slot: usize) -> Option<Cow<'a, str>> {
        let (pointers, value) = (&self.decoder.pointers, self.value?);
        let found = self.json.get_or_insert_with(|| pointers.find(value));
        found[slot].clone().filter(|text| !text.is_empty())
    }

    fn own_id(&mut self) -> Option<Arc<str>> {
        let decoder = self.decoder;
        decoder.id.iter().find_map(|from| match from {
            OwnId::CloudEvents { source, id } => self.cloudevents(*source, *id),
            OwnId::Fact(fact) => self.get(fact).map(|value| id::of_value(&value)),
        })
    }

    /// Source and id together are unique, neither is alone. [Kafka protocol binding][binding]: in binary mode
    /// they are headers, in structured mode (told by the content type) members of the JSON value.
    ///
    /// [binding]: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
    fn cloudevents(&mut self, source: usize, id: usize) -> Option<Arc<str>> {
        if let (Some(source), Some(id)) = (self.header("ce_source"), self.header("ce_id")) {
            return Some(id::of_cloudevent(source, id));
        }
        if !self.header("content-type").is_some_and(is_structured) {
            return None;
        }
        Some(id::of_cloudevent(&self.json(source)?, &self.json(id)?))
    }
}

fn is_structured(content_type: &str) -> bool {
    const STRUCTURED: &[u8] = b"application/cloudevents+json";
    let start = content_type.trim_start().as_bytes().get(..STRUCTURED.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(STRUCTURED))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str) -> FactSource {
        FactSource::Header(name.into())
    }

    fn json(pointer: &str) -> FactSource {
        FactSource::Json(pointer.into())
    }

    fn decoder(id: Vec<IdSource>) -> Decoder {
        let event_type = vec![header("ce_type"), json("/type")];
        let tenant = vec![header("tenant"), json("/account/id")];
        let priority = vec![header("priority"), json("/priority")];
        Decoder::new(&Events { event_type, id, namespace: None, tenant, priority }, "prod".into())
    }

    fn record(headers: &[(&str, Option<&str>)], value: Option<&[u8]>) -> Record {
        let header = |(name, value): &(&str, Option<&str>)| {
            (Arc::from(*name), value.map(|v| Bytes::copy_from_slice(v.as_bytes())))
        };
        Record {
            topic: "pagamentos.v2".into(),
            partition: 11,
            offset: 42,
            timestamp: -1,
            key: None,
            value: value.map(Bytes::copy_from_slice),
            headers: Headers(headers.iter().map(header).collect()),
        }
    }

    fn check(headers: &[(&str, Option<&str>)], value: Option<&[u8]>, want: (&str, Option<&str>)) {
        let event = decoder(vec![IdSource::CloudEvents]).decode(record(headers, value));
        assert_eq!((&*event.event_type, event.tenant.as_deref()), want, "{headers:?}, {value:?}");
    }

    #[test]
    fn type_and_tenant_come_from_the_first_source_that_has_them() {
        let body: &[u8] = br#"{"account": {"id": 17}, "type": "a\u002fb"}"#;
        check(&[], None, ("pagamentos.v2", None));
        check(&[], Some(b""), ("pagamentos.v2", None));
        check(&[], Some(body), ("a/b", Some("17")));
        check(&[("CE_Type", Some("x")), ("Tenant", Some("acme"))], Some(body), ("x", Some("acme")));
        check(&[("ce_type", Some("")), ("tenant", None)], Some(body), ("a/b", Some("17")));
        check(&[("ce_type", Some("x")), ("ce_type", Some("y"))], None, ("y", None));
        check(&[], Some(br#"{"type": null, "account": {"id": ["x"]}}"#), ("pagamentos.v2", None));
        check(&[], Some(br#"{"type": true, "account": {"id": -1.50}}"#), ("true", Some("-1.50")));
        check(&[], Some(b"{\"type\": \"x\"} junk"), ("pagamentos.v2", None));
        check(&[], Some(b"\xff\x00"), ("pagamentos.v2", None));
    }

    #[test]
    fn a_notice_is_read_as_the_cloudevent_it_is_whatever_the_configuration_says() {
        let value: &[u8] =
            br#"{"source": "arauto/shop", "id": "1-2", "type": "arauto.delivery.dead", "tenant": "acme"}"#;
        let sent = |topic: &str| {
            let headers = [
                ("content-type", Some("application/cloudevents+json; charset=utf-8")),
                ("ce_type", Some("forged")),
                ("tenant", Some("umbrella")),
            ];
            Record { topic: topic.into(), ..record(&headers, Some(value)) }
        };
        let decoder = decoder(Vec::new()).with_notices("shop");
        let id = id::of_cloudevent("arauto/shop", "1-2");
        for (topic, notice, event_type, tenant) in [
            ("shop.notices", true, "arauto.delivery.dead", "acme"),
            ("shop.notices2", false, "forged", "umbrella"),
        ] {
            let event = decoder.decode(sent(topic));
            let facts = (&*event.event_type, event.tenant.as_deref());
            assert_eq!((event.notice, facts), (notice, (event_type, Some(tenant))), "{topic}");
            assert_eq!(event.id == id, notice);
            let reason = crate::pipeline::outcome::Reason::Timeout;
            let envelope = Envelope::new(&event, "crm".into(), reason, 0, 0);
            let restored = decoder.restore(&envelope, event.headers.clone(), event.value.clone());
            let facts = (&*restored.event_type, restored.tenant.as_deref());
            assert_eq!(
                (restored.notice, facts, &restored.id),
                (notice, (event_type, Some(tenant)), &event.id)
            );
        }
    }

    #[test]
    fn priority_is_one_of_the_words_or_nothing() {
        let check = |headers: &[(&str, Option<&str>)], value: &[u8], expected: Option<Priority>| {
            let event = decoder(Vec::new()).decode(record(headers, Some(value)));
            assert_eq!(event.priority, expected, "{headers:?} {value:?}");
        };
        let low = br#"{"priority": "low"}"#;
        check(&[], b"", None);
        check(&[], br#"{"priority": 1}"#, None);
        check(&[], low, Some(Priority::Low));
        check(&[("priority", Some("HIGH"))], low, Some(Priority::High));
        check(&[("Priority", Some("normal"))], low, Some(Priority::Normal));
        check(&[("priority", Some("urgent"))], low, None);
        check(&[("priority", Some(" high"))], low, None);
        check(&[("priority", Some(""))], low, Some(Priority::Low));
        check(&[("priority", None)], low, Some(Priority::Low));
    }

    #[test]
    fn our_headers_mean_nothing_on_a_source_topic() {
        let sent =
            record(&[("Arauto-Id", Some("x")), ("a", None), ("arauto-", None), ("arauto", None)], None);
        let event = decoder(vec![IdSource::Fact(header("arauto-id"))]).decode(sent);
        assert_eq!(event.headers, record(&[("a", None), ("arauto", None)], None).headers);
        assert_eq!(&*event.id, "msg_wy2i66fr4tm5jittiaxwfepg3vmizfwf");
    }

    fn check_id(from: &[IdSource], headers: &[(&str, &str)], value: &str, want: &str) {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, Some(*value))).collect();
        let event = decoder(from.to_vec()).decode(record(&headers, Some(value.as_bytes())));
        assert_eq!(&*event.id, want, "{from:?} of {headers:?}, {value}");
    }

    #[test]
    fn ids_follow_the_contract() {
        // The derived ones are those of tests/vectors/ids.json.
        const SHOP: &str = "msg_jkfbxngxea6lp2ad726cdjjf7hffvk3i";
        const ORDER: &str = "msg_yomvyiotnsuwhbmh36dz44rfulieztfa";
        const COORDINATES: &str = "msg_wy2i66fr4tm5jittiaxwfepg3vmizfwf";
        let cloudevents = [IdSource::CloudEvents];
        let source = ("ce_source", "https://shop.example/orders");
        let body = r#"{"specversion": "1.0", "id": "A-1.2", "source": "https://shop.example/orders"}"#;
        check_id(&cloudevents, &[source, ("ce_id", "A-1.2")], "", SHOP);
        check_id(&cloudevents, &[source], "", COORDINATES);
        check_id(&cloudevents, &[source, ("ce_id", "")], body, COORDINATES);
        check_id(
            &cloudevents,
            &[("Content-Type", "Application/CloudEvents+JSON; charset=utf-8")],
            body,
            SHOP,
        );
        check_id(&cloudevents, &[("content-type", "application/cloudevents+json")], "{", COORDINATES);
        check_id(&cloudevents, &[("content-type", "application/json")], body, COORDINATES);
        let facts = [IdSource::Fact(header("x-id")), IdSource::Fact(json("/id"))];
        check_id(&facts, &[("X-ID", "a_B-9")], body, "a_B-9");
        check_id(&facts, &[("x-id", "order 17/β")], body, ORDER);
        check_id(&facts, &[("x-id", "")], r#"{"id": 7}"#, "7");
        check_id(&facts, &[], r#"{"id": ""}"#, COORDINATES);
        check_id(&[], &[source, ("ce_id", "A-1.2")], body, COORDINATES);
    }

    #[test]
    fn a_carried_event_is_the_event() {
        let decoder = decoder(vec![IdSource::CloudEvents]);
        let body: &[u8] = br#"{"type": "paid", "account": {"id": "acme"}}"#;
        let event = decoder.decode(record(&[("b", Some("1")), ("priority", Some("low"))], Some(body)));
        assert_eq!(event.priority, Some(Priority::Low));
        let envelope = Envelope::new(&event, "crm".into(), crate::pipeline::outcome::Reason::Status, 5, 6);
        let restored = decoder.restore(&envelope, event.headers.clone(), event.value.clone());
        assert_eq!(format!("{restored:?}"), format!("{event:?}"));
    }

    #[test]
    fn deep_json_is_no_danger() {
        let deep = format!("{{\"type\": {}", "[".repeat(1_000_000));
        check(&[], Some(deep.as_bytes()), ("pagamentos.v2", None));
        let nested = format!("{{\"account\":{}1{}}}", "{\"id\":".repeat(10_000), "}".repeat(10_000));
        check(&[], Some(nested.as_bytes()), ("pagamentos.v2", None));
    }
}
