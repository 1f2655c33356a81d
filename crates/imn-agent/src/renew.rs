//! Keeping the agent let in: its JWT, and those of its modules, are renewed at half of their life.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use async_nats::HeaderMap;
use futures::future::BoxFuture;
use imn_contract::{
    AgentId,
    latest::{Renewal as Ask, VouchReply},
    subject,
};
use imn_runtime::{
    credential::{Credentials, Role, Vouching},
    file,
    nats::{self, Client},
    task::Stop,
};

use crate::supervise::Supervisor;

/// How long the server may take.
const WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked what is due, at most and at least.
const OFTEN: Duration = Duration::from_millis(200);
const SELDOM: Duration = Duration::from_mins(1);
/// Pause after nobody has renewed what was due; doubles.
const RETRY: Duration = Duration::from_secs(1);

type Elsewhere = dyn Fn(Arc<Credentials>) -> BoxFuture<'static, Result<Vouching, String>> + Send + Sync;

/// How an agent's own credentials are renewed.
#[derive(Clone)]
pub struct Renewal {
    keep: PathBuf,
    elsewhere: Option<Arc<Elsewhere>>,
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewal").field("keep", &self.keep).finish_non_exhaustive()
    }
}

impl Renewal {
    /// Renewed over NATS and kept in this file.
    pub fn new(keep: impl Into<PathBuf>) -> Self {
        Self { keep: keep.into(), elsewhere: None }
    }

    /// Where NATS does not let the agent in, or is away: another way to the server, which signs or says why not.
    #[must_use]
    pub fn or_elsewhere(
        mut self,
        ask: impl Fn(Arc<Credentials>) -> BoxFuture<'static, Result<Vouching, String>> + Send + Sync + 'static,
    ) -> Self {
        self.elsewhere = Some(Arc::new(ask));
        self
    }
}

/// Renews until the end.
pub(crate) struct Renewer {
    pub(crate) agent: AgentId,
    pub(crate) client: Client,
    /// Its connection to the queues, where that is another.
    pub(crate) queue: Option<Client>,
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) renewal: Option<Renewal>,
}

impl Renewer {
    pub(crate) async fn run(self, stop: Stop) {
        let mut violations = self.client.events().violations();
        let role = Role::Agent { agent: self.agent.clone() };
        // Another version of the program may need other rights; a server that does not know them is asked once.
        let mut strange = true;
        let (mut refused, mut pause) = (false, RETRY);
        loop {
            // Modules first: renewing its own, the agent connects anew.
            let connected = self.client.is_connected();
            let modules = if connected { self.supervisor.renew_modules(strange).await } else { Some(RETRY) };
            let own = self.own(&role, strange, refused).await;
            strange &= !connected;
            let Turn::Next(next) = own else {
                // Whoever is shut out for good asks ever more seldom.
                if !stop.sleep(pause).await {
                    return;
                }
                pause = (pause * 2).min(SELDOM);
                continue;
            };
            (refused, pause) = (false, RETRY);
            let next = [next, modules].into_iter().flatten().min().unwrap_or(SELDOM);
            tokio::select! {
                () = stop.requested() => return,
                () = tokio::time::sleep(next.clamp(OFTEN, SELDOM)) => {}
                // By the server's clock they may have ended before they have by this one.
                _ = violations.recv() => {
                    if !stop.sleep(OFTEN).await {
                        return;
                    }
                    refused = !self.client.is_connected();
                }
            }
        }
    }

    /// Renews the agent's own credentials if they are due.
    async fn own(&self, role: &Role, strange: bool, refused: bool) -> Turn {
        let (Some(renewal), Some(known)) = (&self.renewal, self.client.credentials()) else {
            return Turn::Next(None);
        };
        let half = known.half_life();
        let due = half.is_some_and(|left| left.is_zero() || refused) || strange && !known.permit(role);
        if !due {
            return Turn::Next(half);
        }
        let renewed = match self.over_nats(&known).await {
            Ok(vouching) => Ok(vouching),
            Err(why) => match &renewal.elsewhere {
                Some(ask) => ask(Arc::clone(&known)).await.map_err(|error| format!("{why}; {error}")),
                None => Err(why),
            },
        };
        let taken = renewed.and_then(|vouching| self.take(vouching).map_err(|error| error.to_string()));
        if let Err(error) = taken {
            tracing::warn!(agent = %self.agent, error, ended = known.have_expired(), "credentials not renewed; asked for again");
            return if half.is_some() { Turn::Failed } else { Turn::Next(None) };
        }
        let Some(now) = self.client.credentials() else { return Turn::Next(None) };
        if let Err(error) = file::write_atomic(&renewal.keep, now.text().as_bytes()) {
            tracing::error!(path = %renewal.keep.display(), %error, "renewed credentials not kept: good until this agent ends");
        }
        tracing::info!(agent = %self.agent, "credentials renewed");
        for client in [Some(&self.client), self.queue.as_ref()].into_iter().flatten() {
            if let Err(error) = client.reconnect().await {
                tracing::warn!(%error, "not connected anew");
            }
        }
        Turn::Next(now.half_life())
    }

    /// Has the next connections made with what was signed.
    fn take(&self, vouching: Vouching) -> nats::Result<()> {
        self.client.renew(vouching)?;
        let (Some(queue), Some(renewed)) = (&self.queue, self.client.credentials()) else { return Ok(()) };
        // A server that knows of no rights for the queues alone gives the agent's own, which hold them.
        let jwt = renewed.of_queue().map_or_else(|| renewed.jwt().to_owned(), |own| own.jwt().to_owned());
        queue.renew(jwt.into())
    }

    async fn over_nats(&self, known: &Credentials) -> Result<Vouching, String> {
        if !self.client.is_connected() {
            return Err("NATS does not let this agent in, or is away".to_owned());
        }
        let ask = Ask { v: 1, public_key: known.public_key() };
        let asked: nats::Result<VouchReply> =
            self.client.request_within(&subject::renew(&self.agent), &ask, HeaderMap::new(), WITHIN).await;
        let reply = asked.map_err(|error| error.to_string())?;
        let none = || "the server sent no JWT".to_owned();
        match reply.jwt {
            Some(jwt) => Ok(Vouching { jwt, queue_jwt: reply.queue_jwt }),
            None => Err(reply.error.map_or_else(none, |fault| fault.message)),
        }
    }
}

/// What came of looking.
enum Turn {
    /// What was due was not had.
    Failed,
    /// When the next is due.
    Next(Option<Duration>),
}
