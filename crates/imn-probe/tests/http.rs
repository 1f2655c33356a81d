//! The HTTP engine against nginx, with curl as the oracle of phases, sizes and redirects.

#![expect(clippy::unwrap_used, reason = "a test helper fails its test")]

use std::collections::BTreeMap;
use std::time::Duration;

use imn_probe::http::{
    Engine, Expect, Family, HeaderName, HeaderValue, Limit, Method, Outcome, Phase, Rule, Spec, Version,
    parse_url,
};
use imn_probe::tls::Trust;
use imn_testkit::{Authority, Lab, Node, Program, WebServer, require_root};

const SOON: Duration = Duration::from_secs(20);
const WRITE_OUT: &str = "%{http_code} %{http_version} %{size_header} %{size_download} %{num_redirects} \
                         %{time_namelookup} %{time_connect} %{time_appconnect} %{time_pretransfer} \
                         %{time_starttransfer} %{time_total}";

fn measure(engine: &Engine, url: &str) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(engine.measure(&parse_url(url).unwrap(), |_, _| {}))
}

fn engine(spec: Spec, authority: Option<&Authority>) -> Engine {
    let trust = authority.map_or_else(Trust::none, |authority| {
        Trust::none().with_pem(&std::fs::read(authority.certificate()).unwrap()).unwrap()
    });
    Engine::new(spec, trust, false)
}

fn code(outcome: &Outcome) -> &'static str {
    outcome.error.as_ref().map_or("", |error| error.cause.code())
}

/// What curl says of a request.
#[derive(Debug)]
struct Oracle {
    status: u16,
    version: String,
    head: u64,
    body: u64,
    redirects: usize,
    /// Milliseconds of the last request by phase.
    phases: BTreeMap<&'static str, f64>,
}

fn curl(program: Program, args: &[&str], url: &str) -> Oracle {
    let said =
        program.args(["-s", "-o", "/dev/null", "-w", WRITE_OUT]).args(args).arg(url).run_ok(SOON).unwrap();
    let words: Vec<&str> = said.split_whitespace().collect();
    let time = |at: usize| words[at].parse::<f64>().unwrap() * 1e3;
    let secured = if time(7) > 0.0 { time(7) } else { time(6) };
    Oracle {
        status: words[0].parse().unwrap(),
        version: words[1].to_owned(),
        head: words[2].parse().unwrap(),
        body: words[3].parse().unwrap(),
        redirects: words[4].parse().unwrap(),
        phases: BTreeMap::from([
            ("connect", time(6) - time(5)),
            ("tls", secured - time(6)),
            ("processing", time(9) - time(8)),
            ("transfer", time(10) - time(9)),
            ("total", time(10)),
        ]),
    }
}

fn phases(outcome: &Outcome) -> BTreeMap<&'static str, f64> {
    let ms = |span: Duration| span.as_secs_f64() * 1e3;
    let mut phases: BTreeMap<_, _> = Phase::ALL
        .into_iter()
        .filter(|phase| *phase != Phase::Resolve)
        .map(|phase| (phase.name(), outcome.phases().get(phase).map_or(0.0, ms)))
        .collect();
    phases.insert("total", ms(outcome.elapsed));
    phases
}

