//! The channels: a row for each subject.

use crate::{
    AgentId, InstanceId, JobId, ModuleType, header,
    id::IdError,
    stream as streams,
    subject::{self as s},
};

/// How a channel carries what is said.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// To whoever listens at that moment.
    Core,
    /// A question, answered to the asker's inbox.
    Request,
    /// Kept in this stream.
    Stream(&'static str),
    /// Kept in this stream, and read by direct get.
    Kept(&'static str),
}

/// One subject, or a family of them.
pub(super) struct Channel {
    pub(super) name: &'static str,
    pub(super) address: String,
    pub(super) says: &'static str,
    pub(super) way: Way,
    pub(super) from: &'static [&'static str],
    pub(super) to: &'static [&'static str],
    pub(super) queue: Option<String>,
    pub(super) messages: &'static [&'static str],
    pub(super) replies: &'static [&'static str],
    /// Headers that NATS itself reads.
    pub(super) headers: &'static [&'static str],
    /// The constructors and wildcards in [`crate::subject`] that are this channel.
    pub(super) covers: &'static [&'static str],
}

const NO_ONE: &[&str] = &[];
const CLIENT: &[&str] = &["client"];
const SERVER: &[&str] = &["server"];
const AGENT: &[&str] = &["agent"];
const MODULE: &[&str] = &["module"];

/// What a parameter of an address stands for.
pub(super) fn parameter(name: &str) -> &'static str {
    match name {
        "vp" => "Identifier of an agent.",
        "instance" => {
            "Name of a module process, `{agent}-{type}-{slot}`; of what the agent itself reports, `agent`."
        }
        "type" => "A module type.",
        "job" => "Identifier of a job; `-` for log lines that belong to none.",
        "p" => "Number of an ingest partition.",
        "shard" => "Number of a shard, or `meta`.",
        "object" => "What the manifest of a published module calls its executable.",
        _ => "A token.",
    }
}

/// What a header says.
pub(super) fn header(name: &str) -> &'static str {
    match name {
        header::JOB => "The job.",
        header::ATTEMPT => "Number of the attempt, from 1.",
        header::ATTEMPT_TOKEN => "The secret that shows that the attempt was handed out by the server.",
        header::NKEY => "Public key of the signer.",
        header::SIGNATURE => {
            "Its ed25519 signature over the bytes of the payload, base64url without padding."
        }
        header::TRACEPARENT => "W3C trace context.",
        header::SERVICE_ERROR_CODE => "Number of the error, where the answer is a refusal.",
        header::SERVICE_ERROR => "The error in words, where the answer is a refusal.",
        _ => "",
    }
}

/// All channels. Their addresses are made of names that stand for parameters.
pub(super) fn channels() -> Result<Vec<Channel>, IdError> {
    let (vp, kind) = (AgentId::new("vp")?, ModuleType::new("type")?);
    let (inst, job) = (InstanceId::new("instance")?, JobId::new("job")?);
    let mut all = jobs(&vp, &kind, &inst, &job);
    all.extend(modules(&vp, &inst));
    all.extend(agents(&vp));
    all.extend(rounds(&vp, &kind));
    all.extend(published(&vp));
    for channel in &mut all {
        channel.address = template(&channel.address);
    }
    Ok(all)
}

/// The address with its parameters in braces.
fn template(address: &str) -> String {
    const NAMES: [&str; 6] = ["vp", "type", "instance", "job", "shard", "object"];
    let tokens = address.split('.').map(|token| match token {
        "4294967295" => "{p}".to_owned(),
        name if NAMES.contains(&name) => format!("{{{name}}}"),
        other => other.to_owned(),
    });
    tokens.collect::<Vec<_>>().join(".")
}

fn channel(name: &'static str, address: impl Into<String>, says: &'static str, way: Way) -> Channel {
    Channel {
        name,
        address: address.into(),
        says,
        way,
        from: NO_ONE,
        to: NO_ONE,
        queue: None,
        messages: NO_ONE,
        replies: NO_ONE,
        headers: NO_ONE,
        covers: NO_ONE,
    }
}

