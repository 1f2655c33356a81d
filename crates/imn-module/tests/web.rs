//! `http`, and `tcp` with TLS: as jobs and as standing work, against nginx.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{path::PathBuf, time::Duration};

use imn_contract::{
    ErrorCode, Fault, ModuleType, TargetId,
    latest::{Assignment, HttpOutcome, Outcome, PingOutcome, Round},
};
use imn_module::{Addressing, Done, Due, Sign, builtin, local::Worker};
use imn_runtime::clock;
use imn_testkit::{Authority, WebServer, wait_until};
use serde_json::{Value, json};
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_secs(20);

struct Site {
    authority: Authority,
    web: WebServer,
    /// The certificate that has expired.
    old: PathBuf,
}

impl Site {
    fn start() -> Self {
        let authority = Authority::new().unwrap();
        let good = authority.good("www.example.net").unwrap();
        let old = authority.issue("old", &["IP:127.0.0.1"], "20200101000000Z", "20210101000000Z").unwrap();
        let server = |port: &str, certificate: &imn_testkit::Certificate| {
            format!(
                "server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.2 TLSv1.3; root ROOT; \
                 location /moved {{ return 302 /page; }} }}\n",
                certificate.certificate.display(),
                certificate.key.display()
            )
        };
        let text = server("PORT0", &good) + &server("PORT1", &old);
        let web = WebServer::start(&text, None).unwrap();
        web.put("page", b"a page").unwrap();
        Self { authority, web, old: old.certificate }
    }

    fn url(&self, port: usize, path: &str) -> String {
        format!("https://127.0.0.1:{}/{path}", self.web.port(port))
    }

    fn ca(&self) -> String {
        std::fs::read_to_string(self.authority.certificate()).unwrap()
    }
}

fn job(kind: &str, target: &str, params: &Value) -> (Result<Outcome, Fault>, Vec<Sign>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (sender, mut signs) = mpsc::channel(1000);
        let worker = Worker::new(kind).unwrap();
        let found = worker.run(target, params.as_object().unwrap(), SOON, sender).await;
        let mut told = Vec::new();
        while let Ok(sign) = signs.try_recv() {
            told.push(sign);
        }
        (found, told)
    })
}

fn http(target: &str, params: &Value) -> HttpOutcome {
    match job("http", target, params).0.unwrap() {
        Outcome::Http(outcome) => *outcome,
        other => panic!("{other:?}"),
    }
}

fn tcp(target: &str, params: &Value) -> PingOutcome {
    match job("tcp", target, params).0.unwrap() {
        Outcome::Ping(outcome) => *outcome,
        other => panic!("{other:?}"),
    }
}