#[test]
fn phases_and_sizes_are_those_of_curl_over_a_long_path() {
    if !require_root("phases_and_sizes_are_those_of_curl_over_a_long_path") {
        return;
    }
    let lab = Lab::from_toml(
        "name = \"http\"\nseed = 3\nhosts = [\"a\", \"b\"]\n[[links]]\nbetween = [\"a\", \"b\"]\ndelay = \"15ms\"\n",
    )
    .unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let authority = Authority::new().unwrap();
    let address = b.v4().unwrap().to_string();
    let names = ["DNS:web.example.net".to_owned(), format!("IP:{address}")];
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let good = authority.issue("web", &names, "20200101000000Z", "20991231235959Z").unwrap();
    let (certificate, key) = (good.certificate.display(), good.key.display());
    let web = WebServer::start(
        &format!(
            "server {{ listen PORT0; root ROOT; }}\nserver {{ listen PORT1 ssl http2; root ROOT; ssl_certificate \
             {certificate}; ssl_certificate_key {key}; }}"
        ),
        Some(b),
    )
    .unwrap();
    web.put("page", &vec![b'x'; 100_000]).unwrap();
    let ca = authority.certificate().display().to_string();
    for (scheme, port, version, flag) in [
        ("http", 0, Version::Http1, "--http1.1"),
        ("https", 1, Version::Http1, "--http1.1"),
        ("https", 1, Version::Any, "--http2"),
    ] {
        let url = format!("{scheme}://{address}:{}/page", web.port(port));
        let engine = engine(Spec { version, ..Spec::default() }, Some(&authority));
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        // In turn, so that both see the same load of this machine.
        for _ in 0..7 {
            ours.push(in_node(a, &engine, &url));
            theirs.push(curl(a.program("curl"), &[flag, "--cacert", &ca], &url));
        }
        let (outcome, oracle) = (&ours[0], &theirs[0]);
        let answer = outcome.answer().unwrap();
        assert_eq!(outcome.error, None);
        assert_eq!(
            (answer.status.as_u16(), answer.version, answer.head_bytes, answer.body_bytes),
            (oracle.status, oracle.version.as_str(), oracle.head, oracle.body),
            "{url}"
        );
        assert_eq!(outcome.last().unwrap().tls.is_some(), scheme == "https");
        let rtt = outcome.last().unwrap().connect_rtt.unwrap();
        assert!((29.9..33.0).contains(&(rtt.as_secs_f64() * 1e3)), "{rtt:?}");
        for phase in ["connect", "tls", "processing", "transfer", "total"] {
            let least = |all: Vec<BTreeMap<&str, f64>>| {
                all.iter().map(|phases| phases[phase]).fold(f64::INFINITY, f64::min)
            };
            let (ours, theirs) = (
                least(ours.iter().map(phases).collect()),
                least(theirs.iter().map(|o| o.phases.clone()).collect()),
            );
            // curl spends some milliseconds of its own on TLS: reading authorities, checking the chain.
            let slack = 2.0 + if scheme == "https" { 6.0 } else { 0.0 };
            // How a transfer goes depends on when its bytes are acknowledged.
            let slack = slack + if phase == "transfer" || phase == "total" { theirs * 0.08 } else { 0.0 };
            assert!((ours - theirs).abs() < slack, "{url} {flag} {phase}: ours {ours} ms, curl {theirs} ms");
            if phase != "transfer" && (phase != "tls" || scheme == "https") {
                assert!(ours >= 29.9, "{url} {phase}: {ours} ms is less than the path takes");
            }
        }
    }
}

fn in_node(node: &Node, engine: &Engine, url: &str) -> Outcome {
    node.enter(|| measure(engine, url)).unwrap()
}

