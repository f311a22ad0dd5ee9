//! What the end-to-end benches share: a broker, events, a receiver, processes and tables.

use std::sync::LazyLock;

pub(crate) mod broker;
pub(crate) mod process;
pub(crate) mod receiver;

/// The size of an event.
pub(crate) const SIZE: usize = 1024;
/// Events from this number on are not timed.
pub(crate) const WARM: u64 = 9_000_000_000;
/// The secret everything is signed with.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What events are padded with.
static WORDS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let words = "address amount article balance billing bottle carrier change city colour company country coupon currency \
                 customer delivery discount due express first fragile from gift green gross house invoice item large last \
                 line mail name net number order paid parcel pending phone please price product quantity reason refund \
                 return second shipping shop size small standard stock street tax the total tracking unit until voucher \
                 warehouse weight";
    words.split(' ').collect()
});

/// One event to be.
pub(crate) struct Event {
    pub(crate) body: Vec<u8>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) tenant: Option<String>,
}

impl Event {
    /// A JSON event of 1 KiB that begins with its number and the time now. The rest is words in an order of its own, so
    /// that it compresses as text does and not as a row of equal letters would.
    pub(crate) fn new(number: u64) -> Self {
        let at = receiver::micros();
        let mut body =
            format!("{{\"n\":\"{number:010}\",\"at\":{at:016},\"type\":\"order.created\",\"note\":\"")
                .into_bytes();
        let mut random = number;
        while body.len() < SIZE - 2 {
            // A linear congruential generator with the constants of Knuth's MMIX.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            body.extend_from_slice(WORDS[(random >> 33) as usize % WORDS.len()].as_bytes());
            body.push(b' ');
        }
        body.truncate(SIZE - 2);
        body.extend_from_slice(b"\"}");
        Self { body, key: None, tenant: None }
    }

    /// The number and the time.
    fn read(body: &[u8]) -> (u64, u64) {
        let number = |from: usize, to: usize| {
            std::str::from_utf8(&body[from..to]).ok().and_then(|text| text.parse().ok())
        };
        number(6, 16).zip(number(23, 39)).expect("an event of ours")
    }
}

/// The head of a configuration: everything but endpoints.
pub(crate) fn head(broker: &broker::Broker, topic: &str, prefix: &str) -> String {
    // The embedded broker always waits for the whole of fetch.wait.max.ms, and cannot make topics.
    let wait = if broker.is_embedded() { "\"fetch.wait.max.ms\" = \"10\"" } else { "" };
    let (address, create) = (broker.address(), !broker.is_embedded());
    let (properties, limits) = (text("ARAUTO_BENCH_PROPERTIES"), text("ARAUTO_BENCH_LIMITS"));
    format!(
        r#"
[kafka]
brokers = "{address}"
group = "{prefix}"
topics = ["{topic}"]
start = "earliest"
[kafka.properties]
{wait}
{properties}
[topics]
tiers = ["1s", "5s", "1m"]
partitions = 1
create = {create}
[limits]
hold = "1s"
drain = "30s"
{limits}
[security]
allow = ["127.0.0.0/8"]
[admin]
listen = "127.0.0.1:0"
[log]
level = "error,arauto=info"
format = "json"
"#
    )
}

/// One endpoint of a configuration.
pub(crate) fn endpoint(id: &str, url: &str, more: &str) -> String {
    format!("[[endpoints]]\nid = \"{id}\"\nurl = \"{url}\"\nsecrets = [\"{SECRET}\"]\n{more}\n")
}

/// A name nobody else uses.
pub(crate) fn unique(name: &str) -> String {
    format!("bench-{name}-{}-{}", std::process::id(), receiver::micros())
}

/// A runtime of as many workers as there are cores.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// A number from the environment.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Text from the environment; lines of TOML here.
fn text(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// The one in the middle.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
