//! Serving HTTP/1.1: connections are bounded in number, and none waits for its client for ever.

use std::{convert::Infallible, error::Error, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tower_service::Service;

use crate::{task::Stop, tls};

/// Where connections come from: in the clear, or by TLS.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    tls: Option<tls::Server>,
}

impl Listener {
    /// A listener whose connections begin with TLS, where there is some.
    pub fn new(tcp: TcpListener, tls: Option<tls::Server>) -> Self {
        Self { tcp, tls }
    }
}

impl From<TcpListener> for Listener {
    fn from(tcp: TcpListener) -> Self {
        Self::new(tcp, None)
    }
}

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; the kernel keeps a few more waiting.
    pub connections: usize,
    /// How long a client may take to send the head of a request, the first or the next on its connection.
    pub head_within: Duration,
}

impl Default for Limits {
    /// 1,024 connections, 30 seconds.
    fn default() -> Self {
        Self { connections: 1024, head_within: Duration::from_secs(30) }
    }
}

/// Bytes of a connection's buffer at most; a head must fit.
const BUFFER: usize = 64 * 1024;
/// Pause after an error of the host itself, such as too many open files.
const BREATH: Duration = Duration::from_millis(100);
/// How often it is looked whether another certificate is to be shown.
const REFRESH: Duration = Duration::from_hours(1);

/// Serves until the stop; then requests in work are finished and connections closed.
///
/// # Errors
/// When connections cannot be accepted any more.
pub async fn serve<S, B>(
    listener: impl Into<Listener>,
    service: S,
    stop: Stop,
    limits: Limits,
) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let Listener { tcp, tls } = listener.into();
    let room = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let mut refresh = Instant::now() + REFRESH;
    loop {
        let accepted = tokio::select! {
            () = stop.requested() => break,
            Some(_) = connections.join_next() => continue,
            () = sleep_until(refresh) => {
                refresh += REFRESH;
                if let Some(tls) = &tls {
                    tls.refresh();
                }
                continue;
            }
            accepted = accept(&tcp, &room) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let (service, stop, tls) = (service.clone(), stop.clone(), tls.clone());
                connections.spawn(greet(stream, tls, service, stop, limits.head_within, permit));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "connections cannot be accepted");
                if !stop.sleep(BREATH).await {
                    break;
                }
            }
        }
    }
    drop(tcp);
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    if room.available_permits() == 0 {
        tracing::warn!("no room for further HTTP connections until one ends");
    }
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Answers are small, and somebody waits for each.
    let _ = stream.set_nodelay(true);
    Ok((stream, permit))
}

/// Shakes hands where that is the custom, and serves.
async fn greet<S, B>(
    stream: TcpStream,
    tls: Option<tls::Server>,
    service: S,
    stop: Stop,
    head_within: Duration,
    _permit: OwnedSemaphorePermit,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let Some(tls) = tls else { return connection(stream, service, stop, head_within).await };
    let shaken = stop.until(tokio::time::timeout(head_within, tls.accept(stream))).await;
    match shaken {
        Some(Ok(Ok(stream))) => connection(stream, service, stop, head_within).await,
        Some(Ok(Err(error))) => tracing::debug!(%error, "TLS handshake failed"),
        Some(Err(_)) => tracing::debug!("TLS handshake not finished in time"),
        None => {}
    }
}

async fn connection<S, B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: S,
    stop: Stop,
    head_within: Duration,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let service = service_fn(move |request| service.clone().call(request));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_within)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = stop.requested() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "HTTP connection ended");
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
