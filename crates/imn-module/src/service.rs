//! The face of a NATS micro service: `$SRV.PING`, `INFO` and `STATS`, so that `nats micro ls` lists the module.

use async_nats::{HeaderMap, Message as Raw, Subscriber};
use bytes::Bytes;
use futures::stream::{SelectAll, select_all};
use imn_contract::latest::ModuleConfig;
use imn_runtime::nats::{self, Client};
use serde_json::{Value, json};

const VERBS: [&str; 3] = ["PING", "INFO", "STATS"];

/// What the service says of itself.
pub(crate) struct Service {
    name: String,
    id: String,
    version: String,
    description: String,
    metadata: Value,
    endpoints: Vec<(&'static str, String, String)>,
    started: String,
}

/// Counts of an instance since its start.
pub(crate) struct Stats {
    pub requests: u64,
    pub errors: u64,
    pub processing_ns: u64,
}

impl Service {
    pub(crate) fn new(config: &ModuleConfig, version: &str, id: String) -> Self {
        let work = imn_contract::subject::work(&config.agent, &config.kind);
        let at = imn_contract::subject::at(&config.agent, &config.instance);
        let group = imn_contract::subject::work_queue(&config.kind);
        Self {
            name: format!("imn-{}", config.kind),
            id,
            version: version.to_owned(),
            description: format!("measurement module {}", config.kind),
            metadata: json!({
                "agent": config.agent.as_str(),
                "type": config.kind.as_str(),
                "instance": config.instance.as_str(),
            }),
            endpoints: vec![("do", work, group), ("at", at, String::new())],
            started: imn_runtime::clock::now_rfc3339(),
        }
    }

    /// Subscribes to the nine subjects of a micro service.
    pub(crate) async fn subscribe(&self, client: &Client) -> nats::Result<SelectAll<Subscriber>> {
        let mut all = Vec::with_capacity(9);
        for verb in VERBS {
            for suffix in [String::new(), format!(".{}", self.name), format!(".{}.{}", self.name, self.id)] {
                all.push(client.subscribe(&format!("$SRV.{verb}{suffix}")).await?);
            }
        }
        Ok(select_all(all))
    }

    /// Answers one request.
    pub(crate) async fn answer(&self, client: &Client, request: &Raw, stats: &Stats) {
        let Some(reply) = &request.reply else { return };
        let verb = imn_contract::subject::token(&request.subject, 1).unwrap_or_default();
        let body = self.body(verb, stats);
        let payload = Bytes::from(body.to_string());
        if let Err(error) = client.publish_bytes(reply, payload, HeaderMap::new()).await {
            tracing::debug!(%error, "service answer dropped");
        }
    }

    fn body(&self, verb: &str, stats: &Stats) -> Value {
        let mut body = json!({
            "type": format!("io.nats.micro.v1.{}_response", verb.to_ascii_lowercase()),
            "name": self.name,
            "id": self.id,
            "version": self.version,
            "metadata": self.metadata,
        });
        match verb {
            "INFO" => {
                body["description"] = json!(self.description);
                body["endpoints"] = self.endpoints.iter().map(endpoint).collect();
            }
            "STATS" => {
                body["started"] = json!(self.started);
                body["endpoints"] = self.endpoints.iter().take(1).map(|e| with_stats(e, stats)).collect();
            }
            _ => {}
        }
        body
    }
}

fn endpoint((name, subject, group): &(&'static str, String, String)) -> Value {
    json!({ "name": name, "subject": subject, "queue_group": group, "metadata": {} })
}

/// Both endpoints feed the same desk; its counts stand with the first.
fn with_stats(described: &(&'static str, String, String), stats: &Stats) -> Value {
    let mut body = endpoint(described);
    body["num_requests"] = json!(stats.requests);
    body["num_errors"] = json!(stats.errors);
    body["last_error"] = json!("");
    body["processing_time"] = json!(stats.processing_ns);
    body["average_processing_time"] = json!(stats.processing_ns.checked_div(stats.requests).unwrap_or(0));
    body
}