fn jobs(vp: &AgentId, kind: &ModuleType, inst: &InstanceId, job: &JobId) -> Vec<Channel> {
    use Way::{Core, Request, Stream};
    let servers = || Some(s::SERVER_QUEUE.to_owned());
    vec![
        Channel {
            from: CLIENT,
            to: SERVER,
            queue: servers(),
            messages: &["submit"],
            replies: &["submit-reply"],
            covers: &["SUBMIT"],
            ..channel("job-submit", s::SUBMIT, "Measure something once.", Request)
        },
        Channel {
            from: &["client", "agent"],
            to: SERVER,
            queue: servers(),
            messages: &["job-request"],
            replies: &["job-view"],
            covers: &["get", "GET_ALL"],
            ..channel("job-get", s::get(job), "The authoritative state of a job.", Request)
        },
        Channel {
            from: CLIENT,
            to: SERVER,
            queue: servers(),
            messages: &["job-request"],
            replies: &["job-view"],
            covers: &["cancel", "CANCEL_ALL"],
            ..channel("job-cancel", s::cancel(job), "Stop a job.", Request)
        },
        Channel {
            from: SERVER,
            to: AGENT,
            messages: &["job"],
            headers: &[header::MSG_ID],
            covers: &["queue", "queue_all", "queue_agent"],
            ..channel(
                "job-queue",
                s::queue(kind, vp, job),
                "The durable queue of a type: a stream for each, and in it a consumer for each agent.",
                Stream("MMN_JOBS_{type}"),
            )
        },
        Channel {
            from: AGENT,
            to: MODULE,
            queue: Some(format!("m-{{{kind}}}")),
            messages: &["job"],
            replies: &["ack"],
            covers: &["work"],
            ..channel(
                "job-do",
                s::work(vp, kind),
                "A task for any instance of a type; answered within 500 ms.",
                Request,
            )
        },
        Channel {
            from: AGENT,
            to: MODULE,
            messages: &["job"],
            replies: &["ack"],
            covers: &["at"],
            ..channel("job-at", s::at(vp, inst), "A task for one instance; answered within 500 ms.", Request)
        },
        Channel {
            from: &["module", "agent"],
            to: SERVER,
            messages: &["attempt"],
            headers: &[header::MSG_ID],
            covers: &["attempt", "ATTEMPT_ALL"],
            ..channel(
                "job-attempt",
                s::attempt(vp, inst, job),
                "What became of an attempt; published until it is acknowledged.",
                Stream(streams::ATTEMPTS),
            )
        },
        Channel {
            from: MODULE,
            to: AGENT,
            messages: &["attempt"],
            covers: &["direct", "direct_agent"],
            ..channel(
                "job-direct",
                s::direct(vp, inst, job),
                "What became of a task that the agent itself has admitted (`direct` in the task).",
                Core,
            )
        },
        Channel {
            from: SERVER,
            to: CLIENT,
            messages: &["result"],
            headers: &[header::MSG_ID],
            covers: &["result", "RESULT_ALL"],
            ..channel(
                "job-result",
                s::result(job),
                "The terminal result of a task, once it is committed: one message per agent of the job.",
                Stream(streams::RESULTS),
            )
        },
        Channel {
            from: MODULE,
            to: CLIENT,
            messages: &["progress"],
            covers: &["progress", "progress_job", "PROGRESS_ALL"],
            ..channel(
                "job-progress",
                s::progress(vp, inst, job),
                "Packets, hops and words as they come; lossy.",
                Core,
            )
        },
        Channel {
            from: MODULE,
            to: CLIENT,
            messages: &["log"],
            covers: &["log", "LOG_ALL"],
            ..channel("job-log", s::log(vp, inst, Some(job)), "Lines of a job's log; lossy.", Core)
        },
        Channel {
            from: AGENT,
            to: CLIENT,
            messages: &["module-log"],
            covers: &["module_log", "MODULE_LOG_ALL"],
            ..channel(
                "module-log",
                s::module_log(vp, inst),
                "Lines that a module's process writes; lossy.",
                Core,
            )
        },
        Channel {
            from: SERVER,
            to: CLIENT,
            messages: &["job-view"],
            covers: &["state", "STATE_ALL"],
            ..channel(
                "job-state",
                s::state(job),
                "A job was accepted, or has ended.",
                Stream(streams::EVENTS),
            )
        },
        Channel {
            from: SERVER,
            to: CLIENT,
            messages: &["result"],
            covers: &["dead", "DLQ_ALL"],
            ..channel(
                "job-dead",
                s::dead(kind, vp, job),
                "A task that was given up after its last attempt.",
                Stream(streams::DLQ),
            )
        },
    ]
}

fn modules(vp: &AgentId, inst: &InstanceId) -> Vec<Channel> {
    use Way::{Core, Request, Stream};
    vec![
        Channel {
            from: MODULE,
            to: &["server", "agent", "client"],
            messages: &["announce"],
            covers: &["ANNOUNCE"],
            ..channel(
                "module-announce",
                s::ANNOUNCE,
                "An instance introduces itself, and takes its leave; signed with the key of its credentials.",
                Stream(streams::EVENTS),
            )
        },
        Channel {
            from: MODULE,
            to: &["server", "agent", "client"],
            messages: &["health"],
            covers: &["health", "HEALTH_ALL"],
            ..channel(
                "module-health",
                s::health(inst),
                "How an instance is: every 5 s and when it changes.",
                Core,
            )
        },
        Channel {
            from: AGENT,
            to: MODULE,
            messages: &["module-control"],
            replies: &["control-reply"],
            covers: &["module_control"],
            ..channel(
                "module-control",
                s::module_control(vp, inst),
                "Drain, slots, log level, configuration, renew; and of a job: cancel, has.",
                Request,
            )
        },
    ]
}

