//! A network spread over a laboratory of imn-testkit: NATS and server on a router, an agent at each vantage point,
//! joined by the management network, so that the emulated links carry nothing but measurements.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use imn_testkit::{Lab, NatsServer, Node, Process, Signal, wait_until};
use serde_json::{Value, json};

use super::network::{Answer, program, python};

/// Where NATS and the server are: any node would do, the management network reaches them all.
const CENTRE: &str = "r2";
const SERVER: &str = "127.0.0.1:8080";
/// Between two looks at something that takes its time: a look costs processes on the machine that is measured.
const PAUSE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(30);
/// An agent ends within twelve seconds.
const ENDING: Duration = Duration::from_secs(15);

/// One round as it stands in the files.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) agent: String,
    pub(crate) target: IpAddr,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) unknown: u64,
    pub(crate) duplicates: u64,
    pub(crate) late: u64,
    /// In microseconds, in order of sending; `None` for a packet not received.
    pub(crate) rtts_us: Vec<Option<f64>>,
}

/// The running network. The order of the fields is that of the end: the agents go first, the links last.
pub(crate) struct Laboratory {
    agents: Vec<(String, Process)>,
    _server: Process,
    _nats: NatsServer,
    state: tempfile::TempDir,
    key: String,
    pub(crate) lab: Lab,
}

impl Laboratory {
    /// Starts NATS, server and agents, and waits until each agent is at work and has its `icmp` module.
    pub(crate) fn start(topology: &str, vantage_points: &[&str]) -> Self {
        let lab = Lab::from_toml(topology).unwrap();
        let state = tempfile::Builder::new().prefix("imn-laboratory-").tempdir().unwrap();
        let centre = lab.node(CENTRE).unwrap();
        let nats = centre.nats_server("").unwrap();
        let key = format!("imn_{}_{}", "5eed".repeat(3), "1ab0".repeat(16));
        let key_file = state.path().join("api-key");
        fs::write(&key_file, &key).unwrap();

        let role = |node: &Node, role: &str, state: &Path| {
            let program = node.program(program()).env("IMN_LOG", "info").arg(role);
            program.args(["--nats-url", &nats.url()]).arg("--state-dir").arg(state)
        };
        let server = role(centre, "server", &state.path().join("server"))
            .args(["--listen", SERVER])
            .arg("--api-key-file")
            .arg(&key_file)
            .spawn()
            .unwrap();
        let agent = |name: &&str| {
            let state = agent_state(state.path(), name);
            let program = role(lab.node(name).unwrap(), "agent", &state);
            ((*name).to_owned(), program.args(["--id", name, "--listen", "127.0.0.1:0"]).spawn().unwrap())
        };
        let agents = vantage_points.iter().map(agent).collect();
        let laboratory = Self { agents, _server: server, _nats: nats, state, key, lab };
        laboratory.ready();
        laboratory
    }

    fn ready(&self) {
        wait_until("the server to be ready", PATIENCE, || {
            let answer = self.request("GET", "/readyz", None);
            look(answer.ok().filter(|answer| answer.status == 200))
        })
        .unwrap();
        for (name, _) in &self.agents {
            self.wait_agent(name, "to have a module icmp", |agent| {
                let modules = agent["modules"].as_array()?;
                (agent["status"] == "active" && modules.contains(&json!("icmp"))).then_some(())
            });
            assert!(!modules(self.state.path(), name).is_empty(), "agent {name} notes no module processes");
        }
    }

    /// Waits until what the server knows of an agent satisfies the condition.
    pub(crate) fn wait_agent<T>(&self, name: &str, what: &str, condition: impl Fn(&Value) -> Option<T>) -> T {
        let path = format!("/api/v1/agents/{name}");
        let mut last = Value::Null;
        let found = wait_until(format!("agent {name} {what}"), PATIENCE, || {
            let answer = self.request("GET", &path, None).ok()?;
            last = answer.body;
            look(if answer.status == 200 { condition(&last) } else { None })
        });
        found.unwrap_or_else(|error| panic!("{error}; it says {last}"))
    }

    /// A request by curl from where the server is; an error when there is no answer.
    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, imn_testkit::Error> {
        let curl = self.lab.node(CENTRE)?.program("curl").package("curl");
        let mut curl = curl.args(["-sS", "-m", "20", "-w", "\n%{http_code}", "-X", method]);
        curl = curl.args(["-H", &format!("Authorization: Bearer {}", self.key), "-H", "If-Match: *"]);
        if let Some(body) = body {
            curl = curl.args(["-d", &body.to_string()]);
        }
        let text = curl.arg(format!("http://{SERVER}{path}")).run_ok(PATIENCE)?;
        let (body, status) = text.rsplit_once('\n').unwrap();
        let body = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
        Ok(Answer { status: status.parse().unwrap(), body })
    }

