//! Every subject of the network, by constructor only: nobody else formats one.

use crate::id::{AgentId, InstanceId, JobId, ModuleType};

/// Submission of jobs.
pub const SUBMIT: &str = "mmn.jobs.submit";
/// All requests for a job's state.
pub const GET_ALL: &str = "mmn.jobs.get.*";
/// All cancellations.
pub const CANCEL_ALL: &str = "mmn.jobs.cancel.*";
/// Queue group of the servers.
pub const SERVER_QUEUE: &str = "imn-server";
/// All results.
pub const RESULT_ALL: &str = "mmn.jobs.result.*";
/// All reports of attempts.
pub const ATTEMPT_ALL: &str = "mmn.jobs.attempt.>";
/// All job state transitions.
pub const STATE_ALL: &str = "mmn.jobs.state.*";
/// Announcements of modules.
pub const ANNOUNCE: &str = "mmn.modules.announce";
/// Health of every module instance.
pub const HEALTH_ALL: &str = "mmn.modules.health.*";
/// Heartbeats of all agents.
pub const HEARTBEAT_ALL: &str = "mmn.agents.hb.*";
/// Requests of all agents to vouch for keys.
pub const VOUCH_ALL: &str = "mmn.agents.vouch.*";
/// Requests of all agents for a fresh JWT.
pub const RENEW_ALL: &str = "mmn.agents.renew.*";
/// Sealed batches of all partitions, agents and kinds.
pub const INGEST_ALL: &str = "mmn.ingest.rows.>";
/// Watermarks of all agents.
pub const COMMIT_ALL: &str = "mmn.ingest.commit.*";
/// Dead jobs.
pub const DLQ_ALL: &str = "mmn.dlq.>";
/// Progress of all jobs.
pub const PROGRESS_ALL: &str = "mmn.jobs.progress.>";
/// Log lines of all jobs.
pub const LOG_ALL: &str = "mmn.jobs.log.>";
/// What the processes of all modules write.
pub const MODULE_LOG_ALL: &str = "mmn.modules.log.>";

/// Authoritative state of a job.
pub fn get(job: &JobId) -> String {
    format!("mmn.jobs.get.{job}")
}

/// Cancellation of a job.
pub fn cancel(job: &JobId) -> String {
    format!("mmn.jobs.cancel.{job}")
}

/// The durable queue entry of a task.
pub fn queue(module: &ModuleType, agent: &AgentId, job: &JobId) -> String {
    format!("mmn.jobs.q.{module}.{agent}.{job}")
}

/// All queue entries of a module type.
pub fn queue_all(module: &ModuleType) -> String {
    format!("mmn.jobs.q.{module}.>")
}

/// The queue entries of a module type for one agent.
pub fn queue_agent(module: &ModuleType, agent: &AgentId) -> String {
    format!("mmn.jobs.q.{module}.{agent}.*")
}

/// Work sharing among the instances of a type.
pub fn work(agent: &AgentId, module: &ModuleType) -> String {
    format!("mmn.jobs.do.{agent}.{module}")
}

/// The queue group in which instances share [`work`].
pub fn work_queue(module: &ModuleType) -> String {
    format!("m-{module}")
}

/// One instance, addressed directly.
pub fn at(agent: &AgentId, instance: &InstanceId) -> String {
    format!("mmn.jobs.at.{agent}.{instance}")
}

/// What an instance reports of a job.
pub fn attempt(agent: &AgentId, instance: &InstanceId, job: &JobId) -> String {
    format!("mmn.jobs.attempt.{agent}.{instance}.{job}")
}

/// What an instance reports of a task that its agent admitted itself; core NATS, never a stream.
pub fn direct(agent: &AgentId, instance: &InstanceId, job: &JobId) -> String {
    format!("mmn.jobs.direct.{agent}.{instance}.{job}")
}

/// Everything that an agent's instances report directly.
pub fn direct_agent(agent: &AgentId) -> String {
    format!("mmn.jobs.direct.{agent}.>")
}

/// The published result of a job.
pub fn result(job: &JobId) -> String {
    format!("mmn.jobs.result.{job}")
}

/// Live progress of a job.
pub fn progress(agent: &AgentId, instance: &InstanceId, job: &JobId) -> String {
    format!("mmn.jobs.progress.{agent}.{instance}.{job}")
}

/// Live progress of a job, from whichever instance.
pub fn progress_job(job: &JobId) -> String {
    format!("mmn.jobs.progress.*.*.{job}")
}

/// Live log lines of a job; a module's lines that belong to no job use `-` in its place.
pub fn log(agent: &AgentId, instance: &InstanceId, job: Option<&JobId>) -> String {
    format!("mmn.jobs.log.{agent}.{instance}.{}", job.map_or("-", JobId::as_str))
}

/// Accepted and terminal transitions of a job.
pub fn state(job: &JobId) -> String {
    format!("mmn.jobs.state.{job}")
}

/// Health of one instance.
pub fn health(instance: &InstanceId) -> String {
    format!("mmn.modules.health.{instance}")
}

/// What the process of one instance writes to its standard output and error, told by its agent.
pub fn module_log(agent: &AgentId, instance: &InstanceId) -> String {
    format!("mmn.modules.log.{agent}.{instance}")
}

/// Control of one instance.
pub fn module_control(agent: &AgentId, instance: &InstanceId) -> String {
    format!("mmn.modules.ctl.{agent}.{instance}")
}

/// The heartbeat of an agent.
pub fn heartbeat(agent: &AgentId) -> String {
    format!("mmn.agents.hb.{agent}")
}

/// The same heartbeat under the simple interface's name.
pub fn simple_heartbeat(agent: &AgentId) -> String {
    format!("heartbeat.{agent}")
}

/// Control of one agent.
pub fn agent_control(agent: &AgentId) -> String {
    format!("mmn.agents.ctl.{agent}")
}

/// An agent's request that the server vouch for the key of one of its module instances.
pub fn vouch(agent: &AgentId) -> String {
    format!("mmn.agents.vouch.{agent}")
}

/// An agent's request for a fresh JWT for its own key.
pub fn renew(agent: &AgentId) -> String {
    format!("mmn.agents.renew.{agent}")
}

/// A sealed batch of rounds.
pub fn ingest(partition: u32, agent: &AgentId, kind: &ModuleType) -> String {
    format!("mmn.ingest.rows.{partition}.{agent}.{kind}")
}

/// All batches of a partition.
pub fn ingest_partition(partition: u32) -> String {
    format!("mmn.ingest.rows.{partition}.>")
}

/// Watermarks of an agent's spools: broadcast by the server, and answered by it on request.
pub fn commit(agent: &AgentId) -> String {
    format!("mmn.ingest.commit.{agent}")
}

/// A dead job.
pub fn dead(module: &ModuleType, agent: &AgentId, job: &JobId) -> String {
    format!("mmn.dlq.{module}.{agent}.{job}")
}

/// The simple interface: requests.
pub fn simple_in(agent: &AgentId) -> String {
    format!("agent.{agent}.in")
}

/// The simple interface: answers.
pub fn simple_out(agent: &AgentId) -> String {
    format!("agent.{agent}.out")
}

/// The simple interface: refusals.
pub fn simple_error(agent: &AgentId) -> String {
    format!("agent.{agent}.error")
}

/// The last token of a subject, such as the job in `mmn.jobs.get.{job}`.
pub fn last_token(subject: &str) -> &str {
    subject.rsplit('.').next().unwrap_or(subject)
}

/// The token of a subject at `index`, counted from 0.
pub fn token(subject: &str, index: usize) -> Option<&str> {
    subject.split('.').nth(index)
}
