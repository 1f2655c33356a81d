//! What the product and its tests need from Debian and PyPI, installed where it is missing.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::run::{output, run, target};

/// A Debian package, and a file that tells that it is there.
struct Package {
    name: &'static str,
    tells: &'static [&'static str],
}

const RUNNING: &[Package] = &[
    Package { name: "gcc", tells: &["/usr/bin/gcc", "/usr/bin/cc"] },
    Package {
        name: "nats-server",
        tells: &["/usr/sbin/nats-server", "/usr/bin/nats-server", "/usr/local/bin/nats-server"],
    },
];

const TESTING: &[Package] = &[
    Package { name: "postgresql", tells: &["/usr/lib/postgresql"] },
    Package { name: "iproute2", tells: &["/usr/sbin/ip", "/sbin/ip", "/bin/ip"] },
    Package { name: "tshark", tells: &["/usr/bin/tshark"] },
    Package { name: "iputils-ping", tells: &["/usr/bin/ping", "/bin/ping"] },
    // With promtool.
    Package { name: "prometheus", tells: &["/usr/bin/prometheus"] },
    // BGP daemons of a laboratory, and a reader of their files that is not ours.
    Package { name: "gobgpd", tells: &["/usr/bin/gobgpd"] },
    Package { name: "bird2", tells: &["/usr/sbin/bird"] },
    Package { name: "bgpdump", tells: &["/usr/bin/bgpdump"] },
    FPING,
    CURL,
    NAMED,
    DIG,
    OPENSSL,
    NGINX,
    MTR,
];

const BENCHING: &[Package] = &[
    Package { name: "prometheus-blackbox-exporter", tells: &["/usr/bin/prometheus-blackbox-exporter"] },
    FPING,
    CURL,
    NAMED,
    DIG,
    OPENSSL,
    NGINX,
    MTR,
];

const FPING: Package = Package { name: "fping", tells: &["/usr/bin/fping"] };
const CURL: Package = Package { name: "curl", tells: &["/usr/bin/curl"] };
const NAMED: Package = Package { name: "bind9", tells: &["/usr/sbin/named"] };
const DIG: Package = Package { name: "bind9-dnsutils", tells: &["/usr/bin/dig"] };
const OPENSSL: Package = Package { name: "openssl", tells: &["/usr/bin/openssl"] };
const NGINX: Package = Package { name: "nginx-light", tells: &["/usr/sbin/nginx"] };
const MTR: Package = Package { name: "mtr-tiny", tells: &["/usr/bin/mtr"] };

/// What other programs the tests run, by their PyPI names: a client of the wire, readers of our files, makers of
/// packets, readers of Atlas results and of AsyncAPI documents, a collector of telemetry.
const PYTHON: &[&str] = &[
    "nats-py==2.11.0",
    "nkeys==0.2.1",
    "duckdb==1.4.1",
    "scapy==2.6.1",
    "ripe.atlas.sagan==2.0.1",
    "cryptography==43.0.3",
    "asyncapi3==0.0.2",
    "rotel==0.0.1a15",
];

/// What `imn up` needs.
pub(crate) fn for_running() -> Result<()> {
    packages(RUNNING)
}

/// What the tests need on top.
pub(crate) fn for_testing() -> Result<()> {
    packages(RUNNING)?;
    packages(TESTING)?;
    python()
}

/// What the comparisons need on top.
pub(crate) fn for_benches() -> Result<()> {
    packages(RUNNING)?;
    packages(BENCHING)
}

/// The Python interpreter with the packages of the tests.
pub(crate) fn interpreter() -> PathBuf {
    target().join("venv/bin/python")
}

fn packages(wanted: &[Package]) -> Result<()> {
    let is_missing = |package: &&Package| !package.tells.iter().any(|path| Path::new(path).exists());
    let missing: Vec<_> = wanted.iter().filter(is_missing).map(|package| package.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("these packages are missing and this is no Debian: {names}; install them by hand");
    }
    eprintln!("installing {names}");
    apt(&["update", "-qq"])?;
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(&missing);
    apt(&install).with_context(|| format!("install {names}; as root: apt-get install {names}"))
}

fn apt(args: &[&str]) -> Result<()> {
    let is_root = output(Command::new("id").arg("-u"))?.trim_ascii() == b"0";
    let mut command = if is_root { Command::new("apt-get") } else { Command::new("sudo") };
    if !is_root {
        command.arg("apt-get");
    }
    run(command
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null()))
}

fn python() -> Result<()> {
    let marker = target().join("venv/installed");
    let wanted = PYTHON.join("\n");
    if std::fs::read_to_string(&marker).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    eprintln!("installing {} for the tests", PYTHON.join(" "));
    let has_venv = Command::new("python3").args(["-c", "import ensurepip"]).stderr(Stdio::null()).status();
    if !has_venv.is_ok_and(|status| status.success()) {
        packages(&[Package { name: "python3-venv", tells: &[] }])?;
    }
    let venv = target().join("venv");
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    run(Command::new(interpreter()).args(["-m", "pip", "install", "--quiet"]).args(PYTHON))?;
    std::fs::write(&marker, wanted).with_context(|| format!("write {}", marker.display()))
}
