//! The services on `mmn.jobs.submit`, `mmn.jobs.get.*` and `mmn.jobs.cancel.*`.

use async_nats::{Message as Raw, Subscriber};
use futures::StreamExt;
use imn_contract::{
    ErrorCode, Fault, JobId,
    latest::{JobRequest, JobView, Submit, SubmitReply},
    subject,
};
use imn_runtime::{nats, task::Stop, telemetry::TraceParent};

use super::{Desk, NO_SPACE};
use crate::metrics::label;

/// Requests worked on at once, per service.
const WIDTH: usize = 256;

impl Desk {
    /// Answers requests, as one of the servers, until `stop`, and then those that are under way.
    pub(crate) async fn serve(self, stop: Stop) -> nats::Result<()> {
        let client = &self.shared.client;
        let submit = client.queue_subscribe(subject::SUBMIT, subject::SERVER_QUEUE).await?;
        let get = client.queue_subscribe(subject::GET_ALL, subject::SERVER_QUEUE).await?;
        let cancel = client.queue_subscribe(subject::CANCEL_ALL, subject::SERVER_QUEUE).await?;
        let until = |subscriber: Subscriber| {
            let stop = stop.clone();
            subscriber.take_until(Box::pin(async move { stop.requested().await }))
        };
        let (submits, gets, cancels) = (self.clone(), self.clone(), self);
        tokio::join!(
            until(submit).for_each_concurrent(WIDTH, move |request| submits.clone().on_submit(request)),
            until(get).for_each_concurrent(WIDTH, move |request| gets.clone().on_get(request)),
            until(cancel).for_each_concurrent(WIDTH, move |request| cancels.clone().on_cancel(request)),
        );
        Ok(())
    }

    async fn on_submit(self, request: Raw) {
        let answer = match nats::decode::<Submit>(&request) {
            Ok(submit) => self.submit(submit, TraceParent::of(request.headers.as_ref())).await,
            Err(fault) => Err(self.garbage("submit", fault)),
        };
        let sent = match answer {
            Ok(reply) => self.shared.client.respond(&request, &reply).await,
            Err(fault) => {
                let fault = on_wire(fault);
                let reply = SubmitReply {
                    v: 1,
                    status: fault.code,
                    job_id: None,
                    state: None,
                    result_subject: None,
                    agents: Vec::new(),
                    error: Some(fault.clone()),
                };
                self.shared.client.respond_fault(&request, &reply, &fault).await
            }
        };
        warn(sent);
    }

    async fn on_get(self, request: Raw) {
        let answer = match self.job_of(&request) {
            Ok(id) => self.get(&id).await,
            Err(fault) => Err(fault),
        };
        self.answer(&request, answer).await;
    }

    async fn on_cancel(self, request: Raw) {
        let answer = match self.job_of(&request) {
            Ok(id) => self.cancel(&id).await,
            Err(fault) => Err(fault),
        };
        self.answer(&request, answer).await;
    }

    fn job_of(&self, request: &Raw) -> Result<JobId, Fault> {
        if !request.payload.is_empty() {
            nats::decode::<JobRequest>(request).map_err(|fault| self.garbage("job-request", fault))?;
        }
        JobId::new(subject::last_token(&request.subject))
            .map_err(|error| self.garbage("job-request", Fault::invalid("job_id", error.to_string())))
    }

    async fn answer(&self, request: &Raw, answer: Result<JobView, Fault>) {
        let sent = match answer {
            Ok(view) => self.shared.client.respond(request, &view).await,
            Err(fault) => {
                let fault = on_wire(fault);
                let view = JobView {
                    v: 1,
                    status: fault.code,
                    job_id: None,
                    state: None,
                    kind: None,
                    target: None,
                    created: None,
                    tasks: Vec::new(),
                    error: Some(fault.clone()),
                };
                self.shared.client.respond_fault(request, &view, &fault).await
            }
        };
        warn(sent);
    }

    fn garbage(&self, kind: &str, fault: Fault) -> Fault {
        self.shared.metrics.garbage.get_or_create(&label("kind", kind)).inc();
        fault
    }
}

/// A fault by its name in the contract.
fn on_wire(fault: Fault) -> Fault {
    if fault.name == NO_SPACE {
        return Fault { name: ErrorCode::Unavailable.name().to_owned(), ..fault };
    }
    fault
}

fn warn(sent: nats::Result<()>) {
    if let Err(error) = sent {
        tracing::warn!(%error, "answer not sent");
    }
}
