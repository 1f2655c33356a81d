//! A real name server, BIND's, on private ports.

use crate::nats::free_port;
use crate::session::Session;
use crate::{Error, Node, Process, Program, Result};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

const START: Duration = Duration::from_secs(20);
const ZONE: &str = include_str!("../zones/imn.test");
const REVERSE: &str = include_str!("../zones/127.in-addr.arpa");

/// Debian's named, authoritative for the signed zone `imn.test` and for the names of 127.0.0.0/8 (`zones` in this
/// crate), over UDP, TCP, TLS and HTTPS. Its certificate, signed by itself, is for [`NameServer::NAME`] and 127.0.0.1.
///
/// Dropping it kills the server and removes its files; so does the end of the test process.
#[derive(Debug)]
pub struct NameServer {
    process: Process,
    directory: PathBuf,
    ports: [u16; 3],
}

impl NameServer {
    /// Its name in its certificate, and what it answers to NSID.
    pub const NAME: &str = "ns1.imn.test";

    /// A server on 127.0.0.1 and, for UDP and TCP, ::1.
    ///
    /// # Errors
    /// [`Error::MissingProgram`] without named or openssl; otherwise why it did not start, with what it said.
    pub fn start() -> Result<Self> {
        Self::run(None)
    }

    /// The same in a node of a laboratory, on its loopback interface.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_on(node: &Node) -> Result<Self> {
        Self::run(Some(node))
    }

    fn run(node: Option<&Node>) -> Result<Self> {
        let directory = Session::current()?.directory("named")?;
        let mut attempts = 0;
        loop {
            let ports = [free_port()?, free_port()?, free_port()?];
            match launch(&directory, ports, node) {
                Ok(process) => return Ok(Self { process, directory, ports }),
                // Somebody else took a port between our look and the server's.
                Err(Error::Ended { output, .. } | Error::Timeout { detail: output, .. })
                    if attempts < 5 && output.contains("address in use") =>
                {
                    attempts += 1;
                }
                Err(error) => {
                    let _ = fs::remove_dir_all(&directory);
                    return Err(error);
                }
            }
        }
    }

    /// Where it answers over UDP and TCP.
    pub fn plain(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[0]))
    }

    /// Where it answers over TLS.
    pub fn tls(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[1]))
    }

    /// Where it answers over HTTPS, under `/dns-query`.
    pub fn https(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[2]))
    }

    /// File of its certificate, in PEM.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("cert.pem")
    }

    /// What the server logged.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.process.kill9();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn launch(
    directory: &std::path::Path,
    [plain, tls, https]: [u16; 3],
    node: Option<&Node>,
) -> Result<Process> {
    let at = |name: &str| directory.join(name);
    Program::new("openssl")
        .package("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "2", "-subj"])
        .arg(format!("/CN={}", NameServer::NAME))
        .arg("-addext")
        .arg(format!("subjectAltName=DNS:{},IP:127.0.0.1", NameServer::NAME))
        .arg("-keyout")
        .arg(at("key.pem"))
        .arg("-out")
        .arg(at("cert.pem"))
        .run_ok(START)?;
    for (name, zone) in [("imn.test", ZONE), ("127.in-addr.arpa", REVERSE)] {
        fs::write(at(name), zone).map_err(Error::file("write", at(name)))?;
    }
    // Signed beforehand: while named signs by itself, its answers change.
    let key = ["-a", "ECDSAP256SHA256", "-f", "KSK", "imn.test"];
    Program::new("dnssec-keygen")
        .package("bind9")
        .args(["-q", "-K"])
        .arg(directory)
        .args(key)
        .run_ok(START)?;
    Program::new("dnssec-signzone")
        .package("bind9")
        .current_dir(directory)
        .args(["-q", "-S", "-z", "-o", "imn.test", "-f", "signed", "-K"])
        .arg(directory)
        .arg("imn.test")
        .run_ok(START)?;
    let here = directory.display();
    let text = format!(
        r#"
        options {{
            directory "{here}"; managed-keys-directory "{here}"; session-keyfile "{here}/session.key";
            pid-file none; lock-file none;
            listen-on port {plain} {{ 127.0.0.1; }};
            listen-on-v6 port {plain} {{ ::1; }};
            listen-on port {tls} tls own {{ 127.0.0.1; }};
            listen-on port {https} tls own http default {{ 127.0.0.1; }};
            recursion no; notify no; dnssec-validation no; server-id "{name}"; allow-query {{ any; }};
            check-names primary ignore;
        }};
        controls {{ }};
        tls own {{ cert-file "{here}/cert.pem"; key-file "{here}/key.pem"; }};
        zone "imn.test" {{ type primary; file "signed"; }};
        zone "127.in-addr.arpa" {{ type primary; file "127.in-addr.arpa"; }};
        "#,
        name = NameServer::NAME,
    );
    let config = at("named.conf");
    fs::write(&config, text).map_err(Error::file("write", &config))?;
    let named = node.map_or_else(|| Program::new("/usr/sbin/named"), |node| node.program("/usr/sbin/named"));
    let mut process = named.package("bind9").args(["-g", "-n", "1", "-c"]).arg(&config).spawn()?;
    process.wait_for("to serve its zone", START, |process| {
        let log = process.stderr();
        (log.contains("all zones loaded") && log.contains(" running")).then_some(())
    })?;
    Ok(process)
}