#[test]
fn jobs_tell_phases_certificates_and_failures() {
    let site = Site::start();
    let outcome = http(&site.url(0, "moved"), &json!({"ca": site.ca(), "count": 3, "interval": "20ms"}));
    assert_eq!((outcome.success, outcome.error.as_deref()), (true, None));
    assert_eq!((outcome.sent, outcome.received, outcome.met, outcome.unknown), (3, 3, 3, 0));
    assert_eq!(
        (outcome.status, outcome.version.as_deref(), outcome.body_bytes),
        (Some(200), Some("2"), Some(6))
    );
    assert_eq!((outcome.redirects, outcome.hops.len(), outcome.hops[0].status), (1, 2, Some(302)));
    assert_eq!(outcome.address.as_deref(), Some("127.0.0.1"));
    assert!(outcome.times_ms.iter().all(|ms| ms.is_some_and(|ms| ms > 0.0)) && outcome.times_ms.len() == 3);
    let phases = &outcome.phases_ms;
    let sum: f64 =
        [phases.connect, phases.tls, phases.processing, phases.transfer].into_iter().flatten().sum();
    assert_eq!(phases.resolve, None);
    assert!(sum > 0.0 && sum <= outcome.response_ms.max.unwrap() + 0.1, "{outcome:?}");
    assert!(outcome.error_us > 0.0 && outcome.time.is_some() && outcome.tmax_ms == 10_000);
    let tls = outcome.tls.as_ref().unwrap();
    assert_eq!((tls.verified, tls.version.as_str(), tls.alpn.as_deref()), (true, "TLS 1.3", Some("h2")));
    assert_eq!(outcome.certificate_expires.as_deref(), Some("2099-12-31T23:59:59.000000Z"));
    assert_eq!((tls.chain[0].subject.as_str(), tls.chain[0].pem.as_deref()), ("CN=www.example.net", None));

    // What it says can be read back as it is.
    let text = serde_json::to_value(&outcome).unwrap();
    assert_eq!(serde_json::from_value::<HttpOutcome>(text).unwrap(), outcome);

    // A live view has each phase in words, and the outcome so far with each request.
    let (_, signs) = job("http", &site.url(0, "page"), &json!({"ca": site.ca()}));
    let words: Vec<&str> = signs.iter().filter_map(|sign| sign.detail.get("text")?.as_str()).collect();
    assert!(words.iter().any(|words| words.starts_with("tls ")), "{words:?}");
    assert!(signs.last().unwrap().detail["outcome"]["success"] == true);
    let (_, signs) =
        job("http", &site.url(0, "page"), &json!({"ca": site.ca(), "count": 3, "interval": "20ms"}));
    let first = signs.iter().find_map(|sign| sign.detail.get("outcome")).unwrap();
    assert_eq!((&first["sent"], &first["success"]), (&json!(1), &json!(true)), "{first}");
    assert_eq!(first["times_ms"].as_array().unwrap().len(), 1, "{first}");

    let expired = http(&site.url(1, "page"), &json!({"ca": site.ca()}));
    assert_eq!((expired.success, expired.error_code.as_deref()), (false, Some("tls_expired")));
    assert_eq!((expired.sent, expired.received, expired.error_phase.as_deref()), (1, 0, Some("tls")));
    assert_eq!(expired.certificate_expires.as_deref(), Some("2021-01-01T00:00:00.000000Z"));
    assert_eq!(expired.times_ms, [None]);
    let careless = http(&site.url(1, "page"), &json!({"insecure": true, "certificates": true}));
    let tls = careless.tls.as_ref().unwrap();
    // The authority is not known either, which is found first or not.
    assert!(
        careless.success && !tls.verified && tls.problem.as_deref().is_some_and(|p| p.starts_with("tls_"))
    );
    let pem = tls.chain[0].pem.as_deref().unwrap();
    assert_eq!(pem, std::fs::read_to_string(&site.old).unwrap());
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----\n") && pem.lines().all(|line| line.len() <= 64));

    let wrong = http(&site.url(0, "none"), &json!({"ca": site.ca(), "expect_body": ["a page"]}));
    assert_eq!(
        (wrong.status, wrong.error_code.as_deref(), wrong.unmet.len()),
        (Some(404), Some("status"), 2)
    );
    assert_eq!((wrong.received, wrong.met, wrong.success), (1, 0, false));
    let nobody = http("http://no-such-name.invalid/", &json!({}));
    assert_eq!(
        (nobody.sent, nobody.address.as_deref(), nobody.error_code.as_deref()),
        (0, None, Some("resolve_failed"))
    );

    let fault = job("http", "gopher://a/", &json!({})).0.unwrap_err();
    assert!(fault.is(ErrorCode::Invalid) && fault.field.as_deref() == Some("target"));
}

#[test]
fn connections_are_secured_where_it_is_asked_for() {
    let site = Site::start();
    let params = |more: Value| {
        let mut params = json!({"tls": true, "count": 2, "interval": "10ms", "timeout": "5s"});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        params
    };
    let port = site.web.port(0);
    let good = tcp("127.0.0.1", &params(json!({"port": port, "ca": site.ca()})));
    assert_eq!((good.sent, good.received, good.error.as_deref()), (2, 2, None));
    let tls = good.tls.as_ref().unwrap();
    assert_eq!((tls.verified, tls.version.as_str()), (true, "TLS 1.3"));
    assert_eq!(tls.expires.as_deref(), Some("2099-12-31T23:59:59.000000Z"));
    // The figure is the connect time, not that of the handshake.
    assert!(good.rtt_ms.min.unwrap() < tls.handshake_ms, "{good:?}");
    assert!(good.error_us > 0.0);
    let name = params(json!({"port": port, "ca": site.ca(), "server_name": "www.example.org"}));
    let wrong = tcp("127.0.0.1", &name);
    assert_eq!((wrong.received, wrong.loss_pct), (0, Some(100.0)));
    assert!(wrong.error.as_deref().unwrap().starts_with("tls: the certificate is not for www.example.org"));
    assert_eq!(wrong.tls.as_ref().unwrap().problem.as_deref(), Some("tls_wrong_name"));
    let old = tcp("127.0.0.1", &params(json!({"port": site.web.port(1), "insecure": true, "ca": site.ca()})));
    assert_eq!((old.received, old.tls.unwrap().problem.as_deref()), (2, Some("tls_expired")));
    let closed = tcp("127.0.0.1", &params(json!({"port": 1})));
    assert_eq!((closed.received, closed.error.as_deref()), (0, Some("connection refused by 127.0.0.1")));
    assert!(closed.tls.is_none());
    // Without it nothing is different from before.
    let plain = tcp("127.0.0.1", &json!({"port": port, "count": 1}));
    assert_eq!((plain.received, plain.tls), (1, None));
    let fault = job("tcp", "127.0.0.1", &json!({"tls": true, "ca": "none"})).0.unwrap_err();
    assert_eq!(fault.field.as_deref(), Some("params.ca"));
}

