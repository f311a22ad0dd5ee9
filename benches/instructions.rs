//! What the pure parts cost, in instructions: counted by callgrind, so nearly the same on every run and machine.
//!
//! `cargo bench --bench instructions`; a word behind `--` takes the operations whose name contains it. It runs itself
//! again under valgrind (<https://valgrind.org>), each operation a number of times and twice as often: the difference
//! counts, so that starting and preparing cost nothing. What allocates does so with the allocator of the service.
//!
//! The CPU that valgrind shows to programs may have no SHA instructions (that of 3.19 has none). SHA-256 is then counted
//! as it is computed in software, which takes many times as many; the last line tells. `cargo bench --bench sign` measures
//! the time it takes here, with whatever the real CPU has.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_types)]

use std::{
    env,
    fmt::Write as _,
    hint::black_box,
    io::ErrorKind,
    path::Path,
    process::{Command, ExitCode},
};

use arauto::{
    config::{
        self,
        secret::SigningKey,
        settings::{Settings, Signature},
    },
    pipeline::{
        Event, Headers, Record,
        decode::Decoder,
        ledger::{Ledger, metadata, metadata::Position},
        request::Template,
        sign::Signer,
    },
    registry::Snapshot,
};
use http_types::HeaderMap;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Does something so many times.
type Operation = fn(usize);

const OPERATIONS: [(&str, Operation); 11] = [
    ("decode: JSON, 1 KiB", |times| decode(times, &[])),
    ("decode: CloudEvent, 1 KiB", |times| decode(times, &CLOUDEVENT)),
    ("route: to 1 of 10 endpoints", |times| route(times, 10)),
    ("route: to 1 of 1,000 endpoints", |times| route(times, 1_000)),
    ("ledger: open and settle", ledger),
    ("ledger: metadata of a commit, 100 events open", commit),
    ("headers: all but the signature's", headers),
    ("sign: 1 KiB, one secret", |times| sign(times, 1, 1_024)),
    ("sign: 1 KiB, two secrets", |times| sign(times, 2, 1_024)),
    ("sign: nothing, one secret", |times| sign(times, 1, 0)),
    ("request: headers and signature, one secret", request),
];

/// How often an operation is done, and then twice as often: buffers that grow are as large as they get by then.
const TIMES: usize = 1_000;
/// The operation and the number that a run under valgrind is for.
const OPERATION: &str = "ARAUTO_BENCH_OPERATION";
const REPEAT: &str = "ARAUTO_BENCH_TIMES";

fn main() -> ExitCode {
    if let Ok(wanted) = env::var(OPERATION) {
        let (_, operation) = OPERATIONS.iter().find(|(name, _)| *name == wanted).unwrap();
        operation(env::var(REPEAT).unwrap().parse().unwrap());
        println!("{}", if sha() { "with the CPU's SHA instructions" } else { "in software" });
        return ExitCode::SUCCESS;
    }
    if let Err(error) = Command::new("valgrind").arg("--version").output() {
        assert_eq!(error.kind(), ErrorKind::NotFound, "valgrind cannot be started: {error}");
        println!(
            "nothing counted: valgrind is not installed (the package `valgrind` of most systems has it)"
        );
        return ExitCode::SUCCESS;
    }
    let only = env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    let mut sha = String::new();
    println!("{:48} {:>12}", "", "instructions");
    for (name, _) in OPERATIONS.iter().filter(|(name, _)| name.contains(&only)) {
        let (once, _) = count(name, TIMES);
        let (twice, how) = count(name, 2 * TIMES);
        println!("{name:48} {:>12.0}", (twice - once) as f64 / TIMES as f64);
        sha = how;
    }
    println!("\nSHA-256 {sha}");
    ExitCode::SUCCESS
}

