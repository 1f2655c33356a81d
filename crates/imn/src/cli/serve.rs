//! How a server is reached, and how an agent comes to it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;

use super::measure::duration;
use crate::exit::Exit;

#[derive(Clone, Debug, Args)]
pub(crate) struct ServeArgs {
    /// Serve the HTTP API by TLS, with a certificate of the network's own authority.
    #[arg(long, conflicts_with_all = ["tls_cert", "insecure"], help_heading = "TLS")]
    pub(crate) tls: bool,
    /// Serve the HTTP API by TLS, with this certificate and those above it, a file in PEM.
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_key",
        conflicts_with = "insecure",
        help_heading = "TLS"
    )]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Key of that certificate, a file in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "TLS")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Further name or address by which this host is reached, for certificates of the network's own authority; with
    /// --tls-cert the name by which this host itself reaches the server; repeatable.
    #[arg(long, value_name = "NAME", help_heading = "TLS")]
    pub(crate) tls_name: Vec<String>,
    /// Serve plain HTTP on any address: keys cross the network in the clear.
    #[arg(long, help_heading = "TLS")]
    pub(crate) insecure: bool,
    /// How long credentials of agents and modules are good for; they are renewed at half of it.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration, help_heading = "TLS")]
    pub(crate) credential_lifetime: Duration,
}

impl ServeArgs {
    /// Whether there is TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.tls || self.tls_cert.is_some()
    }

    /// Refuses an address on which keys would cross a network in the clear.
    pub(crate) fn check(&self, listen: SocketAddr) -> Result<(), Exit> {
        if self.is_secure() || self.insecure || listen.ip().is_loopback() {
            return Ok(());
        }
        Err(Exit::usage(format!(
            "--listen {listen}: plain HTTP is served on loopback only, since keys would cross the network in the clear; \
             add --tls (a certificate of this network's own authority) or --tls-cert and --tls-key, or, if you mean it, \
             --insecure"
        )))
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct EnrollArgs {
    /// The server's HTTP address, to come in by a token and to renew credentials: https://HOST:PORT.
    #[arg(
        long,
        alias = "server",
        env = "IMN_CONTROL_PLANE",
        value_name = "URL",
        help_heading = "Enrollment"
    )]
    pub(crate) control_plane: Option<String>,
    /// Enrollment token, of `imn token create`; needed the first time only.
    #[arg(
        long,
        env = "IMN_ENROLLMENT_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        help_heading = "Enrollment"
    )]
    pub(crate) token: Option<String>,
    /// Believe this certificate authority, a file in PEM [default: those that this host knows].
    #[arg(long, env = "IMN_CA_FILE", value_name = "FILE", help_heading = "Enrollment")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Believe the certificate authority with this fingerprint, sha256:HEX, which `imn token create` shows.
    #[arg(
        long,
        env = "IMN_CA_FINGERPRINT",
        value_name = "FINGERPRINT",
        conflicts_with = "ca_file",
        help_heading = "Enrollment"
    )]
    pub(crate) ca_fingerprint: Option<String>,
}
