//! The bench on which a candidate is tried: its process, and the other side of its conversations.

use std::{
    fs::File,
    io,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Duration,
};

use async_nats::{HeaderMap, Message as Raw, Subscriber, jetstream::stream};
use futures::StreamExt;
use imn_contract::{
    AgentId, Encoding, Fault, InstanceId, JobId, Message, encode,
    latest::{Announce, AnnounceEvent, Attempt, ControlReply, Health, ModuleConfig, Task, TaskReply},
    stream as names, subject,
};
use imn_runtime::{
    credential::{Credentials, Role},
    nats::{self, Client},
    process::{Identity, Signal},
};
use serde_json::{Map, Value};
use tokio::{io::AsyncWriteExt, process::Child, time::timeout};

use super::{Candidate, Place};
use crate::{Error, Result};

const AGENT: &str = "check";
/// How long an answer may take; the contract's.
const ANSWER: Duration = Duration::from_millis(500);
/// How long a job may take that is to succeed.
pub(super) const JOB: Duration = Duration::from_secs(10);
const TOKEN: &str = "token-of-the-check";

pub(super) struct Bench {
    pub(super) candidate: Candidate,
    pub(super) client: Client,
    pub(super) agent: AgentId,
    pub(super) instance: InstanceId,
    pub(super) credentials: Credentials,
    pub(super) announcements: Subscriber,
    pub(super) health: Subscriber,
    attempts: Subscriber,
    nats_url: String,
    log: File,
    child: Option<Child>,
    jobs: u32,
}

/// An answer to a task or a control request, with its headers.
pub(super) struct Answer {
    pub(super) body: Value,
    /// `Nats-Service-Error-Code`.
    pub(super) code: Option<String>,
}

impl Bench {
    pub(super) async fn start(candidate: &Candidate, place: &Place<'_>) -> Result<Self> {
        let failed = |source: io::Error| Error::Start { program: candidate.program.clone(), source };
        let key = |error: imn_runtime::credential::Error| failed(io::Error::other(error.to_string()));
        let agent = AgentId::new(AGENT).map_err(|source| Error::Name { kind: AGENT.to_owned(), source })?;
        let instance = InstanceId::slot(&agent, &candidate.kind, 0)
            .map_err(|source| Error::Name { kind: candidate.kind.to_string(), source })?;
        let role =
            Role::Module { agent: agent.clone(), kind: candidate.kind.clone(), instance: instance.clone() };
        let credentials = place.authority.issue(&role, None).map_err(key)?;
        let own = place.authority.issue(&Role::Server, None).map_err(key)?;
        let client = Client::connect(&nats::Config {
            credentials: Some(own.text()),
            inbox_prefix: own.inbox_prefix().to_owned(),
            ..nats::Config::new(place.nats_url.clone(), "conformance")
        })
        .await?;
        let mut connected = client.events().connected();
        // The client itself holds the other end.
        let _ = timeout(JOB, connected.wait_for(|up| *up)).await;
        client
            .ensure_stream(stream::Config {
                name: names::ATTEMPTS.to_owned(),
                subjects: vec![subject::ATTEMPT_ALL.to_owned()],
                max_bytes: 16 << 20,
                ..stream::Config::default()
            })
            .await?;
        let bench = Self {
            announcements: client.subscribe(subject::ANNOUNCE).await?,
            health: client.subscribe(subject::HEALTH_ALL).await?,
            attempts: client.subscribe(subject::ATTEMPT_ALL).await?,
            candidate: candidate.clone(),
            agent,
            instance,
            credentials,
            client,
            nats_url: place.nats_url.clone(),
            log: File::create(&place.log).map_err(failed)?,
            child: None,
            jobs: 0,
        };
        bench.client.round_trip(JOB).await?;
        Ok(bench)
    }

