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

/// How long the thread looks for answers before it sees whether anybody still has the producer. librdkafka waits the whole
/// milliseconds of it; the 50 µs above them have passed when it wakes up, so that nothing is left to ask again for.
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use rdkafka::{
        ClientContext,
        producer::{BaseRecord, DeliveryResult},
    };

    use super::*;

    /// Tells of its end.
    struct Told(mpsc::Sender<&'static str>);

    impl ClientContext for Told {}

    impl ProducerContext for Told {
        type DeliveryOpaque = Box<Arc<BaseProducer<Self>>>;

        fn delivery(&self, _: &DeliveryResult<'_>, last: Self::DeliveryOpaque) {
            drop(last);
            self.0.send("answered").expect("the test waits");
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            self.0.send("closed").expect("the test waits");
        }
    }

    fn made() -> (Arc<BaseProducer<Told>>, mpsc::Receiver<&'static str>) {
        let (tell, told) = mpsc::channel();
        let mut config = ClientConfig::new();
        // Nobody listens there.
        config.set("bootstrap.servers", "127.0.0.1:1").set("message.timeout.ms", "10");
        (producer(&config, Told(tell)).unwrap(), told)
    }

    #[test]
    fn it_is_closed_when_nobody_has_it() {
        let (producer, told) = made();
        drop(producer);
        assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok("closed"));
    }

    #[test]
    fn an_answer_may_be_the_last_that_has_it() {
        let (producer, told) = made();
        let record = BaseRecord::<[u8], [u8], _>::with_opaque_to("topic", Box::new(Arc::clone(&producer)));
        producer.send(record.payload(b"x")).map_err(|(error, _)| error).unwrap();
        drop(producer);
        assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok("answered"));
        assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok("closed"));
    }
}
