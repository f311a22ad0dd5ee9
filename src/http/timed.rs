//! Attempts with a clock on them: when the name was resolved, TCP and TLS were there, the answer began.
//!
//! A connection may be opened for one attempt and first used by another (the pool hands out whatever is free first),
//! so its times are written down with the connection, and belong to the first attempt with a clock that goes over it.
//! Without a clock nothing is written down.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_types::{Extensions, HeaderMap, Uri};
use hyper_util::client::legacy::connect::{Connected, HttpInfo, dns::Name};
use tokio::time::Instant;
use tower_service::Service;

use self::stream::Stream;
use super::{Client, Target, exchange};
use crate::pipeline::outcome::Attempt;

mod stream;

tokio::task_local! {
    /// The connection opened last for the attempt under way; nothing is opened for most.
    static OPENED: Arc<Mutex<Option<Opening>>>;
    /// The connection being opened.
    static OPENING: Opening;
}

/// One attempt's times.
#[derive(Debug, Clone)]
pub struct Times {
    /// When it began, by the clock on the wall and by the one that never jumps.
    began: (SystemTime, Instant),
    /// When it was over.
    pub ended: Instant,
    /// Its parts, in their order.
    pub phases: Vec<Phase>,
    /// Who was connected to.
    pub peer: Option<SocketAddr>,
}

/// One part of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// `dns`, `connect`, `tls` or `first_byte`.
    pub name: &'static str,
    /// When it began; before the attempt itself if another one opened the connection.
    pub from: Instant,
    /// When it ended.
    pub to: Instant,
    /// Did it come to its end?
    pub done: bool,
}

impl Times {
    /// When the attempt began, by the clock on the wall.
    pub fn began(&self) -> SystemTime {
        self.began.0
    }

    /// The time on the wall of any moment around it.
    pub fn wall(&self, at: Instant) -> SystemTime {
        let (wall, began) = self.began;
        let before: Duration = began.saturating_duration_since(at);
        wall + at.saturating_duration_since(began) - before
    }
}

impl Client {
    /// Makes one attempt, with a clock on it.
    pub async fn timed_attempt(&self, target: &Target, headers: HeaderMap, body: Bytes) -> (Attempt, Times) {
        let began = (SystemTime::now(), Instant::now());
        let opened = Arc::default();
        let (mut over, mut peer) = (None, None);
        let mut met = |connected: &Connected| {
            let (opening, who) = facts(connected);
            // How it was opened is told once; who looks again finds nothing.
            let before = over.take().and_then(|(_, opening)| opening);
            over = Some((Instant::now(), opening.or(before)));
            peer = who;
        };
        let parties = (&self.sender, &self.guard);
        let exchange = exchange(parties, target, (headers, body), began.1, &mut met);
        let (attempt, answered) = Box::pin(OPENED.scope(Arc::clone(&opened), exchange)).await;
        let ended = Instant::now();
        // What was opened in vain, or not in time, belongs to whom it was opened for.
        let opening = over.as_ref().map_or_else(|| lock(&opened).take(), |(_, opening)| opening.clone());
        let mut phases = opening.map_or_else(Vec::new, |opening| opening.phases(ended));
        if let Some((connected, _)) = over {
            let from = phases.last().map_or(connected, |last| last.to.max(connected));
            let (to, done) = (answered.unwrap_or(ended), answered.is_some());
            phases.push(Phase { name: "first_byte", from: from.min(to), to, done });
        }
        (attempt, Times { began, ended, phases, peer })
    }
}

/// How a connection was opened, if no other attempt has shown that, and who is there.
fn facts(connected: &Connected) -> (Option<Opening>, Option<SocketAddr>) {
    let mut extras = Extensions::new();
    connected.get_extras(&mut extras);
    let peer = extras.get::<HttpInfo>().map(HttpInfo::remote_addr);
    let opening = extras.remove::<Opening>().filter(|opening| !opening.0.shown.swap(true, Ordering::Relaxed));
    (opening, peer)
}

/// How a connection was opened; travels with it.
#[derive(Debug, Clone)]
pub(super) struct Opening(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    marks: Mutex<Marks>,
    shown: AtomicBool,
}

