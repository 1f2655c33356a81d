//! The trace engine over emulated links and real routers; the oracle is mtr, a capture, or what the laboratory did.

#![expect(clippy::unwrap_used, reason = "a test helper fails its test")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use imn_probe::trace::{Answer, Config, Engine, Hop, LossKind, Multipath, Outcome, Protocol, Spec};
use imn_probe::{Fate, TsSource};
use imn_testkit::{Lab, Node, Shape, require_root, skip, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
const SIX: &str = r#"
    name = "six"
    seed = 11
    hosts = ["a", "b"]
    routers = ["r1", "r2", "r3", "r4", "r5", "r6"]
    links = [
        { between = ["a", "r1"], delay = "1ms" },
        { between = ["r1", "r2"], delay = "2ms" },
        { between = ["r2", "r3"], delay = "4ms" },
        { between = ["r3", "r4"], delay = "1ms" },
        { between = ["r4", "r5"], delay = "3ms" },
        { between = ["r5", "r6"], delay = "2ms" },
        { between = ["r6", "b"], delay = "2ms" },
    ]
"#;
const FOUR_PATHS: &str = r#"
    name = "four-paths"
    multipath = true
    hosts = ["a", "b"]
    routers = ["r1", "m1", "m2", "m3", "m4", "n1", "n2", "n3", "n4", "r2"]
    links = [
        { between = ["a", "r1"], delay = "1ms" },
        { between = ["r1", "m1"] }, { between = ["r1", "m2"] },
        { between = ["r1", "m3"] }, { between = ["r1", "m4"] },
        { between = ["m1", "n1"] }, { between = ["m2", "n2"] },
        { between = ["m3", "n3"] }, { between = ["m4", "n4"] },
        { between = ["n1", "r2"] }, { between = ["n2", "r2"] },
        { between = ["n3", "r2"] }, { between = ["n4", "r2"] },
        { between = ["r2", "b"], delay = "1ms" },
    ]
"#;
const PROTOCOLS: [Protocol; 3] = [Protocol::Icmp, Protocol::UDP, Protocol::TCP];

fn start(node: &Node) -> Engine {
    node.enter(|| Engine::start(&Config::default()).unwrap()).unwrap()
}

fn finish(engine: &Engine, spec: Spec) -> Outcome {
    engine.submit(vec![spec]).unwrap();
    engine.outcomes().recv_timeout(SOON).unwrap()
}

/// The address of each hop that answered, by its main responder.
fn addresses(outcome: &Outcome) -> Vec<Option<IpAddr>> {
    outcome.hops.iter().map(|hop| hop.main().map(|node| node.address)).collect()
}

/// Addresses that the routers of a chain answer from: where the probes reach them.
fn chain(lab: &Lab, names: &[&str], six: bool) -> Vec<Option<IpAddr>> {
    let of = |name: &&str| {
        let node = lab.node(name).unwrap();
        node.addresses().iter().copied().find(|address| address.is_ipv6() == six)
    };
    names.iter().map(of).collect()
}

/// Flow labels of the UDP datagrams over IPv6 in a capture file of raw IP packets, in order.
fn flow_labels(mut capture: &[u8]) -> Vec<u32> {
    let mut labels = Vec::new();
    capture = &capture[24..];
    while let Some(header) = capture.first_chunk::<16>() {
        let length = u32::from_ne_bytes(*header[8..].first_chunk().unwrap()) as usize;
        let packet = &capture[16..16 + length];
        if packet[0] >> 4 == 6 && packet[6] == 17 {
            labels.push(u32::from_be_bytes(*packet.first_chunk().unwrap()) & 0xf_ffff);
        }
        capture = &capture[16 + length..];
    }
    labels
}

/// The Python interpreter with scapy; `None` when `cargo xtask test` has not made it.
fn python() -> Option<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = std::env::var_os("IMN_TEST_PYTHON")
        .map_or_else(|| root.join("target/venv/bin/python"), PathBuf::from);
    path.exists().then_some(path)
}

