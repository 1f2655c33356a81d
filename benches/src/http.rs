//! `http`: CPU time and latency per request of our engine, of curl and of blackbox_exporter, at an nginx on loopback.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

use imn_probe::{
    http::{Engine, Spec, parse_url},
    tls::Trust,
};
use imn_testkit::Program;
use nix::sys::resource::UsageWho;

use crate::turn::{TURNS, cpu_us, cpu_us_of, median};

/// Requests of one run.
const REQUESTS: u32 = 1000;
const LONGEST: Duration = Duration::from_mins(5);
const START: Duration = Duration::from_secs(10);
const BLACKBOX: &str = "/usr/bin/prometheus-blackbox-exporter";

/// What one run of one side came to, in microseconds.
#[derive(Clone, Copy)]
struct Cost {
    cpu: f64,
    latency: f64,
}

pub(super) fn compare() -> Result<()> {
    let web = Web::start()?;
    let blackbox = Blackbox::start(&web)?;
    println!(
        "per request, median of {TURNS} alternated runs of {REQUESTS}, a connection each, nginx on loopback"
    );
    for scheme in ["http", "https"] {
        let url = web.url(scheme);
        let mut sides: [Vec<Cost>; 3] = Default::default();
        for _ in 0..TURNS {
            sides[0].push(ours(&url, &web)?);
            sides[1].push(curl(&url, &web)?);
            sides[2].push(blackbox.probe(&url)?);
        }
        let of = |side: &[Cost], figure: fn(&Cost) -> f64| median(side.iter().map(figure));
        let own = of(&sides[0], |cost| cost.cpu);
        println!("{scheme}");
        for (name, side) in ["imn", "curl", "blackbox"].iter().zip(&sides) {
            let (cpu, latency) = (of(side, |cost| cost.cpu), of(side, |cost| cost.latency));
            println!("  {name:<9} cpu {cpu:7.1} us, ratio {:.2}; latency {latency:7.1} us", own / cpu);
        }
    }
    Ok(())
}

