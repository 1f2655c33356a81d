//! `imn server`.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use imn_domain::classify;
use imn_runtime::{
    credential::{Authority, Signer},
    file,
    file::StateLock,
    nats,
    task::Signals,
    tls::{self, LocalAuthority},
};
use imn_server::{Config, KnownKey, Role, Server, admit, fresh_token};
use imn_store::{Catalog, EmbeddedConfig, EmbeddedResults, SqlCatalog};

use crate::{
    cli::ServerArgs,
    exit::{Code, Exit},
    settings,
    up::Vouched,
};

/// How long a drain may take: the batches in hand are committed.
const DRAIN: Duration = Duration::from_secs(4);

pub(crate) fn main(args: ServerArgs) -> Result<Code> {
    let _telemetry = super::telemetry("imn-server", "server")?;
    super::follow_parent(args.supervised_by)?;
    super::runtime()?.block_on(run(args))
}

async fn run(args: ServerArgs) -> Result<Code> {
    let mut signals = Signals::listen()?;
    args.serve.check(args.listen)?;
    super::check_database(args.database_url.as_deref())?;
    for target in &args.seed_target {
        classify(target).map_err(|error| Exit::usage(format!("--seed-target: {error}")))?;
    }
    let state = super::state_dir(&args.state)?;
    let _lock = StateLock::acquire(&state)?;
    let catalog = match args.database_url.as_deref() {
        None => SqlCatalog::sqlite(&state.join("catalog.sqlite")).await?,
        Some(url) => SqlCatalog::postgres(url).await?,
    };
    let results = EmbeddedResults::open(&state.join("results"), &catalog, EmbeddedConfig::default()).await?;
    let catalog = Arc::new(catalog);
    match super::secret("--api-key-file", args.api_key_file.as_deref())? {
        Some(key) => admit(&*catalog, "api key file", Role::Admin, &key).await?,
        None => first_key(&*catalog, &state.join("api.key")).await?,
    }
    let nats = super::connection(&args.nats, "server")?;
    let client = nats::Client::connect(&nats).await?;
    let mut config = Config::new(args.listen);
    secure(&mut config, &args, &state)?;
    config.nats = Some(nats);
    config.public_nats = match args.nats_public_url.as_slice() {
        [] => args.nats.nats_url.split(',').map(|url| url.trim().to_owned()).collect(),
        urls => urls.to_vec(),
    };
    config.credential_lifetime = args.serve.credential_lifetime;
    config.known_keys = args.vouched.as_deref().map(vouched).transpose()?.unwrap_or_default();
    config.seed_targets = args.seed_target;
    if let Some(mb) = args.ingest_mb {
        config.streams.ingest = i64::from(mb) << 20;
    }
    config.scrape = settings::scrape_modules()?;
    config.scrape_agent = args.probe_agent;
    config.authority = args.keys_dir.as_deref().map(authority).transpose()?.map(Arc::new);
    config.signer = args.keys_dir.as_deref().map(Signer::open).transpose()?.map(Arc::new);
    if let Some(signer) = &config.signer {
        tracing::info!(
            key = signer.public_key(),
            "agents follow the registry of modules by this --registry-key"
        );
    }
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

/// What the HTTP API is served by, and whom agents of other hosts are to believe.
fn secure(config: &mut Config, args: &ServerArgs, state: &Path) -> Result<()> {
    config.insecure = args.serve.insecure;
    if let (Some(certificates), Some(key)) = (&args.serve.tls_cert, &args.serve.tls_key) {
        config.tls = Some(tls::Server::from_files(certificates, key)?);
    }
    if args.serve.tls {
        let directory = args.keys_dir.as_deref().unwrap_or(state).join("tls");
        let local = LocalAuthority::open(&directory)?;
        config.certificates = Some(local.pem().to_owned());
        config.fingerprint = Some(local.fingerprint());
        tracing::info!(fingerprint = local.fingerprint(), file = %directory.join("ca.pem").display(), "local authority");
        let names = tls::names_of(args.listen.ip(), &args.serve.tls_name);
        config.tls = Some(tls::Server::of_local(local, names)?);
    }
    if let Some(path) = &args.nats_ca {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| Exit::usage(format!("--nats-ca {}: {error}", path.display())))?;
        config.certificates = Some(text);
    }
    Ok(())
}

fn vouched(path: &Path) -> Result<Vec<KnownKey>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let vouched: Vec<Vouched> =
        serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
    let known = |Vouched { agent, instance, public_key, expires_s }| KnownKey {
        agent,
        instance,
        public_key,
        expires_s,
    };
    Ok(vouched.into_iter().map(known).collect())
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
