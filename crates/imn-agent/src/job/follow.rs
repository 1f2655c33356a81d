//! One job of the queue, from its delivery to its end.

use std::{pin::pin, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{self, AckKind},
};
use imn_contract::{
    Encoding, ErrorCode, Fault, InstanceId, decode,
    latest::{Attempt, AttemptStatus, ModuleControl, ModuleOp, Task},
    subject,
};
use imn_runtime::{
    clock, nats,
    task::Stop,
    telemetry::{Messaging, Side, Step, TraceParent},
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Jobs, Known,
    board::{Following, Note},
    crashed,
    dispatch::{AGENT_INSTANCE, Dispatch},
    lost,
    pull::settle,
};
use crate::roster::{Claim, Lease, Mark};

/// How often the queue is told that a job is still in work; its patience is 30 s.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// How long the server's word is waited for before it is asked.
const ASK_AFTER: Duration = Duration::from_secs(5);
/// How long an instance that ended in order may still be heard of; and while the agent ends as well, so that there is
/// time to return the job.
const LAST_WORDS: Duration = Duration::from_secs(1);
const LAST_WORDS_ENDING: Duration = Duration::from_millis(150);
/// Times in a row that an instance may deny having a job before it counts as lost.
const DENIALS: u32 = 3;
/// How long a report that this process has received may take to be noted.
const REPORT_IN_HAND: Duration = Duration::from_millis(100);
/// How long past the deadline an instance may end the job by itself before it is told to.
const OVERTIME: Duration = Duration::from_millis(500);
/// How long a job that finds no slot is held until there is one; with what may pass before its instance is watched less
/// than the patience of the queue.
const HOLD: Duration = Duration::from_secs(15);
/// Pauses between offers of a held job while no slot is known to be free: others may have taken what seems to be.
const OFFER_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long a job that was held in vain stays in the queue at least, in milliseconds.
const RETURN_MS: u64 = 250;
/// How long an attempt lasts before the server is told that it has begun. What ends sooner is told once, by its end.
const RUNNING_AFTER: Duration = Duration::from_millis(50);
/// How long a report is tried for.
const REPORT_FOR: Duration = Duration::from_secs(30);
/// Reports of one job that may wait.
const REPORTS: usize = 16;

/// How the watch over one attempt ended.
enum Watched {
    /// The server says that the task is terminal.
    Done,
    /// The instance has reported.
    Reported,
    /// The instance's process has ended, or has lost the job.
    Crashed,
    /// The time is over.
    Expired,
}

/// What is to become of the queue message.
enum Fate {
    /// The task is terminal.
    Finished,
    /// It goes back into the queue for so long.
    Returned(Duration),
    /// Nothing more is done here, the server decides.
    Undecided,
}

impl Jobs {
    /// Does a job that the queue has delivered.
    pub(super) async fn follow(&self, message: &jetstream::Message, claim: Claim, stop: &Stop) {
        let task: Task = match decode(&message.payload, encoding(message)) {
            Ok(task) => task,
            Err(error) => {
                tracing::error!(subject = %message.subject, %error, "queue entry unreadable, taken out");
                settle(message, AckKind::Term).await;
                return;
            }
        };
        if task.agent != self.agent {
            tracing::error!(subject = %message.subject, agent = %task.agent, "queue entry of another agent, taken out");
            settle(message, AckKind::Term).await;
            return;
        }
        // One that is followed already keeps its first delivery: that can still be acknowledged.
        let ttl = Duration::from_millis(task.ttl_ms);
        let redelivered = message.info().is_ok_and(|info| info.delivered > 1);
        let Some(mut following) = self.board.follow(&task.job_id, ttl, redelivered) else { return };
        self.counters.jobs_received(&task.kind);
        let destination = format!("mmn.jobs.q.{}", task.kind);
        let step = Messaging {
            job: Some(task.job_id.as_str()),
            kind: Some(task.kind.as_str()),
            agent: Some(self.agent.as_str()),
            ..Messaging::new("dispatch", Side::Consumer, &destination)
        };
        let step = Step::messaging(step, TraceParent::of(message.headers.as_ref()));
        let (sender, reports) = mpsc::channel(REPORTS);
        let work = async {
            let work = Work { jobs: self, task: &task, message, stop, reports: sender };
            let mut fate = work.run(&mut following, claim).await;
            if matches!(fate, Fate::Undecided) {
                fate = work.verdict(&mut following).await;
            }
            match fate {
                Fate::Finished => {
                    following.finish();
                    // What forgets ids, such as a NATS that was killed, may bring the entry once more.
                    self.board.remember_done(&task.job_id);
                    self.counters.jobs_finished(&task.kind);
                    settle(message, AckKind::Ack).await;
                }
                Fate::Returned(pause) => {
                    self.counters.jobs_returned(&task.kind);
                    settle(message, AckKind::Nak(Some(pause))).await;
                }
                Fate::Undecided => {}
            }
        };
        Box::pin(step.run(async { tokio::join!(work, self.report_all(reports)) })).await;
    }

