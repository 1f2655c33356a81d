//! What each kind of participant may publish and subscribe to; the contract's page "Credentials", as data.

use std::{fmt, time::Duration};

use imn_contract::{AgentId, InstanceId, ModuleType, stream, subject};

/// How long an agent may take to answer: it measures first.
const MEASURED_WITHIN: Duration = Duration::from_mins(2);
/// How long a module may take to say what becomes of a task or an order. nats-server remembers every message with a reply
/// subject for so long, and beyond 4,096 of them looks through all with each further one: thousands of tasks per second
/// are not to be held up by it.
const SAID_WITHIN: Duration = Duration::from_secs(1);

/// Who a user is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The control plane.
    Server,
    /// The agent of a vantage point.
    Agent {
        /// Its id.
        agent: AgentId,
    },
    /// The agent of a vantage point where it takes jobs from their queues: the same key, and no right to answer anybody,
    /// so that nats-server keeps no record of what it might answer.
    Queue {
        /// Its id.
        agent: AgentId,
    },
    /// One slot of a module at a vantage point.
    Module {
        /// The agent that it belongs to.
        agent: AgentId,
        /// Its type.
        kind: ModuleType,
        /// The slot.
        instance: InstanceId,
    },
    /// A client that submits and cancels jobs and uses the simple interface.
    Operator,
    /// A client that looks on.
    Viewer,
}

/// What a user may do; everything else is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects it may publish to.
    pub publish: Vec<String>,
    /// Subjects it may subscribe to; `subject queue` where only members of that queue group may.
    pub subscribe: Vec<String>,
    /// How long it may take to answer a request that it received, once; without, it may not.
    pub answers: Option<Duration>,
}

impl fmt::Display for Role {
    /// The user's name, as the server lists it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => f.write_str("server"),
            Self::Agent { agent } | Self::Queue { agent } => write!(f, "agent.{agent}"),
            Self::Module { agent, instance, .. } => write!(f, "module.{agent}.{instance}"),
            Self::Operator => f.write_str("operator"),
            Self::Viewer => f.write_str("viewer"),
        }
    }
}

impl Role {
    /// The prefix of this role's inboxes, which nobody else may read: `_INBOX_agent.lon1`. The dots of a name keep
    /// the agent `a-b` apart from the instance `b` of the agent `a`.
    pub fn inbox_prefix(&self) -> String {
        format!("_INBOX_{self}")
    }

    /// The role in which an agent takes jobs from their queues.
    pub(super) fn queue(&self) -> Option<Self> {
        match self {
            Self::Agent { agent } => Some(Self::Queue { agent: agent.clone() }),
            _ => None,
        }
    }

    /// What the role may do.
    pub fn permissions(&self) -> Permissions {
        let mut permissions = match self {
            Self::Server => server(),
            Self::Agent { agent } => of_agent(agent),
            Self::Queue { agent } => of_queue(agent),
            Self::Module { agent, kind, instance } => of_module(agent, kind, instance),
            Self::Operator => operator(),
            Self::Viewer => viewer(),
        };
        let inbox = format!("{}.>", self.inbox_prefix());
        // A round trip to its own inbox shows that its subscriptions have arrived.
        permissions.publish.push(inbox.clone());
        permissions.subscribe.push(inbox);
        permissions
    }
}

fn server() -> Permissions {
    let all: Vec<String> =
        ["mmn.>", "agent.>", "heartbeat.>", "$JS.>", "$KV.>", "$O.>", "$SRV.>"].map(String::from).into();
    // It answers whoever asks, and so often that nats-server is to keep no record of it.
    let inboxes = ["_INBOX_agent.>", "_INBOX_module.>", "_INBOX_operator.>"].map(String::from);
    Permissions { publish: [all.clone(), inboxes.into()].concat(), subscribe: all, answers: None }
}

fn of_queue(agent: &AgentId) -> Permissions {
    Permissions {
        publish: jobs_of_agent(agent),
        subscribe: vec![subject::direct_agent(agent), format!("mmn.jobs.attempt.{agent}.>")],
        answers: None,
    }
}

