//! What the ledger costs per delivery: open and settle in order, far out of order, and the commit's metadata.

use arauto::pipeline::ledger::{Ledger, metadata, metadata::Position};
use divan::{AllocProfiler, Bencher, black_box, counter::ItemsCount};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const EVENTS: i64 = 10_000;

#[divan::bench]
fn settle_in_order(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(EVENTS as usize)).bench_local(|| {
        let mut ledger = Ledger::new(Position::at(0));
        for offset in 0..EVENTS {
            let sequence = ledger.open(offset, 0, &[7]);
            ledger.settle(Ledger::place(sequence, 0));
        }
        black_box(ledger.base())
    });
}

/// The first stays open until all others are settled: the worst there is for a scan from the front.
#[divan::bench]
fn settle_the_first_last(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(EVENTS as usize)).bench_local(|| {
        let mut ledger = Ledger::new(Position::at(0));
        let sequences: Vec<u64> = (0..EVENTS).map(|offset| ledger.open(offset, 0, &[7])).collect();
        for sequence in sequences.into_iter().rev() {
            ledger.settle(Ledger::place(sequence, 0));
        }
        black_box(ledger.base())
    });
}

#[divan::bench(args = [10, 1_000, 10_000])]
fn commit_metadata(bencher: Bencher<'_, '_>, open: i64) {
    let mut ledger = Ledger::new(Position::at(0));
    for offset in 0..open {
        let sequence = ledger.open(offset, 0, &[7, 8]);
        if offset % 3 != 0 {
            ledger.settle(Ledger::place(sequence, 0));
        }
    }
    bencher.bench_local(|| metadata::encode(black_box(&ledger.position())));
}

/// Ten endpoints that settle independently of each other: hardly two events are owed to the same ones.
#[divan::bench(args = [10, 1_000, 10_000])]
fn commit_metadata_of_scattered_endpoints(bencher: Bencher<'_, '_>, open: i64) {
    let mut ledger = Ledger::new(Position::at(0));
    for offset in 0..open {
        let sequence = ledger.open(offset, 0, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        let spread = (offset as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (0..10)
            .filter(|slot| spread >> slot & 1 == 0)
            .for_each(|slot| ledger.settle(Ledger::place(sequence, slot)));
    }
    bencher.bench_local(|| metadata::encode(black_box(&ledger.position())));
}
