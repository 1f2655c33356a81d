//! Taking jobs of one type from the queue: no credit, no pull, so that a backlog stays where it can be seen.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_nats::{
    Message as Raw, StatusCode, Subscriber,
    jetstream::{
        self, AckKind,
        consumer::{PullConsumer, pull},
    },
};
use futures::StreamExt;
use imn_contract::{ModuleType, stream};
use imn_runtime::{
    nats,
    task::{Stop, Tasks},
};
use tokio::time::Instant;

use super::Jobs;

/// How long one request for jobs stands at the server.
const PULL_FOR: Duration = Duration::from_secs(30);
/// How long past that its end may take to arrive.
const PULL_LATE: Duration = Duration::from_secs(5);
/// Jobs asked for at once, at most.
const PULL_MOST: u32 = 256;
/// Pauses between looks for a queue that the server has not made yet.
const QUEUE_RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How long what was on its way may take to arrive after the end.
const LAST_WITHIN: Duration = Duration::from_secs(1);

/// Pulls and follows the jobs of a type until the end; then until those in work have ended.
pub(super) async fn run(jobs: Arc<Jobs>, kind: ModuleType, stop: Stop) {
    let mut pull = Pull { jobs, kind, followed: Tasks::new() };
    if let Some(Some(mut inbox)) = stop.until(pull.subscribe()).await {
        stop.until(pull.pull(&mut inbox, &stop)).await;
        pull.give_back(inbox).await;
    }
    while pull.followed.next().await.is_some() {}
}

struct Pull {
    jobs: Arc<Jobs>,
    kind: ModuleType,
    followed: Tasks,
}

/// Where jobs arrive that were asked for.
struct Inbox {
    subject: String,
    messages: Subscriber,
}

/// What an answer to a request for jobs is.
enum Answer {
    Job(Raw),
    /// So many of the jobs that were asked for will not come by this request.
    Ended(u32),
    /// There is no such queue any more.
    Gone,
    Idle,
}

impl Pull {
    /// An inbox, as soon as it can be had; none when the connection is no more.
    async fn subscribe(&self) -> Option<Inbox> {
        let mut connected = self.jobs.client.events().connected();
        loop {
            connected.wait_for(|up| *up).await.ok()?;
            let subject = self.jobs.client.inner().new_inbox();
            match self.jobs.client.subscribe(&subject).await {
                Ok(messages) => return Some(Inbox { subject, messages }),
                Err(error) => tracing::debug!(kind = %self.kind, %error, "jobs cannot be asked for"),
            }
            tokio::time::sleep(QUEUE_RETRY.0).await;
        }
    }

    /// Keeps as many jobs asked for as there are slots for them. Of those that were asked for before slots went, each that
    /// comes is held until there is one.
    async fn pull(&mut self, inbox: &mut Inbox, stop: &Stop) {
        let mut room = self.jobs.roster.room(&self.kind);
        let mut connected = self.jobs.client.events().connected();
        let mut queue = None;
        let mut asked = Asked::default();
        loop {
            // The server forgets requests when the connection goes.
            if !*connected.borrow() {
                asked = Asked::default();
                if connected.wait_for(|up| *up).await.is_err() {
                    return;
                }
            }
            room.mark_unchanged();
            asked.forget(Instant::now());
            let credit = self.jobs.roster.credit(&self.kind).min(PULL_MOST);
            // Few requests for many jobs each, as long as enough are asked for.
            if credit > 0 && asked.jobs() * 2 <= credit {
                let queue = match &queue {
                    Some(queue) => queue,
                    None => queue.insert(self.queue().await),
                };
                let more = credit - asked.jobs();
                let request =
                    pull::BatchConfig { batch: more as usize, expires: Some(PULL_FOR), ..Default::default() };
                match queue.request_batch(request, inbox.subject.as_str().into()).await {
                    Ok(()) => asked.add(more, Instant::now()),
                    Err(error) => {
                        tracing::debug!(kind = %self.kind, %error, "jobs cannot be asked for");
                        tokio::time::sleep(QUEUE_RETRY.0).await;
                    }
                }
            }
            tokio::select! {
                message = inbox.messages.next() => match message.map(answer) {
                    Some(Answer::Job(message)) => {
                        asked.came(1);
                        self.follow(message, stop);
                    }
                    Some(Answer::Ended(left)) => asked.came(left),
                    Some(Answer::Gone) => {
                        asked = Asked::default();
                        queue = None;
                        tokio::time::sleep(QUEUE_RETRY.0).await;
                    }
                    Some(Answer::Idle) => {}
                    None => return,
                },
                Ok(()) = room.changed() => {}
                Ok(()) = connected.changed() => asked = Asked::default(),
                () = tokio::time::sleep_until(asked.until()) => {}
            }
        }
    }