/// What an agent publishes to take jobs and to hand them out.
fn jobs_of_agent(agent: &AgentId) -> Vec<String> {
    let consumer = stream::jobs_consumer(agent);
    vec![
        // Its queues: one stream per type, in each a consumer of its name. It makes and lists none.
        format!("$JS.API.CONSUMER.MSG.NEXT.*.{consumer}"),
        format!("$JS.API.CONSUMER.INFO.*.{consumer}"),
        format!("$JS.ACK.*.{consumer}.>"),
        // Its modules.
        format!("mmn.jobs.do.{agent}.*"),
        format!("mmn.jobs.at.{agent}.*"),
        format!("mmn.modules.ctl.{agent}.*"),
        // What it says of jobs in its own name, and what it asks of them.
        format!("mmn.jobs.attempt.{agent}.agent.*"),
        subject::GET_ALL.to_owned(),
    ]
}

fn of_agent(agent: &AgentId) -> Permissions {
    let own = stream::kv_subject(stream::ASSIGNMENTS_BUCKET, agent.as_str());
    let assignments = stream::ASSIGNMENTS;
    let published = stream::kv_subject(stream::REGISTRY_BUCKET, &stream::registry_key(agent));
    let own = [
        "$JS.API.INFO".to_owned(),
        format!("$JS.API.DIRECT.GET.{assignments}.{own}.*"),
        // The modules published for it, and executables: whose they are is no secret within a network.
        format!("$JS.API.DIRECT.GET.{}.{published}", stream::REGISTRY),
        format!("$JS.API.DIRECT.GET.{}", stream::ARTIFACTS),
        // The spools that it adopts.
        format!("mmn.ingest.rows.*.{agent}.*"),
        subject::commit(agent),
        // Keys of its modules.
        subject::vouch(agent),
        subject::renew(agent),
        // What its modules write.
        format!("mmn.modules.log.{agent}.*"),
        // Itself.
        subject::heartbeat(agent),
        subject::simple_heartbeat(agent),
        subject::simple_out(agent),
        subject::simple_error(agent),
    ];
    Permissions {
        publish: [jobs_of_agent(agent), own.into()].concat(),
        subscribe: vec![
            subject::agent_control(agent),
            subject::simple_in(agent),
            subject::ANNOUNCE.to_owned(),
            subject::HEALTH_ALL.to_owned(),
            subject::commit(agent),
            subject::direct_agent(agent),
            // What its own modules say of jobs.
            format!("mmn.jobs.attempt.{agent}.>"),
            format!("mmn.jobs.progress.{agent}.>"),
            format!("mmn.jobs.log.{agent}.>"),
            "$SRV.>".to_owned(),
        ],
        answers: Some(MEASURED_WITHIN),
    }
}

fn of_module(agent: &AgentId, kind: &ModuleType, instance: &InstanceId) -> Permissions {
    Permissions {
        publish: vec![
            format!("mmn.jobs.attempt.{agent}.{instance}.*"),
            format!("mmn.jobs.direct.{agent}.{instance}.*"),
            format!("mmn.jobs.progress.{agent}.{instance}.*"),
            format!("mmn.jobs.log.{agent}.{instance}.*"),
            subject::health(instance),
            subject::ANNOUNCE.to_owned(),
            format!("mmn.ingest.rows.*.{agent}.{kind}"),
            subject::commit(agent),
        ],
        subscribe: vec![
            format!("{} {}", subject::work(agent, kind), subject::work_queue(kind)),
            subject::at(agent, instance),
            subject::module_control(agent, instance),
            subject::commit(agent),
            "$SRV.>".to_owned(),
        ],
        answers: Some(SAID_WITHIN),
    }
}

fn viewer() -> Permissions {
    Permissions {
        publish: Vec::new(),
        subscribe: [
            subject::RESULT_ALL,
            subject::STATE_ALL,
            subject::PROGRESS_ALL,
            subject::LOG_ALL,
            subject::MODULE_LOG_ALL,
            subject::ANNOUNCE,
            subject::HEALTH_ALL,
            subject::HEARTBEAT_ALL,
            "heartbeat.*",
        ]
        .map(str::to_owned)
        .into(),
        answers: None,
    }
}

fn operator() -> Permissions {
    let mut permissions = viewer();
    permissions.publish.extend(
        [
            subject::SUBMIT,
            subject::GET_ALL,
            subject::CANCEL_ALL,
            "agent.*.in",
            // `nats micro ls`, `info` and `stats`.
            "$SRV.PING",
            "$SRV.PING.>",
            "$SRV.INFO",
            "$SRV.INFO.>",
            "$SRV.STATS",
            "$SRV.STATS.>",
        ]
        .map(str::to_owned),
    );
    permissions.subscribe.extend(["agent.*.out", "agent.*.error"].map(str::to_owned));
    permissions
}
