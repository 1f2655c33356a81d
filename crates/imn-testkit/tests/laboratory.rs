//! A laboratory does to packets what it says, says what it did, and leaves nothing behind.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test helper fails its test")]

use imn_testkit::{
    Class, EchoFate, EchoTrip, Lab, NatsServer, Node, Program, Shape, THREE_VANTAGE_POINTS, require_root,
    wait_until,
};
use nix::sys::socket::sockopt::RcvBufForce;
use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(5);

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

/// Sends `count` numbered datagrams of 100 bytes at `rate` a second from one node to another and gives the numbers in
/// the order of their arrival, reading until nothing came for half a second.
fn datagrams(from: &Node, to: &Node, count: u32, rate: u32) -> Vec<u32> {
    let receiver = to.enter(|| UdpSocket::bind((to.v4().unwrap(), 0)).unwrap()).unwrap();
    nix::sys::socket::setsockopt(&receiver, RcvBufForce, &(1 << 26)).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let sender = from.enter(|| UdpSocket::bind((from.v4().unwrap(), 0)).unwrap()).unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let started = Instant::now();
            for number in 0..count {
                let due = Duration::from_secs(1) * number / rate;
                while let Some(early) = due.checked_sub(started.elapsed()).filter(|early| !early.is_zero()) {
                    std::thread::sleep(early.min(Duration::from_micros(200)));
                }
                let mut datagram = [0; 72];
                datagram[..4].copy_from_slice(&number.to_be_bytes());
                sender.send(&datagram).unwrap();
            }
        });
        let mut numbers = Vec::new();
        let mut buffer = [0; 128];
        // The first may have a long way.
        while let Ok(length) = receiver.recv(&mut buffer) {
            assert_eq!(length, 72);
            numbers.push(u32::from_be_bytes(buffer[..4].try_into().unwrap()));
        }
        numbers
    })
}

#[test]
fn counts_are_what_a_receiver_sees() {
    if !require_root("counts_are_what_a_receiver_sees") {
        return;
    }
    let text = r#"
        name = "pair"
        hosts = ["a", "b"]
        links = [{ between = ["a", "b"], delay = "2ms", jitter = "1ms", loss = 0.03, duplicate = 0.02,
                   reorder = 0.05, reorder_by = "5ms" }]
    "#;
    let lab = Lab::from_toml(text).unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let seen = datagrams(a, b, 4000, 4000);
    let stats = lab.stats("a", "b").unwrap();
    let counts = stats.class(Class::Udp);
    let distinct: HashSet<u32> = seen.iter().copied().collect();
    assert_eq!(counts.received, 4000);
    assert_eq!(counts.lost, 4000 - distinct.len() as u64);
    assert_eq!(counts.duplicated, (seen.len() - distinct.len()) as u64);
    assert_eq!(counts.delivered, distinct.len() as u64);
    assert!(counts.duplicated > 40 && counts.lost > 60 && counts.reordered > 200, "{counts:?}");

    // A packet that arrives after a later one, copies left out.
    let (mut latest, mut first_seen, mut reordered) = (0, HashSet::new(), 0);
    for number in seen {
        if first_seen.insert(number) {
            reordered += u64::from(number < latest);
            latest = latest.max(number);
        }
    }
    assert_eq!(counts.reordered, reordered);
    let delays = stats.delays(Class::Udp);
    assert!(delays.min >= Duration::from_millis(1) && delays.max >= Duration::from_millis(6), "{delays:?}");

    // 100 bytes at 80 kbit/s take 10 ms: of a burst of 40 the queue takes five, and one or two leave meanwhile.
    lab.set_shape("b", "a", Shape { rate: 80_000, queue: 5, ..Shape::default() }).unwrap();
    let seen = datagrams(b, a, 40, 1_000_000).len() as u64;
    let counts = lab.stats("b", "a").unwrap().class(Class::Udp);
    assert_eq!((counts.received, counts.delivered, counts.queue_dropped), (40, seen, 40 - seen));
    assert!((5..10).contains(&seen), "{counts:?}");
}

#[test]
fn a_link_carries_twenty_thousand_packets_a_second_in_time() {
    if !require_root("a_link_carries_twenty_thousand_packets_a_second_in_time") {
        return;
    }
    let text = r#"
        name = "busy"
        hosts = ["a", "b"]
        links = [{ between = ["a", "b"], delay = "5ms" }]
    "#;
    let lab = Lab::from_toml(text).unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let seen = datagrams(a, b, 40_000, 20_000);
    let stats = lab.stats("a", "b").unwrap();
    println!("{:?} {:?}", stats.lateness, stats.delays(Class::Udp));
    assert_eq!(stats.overrun, 0);
    assert_eq!(seen, (0..40_000).collect::<Vec<_>>());
    assert!(stats.lateness.quantile(0.99) < Duration::from_millis(1), "{:?}", stats.lateness);
}

#[test]
fn routers_answer_every_expired_packet_and_captures_are_complete() {
    if !require_root("routers_answer_every_expired_packet_and_captures_are_complete") {
        return;
    }
    let lab = Lab::from_toml(CHAIN).unwrap();
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a-r.pcap");
    lab.capture("a", "r", &file).unwrap();
    for destination in [IpAddr::from(b.v4().unwrap()), b.v6().unwrap().into()] {
        let ping = a.program("ping").package("iputils-ping");
        // Two hundred at a time exceed what a kernel answers in a second by default, many times over.
        let options = ["-c", "200", "-l", "200", "-t", "1", "-W", "1", &destination.to_string()];
        let outcome = ping.args(options).run(Duration::from_mins(1)).unwrap();
        // How many of the answers ping reads is its own affair: one comes with the error of a send now and then.
        assert!(outcome.stdout.contains("200 packets transmitted, 0 received"), "{}", outcome.stdout);
    }
    assert_eq!(lab.stats("r", "a").unwrap().class(Class::IcmpOther).delivered, 400);
    let fates = lab.echoes_where(|_, _| true).unwrap();
    assert_eq!(fates.iter().filter(|trip| trip.fate == EchoFate::Unanswered).count(), 400);

    lab.end_capture("a", "r").unwrap();
    let tshark = Program::new("tshark").package("tshark").arg("-r").arg(&file);
    let requests =
        tshark.args(["-Y", "icmp.type == 8 || icmpv6.type == 128"]).run_ok(Duration::from_mins(1)).unwrap();
    assert_eq!(requests.lines().count(), 400);
}

