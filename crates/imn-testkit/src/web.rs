//! A real web server, and certificates of every kind for it.

use crate::nats::free_port;
use crate::session::Session;
use crate::{Error, Node, Process, Program, Result};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

const START: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(20);

/// A certificate authority of its own, made and used by openssl.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
}

/// A certificate with its key, as files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    /// [`Error::MissingProgram`] without openssl; otherwise what it said.
    pub fn new() -> Result<Self> {
        let directory = Session::current()?.directory("authority")?;
        let config = "[ca]\ndefault_ca = own\n[own]\ndatabase = index\nnew_certs_dir = .\nrand_serial = yes\n\
                      default_md = sha256\npolicy = any\nunique_subject = no\ncopy_extensions = copy\n\
                      certificate = ca.pem\nprivate_key = ca.key\n[any]\ncommonName = supplied\n\
                      [req]\ndistinguished_name = dn\n[dn]\n[leaf]\nbasicConstraints = CA:FALSE\n";
        for (name, text) in [("conf", config), ("index", "")] {
            let path = directory.join(name);
            fs::write(&path, text).map_err(Error::file("write", &path))?;
        }
        let authority = Self { directory };
        authority.openssl(
            "req -config conf -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem \
             -days 3650 -subj /CN=Laboratory -addext basicConstraints=critical,CA:TRUE"
        )?;
        Ok(authority)
    }

    /// Its own certificate in PEM.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// A certificate for names such as `DNS:www.example.net` or `IP:127.0.0.1`, valid between two times such as
    /// `20200101000000Z`.
    ///
    /// # Errors
    /// What openssl said.
    pub fn issue(&self, name: &str, names: &[&str], from: &str, until: &str) -> Result<Certificate> {
        let names = names.join(",");
        self.openssl(&format!(
            "req -config conf -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key \
             -out {name}.csr -subj /CN={name} -addext subjectAltName={names}"
        ))?;
        self.openssl(&format!(
            "ca -config conf -batch -notext -extensions leaf -in {name}.csr -out {name}.pem -startdate {from} \
             -enddate {until}"
        ))?;
        Ok(self.files(name))
    }

    /// A certificate that is good for `DNS:{name}`, `localhost` and the addresses of loopback from 2020 to 2099.
    ///
    /// # Errors
    /// What openssl said.
    pub fn good(&self, name: &str) -> Result<Certificate> {
        let names = [&format!("DNS:{name}"), "DNS:localhost", "IP:127.0.0.1", "IP:::1"];
        self.issue(name, &names, "20200101000000Z", "20991231235959Z")
    }

    /// A certificate for names that nobody but itself signed.
    ///
    /// # Errors
    /// What openssl said.
    pub fn self_signed(&self, name: &str, names: &[&str]) -> Result<Certificate> {
        let names = names.join(",");
        self.openssl(&format!(
            "req -config conf -x509 -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.pem -days 30 \
             -subj /CN={name} -addext subjectAltName={names}"
        ))?;
        Ok(self.files(name))
    }

    fn files(&self, name: &str) -> Certificate {
        let file = |kind: &str| self.directory.join(format!("{name}.{kind}"));
        Certificate { certificate: file("pem"), key: file("key") }
    }

    fn openssl(&self, arguments: &str) -> Result<()> {
        Program::new("openssl")
            .package("openssl")
            .args(arguments.split_whitespace())
            .current_dir(&self.directory)
            .run_ok(SOON)
            .map(drop)
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Debian's nginx with a configuration of the test's, on ports of its own.
#[derive(Debug)]
pub struct WebServer {
    process: Process,
    directory: PathBuf,
    ports: Vec<u16>,
}

impl WebServer {
    /// A server with the `server { … }` blocks of `text`, in which `PORT0`, `PORT1`, … stand for free ports and `ROOT`
    /// for an empty directory of its own. It runs in a node of a laboratory, or on this host.
    ///
    /// # Errors
    /// [`Error::MissingProgram`] without nginx; otherwise why it did not start, with what it said.
    pub fn start(text: &str, node: Option<&Node>) -> Result<Self> {
        let directory = Session::current()?.directory("nginx")?;
        let root = directory.join("root");
        fs::create_dir(&root).map_err(Error::file("create", &root))?;
        let mut servers = text.replace("ROOT", &root.to_string_lossy());
        let mut ports = Vec::new();
        // From the end, for PORT1 is also the begin of PORT10.
        let count = (0..100).take_while(|n| text.contains(&format!("PORT{n}"))).count();
        for _ in 0..count {
            ports.push(free_port()?);
        }
        for (n, port) in ports.iter().enumerate().rev() {
            servers = servers.replace(&format!("PORT{n}"), &port.to_string());
        }
        let config = directory.join("nginx.conf");
        let text = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr warn;\nworker_rlimit_nofile 8192;\n\
             events {{ worker_connections 4096; }}\nhttp {{\naccess_log off;\nclient_body_temp_path body;\n\
             proxy_temp_path proxy;\nfastcgi_temp_path fastcgi;\nuwsgi_temp_path uwsgi;\nscgi_temp_path scgi;\n\
             default_type text/plain;\n{servers}\n}}\n"
        );
        fs::write(&config, text).map_err(Error::file("write", &config))?;
        let program =
            node.map_or_else(|| Program::new("/usr/sbin/nginx"), |node| node.program("/usr/sbin/nginx"));
        let mut process =
            program.package("nginx-light").arg("-p").arg(&directory).arg("-c").arg(&config).spawn()?;
        let pid = directory.join("nginx.pid");
        process.wait_for("to write its pid", START, |_| pid.exists().then_some(()))?;
        if node.is_none()
            && let Some(port) = ports.first()
        {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
            process.wait_for("to accept connections", START, |_| TcpStream::connect(address).ok())?;
        }
        Ok(Self { process, directory, ports })
    }

    /// The port that stands for `PORT{number}`.
    pub fn port(&self, number: usize) -> u16 {
        self.ports[number]
    }

    /// The directory that stands for `ROOT`.
    pub fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// Puts a file into [`WebServer::root`].
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be written.
    pub fn put(&self, name: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
        let path = self.root().join(name);
        fs::write(&path, bytes).map_err(Error::file("write", path))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.stderr()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.process.kill9();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
