//! How an agent comes in from another host: it makes a key, spends a token, and keeps what it was given.

use std::{fs, io::ErrorKind, net::IpAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use imn_agent::Renewal;
use imn_contract::AgentId;
use imn_runtime::{
    credential::{Applicant, Credentials, Vouching, enrollment_proof, is_signer, renewal_proof},
    file, nats,
    tls::Trust,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    cli::EnrollArgs,
    client,
    exit::{Code, Exit},
};

const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// What is kept of an enrollment, in the agent's state directory.
const FILE: &str = "enrolled.json";
const CREDENTIALS: &str = "agent.creds";
/// Where the credentials of its modules are.
pub(crate) const MODULES: &str = "creds";

/// What an agent was told when it came in.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Enrolled {
    agent: AgentId,
    control_plane: String,
    /// Certificates by which the server is believed, in PEM.
    #[serde(default)]
    server_ca: Option<String>,
    /// The fingerprint by which it is.
    #[serde(default)]
    server_fingerprint: Option<String>,
    nats_url: String,
    /// Certificates by which NATS is believed, in PEM.
    #[serde(default)]
    nats_ca: Option<String>,
    /// The public part of the token.
    token: String,
    /// Public key of the network's registry of modules.
    #[serde(default)]
    registry_key: Option<String>,
}

/// How an agent that has come in goes on.
pub(crate) struct Entered {
    pub(crate) nats: nats::Config,
    pub(crate) renewal: Renewal,
    /// The registry of modules that it was told of.
    pub(crate) registry_key: Option<String>,
}

/// A server that lets agents in.
#[derive(Clone)]
pub(crate) struct ControlPlane {
    url: String,
    http: reqwest::Client,
}

/// What a server gives.
#[derive(Deserialize)]
struct Given {
    jwt: String,
    queue_jwt: Option<String>,
    nats_urls: Vec<String>,
    ca: Option<String>,
    registry_key: Option<String>,
}

/// How an agent that has come in connects and stays in; `None` when it was not told to, and never has.
pub(crate) async fn enter(args: &EnrollArgs, agent: &AgentId, state: &Path) -> Result<Option<Entered>> {
    let path = state.join(FILE);
    let known = file::read_optional(&path)?;
    let known: Option<Enrolled> = known
        .map(|text| serde_json::from_str(&text))
        .transpose()
        .with_context(|| format!("read {}", path.display()))?;
    if let Some(known) = known.as_ref().filter(|known| known.agent != *agent) {
        let text = format!(
            "--id {agent}: {} is the state of the agent {}; give --id {} or another --state-dir",
            state.display(),
            known.agent,
            known.agent
        );
        return Err(Exit::usage(text).into());
    }
    let spent = |token: &str| known.as_ref().is_some_and(|known| known.token == public_part(token));
    let enrolled = match (&args.token, known.clone()) {
        // A unit file goes on naming the token that it was started with the first time.
        (Some(token), Some(known)) if spent(token) => known,
        (Some(token), _) => enroll(args, token, agent, state).await?,
        (None, Some(known)) => known,
        (None, None) if args.control_plane.is_some() => {
            let text = format!(
                "--control-plane: the first time, --token is needed as well (`imn token create --agent {agent}` on the \
                 server), or --nats-creds with credentials from elsewhere"
            );
            return Err(Exit::usage(text).into());
        }
        (None, None) => return Ok(None),
    };
    let credentials = state.join(CREDENTIALS);
    let text = fs::read_to_string(&credentials).with_context(|| format!("read {}", credentials.display()))?;
    let mut config = nats::Config::new(enrolled.nats_url.clone(), format!("agent {agent}"));
    Credentials::parse(&text)?.inbox_prefix().clone_into(&mut config.inbox_prefix);
    config.credentials = Some(text);
    config.authority.clone_from(&enrolled.nats_ca);
    let url = args.control_plane.clone().unwrap_or_else(|| enrolled.control_plane.clone());
    let server = ControlPlane::new(&url, &enrolled.trust()?)?;
    let renewal = renewal(&credentials, server, agent);
    Ok(Some(Entered { nats: config, renewal, registry_key: enrolled.registry_key }))
}

/// Renews over NATS, and where that does not do over HTTP.
pub(crate) fn renewal(keep: &Path, server: ControlPlane, agent: &AgentId) -> Renewal {
    let agent = agent.clone();
    Renewal::new(keep).or_elsewhere(move |credentials| {
        let (server, agent) = (server.clone(), agent.clone());
        Box::pin(async move { server.renew(&agent, credentials).await.map_err(|error| format!("{error:#}")) })
    })
}

async fn enroll(args: &EnrollArgs, token: &str, agent: &AgentId, state: &Path) -> Result<Enrolled> {
    let Some(url) = &args.control_plane else {
        return Err(Exit::usage("--token: name the server as well, --control-plane https://HOST:PORT").into());
    };
    let trust = args.trust()?;
    let server = ControlPlane::new(url, &trust)?;
    file::create_private_dir(state)?;
    let applicant = Applicant::default();
    let given = server.enroll(agent, &applicant, token).await?;
    let credentials = applicant.accept(given.vouching())?;
    let (server_ca, server_fingerprint) = match trust {
        Trust::Pem(text) => (Some(text), None),
        _ => (None, args.ca_fingerprint.clone()),
    };
    let enrolled = Enrolled {
        agent: agent.clone(),
        control_plane: url.trim_end_matches('/').to_owned(),
        server_ca,
        server_fingerprint,
        nats_url: given.nats_urls.join(","),
        nats_ca: given.ca.filter(|_| given.nats_urls.iter().any(|url| url.starts_with("tls://"))),
        token: public_part(token).to_owned(),
        registry_key: given.registry_key.filter(|key| is_signer(key)),
    };
    // Keys of modules of an earlier enrollment may be revoked; new ones are asked for.
    match fs::remove_dir_all(state.join(MODULES)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", state.join(MODULES).display()));
        }
        _ => file::create_private_dir(&state.join(MODULES))?,
    }
    file::write_atomic(&state.join(CREDENTIALS), credentials.text().as_bytes())?;
    let text = serde_json::to_string_pretty(&enrolled)? + "\n";
    file::write_atomic(&state.join(FILE), text.as_bytes())?;
    tracing::info!(%agent, server = enrolled.control_plane, nats = enrolled.nats_url, "enrolled");
    Ok(enrolled)
}