#[test]
fn one_trace_takes_about_a_round_trip() {
    if !require_root("one_trace_takes_about_a_round_trip") {
        return;
    }
    let lab = Lab::from_toml(SIX).unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let engine = start(a);
    let names = ["r1", "r2", "r3", "r4", "r5", "r6", "b"];
    for (target, six) in [(IpAddr::from(b.v4().unwrap()), false), (b.v6().unwrap().into(), true)] {
        for protocol in PROTOCOLS {
            let begun = Instant::now();
            let outcome = finish(&engine, Spec { protocol, ..Spec::new(1, target) });
            let took = begun.elapsed();
            assert_eq!(addresses(&outcome), chain(&lab, &names, six), "{protocol:?} {outcome:#?}");
            assert!(outcome.reached);
            assert!(took < Duration::from_millis(90), "{protocol:?}: {took:?}");
            // One way 1 + 2 + 4 + … ms, and back.
            for (hop, one_way) in outcome.hops.iter().zip([1, 3, 7, 8, 11, 13, 15]) {
                let rtt = hop.last().unwrap().as_secs_f64() * 1e3;
                let excess = rtt - f64::from(2 * one_way);
                assert!((0.0..3.0).contains(&excess), "{protocol:?} hop {}: {rtt}", hop.ttl);
                assert_eq!(hop.ts_source(), Some(TsSource::Kernel), "{protocol:?} {hop:?}");
                assert_eq!(hop.counts().sent, 1);
                assert_eq!(hop.loss, Some(LossKind::None));
            }
            let answer = outcome.hops[6].main().unwrap().answer;
            let expected = match (protocol, six) {
                (Protocol::Icmp, _) => Answer::EchoReply,
                (Protocol::Udp { .. }, false) => Answer::Unreachable { kind: 3, code: 3 },
                (Protocol::Udp { .. }, true) => Answer::Unreachable { kind: 1, code: 4 },
                (Protocol::Tcp { .. }, _) => Answer::Reset,
            };
            assert_eq!(answer, expected);
            assert_eq!((outcome.hops[0].main().unwrap().ttl, outcome.forged), (Some(64), 0));
            println!("{protocol:?} v6={six}: {took:?}, {} beyond", outcome.beyond);
        }
    }
    assert_eq!(engine.stats().forged, 0, "{:?}", engine.stats());
}

#[test]
fn hops_loss_and_averages_are_those_of_mtr() {
    if !require_root("hops_loss_and_averages_are_those_of_mtr") {
        return;
    }
    let lab = Lab::from_toml(SIX).unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let target = b.v4().unwrap();
    let shape = |loss| Shape { loss, delay: Duration::from_millis(4), ..Shape::default() };
    lab.set_shape("r2", "r3", shape(0.05)).unwrap();
    lab.set_shape("r3", "r2", shape(0.05)).unwrap();
    let engine = start(a);
    let spec = Spec { cycles: 10, interval: Duration::from_millis(100), ..Spec::new(1, target.into()) };
    let mut took = Vec::new();
    let (mut lost, mut apart) = ([0; 7], [f64::MAX; 7]);
    for _ in 0..4 {
        let begun = Instant::now();
        let outcome = finish(&engine, spec.clone());
        took.push(begun.elapsed());
        let names = ["r1", "r2", "r3", "r4", "r5", "r6", "b"];
        assert_eq!(addresses(&outcome), chain(&lab, &names, false), "{outcome:#?}");
        let mtr =
            a.program("mtr").package("mtr-tiny").args(["--json", "-n", "-c", "10", "-i", "0.1", "-G", "1"]);
        let report: Value = serde_json::from_str(&mtr.arg(target.to_string()).run_ok(SOON).unwrap()).unwrap();
        let hubs = report["report"]["hubs"].as_array().unwrap();
        let hosts: Vec<Option<IpAddr>> =
            hubs.iter().map(|hub| hub["host"].as_str().unwrap().parse().ok()).collect();
        assert_eq!(hosts, addresses(&outcome));
        for ((at, hop), one_way) in outcome.hops.iter().enumerate().zip([1, 3, 7, 8, 11, 13, 15]) {
            let counts = hop.counts();
            assert_eq!((counts.sent, counts.unknown), (10, 0), "{hop:#?}");
            lost[at] += counts.lost();
            let average = hop.rtt().avg().unwrap() / 1e6;
            assert!(average >= f64::from(2 * one_way), "below what the links take: {hop:#?}");
            let its = hubs[at]["Avg"].as_f64().unwrap();
            println!("hop {}: {counts:?} {average:.3} ms, mtr {} % {its:.3} ms", at + 1, hubs[at]["Loss%"]);
            // Where mtr is further off, it is further off from what the links take too.
            let nearer = average < its;
            apart[at] = apart[at].min(if nearer { 0.0 } else { average - its });
        }
    }
    // The two do not run at the same time, and what else runs on this machine shows in the emulator's delays: the
    // quietest pair of runs counts.
    assert!(apart.iter().all(|apart| *apart < 0.3), "{apart:?}");
    for (at, lost) in lost.into_iter().enumerate() {
        // 5 % each way from the third hop on: 40 probes, binomial 99 % interval.
        let most = if at < 2 { 0 } else { 10 };
        assert!(lost <= most, "hop {}: {lost}", at + 1);
    }
    assert!(lost[2..].iter().sum::<u64>() > 0);
    println!("10 cycles at 100 ms: {took:?}");
    assert!(took.iter().all(|took| (900..=1500).contains(&took.as_millis())), "{took:?}");
}

