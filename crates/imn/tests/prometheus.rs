//! A Prometheus with the configuration that people have for blackbox_exporter, pointed at an agent and at the server.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use imn_testkit::{Lab, NatsServer, Node, Process, wait_until};
use network::program;
use serde_json::Value;

const ONE_HOST: &str = r#"
name = "scraped"
hosts = ["site", "away"]
routers = []
[[links]]
between = ["site", "away"]
"#;
const SERVER: &str = "127.0.0.1:8080";
const AGENT: &str = "127.0.0.1:9101";
const PROMETHEUS: &str = "127.0.0.1:9090";
const PATIENCE: Duration = Duration::from_secs(30);

/// Ours, beside the usual ones.
const OURS: &str = r#"
[probe_modules.three]
prober = "icmp"
timeout = "2s"
params = { count = 3, interval = "50ms" }
"#;

/// The configuration of blackbox_exporter's own page, but for the address at the end.
fn job(name: &str, module: &str, targets: &[&str], exporter: &str) -> String {
    format!(
        "  - job_name: {name}
    metrics_path: /probe
    params:
      module: [{module}]
    static_configs:
      - targets: {targets:?}
    relabel_configs:
      - source_labels: [__address__]
        target_label: __param_target
      - source_labels: [__param_target]
        target_label: instance
      - target_label: __address__
        replacement: {exporter}
"
    )
}

struct Site {
    agent: Process,
    _server: Process,
    _nats: NatsServer,
    state: tempfile::TempDir,
    lab: Lab,
}

impl Site {
    fn start() -> Self {
        let lab = Lab::from_toml(ONE_HOST).unwrap();
        let state = tempfile::Builder::new().prefix("imn-scraped-").tempdir().unwrap();
        let (config, key) = (state.path().join("imn.toml"), state.path().join("key"));
        fs::write(&config, OURS).unwrap();
        fs::write(&key, format!("imn_{}_{}", "5eed".repeat(3), "1ab0".repeat(16))).unwrap();
        let node = lab.node("site").unwrap();
        let nats = node.nats_server("").unwrap();
        let role = |role: &str, listen: &str| {
            let program = node.program(program()).env("IMN_CONFIG", &config).env("IMN_LOG", "info");
            let program = program.arg(role).args(["--nats-url", &nats.url(), "--listen", listen]);
            program.arg("--api-key-file").arg(&key).arg("--state-dir").arg(state.path().join(role))
        };
        let server = role("server", SERVER).spawn().unwrap();
        let agent = role("agent", AGENT).args(["--id", "local"]).spawn().unwrap();
        Self { agent, _server: server, _nats: nats, state, lab }
    }

    fn node(&self) -> &Node {
        self.lab.node("site").unwrap()
    }

    /// Status and body.
    fn get(&self, url: &str) -> Option<(u16, String)> {
        let curl =
            self.node().program("curl").package("curl").args(["-sS", "-m", "10", "-w", "\n%{http_code}"]);
        let text = curl.arg(url).run_ok(Duration::from_secs(15)).ok()?;
        let (body, status) = text.rsplit_once('\n')?;
        Some((status.parse().ok()?, body.to_owned()))
    }

    fn page(&self, exporter: &str, query: &str) -> String {
        let mut last = None;
        let page = wait_until(format!("a page of {exporter} for {query}"), PATIENCE, || {
            last = self.get(&format!("http://{exporter}/probe?{query}"));
            last.clone().filter(|(status, _)| *status == 200).map(|(_, page)| page)
        });
        page.unwrap_or_else(|error| panic!("{error}; last: {last:?}"))
    }

    fn prometheus(&self, jobs: &str) -> Process {
        let text = format!("global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\nscrape_configs:\n{jobs}");
        let path = self.state.path().join("prometheus.yml");
        fs::write(&path, text).unwrap();
        let program = self.node().program("prometheus").package("prometheus");
        let flag = |name: &str, value: &Path| format!("--{name}={}", value.display());
        program
            .arg(flag("config.file", &path))
            .arg(flag("storage.tsdb.path", &self.state.path().join("tsdb")))
            .arg(format!("--web.listen-address={PROMETHEUS}"))
            .spawn()
            .unwrap()
    }

    /// The samples that Prometheus has of a metric, by job and instance.
    fn samples(&self, metric: &str) -> BTreeMap<(String, String), f64> {
        let url = format!("http://{PROMETHEUS}/api/v1/query?query={metric}");
        let Some((200, body)) = self.get(&url) else { return BTreeMap::new() };
        let body: Value = serde_json::from_str(&body).unwrap();
        let rows = body["data"]["result"].as_array().cloned().unwrap_or_default();
        rows.iter()
            .map(|row| {
                let label = |name: &str| row["metric"][name].as_str().unwrap().to_owned();
                let value = row["value"][1].as_str().unwrap().parse().unwrap();
                ((label("job"), label("instance")), value)
            })
            .collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // An agent that is killed leaves its modules to the next one.
        self.agent.terminate();
        let _ = self.agent.wait_deadline(PATIENCE);
    }
}

