//! The ICMP engine over emulated links, which say themselves what they did.

#![expect(clippy::unwrap_used, reason = "a test helper fails its test")]

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use imn_metric::{Counts, Reordering};
use imn_probe::icmp::{Config, Engine, Round, SocketKind};
use imn_probe::{Fate, Outcome, Packet, TsSource};
use imn_testkit::{Class, Lab, Node, Program, Shape, require_root, wait_until};

const SOON: Duration = Duration::from_secs(10);
/// Packets of the stream that is compared with a capture, and how long each is waited for.
const SENT: u16 = 10_000;
const TMAX: Duration = Duration::from_millis(35);
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

/// What a capture at the sender shows of one stream of echoes.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    sent: u64,
    received: u64,
    late: u64,
    duplicates: u64,
    reordered: u64,
}

impl Seen {
    /// Judges by the times of the capture: the kernel's, but of another program.
    fn read(file: &Path, target: IpAddr, tmax: Duration) -> Self {
        let mut seen = Self::default();
        let mut sent: HashMap<(String, u64), (f64, bool)> = HashMap::new();
        let (mut order, mut last) = (Reordering::new(), 0);
        let fields = ["ip.dst", "icmp.type", "frame.time_epoch", "icmp.ident", "icmp.seq"];
        for line in tshark(file, &fields).lines() {
            let mut words = line.split('\t');
            let [to, kind, time, id, sequence] = [0; 5].map(|_| words.next().unwrap());
            let (time, sequence): (f64, u64) = (time.parse().unwrap(), sequence.parse().unwrap());
            // Sequence numbers start again at 0 after 65,535; this stream is shorter.
            let key = (id.to_owned(), sequence);
            if kind == "8" && to == target.to_string() {
                assert!(sequence >= last, "sent out of order");
                last = sequence;
                seen.sent += 1;
                assert_eq!(sent.insert(key, (time, false)), None);
            } else if let Some((since, answered)) = sent.get_mut(&key) {
                if std::mem::replace(answered, true) {
                    seen.duplicates += 1;
                } else if time - *since > tmax.as_secs_f64() {
                    seen.late += 1;
                } else {
                    seen.received += 1;
                    order.arrive(sequence);
                }
            }
        }
        seen.reordered = order.count();
        seen
    }
}

fn tshark(file: &Path, fields: &[&str]) -> String {
    let tshark = Program::new("tshark").package("tshark").arg("-r").arg(file);
    let tshark = tshark.args(["-Y", "icmp.type == 8 || icmp.type == 0", "-T", "fields"]);
    let tshark = tshark.args(fields.iter().flat_map(|field| ["-e", field]));
    tshark.run_ok(Duration::from_mins(1)).unwrap()
}

#[test]
fn loss_copies_overtaking_and_lateness_together_are_those_of_a_capture_at_the_sender() {
    if !require_root("loss_copies_overtaking_and_lateness_together_are_those_of_a_capture_at_the_sender") {
        return;
    }
    let lab = Lab::from_toml(CHAIN).unwrap();
    let (a, b, r) = (lab.node("a").unwrap(), lab.node("b").unwrap(), lab.node("r").unwrap());
    let target: IpAddr = b.v4().unwrap().into();
    let way = Shape { loss: 0.05, duplicate: 0.02, reorder: 0.03, ..lab.shape("r", "b").unwrap() };
    lab.set_shape("r", "b", way).unwrap();
    let held = Duration::from_millis(50);
    let back = Shape { duplicate: 0.02, reorder: 0.01, reorder_by: held, ..lab.shape("b", "r").unwrap() };
    lab.set_shape("b", "r", back).unwrap();

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sender.pcapng");
    let mut capture = a
        .program("dumpcap")
        .package("tshark")
        .args(["-i", "r", "-f", "icmp", "-w"])
        .arg(&file)
        .spawn()
        .unwrap();
    capture.wait_for("its file", SOON, |capture| capture.stderr().contains("File: ").then_some(())).unwrap();
    let engine = start(a, SocketKind::Raw);
    let stream =
        Round { count: SENT, interval: Duration::from_micros(500), timeout: TMAX, ..Round::new(1, target) };
    let (outcome, packets) = finish(&engine, stream);
    // What answers the last packets late comes after the outcome, and is counted all the same.
    wait_until("the round to be forgotten", SOON, || (engine.stats().held == 0).then_some(())).unwrap();

    // A mark after everything else: once it is in the file, all is.
    let mark = r.v4().unwrap().to_string();
    a.program("ping").args(["-c", "1", &mark]).run_ok(SOON).unwrap();
    wait_until("the mark in the capture", SOON, || {
        tshark(&file, &["ip.src"]).lines().any(|source| source == mark).then_some(())
    })
    .unwrap();
    capture.terminate();
    capture.wait_deadline(SOON).unwrap();
    assert!(capture.stderr().contains("dropped on interface 'r': "), "{}", capture.stderr());
    assert!(capture.stderr().contains("/0 ("), "the capture is not whole: {}", capture.stderr());

    let (seen, stats, counts) = (Seen::read(&file, target, TMAX), engine.stats(), Packet::counts(&packets));
    let found = Seen {
        sent: counts.sent,
        received: counts.received,
        late: stats.late,
        duplicates: stats.duplicates,
        reordered: outcome.reordered.into(),
    };
    println!("{found:?}");
    assert_eq!(found, seen);
    assert_eq!((counts.unknown, stats.foreign, stats.expired), (0, 0, 0));
    assert_eq!(counts.lost(), seen.sent - seen.received);
    assert!(seen.late > 50 && seen.duplicates > 300 && seen.reordered > 200, "{seen:?}");
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