#[test]
fn four_equal_paths_are_found_and_never_mixed() {
    if !require_root("four_equal_paths_are_found_and_never_mixed") {
        return;
    }
    let lab = Lab::from_toml(FOUR_PATHS).unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let target: IpAddr = b.v4().unwrap().into();
    let engine = start(a);
    let ends: Vec<[IpAddr; 2]> = (1..=4)
        .map(|n| ["m", "n"].map(|side| lab.node(&format!("{side}{n}")).unwrap().addresses()[0]))
        .collect();
    for protocol in [Protocol::UDP, Protocol::TCP] {
        let spec = Spec { protocol, multipath: Some(Multipath::default()), ..Spec::new(1, target) };
        let begun = Instant::now();
        let outcome = finish(&engine, spec);
        let took = begun.elapsed();
        let found: BTreeSet<[IpAddr; 2]> = outcome
            .paths
            .iter()
            .map(|path| [path.addresses[1].unwrap(), path.addresses[2].unwrap()])
            .collect();
        assert_eq!(found, ends.iter().copied().collect(), "{:#?}", outcome.paths);
        assert_eq!(outcome.paths.len(), 4, "{:#?}", outcome.paths);
        assert!(outcome.complete);
        let ids: BTreeSet<u64> = outcome.paths.iter().map(|path| path.id).collect();
        assert_eq!(ids.len(), 4);
        let flows: usize = outcome.paths.iter().map(|path| path.flows.len()).sum();
        println!("{protocol:?}: {flows} flows, {} probes, {took:?}", engine.stats().sent);
        // A Paris trace keeps to one of them, whichever its flow leads it to.
        let mut taken = BTreeSet::new();
        for flow in 0..24 {
            let interval = Duration::from_millis(5);
            let spec = Spec { protocol, flow, cycles: 10, interval, ..Spec::new(2, target) };
            let outcome = finish(&engine, spec);
            assert!(outcome.hops.iter().all(|hop| hop.responders.len() == 1), "{outcome:#?}");
            let middle = [1, 2].map(|hop: usize| outcome.hops[hop].responders[0].address);
            assert!(ends.contains(&middle), "{middle:?}");
            assert!(ids.contains(&outcome.paths[0].id));
            taken.insert(outcome.paths[0].id);
        }
        assert_eq!(taken, ids, "24 flows take all four");
    }
}

