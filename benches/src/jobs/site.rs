//! A whole network on this host, and what its processes cost.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use imn_testkit::{Process, Program};
use nix::{
    sys::{
        resource::UsageWho,
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde_json::Value;

use super::Role;
use crate::turn::{cpu_us, cpu_us_of};

const START: Duration = Duration::from_mins(1);
const STOP: Duration = Duration::from_secs(20);

/// `imn up` with its parts.
pub(super) struct Site {
    up: Process,
    pids: BTreeMap<&'static str, u32>,
    nats_url: String,
    state: tempfile::TempDir,
}

impl Site {
    pub(super) fn start(program: &Path) -> Result<Self> {
        let state = tempfile::Builder::new().prefix("imn-bench-").tempdir().context("make a directory")?;
        let listen = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
        let listen = listen.context("find a free port")?.to_string();
        let up = Program::new(program).args(["up", "--listen", &listen]);
        let mut up = up.env("IMN_STATE_DIR", state.path()).env("IMN_LOG", "warn").spawn()?;
        up.wait_for("imn up to be ready", START, |up| up.stdout().contains("ready http").then_some(()))?;
        let connect = json(&state.path().join("connect.json"))?;
        let nats_url = connect["nats_url"].as_str().unwrap_or_default().to_owned();
        let mut site = Self { up, pids: BTreeMap::new(), nats_url, state };
        site.pids = site.find()?;
        Ok(site)
    }

    pub(super) fn server(&self) -> Role {
        self.role("server.creds", "_INBOX_server")
    }

    pub(super) fn operator(&self) -> Role {
        self.role("client.creds", "_INBOX_operator")
    }

    fn role(&self, file: &str, inbox_prefix: &str) -> Role {
        Role {
            url: self.nats_url.clone(),
            credentials: self.state.path().join("keys").join(file),
            inbox_prefix: inbox_prefix.to_owned(),
        }
    }

    /// The names of the processes that jobs pass, this one among them.
    pub(super) fn parts(&self) -> Vec<&'static str> {
        [&["bench"][..], &self.pids.keys().copied().collect::<Vec<_>>()].concat()
    }

    /// Our processes by the state directory in their command lines, the module by the agent's notes.
    fn find(&self) -> Result<BTreeMap<&'static str, u32>> {
        let state = self.state.path().display().to_string();
        let mut pids = BTreeMap::new();
        for entry in fs::read_dir("/proc").context("list processes")?.filter_map(Result::ok) {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(raw) = fs::read(entry.path().join("cmdline")) else { continue };
            let command = String::from_utf8_lossy(&raw).replace('\0', " ");
            let role = command.split(' ').nth(1);
            if !command.contains(&state) {
                continue;
            }
            match role {
                Some("server") => pids.insert("server", pid),
                Some("agent") => pids.insert("agent", pid),
                _ if command.contains("nats-server") => pids.insert("nats-server", pid),
                _ => None,
            };
        }
        let instances = json(&self.state.path().join("agents/local/instances.json"))?;
        if let Some(pid) = pid_of(&instances, "local-echo-0") {
            pids.insert("module", pid);
        }
        Ok(pids)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.up.terminate();
        if self.up.wait_deadline(STOP).is_err() {
            // Modules and the nats-server outlive a supervisor that is killed.
            for pid in self.pids.values() {
                let _ = kill(Pid::from_raw(*pid as i32), Signal::SIGKILL);
            }
        }
    }
}

/// CPU time so far of each process.
pub(super) struct Usage(Vec<(&'static str, f64)>);

impl Usage {
    pub(super) fn of(site: &Site) -> Result<Self> {
        let mut usage = vec![("bench", cpu_us(UsageWho::RUSAGE_SELF)?)];
        for (name, pid) in &site.pids {
            usage.push((name, cpu_us_of(*pid)?));
        }
        Ok(Self(usage))
    }

    /// What was used since, for each of `count`.
    pub(super) fn since(&self, before: &Self, count: usize) -> Vec<(&'static str, f64)> {
        self.0
            .iter()
            .zip(&before.0)
            .map(|((name, now), (_, then))| (*name, (now - then) / count as f64))
            .collect()
    }
}

fn json(path: &PathBuf) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))
}

/// The process of an instance, wherever it stands.
fn pid_of(value: &Value, instance: &str) -> Option<u32> {
    match value {
        Value::Object(map) if map.get("instance").and_then(Value::as_str) == Some(instance) => {
            let pid = map.get("pid").or_else(|| map.get("process")?.get("pid"))?;
            pid.as_u64().map(|pid| pid as u32)
        }
        Value::Object(map) => map.values().find_map(|inner| pid_of(inner, instance)),
        Value::Array(items) => items.iter().find_map(|inner| pid_of(inner, instance)),
        _ => None,
    }
}