fn assignment(kind: &str, target: &str, address: &str, params: &Value) -> Assignment {
    Assignment {
        target: TargetId::new(target).unwrap(),
        kind: ModuleType::new(kind).unwrap(),
        address: address.to_owned(),
        interval_ms: 1000,
        timeout_ms: 5000,
        count: 1,
        params: params.as_object().unwrap().clone(),
        since_us: 0,
        until_us: None,
    }
}

/// The rounds of assignments, each once, in their order.
fn rounds(kind: &str, assignments: &[Assignment]) -> Vec<Round> {
    let mut standing = builtin(kind).unwrap().standing().unwrap().unwrap();
    let due_us = clock::now_us() + 50_000;
    let dues: Vec<Due> = assignments
        .iter()
        .enumerate()
        .map(|(key, assignment)| {
            let plan = standing.plan(assignment).unwrap();
            let address = match plan.addressing {
                Addressing::Resolved(_) => Some(assignment.address.parse().unwrap()),
                Addressing::Opaque => None,
            };
            let timeout = Duration::from_millis(assignment.timeout_ms);
            Due { key: key as u64, due_us, address, plan: plan.number, count: assignment.count, timeout }
        })
        .collect();
    assert_eq!(standing.begin(&dues), dues.len());
    let mut done: Vec<Done> = Vec::new();
    wait_until("all rounds", SOON, || {
        standing.collect(&mut done);
        (done.len() == dues.len()).then_some(())
    })
    .unwrap();
    done.sort_by_key(|done| done.key);
    for done in &done {
        assert!(done.round.time_us >= due_us - 1000 && done.round.late_us < 2_000_000, "{:?}", done.round);
    }
    done.into_iter().map(|done| done.round).collect()
}

#[test]
fn standing_work_has_rounds_of_both_kinds() {
    let site = Site::start();
    let url = site.url(0, "page");
    let rounds_of_urls = rounds(
        "http",
        &[
            assignment("http", "a", &url, &json!({"ca": site.ca()})),
            assignment("http", "b", &site.url(0, "none"), &json!({"ca": site.ca()})),
            assignment("http", "c", "http://127.0.0.1:1/", &json!({})),
        ],
    );
    let outcome =
        |round: &Round| serde_json::from_str::<HttpOutcome>(round.outcome.as_ref().unwrap()).unwrap();
    let [good, missing, refused] = &rounds_of_urls[..] else { panic!("{rounds_of_urls:?}") };
    assert_eq!((good.success, good.sent, good.received, &*good.address), (true, 1, 1, "127.0.0.1"));
    assert_eq!(outcome(good).response_ms.avg.map(|ms| (ms * 1e6).round() as u64), good.rtt_avg_ns);
    assert_eq!((missing.success, missing.received, outcome(missing).status), (false, 1, Some(404)));
    assert!(missing.rtt_avg_ns.is_some() && missing.error.as_deref().unwrap().starts_with("status 404"));
    assert_eq!((refused.success, refused.received, refused.rtt_avg_ns), (false, 0, None));
    assert_eq!(outcome(refused).error_code.as_deref(), Some("refused"));

    // Plain and secured connections in one type, each by its own way.
    let port = site.web.port(0);
    let plain = json!({"port": port});
    let secured = json!({"port": port, "tls": true, "ca": site.ca()});
    let of_nobody = json!({"port": port, "tls": true, "server_name": "www.example.org", "ca": site.ca()});
    let mixed: Vec<Assignment> = [&plain, &secured, &plain, &of_nobody, &secured]
        .iter()
        .enumerate()
        .map(|(n, params)| assignment("tcp", &format!("t{n}"), "127.0.0.1", params))
        .collect();
    let rounds_of_connections = rounds("tcp", &mixed);
    let told: Vec<(bool, bool)> =
        rounds_of_connections.iter().map(|round| (round.success, round.outcome.is_some())).collect();
    assert_eq!(told, [(true, false), (true, true), (true, false), (false, true), (true, true)]);
    let secured: PingOutcome =
        serde_json::from_str(rounds_of_connections[1].outcome.as_ref().unwrap()).unwrap();
    assert!(secured.tls.unwrap().verified && rounds_of_connections[1].rtt_avg_ns.is_some());
}
