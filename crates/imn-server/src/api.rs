//! The HTTP API: routes, what surrounds them, and the OpenAPI document made from them.

mod agents;
mod audit;
mod auth;
mod bgp;
mod column;
mod decode;
mod document;
mod edge;
mod enroll;
mod etag;
mod export;
mod files;
mod history;
mod idempotency;
mod import;
mod jobs;
mod keys;
mod limit;
mod listing;
mod logs;
mod measurable;
mod meta;
mod modules;
mod observed;
mod page;
mod policy;
mod problem;
mod registry;
mod rounds;
mod scrape;
mod target;
mod targets;
mod text;
mod tiers;
mod tokens;
mod watch;
mod why;

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, middleware};
use tokio::{net::TcpListener, sync::Semaphore};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;

pub use auth::{AdmitError, Minted, Role, admit, fresh_token, is_token, mint};
pub use document::openapi;

pub(crate) use auth::{hash, hex};

use imn_runtime::http;

use crate::{context::Context, error::Error};
use idempotency::InFlight;
use limit::Limits;

/// What handlers work with; cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    context: Context,
    limits: Arc<Limits>,
    in_flight: InFlight,
    scrapes: Arc<Semaphore>,
    /// Turns of imports.
    imports: Arc<Semaphore>,
    document: meta::Document,
}

impl Api {
    /// Tells those who assign work that tiers or agents have changed.
    fn changed(&self) {
        self.context.assign.poke();
    }
}

/// The API over the server's parts.
pub(crate) fn router(context: Context) -> Router {
    with_limits(context, Limits::default())
}

fn with_limits(context: Context, limits: Limits) -> Router {
    let api = Api {
        context,
        limits: Arc::new(limits),
        in_flight: InFlight::default(),
        scrapes: Arc::new(Semaphore::new(scrape::AT_ONCE)),
        imports: Arc::new(Semaphore::new(import::AT_ONCE)),
        document: meta::Document(document::text().into()),
    };
    let (guarded, _) = guarded().split_for_parts();
    let (open, _) = meta::routes().merge(scrape::routes()).merge(enroll::routes()).split_for_parts();
    let guarded = guarded
        .route_layer(middleware::from_fn_with_state(api.clone(), idempotency::once))
        .route_layer(middleware::from_fn_with_state(api.clone(), auth::guard));
    open.merge(guarded)
        .layer(middleware::from_fn_with_state(api.clone(), edge::notice_full_disk))
        .with_state(api)
        .layer(CatchPanicLayer::custom(edge::panicked))
        .layer(middleware::from_fn(edge::edge))
}

/// Everything that needs a key.
fn guarded() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .merge(targets::routes())
        .merge(import::routes())
        .merge(export::routes())
        .merge(observed::routes())
        .merge(bgp::routes())
        .merge(watch::routes())
        .merge(tiers::routes())
        .merge(agents::routes())
        .merge(modules::routes())
        .merge(registry::routes())
        .merge(logs::routes())
        .merge(jobs::routes())
        .merge(files::routes())
        .merge(keys::routes())
        .merge(tokens::routes())
        .merge(audit::routes())
}

/// Serves until the end is asked for; requests in work are finished, event streams end.
pub(crate) async fn serve(listener: TcpListener, context: Context) -> std::io::Result<()> {
    let stop = context.stop.clone();
    let listener = http::Listener::new(listener, context.config.tls.clone());
    http::serve(listener, router(context), stop, http::Limits::default()).await
}

/// Refuses an address on which keys would cross a network in the clear.
pub(crate) fn check_listener(address: SocketAddr) -> Result<(), Error> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    let message = format!(
        "plain HTTP is served on loopback only, and {address} is not: API keys would cross the network in the \
         clear; serve TLS with --tls (a certificate of this network's own authority) or --tls-cert and --tls-key, or \
         listen on 127.0.0.1:{}",
        address.port()
    );
    Err(Error::Config { message })
}
