//! The simple interface: `agent.{id}.in` to `.out` and `.error`, admitted by the agent itself, with no server.

mod answer;
mod check;
mod memory;

use std::sync::Arc;

use async_nats::{HeaderMap, Message};
use futures::StreamExt;
use imn_contract::{
    AgentId, ErrorCode, Fault,
    latest::{SimpleError, SimpleReply, SimpleRequest},
    subject,
};
use imn_runtime::{
    nats::{self, Client},
    task::{Stop, Tasks},
};
use tokio::sync::Semaphore;

use crate::{job::Jobs, metrics::Counters};
use memory::{Memory, Place};

/// Requests in work at once; one more is refused.
const AT_ONCE: usize = 256;

/// Either answer of the simple interface.
pub(crate) type Answer = Result<SimpleReply, SimpleError>;

/// Serves simple requests, whichever way they come.
#[derive(Debug)]
pub(crate) struct Simple {
    agent: AgentId,
    client: Client,
    jobs: Arc<Jobs>,
    memory: Memory,
    room: Semaphore,
    counters: Arc<Counters>,
}

impl Simple {
    pub(crate) fn new(agent: AgentId, client: Client, jobs: Arc<Jobs>, counters: Arc<Counters>) -> Self {
        Self { agent, client, jobs, memory: Memory::default(), room: Semaphore::new(AT_ONCE), counters }
    }

    /// Serves the subject until the end; then lets what was admitted end, or is dropped.
    ///
    /// # Errors
    /// When the subject cannot be subscribed to.
    pub(crate) async fn run(self: Arc<Self>, stop: Stop) -> Result<(), nats::Error> {
        let mut requests = self.client.subscribe(&subject::simple_in(&self.agent)).await?;
        let mut tasks = Tasks::new();
        while let Some(Some(message)) = stop.until(requests.next()).await {
            // Room for the measurement is asked for later; this bounds what a flood can make of itself.
            if tasks.len() >= 2 * AT_ONCE {
                self.publish(&message, Err(flooded(request_id(&message)))).await;
                continue;
            }
            let this = Arc::clone(&self);
            tasks.spawn("simple request", async move {
                let answer = match nats::decode::<SimpleRequest>(&message) {
                    Ok(request) => this.serve(request).await,
                    Err(fault) => Err(error(request_id(&message), fault)),
                };
                this.publish(&message, answer).await;
            });
        }
        // The end of the subscription would be that of the connection.
        while tasks.next().await.is_some() {}
        Ok(())
    }

    /// Checks a request and has it done. A repetition of one seen within ten minutes is answered from the first.
    ///
    /// # Errors
    /// A refusal or failure in the form of the simple interface.
    pub(crate) async fn serve(&self, request: SimpleRequest) -> Answer {
        self.counters.simple_received();
        let id = request.request_id.clone();
        let order = check::order(&request).map_err(|fault| error(id.clone(), fault))?;
        let Some(id) = id else {
            let id = ulid::Ulid::generate().to_string();
            return self.measure(&request, order, &id).await;
        };
        match self.memory.enter(&id, &request) {
            Place::Conflict => {
                let message = format!("request_id {id:?} was used within ten minutes with another body");
                Err(error(Some(id), Fault::new(ErrorCode::Conflict, message).at("request_id")))
            }
            Place::Full => Err(flooded(Some(id))),
            Place::Repetition(first) => match first.answer().await {
                Some(answer) => answer,
                None => Err(error(
                    Some(id),
                    Fault::new(ErrorCode::Unavailable, "the first request of this id was given up"),
                )),
            },
            Place::First(entry) => {
                let answer = self.measure(&request, order, &id).await;
                entry.settle(&answer);
                // What may go better the next time is not held against the mark.
                if answer.as_ref().is_err_and(|refusal| matches!(refusal.code, 429 | 503)) {
                    self.memory.forget(&id);
                }
                answer
            }
        }
    }

    async fn measure(&self, request: &SimpleRequest, order: crate::job::DirectOrder, id: &str) -> Answer {
        let Ok(_room) = self.room.try_acquire() else { return Err(flooded(Some(id.to_owned()))) };
        let kind = order.kind.clone();
        match self.jobs.run_direct(order).await {
            Ok(outcome) => Ok(answer::reply(request, &kind, outcome, id)),
            Err(fault) => Err(error(Some(id.to_owned()), fault)),
        }
    }

    /// Publishes an answer where it belongs, and answers a request directly as well.
    async fn publish(&self, request: &Message, answer: Answer) {
        let out = subject::simple_out(&self.agent);
        let errors = subject::simple_error(&self.agent);
        let mut headers = HeaderMap::new();
        let encoding = nats::encoding(request.headers.as_ref());
        headers.insert(imn_contract::header::CONTENT_TYPE, encoding.content_type());
        let published = match &answer {
            Ok(reply) => {
                let sent = self.client.publish_with(&out, reply, headers).await;
                sent.and(self.client.respond(request, reply).await)
            }
            Err(refusal) => {
                self.counters.simple_refused();
                let fault = Fault {
                    code: refusal.code,
                    name: refusal.name.clone(),
                    message: refusal.message.clone(),
                    field: refusal.field.clone(),
                    retryable: false,
                    retry_after_ms: None,
                };
                let sent = self.client.publish_with(&errors, refusal, headers).await;
                sent.and(self.client.respond_fault(request, refusal, &fault).await)
            }
        };
        if let Err(error) = published {
            tracing::warn!(%error, "simple answer not published");
        }
    }
}

fn error(request_id: Option<String>, fault: Fault) -> SimpleError {
    let Fault { code, name, message, field, .. } = fault;
    SimpleError { v: 1, request_id, code, name, message, field }
}

fn flooded(request_id: Option<String>) -> SimpleError {
    let message = format!("more than {AT_ONCE} requests at once; try again later");
    error(request_id, Fault::new(ErrorCode::Saturated, message))
}

/// The client's mark in a body that is otherwise unreadable.
fn request_id(message: &Message) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(&message.payload).ok()?;
    Some(value.get("request_id")?.as_str()?.chars().take(check::LONGEST_ID).collect())
}