    /// Publishes reports in order, each until it is acknowledged or too old to matter.
    async fn report_all(&self, mut reports: mpsc::Receiver<Attempt>) {
        while let Some(attempt) = reports.recv().await {
            let Ok(speaker) = InstanceId::new(AGENT_INSTANCE) else { return };
            let subject = subject::attempt(&self.agent, &speaker, &attempt.job_id);
            let status = serde_json::to_value(attempt.status).unwrap_or_default();
            let id = format!(
                "{}.{}.{}.{}",
                attempt.job_id,
                self.agent,
                attempt.attempt,
                status.as_str().unwrap_or_default()
            );
            let until = Instant::now() + REPORT_FOR;
            let mut pause = Duration::from_millis(100);
            while let Err(error) =
                self.client.publish_acked(&subject, &attempt, Some(&id), HeaderMap::new()).await
            {
                if Instant::now() >= until {
                    tracing::warn!(job = %attempt.job_id, %error, "attempt not reported");
                    break;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
        }
    }
}

struct Work<'a> {
    jobs: &'a Jobs,
    task: &'a Task,
    message: &'a jetstream::Message,
    stop: &'a Stop,
    reports: mpsc::Sender<Attempt>,
}

impl<'a> Work<'a> {
    async fn run(&self, following: &mut Following<'_>, claim: Claim) -> Fate {
        let mut claim = Some(claim);
        if following.note() == Note::Done {
            return Fate::Finished;
        }
        if following.memo.reported {
            return Fate::Undecided;
        }
        let mut taken_up = None;
        if following.memo.unclear {
            match self.recover(following).await {
                Ok(lease) => taken_up = lease,
                Err(fate) => return fate,
            }
            if taken_up.is_none()
                && let Some(fate) = in_hand(following).await
            {
                return fate;
            }
        }
        loop {
            let (attempt, lease, told) = if let Some(lease) = taken_up.take() {
                let attempts = following.memo.attempts;
                (attempts.max(1), lease, attempts > 0)
            } else {
                let attempt = following.memo.attempts + 1;
                if attempt > self.task.max_attempts || following.left().is_zero() {
                    return Fate::Undecided;
                }
                let claim = claim.take().unwrap_or_else(|| self.jobs.roster.claim(&self.task.kind));
                match self.hand_out(following, attempt, claim).await {
                    Ok(lease) => (attempt, lease, false),
                    Err(fate) => return fate,
                }
            };
            claim = None;
            following.is_with(Some((&lease.instance, attempt)));
            let instance = lease.instance.clone();
            let watched = self.watch(following, lease, attempt, told).await;
            following.is_with(None);
            match watched {
                Watched::Done => {
                    // The word may have come while the job was handed out, when nobody knew yet whom to tell.
                    self.cancel(&instance).await;
                    if !following.was_reported() {
                        self.unreported(following, &instance);
                    }
                    return Fate::Finished;
                }
                Watched::Reported => return Fate::Undecided,
                Watched::Expired => {
                    self.cancel(&instance).await;
                    self.unreported(following, &instance);
                    return Fate::Undecided;
                }
                Watched::Crashed => {
                    tracing::warn!(job = %self.task.job_id, attempt, %instance, "attempt crashed");
                    self.jobs.counters.jobs_crashed(&self.task.kind);
                    self.report(&instance, attempt, AttemptStatus::Crashed, crashed(&instance)).await;
                }
            }
        }
    }