/// IPv6 routers spread by the flow label (RFC 6438), or by the ports as IPv4 does: whichever it is, all is found, and a
/// Paris trace keeps to one path.
#[test]
fn four_equal_ipv6_paths_are_found_by_flow_label_and_by_ports() {
    if !require_root("four_equal_ipv6_paths_are_found_by_flow_label_and_by_ports") {
        return;
    }
    let lab = Lab::from_toml(FOUR_PATHS).unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let target: IpAddr = b.v6().unwrap().into();
    let engine = start(a);
    let six = |name: String| {
        let addresses = lab.node(&name).unwrap().addresses();
        addresses.iter().copied().find(IpAddr::is_ipv6).unwrap()
    };
    let ends: BTreeSet<[IpAddr; 2]> =
        (1..=4).map(|n| ["m", "n"].map(|side| six(format!("{side}{n}")))).collect();
    let middle = |addresses: &[Option<IpAddr>]| [addresses[1].unwrap(), addresses[2].unwrap()];
    // Addresses and flow label; addresses, protocol and ports, which echo requests have none of.
    for (policy, protocols) in [("0", &PROTOCOLS[..]), ("1", &PROTOCOLS[1..])] {
        for router in ["r1", "r2"] {
            let node = lab.node(router).unwrap();
            let path = "/proc/sys/net/ipv6/fib_multipath_hash_policy";
            node.enter(|| std::fs::write(path, policy).unwrap()).unwrap();
        }
        for &protocol in protocols {
            let spec = Spec { protocol, multipath: Some(Multipath::default()), ..Spec::new(1, target) };
            let outcome = finish(&engine, spec);
            let found: BTreeSet<[IpAddr; 2]> =
                outcome.paths.iter().map(|path| middle(&path.addresses)).collect();
            assert_eq!(found, ends, "policy {policy} {protocol:?}: {:#?}", outcome.paths);
            assert!(outcome.complete, "policy {policy} {protocol:?}");
            let mut taken = BTreeSet::new();
            for flow in 0..24 {
                let interval = Duration::from_millis(5);
                let spec = Spec { protocol, flow, cycles: 10, interval, ..Spec::new(2, target) };
                let outcome = finish(&engine, spec);
                assert!(outcome.hops.iter().all(|hop| hop.responders.len() == 1), "{outcome:#?}");
                taken.insert([1, 2].map(|hop: usize| outcome.hops[hop].responders[0].address));
            }
            assert_eq!(taken, ends, "policy {policy} {protocol:?}: 24 flows take all four");
        }
    }
    // What counts is what a router sees: one label for a flow at every hop, another for another.
    let file = tempfile::NamedTempFile::new().unwrap();
    lab.capture("a", "r1", file.path()).unwrap();
    for flow in [0, 1] {
        finish(&engine, Spec { protocol: Protocol::UDP, flow, cycles: 3, ..Spec::new(3, target) });
    }
    lab.end_capture("a", "r1").unwrap();
    let labels = flow_labels(&std::fs::read(file.path()).unwrap());
    let runs: BTreeSet<u32> = labels.iter().copied().collect();
    assert!(runs.len() == 2 && !runs.contains(&0), "{labels:x?}");
    assert!(labels.windows(2).filter(|pair| pair[0] != pair[1]).count() == 1, "{labels:x?}");
}

#[test]
fn a_router_that_limits_its_answers_is_told_from_one_that_loses() {
    if !require_root("a_router_that_limits_its_answers_is_told_from_one_that_loses") {
        return;
    }
    let lab = Lab::from_toml(SIX).unwrap();
    let (a, b, r3) = (lab.node("a").unwrap(), lab.node("b").unwrap(), lab.node("r3").unwrap());
    let engine = start(a);
    r3.enter(|| std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "1000").unwrap()).unwrap();
    let spec =
        Spec { cycles: 30, interval: Duration::from_millis(20), ..Spec::new(1, b.v4().unwrap().into()) };
    let kinds = |outcome: &Outcome| {
        let losses: Vec<_> = outcome.hops.iter().map(Hop::counts).collect();
        println!("{losses:?}");
        outcome.hops.iter().map(|hop| hop.loss).collect::<Vec<_>>()
    };
    let outcome = finish(&engine, spec.clone());
    assert!(outcome.hops[2].counts().lost() > 15, "{:#?}", outcome.hops[2]);
    let (whole, limited) = (Some(LossKind::None), Some(LossKind::RateLimited));
    assert_eq!(kinds(&outcome), [whole, whole, limited, whole, whole, whole, whole]);

    // The same with a link behind it that really loses.
    lab.set_shape("r4", "r5", Shape { loss: 0.3, ..lab.shape("r4", "r5").unwrap() }).unwrap();
    let outcome = finish(&engine, Spec { cycles: 60, ..spec });
    let lost = Some(LossKind::Forwarding);
    assert_eq!(kinds(&outcome), [whole, whole, limited, whole, lost, lost, lost]);
}

