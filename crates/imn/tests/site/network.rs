//! A whole network under test: `imn up` as users start it, in a network namespace of its own, and the programs of
//! other people that look at it: curl, Python, the kernel's counters.

#![allow(dead_code, reason = "each scenario uses a part of it")]

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use imn_testkit::{Lab, Node, Process, Program, Signal, wait_until};
use serde_json::Value;

/// One host on which every address of 10.100.0.0/14 answers.
const ONE_HOST: &str = r#"
name = "site"
hosts = ["site", "away"]
routers = []
answers = { site = ["10.100.0.0/14"] }
[[links]]
between = ["site", "away"]
"#;

/// Whether the long form is to be run.
pub(crate) fn soak() -> bool {
    std::env::var_os("IMN_SOAK").is_some()
}

/// `short` in the suite, `long` in `cargo xtask soak`.
pub(crate) fn span(short: u64, long: u64) -> Duration {
    Duration::from_secs(if soak() { long } else { short })
}

/// The program under test: what `cargo xtask` built, else what cargo built for this test.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("IMN_TEST_PROGRAM")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_imn")), PathBuf::from)
}

/// The Python interpreter with nats-py and duckdb; `None` when `cargo xtask test` has not made it.
pub(crate) fn python() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = std::env::var_os("IMN_TEST_PYTHON")
        .map_or_else(|| root.join("target/venv/bin/python"), PathBuf::from);
    path.exists().then_some(path)
}

/// How to reach the running network, as `connect.json` says.
#[derive(Clone, Debug)]
pub(crate) struct Connect {
    pub(crate) http_url: String,
    pub(crate) api_key: String,
    pub(crate) ca_file: Option<String>,
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// A process of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) pid: u32,
    pub(crate) command: String,
}

pub(crate) struct Network {
    lab: Lab,
    state: tempfile::TempDir,
    port: u16,
    /// Further arguments of `imn up`.
    args: Vec<String>,
    /// Further variables of all its programs.
    env: Vec<(String, OsString)>,
    up: Option<Process>,
}

impl Network {
    /// Starts `imn up` and waits until it says `ready`.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further arguments.
    pub(crate) fn start_with(args: &[&str]) -> Self {
        Self::start_in::<&str>(args, &[])
    }

