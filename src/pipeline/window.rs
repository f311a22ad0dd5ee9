//! What memory is bounded by: places for deliveries and bytes for events, over the whole process.
//!
//! Work-conserving and fair: whoever asks gets a place while there is one; when there is none, what becomes free goes
//! to the waiting partition that holds least. Settling never asks for a place, so a full window always drains.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::oneshot;

/// Whoever shares the window: a number per assigned partition.
pub type Share = u64;

/// The window of a process.
#[derive(Debug)]
pub struct Window {
    places: Pool,
    bytes: Pool,
    /// Deliveries that wait in memory until they are due.
    waiting: AtomicUsize,
}

impl Window {
    /// A window of so many deliveries and bytes.
    pub fn new(places: usize, bytes: usize) -> Self {
        Self { places: Pool::new(places), bytes: Pool::new(bytes), waiting: AtomicUsize::new(0) }
    }

    /// A place for one delivery; waits while there is none. Cancel-safe.
    pub async fn place(self: &Arc<Self>, share: Share) -> Place {
        self.take(Kind::Delivery, share, 1).await
    }

    /// Room for an event's bytes; one larger than the whole window is admitted alone. Cancel-safe.
    pub async fn bytes(self: &Arc<Self>, share: Share, bytes: usize) -> Place {
        self.take(Kind::Bytes, share, bytes).await
    }

    /// Deliveries held now.
    pub fn in_flight(&self) -> usize {
        self.places.lock().used
    }

    /// Bytes held now.
    pub fn in_flight_bytes(&self) -> usize {
        self.bytes.lock().used
    }

    /// Most deliveries held.
    pub fn limit(&self) -> usize {
        self.places.limit
    }

    /// Most bytes held.
    pub fn limit_bytes(&self) -> usize {
        self.bytes.limit
    }

    /// The used share of whichever is scarcer, 0 to 1 (above 1 while one oversized event is in).
    pub fn used_ratio(&self) -> f64 {
        let ratio = |pool: &Pool| pool.lock().used as f64 / pool.limit as f64;
        ratio(&self.places).max(ratio(&self.bytes))
    }

    /// May one more delivery wait in memory? Together they never hold more than half of the window.
    pub fn may_wait(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < self.places.limit / 2
    }

    /// A delivery begins to wait in memory until it is due.
    pub fn begin_wait(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// It does not wait any more.
    pub fn end_wait(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    async fn take(self: &Arc<Self>, kind: Kind, share: Share, amount: usize) -> Place {
        let place = |window: &Arc<Self>| Place { window: Arc::clone(window), kind, share, amount };
        let granted = match self.pool(kind).ask(share, amount) {
            Ok(()) => return place(self),
            Err(granted) => granted,
        };
        let mut waiting = Waiting { granted, window: self, kind, share, amount, done: false };
        // The sender is dropped only with the window, which `self` keeps alive.
        let _granted = (&mut waiting.granted).await;
        waiting.done = true;
        place(self)
    }

    fn pool(&self, kind: Kind) -> &Pool {
        match kind {
            Kind::Delivery => &self.places,
            Kind::Bytes => &self.bytes,
        }
    }
}

/// Something held of the window; given back when dropped.
#[derive(Debug)]
pub struct Place {
    window: Arc<Window>,
    kind: Kind,
    share: Share,
    amount: usize,
}

impl Place {
    /// How much it is.
    pub fn amount(&self) -> usize {
        self.amount
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.window.pool(self.kind).give_back(self.share, self.amount);
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Delivery,
    Bytes,
}

/// A wait that may be cancelled after it was granted: then the grant goes back.
struct Waiting<'a> {
    granted: oneshot::Receiver<()>,
    window: &'a Arc<Window>,
    kind: Kind,
    share: Share,
    amount: usize,
    done: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.granted.close();
        if !self.done && self.granted.try_recv().is_ok() {
            self.window.pool(self.kind).give_back(self.share, self.amount);
        }
    }
}

#[derive(Debug)]
struct Pool {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    by_share: HashMap<Share, usize>,
    queue: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    share: Share,
    amount: usize,
    grant: oneshot::Sender<()>,
}

impl Pool {
    fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, share: Share, amount: usize) -> Result<(), oneshot::Receiver<()>> {
        let mut state = self.lock();
        if state.queue.is_empty() && state.fits(amount, self.limit) {
            state.take(share, amount);
            return Ok(());
        }
        let (grant, granted) = oneshot::channel();
        state.queue.push_back(Waiter { share, amount, grant });
        Err(granted)
    }

    fn give_back(&self, share: Share, amount: usize) {
        let mut state = self.lock();
        state.put(share, amount);
        while let Some(index) = state.neediest() {
            if !state.fits(state.queue[index].amount, self.limit) {
                break;
            }
            let waiter = state.queue.remove(index).expect("the index is of this queue");
            if waiter.grant.send(()).is_ok() {
                state.take(waiter.share, waiter.amount);
            }
        }
    }
}

impl State {
    fn fits(&self, amount: usize, limit: usize) -> bool {
        self.used == 0 || self.used + amount <= limit
    }

    /// The waiter whose partition holds least; the longest waiting among equals.
    fn neediest(&self) -> Option<usize> {
        let held = |waiter: &Waiter| self.by_share.get(&waiter.share).copied().unwrap_or(0);
        (0..self.queue.len()).min_by_key(|index| held(&self.queue[*index]))
    }

    fn take(&mut self, share: Share, amount: usize) {
        self.used += amount;
        *self.by_share.entry(share).or_default() += amount;
    }

    fn put(&mut self, share: Share, amount: usize) {
        self.used -= amount;
        if let Some(held) = self.by_share.get_mut(&share) {
            *held -= amount;
            if *held == 0 {
                self.by_share.remove(&share);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_becomes_free_goes_to_whoever_holds_least() {
        let window = Arc::new(Window::new(3, 100));
        let mut held = vec![window.place(1).await, window.place(1).await, window.place(2).await];
        let mut first = Box::pin(window.place(1));
        let mut second = Box::pin(window.place(3));
        assert!(futures_poll(&mut first).await.is_none());
        assert!(futures_poll(&mut second).await.is_none());
        held.pop();
        assert!(futures_poll(&mut first).await.is_none(), "partition 1 holds two, partition 3 none");
        assert!(futures_poll(&mut second).await.is_some());
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
        let held = window.place(1).await;
        let mut cancelled = Box::pin(window.place(2));
        assert!(futures_poll(&mut cancelled).await.is_none());
        drop(held);
        drop(cancelled);
        assert_eq!(window.in_flight(), 0);
        let _again = window.place(3).await;
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