#[test]
fn closed_ways_are_named() {
    if !require_root("closed_ways_are_named") {
        return;
    }
    let lab = Lab::from_toml(SIX).unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let target = b.v4().unwrap();
    let engine = start(a);
    // A router answers so only a few times a second, other errors counted, whatever it is told: each protocol has one
    // of its own, behind those before.
    for (protocol, router, route, code, hops) in [
        (Protocol::Icmp, "r4", "unreachable", 1, 4),
        (Protocol::UDP, "r5", "prohibit", 13, 5),
        (Protocol::TCP, "r6", "unreachable", 1, 6),
    ] {
        let ip = lab.node(router).unwrap().program("ip").args(["route", "add", route]);
        ip.arg(format!("{target}/32")).run_ok(SOON).unwrap();
        let begun = Instant::now();
        let outcome = finish(&engine, Spec { protocol, ..Spec::new(1, target.into()) });
        assert!(!outcome.reached);
        assert_eq!(outcome.hops.len(), hops, "{outcome:#?}");
        assert_eq!(outcome.hops[hops - 1].main().unwrap().answer, Answer::Unreachable { kind: 3, code });
        assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
        let ip = lab.node(router).unwrap().program("ip").args(["route", "del", route]);
        ip.arg(format!("{target}/32")).run_ok(SOON).unwrap();
    }
    // A port that is open, one that nobody answers, and no route at all.
    let listener = b.enter(|| std::net::TcpListener::bind((target, 8080)).unwrap()).unwrap();
    let open = Spec { protocol: Protocol::Tcp { port: 8080 }, ..Spec::new(1, target.into()) };
    let outcome = finish(&engine, open);
    assert_eq!(outcome.hops.last().unwrap().main().unwrap().answer, Answer::SynAck);
    drop(listener);
    let silent = "10.0.6.3".parse().unwrap();
    let spec = Spec { max_hops: 9, timeout: Duration::from_millis(300), ..Spec::new(1, silent) };
    let outcome = finish(&engine, spec);
    assert!(!outcome.reached, "{outcome:#?}");
    let outcome = finish(&engine, Spec::new(1, "203.0.113.1".parse().unwrap()));
    assert_eq!((outcome.errno, outcome.hops.len()), (Some(libc::ENETUNREACH), 0), "{outcome:?}");
}

#[test]
fn forged_answers_are_ignored_and_counted() {
    if !require_root("forged_answers_are_ignored_and_counted") {
        return;
    }
    let Some(python) = python() else {
        return skip("forged_answers_are_ignored_and_counted", "no Python with scapy: cargo xtask test");
    };
    let lab = Lab::from_toml(SIX).unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let engine = start(a);
    let target = b.v4().unwrap();
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/python/responder.py");
    let responder = a.program(&python).arg(&script).args(["forge", &a.v4().unwrap().to_string()]);
    let mut responder = responder.arg(target.to_string()).spawn().unwrap();
    responder.wait_for("forger", SOON, |forger| forger.stdout().contains("ready").then_some(())).unwrap();
    for protocol in [Protocol::Icmp, Protocol::UDP] {
        let spec =
            Spec { protocol, cycles: 30, interval: Duration::from_millis(20), ..Spec::new(1, target.into()) };
        let outcome = finish(&engine, spec);
        let names = ["r1", "r2", "r3", "r4", "r5", "r6", "b"];
        assert_eq!(addresses(&outcome), chain(&lab, &names, false), "{outcome:#?}");
        assert!(outcome.hops.iter().all(|hop| hop.responders.len() == 1), "{outcome:#?}");
        assert!(outcome.forged > 0, "{outcome:#?}");
        println!("{protocol:?}: {} forged", outcome.forged);
    }
}

