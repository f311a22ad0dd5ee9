//! `--where`: a question about one event or dead letter in CEL (<https://cel.dev>), which always comes to an end.
//!
//! Pure. The value is parsed only for an expression that asks for it. A misspelt variable is found before anything is
//! read; what goes wrong with one record is told to the caller, who decides what that means.

use std::{collections::HashMap, sync::Arc};

use cel::{Context, Env, Program, Value, objects::Key};

use crate::pipeline::{Event, Headers};

mod names;

/// The variables and what they are, for help texts.
pub const VARIABLES: [(&str, &str); 17] = [
    ("value", "the body, parsed; null if it is not JSON"),
    ("headers", "the event's own headers by name: text, bytes if it is not UTF-8, or null"),
    ("key", "the event's key: text, bytes if it is not UTF-8, or null"),
    ("id", "the webhook id"),
    ("type", "the event type"),
    ("tenant", "the tenant, \"\" without one"),
    ("topic", "the source topic"),
    ("partition", "the event's partition there"),
    ("offset", "the event's offset there"),
    ("timestamp", "the event's timestamp in unix milliseconds"),
    ("endpoint", "the endpoint's id"),
    ("reason", "why it died"),
    ("status", "the last HTTP status, 0 if there was no answer"),
    ("error", "the last error or response excerpt, \"\" without one"),
    ("attempts", "attempts made"),
    ("replays", "how often it was replayed before"),
    ("died", "when it died, in unix milliseconds"),
];

/// Why a text is no such expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not CEL.
    #[error("it is not a CEL expression: {0}")]
    Syntax(String),
    /// It names something there is not.
    #[error("there is no variable {name:?}; there are {known}")]
    Unknown {
        /// The name.
        name: String,
        /// Those there are.
        known: String,
    },
}

/// What an expression is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The event.
    pub event: &'a Event,
    /// The endpoint's id, of a delivery.
    pub endpoint: Option<&'a str>,
    /// Why it died.
    pub reason: Option<&'a str>,
    /// The last HTTP status.
    pub status: Option<u16>,
    /// The last error.
    pub error: Option<&'a str>,
    /// Attempts made.
    pub attempts: u32,
    /// How often it was replayed.
    pub replays: u32,
    /// When it died, in unix milliseconds.
    pub died: i64,
}

impl<'a> Subject<'a> {
    /// An event of which no delivery is known.
    pub fn of_event(event: &'a Event) -> Self {
        let (endpoint, reason, status, error) = (None, None, None, None);
        Self { event, endpoint, reason, status, error, attempts: 0, replays: 0, died: 0 }
    }
}

/// A checked expression.
pub struct Expression {
    program: Program,
    env: Arc<Env>,
    /// Those of [`VARIABLES`] it asks for.
    wanted: Vec<&'static str>,
}

impl Expression {
    /// Checks a text.
    pub fn new(text: &str) -> Result<Self, Error> {
        let env = Arc::new(Env::stdlib());
        let program = env.compile(text).map_err(|errors| Error::Syntax(errors.to_string()))?;
        let free = names::free(program.expression());
        let known = VARIABLES.map(|(name, _)| name);
        if let Some(name) = free.iter().find(|name| !known.contains(name)) {
            return Err(Error::Unknown { name: (*name).to_owned(), known: known.join(", ") });
        }
        let wanted = known.into_iter().filter(|name| free.contains(name)).collect();
        Ok(Self { program, env, wanted })
    }

    /// Does it hold? An error says what it stumbled over.
    pub fn holds(&self, subject: &Subject<'_>) -> Result<bool, String> {
        let mut context = Context::with_env(Arc::clone(&self.env));
        for name in &self.wanted {
            context.add_variable_from_value(*name, variable(name, subject));
        }
        match self.program.execute(&context) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(other) => Err(format!("it is a {}, not true or false", other.type_of())),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn variable(name: &str, subject: &Subject<'_>) -> Value {
    let event = subject.event;
    match name {
        "value" => event.value.as_deref().map_or(Value::Null, parsed),
        "headers" => headers(&event.headers),
        "key" => event.key.as_deref().map_or(Value::Null, text_or_bytes),
        "id" => text(&event.id),
        "type" => text(&event.event_type),
        "tenant" => text(event.tenant.as_deref().unwrap_or_default()),
        "topic" => text(&event.topic),
        "partition" => Value::Int(event.partition.into()),
        "offset" => Value::Int(event.offset),
        "timestamp" => Value::Int(event.timestamp),
        "endpoint" => text(subject.endpoint.unwrap_or_default()),
        "reason" => text(subject.reason.unwrap_or_default()),
        "status" => Value::Int(subject.status.unwrap_or(0).into()),
        "error" => text(subject.error.unwrap_or_default()),
        "attempts" => Value::Int(subject.attempts.into()),
        "replays" => Value::Int(subject.replays.into()),
        _ => Value::Int(subject.died),
    }
}

fn text(text: &str) -> Value {
    Value::String(Arc::new(text.to_owned()))
}

fn text_or_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(utf8) => text(utf8),
        Err(_) => Value::Bytes(Arc::new(bytes.to_vec())),
    }
}