#[test]
fn redirects_headers_and_expectations() {
    let authority = Authority::new().unwrap();
    let good = authority.good("www.example.net").unwrap();
    let (certificate, key) = (good.certificate.display(), good.key.display());
    let web = WebServer::start(
        &format!(
            "server {{ listen 127.0.0.1:PORT0; listen [::1]:PORT0; root ROOT;
               location /loop {{ return 302 /loop; }}
               location /one {{ return 301 /two; }}
               location /two {{ return 307 http://localhost:PORT0/see; }}
               location /see {{ return 303 /echo; }}
               location /away {{ return 302 https://localhost:PORT1/echo; }}
               location /nowhere {{ return 302 ftp://localhost/; }}
               location /echo {{ return 200 \"$request_method $http_x_test $http_authorization $content_length $http_host\"; }}
               location /gone {{ return 410; }}
               location /empty {{ return 204; }}
             }}
             server {{ listen 127.0.0.1:PORT1 ssl http2; ssl_certificate {certificate}; ssl_certificate_key {key};
               location /echo {{ return 200 \"$request_method $http_x_test $http_authorization $server_protocol\"; }} }}
             server {{ listen 127.0.0.1:PORT2 http2; location / {{ return 200 \"$server_protocol\"; }} }}"
        ),
        None,
    )
    .unwrap();
    let base = format!("http://127.0.0.1:{}", web.port(0));
    let at = |path: &str| format!("{base}{path}");
    let body = |pattern: &str| Expect {
        body: vec![Rule { pattern: regex::bytes::Regex::new(pattern).unwrap(), negate: false }],
        ..Expect::default()
    };
    let get = |spec: Spec, path: &str| measure(&engine(spec, Some(&authority)), &at(path));

    // The same chain as curl's: each hop recorded, phases added up.
    let outcome = get(Spec::default(), "/one");
    let oracle = curl(Program::new("curl"), &["-L"], &at("/one"));
    let answer = outcome.answer().unwrap();
    assert_eq!(
        (outcome.hops.len() - 1, answer.status.as_u16(), answer.head_bytes, answer.body_bytes),
        (oracle.redirects, oracle.status, curl(Program::new("curl"), &[], &at("/echo")).head, oracle.body)
    );
    assert_eq!(
        outcome.hops[1].answer.as_ref().unwrap().location.as_deref(),
        Some(&*format!("http://localhost:{}/see", web.port(0)))
    );
    assert!(!outcome.hops[2].addresses.is_empty() && outcome.hops[2].phases.get(Phase::Resolve).is_some());
    assert_eq!(code(&get(Spec::default(), "/loop")), "too_many_redirects");
    assert_eq!(get(Spec { redirects: 3, ..Spec::default() }, "/loop").hops.len(), 4);
    let first = get(Spec { redirects: 0, ..Spec::default() }, "/one");
    assert_eq!((code(&first), first.hops.len()), ("status", 1));
    assert_eq!(code(&get(Spec::default(), "/nowhere")), "bad_redirect");

    // Method, headers and body arrive; a redirect of POST becomes GET and keeps no body; secrets stay at home.
    let mut posting = Spec { method: Method::POST, body: "some".into(), ..Spec::default() };
    posting.headers.insert(HeaderName::from_static("x-test"), HeaderValue::from_static("kept"));
    posting.headers.insert(HeaderName::from_static("authorization"), HeaderValue::from_static("secret"));
    let host = format!("127\\.0\\.0\\.1:{}", web.port(0));
    posting.expect = body(&format!("^POST kept secret 4 {host}$"));
    assert_eq!(get(posting.clone(), "/echo").error, None);
    posting.expect = body(&format!("^GET kept   localhost:{}$", web.port(0)));
    assert_eq!(get(posting.clone(), "/one").error, None);
    posting.expect = body("^GET kept  HTTP/2.0$");
    let away = get(posting, "/away");
    assert_eq!((away.error.clone(), away.answer().unwrap().version), (None, "2"));
    let head = get(Spec { method: Method::HEAD, ..Spec::default() }, "/echo");
    assert_eq!((head.error.clone(), head.answer().unwrap().body_bytes), (None, 0));
    assert!(head.answer().unwrap().content_length.is_some_and(|length| length > 0));

    // HTTP/2 without TLS, and where it is not spoken.
    let clear = Spec { version: Version::Http2, expect: body("^HTTP/2.0$"), ..Spec::default() };
    let url = format!("http://127.0.0.1:{}/", web.port(2));
    assert_eq!(measure(&engine(clear.clone(), None), &url).error, None);
    assert!(get(clear, "/echo").error.is_some());

    // Expectations.
    assert_eq!(code(&get(Spec::default(), "/gone")), "status");
    let gone = Expect { status: vec![404..=404, 410..=499], ..Expect::default() };
    assert_eq!(get(Spec { expect: gone, ..Spec::default() }, "/gone").error, None);
    assert_eq!(get(Spec::default(), "/empty").error, None);
    let rule = |pattern: &str, negate| Rule { pattern: regex::bytes::Regex::new(pattern).unwrap(), negate };
    let server = HeaderName::from_static("server");
    for (rule, expected) in [
        (rule("^nginx", false), ""),
        (rule("^nginx", true), "header"),
        (rule("apache", false), "header"),
        (rule("apache", true), ""),
    ] {
        let expect = Expect { headers: vec![(server.clone(), rule)], ..Expect::default() };
        assert_eq!(code(&get(Spec { expect, ..Spec::default() }, "/echo")), expected);
    }
    let wrong = get(Spec { expect: body("nothing of the kind"), ..Spec::default() }, "/echo");
    assert_eq!((code(&wrong), wrong.unmet.len()), ("body", 1));
    let short = Limit { body: 4, ..Limit::default() };
    let long = get(Spec { limit: short, ..Spec::default() }, "/echo");
    assert_eq!((code(&long), long.answer().unwrap().body_bytes), ("body_too_large", 4));

    // Which address of a name.
    let named = |spec| measure(&engine(spec, None), &format!("http://localhost:{}/echo", web.port(0)));
    for (family, v4) in [(Family::V4, true), (Family::V6, false)] {
        let outcome = named(Spec { family, ..Spec::default() });
        // Where the name has no address of the family, that is what is said.
        let Some(peer) = outcome.hops[0].peer else {
            assert_eq!(code(&outcome), "no_address");
            continue;
        };
        assert_eq!(peer.is_ipv4(), v4);
        assert_eq!(outcome.hops[0].local.unwrap().is_ipv4(), v4);
    }
    let pinned = Spec { address: Some([127, 0, 0, 1].into()), ..Spec::default() };
    let url = format!("https://www.example.net:{}/echo", web.port(1));
    let outcome = measure(&engine(pinned, Some(&authority)), &url);
    assert_eq!((outcome.error.clone(), outcome.phases().get(Phase::Resolve)), (None, None));
    assert_eq!(outcome.earliest_expiry(), Some(4_102_444_799));
    let nobody = measure(&engine(Spec::default(), None), "http://no-such-name.invalid/");
    assert_eq!((code(&nobody), nobody.hops.len()), ("resolve_failed", 1));
    let closed = measure(&engine(Spec::default(), None), "http://127.0.0.1:1/");
    assert_eq!((code(&closed), closed.error.unwrap().phase), ("refused", Phase::Connect));
}