impl EnrollArgs {
    /// Who is believed.
    pub(crate) fn trust(&self) -> Result<Trust> {
        match &self.ca_fingerprint {
            Some(text) => pinned(text),
            None => client::trust(self.ca_file.as_deref()),
        }
    }
}

impl Enrolled {
    fn trust(&self) -> Result<Trust> {
        match (&self.server_ca, &self.server_fingerprint) {
            (Some(text), _) => Ok(Trust::Pem(text.clone())),
            (None, Some(text)) => pinned(text),
            (None, None) => Ok(Trust::System),
        }
    }
}

impl Given {
    fn vouching(&self) -> Vouching {
        Vouching { jwt: self.jwt.clone(), queue_jwt: self.queue_jwt.clone() }
    }
}

impl ControlPlane {
    pub(crate) fn new(url: &str, trust: &Trust) -> Result<Self> {
        let url = url.trim_end_matches('/').to_owned();
        check(&url)?;
        let http = client::http(&url, trust)?.timeout(ANSWER_WITHIN).build()?;
        Ok(Self { url, http })
    }

    async fn enroll(&self, agent: &AgentId, applicant: &Applicant, token: &str) -> Result<Given> {
        let (nonce, public_key) = (self.nonce().await?, applicant.public_key());
        let proof = enrollment_proof(&nonce, agent, &public_key, token);
        let signature = applicant.sign(proof.as_bytes())?;
        let body = json!({
            "token": token, "agent": agent, "public_key": public_key, "nonce": nonce, "signature": signature,
        });
        Ok(serde_json::from_value(self.post("/api/v1/enroll", &body).await?)?)
    }

    async fn renew(&self, agent: &AgentId, credentials: Arc<Credentials>) -> Result<Vouching> {
        let (nonce, public_key) = (self.nonce().await?, credentials.public_key());
        let signature = credentials.sign(renewal_proof(&nonce, agent, &public_key).as_bytes())?;
        let body =
            json!({ "agent": agent, "public_key": public_key, "nonce": nonce, "signature": signature });
        let given: Given = serde_json::from_value(self.post("/api/v1/enroll/renew", &body).await?)?;
        Ok(given.vouching())
    }

    async fn nonce(&self) -> Result<String> {
        let answer = self.post("/api/v1/enroll/nonce", &json!({})).await?;
        let nonce = answer["nonce"].as_str().context("the server gave no nonce: is it an imn server?")?;
        Ok(nonce.to_owned())
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let sent = self.http.post(format!("{}{path}", self.url)).json(body).send().await;
        let answer = sent.map_err(|error| self.silent(&error))?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| self.silent(&error))?;
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if status.is_success() {
            return Ok(body);
        }
        let code = if matches!(status.as_u16(), 401 | 403) { Code::Authentication } else { Code::Error };
        let detail = body["detail"].as_str().unwrap_or("it gives no reason; is it an imn server?");
        Err(Exit::new(code, format!("{} answers {}: {detail}", self.url, status.as_u16())).into())
    }

    fn silent(&self, error: &reqwest::Error) -> Exit {
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let fix = if self.url.starts_with("https://") {
            "; a certificate that is not believed is named by --ca-file or --ca-fingerprint"
        } else {
            ""
        };
        Exit::new(Code::Error, format!("reach the server at {}: {cause}{fix}", self.url))
    }
}

fn pinned(text: &str) -> Result<Trust> {
    Ok(text.parse::<Trust>().map_err(|error| Exit::usage(format!("--ca-fingerprint {text}: {error}")))?)
}

/// A token must not cross a network in the clear.
fn check(url: &str) -> Result<(), Exit> {
    if url.starts_with("https://") {
        return Ok(());
    }
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(Exit::usage(format!("--control-plane {url}: write it as https://HOST:PORT")));
    };
    let host = rest.split('/').next().unwrap_or(rest);
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host).trim_matches(['[', ']']);
    if host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
        return Ok(());
    }
    Err(Exit::usage(format!(
        "--control-plane {url}: the token would cross the network in the clear; use https://, which the server serves \
         with --tls"
    )))
}

/// The part of a token that is no secret.
fn public_part(token: &str) -> &str {
    token.split('_').nth(1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_over_tls_or_not_off_this_host() {
        for url in ["https://imn.example", "http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost:1"]
        {
            check(url).unwrap();
        }
        for url in
            ["http://imn.example:8080", "http://192.0.2.1", "imn.example", "http://127.0.0.1.example:1"]
        {
            assert_eq!(check(url).unwrap_err().code(), Code::Usage, "{url}");
        }
        assert_eq!(public_part("imnt_00ff_secret"), "00ff");
    }
}
