//! A submission on its way to an accepted, durable job.

use imn_contract::{
    AgentId, ErrorCode, Fault, JobId, ModuleType,
    latest::{JobState, Submit, SubmitReply},
    subject,
};
use imn_domain::{Candidate, check_submit, select};
use imn_runtime::telemetry::{Messaging, Side, Step, TraceParent};
use imn_store::{CatalogError, Job, NewJob, TaskRow};
use sha2::{Digest, Sha256};

use super::{Desk, no_queue, unavailable};
use crate::{clock::now_us, metrics::label, registry::Vantage};

impl Desk {
    /// Takes a job in: checks it, chooses its agents, and makes it durable. Its tasks are then queued by themselves.
    /// `parent` is where whoever submits it stands in a trace.
    ///
    /// # Errors
    /// 400 with the field at fault, 404 `no_vantage` and `no_module`, 409 for an id used with another body, 429 when
    /// the work ahead exceeds the deadline, 503 when catalog or NATS fail.
    pub(crate) async fn submit(
        &self,
        submit: Submit,
        parent: Option<TraceParent>,
    ) -> Result<SubmitReply, Fault> {
        let step = Step::messaging(Messaging::new("submit", Side::Server, subject::SUBMIT), parent);
        step.set("imn.type", submit.kind.clone());
        let answer = step.run(self.accept(submit, step.traceparent())).await;
        if let Ok(SubmitReply { job_id: Some(job), .. }) = &answer {
            step.set("imn.job.id", job.to_string());
        }
        if let Err(fault) = &answer {
            step.failed(fault);
            self.shared.metrics.refused.get_or_create(&label("code", fault.code.to_string())).inc();
        }
        answer
    }

    async fn accept(&self, submit: Submit, trace: Option<TraceParent>) -> Result<SubmitReply, Fault> {
        let shared = &self.shared;
        let kind = check_submit(&submit)?;
        let body_hash = body_hash(&submit)?;
        let agents = match self.admit(&submit, &kind).await {
            Ok(agents) => agents,
            // What was accepted once is accepted, whoever is there now.
            Err(fault) => {
                let Some(id) = &submit.job_id else { return Err(fault) };
                let known = shared.catalog.job(id).await.map_err(|error| unavailable(&error))?;
                return known.map_or(Err(fault), |known| repeated(&known, &body_hash));
            }
        };
        let now = now_us();
        let job = NewJob {
            id: submit.job_id.unwrap_or_else(JobId::generate),
            kind,
            target: submit.target,
            params: submit.params,
            body_hash,
            created_us: now,
            deadline_us: now.saturating_add((submit.deadline_ms as i64).saturating_mul(1000)),
            max_attempts: submit.max_attempts,
            traceparent: trace.map(|trace| trace.to_string()),
            tasks: agents.iter().map(|agent| (agent.clone(), token())).collect(),
        };
        match shared.catalog.create_job(&job).await {
            Ok(true) => {
                let job = accepted(job);
                tracing::debug!(job = %job.id, kind = %job.kind, target = job.target, "job accepted");
                shared.open.add(&job);
                self.count_open();
                self.queue(&job);
                Ok(reply(&job))
            }
            Ok(false) => {
                let known = shared.catalog.job(&job.id).await.map_err(|error| unavailable(&error))?;
                let known = known.ok_or_else(|| super::unknown(&job.id))?;
                let reply = repeated(&known, &job.body_hash)?;
                self.queue_left_over(&known).await.map_err(|error| unavailable(&error))?;
                Ok(reply)
            }
            Err(CatalogError::Exists { .. }) => Err(conflict(&job.id)),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// Queues the tasks of an accepted job that may not be: who wrote it may have been dropped before that was done. What
    /// was queued meanwhile is found to be there.
    async fn queue_left_over(&self, job: &Job) -> Result<(), CatalogError> {
        for row in job.tasks.iter().filter(|row| !row.queued && !row.state.is_terminal()) {
            if self.open_task(&row.job, &row.agent).await?.is_some() {
                self.queue_task(job, row, None);
            }
        }
        Ok(())
    }

    /// The agents that are to do a job, and their queues made.
    async fn admit(&self, submit: &Submit, kind: &ModuleType) -> Result<Vec<AgentId>, Fault> {
        let shared = &self.shared;
        self.check_params(submit, kind)?;
        let agents = self.choose(submit, kind)?;
        if submit.wait_for_module
            && !shared.registry.types().contains(kind)
            && !shared.streams.has_room_for(kind)
        {
            let message = "jobs wait for too many types that no agent has; start a module of this one first";
            return Err(Fault::new(ErrorCode::Saturated, message).at("type").retry_after_ms(60_000));
        }
        for agent in &agents {
            shared.streams.ensure_queue(kind, agent).await.map_err(|error| no_queue(&error))?;
        }
        Ok(agents)
    }

    /// What a module would refuse is refused here, where whoever asks can still hear it.
    fn check_params(&self, submit: &Submit, kind: &ModuleType) -> Result<(), Fault> {
        let shared = &self.shared;
        let schema = shared.registry.with_params_schema(kind, |text| shared.schemas.of(kind, text));
        let wrong = schema.and_then(|schema| schema.check(&submit.params).into_iter().next());
        wrong.map_or(Ok(()), |wrong| {
            let field =
                if wrong.path.is_empty() { "params".to_owned() } else { format!("params.{}", wrong.path) };
            Err(Fault::invalid(field, wrong.message))
        })
    }

    fn choose(&self, submit: &Submit, kind: &ModuleType) -> Result<Vec<AgentId>, Fault> {
        self.shared.registry.offering(kind, now_us(), |vantages| {
            let depth = |agent: &AgentId| self.shared.open.depth(agent, kind);
            let candidates: Vec<Candidate<'_>> = vantages
                .iter()
                .map(|vantage| {
                    let ahead = depth(&vantage.agent.id).max(vantage.offer.inflight);
                    candidate(vantage, f64::from(ahead) / f64::from(vantage.offer.slots.max(1)))
                })
                .collect();
            let chosen = select(&candidates, submit.from.as_ref(), kind, submit.wait_for_module)?;
            for vantage in vantages.iter().filter(|vantage| chosen.contains(&&vantage.agent.id)) {
                has_time(vantage, depth(&vantage.agent.id), submit.deadline_ms, kind)?;
            }
            Ok(chosen.into_iter().cloned().collect())
        })
    }
}

fn candidate<'a>(vantage: &Vantage<'a>, load: f64) -> Candidate<'a> {
    Candidate {
        id: &vantage.agent.id,
        name: vantage.agent.name.as_deref(),
        region: vantage.agent.region.as_deref(),
        tags: &vantage.agent.tags,
        online: vantage.online,
        slots: vantage.offer.slots,
        load,
    }
}

