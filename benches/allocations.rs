//! How often a delivery allocates, from the record to its settled ticket: blocks and bytes per delivery, by dhat.
//!
//! The whole service runs in this process (librdkafka allocates with malloc, so only Rust's share is counted); broker and
//! receiver are processes of their own. Counted is what happens after the first tenth of the events:
//! connections are made by then. `cargo bench --bench allocations`; `ARAUTO_BENCH_EVENTS` (20000) changes the size, and
//! `-- --profile` writes `dhat-heap.json`, which tells where the blocks come from
//! (<https://nnethercote.github.io/dh_view/dh_view.html>).
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods)]

use std::{path::Path, time::Duration};

use arauto::{app::App, config, log::Log};

#[path = "rig/rig.rs"]
#[allow(dead_code)] // What one bench has no use for another has.
mod rig;

use rig::{
    Event,
    broker::Broker,
    endpoint, head, number,
    process::{self, wait_for},
    receiver, unique,
};

#[global_allocator]
static ALLOCATIONS: dhat::Alloc = dhat::Alloc;

fn main() {
    rustls::crypto::ring::default_provider().install_default().expect("it is the first");
    if std::env::var(process::ROLE).is_ok() {
        return rig::runtime().block_on(receiver::serve());
    }
    // What the service has to say; `RUST_LOG` asks for more.
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let broker = Broker::start(false);
    measure(&broker, number("ARAUTO_BENCH_EVENTS", 20_000));
}

fn measure(broker: &Broker, events: u64) {
    let (topic, partitions) = (unique("allocations"), broker.partitions(events));
    broker.create(&topic, partitions);
    let prefix = format!("{topic}-own");
    broker.create_own(&prefix);
    let (_receiver, address) = process::receiver("http", Path::new(""));
    let text = head(broker, &topic, &prefix) + &endpoint("e0", &format!("{address}/ok/0"), "");
    broker.fill(&topic, partitions, events, Event::new);
    let settings = config::load_text(Path::new("bench.toml"), &text, &|_: &_, _: &_| Ok(()));
    let settings = settings.unwrap_or_else(|mistakes| panic!("{mistakes}"));

    let profile = std::env::args().any(|argument| argument == "--profile");
    let profiler = dhat::Profiler::builder();
    let profiler = if profile { profiler.build() } else { profiler.testing().build() };
    let runtime = rig::runtime();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = runtime.spawn(async move {
        let (log, ..) = Log::new(&settings.log.level).expect("the level of the settings was checked");
        let app = App::new(settings, log).await.expect("it starts");
        app.run(async { drop(stopped.await) }, None).await.expect("it runs until told otherwise");
    });
    let seen = |least: u64, every: Duration| {
        let mut unique = 0;
        wait_for("deliveries", || {
            // Asking allocates as well.
            std::thread::sleep(every);
            unique = receiver::arrived(&address);
            unique >= least
        });
        (unique, dhat::HeapStats::get())
    };
    let (first, before) = seen(events / 10, Duration::from_millis(50));
    let (last, after) = seen(events, Duration::from_secs(1));
    let each = |total: u64| total as f64 / (last - first) as f64;
    println!(
        "{:.1} blocks and {:.0} bytes allocated per delivery (over {} deliveries)",
        each(after.total_blocks - before.total_blocks),
        each(after.total_bytes - before.total_bytes),
        last - first,
    );
    stop.send(()).expect("it runs");
    runtime.block_on(running).expect("it ends");
    drop(profiler);
}