fn agents(vp: &AgentId) -> Vec<Channel> {
    use Way::{Core, Request};
    vec![
        Channel {
            from: AGENT,
            to: &["server", "client"],
            messages: &["heartbeat"],
            covers: &["heartbeat", "HEARTBEAT_ALL"],
            ..channel(
                "agent-heartbeat",
                s::heartbeat(vp),
                "How an agent and its modules are: every 2 s.",
                Core,
            )
        },
        Channel {
            from: AGENT,
            to: CLIENT,
            messages: &["heartbeat"],
            covers: &["simple_heartbeat"],
            ..channel("simple-heartbeat", s::simple_heartbeat(vp), "The same heartbeat.", Core)
        },
        Channel {
            from: SERVER,
            to: AGENT,
            messages: &["agent-control"],
            replies: &["control-reply", "heartbeat"],
            covers: &["agent_control"],
            ..channel(
                "agent-control",
                s::agent_control(vp),
                "What an agent is told; `report` is answered with a heartbeat.",
                Request,
            )
        },
        Channel {
            from: AGENT,
            to: SERVER,
            queue: Some(s::SERVER_QUEUE.to_owned()),
            messages: &["vouch"],
            replies: &["vouch-reply"],
            covers: &["vouch", "VOUCH_ALL"],
            ..channel("agent-vouch", s::vouch(vp), "Vouch for the key of a module instance.", Request)
        },
        Channel {
            from: AGENT,
            to: SERVER,
            queue: Some(s::SERVER_QUEUE.to_owned()),
            messages: &["renewal"],
            replies: &["vouch-reply"],
            covers: &["renew", "RENEW_ALL"],
            ..channel("agent-renew", s::renew(vp), "Vouch anew for the agent's own key.", Request)
        },
        Channel {
            from: CLIENT,
            to: AGENT,
            messages: &["simple-request"],
            covers: &["simple_in"],
            ..channel(
                "simple-in",
                s::simple_in(vp),
                "Measure something, with no server: answered on `.out` or `.error`.",
                Core,
            )
        },
        Channel {
            from: AGENT,
            to: CLIENT,
            messages: &["simple-reply"],
            covers: &["simple_out"],
            ..channel("simple-out", s::simple_out(vp), "What was measured.", Core)
        },
        Channel {
            from: AGENT,
            to: CLIENT,
            messages: &["simple-error"],
            covers: &["simple_error"],
            ..channel("simple-error", s::simple_error(vp), "Why nothing was measured.", Core)
        },
    ]
}

fn rounds(vp: &AgentId, kind: &ModuleType) -> Vec<Channel> {
    use Way::{Kept, Request, Stream};
    vec![
        Channel {
            from: &["module", "agent"],
            to: SERVER,
            messages: &["ingest-batch"],
            headers: &[header::MSG_ID],
            covers: &["ingest", "ingest_partition", "INGEST_ALL"],
            ..channel(
                "rounds",
                s::ingest(u32::MAX, vp, kind),
                "Sealed batches of rounds, sent again byte by byte until they are committed.",
                Stream(streams::INGEST),
            )
        },
        Channel {
            from: &["module", "agent"],
            to: SERVER,
            messages: &["watermark-request"],
            replies: &["watermark"],
            covers: &["commit", "COMMIT_ALL"],
            ..channel(
                "watermark-request",
                s::commit(vp),
                "Up to where a spool is committed. The server also tells it unasked, on the same subject.",
                Request,
            )
        },
        Channel {
            from: SERVER,
            to: &["module", "agent"],
            messages: &["watermark"],
            covers: &["commit", "COMMIT_ALL"],
            ..channel("watermark", s::commit(vp), "Up to where a spool is committed.", Way::Core)
        },
        Channel {
            from: SERVER,
            to: AGENT,
            messages: &["assignment-meta", "assignment-shard"],
            ..channel(
                "assignments",
                streams::kv_subject(streams::ASSIGNMENTS_BUCKET, &format!("{vp}.shard")),
                "Standing work of an agent: shards, packed by zstd, and `meta`, which names them and is written last.",
                Kept(streams::ASSIGNMENTS),
            )
        },
    ]
}

fn published(vp: &AgentId) -> Vec<Channel> {
    use Way::Kept;
    vec![
        Channel {
            from: SERVER,
            to: AGENT,
            messages: &["registry"],
            ..channel(
                "registry",
                streams::kv_subject(streams::REGISTRY_BUCKET, &streams::registry_key(vp)),
                "The modules that are published for an agent, signed by the key of the registry.",
                Kept(streams::REGISTRY),
            )
        },
        Channel {
            from: SERVER,
            to: SERVER,
            messages: &["registry"],
            ..channel(
                "registry-index",
                streams::kv_subject(streams::REGISTRY_BUCKET, streams::REGISTRY_INDEX),
                "All modules that are published, signed likewise.",
                Kept(streams::REGISTRY),
            )
        },
        Channel {
            from: SERVER,
            to: AGENT,
            ..channel(
                "artifact",
                streams::artifact_chunks("object"),
                "The executable of a published module, in chunks of 128 KiB: an object of the object store `modules`.",
                Kept(streams::ARTIFACTS),
            )
        },
    ]
}
