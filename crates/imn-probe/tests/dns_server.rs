//! The DNS engine against a real name server, with dig as the oracle of what is in its answers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use imn_probe::TsSource;
use imn_probe::dns::{Class, Config, Engine, Failure, Outcome, Query, Rcode, RecordType, Transport};
use imn_probe::tls::Trust;
use imn_testkit::{NameServer, Program};

const SOON: Duration = Duration::from_secs(10);
const ZONE: &str = "imn.test";

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn engine(server: &NameServer) -> Engine {
    let certificate = std::fs::read(server.certificate()).unwrap();
    Engine::new(&Config::default()).with_trust(Trust::none().with_pem(&certificate).unwrap())
}

fn query(name: &str, kind: &str, transport: Transport) -> Query {
    Query { transport, timeout: SOON, ..Query::new(name, kind.parse().unwrap()) }
}

fn address(server: &NameServer, transport: Transport) -> SocketAddr {
    match transport {
        Transport::Udp | Transport::Tcp => server.plain(),
        Transport::Dot => server.tls(),
        Transport::Doh => server.https(),
    }
}

/// What dig prints for the same question.
fn dig(server: &NameServer, name: &str, kind: &str, transport: Transport, more: &[&str]) -> String {
    let way = match transport {
        Transport::Udp => "+notcp",
        Transport::Tcp => "+tcp",
        Transport::Dot => "+tls",
        Transport::Doh => "+https",
    };
    Program::new("dig")
        .package("bind9-dnsutils")
        .args(["@127.0.0.1", "-p", &address(server, transport).port().to_string(), "-q", name, "-t", kind])
        .args([way, "+nosplit", "+nocookie", "+noad", "+nsid", "+bufsize=1232"])
        .args(more)
        .run_ok(SOON)
        .unwrap()
}

/// Blanks between the fields are one.
fn squeezed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn records(outcome: &Outcome) -> BTreeSet<String> {
    let answer = outcome.answer.as_ref().unwrap();
    let line = |record: &imn_probe::dns::Record| {
        let text = format!("{} {} {} {} {}", record.name, record.ttl, record.class, record.kind, record.data);
        squeezed(&text)
    };
    answer.answers.iter().map(line).collect()
}

#[test]
fn answers_are_what_dig_shows() {
    let server = NameServer::start().unwrap();
    let engine = engine(&server);
    let questions = [
        ("imn.test", "SOA"),
        ("imn.test", "NS"),
        ("imn.test", "MX"),
        ("imn.test", "TXT"),
        ("imn.test", "CAA"),
        ("imn.test", "DNSKEY"),
        ("imn.test", "CDS"),
        ("imn.test", "CDNSKEY"),
        ("imn.test", "NSEC"),
        ("imn.test", "ANY"),
        ("www.imn.test", "A"),
        ("WWW.imn.test.", "AAAA"),
        ("twice.imn.test", "A"),
        ("below.old.imn.test", "A"),
        ("any.wild.imn.test", "A"),
        ("text.imn.test", "TXT"),
        ("empty.imn.test", "TXT"),
        ("_sip._udp.imn.test", "SRV"),
        ("_443._tcp.www.imn.test", "TLSA"),
        ("host.imn.test", "SSHFP"),
        ("host.imn.test", "HINFO"),
        ("host.imn.test", "RP"),
        ("host.imn.test", "EUI48"),
        ("number.imn.test", "NAPTR"),
        ("svc.imn.test", "HTTPS"),
        ("svc.imn.test", "SVCB"),
        ("uri.imn.test", "URI"),
        ("child.imn.test", "DS"),
        ("zone.imn.test", "ZONEMD"),
        ("odd.imn.test", "TYPE65280"),
        ("strange\\.label\\032x.imn.test", "A"),
        ("none.imn.test", "A"),
        ("www.imn.test", "MX"),
        ("elsewhere.example", "A"),
    ];
    for (name, kind) in questions {
        let transport = if kind == "ANY" { Transport::Tcp } else { Transport::Udp };
        for dnssec in [false, true] {
            let asked = Query { dnssec_ok: dnssec, ..query(name, kind, transport) };
            let outcome = block_on(engine.query(server.plain(), &asked)).unwrap();
            assert_eq!(outcome.failure, None, "{name} {kind}");
            let more: &[&str] = if dnssec { &["+dnssec"] } else { &["+nodnssec"] };
            let shown = dig(&server, name, kind, transport, more);
            let mut section = "";
            let mut theirs = BTreeSet::new();
            for line in shown.lines() {
                match line.strip_prefix(";; ").and_then(|rest| rest.strip_suffix(" SECTION:")) {
                    Some(head) => section = head,
                    None if section == "ANSWER" && !line.is_empty() && !line.starts_with(';') => {
                        theirs.insert(squeezed(line));
                    }
                    None => {}
                }
            }
            assert_eq!(records(&outcome), theirs, "{name} {kind} dnssec {dnssec}");
            header(&outcome, &shown);
        }
    }
}

