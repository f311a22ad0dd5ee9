//! What configured endpoints cost before anything is sent: loading and checking, and the memory that stays. Run:
//! `cargo bench --bench endpoints`. What stays is `alloc` less `dealloc`, divided by the endpoints.

use std::{fmt::Write as _, path::Path, sync::Arc};

use arauto::{config, config::settings::Endpoint, registry::Registry};
use divan::{AllocProfiler, Bencher};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// From a file's text to checked settings.
#[divan::bench(args = [1_000, 100_000], sample_count = 3)]
fn load(bencher: Bencher<'_, '_>, endpoints: usize) {
    let text = text(endpoints);
    bencher.bench_local(|| settings(&text));
}

/// What an endpoint takes in memory: its settings, and its place in the index.
#[divan::bench(args = [1_000, 100_000], sample_count = 3)]
fn keep(bencher: Bencher<'_, '_>, endpoints: usize) {
    let all = settings(&text(endpoints));
    let copy = |endpoint: &Arc<Endpoint>| Arc::new((**endpoint).clone());
    bencher.bench_local(|| Registry::new(all.iter().map(copy).collect()));
}

fn settings(text: &str) -> Vec<Arc<Endpoint>> {
    let loaded = config::load_text(Path::new("bench.toml"), text, &|_, _| Ok(()));
    loaded.map(|settings| settings.endpoints).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// As many endpoints as asked for, each of a tenant of its own.
fn text(endpoints: usize) -> String {
    let mut text = "kafka = { brokers = \"localhost:9092\", topics = [\"orders\"] }\n".to_owned();
    for n in 0..endpoints {
        writeln!(
            text,
            "[[endpoints]]\nid = \"endpoint-{n}\"\nurl = \"https://example.com/hooks/{n}\"\ntenant = \"tenant-{n}\"\n\
             secrets = [\"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"]"
        )
        .unwrap_or_else(|_| unreachable!("a string takes every write"));
    }
    text
}
