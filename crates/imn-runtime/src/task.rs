//! Owned tasks and the signal that tells them to end. No task of the product is started anywhere else.

use std::{future::Future, pin::pin, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::{Id, JoinError, JoinSet},
    time::Instant,
};

/// A set of named tasks: its owner may wait for them, and dropping it aborts them all.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<Result<(), String>>,
    names: Vec<(Id, String)>,
}

/// How a task ended that did not end well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task {name}: {reason}")]
pub struct Failure {
    /// The task's name.
    pub name: String,
    /// What it panicked with, or the error that it returned.
    pub reason: String,
}

/// What a task may return: nothing, or a result whose error becomes a [`Failure`].
pub trait Ending: Send + 'static {
    /// The reason of a failure, if it is one.
    fn into_result(self) -> Result<(), String>;
}

impl Ending for () {
    fn into_result(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: std::fmt::Display + Send + 'static> Ending for Result<(), E> {
    fn into_result(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task that this set owns. It returns nothing or a `Result<(), E>`.
    pub fn spawn<F>(&mut self, name: impl Into<String>, future: F)
    where
        F: Future + Send + 'static,
        F::Output: Ending,
    {
        while self.reap().is_some() {}
        let handle = self.set.spawn(async move { future.await.into_result() });
        self.names.push((handle.id(), name.into()));
    }

    /// Starts blocking work on a thread of its own. A drop does not stop it: it must watch a [`Stop`].
    pub fn spawn_blocking<E: Ending>(
        &mut self,
        name: impl Into<String>,
        work: impl FnOnce() -> E + Send + 'static,
    ) {
        while self.reap().is_some() {}
        let handle = self.set.spawn_blocking(move || work().into_result());
        self.names.push((handle.id(), name.into()));
    }

    /// The number of tasks that have not been seen to end.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether no task is left.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Waits for the next task to end: its name and how it ended; `None` when none is left. Cancel-safe.
    ///
    /// A task that ended well is told too, because for a process the end of a task that should run for ever is a
    /// failure as well.
    pub async fn next(&mut self) -> Option<(String, Result<(), Failure>)> {
        let joined = self.set.join_next_with_id().await?;
        Some(self.ended(joined))
    }

    /// Waits until a task fails. Those that end well are forgotten; pends for ever while none fails. Cancel-safe.
    pub async fn failed(&mut self) -> Failure {
        loop {
            match self.next().await {
                Some((_, Err(failure))) => return failure,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Waits up to `deadline` for all tasks to end, then aborts the rest. The caller has told them to stop.
    ///
    /// The names of aborted tasks are returned and logged; an empty list is an orderly end.
    pub async fn drain(mut self, deadline: Duration) -> Vec<String> {
        let end = Instant::now() + deadline;
        while let Ok(Some(_)) = tokio::time::timeout_at(end, self.next()).await {}
        let late: Vec<String> = self.names.drain(..).map(|(_, name)| name).collect();
        if !late.is_empty() {
            tracing::warn!(tasks = ?late, deadline_ms = deadline.as_millis(), "tasks aborted at the deadline");
        }
        self.set.shutdown().await;
        late
    }

    fn reap(&mut self) -> Option<()> {
        let joined = self.set.try_join_next_with_id()?;
        // A failure was logged; there is nobody to hand it to.
        let _ = self.ended(joined);
        Some(())
    }

    fn ended(
        &mut self,
        joined: Result<(Id, Result<(), String>), JoinError>,
    ) -> (String, Result<(), Failure>) {
        let (id, ending) = match joined {
            Ok((id, ending)) => (id, ending),
            Err(error) => (error.id(), Err(reason(error))),
        };
        let name = match self.names.iter().position(|(known, _)| *known == id) {
            Some(at) => self.names.swap_remove(at).1,
            None => "unnamed".to_owned(),
        };
        match ending {
            Ok(()) => (name, Ok(())),
            Err(reason) => {
                tracing::error!(task = name, reason, "task failed");
                (name.clone(), Err(Failure { name, reason }))
            }
        }
    }
}

fn reason(error: JoinError) -> String {
    if error.is_cancelled() {
        return "aborted".to_owned();
    }
    let payload = error.into_panic();
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is no text".to_owned());
    format!("panicked: {text}")
}

/// The side that asks for the end. Dropping it asks as well, so that nobody waits for a lost owner.
#[derive(Debug)]
pub struct Shutdown {
    sender: watch::Sender<bool>,
}

/// The side that is asked; cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop {
    receiver: watch::Receiver<bool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A signal that has not been given.
    pub fn new() -> Self {
        Self { sender: watch::Sender::new(false) }
    }

    /// A receiver of this signal.
    pub fn stop(&self) -> Stop {
        Stop { receiver: self.sender.subscribe() }
    }

    /// Asks everybody to end; may be repeated.
    pub fn request(&self) {
        self.sender.send_replace(true);
    }
}

impl Stop {
    /// Waits until the end is asked for; at once when it was. Cancel-safe.
    pub async fn requested(&self) {
        // An error says that the sender is gone, which asks for the end too.
        let _ = self.receiver.clone().wait_for(|asked| *asked).await;
    }

    /// Whether the end was asked for.
    pub fn is_requested(&self) -> bool {
        *self.receiver.borrow() || self.receiver.has_changed().is_err()
    }

    /// Sleeps, unless the end is asked for first; tells whether to go on.
    pub async fn sleep(&self, duration: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.requested() => false,
            () = tokio::time::sleep(duration) => true,
        }
    }

    /// Runs a future unless the end is asked for first; then it is dropped and `None` returned.
    pub async fn until<F: Future>(&self, future: F) -> Option<F::Output> {
        let future = pin!(future);
        tokio::select! {
            biased;
            () = self.requested() => None,
            output = future => Some(output),
        }
    }
}

/// Listens for SIGTERM and SIGINT from now on, in place of their default action.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Registers the handlers.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal and names it. Cancel-safe.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Resolves on the first SIGTERM or SIGINT.
///
/// # Errors
/// When the system refuses a handler.
pub async fn signals() -> std::io::Result<&'static str> {
    Ok(Signals::listen()?.next().await)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn breaks() {
        tokio::task::yield_now().await;
        panic!("on purpose")
    }

    #[tokio::test]
    async fn failures_are_named_and_the_others_go_on() {
        let mut tasks = Tasks::new();
        let shutdown = Shutdown::new();
        let stop = shutdown.stop();
        tasks.spawn("steady", async move { stop.requested().await });
        tasks.spawn("breaks", breaks());
        let failure = tasks.failed().await;
        assert_eq!(failure.to_string(), "task breaks: panicked: on purpose");
        tasks.spawn("errs", async { Err::<(), _>("no luck") });
        assert_eq!(tasks.failed().await.to_string(), "task errs: no luck");
        assert_eq!(tasks.len(), 1);
        shutdown.request();
        assert!(tasks.drain(Duration::from_secs(5)).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_aborts_at_its_deadline_and_says_whom() {
        let mut tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending::<()>());
        let before = Instant::now();
        assert_eq!(tasks.drain(Duration::from_secs(3)).await, ["deaf"]);
        assert_eq!(before.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test]
    async fn a_lost_owner_asks_for_the_end() {
        let shutdown = Shutdown::new();
        let stop = shutdown.stop();
        assert!(!stop.is_requested());
        drop(shutdown);
        assert!(stop.is_requested());
        assert!(!stop.sleep(Duration::from_mins(1)).await);
        assert_eq!(stop.until(async { 1 }).await, None);
    }
}
