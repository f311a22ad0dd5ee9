//! The one way to start a task: under a token that says when to stop and a tracker that waits until it has.
//!
//! An essential task that ends or panics before that stops the whole service, so that it is never half alive.
//! Nothing here aborts a task: whoever is late is counted and left to the end of the process.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, anyhow};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::error;

/// The tasks of one service; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    token: CancellationToken,
    tracker: TaskTracker,
    failure: Arc<Mutex<Option<anyhow::Error>>>,
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the service is to stop.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Starts a task that may end at any time; a panic in it is logged.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.guarded(PanicGuard { name, essential: None }, task)
    }

    /// Starts a task without which the service is of no use. Its error, its panic, or its end before the token is
    /// cancelled stop the service.
    pub fn spawn_essential(
        &self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) -> JoinHandle<()> {
        let tasks = self.clone();
        let guard = PanicGuard { name, essential: Some(self.clone()) };
        self.tracker.spawn(async move {
            match task.await.with_context(|| format!("task {name} failed")) {
                Ok(()) if tasks.token.is_cancelled() => {}
                Ok(()) => tasks.fail(anyhow!("task {name} ended although it was needed")),
                Err(error) => tasks.fail(error),
            }
            drop(guard);
        })
    }

    /// Starts a task that may end at any time, but without which the service would be half alive should it panic.
    pub fn spawn_needed<T: Send + 'static>(
        &self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.guarded(PanicGuard { name, essential: Some(self.clone()) }, task)
    }

    /// The same for blocking work on a thread of its own.
    pub fn spawn_blocking_needed<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.guarded_blocking(PanicGuard { name, essential: Some(self.clone()) }, work)
    }

    /// Runs blocking work on a thread of its own, waited for like a task; a panic in it is logged.
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.guarded_blocking(PanicGuard { name, essential: None }, work)
    }

    fn guarded<T: Send + 'static>(
        &self,
        guard: PanicGuard,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tracker.spawn(async move {
            let output = task.await;
            drop(guard);
            output
        })
    }

    fn guarded_blocking<T: Send + 'static>(
        &self,
        guard: PanicGuard,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.tracker.spawn_blocking(move || {
            let output = work();
            drop(guard);
            output
        })
    }

    /// Stops the service because of an error that can never heal. The first error is the one reported.
    pub fn fail(&self, error: anyhow::Error) {
        error!(error = format!("{error:#}"), "the service cannot go on");
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.token.cancel();
    }

    /// Cancels the token, then waits until every task has ended or the deadline has passed; how many are left.
    pub async fn close_and_wait(&self, deadline: Instant) -> usize {
        self.token.cancel();
        self.tracker.close();
        match timeout_at(deadline, self.tracker.wait()).await {
            Ok(()) => 0,
            Err(_) => self.tracker.len(),
        }
    }

    /// The error that stopped the service, if one did; it can be taken once.
    pub fn take_failure(&self) -> Option<anyhow::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Lives in a task's future, which a panic drops while the thread unwinds.
struct PanicGuard {
    name: &'static str,
    essential: Option<Tasks>,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        error!(task = self.name, "task panicked");
        if let Some(tasks) = &self.essential {
            tasks.fail(anyhow!("task {} panicked", self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    async fn check(task: impl Future<Output = anyhow::Result<()>> + Send + 'static, expected: Option<&str>) {
        let tasks = Tasks::new();
        tasks.spawn_essential("reader", task).await.ok();
        assert_eq!(tasks.token().is_cancelled(), expected.is_some());
        let left = tasks.close_and_wait(soon()).await;
        assert_eq!(left, 0);
        assert_eq!(tasks.take_failure().map(|error| format!("{error:#}")).as_deref(), expected);
    }

    #[tokio::test]
    async fn an_essential_task_that_ends_stops_the_service() {
        check(async { Ok(()) }, Some("task reader ended although it was needed")).await;
        check(async { Err(anyhow!("no disk")) }, Some("task reader failed: no disk")).await;
        check(async { panic!("a bug") }, Some("task reader panicked")).await;
    }

    #[tokio::test]
    async fn an_essential_task_may_end_when_told_to() {
        let tasks = Tasks::new();
        let token = tasks.token().clone();
        tasks.spawn_essential("reader", async move {
            token.cancelled().await;
            Ok(())
        });
        assert_eq!(tasks.close_and_wait(soon()).await, 0);
        assert!(tasks.take_failure().is_none());
    }

    #[tokio::test]
    async fn other_tasks_may_end_and_panic() {
        let tasks = Tasks::new();
        assert_eq!(tasks.spawn("one", async { 1 }).await.unwrap(), 1);
        assert!(tasks.spawn("two", async { panic!("a bug") }).await.is_err());
        assert_eq!(tasks.spawn_blocking("three", || 3).await.unwrap(), 3);
        assert!(!tasks.token().is_cancelled());
    }

    #[tokio::test]
    async fn the_deadline_ends_the_wait() {
        let tasks = Tasks::new();
        tasks.spawn("stuck", std::future::pending::<()>());
        assert_eq!(tasks.close_and_wait(Instant::now() + Duration::from_millis(20)).await, 1);
    }
}
