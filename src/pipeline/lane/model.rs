//! A model of the pipeline without sockets, tasks or a clock: real lanes' cores, ledgers, commit metadata, envelopes,
//! ladder and judgement, driven through random schedules of success, failure, pause, crash, rebalance and reload, in
//! which time and Kafka are plain values. Each schedule is a number; the same number is the same schedule.
//!
//! What is promised is looked at from beside (`books.rs`), after every step, and at the end, when everything has to
//! have come to rest. The glue that in earnest is asynchronous (`lane.rs`, `lanes.rs`, `source.rs`, `settle.rs`,
//! `assignment.rs`) is told again in plain words in `instance.rs`.

mod books;
mod instance;
mod kafka;
mod line;
mod random;
mod receiver;
mod world;

use world::World;

/// Schedules of each test: enough to meet every pair of disturbances often.
const SCHEDULES: u64 = 1_000;

/// Runs one schedule; tells what was broken, with all that happened until then.
fn check(seed: u64, calm: bool) {
    let broken = World::new(seed, calm, false).run();
    if broken.is_some() {
        // Once more, and told this time.
        let mut world = World::new(seed, calm, true);
        let again = world.run();
        let story = world.story();
        panic!("schedule {seed} (calm: {calm}): {again:?}, at first {broken:?}\n{story}");
    }
}

#[test]
fn what_is_promised_is_kept_in_any_schedule() {
    (0..SCHEDULES).for_each(|seed| check(seed, false));
}

#[test]
fn where_nothing_crashes_nothing_is_repeated() {
    (0..SCHEDULES).for_each(|seed| check(seed, true));
}

#[test]
fn what_comes_back_takes_no_place_from_an_order() {
    check(34, true);
}

#[test]
fn a_retry_in_an_order_keeps_its_place_when_its_partition_moves() {
    check(3, true);
}

#[test]
fn a_pause_that_comes_with_the_last_answer_of_a_delivery_is_kept() {
    check(47, true);
}