/// promtool's verdict on a page.
fn check(page: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), page).unwrap();
    let shell = imn_testkit::Program::new("sh").args(["-c", "promtool check metrics < \"$1\"", "sh"]);
    let verdict = shell.arg(file.path()).run(Duration::from_secs(20)).unwrap();
    assert!(verdict.status.success(), "{}{}\n{page}", verdict.stdout, verdict.stderr);
}

fn sample(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn prometheus_takes_us_for_blackbox_exporter() {
    if !imn_testkit::require_root("prometheus") {
        return;
    }
    let site = Site::start();

    for exporter in [AGENT, SERVER] {
        let page = site.page(exporter, "target=127.0.0.1&module=icmp");
        check(&page);
        assert_eq!(sample(&page, "probe_success"), Some(1.0), "{page}");
        assert_eq!(sample(&page, "probe_ip_protocol"), Some(4.0), "{page}");
        assert_eq!(sample(&page, "probe_icmp_reply_hop_limit"), Some(64.0), "{page}");
        // As blackbox_exporter has it for this address.
        assert_eq!(sample(&page, "probe_ip_addr_hash"), Some(3_668_918_509.0), "{page}");
        let rtt = sample(&page, "probe_icmp_duration_seconds{phase=\"rtt\"}").unwrap();
        assert!(0.0 < rtt && rtt < sample(&page, "probe_duration_seconds").unwrap(), "{page}");
        let three = site.page(exporter, "target=::1&module=three");
        assert_eq!(sample(&three, "imn_ping_packets{fate=\"received\"}"), Some(3.0), "{three}");
        let closed = site.page(exporter, "target=127.0.0.1:9&module=tcp_connect");
        assert_eq!(sample(&closed, "probe_success"), Some(0.0), "{closed}");
        let web = site.page(exporter, &format!("target={SERVER}/healthz&module=http_2xx"));
        check(&web);
        assert_eq!(sample(&web, "probe_success"), Some(1.0), "{web}");
        assert_eq!(sample(&web, "probe_http_status_code"), Some(200.0), "{web}");
        assert!(sample(&web, "probe_http_duration_seconds{phase=\"processing\"}").unwrap() > 0.0, "{web}");
        // A name in place of the address: what curl does by a header, and the whole story by debug=true.
        let named = format!("target={SERVER}/healthz&module=http_2xx&hostname=www.example.net&debug=true");
        let debug = site.page(exporter, &named);
        for part in ["Logs for the probe:", "Metrics that would have been returned:", "Module configuration:"]
        {
            assert!(debug.contains(part), "{exporter} {part}: {debug}");
        }
        assert_eq!(sample(&debug, "probe_success"), Some(1.0), "{debug}");
        assert!(debug.contains("\"server_name\": \"www.example.net\""), "{debug}");
        // What is not measured is no page that says that the target is down.
        for (query, status, words) in [
            ("target=127.0.0.1&module=none", 400, "Unknown module"),
            ("module=icmp", 400, "Target parameter is missing"),
            ("target=127.0.0.1&module=tcp_connect", 400, "name a port"),
            ("target=127.0.0.1&module=http_2xx&hostname=a%20b", 400, "letters, digits"),
        ] {
            let (got, body) = site.get(&format!("http://{exporter}/probe?{query}")).unwrap();
            assert!(got == status && body.contains(words), "{exporter} {query}: {got} {body}");
        }
    }

    for role in [AGENT, SERVER] {
        let (status, page) = site.get(&format!("http://{role}/metrics")).unwrap();
        assert_eq!(status, 200, "{page}");
        check(&page);
    }

    let pings = ["127.0.0.1", "::1", "192.0.2.1"];
    let ports = [SERVER, "127.0.0.1:9"];
    let mut jobs = String::new();
    for (name, exporter) in [("agent", AGENT), ("server", SERVER)] {
        jobs += &job(&format!("{name}-icmp"), "icmp", &pings, exporter);
        jobs += &job(&format!("{name}-tcp"), "tcp_connect", &ports, exporter);
    }
    let own = format!("  - job_name: own\n    static_configs:\n      - targets: {:?}\n", [AGENT, SERVER]);
    jobs += &own;
    let mut prometheus = site.prometheus(&jobs);
    let mut expected = BTreeMap::new();
    for name in ["agent", "server"] {
        for (target, up) in pings.into_iter().zip([1.0, 1.0, 0.0]) {
            expected.insert((format!("{name}-icmp"), target.to_owned()), up);
        }
        for (target, up) in ports.into_iter().zip([1.0, 0.0]) {
            expected.insert((format!("{name}-tcp"), target.to_owned()), up);
        }
    }
    let mut last = BTreeMap::new();
    let found = prometheus.wait_for("every target to be scraped as it is", PATIENCE, |_| {
        last = site.samples("probe_success");
        (last == expected).then_some(())
    });
    found.unwrap_or_else(|error| panic!("{error}\n{last:?}\n{}", prometheus.tail()));
    let delays = site.samples("probe_icmp_duration_seconds%7Bphase=%22rtt%22%7D");
    assert_eq!(delays.len(), 4, "{delays:?}");
    assert!(delays.values().all(|seconds| (1e-6..0.1).contains(seconds)), "{delays:?}");
    let own = site.samples("up%7Bjob=%22own%22%7D");
    assert_eq!(own.values().copied().collect::<Vec<_>>(), [1.0, 1.0], "{own:?}");
    prometheus.terminate();
}
