//! The ICMP engine over emulated links, which say themselves what they did.

#![expect(clippy::unwrap_used, reason = "a test helper fails its test")]

use std::net::IpAddr;
use std::time::Duration;

use imn_metric::Counts;
use imn_probe::icmp::{Config, Engine, Round, SocketKind};
use imn_probe::{Fate, Outcome, Packet, TsSource};
use imn_testkit::{Class, Lab, Node, Shape, require_root, wait_until};

const SOON: Duration = Duration::from_secs(10);
const CHAIN: &str = r#"
    name = "probe"
    seed = 3
    hosts = ["a", "b"]
    routers = ["r"]
    links = [{ between = ["a", "r"], delay = "2ms" }, { between = ["r", "b"], delay = "3ms" }]
"#;

fn start(node: &Node, sockets: SocketKind) -> Engine {
    let config = Config { calibration: None, prefix_rate: None, sockets, ..Config::default() };
    node.enter(|| Engine::start(&config).unwrap()).unwrap()
}

fn finish(engine: &Engine, round: Round) -> (Outcome, Vec<Packet>) {
    engine.submit(vec![round]).unwrap();
    let batch = engine.outcomes().recv_timeout(SOON).unwrap();
    let (outcome, packets) = batch.iter().next().unwrap();
    (outcome.clone(), packets.to_vec())
}

fn stream(target: IpAddr, count: u16) -> Round {
    Round { count, interval: Duration::from_millis(1), ..Round::new(1, target) }
}

#[test]
fn delay_and_loss_are_those_of_the_links() {
    if !require_root("delay_and_loss_are_those_of_the_links") {
        return;
    }
    let lab = Lab::from_toml(CHAIN).unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let engine = start(a, SocketKind::Raw);
    for (source, target) in [
        (a.v4().unwrap().into(), IpAddr::from(b.v4().unwrap())),
        (a.v6().unwrap().into(), b.v6().unwrap().into()),
    ] {
        let (_, packets) = finish(&engine, stream(target, 500));
        assert_eq!(Packet::counts(&packets), Counts { sent: 500, received: 500, unknown: 0 });
        assert_eq!(Packet::ts_source(&packets), Some(TsSource::Kernel));
        let mut excess: Vec<f64> = lab
            .echoes(source, target)
            .unwrap()
            .iter()
            .zip(&packets)
            .map(|(trip, packet)| (packet.rtt().unwrap().as_secs_f64() - trip.applied.as_secs_f64()) * 1e3)
            .collect();
        excess.sort_by(f64::total_cmp);
        println!("{target}: measured - applied: median {:.3} ms, max {:.3} ms", excess[250], excess[499]);
        assert!((0.0..0.3).contains(&excess[250]), "{excess:?}");
    }
    lab.set_shape("a", "r", Shape { loss: 0.1, ..Shape::default() }).unwrap();
    lab.set_shape("b", "r", Shape { loss_every: 7, ..Shape::default() }).unwrap();
    let before = engine.stats();
    let (outcome, packets) = finish(&engine, stream(b.v4().unwrap().into(), 5000));
    let dropped = lab.stats("a", "r").unwrap().class(Class::IcmpEchoRequest).lost
        + lab.stats("b", "r").unwrap().class(Class::IcmpEchoReply).lost;
    let counts = Packet::counts(&packets);
    assert_eq!((counts.sent, counts.lost(), counts.unknown), (5000, dropped, 0), "{outcome:?}");
    assert!(dropped > 800);
    assert_eq!(engine.stats().lost - before.lost, dropped);
}