/// Refuses what would wait for longer than it may take.
fn has_time(vantage: &Vantage<'_>, depth: u32, deadline_ms: u64, kind: &ModuleType) -> Result<(), Fault> {
    let Vantage { agent, offer, .. } = vantage;
    let wait_ms = f64::from(depth) / f64::from(offer.slots.max(1)) * offer.service_ms;
    if wait_ms <= deadline_ms as f64 {
        return Ok(());
    }
    let message = format!(
        "agent {} has about {wait_ms:.0} ms of {kind} jobs ahead, more than the deadline of {deadline_ms} ms",
        agent.id
    );
    let retry = (wait_ms - deadline_ms as f64).clamp(100.0, 60_000.0) as u64;
    Err(Fault::new(ErrorCode::Saturated, message).retry_after_ms(retry))
}

fn accepted(job: NewJob) -> Job {
    let task = |agent: AgentId, token: String| TaskRow {
        job: job.id.clone(),
        agent,
        state: JobState::Queued,
        attempts: 0,
        instance: None,
        token,
        queued: false,
        result: None,
        published: false,
        updated_us: job.created_us,
    };
    Job {
        tasks: job.tasks.into_iter().map(|(agent, token)| task(agent, token)).collect(),
        id: job.id.clone(),
        kind: job.kind,
        target: job.target,
        params: job.params,
        body_hash: job.body_hash,
        created_us: job.created_us,
        deadline_us: job.deadline_us,
        max_attempts: job.max_attempts,
        traceparent: job.traceparent,
    }
}

fn reply(job: &Job) -> SubmitReply {
    SubmitReply {
        v: 1,
        status: 202,
        job_id: Some(job.id.clone()),
        state: Some(JobState::Queued),
        result_subject: Some(subject::result(&job.id)),
        agents: job.tasks.iter().map(|task| task.agent.clone()).collect(),
        error: None,
    }
}

/// The same id again: the first answer for the same body, a conflict for another.
fn repeated(job: &Job, body_hash: &str) -> Result<SubmitReply, Fault> {
    if job.body_hash == body_hash { Ok(reply(job)) } else { Err(conflict(&job.id)) }
}

fn conflict(id: &JobId) -> Fault {
    let message = format!("job {id} exists with another body; use a new job_id, or leave it out");
    Fault::new(ErrorCode::Conflict, message).at("job_id")
}

/// A hash of everything but the id. Maps are ordered, so equal bodies have equal text.
fn body_hash(submit: &Submit) -> Result<String, Fault> {
    let body = Submit { job_id: None, ..submit.clone() };
    let text = serde_json::to_vec(&body).map_err(|error| Fault::invalid("params", error.to_string()))?;
    Ok(hex(&Sha256::digest(&text)))
}

/// 128 random bits.
fn token() -> String {
    hex(&rand::random::<[u8; 16]>())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