#[test]
fn extensions_of_another_implementation_are_read() {
    if !require_root("extensions_of_another_implementation_are_read") {
        return;
    }
    let Some(python) = python() else {
        return skip(
            "extensions_of_another_implementation_are_read",
            "no Python with scapy: cargo xtask test",
        );
    };
    let lab = Lab::from_toml(SIX).unwrap();
    let a = lab.node("a").unwrap();
    let engine = start(a);
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/python/responder.py");
    let mut responder = a.program(&python).arg(&script).arg("path").spawn().unwrap();
    responder.wait_for("responder", SOON, |path| path.stdout().contains("ready").then_some(())).unwrap();
    for target in ["203.0.113.9", "2001:db8::9"] {
        for protocol in PROTOCOLS {
            let spec = Spec { protocol, ..Spec::new(1, target.parse().unwrap()) };
            let outcome = finish(&engine, spec);
            assert!(outcome.reached, "{outcome:#?}");
            assert_eq!(outcome.hops.len(), 5, "{outcome:#?}");
            let labels = |hop: usize| -> Vec<(u32, u8, bool, u8)> {
                let node = outcome.hops[hop].main().unwrap();
                let objects = node.extension.iter().flat_map(|extension| &extension.objects);
                objects
                    .flat_map(|object| &object.labels)
                    .map(|label| (label.label, label.class, label.bottom, label.ttl))
                    .collect()
            };
            assert_eq!(labels(0), []);
            assert_eq!(labels(1), [(16_001, 5, true, 1)], "{outcome:#?}");
            assert_eq!(labels(2), [(24_000, 0, false, 3), (1_048_575, 7, true, 254)]);
            // Without the length field, as routers did before RFC 4884.
            assert_eq!(labels(3), if target.contains(':') { vec![] } else { vec![(77, 1, true, 9)] });
            let compliant =
                |hop: usize| outcome.hops[hop].main().unwrap().extension.as_ref().unwrap().compliant;
            assert!(compliant(1));
            assert!(target.contains(':') || !compliant(3));
        }
    }
}

#[test]
fn many_traces_at_once_share_few_sockets() {
    if !require_root("many_traces_at_once_share_few_sockets") {
        return;
    }
    let text = format!("{SIX}\n[answers]\nb = [\"10.100.0.0/16\"]\n");
    let lab = Lab::from_toml(&text).unwrap();
    let engine = start(lab.node("a").unwrap());
    let count = 500_u32;
    let target = |n: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a64_0001 + n));
    let specs: Vec<Spec> = (0..count)
        .map(|n| Spec { protocol: PROTOCOLS[n as usize % 3], ..Spec::new(u64::from(n), target(n)) })
        .collect();
    engine.submit(specs).unwrap();
    let names = ["r1", "r2", "r3", "r4", "r5", "r6"];
    let mut expected = chain(&lab, &names, false);
    expected.push(None);
    let mut whole = 0;
    for _ in 0..count {
        let outcome = engine.outcomes().recv_timeout(SOON).unwrap();
        expected[6] = Some(outcome.target);
        assert_eq!(outcome.target, target(outcome.key as u32));
        assert!(outcome.hops.iter().all(|hop| hop.responders.len() <= 1), "{outcome:#?}");
        whole += u32::from(outcome.reached && addresses(&outcome) == expected);
    }
    assert_eq!(whole, count, "{:?}", engine.stats());
    wait_until("all forgotten", SOON, || (engine.stats().held == 0).then_some(())).unwrap();
    assert_eq!(engine.stats().forged, 0);
}

#[test]
fn what_comes_late_is_lost_and_told() {
    if !require_root("what_comes_late_is_lost_and_told") {
        return;
    }
    // Ten times as slow, so that a host which is held up for a moment does not decide what is late.
    let lab = Lab::from_toml(&SIX.replace("ms\"", "0ms\"")).unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let engine = start(a);
    let spec = Spec {
        timeout: Duration::from_millis(180),
        cycles: 5,
        interval: Duration::from_millis(300),
        max_hops: 7,
        ..Spec::new(1, b.v4().unwrap().into())
    };
    let outcome = finish(&engine, spec);
    // Three hops are well within 180 ms there and back, three are not, and the fourth is just so.
    for hop in &outcome.hops {
        let counts = hop.counts();
        assert_eq!(counts.sent, 5);
        if hop.ttl != 4 {
            assert_eq!(counts.received, if hop.ttl < 4 { 5 } else { 0 }, "{hop:#?}");
        }
        assert!(hop.probes.iter().all(|probe| matches!(probe.fate, Fate::Received { .. } | Fate::Lost)));
    }
    assert!(outcome.late >= 8, "{outcome:#?}");
    assert_eq!(outcome.tmax, Duration::from_millis(180));
}