/// All instructions of a run of its own, and how it computes SHA-256.
fn count(operation: &str, times: usize) -> (u64, String) {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(env::current_exe().unwrap());
    let output = valgrind.env(OPERATION, operation).env(REPEAT, times.to_string()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    let collected = collected.filter(|_| output.status.success());
    let instructions = collected.unwrap_or_else(|| panic!("{operation} cannot be counted:\n{said}"));
    (instructions, String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Does the CPU that this process sees have SHA instructions?
fn sha() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("sha");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("sha2");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

// ---- the operations ----

fn decode(times: usize, headers: &[(&str, &'static str)]) {
    let decoder = decoder(&settings(1));
    // As many as are ever decoded, whatever `times` is, and what is left is not freed: only decoding is different.
    let mut records: Vec<_> = (0..2 * TIMES).map(|_| record(headers)).collect();
    for record in records.drain(..times) {
        black_box(decoder.decode(record));
    }
    std::mem::forget(records);
}

fn route(times: usize, endpoints: usize) {
    let settings = settings(endpoints);
    let event = event(&settings, &format!("tenant-{}", endpoints / 2));
    let (snapshot, mut out) = (Snapshot::new(settings.endpoints, 1), Vec::new());
    for _ in 0..times {
        out.clear();
        snapshot.route(black_box(&event), &mut out);
        assert_eq!(out.len(), 1);
    }
}

fn ledger(times: usize) {
    let mut ledger = Ledger::new(Position::at(0));
    for offset in 0..times as i64 {
        let sequence = ledger.open(black_box(offset), 0, &[7]);
        ledger.settle(Ledger::place(sequence, 0));
    }
    black_box(ledger.base());
}

fn commit(times: usize) {
    let mut ledger = Ledger::new(Position::at(0));
    for offset in 0..100 {
        let sequence = ledger.open(offset, 0, &[7, 8]);
        if offset % 3 != 0 {
            ledger.settle(Ledger::place(sequence, 0));
        }
    }
    for _ in 0..times {
        black_box(metadata::encode(&black_box(&ledger).position()));
    }
}

fn headers(times: usize) {
    let settings = settings(1);
    let (template, event) = (Template::new(&settings.endpoints[0]).unwrap(), event(&settings, "acme"));
    for _ in 0..times {
        black_box(template.headers(black_box(&event), 1));
    }
}

fn sign(times: usize, secrets: u8, bytes: usize) {
    let (signer, body) = (signer(secrets), vec![b'x'; bytes]);
    let mut headers = HeaderMap::with_capacity(16);
    for _ in 0..times {
        headers.clear();
        let id = black_box("msg_7ki2fmqwq5tcvnnxmexl3ykjdvgyeb5f");
        signer.sign(id, 1_700_000_000, black_box(&body), &mut headers);
    }
}

fn request(times: usize) {
    let (settings, signer) = (settings(1), signer(1));
    let (template, event) = (Template::new(&settings.endpoints[0]).unwrap(), event(&settings, "acme"));
    for _ in 0..times {
        black_box(signer.request(&template, black_box(&event), 1, 1_700_000_000_000));
    }
}

// ---- what they are done with ----

const CLOUDEVENT: [(&str, &str); 3] = [("ce_type", "order.paid"), ("ce_source", "/shop"), ("ce_id", "17")];

/// Everything as it is by default, and so many endpoints, each for one tenant.
fn settings(endpoints: usize) -> Settings {
    let mut text = "[kafka]\nbrokers = \"localhost\"\ntopics = [\"orders\"]\n".to_owned();
    for n in 0..endpoints {
        let wants = format!("tenant = \"tenant-{n}\"\ntypes = [\"order.*\", \"payment.{}\"]", n % 100);
        let fixed = "url = \"https://example.com/\"\ntopics = [\"orders\"]\nsignature = \"none\"";
        writeln!(text, "[[endpoints]]\nid = \"endpoint-{n}\"\n{fixed}\n{wants}").unwrap();
    }
    let settings = config::load_text(Path::new("bench.toml"), &text, &|_: &_, _: &_| Ok(()));
    settings.unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn signer(secrets: u8) -> Signer {
    let keys: Vec<_> = (0..secrets).map(|number| SigningKey::Hmac(vec![number; 32])).collect();
    Signer::with(Signature::Standard, &keys)
}

fn decoder(settings: &Settings) -> Decoder {
    Decoder::new(&settings.events, "prod".into())
}

fn event(settings: &Settings, tenant: &str) -> Event {
    Event { tenant: Some(tenant.into()), ..decoder(settings).decode(record(&[])) }
}

/// A record of 1 KiB of JSON that has its type in it.
fn record(headers: &[(&str, &'static str)]) -> Record {
    let line = r#"{"sku": "A-17", "quantity": 2, "price": 19.90, "tags": ["a", "b"]}"#;
    let value = format!(r#"{{"order": 4711, "lines": [{}], "type": "order.created"}}"#, [line; 14].join(","));
    Record {
        topic: "orders".into(),
        partition: 3,
        offset: 1_234_567,
        timestamp: 1_700_000_000_000,
        key: Some("4711".into()),
        value: Some(value.into()),
        headers: Headers(
            headers.iter().map(|(name, value)| ((*name).into(), Some((*value).into()))).collect(),
        ),
    }
}
