//! What the agent is told over NATS: announcements and health of its modules, and control.

use std::sync::Arc;

use futures::StreamExt;
use imn_contract::{
    AgentId, Fault, header,
    latest::{AgentControl, AgentOp, Announce, ControlReply, Health},
    subject,
};
use imn_runtime::{
    credential::{self, Credentials},
    nats::{self, Client},
    task::Stop,
};

use crate::{
    ModuleCredentials, assignment::Assignments, heartbeat::Heart, job::Jobs, registry::Registry,
    roster::Roster, supervise::Supervisor,
};

/// Who is concerned by what comes in.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) agent: AgentId,
    pub(crate) client: Client,
    pub(crate) roster: Arc<Roster>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) assignments: Arc<Assignments>,
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) registry: Option<Arc<Registry>>,
    pub(crate) heart: Arc<Heart>,
    pub(crate) credentials: ModuleCredentials,
}

impl Listener {
    /// Listens until the end.
    ///
    /// # Errors
    /// When a subject cannot be subscribed to.
    pub(crate) async fn run(self, stop: Stop) -> Result<(), nats::Error> {
        let mut announcements = self.client.subscribe(subject::ANNOUNCE).await?;
        let mut health = self.client.subscribe(subject::HEALTH_ALL).await?;
        let mut control = self.client.subscribe(&subject::agent_control(&self.agent)).await?;
        loop {
            tokio::select! {
                () = stop.requested() => return Ok(()),
                Some(message) = announcements.next() => self.announced(&message),
                Some(message) = health.next() => self.well(&message),
                Some(message) = control.next() => self.told(&message).await,
            }
        }
    }

    fn announced(&self, message: &async_nats::Message) {
        match nats::decode::<Announce>(message) {
            Ok(announce) if announce.agent != self.agent => {}
            Ok(announce) if !self.is_believed(&announce, message) => {
                tracing::warn!(instance = %announce.instance, "announcement not signed by its instance, ignored");
            }
            Ok(announce) => {
                tracing::debug!(instance = %announce.instance, event = ?announce.event, "module announced");
                self.roster.announce(&announce);
            }
            Err(fault) => tracing::warn!(%fault, "announcement unreadable"),
        }
    }

    /// Where modules have credentials, only the key of that instance's own is believed. Of an instance that somebody
    /// else has started the key is not known here: its health counts, which nobody else can publish.
    fn is_believed(&self, announce: &Announce, message: &async_nats::Message) -> bool {
        if !self.credentials.are_required() {
            return true;
        }
        let Ok(Some(text)) = self.credentials.of(&announce.kind, &announce.instance) else { return false };
        let Ok(own) = Credentials::parse(&text) else { return false };
        let (Some(key), Some(signature)) =
            (nats::header_of(message, header::NKEY), nats::header_of(message, header::SIGNATURE))
        else {
            return false;
        };
        key == own.public_key() && credential::verify(key, &message.payload, signature)
    }

    fn well(&self, message: &async_nats::Message) {
        match nats::decode::<Health>(message) {
            // The subject is what the sender's credentials allow; the body must not say otherwise.
            Ok(health) if subject::last_token(&message.subject) == health.instance.as_str() => {
                self.roster.health(health);
            }
            Ok(health) => {
                tracing::warn!(subject = %message.subject, says = %health.instance, "health of another, ignored");
            }
            Err(fault) => tracing::warn!(subject = %message.subject, %fault, "health unreadable"),
        }
    }

    async fn told(&self, message: &async_nats::Message) {
        let answered = match nats::decode::<AgentControl>(message) {
            Ok(AgentControl { op: AgentOp::Report, .. }) => {
                self.client.respond(message, &self.heart.beat()).await
            }
            Ok(AgentControl { op, .. }) => match self.act(op).await {
                Ok(()) => self.client.respond(message, &ControlReply { v: 1, ok: true, error: None }).await,
                Err(fault) => self.refuse(message, fault).await,
            },
            Err(fault) => self.refuse(message, fault).await,
        };
        if let Err(error) = answered {
            tracing::warn!(%error, "control not answered");
        }
    }

    async fn act(&self, op: AgentOp) -> Result<(), Fault> {
        match op {
            AgentOp::TaskDone { job_id } => {
                self.jobs.task_done(&job_id).await;
                Ok(())
            }
            AgentOp::Assignments { .. } => {
                self.assignments.poke();
                Ok(())
            }
            AgentOp::Registry { .. } => match &self.registry {
                Some(registry) => {
                    registry.poke();
                    Ok(())
                }
                None => Err(Fault::no_module(
                    "this agent follows no registry: start it with --registry-key".to_owned(),
                )),
            },
            AgentOp::Enable { kind } => self.supervisor.set_disabled(&kind, false),
            AgentOp::Disable { kind } => self.supervisor.set_disabled(&kind, true),
            AgentOp::Roll { kind } => self.supervisor.roll(&kind),
            AgentOp::Tune { kind, tuning } => self.supervisor.tune(&kind, &tuning).await,
            AgentOp::Report => Ok(()),
        }
    }

    async fn refuse(&self, message: &async_nats::Message, fault: Fault) -> nats::Result<()> {
        tracing::warn!(%fault, "control refused");
        let reply = ControlReply { v: 1, ok: false, error: Some(fault.clone()) };
        self.client.respond_fault(message, &reply, &fault).await
    }
}
