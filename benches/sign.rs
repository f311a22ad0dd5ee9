//! What signing one attempt costs: 1 KiB and 64 KiB bodies, one and three secrets, HMAC and Ed25519.

use std::{sync::Arc, time::Duration};

use arauto::{
    config::{
        secret::SigningKey,
        settings::{Breaker, Endpoint, Ordering, Priority, Queue, Retry, Signature},
    },
    pipeline::sign::Signer,
};
use divan::{AllocProfiler, Bencher, counter::BytesCount};
use http_types::HeaderMap;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const ID: &str = "msg_7ki2fmqwq5tcvnnxmexl3ykjdvgyeb5f";
const BODIES: [usize; 2] = [1024, 64 * 1024];

fn hmac(number: u8) -> SigningKey {
    SigningKey::Hmac(vec![number; 32])
}

#[divan::bench(args = BODIES)]
fn v1_with_one_secret(bencher: Bencher<'_, '_>, bytes: usize) {
    run(bencher, bytes, Signature::Standard, vec![hmac(1)]);
}

#[divan::bench(args = BODIES)]
fn v1_with_three_secrets(bencher: Bencher<'_, '_>, bytes: usize) {
    run(bencher, bytes, Signature::Standard, vec![hmac(1), hmac(2), hmac(3)]);
}

#[divan::bench(args = BODIES)]
fn v1a(bencher: Bencher<'_, '_>, bytes: usize) {
    run(bencher, bytes, Signature::Standard, vec![SigningKey::Ed25519([7; 32])]);
}

#[divan::bench(args = BODIES)]
fn github(bencher: Bencher<'_, '_>, bytes: usize) {
    run(bencher, bytes, Signature::Github, vec![hmac(1)]);
}

fn run(bencher: Bencher<'_, '_>, bytes: usize, signature: Signature, keys: Vec<SigningKey>) {
    let signer = Signer::new(&endpoint(signature, keys));
    let body = vec![b'x'; bytes];
    bencher.counter(BytesCount::new(bytes)).bench(|| {
        let mut headers = HeaderMap::with_capacity(16);
        signer.sign(divan::black_box(ID), 1_700_000_000, divan::black_box(&body), &mut headers);
        headers
    });
}

fn endpoint(signature: Signature, keys: Vec<SigningKey>) -> Endpoint {
    Endpoint {
        id: Arc::from("bench"),
        url: "https://example.com/".parse().expect("a url"),
        topics: None,
        types: None,
        tenant: None,
        keys,
        enabled: true,
        paused: false,
        headers: Vec::new(),
        forward: Vec::new(),
        timeout: Duration::from_secs(15),
        concurrency: 64,
        rate: None,
        burst: 1,
        queue: Queue::Shared,
        ordering: Ordering::None,
        signature,
        priority: Priority::Normal,
        retry: Retry {
            schedule: Vec::new(),
            jitter: 0.2,
            max_age: Duration::from_secs(3600),
            max_pause: Duration::from_secs(3600),
            dead_on: Vec::new(),
        },
        breaker: Breaker {
            failures: 0.5,
            minimum: 20,
            open_for: Duration::from_secs(30),
            max_open: Duration::from_secs(600),
        },
        disable_after: None,
    }
}
