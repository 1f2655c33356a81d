//! Where records go.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};
use async_nats::HeaderMap;
use bytes::Bytes;
use imn_runtime::nats::Client;
use imn_sink::record::{Probe, Record};

use crate::{
    cli::{NatsArgs, OutArgs, Output as Choice},
    exit::{Code, Exit},
    role,
};

/// How long nats-server may take to say that it has what was sent; longer, and what waits is sent once it is back.
const ARRIVAL: Duration = Duration::from_secs(3);

/// A place that is open.
pub(super) struct Output {
    place: Place,
    probe: Probe,
}

enum Place {
    Stdout(io::Stdout),
    File { file: File, path: PathBuf },
    Nats { client: Box<Client>, prefix: String },
}

impl Output {
    pub(super) async fn open(args: &OutArgs, probe: &Probe) -> Result<Self> {
        let kafka = args.kafka_brokers.is_some();
        let place = match args.output.unwrap_or(if kafka { Choice::Kafka } else { Choice::Stdout }) {
            Choice::Kafka => {
                let text = "this build has no Kafka yet; use --output stdout, file or nats";
                return Err(Exit::usage(format!("--output kafka: {text}")).into());
            }
            Choice::Stdout => Place::Stdout(io::stdout()),
            Choice::File => Place::File {
                file: OpenOptions::new().create(true).append(true).open(&args.output_file).map_err(
                    |error| Exit::usage(format!("--output-file {}: {error}", args.output_file.display())),
                )?,
                path: args.output_file.clone(),
            },
            Choice::Nats => {
                let nats = NatsArgs { nats_url: args.nats_url.clone(), nats_creds: args.nats_creds.clone() };
                let config = role::connection(&nats, &format!("probe {}", probe.id))?;
                Place::Nats {
                    client: Box::new(Client::connect(&config).await?),
                    prefix: args.subject_prefix.trim_end_matches('.').to_owned(),
                }
            }
        };
        Ok(Self { place, probe: probe.clone() })
    }

    pub(super) async fn write(&mut self, record: &Record) -> Result<()> {
        match &mut self.place {
            Place::Stdout(out) => writeln!(out, "{}", record.text)?,
            // One write for each record, so that a line is whole or not there.
            Place::File { file, path } => file
                .write_all(format!("{}\n", record.text).as_bytes())
                .with_context(|| format!("write {}", path.display()))?,
            Place::Nats { client, prefix } => {
                let mut headers = HeaderMap::new();
                for (name, value) in record.headers(&self.probe) {
                    // What no header may hold stands in the record.
                    if let Ok(value) = value.parse::<async_nats::HeaderValue>() {
                        headers.insert(name, value);
                    }
                }
                let subject = format!("{prefix}.{}", record.topic);
                let payload = Bytes::from(record.text.clone().into_bytes());
                if let Err(error) = client.publish_bytes(&subject, payload, headers).await {
                    tracing::error!(%error, "record not published");
                }
            }
        }
        Ok(())
    }

    /// Has what was written so far arrive.
    pub(super) async fn flush(&mut self) -> Result<()> {
        match &mut self.place {
            Place::Stdout(out) => out.flush()?,
            Place::File { file, path } => {
                file.sync_data().with_context(|| format!("write {}", path.display()))?;
            }
            Place::Nats { client, .. } => {
                if let Err(error) = arrive(client).await {
                    tracing::error!(error, "records not published yet");
                }
            }
        }
        Ok(())
    }

    /// Finds out whether records would arrive.
    ///
    /// # Errors
    /// Why they would not.
    pub(super) async fn reach(&mut self) -> Result<()> {
        match &self.place {
            Place::Stdout(_) | Place::File { .. } => self.flush().await,
            Place::Nats { client, .. } => {
                arrive(client).await.map_err(|error| Exit::new(Code::Error, error).into())
            }
        }
    }
}

async fn arrive(client: &Client) -> Result<(), String> {
    match tokio::time::timeout(ARRIVAL, client.inner().flush()).await {
        Ok(flushed) => flushed.map_err(|error| format!("nats: {error}")),
        Err(_) => Err(format!("nats: nobody answers within {} s; see --nats-url", ARRIVAL.as_secs())),
    }
}
