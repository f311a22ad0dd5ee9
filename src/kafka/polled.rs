//! Producers, and the thread that takes in what their brokers answer.
//!
//! rdkafka's own (`ThreadedProducer`, `FutureProducer`) looks for answers for 100 ms at a time, which librdkafka counts in
//! whole milliseconds: when less than one is left it returns at once, and is asked again until that has passed. A process
//! with nothing to write then keeps a core busy for almost a millisecond ten times a second, and whatever waits for that
//! core is late by as much.

use std::{sync::Arc, thread, time::Duration};

use rdkafka::{
    ClientConfig,
    error::KafkaResult,
    producer::{BaseProducer, ProducerContext},
};

/// How long the thread looks for answers before it sees whether anybody still has the producer. The rest above whole
/// milliseconds is what waking up takes anyway: without it there would be one to be waited for in vain.
const POLL: Duration = Duration::from_micros(500_050);

/// Makes a producer whose answers are taken in until nobody else has it any more; it is closed then, on that thread, which
/// may take half a second longer. Whoever drops it never waits for that, not even in an answer.
pub(super) fn producer<C>(config: &ClientConfig, context: C) -> KafkaResult<Arc<BaseProducer<C>>>
where
    C: ProducerContext + 'static,
{
    let client: Arc<BaseProducer<C>> = Arc::new(config.create_with_context(context)?);
    let ours = Arc::clone(&client);
    // Ours is the last one: what is dropped elsewhere closes nothing.
    let poll = move || {
        while Arc::strong_count(&ours) > 1 {
            ours.poll(POLL);
        }
    };
    thread::Builder::new()
        .name("kafka answers".to_owned())
        .spawn(poll)
        .expect("the system has a thread to give");
    Ok(client)
}