    /// The same in this environment.
    pub(crate) fn start_in<S: AsRef<OsStr>>(args: &[&str], env: &[(&str, S)]) -> Self {
        let lab = Lab::from_toml(ONE_HOST).unwrap();
        let state = tempfile::Builder::new().prefix("imn-site-").tempdir().unwrap();
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), value.as_ref().to_owned())).collect();
        let mut network = Self { lab, state, port: 8080, args, env, up: None };
        network.up();
        network
    }

    /// Starts `imn up` on the same state directory.
    pub(crate) fn up(&mut self) {
        let listen = format!("127.0.0.1:{}", self.port);
        let program = self.program().args(["up", "--listen", &listen]).args(&self.args);
        let mut up = program.spawn().unwrap();
        up.wait_for("imn up to be ready", Duration::from_mins(1), |up| {
            up.stdout().contains("ready http").then_some(())
        })
        .unwrap();
        self.up = Some(up);
    }

    /// Our program within the namespace, with this state directory.
    pub(crate) fn program(&self) -> Program {
        let program =
            self.node().program(program()).env("IMN_STATE_DIR", self.state()).env("IMN_LOG", "info");
        self.env.iter().fold(program, |program, (name, value)| program.env(name, value))
    }

    pub(crate) fn node(&self) -> &Node {
        self.lab.node("site").unwrap()
    }

    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        self.up.as_mut().unwrap()
    }

    /// SIGTERM, and the time until it has ended with status 0.
    pub(crate) fn stop(&mut self) -> Duration {
        let mut up = self.up.take().unwrap();
        let start = Instant::now();
        up.terminate();
        let status = up.wait_deadline(Duration::from_secs(30)).unwrap();
        assert!(status.success(), "imn up ended with {status}: {}", up.tail());
        start.elapsed()
    }

    pub(crate) fn connect(&self) -> Connect {
        let text = fs::read_to_string(self.state().join("connect.json")).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        let of = |key: &str| value[key].as_str().unwrap().to_owned();
        let ca_file = value["ca_file"].as_str().map(str::to_owned);
        Connect { http_url: of("http_url"), api_key: of("api_key"), ca_file }
    }

    /// A request by curl, as a person would make it.
    pub(crate) fn curl(&self, method: &str, path: &str, body: Option<&str>) -> Answer {
        let connect = self.connect();
        let mut curl =
            self.node().program("curl").package("curl").args(["-sS", "-m", "20", "-w", "\n%{http_code}"]);
        if let Some(ca) = &connect.ca_file {
            curl = curl.args(["--cacert", ca]);
        }
        curl = curl.args(["-X", method, "-H", &format!("Authorization: Bearer {}", connect.api_key)]);
        if let Some(body) = body {
            let file = tempfile::NamedTempFile::new_in(self.state()).unwrap();
            fs::write(file.path(), body).unwrap();
            curl = curl.args(["--data-binary", &format!("@{}", file.path().display())]);
            return Self::answer(&curl.arg(format!("{}{path}", connect.http_url)));
        }
        Self::answer(&curl.arg(format!("{}{path}", connect.http_url)))
    }

    /// Status 0 when nobody listens.
    fn answer(curl: &Program) -> Answer {
        let text = curl.run(Duration::from_secs(30)).unwrap().stdout;
        let (body, status) = text.rsplit_once('\n').unwrap();
        let body = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
        Answer { status: status.trim().parse().unwrap(), body }
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let answer = self.curl("GET", path, None);
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.body);
        answer.body
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.curl("POST", path, Some(&body.to_string()));
        assert!((200..300).contains(&answer.status), "POST {path}: {} {}", answer.status, answer.body);
        answer.body
    }

    /// The processes of this network by what they are: `up`, `server`, `agent`, `nats-server`, `module icmp` …
    ///
    /// Found by the state directory in their command lines, and the modules by the file in which the agent notes them.
    pub(crate) fn parts(&self) -> BTreeMap<String, Part> {
        let state = self.state().display().to_string();
        let mut parts = BTreeMap::new();
        for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Ok(raw) = fs::read(entry.path().join("cmdline")) else { continue };
            let words: Vec<_> =
                raw.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
            let command = words.join(" ");
            let is_program = Path::new(&words[0]) == program();
            let what = match words.get(1).map(String::as_str) {
                Some(role @ ("server" | "agent")) if is_program && command.contains(&state) => {
                    role.to_owned()
                }
                _ if command.contains("nats-server") && command.contains(&state) => "nats-server".to_owned(),
                _ => continue,
            };
            parts.insert(what, Part { pid, command });
        }
        for (instance, pid) in self.instances() {
            let path = format!("/proc/{pid}/cmdline");
            if let Ok(raw) = fs::read(path)
                && !raw.is_empty()
            {
                let command = String::from_utf8_lossy(&raw).replace('\0', " ");
                parts.insert(instance, Part { pid, command });
            }
        }
        parts
    }

    /// Instances and pids, as the agent's adoption file says.
    fn instances(&self) -> Vec<(String, u32)> {
        let mut found = Vec::new();
        let Ok(agents) = fs::read_dir(self.state().join("agents")) else { return found };
        for agent in agents.filter_map(Result::ok) {
            let Ok(text) = fs::read_to_string(agent.path().join("instances.json")) else { continue };
            collect(&serde_json::from_str(&text).unwrap_or_default(), &mut found);
        }
        found
    }

    pub(crate) fn pid(&self, part: &str) -> u32 {
        wait_until(format!("a process {part}"), Duration::from_secs(30), || {
            self.parts().get(part).map(|p| p.pid)
        })
        .unwrap()
    }

    /// SIGKILL to one part, by pid; returns the pid.
    pub(crate) fn kill9(&self, part: &str) -> u32 {
        let pid = self.pid(part);
        Self::signal(pid, Signal::SIGKILL);
        pid
    }

    pub(crate) fn signal(pid: u32, signal: Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).unwrap();
    }

    /// Waits until the part runs under another pid than `old`.
    pub(crate) fn wait_restarted(&self, part: &str, old: u32) -> u32 {
        wait_until(format!("{part} to be started again"), Duration::from_mins(1), || {
            self.parts().get(part).map(|p| p.pid).filter(|pid| *pid != old)
        })
        .unwrap()
    }

    /// Waits until `GET path` satisfies the condition.
    pub(crate) fn wait_get<T>(
        &self,
        path: &str,
        deadline: Duration,
        condition: impl Fn(&Value) -> Option<T>,
    ) -> T {
        let mut last = Value::Null;
        let found = wait_until(format!("GET {path}"), deadline, || {
            let answer = self.curl("GET", path, None);
            last = answer.body;
            (answer.status == 200).then(|| condition(&last)).flatten()
        });
        found.unwrap_or_else(|error| panic!("{error}; last answer: {last}"))
    }

    /// Waits until the server says that it cannot work, and why.
    pub(crate) fn wait_readyz_fails(&self, why: &str, deadline: Duration) {
        let failed = wait_until(format!("/readyz to say {why:?}"), deadline, || {
            let answer = self.curl("GET", "/readyz", None);
            (answer.status == 503 && answer.body.to_string().contains(why)).then_some(())
        });
        failed.unwrap();
    }

    /// Echo requests that the kernel of the namespace has received, v4 and v6.
    pub(crate) fn kernel_echoes(&self) -> (u64, u64) {
        let snmp = self.node().enter(|| fs::read_to_string("/proc/thread-self/net/snmp").unwrap()).unwrap();
        let snmp6 = self.node().enter(|| fs::read_to_string("/proc/thread-self/net/snmp6").unwrap()).unwrap();
        let mut icmp = snmp.lines().filter(|line| line.starts_with("Icmp:"));
        let (names, values) = (icmp.next().unwrap(), icmp.next().unwrap());
        let at = names.split_whitespace().position(|name| name == "InEchos").unwrap();
        let v4 = values.split_whitespace().nth(at).unwrap().parse().unwrap();
        let v6 = snmp6.lines().find(|line| line.starts_with("Icmp6InEchos ")).unwrap();
        (v4, v6.split_whitespace().nth(1).unwrap().parse().unwrap())
    }

    /// Runs a Python script within the namespace; its arguments are the state directory and `args`.
    pub(crate) fn python(&self, script: &str, args: &[&str], deadline: Duration) -> Option<String> {
        Some(self.script(script, args)?.run_ok(deadline).unwrap())
    }

    /// The same, yet to be started.
    pub(crate) fn script(&self, script: &str, args: &[&str]) -> Option<Program> {
        let python = python()?;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
        Some(self.node().program(python).arg(path).arg(self.state()).args(args))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Modules and the nats-server outlive their supervisor on purpose, and know nothing of tests.
        let parts = self.parts();
        self.up.take();
        for part in parts.into_values() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(part.pid as i32), Signal::SIGKILL);
        }
    }
}

/// Finds every object with an `instance` and a `pid`, wherever it stands.
fn collect(value: &Value, found: &mut Vec<(String, u32)>) {
    match value {
        Value::Object(map) => {
            if let (Some(instance), Some(pid)) = (
                map.get("instance").and_then(Value::as_str),
                map.get("pid")
                    .or_else(|| map.get("process").and_then(|p| p.get("pid")))
                    .and_then(Value::as_u64),
            ) {
                found.push((instance.to_owned(), pid as u32));
            }
            map.values().for_each(|inner| collect(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| collect(inner, found)),
        _ => {}
    }
}
