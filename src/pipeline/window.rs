//! What memory is bounded by: places for deliveries and bytes for events, over the whole process.
//!
//! Work-conserving and fair: whoever asks gets while there is room and nobody waits; when there is none, what becomes
//! free goes to the more urgent classes more often, and within one to the waiting partition that holds least (the
//! rules are in `pool.rs`). Settling never asks for a place, so a full window always drains.

use std::sync::Arc;

mod class;
mod pool;

pub use class::{Class, Turns};
use pool::{Ask, InLine, Pool};

/// Whoever shares the window: a number per assigned partition.
pub type Share = u64;

/// The window of a process.
#[derive(Debug)]
pub struct Window {
    places: Pool,
    bytes: Pool,
}

impl Window {
    /// A window of so many deliveries and bytes.
    pub fn new(places: usize, bytes: usize) -> Self {
        Self { places: Pool::new(places), bytes: Pool::new(bytes) }
    }

    /// A place for one delivery; waits while there is none. Cancel-safe.
    pub async fn place(self: &Arc<Self>, share: Share, class: Class) -> Place {
        self.take(Kind::Delivery, Ask { share, class, amount: 1 }).await
    }

    /// Room for an event's bytes; one larger than the whole window is admitted alone. Cancel-safe.
    ///
    /// All events are of one class: whom one is for is known only when it has been read.
    pub async fn bytes(self: &Arc<Self>, share: Share, bytes: usize) -> Place {
        self.take(Kind::Bytes, Ask { share, class: Class::Normal, amount: bytes.max(1) }).await
    }

    /// Deliveries held now.
    pub fn in_flight(&self) -> usize {
        self.places.used()
    }

    /// Bytes held now.
    pub fn in_flight_bytes(&self) -> usize {
        self.bytes.used()
    }

    /// Most deliveries held.
    pub fn limit(&self) -> usize {
        self.places.limit()
    }

    /// Most deliveries that all lanes together hold: half of the window, so that nobody is ever shut out.
    pub fn for_lanes(&self) -> usize {
        for_lanes(&self.places)
    }

    /// Most bytes that all lanes together hold, likewise.
    pub fn bytes_for_lanes(&self) -> usize {
        for_lanes(&self.bytes)
    }

    /// The used share of what lanes may fill, of whichever is scarcer: 0 to 1. What waits for other reasons may fill more
    /// than that, which is no more than full.
    pub fn used_ratio(&self) -> f64 {
        let ratio = |pool: &Pool| pool.used() as f64 / for_lanes(pool).max(1) as f64;
        ratio(&self.places).max(ratio(&self.bytes)).min(1.0)
    }

    async fn take(self: &Arc<Self>, kind: Kind, ask: Ask) -> Place {
        if let Err(in_line) = self.pool(kind).ask(ask) {
            let mut waiting = Waiting { in_line, pool: self.pool(kind), ask, granted: false };
            // The sender goes only with the pool, or when it has granted.
            waiting.granted = (&mut waiting.in_line.granted).await.is_ok();
        }
        Place { window: Arc::clone(self), kind, ask }
    }

    fn pool(&self, kind: Kind) -> &Pool {
        match kind {
            Kind::Delivery => &self.places,
            Kind::Bytes => &self.bytes,
        }
    }
}

fn for_lanes(pool: &Pool) -> usize {
    pool.limit() / 2
}

/// Something held of the window; given back when dropped.
#[derive(Debug)]
pub struct Place {
    window: Arc<Window>,
    kind: Kind,
    ask: Ask,
}

impl Place {
    /// How much it is.
    pub fn amount(&self) -> usize {
        self.ask.amount
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.window.pool(self.kind).give_back(self.ask);
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Delivery,
    Bytes,
}

/// A wait that may be cancelled, also after it was granted: then the grant goes back.
struct Waiting<'a> {
    in_line: InLine,
    pool: &'a Pool,
    ask: Ask,
    granted: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.granted {
            self.pool.leave(self.ask, self.in_line.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_becomes_free_goes_to_whoever_holds_least() {
        let window = Arc::new(Window::new(3, 100));
        let mut held = vec![
            window.place(1, Class::Normal).await,
            window.place(1, Class::Normal).await,
            window.place(2, Class::Normal).await,
        ];
        let mut first = Box::pin(window.place(1, Class::Normal));
        let mut second = Box::pin(window.place(3, Class::Normal));
        assert!(futures_poll(&mut first).await.is_none());
        assert!(futures_poll(&mut second).await.is_none());
        held.pop();
        assert!(futures_poll(&mut first).await.is_none(), "partition 1 holds two, partition 3 none");
        assert!(futures_poll(&mut second).await.is_some());
    }

    #[tokio::test]
    async fn it_is_full_when_lanes_can_have_no_more() {
        let window = Arc::new(Window::new(11, 101));
        let mut held = Vec::new();
        for (bytes, expected) in [(0, 0.2), (0, 0.4), (35, 0.7), (0, 0.8), (0, 1.0), (0, 1.0), (60, 1.0)] {
            if bytes > 0 {
                held.push(window.bytes(1, bytes).await);
            }
            held.push(window.place(1, Class::Normal).await);
            assert!((window.used_ratio() - expected).abs() < 1e-9, "{} of {expected}", window.used_ratio());
        }
        drop(held);
        assert!(window.used_ratio().abs() < 1e-9);
    }

    #[tokio::test]
    async fn an_oversized_event_is_admitted_alone() {
        let window = Arc::new(Window::new(10, 100));
        let small = window.bytes(1, 10).await;
        let mut large = Box::pin(window.bytes(1, 1_000));
        assert!(futures_poll(&mut large).await.is_none());
        drop(small);
        let large = futures_poll(&mut large).await.expect("the window is empty");
        let mut next = Box::pin(window.bytes(2, 1));
        assert!(futures_poll(&mut next).await.is_none());
        drop(large);
        assert!(futures_poll(&mut next).await.is_some());
    }

    #[tokio::test]
    async fn a_cancelled_wait_gives_its_grant_back() {
        let window = Arc::new(Window::new(1, 100));
        let held = window.place(1, Class::Normal).await;
        let mut cancelled = Box::pin(window.place(2, Class::Normal));
        assert!(futures_poll(&mut cancelled).await.is_none());
        drop(held);
        drop(cancelled);
        assert_eq!(window.in_flight(), 0);
        let _again = window.place(3, Class::Normal).await;
    }

    /// Polls once.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|cx| match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }
}