fn headers(headers: &Headers) -> Value {
    let header = |(name, value): &(Arc<str>, Option<bytes::Bytes>)| {
        (Key::from(&**name), value.as_deref().map_or(Value::Null, text_or_bytes))
    };
    Value::from(headers.0.iter().map(header).collect::<HashMap<Key, Value>>())
}

fn parsed(value: &[u8]) -> Value {
    serde_json::from_slice(value).map_or(Value::Null, json)
}

/// Whole numbers become `int`, so that they compare with those people write.
fn json(value: serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(bool) => Value::Bool(bool),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => Value::Int(int),
            (None, Some(large)) => Value::UInt(large),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(string) => Value::String(Arc::new(string)),
        serde_json::Value::Array(items) => {
            Value::List(Arc::new(items.into_iter().map(json).collect::<Vec<Value>>()))
        }
        serde_json::Value::Object(members) => {
            let member = |(name, value): (String, serde_json::Value)| (Key::from(name), json(value));
            Value::from(members.into_iter().map(member).collect::<HashMap<Key, Value>>())
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn event(value: &'static str) -> Event {
        let header = |name: &str, value: &'static [u8]| (name.into(), Some(Bytes::from_static(value)));
        let headers =
            vec![header("a", b"1"), header("bin", b"\xff"), ("none".into(), None), header("a", b"2")];
        Event {
            topic: "orders".into(),
            partition: 1,
            offset: 2,
            timestamp: 3,
            key: Some(Bytes::from_static(b"k")),
            value: Some(Bytes::from_static(value.as_bytes())),
            headers: Headers(headers),
            id: "msg_1".into(),
            event_type: "order.paid".into(),
            tenant: None,
            priority: None,
            notice: false,
        }
    }

    fn check(expression: &str, value: &'static str, expected: Result<bool, &str>) {
        let event = event(value);
        let died = Subject {
            endpoint: Some("crm"),
            reason: Some("exhausted"),
            status: Some(503),
            died: 9,
            ..Subject::of_event(&event)
        };
        let holds = Expression::new(expression).unwrap().holds(&died);
        match expected {
            Ok(expected) => assert_eq!(holds, Ok(expected), "{expression}"),
            Err(part) => assert!(holds.clone().unwrap_err().contains(part), "{expression}: {holds:?}"),
        }
    }

    #[test]
    fn all_there_is_can_be_asked_for() {
        let value = r#"{"amount":12,"big":18446744073709551615,"rate":0.5,"lines":[{"sku":"a"}],"ok":true}"#;
        for expression in [
            "value.amount > 10",
            "value.amount == 12 && value.amount < 12.5",
            "value.rate < 1.0",
            "value.big > 18446744073709551614u",
            "value.ok",
            "value.lines.exists(line, line.sku == 'a')",
            "!has(value.missing)",
            "headers.a == '2' && headers['none'] == null && headers.bin == b'\\xff'",
            "key == 'k' && id == 'msg_1' && type == 'order.paid' && tenant == ''",
            "topic == 'orders' && partition == 1 && offset == 2 && timestamp == 3",
            "endpoint == 'crm' && reason == 'exhausted' && status >= 500 && error == ''",
            "attempts == 0 && replays == 0 && died == 9",
            "type.startsWith('order.') && id.matches('^msg_[0-9]+$')",
        ] {
            check(expression, value, Ok(true));
        }
        check("value.amount > 12", value, Ok(false));
    }

    #[test]
    fn a_record_may_not_fit_the_question() {
        check("value == null", "not JSON", Ok(true));
        check("value.amount > 1", "{}", Err("amount"));
        check("value.amount > 1", r#"{"amount":"much"}"#, Err("overload"));
        check("value.amount > 1", "not JSON", Err(""));
        check("value.amount", r#"{"amount":1}"#, Err("it is a int, not true or false"));
    }

    #[test]
    fn mistakes_are_found_beforehand() {
        let refused =
            |text: &str| Expression::new(text).err().unwrap_or_else(|| panic!("{text}")).to_string();
        assert!(refused("value.amount >").starts_with("it is not a CEL expression: "));
        assert!(refused("").starts_with("it is not a CEL expression: "));
        assert!(
            refused("false && values.amount == 1")
                .starts_with(r#"there is no variable "values"; there are value,"#)
        );
        assert!(refused("value.all(x, y > 1)").contains(r#""y""#));
        for fine in ["[1, 2].all(x, x > 0)", "{'a': status}.a == 1", "value.map(x, x.y)[0] == 1", "true"] {
            assert!(Expression::new(fine).is_ok(), "{fine}");
        }
    }
}
