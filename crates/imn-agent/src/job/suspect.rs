//! Jobs that should have ended and may be with their instance still: an instance that keeps one, whatever it is told,
//! hangs, however well it says it is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::future::join_all;
use imn_contract::{InstanceId, JobId, latest::ModuleState};
use imn_runtime::task::Stop;
use tokio::sync::watch;

use super::Jobs;
use crate::{
    roster::{LOST_AFTER, Life},
    supervise::Supervisor,
};

const EVERY: Duration = Duration::from_millis(500);
/// Jobs that are asked for at once.
const AT_ONCE: usize = 64;
/// Jobs that are kept in mind; of more, nothing is found out until others are settled.
const MOST: usize = 4_096;
/// How long NATS may take to show that silence is not its fault.
const ROUND_TRIP: Duration = Duration::from_secs(2);

type Key = (InstanceId, JobId);

/// The jobs that should have ended.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    jobs: Mutex<HashMap<Key, Suspect>>,
}

#[derive(Clone, Debug)]
struct Suspect {
    since: Instant,
    /// Changes when the process that had the job has ended.
    life: watch::Receiver<Life>,
}

impl Suspects {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Suspect>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that have had their time, the oldest first.
    fn ripe(&self, margin: Duration) -> Vec<(Key, Instant)> {
        let mut jobs = self.lock();
        // An error says that the instance is forgotten.
        jobs.retain(|_, suspect| matches!(suspect.life.has_changed(), Ok(false)));
        let ripe = jobs.iter().filter(|(_, suspect)| suspect.since.elapsed() >= margin);
        let mut ripe: Vec<_> = ripe.map(|(key, suspect)| (key.clone(), suspect.since)).collect();
        ripe.sort_by_key(|(_, since)| *since);
        ripe.truncate(AT_ONCE);
        ripe
    }
}

impl Jobs {
    /// An instance should end a job now, and has not said that it did.
    pub(super) fn suspect(&self, instance: &InstanceId, job: &JobId) {
        let Some(life) = self.roster.life(instance) else { return };
        let mut jobs = self.suspects.lock();
        if jobs.len() < MOST {
            jobs.insert((instance.clone(), job.clone()), Suspect { since: Instant::now(), life });
        }
    }

    /// Has instances that hang killed, until the end.
    pub(super) async fn watch_suspects(self: Arc<Self>, supervisor: Arc<Supervisor>, stop: Stop) {
        let margin = supervisor.hang().margin;
        // Since when NATS carries messages, as far as it was asked.
        let mut carries: Option<Instant> = None;
        while stop.sleep(EVERY).await {
            let ripe = self.suspects.ripe(margin);
            let asked = ripe.iter().map(|((instance, job), _)| self.dispatcher.has(instance, job));
            let Some(answers) = stop.until(join_all(asked)).await else { return };
            if !answers.contains(&None) {
                carries = None;
            } else if self.client.round_trip(ROUND_TRIP).await.is_ok() {
                carries.get_or_insert_with(Instant::now);
            } else {
                carries = None;
            }
            for (((instance, job), since), has) in ripe.into_iter().zip(answers) {
                let silent = self.roster.state(&instance) == Some(ModuleState::Lost)
                    && carries.is_some_and(|since| since.elapsed() >= LOST_AFTER);
                let seconds = since.elapsed().as_secs();
                let reason = match has {
                    Some(false) => None,
                    Some(true) => Some(format!(
                        "hung: it still had the job {job}, {seconds} s after it was told to end it"
                    )),
                    None if silent => Some(format!(
                        "hung: nothing was heard of it while it had the job {job}, told to end {seconds} s before"
                    )),
                    None => continue,
                };
                self.suspects.lock().remove(&(instance.clone(), job));
                if let Some(reason) = reason {
                    supervisor.condemn(&instance, reason);
                }
            }
        }
    }
}