/// Status, flags, counts, size and NSID are those that dig shows.
fn header(outcome: &Outcome, shown: &str) {
    let answer = outcome.answer.as_ref().unwrap();
    let (flags, counts) = (answer.flags, answer.counts);
    let names = [
        ("aa", flags.aa),
        ("tc", flags.tc),
        ("rd", flags.rd),
        ("ra", flags.ra),
        ("ad", flags.ad),
        ("cd", flags.cd),
    ];
    let set: Vec<&str> = names.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    let line = format!(
        ";; flags: {}; QUERY: {}, ANSWER: {}, AUTHORITY: {}, ADDITIONAL: {}",
        [&["qr"], set.as_slice()].concat().join(" "),
        counts.question,
        counts.answer,
        counts.authority,
        counts.additional
    );
    assert!(shown.contains(&line), "{line} in {shown}");
    assert!(shown.contains(&format!("status: {},", answer.rcode)), "{} in {shown}", answer.rcode);
    assert!(
        shown.contains(&format!("rcvd: {}\n", outcome.bytes.len())),
        "{} in {shown}",
        outcome.bytes.len()
    );
    let nsid = answer.edns.as_ref().unwrap().nsid.as_deref().unwrap();
    assert_eq!(String::from_utf8_lossy(nsid), NameServer::NAME);
    assert!(shown.contains(NameServer::NAME));
    assert_eq!((answer.trailing, answer.omitted), (0, 0));
}

#[test]
fn every_transport_has_its_phases_and_the_kernel_times_them() {
    let server = NameServer::start().unwrap();
    let engine = engine(&server);
    for transport in Transport::ALL {
        for family in ["127.0.0.1", "::1"] {
            let mut resolver = address(&server, transport);
            if family == "::1" && matches!(transport, Transport::Dot | Transport::Doh) {
                continue;
            }
            resolver.set_ip(family.parse().unwrap());
            let asked = query("www.imn.test", "A", transport);
            let outcome = block_on(engine.query(resolver, &asked)).unwrap();
            assert_eq!(outcome.failure, None, "{transport}");
            assert_eq!(outcome.source, TsSource::Kernel, "{transport}");
            assert_eq!(outcome.local, Some(family.parse::<IpAddr>().unwrap()), "{transport}");
            // By the kernel's stamps, whatever else this host does.
            assert!(outcome.error.is_some_and(|error| !error.is_zero() && error < Duration::from_millis(50)));
            let phases = outcome.phases;
            let stream = transport != Transport::Udp;
            let secured = matches!(transport, Transport::Dot | Transport::Doh);
            assert_eq!((phases.connect.is_some(), phases.tls.is_some()), (stream, secured), "{transport}");
            assert!(phases.query.is_some_and(|query| !query.is_zero() && query < Duration::from_secs(1)));
            assert_eq!(phases.retry, None);
            let shown = dig(&server, "www.imn.test", "A", transport, &[]);
            header(&outcome, &shown);
            if let Some(tls) = &outcome.tls {
                assert_eq!((tls.version, tls.verdict.is_ok()), ("TLS 1.3", true));
                assert!(tls.earliest_expiry().is_some());
            }
            assert_eq!(outcome.http_status, (transport == Transport::Doh).then_some(200));
        }
    }
}

