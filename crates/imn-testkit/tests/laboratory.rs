//! A laboratory does to packets what it says, says what it did, and leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a test helper fails its test")]

use imn_testkit::{Class, EchoFate, EchoTrip, Lab, Node, Shape, require_root};
use std::net::IpAddr;
use std::time::Duration;

const CHAIN: &str = r#"
    name = "chain"
    seed = 11
    hosts = ["a", "b"]
    routers = ["r"]
    answers = { b = ["10.100.0.0/14", "fd00:100::/48"] }
    links = [
        { between = ["a", "r"], delay = "4ms" },
        { between = ["r", "b"], delay = "6ms" },
    ]
"#;

/// The round-trip times in milliseconds, by sequence number, that the system's ping measured.
fn ping(node: &Node, destination: IpAddr, options: &[&str]) -> Vec<(u16, f64)> {
    let ping = node.program("ping").package("iputils-ping").args(options).arg(destination.to_string());
    let outcome = ping.run(Duration::from_mins(1)).unwrap();
    assert!(outcome.stderr.is_empty(), "{}", outcome.stderr);
    let field = |line: &str, name: &str| line.split(name).nth(1)?.split(' ').next().map(str::to_owned);
    let reply =
        |line: &str| Some((field(line, "icmp_seq=")?.parse().ok()?, field(line, "time=")?.parse().ok()?));
    outcome.stdout.lines().filter_map(reply).collect()
}

/// The round-trip times in milliseconds of `count` echoes at 1 ms, `None` for a lost one, that fping measured.
fn fping(node: &Node, destination: IpAddr, count: usize) -> Vec<Option<f64>> {
    let options = ["-q", "-i1", "-p1", "-t500", "-C", &count.to_string(), &destination.to_string()];
    let outcome = node.program("fping").package("fping").args(options).run(Duration::from_mins(1)).unwrap();
    let times = outcome.stderr.split_once(" : ").unwrap().1.split_ascii_whitespace();
    times.map(|time| time.parse().ok()).collect()
}

#[test]
fn ping_measures_the_delay_that_was_applied() {
    if !require_root("ping_measures_the_delay_that_was_applied") {
        return;
    }
    let lab = Lab::from_toml(CHAIN).unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let destinations: [IpAddr; 4] = [
        b.v4().unwrap().into(),
        b.v6().unwrap().into(),
        "10.103.255.254".parse().unwrap(),
        "fd00:100::abcd".parse().unwrap(),
    ];
    for destination in destinations {
        let measured = ping(a, destination, &["-c", "50", "-i", "0.005"]);
        assert_eq!(measured.len(), 50);
        let source = if destination.is_ipv4() { a.v4().unwrap().into() } else { a.v6().unwrap().into() };
        let applied = lab.echoes(source, destination).unwrap();
        assert_eq!(applied.len(), 50);
        let mut excess: Vec<f64> = measured
            .iter()
            .map(|(sequence, rtt)| {
                let trip = applied.iter().find(|trip| trip.sequence == *sequence).unwrap();
                assert_eq!(trip.fate, EchoFate::Returned);
                assert!(trip.applied >= Duration::from_millis(20));
                rtt - trip.applied.as_secs_f64() * 1e3
            })
            .collect();
        excess.sort_by(f64::total_cmp);
        println!("{destination}: measured - applied: median {:.3} ms, max {:.3} ms", excess[25], excess[49]);
        assert!((0.0..0.3).contains(&excess[25]), "{destination}: {excess:?}");
    }
    println!("{:?}", lab.stats("a", "r").unwrap().lateness);
    assert_eq!(lab.stats("a", "r").unwrap().class(Class::IcmpOther).received, 0, "the links are silent");
}

#[test]
fn loss_is_what_ping_lost_exactly() {
    if !require_root("loss_is_what_ping_lost_exactly") {
        return;
    }
    let lab = Lab::from_toml(CHAIN).unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    lab.set_shape("a", "r", Shape { loss: 0.1, ..Shape::default() }).unwrap();
    lab.set_shape("b", "r", Shape { loss_every: 7, ..Shape::default() }).unwrap();
    let (source, destination) = (a.v4().unwrap().into(), b.v4().unwrap().into());
    let measured = fping(a, destination, 3000);

    let requests = lab.stats("a", "r").unwrap().class(Class::IcmpEchoRequest);
    let replies = lab.stats("b", "r").unwrap().class(Class::IcmpEchoReply);
    assert_eq!(requests.received, 3000);
    assert_eq!(replies.received, 3000 - requests.lost);
    assert_eq!(replies.lost, replies.received / 7);
    assert!((230..370).contains(&requests.lost), "{requests:?}");

    let returned = |trip: &EchoTrip| trip.fate == EchoFate::Returned;
    let applied: Vec<bool> = lab.echoes(source, destination).unwrap().iter().map(returned).collect();
    assert_eq!(measured.iter().map(Option::is_some).collect::<Vec<_>>(), applied, "packet by packet");
    assert_eq!(applied.iter().filter(|returned| !**returned).count() as u64, requests.lost + replies.lost);
}