    /// An instance has been told to end a job of which it has reported nothing.
    fn unreported(&self, following: &Following<'_>, instance: &InstanceId) {
        if following.left().is_zero() {
            self.jobs.roster.note(instance, Mark::Overdue);
        }
        self.jobs.suspect(instance, &self.task.job_id);
    }

    /// Finds out what became of a job that this agent, or the one before it, had in hand.
    async fn recover(&self, following: &mut Following<'_>) -> Result<Option<Lease<'a>>, Fate> {
        let jobs = self.jobs;
        let job = &self.task.job_id;
        let Ok(found) = jobs.dispatcher.who_has(&jobs.roster, &self.task.kind, job).await else {
            return Err(Fate::Returned(jittered(1_000)));
        };
        if !following.memo.counted {
            match jobs.ask(job).await {
                Ok(Known::Terminal) => {
                    if let Some(instance) = &found {
                        self.cancel(instance).await;
                    }
                    return Err(Fate::Finished);
                }
                Ok(Known::Open(attempts)) => {
                    following.memo.attempts = attempts;
                    following.memo.counted = true;
                }
                // One that is in work needs no server to be followed.
                Err(error) if found.is_some() => tracing::debug!(%job, %error, "attempts not counted"),
                // Else only the server knows whether it is decided.
                Err(error) => {
                    tracing::debug!(%job, %error, "state of a job not to be had");
                    return Err(Fate::Returned(jittered(2_000)));
                }
            }
        }
        following.memo.unclear = false;
        let Some(instance) = found else { return Ok(None) };
        tracing::info!(%job, %instance, "job found in work and followed again");
        Ok(jobs.roster.lease(&instance, job))
    }

    /// Hands an attempt to an instance; the claim ends with it.
    async fn hand_out(
        &self,
        following: &mut Following<'_>,
        attempt: u32,
        _claim: Claim,
    ) -> Result<Lease<'a>, Fate> {
        let offer = Messaging {
            job: Some(self.task.job_id.as_str()),
            kind: Some(self.task.kind.as_str()),
            agent: Some(self.jobs.agent.as_str()),
            attempt: Some(attempt),
            ..Messaging::new("hand_out", Side::Client, "mmn.jobs.do")
        };
        let step = Step::messaging(offer, TraceParent::current());
        // Another attempt is no part of the one before, but came of it.
        step.follows(following.memo.handed_out.as_ref());
        following.memo.handed_out = step.traceparent();
        let dispatched = step.run(self.place(following, attempt)).await?;
        match &dispatched {
            Dispatch::Accepted(lease) => step.set("imn.instance", lease.instance.to_string()),
            Dispatch::NoSlot => step.failed_as("no_slot"),
            Dispatch::Refused(_, fault) => step.failed(fault),
            Dispatch::Lost => step.failed_as("lost"),
            Dispatch::Unclear => step.failed_as("unclear"),
        }
        drop(step);
        match dispatched {
            Dispatch::Accepted(lease) => {
                tracing::debug!(job = %self.task.job_id, attempt, instance = %lease.instance, "job handed out");
                following.memo.attempts = attempt;
                Ok(lease)
            }
            Dispatch::NoSlot => Err(Fate::Returned(jittered(RETURN_MS))),
            // What is refused for its target's sake is told at once: it may not be other before the deadline.
            Dispatch::Refused(_, fault) if fault.retryable && !fault.is(ErrorCode::CircuitOpen) => {
                Err(Fate::Returned(jittered(fault.retry_after_ms.unwrap_or(1_000).min(60_000))))
            }
            Dispatch::Refused(by, fault) => {
                following.memo.attempts = attempt;
                let by = by.or_else(|| InstanceId::new(AGENT_INSTANCE).ok());
                if let Some(by) = by {
                    self.report(&by, attempt, AttemptStatus::Rejected, fault).await;
                }
                Err(Fate::Undecided)
            }
            Dispatch::Lost => {
                // It counts, or a job that kills at once would be tried for ever.
                following.memo.attempts = attempt;
                if let Some(fate) = in_hand(following).await {
                    return Err(fate);
                }
                self.jobs.counters.jobs_crashed(&self.task.kind);
                if let Ok(nobody) = InstanceId::new(AGENT_INSTANCE) {
                    self.report(&nobody, attempt, AttemptStatus::Crashed, lost()).await;
                }
                Err(Fate::Returned(jittered(100)))
            }
            Dispatch::Unclear => {
                following.memo.attempts = attempt;
                following.memo.unclear = true;
                Err(Fate::Returned(jittered(1_000)))
            }
        }
    }

