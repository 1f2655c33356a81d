//! `imn server`.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use imn_runtime::{credential::Authority, file, file::StateLock, nats, task::Signals};
use imn_server::{Config, Role, Server, admit, fresh_token};
use imn_store::{Catalog, EmbeddedConfig, EmbeddedResults, SqlCatalog};

use crate::{
    cli::ServerArgs,
    exit::{Code, Exit},
    settings,
};

/// How long a drain may take: the batches in hand are committed.
const DRAIN: Duration = Duration::from_secs(4);

pub(crate) fn main(args: ServerArgs) -> Result<Code> {
    let _telemetry = super::telemetry("imn-server", "server")?;
    super::follow_parent(args.supervised_by)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(args))
}

async fn run(args: ServerArgs) -> Result<Code> {
    let mut signals = Signals::listen()?;
    let state = super::state_dir(&args.state)?;
    let _lock = StateLock::acquire(&state)?;
    let catalog = match args.database_url.as_deref() {
        None => SqlCatalog::sqlite(&state.join("catalog.sqlite")).await?,
        Some(url) if ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) => {
            SqlCatalog::postgres(url).await?
        }
        Some(_) => {
            return Err(Exit::usage("--database-url: use postgres://USER:PASSWORD@HOST/DATABASE").into());
        }
    };
    let results = EmbeddedResults::open(&state.join("results"), &catalog, EmbeddedConfig::default()).await?;
    let catalog = Arc::new(catalog);
    match super::secret("--api-key-file", args.api_key_file.as_deref())? {
        Some(key) => admit(&*catalog, "api key file", Role::Admin, &key).await?,
        None => first_key(&*catalog, &state.join("api.key")).await?,
    }
    let client = nats::Client::connect(&super::connection(&args.nats, "server")?).await?;
    let mut config = Config::new(args.listen);
    config.seed_targets = args.seed_target;
    config.scrape = settings::scrape_modules()?;
    config.scrape_agent = args.probe_agent;
    config.authority = args.keys_dir.as_deref().map(authority).transpose()?.map(Arc::new);
    let mut running = Server::start(config, client, catalog, Arc::new(results)).await?;
    tokio::select! {
        signal = signals.next() => tracing::info!(signal, "draining"),
        failure = running.failed() => {
            running.drain(DRAIN).await;
            bail!("{failure}");
        }
    }
    Ok(super::ended(&running.drain(DRAIN).await))
}

/// The authority whose keys are there; a server makes none, since NATS would not trust them.
fn authority(directory: &Path) -> Result<Authority> {
    for key in ["operator.nk", "account.nk"] {
        if !directory.join(key).is_file() {
            return Err(Exit::usage(format!("--keys-dir {}: there is no {key}", directory.display())).into());
        }
    }
    Ok(Authority::open(directory)?)
}

/// A new catalog gets a key, or nobody could ever log in.
async fn first_key(catalog: &dyn Catalog, path: &Path) -> Result<()> {
    if catalog.api_keys().await?.is_empty() {
        let key = fresh_token();
        file::write_atomic(path, format!("{key}\n").as_bytes())?;
        admit(catalog, "first start", Role::Admin, &key).await?;
        tracing::info!(file = %path.display(), "first start: an admin's API key is in the file");
    }
    Ok(())
}