    /// As [`Self::request`], and the server must agree.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self.request(method, path, body).unwrap();
        assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.body);
        answer.body
    }

    /// Waits until so many packets from the agent to the target are committed.
    pub(crate) fn wait_sent(&self, agent: &str, target: &str, packets: u64, deadline: Duration) {
        let path = format!("/api/v1/targets/{target}/history?agent={agent}");
        let what = format!("{packets} packets from {agent} to target {target}");
        wait_until(what, deadline, || {
            let history = self.ask("GET", &path, None);
            let steps = history["items"].as_array().unwrap();
            let sent: u64 = steps.iter().map(|step| step["sent"].as_u64().unwrap()).sum();
            look((sent >= packets).then_some(()))
        })
        .unwrap();
    }

    /// All rounds that are committed, in the order of their due times, as DuckDB reads them from our files.
    pub(crate) fn stored(&self) -> Vec<Stored> {
        const SQL: &str = "select agent, address, sent, received, unknown, duplicates, late, rtts_us from rounds \
                           where type = 'icmp' order by agent, address, due";
        self.ask("POST", "/api/v1/results:compact", None);
        let files = self.ask("GET", "/api/v1/results/files", None);
        let listing = self.state.path().join("files.json");
        fs::write(&listing, files["items"].to_string()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/count.py");
        let python = imn_testkit::Program::new(python().unwrap()).arg(script).arg(self.state.path());
        let text = python.arg(&listing).arg(SQL).run_ok(PATIENCE * 2).unwrap();
        let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
        rows.iter().map(Stored::read).collect()
    }

    /// Ends the agents by SIGTERM: each drains its modules and leaves none behind.
    pub(crate) fn stop_agents(&mut self) {
        for (_, process) in &mut self.agents {
            process.terminate();
        }
        for (name, process) in &mut self.agents {
            let status = process.wait_deadline(ENDING).unwrap();
            assert!(status.success(), "agent {name} ended with {status}: {}", process.tail());
            let left = modules(self.state.path(), name);
            assert!(left.is_empty(), "agent {name} left its modules {left:?} behind");
        }
    }
}

impl Drop for Laboratory {
    fn drop(&mut self) {
        for (_, process) in &mut self.agents {
            process.terminate();
        }
        for (name, process) in &mut self.agents {
            let _ = process.wait_deadline(ENDING);
            process.kill9();
            // Modules outlive an agent that is killed, on purpose: whatever is left is ended by its id.
            for pid in modules(self.state.path(), name) {
                let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                if String::from_utf8_lossy(&command).contains("module") {
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
        }
    }
}

impl Stored {
    fn read(row: &Value) -> Self {
        let number = |at: usize| row[at].as_u64().unwrap_or_else(|| panic!("column {at} of {row}"));
        let text = |at: usize| row[at].as_str().unwrap_or_else(|| panic!("column {at} of {row}"));
        let rtts = row[7].as_array().unwrap_or_else(|| panic!("no times of packets in {row}"));
        Self {
            agent: text(0).to_owned(),
            target: text(1).parse().unwrap(),
            sent: number(2),
            received: number(3),
            unknown: number(4),
            duplicates: number(5),
            late: number(6),
            rtts_us: rtts.iter().map(Value::as_f64).collect(),
        }
    }
}

fn agent_state(state: &Path, agent: &str) -> PathBuf {
    state.join("agents").join(agent)
}

/// The ids of an agent's module processes, as it notes them.
fn modules(state: &Path, agent: &str) -> Vec<i32> {
    let text = fs::read_to_string(agent_state(state, agent).join("instances.json")).unwrap_or_default();
    let noted: Value = serde_json::from_str(&text).unwrap_or_default();
    let instances = noted["instances"].as_array().cloned().unwrap_or_default();
    instances.iter().filter_map(|record| record["pid"].as_i64()).map(|pid| pid as i32).collect()
}

/// Gives what was found; rests a while when that is nothing.
fn look<T>(found: Option<T>) -> Option<T> {
    if found.is_none() {
        sleep(PAUSE);
    }
    found
}