#[test]
fn late_duplicate_and_reordered_answers_are_counted() {
    if !require_root("late_duplicate_and_reordered_answers_are_counted") {
        return;
    }
    let lab = Lab::from_toml(CHAIN).unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let target = b.v4().unwrap().into();
    let engine = start(a, SocketKind::Raw);

    // Timeout far above the interval, delay above the timeout.
    lab.set_shape("b", "r", Shape { delay: Duration::from_millis(60), ..Shape::default() }).unwrap();
    let (outcome, packets) =
        finish(&engine, Round { timeout: Duration::from_millis(50), ..stream(target, 100) });
    assert!(packets.iter().all(|packet| packet.fate == Fate::Lost), "{packets:?}");
    assert!(outcome.late > 50, "{outcome:?}");
    wait_until("late answers", SOON, || (engine.stats().late == 100).then_some(())).unwrap();

    lab.set_shape("b", "r", Shape { duplicate: 0.2, reorder: 0.05, ..Shape::default() }).unwrap();
    let before = lab.stats("b", "r").unwrap().class(Class::IcmpEchoReply);
    let (outcome, packets) = finish(&engine, stream(target, 2000));
    assert_eq!(Packet::counts(&packets).received, 2000);
    let after = lab.stats("b", "r").unwrap().class(Class::IcmpEchoReply);
    let duplicated = after.duplicated - before.duplicated;
    assert!(duplicated > 200);
    wait_until("duplicates", SOON, || (engine.stats().duplicates == duplicated).then_some(())).unwrap();
    assert_eq!(u64::from(outcome.reordered), after.reordered - before.reordered);
    assert!(outcome.reordered > 30, "{outcome:?}");
}

#[test]
fn what_this_host_does_not_send_is_unknown_and_what_it_sends_is_paced() {
    if !require_root("what_this_host_does_not_send_is_unknown_and_what_it_sends_is_paced") {
        return;
    }
    let lab = Lab::from_toml(CHAIN).unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let target = b.v4().unwrap();
    let config = Config { calibration: None, ..Config::default() };
    let engine = a.enter(|| Engine::start(&config).unwrap()).unwrap();
    // 200 a second to one prefix, of which 20 at once: the last of 60 goes 200 ms late, and the host says so.
    let (outcome, packets) = finish(&engine, Round { interval: Duration::ZERO, ..stream(target.into(), 60) });
    assert_eq!(Packet::counts(&packets).received, 60);
    assert!((195..500).contains(&outcome.lateness.as_millis()), "{outcome:?}");

    // A queue for two packets on the way out of the host.
    let route = a.program("ip").args(["-o", "route", "get"]).arg(target.to_string()).run_ok(SOON).unwrap();
    let device = route.split_ascii_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap();
    let tc = a.program("tc").args(["qdisc", "add", "dev", device, "root", "tbf", "rate", "80kbit"]);
    tc.args(["burst", "1600", "limit", "200"]).run_ok(SOON).unwrap();
    let engine = start(a, SocketKind::Raw);
    let before = lab.stats("a", "r").unwrap().class(Class::IcmpEchoRequest).received;
    let round = Round { interval: Duration::ZERO, timeout: SOON / 4, ..stream(target.into(), 200) };
    let (_, packets) = finish(&engine, round);
    let counts = Packet::counts(&packets);
    let left = lab.stats("a", "r").unwrap().class(Class::IcmpEchoRequest).received - before;
    assert_eq!((counts.received, counts.lost(), counts.unknown), (left, 0, 200 - left));
    assert!(left > 0 && counts.unknown > 100, "{counts:?}");
}

#[test]
fn errors_name_the_hop_that_sent_them() {
    if !require_root("errors_name_the_hop_that_sent_them") {
        return;
    }
    let lab = Lab::from_toml(CHAIN).unwrap();
    let (a, b, r) = (lab.node("a").unwrap(), lab.node("b").unwrap(), lab.node("r").unwrap());
    a.enter(|| std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap()).unwrap();
    for sockets in [SocketKind::Raw, SocketKind::Datagram] {
        let engine = start(a, sockets);
        for (target, exceeded) in [(IpAddr::from(b.v4().unwrap()), 11), (b.v6().unwrap().into(), 3)] {
            let round = Round { ttl: Some(1), timeout: SOON, ..Round::new(1, target) };
            let (_, packets) = finish(&engine, round);
            let Fate::Unreachable { from, kind, code: 0 } = packets[0].fate else {
                panic!("{sockets:?} {target}: {packets:?}")
            };
            assert_eq!(kind, exceeded);
            assert!(r.addresses().contains(&from), "{from}");
        }
        // No route at all: the local kernel says so, and nothing is held against the network.
        let (_, packets) =
            finish(&engine, Round { size: 65_507, ..Round::new(2, "240.0.0.1".parse().unwrap()) });
        assert!(matches!(packets[0].fate, Fate::NotSent { .. } | Fate::Unreachable { .. }), "{packets:?}");
        let (_, packets) = finish(&engine, Round::new(3, b.v4().unwrap().into()));
        assert_eq!(Packet::ts_source(&packets), Some(TsSource::Kernel), "after an error: {packets:?}");
    }
}