    /// What is delivered has a claim on a slot from here on.
    fn follow(&mut self, message: Raw, stop: &Stop) {
        let (jobs, stop) = (Arc::clone(&self.jobs), stop.clone());
        let claim = jobs.roster.claim(&self.kind);
        let message = jetstream::Message { message, context: jobs.client.jetstream() };
        self.followed.spawn("job", async move { jobs.follow(&message, claim, &stop).await });
    }

    /// What has been delivered and was not begun goes back at once.
    async fn give_back(&self, mut inbox: Inbox) {
        if inbox.messages.drain().await.is_err() {
            return;
        }
        while let Ok(Some(message)) = tokio::time::timeout(LAST_WITHIN, inbox.messages.next()).await {
            if let Answer::Job(message) = answer(message) {
                let message = jetstream::Message { message, context: self.jobs.client.jetstream() };
                settle(&message, AckKind::Nak(None)).await;
            }
        }
    }

    /// This agent's consumer of the type's queue, as soon as the server has made it.
    async fn queue(&self) -> PullConsumer {
        let (mut pause, longest) = QUEUE_RETRY;
        let (name, consumer) = (stream::jobs(&self.kind), stream::jobs_consumer(&self.jobs.agent));
        loop {
            let context: jetstream::Context = self.jobs.client.jetstream();
            match context.get_consumer_from_stream::<pull::Config, _, _>(&consumer, &name).await {
                Ok(found) => return found,
                Err(error) => tracing::debug!(kind = %self.kind, %error, "no queue of this type yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }
}

fn answer(message: Raw) -> Answer {
    match message.status {
        None | Some(StatusCode::OK) => Answer::Job(message),
        Some(StatusCode::IDLE_HEARTBEAT) => Answer::Idle,
        Some(_) => match nats::header_of(&message, "Nats-Pending-Messages").map(str::parse) {
            Some(Ok(left)) => Answer::Ended(left),
            // Deleted, or nobody answers for it.
            _ => Answer::Gone,
        },
    }
}

/// The jobs that have been asked for and have not come.
#[derive(Debug, Default)]
struct Asked {
    /// How many by each request, and until when it stands; the oldest first.
    requests: VecDeque<(Instant, u32)>,
}

impl Asked {
    fn jobs(&self) -> u32 {
        self.requests.iter().map(|(_, jobs)| jobs).sum()
    }

    fn add(&mut self, jobs: u32, now: Instant) {
        self.requests.push_back((now + PULL_FOR + PULL_LATE, jobs));
    }

    /// So many have come, or will not come. By which request does not matter: all stand for the same time.
    fn came(&mut self, mut jobs: u32) {
        while let Some((_, left)) = self.requests.front_mut() {
            let met = jobs.min(*left);
            *left -= met;
            jobs -= met;
            if *left > 0 {
                return;
            }
            self.requests.pop_front();
        }
    }

    /// Requests whose end has not been heard of in time have none.
    fn forget(&mut self, now: Instant) {
        while self.requests.front().is_some_and(|(until, _)| *until <= now) {
            self.requests.pop_front();
        }
    }

    /// When the oldest is to be forgotten; far away without any.
    fn until(&self) -> Instant {
        self.requests.front().map_or_else(|| Instant::now() + PULL_FOR, |(until, _)| *until)
    }
}

/// Answers a queue message; what is lost is delivered again.
pub(super) async fn settle(message: &jetstream::Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        tracing::debug!(%error, "queue message not answered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_counted_until_it_comes_ends_or_is_overdue() {
        let (mut asked, start) = (Asked::default(), Instant::now());
        asked.add(4, start);
        asked.add(2, start + Duration::from_secs(10));
        assert_eq!(asked.jobs(), 6);
        asked.came(3);
        assert_eq!(asked.jobs(), 3);
        // The first request ends with one left, and its end is told.
        asked.came(1);
        assert_eq!(asked.jobs(), 2);
        asked.forget(start + PULL_FOR + PULL_LATE);
        assert_eq!(asked.jobs(), 2, "the second stands longer");
        asked.forget(start + PULL_FOR + PULL_LATE + Duration::from_secs(10));
        assert_eq!(asked.jobs(), 0);
        asked.came(1);
        assert_eq!(asked.jobs(), 0);
    }
}