    /// Starts the candidate as an agent does.
    pub(super) async fn launch(&mut self) -> std::result::Result<(), String> {
        let worded = |error: io::Error| format!("it cannot be started: {error}");
        let mut command = Command::new(&self.candidate.program);
        command.args(&self.candidate.args).env_clear().process_group(0);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.stdin(Stdio::piped()).stdout(self.log.try_clone().map_err(worded)?);
        command.stderr(self.log.try_clone().map_err(worded)?);
        let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().map_err(worded)?;
        let config = ModuleConfig {
            v: 1,
            agent: self.agent.clone(),
            kind: self.candidate.kind.clone(),
            instance: self.instance.clone(),
            nats_url: self.nats_url.clone(),
            creds: Some(self.credentials.text()),
            nats_ca: None,
            inbox_prefix: self.credentials.inbox_prefix().to_owned(),
            config: Map::new(),
            slots: None,
            assignments: None,
            spool: None,
            partitions: 1,
        };
        let text = encode(&config, Encoding::Json).map_err(|error| error.to_string())?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ends at once is seen to say nothing.
            let _ = stdin.write_all(&text).await;
        }
        self.child = Some(child);
        Ok(())
    }

    /// SIGTERM, and how it ended; `None` when it did not within the time that an agent gives it.
    pub(super) async fn terminate(&mut self, within: Duration) -> Option<std::process::ExitStatus> {
        let mut child = self.child.take()?;
        if let Some(identity) = child.id().and_then(Identity::of) {
            // A failure means that it has ended already.
            let _ = identity.signal(Signal::SIGTERM);
        }
        let ended = timeout(within, child.wait()).await;
        if ended.is_err() {
            // It is killed with what it has left behind, and started anew by who wants it.
            sweep(&mut child).await;
        }
        ended.ok()?.ok()
    }

    pub(super) async fn end(mut self) {
        if let Some(mut child) = self.child.take() {
            sweep(&mut child).await;
        }
    }

    /// A task that nobody has had yet.
    pub(super) fn task(&mut self, params: &Map<String, Value>, ttl: Duration) -> Task {
        self.jobs += 1;
        Task {
            v: 1,
            job_id: JobId::generate(),
            kind: self.candidate.kind.clone(),
            target: self.candidate.target.clone(),
            params: params.clone(),
            agent: self.agent.clone(),
            attempt: 1,
            attempt_token: TOKEN.to_owned(),
            ttl_ms: ttl.as_millis() as u64,
            max_attempts: 3,
            direct: false,
        }
    }

    /// A task as it is by default: one that succeeds.
    pub(super) fn plain(&mut self) -> Task {
        self.task(&self.candidate.params.clone(), JOB)
    }

    /// A task that takes a second or more.
    pub(super) fn slow(&mut self, ttl: Duration) -> Task {
        let params = self.candidate.slow.clone().unwrap_or_default();
        self.task(&params, ttl)
    }

    /// Offers a task to the queue group.
    pub(super) async fn offer(&self, task: &Task) -> std::result::Result<TaskReply, String> {
        let payload = encode(task, Encoding::Json).map_err(|error| error.to_string())?;
        let answer = self.ask(&subject::work(&self.agent, &task.kind), payload.to_vec()).await?;
        serde_json::from_value(answer.body.clone()).map_err(|error| format!("{}: {error}", answer.body))
    }

    pub(super) async fn accepted(&self, task: &Task) -> std::result::Result<(), String> {
        let reply = self.offer(task).await?;
        match reply {
            TaskReply { accepted: true, instance: Some(instance), attempt, .. } => {
                same("instance", &instance, &self.instance)?;
                same("attempt", &attempt, &Some(task.attempt))
            }
            TaskReply { error, .. } => Err(format!("it refused the task: {}", worded(error.as_ref()))),
        }
    }

    /// The refusal of a task, by body and header alike.
    pub(super) async fn refused(
        &self,
        subject: &str,
        payload: Vec<u8>,
    ) -> std::result::Result<Fault, String> {
        let answer = self.ask(subject, payload).await?;
        let reply: TaskReply = serde_json::from_value(answer.body.clone())
            .map_err(|error| format!("{}: {error}", answer.body))?;
        let TaskReply { accepted: false, error: Some(fault), .. } = reply else {
            return Err(format!("it did not refuse: {}", answer.body));
        };
        match answer.code {
            Some(code) if code == fault.code.to_string() => Ok(fault),
            code => Err(format!(
                "the header Nats-Service-Error-Code is {code:?}, the error's code {}",
                fault.code
            )),
        }
    }

    /// A control request.
    pub(super) async fn control(&self, body: &Value) -> std::result::Result<ControlReply, String> {
        let subject = subject::module_control(&self.agent, &self.instance);
        let answer = self.ask(&subject, body.to_string().into_bytes()).await?;
        serde_json::from_value(answer.body.clone()).map_err(|error| format!("{}: {error}", answer.body))
    }

    pub(super) async fn ask(&self, subject: &str, payload: Vec<u8>) -> std::result::Result<Answer, String> {
        let request = async_nats::Request::new()
            .payload(payload.into())
            .headers(HeaderMap::new())
            .timeout(Some(ANSWER));
        let message = self.client.inner().send_request(subject.to_owned(), request).await;
        let message = message
            .map_err(|error| format!("no answer on {subject} within {} ms: {error}", ANSWER.as_millis()))?;
        let body = serde_json::from_slice(&message.payload)
            .map_err(|error| format!("its answer on {subject} is no JSON: {error}"))?;
        let code = nats::header_of(&message, "Nats-Service-Error-Code").map(str::to_owned);
        Ok(Answer { body, code })
    }

    /// The verdict on an attempt; what is said of others is passed over.
    pub(super) async fn verdict(
        &mut self,
        task: &Task,
        within: Duration,
    ) -> std::result::Result<(Attempt, Raw), String> {
        let wanted = subject::attempt(&self.agent, &self.instance, &task.job_id);
        let found = timeout(within, async {
            while let Some(message) = self.attempts.next().await {
                if message.subject.as_str() == wanted {
                    return Some(message);
                }
            }
            None
        });
        let message = found.await.ok().flatten();
        let message =
            message.ok_or_else(|| format!("no report on {wanted} within {} s", within.as_secs_f64()))?;
        Ok((read(&message)?, message))
    }

    pub(super) async fn announced(
        &mut self,
        event: AnnounceEvent,
        within: Duration,
    ) -> std::result::Result<(Announce, Raw), String> {
        let next = timeout(within, self.announcements.next()).await;
        let message = next.ok().flatten().ok_or_else(|| format!("{event:?} was not announced in time"))?;
        let announce: Announce = read(&message)?;
        same("event", &announce.event, &event)?;
        same("instance", &announce.instance, &self.instance)?;
        same("agent", &announce.agent, &self.agent)?;
        same("type", &announce.kind, &self.candidate.kind)?;
        Ok((announce, message))
    }

    pub(super) async fn well(&mut self, within: Duration) -> std::result::Result<Health, String> {
        let next = timeout(within, self.health.next()).await;
        let message = next.ok().flatten();
        let message = message.ok_or_else(|| format!("no health within {} s", within.as_secs()))?;
        same("subject", &message.subject.as_str(), &subject::health(&self.instance).as_str())?;
        read(&message)
    }
}

/// Kills a process and its group; either may have ended by itself.
async fn sweep(child: &mut Child) {
    if let Some(pid) = child.id() {
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
    let _ = child.kill().await;
}

impl Drop for Bench {
    /// Where nobody waits for the end, its group is not left behind either.
    fn drop(&mut self) {
        if let Some(pid) = self.child.as_ref().and_then(Child::id) {
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}

fn read<M: Message>(message: &Raw) -> std::result::Result<M, String> {
    nats::decode(message).map_err(|fault| format!("{} is malformed: {fault}", message.subject))
}

/// That something is as it must be.
pub(super) fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    expected: &T,
) -> std::result::Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what} is {found:?} and must be {expected:?}")) }
}

pub(super) fn worded(fault: Option<&Fault>) -> String {
    fault.map_or_else(|| "without a reason".to_owned(), |fault| format!("{} {}", fault.code, fault.message))
}
