//! Futures that hyper wants to be run beside a request, polled by whoever awaits the request: nothing is spawned.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper::rt::Executor;

type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where hyper leaves its futures.
#[derive(Clone, Default)]
pub(super) struct Inbox(Arc<Mutex<Vec<Boxed>>>);

/// Futures in work. Dropping it ends them.
#[derive(Default)]
pub(super) struct Pool {
    inbox: Inbox,
    running: Vec<Boxed>,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Inbox {
    fn execute(&self, future: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(future));
    }
}

impl Pool {
    pub(super) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    pub(super) fn push(&mut self, future: impl Future<Output = ()> + Send + 'static) {
        self.running.push(Box::pin(future));
    }

    /// Awaits a future while the others go on.
    pub(super) async fn drive<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| {
            self.poll_all(context);
            let polled = future.as_mut().poll(context);
            if polled.is_pending() && self.take_new() {
                // What has just been left here has never been polled, so nothing would wake it.
                self.poll_all(context);
            }
            polled
        })
        .await
    }

    fn poll_all(&mut self, context: &mut Context<'_>) {
        self.take_new();
        loop {
            self.running.retain_mut(|future| future.as_mut().poll(context) == Poll::Pending);
            if !self.take_new() {
                return;
            }
        }
    }

    fn take_new(&mut self) -> bool {
        let mut new = self.inbox.0.lock().unwrap_or_else(PoisonError::into_inner);
        let any = !new.is_empty();
        self.running.append(&mut new);
        any
    }
}