#[test]
fn certificates_are_for_the_name_asked_for() {
    let server = NameServer::start().unwrap();
    let trusting = engine(&server);
    let wary = Engine::new(&Config::default()).with_trust(Trust::none());
    for transport in [Transport::Dot, Transport::Doh] {
        let resolver = address(&server, transport);
        let named = |name: &str| Query {
            server_name: Some(name.to_owned()),
            ..query("www.imn.test", "A", transport)
        };
        let ask = |engine: &Engine, query: &Query| block_on(engine.query(resolver, query)).unwrap();
        assert_eq!(ask(&trusting, &named(NameServer::NAME)).failure, None);
        let other = ask(&trusting, &named("ns2.imn.test"));
        assert_eq!(other.failure.as_ref().map(Failure::code), Some("tls_wrong_name"));
        // The handshake was made all the same, and what it showed is known.
        assert!(other.tls.is_some() && other.phases.tls.is_some() && other.answer.is_none());
        let untrusted = ask(&wary, &named(NameServer::NAME));
        assert!(matches!(untrusted.failure, Some(Failure::Tls(_))), "{untrusted:?}");
        let insecure = Query { insecure: true, ..named("ns2.imn.test") };
        assert_eq!(ask(&wary, &insecure).failure, None);
    }
    // A path that is not there.
    let lost = Query { path: "/nothing".to_owned(), ..query("www.imn.test", "A", Transport::Doh) };
    assert_eq!(block_on(trusting.query(server.https(), &lost)).unwrap().failure, Some(Failure::Status(404)));
    // TLS spoken to a port that does not speak it.
    let plain = query("www.imn.test", "A", Transport::Dot);
    let plain = Query { timeout: Duration::from_secs(1), ..plain };
    assert!(block_on(trusting.query(server.plain(), &plain)).unwrap().failure.is_some());
}

#[test]
fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let server = NameServer::start().unwrap();
    let engine = engine(&server);
    let once = Query { retry_truncated: false, ..query("many.imn.test", "A", Transport::Udp) };
    let outcome = block_on(engine.query(server.plain(), &once)).unwrap();
    let answer = outcome.answer.unwrap();
    assert!(answer.flags.tc && answer.answers.len() < 100);
    assert_eq!((outcome.failure, outcome.retried), (None, false));

    let outcome =
        block_on(engine.query(server.plain(), &query("many.imn.test", "A", Transport::Udp))).unwrap();
    assert_eq!((outcome.failure.clone(), outcome.retried), (None, true));
    assert_eq!(records(&outcome).len(), 100);
    assert!(!outcome.answer.as_ref().unwrap().flags.tc);
    assert!(outcome.phases.retry > Some(Duration::ZERO) && outcome.phases.query > Some(Duration::ZERO));
    // Without EDNS, the server says no more than 512 bytes and nothing of itself.
    let bare = Query { udp_size: None, nsid: false, retry_truncated: false, ..once };
    let outcome = block_on(engine.query(server.plain(), &bare)).unwrap();
    assert!(outcome.bytes.len() <= 512 && outcome.answer.unwrap().edns.is_none());
}

#[test]
fn other_classes_and_flags() {
    let server = NameServer::start().unwrap();
    let engine = engine(&server);
    let chaos = Query { class: Class::CH, ..query("hostname.bind", "TXT", Transport::Udp) };
    let outcome = block_on(engine.query(server.plain(), &chaos)).unwrap();
    let answer = outcome.answer.unwrap();
    assert_eq!((answer.rcode, answer.answers[0].class), (Rcode::NOERROR, Class::CH));
    let plain = Query { recursion: false, checking_disabled: true, ..query(ZONE, "SOA", Transport::Udp) };
    let flags = block_on(engine.query(server.plain(), &plain)).unwrap().answer.unwrap().flags;
    assert!(!flags.rd && flags.cd && flags.aa);
    let refused = block_on(engine.query(server.plain(), &query("example.org", "A", Transport::Udp))).unwrap();
    assert_eq!(refused.answer.unwrap().rcode, Rcode::REFUSED);
    assert_eq!(RecordType::A.to_string(), "A");
}

#[test]
fn many_at_once_within_few_files() {
    let server = NameServer::start().unwrap();
    let engine = Engine::new(&Config { max_open: 32, ..Config::default() });
    let outcomes = block_on(async {
        let work = (0..2000).map(|n| {
            let engine = &engine;
            let asked = query(if n % 2 == 0 { "www.imn.test" } else { "none.imn.test" }, "A", Transport::Udp);
            let resolver = server.plain();
            async move { (n, engine.query(resolver, &asked).await.unwrap()) }
        });
        futures::future::join_all(work).await
    });
    for (n, outcome) in outcomes {
        assert_eq!(outcome.failure, None);
        let rcode = if n % 2 == 0 { Rcode::NOERROR } else { Rcode::NXDOMAIN };
        assert_eq!(outcome.answer.unwrap().rcode, rcode);
        assert_eq!((outcome.source, outcome.wrong.total()), (TsSource::Kernel, 0));
    }
}
