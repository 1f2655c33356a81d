//! Entries of the queues whose tasks are terminal. nats-server removes lazily what is acknowledged: one that was killed
//! brings some of that back, and hands it out to nobody or once too often.

use imn_contract::{AgentId, JobId, ModuleType, subject};

use super::Desk;

impl Desk {
    /// Takes the entries of settled tasks out of all queues.
    pub(crate) async fn sweep_queues(&self) {
        for kind in self.shared.streams.counted() {
            match self.sweep(&kind).await {
                Ok(0) => {}
                Ok(entries) => {
                    tracing::info!(%kind, entries, "entries of settled tasks taken out of the queue");
                }
                Err(error) => tracing::warn!(%kind, error, "queue not looked through for settled tasks"),
            }
        }
    }

    async fn sweep(&self, kind: &ModuleType) -> Result<usize, String> {
        let streams = &self.shared.streams;
        let mut settled = 0;
        for entry in streams.entries(kind).await.map_err(|error| error.to_string())? {
            let agent = subject::token(&entry, 4).map(AgentId::new);
            let (Some(Ok(agent)), Ok(job)) = (agent, JobId::new(subject::last_token(&entry))) else {
                continue;
            };
            let open = self.open_task(&job, &agent).await.map_err(|error| error.to_string())?;
            if open.is_none() {
                streams.withdraw_task(kind, &entry).await.map_err(|error| error.to_string())?;
                settled += 1;
            }
        }
        Ok(settled)
    }
}