#[test]
fn the_management_network_joins_all_nodes_and_the_test() {
    if !require_root("the_management_network_joins_all_nodes_and_the_test") {
        return;
    }
    let text = "name = \"managed\"\nhosts = [\"a\", \"b\"]\nmanagement = true";
    // Two at once, as when tests run in parallel.
    let labs = [Lab::from_toml(text).unwrap(), Lab::from_toml(text).unwrap()];
    for lab in &labs {
        let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
        let nats = a.nats_server("").unwrap();
        assert_eq!(nats.address().ip(), a.management().unwrap());
        let greeting = || {
            let stream = TcpStream::connect_timeout(&nats.address(), SOON).unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            line
        };
        assert!(greeting().starts_with("INFO "));
        assert!(b.enter(greeting).unwrap().starts_with("INFO "));
        let seen = b.program("ip").args(["-brief", "address"]).run_ok(SOON).unwrap();
        assert!(seen.contains(&b.management().unwrap().to_string()), "{seen}");
    }
}

#[test]
fn three_vantage_points_measure_what_was_applied() {
    if !require_root("three_vantage_points_measure_what_was_applied") {
        return;
    }
    let lab = Lab::from_toml(THREE_VANTAGE_POINTS).unwrap();
    for vantage_point in ["vp1", "vp2", "vp3"] {
        let from = lab.node(vantage_point).unwrap();
        for target in ["t1", "t2", "t3"] {
            let to = lab.node(target).unwrap();
            let destination = to.v4().unwrap().into();
            let measured = fping(from, destination, 300);
            let applied = lab.echoes(from.v4().unwrap().into(), destination).unwrap();
            let returned: Vec<_> = applied.iter().map(|trip| trip.fate == EchoFate::Returned).collect();
            assert_eq!(measured.iter().map(Option::is_some).collect::<Vec<_>>(), returned);
            let mut excess: Vec<f64> = measured
                .iter()
                .zip(&applied)
                .filter_map(|(rtt, trip)| Some((*rtt)? - trip.applied.as_secs_f64() * 1e3))
                .collect();
            excess.sort_by(f64::total_cmp);
            let median = excess[excess.len() / 2];
            println!("{vantage_point} {target}: {} of 300, excess {median:.3} ms", excess.len());
            assert!((-0.02..0.3).contains(&median), "{vantage_point} {target}: {excess:?}");
        }
    }
}

/// The test runs itself again as the process that is killed, with this variable set.
const VICTIM: &str = "IMN_TESTKIT_VICTIM";

#[test]
fn a_killed_test_leaves_nothing_behind() {
    if !require_root("a_killed_test_leaves_nothing_behind") {
        return;
    }
    if std::env::var_os(VICTIM).is_some() {
        hold_everything();
    }
    let mut victim = Program::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_test_leaves_nothing_behind", "--nocapture"])
        .env(VICTIM, "1")
        .spawn()
        .unwrap();
    let held = victim
        .wait_for("to hold everything", Duration::from_secs(20), |victim| {
            let out = victim.stdout();
            let line = out.lines().find_map(|line| line.strip_prefix("held: "))?;
            Some(line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        })
        .unwrap();
    for path in &held {
        assert!(Path::new(path).exists(), "{path}");
    }
    victim.kill9();
    for path in &held {
        wait_until(format!("{path} to go"), SOON, || (!Path::new(path).exists()).then_some(())).unwrap();
    }
}

/// Makes one of everything, prints the paths that must go with this process, and waits for its death.
#[expect(clippy::print_stdout, reason = "the killer reads it")]
fn hold_everything() -> ! {
    let lab = Lab::from_toml(THREE_VANTAGE_POINTS).unwrap();
    let nats = lab.node("vp1").unwrap().nats_server("").unwrap();
    let own = NatsServer::start().unwrap();
    // A child of a child that is out of reach of signals to parents and groups.
    let script = "setsid sh -c 'sleep 300 & echo $!' & wait; echo ready; sleep 300";
    let mut shell = lab.node("r2").unwrap().program("sh").args(["-c", script]).spawn().unwrap();
    let orphan: u32 = shell
        .wait_for("the orphan", SOON, |shell| {
            let out = shell.stdout();
            out.contains("ready").then(|| out.lines().next().unwrap().parse().unwrap())
        })
        .unwrap();
    let subnet = lab.node("vp1").unwrap().management().unwrap().octets()[2];
    let mut held: Vec<String> =
        [nats.pid(), own.pid(), shell.pid(), orphan].iter().map(|pid| format!("/proc/{pid}")).collect();
    // It goes when the namespace of the switch does.
    held.push(format!("/sys/class/net/imn-mgmt-{subnet}"));
    // All files are below one directory.
    held.push(own.store().parent().unwrap().parent().unwrap().display().to_string());
    println!("held: {}", held.join(" "));
    std::thread::sleep(Duration::from_mins(5));
    panic!("nobody killed this process");
}
