//! What a lane has made of its endpoint's settings: target, signer, limiter. Replaced as a whole by a reload.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::{InMemoryState, NotKeyed},
};
use http_types::HeaderMap;

use crate::{
    config::settings::{Endpoint, Rate},
    http::{self, Target},
    otel::{self, Trace},
    pipeline::{
        delivery::Delivery,
        outcome::{Attempt, AttemptResult},
        request::{Illegal, Template},
        sign::Signer,
    },
};

type Limiter = RateLimiter<NotKeyed, InMemoryState, DefaultClock>;

/// One version of an endpoint, ready to be used.
pub(super) struct Runtime {
    pub(super) endpoint: Arc<Endpoint>,
    target: Result<Target, http::Error>,
    template: Result<Template, Illegal>,
    signer: Signer,
    pub(super) limiter: Option<Arc<Limiter>>,
}

/// Making one asks the processor about itself, which takes microseconds in a virtual machine.
static CLOCK: LazyLock<DefaultClock> = LazyLock::new(DefaultClock::default);

impl Runtime {
    /// Keeps the limiter's memory when the rate stayed the same.
    pub(super) fn new(endpoint: Arc<Endpoint>, old: Option<&Self>) -> Self {
        let kept = old
            .filter(|old| old.endpoint.rate == endpoint.rate && old.endpoint.burst == endpoint.burst)
            .map(|old| old.limiter.clone());
        Self {
            target: Target::new(&endpoint.url, endpoint.timeout),
            template: Template::new(&endpoint),
            signer: Signer::new(&endpoint),
            limiter: kept
                .unwrap_or_else(|| endpoint.rate.map(|rate| Arc::new(limiter(rate, endpoint.burst)))),
            endpoint,
        }
    }

    /// Takes one place of the rate, or tells how long until there is one.
    pub(super) fn admit(&self) -> Result<(), Duration> {
        match &self.limiter {
            None => Ok(()),
            Some(limiter) => limiter.check().map_err(|not_until| not_until.wait_time_from(CLOCK.now())),
        }
    }

    /// Signs and sends one request.
    pub(super) async fn attempt(&self, client: &http::Client, delivery: &Delivery, now: i64) -> Attempt {
        let (target, template) = match (&self.target, &self.template) {
            (Ok(target), Ok(template)) => (target, template),
            (Err(error), _) => return impossible(error),
            (_, Err(error)) => return impossible(error),
        };
        let (mut headers, body) = self.signer.request(template, delivery.event(), delivery.attempts + 1, now);
        let traced = delivery.trace.as_deref().and_then(Trace::attempt);
        if let Some(traced) = &traced {
            traced.carry(&mut headers);
        }
        match traced.filter(otel::Attempt::is_recorded) {
            None => client.attempt(target, headers, body).await,
            // Boxed, so that no other attempt takes the room of this one.
            Some(traced) => Box::pin(recorded(client, delivery, traced, (target, headers, body))).await,
        }
    }
}

/// Sends one request whose trace is recorded.
async fn recorded(
    client: &http::Client,
    delivery: &Delivery,
    trace: otel::Attempt<'_>,
    (target, headers, body): (&Target, HeaderMap, Bytes),
) -> Attempt {
    let (attempt, times) = client.timed_attempt(target, headers, body).await;
    trace.ended(delivery, target, &attempt, &times);
    attempt
}

/// A URL or header that HTTP cannot use is the endpoint's failure; the configuration lets none through.
fn impossible(error: &dyn std::error::Error) -> Attempt {
    Attempt {
        result: AttemptResult::Connect,
        retry_after: None,
        detail: error.to_string(),
        duration: Duration::ZERO,
    }
}

/// GCRA: never more than `burst` + rate × time in any window.
fn limiter(rate: Rate, burst: u32) -> Limiter {
    let burst = std::num::NonZeroU32::new(burst).unwrap_or(std::num::NonZeroU32::MIN);
    // A period of zero cannot be: a rate has at least one delivery per hour and at most u32::MAX per second.
    let period = rate.interval().max(Duration::from_nanos(1));
    let quota = Quota::with_period(period).expect("the period is above zero").allow_burst(burst);
    RateLimiter::direct_with_clock(quota, CLOCK.clone())
}
