//! The TCP engine on loopback and over emulated links.

#![expect(clippy::unwrap_used, reason = "a test helper fails its test")]

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::Duration;

use imn_probe::tcp::{Config, Engine, Round};
use imn_probe::{Fate, Outcome, Packet, TsSource};
use imn_testkit::{Lab, Shape, require_root};

const SOON: Duration = Duration::from_secs(10);

fn collect(engine: &Engine, rounds: usize) -> Vec<(Outcome, Vec<Packet>)> {
    let mut all = Vec::new();
    while all.len() < rounds {
        let batch = engine.outcomes().recv_timeout(SOON).unwrap();
        all.extend(batch.iter().map(|(outcome, packets)| (outcome.clone(), packets.to_vec())));
    }
    all
}

#[test]
fn a_batch_connects_or_is_refused_within_few_files() {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    // All may wait to be accepted: what finds no room is dropped by the kernel, and lost.
    socket2::SockRef::from(&listener).listen(2000).unwrap();
    let open = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let engine = Engine::start(&Config { max_open: 16, ..Config::default() }).unwrap();
    let rounds = (0..2000_u32).map(|n| {
        let target = IpAddr::V4(Ipv4Addr::from_bits(0x7f03_0001 + n));
        Round::new(u64::from(n), target, if n % 2 == 0 { open } else { closed })
    });
    engine.submit(rounds.collect()).unwrap();
    for (outcome, packets) in collect(&engine, 2000) {
        match packets[0].fate {
            Fate::Received { source, rtt, .. } if outcome.key % 2 == 0 => {
                assert_eq!(source, TsSource::Kernel);
                assert!(rtt < Duration::from_millis(100));
                assert!(outcome.error.is_some_and(|error| !error.is_zero()));
            }
            Fate::Refused { .. } if outcome.key % 2 == 1 => {}
            fate => panic!("{outcome:?} {fate:?}"),
        }
    }
    let stats = engine.stats();
    assert_eq!((stats.received, stats.refused, stats.open, stats.unknown), (1000, 1000, 0, 0));
}

#[test]
fn silence_refusal_and_unreachability_are_told_apart() {
    if !require_root("silence_refusal_and_unreachability_are_told_apart") {
        return;
    }
    let lab = Lab::from_toml(
        r#"
        name = "tcp"
        seed = 5
        hosts = ["a", "b", "c"]
        routers = ["r"]
        links = [
            { between = ["a", "r"], delay = "5ms" },
            { between = ["r", "b"], delay = "5ms" },
            { between = ["r", "c"], delay = "5ms" },
        ]
        "#,
    )
    .unwrap();
    let (a, b, c) = (lab.node("a").unwrap(), lab.node("b").unwrap(), lab.node("c").unwrap());
    let r = lab.node("r").unwrap();
    let listener = b.enter(|| TcpListener::bind((b.v4().unwrap(), 0)).unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    lab.set_shape("r", "c", Shape { loss: 1.0, ..Shape::default() }).unwrap();
    // The router refuses to forward to one address, and says so.
    let unreachable = Ipv4Addr::new(198, 51, 100, 1);
    a.program("ip").args(["route", "add", "198.51.100.1", "via"]).arg(first_hop(a, b)).run_ok(SOON).unwrap();
    r.program("ip").args(["route", "add", "prohibit", "198.51.100.1"]).run_ok(SOON).unwrap();

    let config = Config { prefix_rate: None, max_open: 16, ..Config::default() };
    let engine = a.enter(|| Engine::start(&config).unwrap()).unwrap();
    let timeout = Duration::from_millis(300);
    let round = |key, target: IpAddr, port| Round { timeout, ..Round::new(key, target, port) };
    engine
        .submit(vec![
            Round { count: 10, interval: Duration::from_millis(5), ..round(1, b.v4().unwrap().into(), port) },
            round(2, b.v6().unwrap().into(), port),
            round(3, c.v4().unwrap().into(), port),
            round(4, unreachable.into(), port),
        ])
        .unwrap();
    let mut outcomes = collect(&engine, 4);
    outcomes.sort_by_key(|(outcome, _)| outcome.key);
    let mut fates = outcomes.iter().map(|(_, packets)| packets[0].fate);
    assert!(
        outcomes[0]
            .1
            .iter()
            .all(|packet| packet.rtt().is_some_and(|rtt| (20..100).contains(&rtt.as_millis())))
    );
    assert!(matches!(fates.nth(1), Some(Fate::Refused { rtt }) if rtt >= Duration::from_millis(20)));
    assert_eq!(fates.next(), Some(Fate::Lost));
    let Some(Fate::Unreachable { from, kind: 3, code: 13 }) = fates.next() else {
        panic!("{:?}", outcomes[3])
    };
    assert!(r.addresses().contains(&from));

    // More silent targets than files: all are judged, none is forgotten, those that answer are not lost.
    let silent = (0..64).map(|key| round(key, c.v4().unwrap().into(), port));
    engine.submit(silent.chain([round(64, b.v4().unwrap().into(), port)]).collect()).unwrap();
    let outcomes = collect(&engine, 65);
    for (outcome, packets) in &outcomes {
        assert_eq!(packets[0].rtt().is_some(), outcome.key == 64, "{outcome:?} {packets:?}");
    }
    assert!(engine.stats().deferred > 0);
}

/// The router's address on the way from `a` to `b`.
fn first_hop(a: &imn_testkit::Node, b: &imn_testkit::Node) -> String {
    let target = b.v4().unwrap().to_string();
    let route = a.program("ip").args(["route", "get", &target]).run_ok(SOON).unwrap();
    let mut words = route.split_ascii_whitespace().skip_while(|word| *word != "via");
    words.nth(1).unwrap().to_owned()
}
