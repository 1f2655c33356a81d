//! `tcp` with TLS: a handshake after each connection.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use async_trait::async_trait;
use futures::StreamExt;
use imn_contract::{
    Fault,
    latest::{Assignment, PingOutcome, ProgressKind},
};
use imn_probe::{
    Timestamp,
    dial::{self, Floor},
    tls::{Client, ServerName, server_name},
};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::repeat::repeat;
use crate::{
    Addressing, PingSpec, Protocol,
    convert::secure::{Attempt, Attempts, unmeasured},
    flight::{Found, Measure, Signs},
    http::trust,
    module,
    ping::{Kind, TcpParams},
};

/// How a target is measured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SecureSpec {
    pub(crate) target: String,
    pub(crate) port: u16,
    pub(crate) count: u16,
    interval: Duration,
    /// Tmax of connection and handshake together.
    pub(crate) timeout: Duration,
    pub(crate) dscp: u8,
    /// Name that the certificate must be for.
    name: String,
    insecure: bool,
    /// Further authorities, in PEM.
    ca: Option<String>,
    /// Tell the certificates themselves.
    pub(crate) certificates: bool,
}

/// Whether parameters of `tcp` ask for TLS.
pub(super) fn asks_for_tls(params: &Map<String, Value>) -> bool {
    params.get("tls").is_some_and(|tls| *tls != Value::Bool(false))
}

#[derive(Default)]
pub(super) struct Secure {
    floor: Floor,
}

impl Secure {
    fn read(target: &str, params: &Map<String, Value>, ping: &PingSpec) -> Result<SecureSpec, Fault> {
        let read: TcpParams = module::params(params)?;
        let name = read.server_name.unwrap_or_else(|| target.to_owned());
        server_name(&name).map_err(|error| Fault::invalid("params.server_name", error.to_string()))?;
        trust(read.ca.as_deref())?;
        let port = match ping.protocol {
            Protocol::Tcp { port } => port,
            Protocol::Icmp { .. } => 443,
        };
        Ok(SecureSpec {
            target: target.to_owned(),
            port,
            count: ping.count,
            interval: ping.interval,
            timeout: ping.timeout,
            dscp: ping.dscp,
            name,
            insecure: read.insecure,
            ca: read.ca,
            certificates: read.certificates,
        })
    }

    async fn attempt(
        spec: &SecureSpec,
        client: &Client,
        name: &ServerName<'static>,
        peer: SocketAddr,
    ) -> Attempt {
        let began = Timestamp::now();
        let deadline = std::time::Instant::now() + spec.timeout;
        let dial = dial::Spec { peer, dscp: spec.dscp, source: None };
        let mut attempt =
            Attempt { began, connect: Err(imn_probe::Fate::Unknown), handshake: None, error: None };
        match dial::connect(&dial, deadline).await {
            Err(fate) => attempt.connect = Err(fate),
            Ok(connection) => {
                attempt.connect = Ok(connection.sample());
                match client.handshake(connection.stream, name, deadline).await {
                    Ok(session) => attempt.handshake = Some(session.handshake),
                    Err(failure) => {
                        attempt.handshake = failure.handshake.map(|handshake| *handshake);
                        attempt.error = Some(failure.error);
                    }
                }
            }
        }
        attempt
    }
}

#[async_trait]
impl Measure for Secure {
    type Spec = SecureSpec;
    type Outcome = PingOutcome;

    fn kind(&self) -> &'static str {
        "tcp"
    }

    fn params_schema(&self) -> Value {
        module::schema::<TcpParams>()
    }

    fn spec(&self, target: &str, params: &Map<String, Value>) -> Result<(SecureSpec, Addressing), Fault> {
        let ping = Kind::Tcp.spec(params)?;
        Ok((Self::read(target, params, &ping)?, Addressing::Resolved(ping.family)))
    }

    fn plan(&self, assignment: &Assignment) -> Result<(SecureSpec, Addressing), Fault> {
        let ping = Kind::Tcp.standing_spec(assignment)?;
        let mut params = assignment.params.clone();
        for name in ["count", "timeout", "timeout_ms"] {
            params.remove(name);
        }
        Ok((Self::read(&assignment.address, &params, &ping)?, Addressing::Resolved(ping.family)))
    }

    fn unmeasured(&self, spec: &SecureSpec, error: String) -> PingOutcome {
        unmeasured(spec, Some(error))
    }

    async fn measure(
        &self,
        spec: &SecureSpec,
        address: Option<IpAddr>,
        due: Instant,
        signs: &Signs,
    ) -> Found<PingOutcome> {
        let address = address.map(|address| (address, address.to_string()));
        let mut attempts =
            Attempts::new(spec, address.as_ref().map(|(_, text)| text.clone()).unwrap_or_default());
        // Both have been read when the spec was made.
        let (Some((address, _)), Ok(trust), Ok(name)) =
            (address, trust(spec.ca.as_deref()), server_name(&spec.name))
        else {
            return attempts.found(None);
        };
        let client = Client::new(trust, spec.insecure);
        let peer = SocketAddr::new(address, spec.port);
        let mut ends = repeat(spec.count, spec.interval, due, |_| Self::attempt(spec, &client, &name, peer));
        while let Some((number, attempt)) = ends.next().await {
            attempts.take(number, &attempt);
            let ms = attempt.connect.as_ref().ok().map(|(connect, _)| connect.as_secs_f64() * 1e3);
            let status = match (&attempt.connect, &attempt.error) {
                (Ok(_), None) => "received",
                (Ok(_), Some(error)) => error.class.code(),
                (Err(_), _) => "lost",
            };
            let n = u32::from(number) + 1;
            let detail = json!({"n": n, "status": status, "rtt_ms": ms});
            if let Value::Object(detail) = detail {
                signs.tell(ProgressKind::Packet, detail);
            }
        }
        // Afterwards: what is due does not wait for a calibration.
        attempts.found(self.floor.get().await)
    }
}
