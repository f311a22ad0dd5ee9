//! The connections to each host that wait for their next request.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::rt::Executor as _;
use hyper_util::rt::TokioExecutor;
use tokio::{
    sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard},
    task::{unconstrained, yield_now},
    time::{Instant, sleep, timeout},
};

use super::{http1, http2};

/// Idle connections kept to one host. Above any sensible `concurrency`, below what would exhaust descriptors.
const IDLE_PER_HOST: usize = 512;
/// How long they are kept: less than the 60 s after which the load balancers of AWS and others close theirs, so
/// that we rarely write into a connection that is being closed.
const IDLE: Duration = Duration::from_secs(50);
/// Those that are too old, or that the other side has closed, are looked for this often.
const SWEEP: Duration = Duration::from_secs(5);

/// How long one waits for another to connect before one tries as well. With the longest wait for a connection (10 s) it
/// is below the default `timeout` of 15 s, so that who cannot be reached is not taken for who does not answer.
const TURN: Duration = Duration::from_secs(3);

/// Scheme and authority of a URL: whoever shares them shares connections.
pub(in crate::http) type Origin = Box<str>;

/// All hosts of a sender.
#[derive(Debug, Default)]
pub(in crate::http) struct Hosts {
    known: Mutex<HashMap<Origin, Arc<Host>>>,
    swept: AtomicBool,
}

/// The connections to one of them.
pub(in crate::http) struct Host {
    of: Weak<Hosts>,
    /// Those of HTTP/1.1 that nobody uses, the one used last at the end.
    idle: Mutex<Vec<Idle>>,
    /// The one of HTTP/2, and when it was used last.
    shared: Mutex<Option<(Arc<http2::Link>, Instant)>>,
    /// Did it speak HTTP/2 last?
    shares: AtomicBool,
    turn: AsyncMutex<()>,
}

struct Idle {
    connection: Box<http1::Connection>,
    since: Instant,
}

/// A connection to send over.
pub(super) enum Link {
    Http1(Box<http1::Connection>),
    Http2(Arc<http2::Link>),
}

impl Hosts {
    /// The host at this origin.
    pub(in crate::http) fn host(self: &Arc<Self>, origin: &Origin) -> Arc<Host> {
        let mut known = lock(&self.known);
        if let Some(host) = known.get(origin) {
            return Arc::clone(host);
        }
        let host = Arc::new(Host::new(Arc::downgrade(self)));
        known.insert(origin.clone(), Arc::clone(&host));
        host
    }

    /// Looks from now on for connections that are of no more use.
    pub(super) fn sweep(self: &Arc<Self>) {
        if self.swept.swap(true, Ordering::Relaxed) {
            return;
        }
        let hosts = Arc::downgrade(self);
        // With a share of the runtime only so many connections could be found closed; the rest would seem open.
        TokioExecutor::new().execute(unconstrained(async move {
            loop {
                sleep(SWEEP).await;
                let Some(hosts) = hosts.upgrade() else { return };
                let all: Vec<Arc<Host>> = lock(&hosts.known).values().cloned().collect();
                for host in all {
                    host.sweep();
                    drop(host);
                    yield_now().await;
                }
                // Nobody sends there any more.
                lock(&hosts.known).retain(|_, host| Arc::strong_count(host) > 1 || host.keeps_any());
            }
        }));
    }
}

impl Host {
    fn new(of: Weak<Hosts>) -> Self {
        Self {
            of,
            idle: Mutex::default(),
            shared: Mutex::default(),
            shares: AtomicBool::default(),
            turn: AsyncMutex::default(),
        }
    }

    /// Does it belong to these?
    pub(in crate::http) fn is_of(&self, hosts: &Arc<Hosts>) -> bool {
        std::ptr::eq(self.of.as_ptr(), Arc::as_ptr(hosts))
    }

    /// A connection that is there.
    pub(super) fn link(&self) -> Option<Link> {
        if self.shares.load(Ordering::Relaxed) {
            let mut shared = lock(&self.shared);
            let (link, used) = shared.as_mut()?;
            *used = Instant::now();
            return Some(Link::Http2(Arc::clone(link)));
        }
        loop {
            // Not looked at under the lock.
            let Idle { mut connection, .. } = lock(&self.idle).pop()?;
            if connection.is_ready() {
                return Some(Link::Http1(connection));
            }
        }
    }

    /// Waits for one's turn to connect, where one connection is for all, but not long: whose turn it is may get nowhere.
    pub(super) async fn turn(&self) -> Option<AsyncMutexGuard<'_, ()>> {
        let shares = || self.shares.load(Ordering::Relaxed);
        let turn = if shares() { Box::pin(timeout(TURN, self.turn.lock())).await.ok() } else { None };
        // Who was first may have found that each has to connect.
        turn.filter(|_| shares())
    }

    /// One connection is for all from now on.
    pub(super) fn share(&self, link: &Arc<http2::Link>) {
        *lock(&self.shared) = Some((Arc::clone(link), Instant::now()));
        self.shares.store(true, Ordering::Relaxed);
    }

    /// Each connection is for one at a time from now on.
    pub(super) fn share_nothing(&self) {
        if self.shares.swap(false, Ordering::Relaxed) {
            lock(&self.shared).take();
        }
    }

    /// Nothing more can be sent over it.
    pub(super) fn forget(&self, link: &Arc<http2::Link>) {
        lock(&self.shared).take_if(|(shared, _)| Arc::ptr_eq(shared, link));
    }

    /// Keeps a connection, if it can be used again.
    pub(super) fn give_back(&self, mut connection: Box<http1::Connection>) {
        if !connection.is_ready() {
            return;
        }
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_PER_HOST {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }

    fn sweep(&self) {
        lock(&self.shared).take_if(|(link, used)| !link.is_used() && used.elapsed() > IDLE);
        // Closing takes longer than the others should wait for the lock.
        let over: Vec<Idle> = {
            let mut idle = lock(&self.idle);
            idle.extract_if(.., |idle| idle.since.elapsed() > IDLE || !idle.connection.is_ready()).collect()
        };
        drop(over);
    }

    fn keeps_any(&self) -> bool {
        !lock(&self.idle).is_empty() || lock(&self.shared).is_some()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}
