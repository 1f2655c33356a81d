//! DNS over HTTPS (RFC 8484): one POST on HTTP/2.

use std::error::Error as _;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use futures::{StreamExt, stream::FuturesUnordered};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, client::conn::http2, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::config::{Ask, Query};
use super::outcome::{Failure, Outcome};
use super::stream::Tap;

const MEDIA_TYPE: &str = "application/dns-message";
/// A DNS message is not larger.
const LONGEST: usize = 65_535;

/// Asks over a TLS session that stands, and fills in the answer.
pub(super) async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    tap: &Tap,
    authority: &str,
    query: &Query,
    ask: &Ask,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let chores = Chores::default();
    let work = async {
        let (mut sender, connection) =
            http2::handshake(chores.clone(), TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        chores.add(async move {
            // How it ends is told by the request.
            let _ = connection.await;
        });
        let request = Request::post(format!("https://{authority}{}", query.path))
            .header(header::CONTENT_TYPE, MEDIA_TYPE)
            .header(header::ACCEPT, MEDIA_TYPE)
            .body(Full::new(Bytes::copy_from_slice(&ask.bytes)))
            .map_err(|error| Failure::Http(error.to_string()))?;
        sender.ready().await.map_err(|error| failed(&error))?;
        let mut trial = tap.start();
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LONGEST).collect().await;
        let lap = trial.lap();
        outcome.http_status = Some(head.status.as_u16());
        if head.status != StatusCode::OK {
            return Err(Failure::Status(head.status.as_u16()));
        }
        let kind =
            head.headers.get(header::CONTENT_TYPE).map(|kind| String::from_utf8_lossy(kind.as_bytes()));
        if kind.as_deref() != Some(MEDIA_TYPE) {
            let kind: String = kind.as_deref().unwrap_or("none").chars().take(80).collect();
            return Err(Failure::Http(format!("content type {kind} is not {MEDIA_TYPE}")));
        }
        let bytes = body.map_err(|error| Failure::Http(error.to_string()))?.to_bytes().to_vec();
        match ask.judge(&bytes) {
            Ok(answer) => {
                (outcome.phases.query, outcome.source) = (Some(lap.elapsed), lap.source);
                let fault = answer.fault;
                (outcome.answer, outcome.bytes) = (Some(answer), bytes);
                fault.map_or(Ok(()), |fault| Err(fault.into()))
            }
            Err(mismatch) => {
                *outcome.wrong.of(mismatch) += 1;
                Err(Failure::Wrong(outcome.wrong))
            }
        }
    };
    chores.during(work).await
}

fn failed(error: &hyper::Error) -> Failure {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    Failure::Http(format!("{error}{cause}"))
}

type Chore = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What HTTP/2 wants done beside a request. It is done by whoever waits for the request, and ends with it.
#[derive(Clone, Default)]
struct Chores(Arc<Mutex<Vec<Chore>>>);

impl Chores {
    fn add(&self, chore: impl Future<Output = ()> + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(chore));
    }

    fn fresh(&self) -> Vec<Chore> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut running = FuturesUnordered::new();
        std::future::poll_fn(|cx| {
            loop {
                if let Poll::Ready(done) = work.as_mut().poll(cx) {
                    return Poll::Ready(done);
                }
                running.extend(self.fresh());
                while let Poll::Ready(Some(())) = running.poll_next_unpin(cx) {}
                let fresh = self.fresh();
                if fresh.is_empty() {
                    return Poll::Pending;
                }
                running.extend(fresh);
            }
        })
        .await
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Chores {
    fn execute(&self, chore: F) {
        self.add(chore);
    }
}
