//! Trying one instance, before it is given the jobs of others.

use std::time::Duration;

use imn_contract::{ErrorCode, Fault, InstanceId, JobId};
use serde_json::Value;
use tokio::time::Instant;

use super::{DirectOrder, Jobs};

/// Pause between two questions.
const ASK_AGAIN: Duration = Duration::from_millis(100);

impl Jobs {
    /// Has this instance, and no other, make a measurement; gives its outcome.
    ///
    /// # Errors
    /// As those of an order to any instance; it is tried once.
    pub(crate) async fn run_at(&self, instance: &InstanceId, order: DirectOrder) -> Result<Value, Fault> {
        let deadline = Instant::now() + order.ttl;
        let task = self.direct_task(&order, 1, deadline);
        self.attempt_direct(&task, Some(instance), deadline).await
    }

    /// Whether an instance answers a question: for one of which no measurement is known that it must be able to make.
    ///
    /// # Errors
    /// When it has not answered within so long.
    pub(crate) async fn answers(&self, instance: &InstanceId, within: Duration) -> Result<(), Fault> {
        let end = Instant::now() + within;
        while self.dispatcher.has(instance, &JobId::generate()).await.is_none() {
            if Instant::now() >= end {
                let message = format!("{instance} has not answered within {} s", within.as_secs());
                return Err(Fault::new(ErrorCode::Unavailable, message));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        Ok(())
    }
}