/// Each request over a connection of its own.
fn ours(url: &str, web: &Web) -> Result<Cost> {
    let before = cpu_us(UsageWho::RUSAGE_SELF)?;
    let trust = Trust::none().with_pem(&fs::read(web.path("ca.pem"))?)?;
    let (engine, url) =
        (Engine::new(Spec::default(), trust, false), parse_url(url).map_err(|error| anyhow!(error))?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut times = Vec::with_capacity(REQUESTS as usize);
    runtime.block_on(async {
        for _ in 0..REQUESTS {
            let outcome = engine.measure(&url, |_, _| {}).await;
            match outcome.error {
                None => times.push(outcome.elapsed.as_secs_f64() * 1e6),
                Some(error) => return Err(error),
            }
        }
        Ok(())
    })?;
    let cpu = (cpu_us(UsageWho::RUSAGE_SELF)? - before) / f64::from(REQUESTS);
    Ok(Cost { cpu, latency: median(times) })
}

/// All requests by one curl, so that its start is spread over them; each over a connection of its own.
fn curl(url: &str, web: &Web) -> Result<Cost> {
    let list = web.path("curl");
    let each = format!("url = \"{url}\"\noutput = \"/dev/null\"\n");
    fs::write(&list, each.repeat(REQUESTS as usize)).context("write curl's list")?;
    let before = cpu_us(UsageWho::RUSAGE_CHILDREN)?;
    let said = Program::new("curl")
        .package("curl")
        .args(["-s", "-H", "connection: close", "--no-sessionid", "-w", "%{time_total}\n", "--cacert"])
        .arg(web.path("ca.pem"))
        .arg("--config")
        .arg(&list)
        .run_ok(LONGEST)?;
    let cpu = (cpu_us(UsageWho::RUSAGE_CHILDREN)? - before) / f64::from(REQUESTS);
    let times = said.lines().map(|line| Ok(line.parse::<f64>()? * 1e6)).collect::<Result<Vec<_>>>()?;
    Ok(Cost { cpu, latency: median(times) })
}

/// nginx with one small file, and a certificate of an authority of its own.
struct Web {
    directory: PathBuf,
    server: Child,
    ports: [u16; 2],
}

impl Web {
    fn start() -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("imn-bench-{}", std::process::id()));
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        let openssl = |args: &str| {
            let openssl = Program::new("openssl").package("openssl").args(args.split_whitespace());
            openssl.current_dir(&directory).run_ok(START)
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 30 -subj /CN=bench"))?;
        openssl(&format!("req -new {key} -keyout web.key -out web.csr -subj /CN=localhost"))?;
        fs::write(directory.join("names"), "subjectAltName=IP:127.0.0.1\n")?;
        openssl(
            "x509 -req -in web.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile names -out web.pem",
        )?;
        let ports = [free_port()?, free_port()?];
        let config = format!(
            "daemon off;\nmaster_process off;\npid pid;\nerror_log stderr error;\nevents {{}}\nhttp {{\naccess_log \
             off;\nclient_body_temp_path a;\nproxy_temp_path b;\nfastcgi_temp_path c;\nuwsgi_temp_path \
             d;\nscgi_temp_path e;\nserver {{ listen 127.0.0.1:{}; location / {{ return 200 \"good\"; }} }}\nserver \
             {{ listen 127.0.0.1:{} ssl; ssl_certificate web.pem; ssl_certificate_key web.key; ssl_session_tickets \
             off; location / {{ return 200 \"good\"; }} }}\n}}\n",
            ports[0], ports[1]
        );
        fs::write(directory.join("nginx.conf"), config)?;
        let mut nginx = Command::new("/usr/sbin/nginx");
        let server =
            nginx.arg("-p").arg(&directory).args(["-c", "nginx.conf"]).spawn().context("start nginx")?;
        let web = Self { directory, server, ports };
        answers(ports[1])?;
        Ok(web)
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/", self.ports[usize::from(scheme == "https")])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        end(&mut self.server);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// blackbox_exporter, asked as Prometheus does.
struct Blackbox {
    server: Child,
    port: u16,
}

impl Blackbox {
    fn start(web: &Web) -> Result<Self> {
        let config = format!(
            "modules:\n  it:\n    prober: http\n    timeout: 5s\n    http:\n      preferred_ip_protocol: ip4\n      \
             enable_http2: false\n      tls_config:\n        ca_file: {}\n",
            web.path("ca.pem").display()
        );
        let path = web.path("blackbox.yml");
        fs::write(&path, config)?;
        let port = free_port()?;
        let mut command = Command::new(BLACKBOX);
        command.arg(format!("--config.file={}", path.display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).args(["--log.level=error"]);
        let server = command.stderr(Stdio::null()).spawn().with_context(|| format!("start {BLACKBOX}"))?;
        let blackbox = Self { server, port };
        answers(port)?;
        Ok(blackbox)
    }

    fn probe(&self, url: &str) -> Result<Cost> {
        let before = self.cpu_us()?;
        let mut times = Vec::with_capacity(REQUESTS as usize);
        for _ in 0..REQUESTS {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            let target = url.replace(':', "%3A").replace('/', "%2F");
            write!(stream, "GET /probe?module=it&target={target} HTTP/1.0\r\n\r\n")?;
            let mut page = String::new();
            stream.read_to_string(&mut page)?;
            let value = |name: &str| {
                let line = page.lines().find(|line| line.starts_with(name) && !line.contains('{'))?;
                line.split_whitespace().nth(1)?.parse::<f64>().ok()
            };
            if value("probe_success ") != Some(1.0) {
                bail!("blackbox_exporter fails at {url}: {page}");
            }
            times.push(value("probe_duration_seconds ").context("no duration")? * 1e6);
        }
        Ok(Cost { cpu: (self.cpu_us()? - before) / f64::from(REQUESTS), latency: median(times) })
    }

    fn cpu_us(&self) -> Result<f64> {
        cpu_us_of(self.server.id())
    }
}

impl Drop for Blackbox {
    fn drop(&mut self) {
        end(&mut self.server);
    }
}

fn end(server: &mut Child) {
    // It may have ended by itself.
    let _ = server.kill();
    let _ = server.wait();
}

fn free_port() -> Result<u16> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(socket.local_addr()?.port())
}

fn answers(port: u16) -> Result<()> {
    let begin = Instant::now();
    while TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_err() {
        if begin.elapsed() > START {
            bail!("nothing answers at port {port}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