    /// Offers an attempt until it has a slot or is refused. While there is none the job is held, for a while, so that it
    /// has the first that becomes free.
    async fn place(&self, following: &mut Following<'_>, attempt: u32) -> Result<Dispatch<'a>, Fate> {
        let roster = &self.jobs.roster;
        let mut room = roster.room(&self.task.kind);
        let mut task = self.task.clone();
        task.attempt = attempt;
        let held_until = Instant::now() + HOLD;
        let (mut pause, longest) = OFFER_AGAIN;
        loop {
            if self.stop.is_requested() {
                return Err(Fate::Returned(jittered(100)));
            }
            room.mark_unchanged();
            task.ttl_ms = following.left().as_millis() as u64;
            let dispatch = self.jobs.dispatcher.dispatch(roster, &task).await;
            if !matches!(dispatch, Dispatch::NoSlot) || Instant::now() >= held_until {
                return Ok(dispatch);
            }
            settle(self.message, AckKind::Progress).await;
            let deadline = Instant::from_std(following.memo.deadline);
            let again = (Instant::now() + pause).min(held_until).min(deadline);
            let mut due = false;
            while !due {
                tokio::select! {
                    note = following.noted() => match note {
                        Note::Done => return Err(Fate::Finished),
                        Note::Reported(_) => return Err(Fate::Undecided),
                        Note::Working => {}
                    },
                    Ok(()) = room.changed() => due = roster.free(&self.task.kind) > 0,
                    () = self.stop.requested() => due = true,
                    () = tokio::time::sleep_until(again) => due = true,
                }
            }
            if following.left().is_zero() {
                return Err(Fate::Undecided);
            }
            pause = (pause * 2).min(longest);
        }
    }

    /// Watches over one attempt. The lease, and with it the slot, is given back at the end.
    /// `told`: the server knows already that it has begun.
    async fn watch(
        &self,
        following: &mut Following<'_>,
        mut lease: Lease<'_>,
        attempt: u32,
        mut told: bool,
    ) -> Watched {
        let deadline = Instant::from_std(following.memo.deadline) + OVERTIME;
        let mut progress = tokio::time::interval_at(Instant::now() + PROGRESS_EVERY, PROGRESS_EVERY);
        let began = clock::now_us();
        let mut running = pin!(tokio::time::sleep(RUNNING_AFTER));
        let mut denials = 0;
        loop {
            match following.note() {
                Note::Done => return Watched::Done,
                Note::Reported(of) if of == attempt => return Watched::Reported,
                _ => {}
            }
            tokio::select! {
                _ = following.noted() => {}
                orderly = lease.ended() => {
                    let patience = if self.stop.is_requested() { LAST_WORDS_ENDING } else { LAST_WORDS };
                    if orderly && following.done_within(patience).await {
                        return Watched::Done;
                    }
                    // What was reported before the end counts.
                    return match following.note() {
                        Note::Done => Watched::Done,
                        Note::Reported(of) if of == attempt => Watched::Reported,
                        _ => Watched::Crashed,
                    };
                }
                () = &mut running, if !told => {
                    told = true;
                    self.report_running(&lease.instance, attempt, began).await;
                }
                () = tokio::time::sleep_until(deadline) => return Watched::Expired,
                _ = progress.tick() => {
                    settle(self.message, AckKind::Progress).await;
                    let has = self.jobs.dispatcher.has(&lease.instance, &self.task.job_id).await;
                    denials = if has == Some(false) { denials + 1 } else { 0 };
                    if denials > 0 && matches!(self.jobs.ask(&self.task.job_id).await, Ok(Known::Terminal)) {
                        return Watched::Done;
                    }
                    if denials >= DENIALS {
                        return Watched::Crashed;
                    }
                }
            }
        }
    }

    /// Tells an instance that nobody wants the job any more.
    async fn cancel(&self, instance: &InstanceId) {
        let op = ModuleOp::Cancel { job_id: self.task.job_id.clone() };
        self.jobs.dispatcher.tell(instance, &ModuleControl { v: 1, op }).await;
    }

    /// Waits for the server's verdict; only the server ends this, or the agent's own end.
    async fn verdict(&self, following: &mut Following<'_>) -> Fate {
        loop {
            if following.done_within(ASK_AFTER).await {
                return Fate::Finished;
            }
            settle(self.message, AckKind::Progress).await;
            if matches!(self.jobs.ask(&self.task.job_id).await, Ok(Known::Terminal)) {
                return Fate::Finished;
            }
        }
    }

    async fn report_running(&self, instance: &InstanceId, attempt: u32, began_us: i64) {
        let mut report = self.attempt(instance, attempt, AttemptStatus::Running);
        report.started = Some(clock::rfc3339(began_us));
        self.tell(report).await;
    }

    async fn report(&self, instance: &InstanceId, attempt: u32, status: AttemptStatus, fault: Fault) {
        let mut report = self.attempt(instance, attempt, status);
        report.finished = Some(clock::now_rfc3339());
        report.error = Some(fault);
        self.tell(report).await;
    }

    async fn tell(&self, report: Attempt) {
        // The receiver lives as long as the work.
        let _ = self.reports.send(report).await;
    }

    fn attempt(&self, instance: &InstanceId, attempt: u32, status: AttemptStatus) -> Attempt {
        Attempt {
            v: 1,
            job_id: self.task.job_id.clone(),
            agent: self.jobs.agent.clone(),
            instance: instance.clone(),
            kind: self.task.kind.clone(),
            target: self.task.target.clone(),
            attempt,
            attempt_token: self.task.attempt_token.clone(),
            status,
            started: None,
            finished: None,
            outcome: serde_json::Value::Null,
            error: None,
        }
    }
}

/// What a job of which nobody knows has come to after all: whoever had it may have ended it just before it was asked,
/// and its report came with the answer.
async fn in_hand(following: &mut Following<'_>) -> Option<Fate> {
    let _ = tokio::time::timeout(REPORT_IN_HAND, following.noted()).await;
    match following.note() {
        Note::Done => Some(Fate::Finished),
        Note::Reported(_) => Some(Fate::Undecided),
        Note::Working => None,
    }
}

fn encoding(message: &jetstream::Message) -> Encoding {
    nats::encoding(message.headers.as_ref())
}

/// This many milliseconds and up to as many again.
fn jittered(ms: u64) -> Duration {
    Duration::from_millis(ms) + Duration::from_millis(ms).mul_f64(rand::random())
}