/// The moments between the parts.
#[derive(Debug, Clone, Copy)]
struct Marks {
    began: Instant,
    /// A literal address is not resolved.
    resolves: bool,
    /// Is there TLS behind TCP?
    secures: bool,
    resolved: Option<Instant>,
    connected: Option<Instant>,
    secured: Option<Instant>,
}

impl Opening {
    fn begin(secures: bool) -> Self {
        let marks = Marks {
            began: Instant::now(),
            resolves: false,
            secures,
            resolved: None,
            connected: None,
            secured: None,
        };
        Self(Arc::new(Opened { marks: Mutex::new(marks), shown: AtomicBool::new(false) }))
    }

    fn mark(&self, mark: impl FnOnce(&mut Marks)) {
        mark(&mut lock(&self.0.marks));
    }

    /// Its parts; the one that was under way when the attempt ended did not come to its end.
    fn phases(&self, ended: Instant) -> Vec<Phase> {
        let marks = *lock(&self.0.marks);
        let parts = [
            ("dns", marks.resolves, marks.resolved),
            ("connect", true, marks.connected),
            ("tls", marks.secures, marks.secured),
        ];
        let (mut phases, mut from) = (Vec::with_capacity(parts.len() + 1), marks.began);
        for (name, _, at) in parts.into_iter().filter(|(_, takes_place, _)| *takes_place) {
            let to = at.unwrap_or(ended);
            phases.push(Phase { name, from, to, done: at.is_some() });
            if at.is_none() {
                break;
            }
            from = to;
        }
        phases
    }
}

/// Opens connections, and writes down when if it is for an attempt with a clock on it.
#[derive(Debug, Clone)]
pub(super) struct Connector<C>(pub(super) C);

impl<C> Service<Uri> for Connector<C>
where
    C: Service<Uri>,
    C::Response: 'static,
    C::Error: 'static,
    C::Future: Send + 'static,
{
    type Response = Stream<C::Response>;
    type Error = C::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, C::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Ok(opened) = OPENED.try_with(Arc::clone) else {
            let call = self.0.call(uri);
            return Box::pin(async move { Ok(Stream { io: call.await?, opening: None }) });
        };
        let opening = Opening::begin(uri.scheme_str() == Some("https"));
        *lock(&opened) = Some(opening.clone());
        let call = OPENING.sync_scope(opening.clone(), || self.0.call(uri));
        // Another task may bring it to its end.
        let call = OPENING.scope(opening.clone(), call);
        Box::pin(async move {
            let io = call.await?;
            opening.mark(|marks| marks.secured = Some(Instant::now()));
            Ok(Stream { io, opening: Some(opening) })
        })
    }
}

/// TCP below such a connector.
#[derive(Debug, Clone)]
pub(super) struct Tcp<C>(pub(super) C);

impl<C> Service<Uri> for Tcp<C>
where
    C: Service<Uri>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = C::Error;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, C::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        watch(self.0.call(uri), |marks| marks.connected = Some(Instant::now()))
    }
}

/// The resolver below such a connector.
#[derive(Debug, Clone)]
pub(super) struct Resolver<R>(pub(super) R);

impl<R> Service<Name> for Resolver<R>
where
    R: Service<Name>,
    R::Future: Send + 'static,
{
    type Response = R::Response;
    type Error = R::Error;
    type Future = Pin<Box<dyn Future<Output = Result<R::Response, R::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), R::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        OPENING.try_with(|opening| opening.mark(|marks| marks.resolves = true)).ok();
        watch(self.0.call(name), |marks| marks.resolved = Some(Instant::now()))
    }
}

/// Marks the moment at which a part came to its end, should anybody want to know.
fn watch<T, E>(
    call: impl Future<Output = Result<T, E>> + Send + 'static,
    mark: fn(&mut Marks),
) -> Pin<Box<dyn Future<Output = Result<T, E>> + Send>> {
    Box::pin(async move {
        let response = call.await?;
        OPENING.try_with(|opening| opening.mark(mark)).ok();
        Ok(response)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
