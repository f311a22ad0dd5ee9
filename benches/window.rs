//! What a place in the window costs: uncontended, as nearly always, and with thousands of partitions waiting.

use std::{pin::pin, sync::Arc, task::Poll};

use arauto::pipeline::window::{Class, Place, Window};
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

/// One delivery's way through the window: a place taken and given back.
#[divan::bench]
fn place(bencher: Bencher<'_, '_>) {
    let window = Arc::new(Window::new(10_000, 64 << 20));
    let _others: Vec<Place> = (0..64).map(|share| at_once(window.place(share, Class::Normal))).collect();
    bencher.bench_local(|| drop(black_box(at_once(window.place(7, Class::Normal)))));
}

/// One event's.
#[divan::bench]
fn bytes(bencher: Bencher<'_, '_>) {
    let window = Arc::new(Window::new(10_000, 64 << 20));
    bencher.bench_local(|| drop(black_box(at_once(window.bytes(7, 1_024)))));
}

/// A place that becomes free while so many partitions wait, and whoever got it asks again.
#[divan::bench(args = [1, 100, 10_000])]
fn place_that_others_wait_for(bencher: Bencher<'_, '_>, partitions: u64) {
    let window = Arc::new(Window::new(64, 64 << 20));
    let mut held: std::collections::VecDeque<Place> =
        (0..64).map(|_| at_once(window.place(0, Class::Normal))).collect();
    let ask = |share| {
        let window = Arc::clone(&window);
        let mut waiting = Box::pin(async move { window.place(share, Class::Normal).await });
        assert!(poll(waiting.as_mut()).is_none());
        waiting
    };
    let mut waiting: std::collections::VecDeque<_> =
        (1..=partitions).map(|share| (share, ask(share))).collect();
    bencher.bench_local(|| {
        held.pop_front();
        // They hold nothing, so they come in the order in which they asked.
        let (share, mut granted) = waiting.pop_front().expect("somebody waits");
        held.push_back(poll(granted.as_mut()).expect("it was its turn"));
        waiting.push_back((share, ask(share)));
    });
}

fn at_once<F: Future>(future: F) -> F::Output {
    poll(pin!(future)).expect("there is room")
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
