//! The ICMP engine against this host's own kernel.

#![expect(clippy::unwrap_used, reason = "a test helper fails its test")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use imn_metric::Counts;
use imn_probe::icmp::{Config, Engine, Round, SocketKind, StartError};
use imn_probe::{EventKind, Fate, Outcome, Packet, SubmitError, Timestamp, TsSource};
use imn_testkit::{Lab, require_root, wait_until};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

const SOON: Duration = Duration::from_secs(5);
const ALONE: &str =
    "name = \"alone\"\nseed = 1\nhosts = [\"a\", \"b\"]\nlinks = [{ between = [\"a\", \"b\"] }]";

fn quiet() -> Config {
    Config { calibration: None, ..Config::default() }
}

fn collect(engine: &Engine, rounds: usize) -> Vec<(Outcome, Vec<Packet>)> {
    let mut all = Vec::new();
    while all.len() < rounds {
        let batch = engine.outcomes().recv_timeout(SOON).unwrap();
        all.extend(batch.iter().map(|(outcome, packets)| (outcome.clone(), packets.to_vec())));
    }
    all
}

#[test]
fn twenty_thousand_addresses_answer() {
    if !require_root("twenty_thousand_addresses_answer") {
        return;
    }
    let engine = Engine::start(&quiet()).unwrap();
    let targets = (0..20_000_u32).map(|n| IpAddr::V4(Ipv4Addr::from_bits(0x7f01_0001 + n)));
    let rounds: Vec<Round> =
        targets.enumerate().map(|(key, target)| Round::new(key as u64, target)).collect();
    engine.submit(rounds.clone()).unwrap();
    let mut outcomes = collect(&engine, rounds.len());
    outcomes.sort_by_key(|(outcome, _)| outcome.key);
    for ((outcome, packets), round) in outcomes.iter().zip(&rounds) {
        assert_eq!((outcome.key, outcome.target), (round.key, round.target));
        assert_eq!(packets.len(), 1);
        assert_eq!(Packet::ts_source(packets), Some(TsSource::Kernel), "{packets:?}");
        assert!(packets[0].sent >= round.due);
    }
    let stats = engine.stats();
    assert_eq!((stats.sent, stats.received, stats.tx_stamps_missing), (20_000, 20_000, 0));
}

#[test]
fn the_first_outcome_has_its_error_term() {
    if !require_root("the_first_outcome_has_its_error_term") {
        return;
    }
    let engine = Engine::start(&Config::default()).unwrap();
    engine.submit(vec![Round::new(1, IpAddr::V4(Ipv4Addr::LOCALHOST))]).unwrap();
    let (outcome, packets) = collect(&engine, 1).remove(0);
    assert!(packets[0].rtt().is_some(), "{packets:?}");
    assert!(outcome.error.is_some_and(|error| !error.is_zero()), "{outcome:?}");
}

#[test]
fn both_families_and_both_socket_kinds() {
    if !require_root("both_families_and_both_socket_kinds") {
        return;
    }
    let lab = Lab::from_toml(ALONE).unwrap();
    let node = lab.node("a").unwrap();
    let permit = |groups: &str| {
        node.enter(|| std::fs::write("/proc/sys/net/ipv4/ping_group_range", groups).unwrap()).unwrap();
    };
    permit("1 0");
    let refused = node.enter(|| Engine::start(&Config { sockets: SocketKind::Datagram, ..quiet() })).unwrap();
    let Err(refused @ StartError::NotPermitted(_)) = refused else {
        panic!("datagram sockets are permitted")
    };
    assert!(
        refused.to_string().contains("cap_net_raw+ep") && refused.to_string().contains("ping_group_range")
    );
    permit("0 0");
    for sockets in [SocketKind::Raw, SocketKind::Datagram] {
        let engine = node.enter(|| Engine::start(&Config { sockets, ..quiet() }).unwrap()).unwrap();
        assert_eq!(engine.is_raw(), sockets == SocketKind::Raw);
        let targets = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let rounds = targets.iter().enumerate().map(|(key, target)| Round {
            count: 20,
            interval: Duration::from_millis(1),
            size: 20 + 1400 * key as u16,
            dscp: 10,
            ttl: Some(33),
            flow: 5,
            source: Some(*target),
            ..Round::new(key as u64, *target)
        });
        engine.submit(rounds.collect()).unwrap();
        for (outcome, packets) in collect(&engine, 2) {
            assert_eq!(Packet::counts(&packets), Counts { sent: 20, received: 20, unknown: 0 });
            assert_eq!(Packet::ts_source(&packets), Some(TsSource::Kernel), "{sockets:?} {outcome:?}");
            assert!(packets.iter().all(|packet| matches!(packet.fate, Fate::Received { ttl: Some(64), .. })));
            assert_eq!((outcome.duplicates, outcome.late, outcome.reordered), (0, 0, 0));
            assert!(Packet::rtt_stats(&packets).max().unwrap() < 50_000_000);
        }
        assert_eq!(engine.stats().foreign, 0);
    }
}

#[test]
fn rounds_start_when_due_and_cancel_at_once() {
    if !require_root("rounds_start_when_due_and_cancel_at_once") {
        return;
    }
    let engine = Engine::start(&quiet()).unwrap();
    let begin = Timestamp::now() + Duration::from_millis(50);
    let round = |key, count| Round {
        due: begin,
        count,
        interval: Duration::from_millis(20),
        progress: true,
        ..Round::new(key, IpAddr::V4(Ipv4Addr::LOCALHOST))
    };
    engine.submit(vec![round(1, 5), round(2, 60_000)]).unwrap();
    let (outcome, packets) = collect(&engine, 1).remove(0);
    assert_eq!(outcome.key, 1);
    for (number, packet) in packets.iter().enumerate() {
        let due = begin + Duration::from_millis(20) * number as u32;
        assert!(packet.sent >= due, "{number} was sent before it was due");
    }
    assert!(outcome.lateness < Duration::from_millis(50), "{outcome:?}");
    engine.cancel(vec![2]).unwrap();
    let (outcome, packets) = collect(&engine, 1).remove(0);
    assert!(outcome.cancelled && outcome.key == 2 && packets.len() < 100);
    let settled =
        engine.events().try_iter().filter(|event| matches!(event.kind, EventKind::Settled(_))).count();
    assert_eq!(settled, 5 + packets.len());

    let bad = Round { size: 3, ..Round::new(9, IpAddr::V4(Ipv4Addr::LOCALHOST)) };
    assert!(matches!(engine.submit(vec![bad]), Err(SubmitError::Invalid { key: 9, .. })));
    let full = Engine::start(&Config { max_rounds: 10, ..quiet() }).unwrap();
    assert_eq!(full.submit(vec![round(0, 1); 11]), Err(SubmitError::Full));
    full.submit(vec![round(0, 1); 10]).unwrap();
}

#[test]
fn the_loopback_floor_is_the_error_term() {
    if !require_root("the_loopback_floor_is_the_error_term") {
        return;
    }
    let engine = Engine::start(&Config::default()).unwrap();
    wait_until("calibration", SOON, || engine.stats().floor[0]).unwrap();
    engine.submit(vec![Round::new(1, IpAddr::V4(Ipv4Addr::LOCALHOST))]).unwrap();
    let error = collect(&engine, 1)[0].0.error.unwrap();
    assert!(error > Duration::ZERO && error < Duration::from_millis(1), "{error:?}");
}

#[test]
fn an_overflowing_socket_makes_samples_unknown_not_lost() {
    if !require_root("an_overflowing_socket_makes_samples_unknown_not_lost") {
        return;
    }
    // The answers to a whole batch arrive during the one call that sends it.
    let engine = Engine::start(&Config { receive_buffer: 4096, ..quiet() }).unwrap();
    let rounds = (0..100).map(|n| Round {
        timeout: Duration::from_millis(100),
        ..Round::new(n, IpAddr::V4(Ipv4Addr::from_bits(0x7f02_0001 + n as u32)))
    });
    engine.submit(rounds.collect()).unwrap();
    let total: Counts = collect(&engine, 100).iter().map(|(_, packets)| Packet::counts(packets)).sum();
    assert_eq!((total.sent, total.lost()), (100, 0), "{total:?}");
    assert!(total.unknown > 0 && total.received > 0, "{total:?}");
    assert!(engine.stats().rxq_overflow >= total.unknown);
}

/// Answers an echo request from `source`, after `forge` has had its way with the answer.
fn answer(request: &[u8], source: Ipv4Addr, forge: impl FnOnce(&mut Vec<u8>)) {
    let mut reply = request.to_vec();
    reply[0] = 0;
    forge(&mut reply);
    reply[2..4].fill(0);
    let sum: u32 =
        reply.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    reply[2..4].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    send(&reply, source);
}

fn send(message: &[u8], source: Ipv4Addr) {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
    socket.bind(&SockAddr::from(SocketAddr::from((source, 0)))).unwrap();
    socket.send_to(message, &SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))).unwrap();
}

#[test]
fn forged_answers_are_classified() {
    if !require_root("forged_answers_are_classified") {
        return;
    }
    let lab = Lab::from_toml(ALONE).unwrap();
    let work = || {
        // The kernel keeps silent, so that only the answers below exist.
        std::fs::write("/proc/sys/net/ipv4/icmp_echo_ignore_all", "1").unwrap();
        let mut tap = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
        tap.set_read_timeout(Some(SOON)).unwrap();
        let engine = Engine::start(&quiet()).unwrap();
        let target = Ipv4Addr::new(127, 0, 0, 7);
        let source = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        engine.submit(vec![Round { source, timeout: SOON, ..Round::new(1, target.into()) }]).unwrap();
        let mut datagram = [0; 2048];
        let length = std::io::Read::read(&mut tap, &mut datagram).unwrap();
        let request = &datagram[20..length];
        assert_eq!((request[0], &datagram[16..20]), (8, &target.octets()[..]));

        let expect = |what: &str, count: fn(&imn_probe::icmp::Stats) -> u64| {
            wait_until(what, SOON, || (count(&engine.stats()) > 0).then_some(())).unwrap();
            assert_eq!((count(&engine.stats()), engine.stats().received), (1, 0), "{what}");
        };
        answer(request, Ipv4Addr::new(127, 0, 0, 8), |_| {});
        expect("wrong source", |stats| stats.wrong_source);
        answer(request, target, |reply| reply[8 + 15] ^= 1);
        expect("wrong tag", |stats| stats.foreign);
        answer(request, target, |reply| reply.truncate(40));
        expect("short answer", |stats| stats.corrupted);
        // Not ours at all: another identifier never gets through the filter.
        answer(request, target, |reply| reply[4] ^= 0x80);
        answer(request, target, |_| {});
        wait_until("the genuine answer", SOON, || (engine.stats().received == 1).then_some(())).unwrap();
        answer(request, target, |_| {});
        expect_duplicate(&engine);
        assert_eq!(engine.stats().foreign, 1);
        let (outcome, packets) = collect(&engine, 1).remove(0);
        assert_eq!((outcome.wrong_source, outcome.corrupted), (1, 1));
        assert!(packets[0].rtt().is_some());

        // An error that quotes no more than the ICMP header, as RFC 792 has it.
        engine.submit(vec![Round { source, timeout: SOON, ..Round::new(2, target.into()) }]).unwrap();
        let length = loop {
            let length = std::io::Read::read(&mut tap, &mut datagram).unwrap();
            if datagram[20] == 8 {
                break length;
            }
        };
        let mut error = vec![3, 13, 0, 0, 0, 0, 0, 0];
        error.extend(&datagram[..28.min(length)]);
        answer(&error, Ipv4Addr::new(127, 0, 0, 99), |message| message[0] = 3);
        let (_, packets) = collect(&engine, 1).remove(0);
        let from = IpAddr::from([127, 0, 0, 99]);
        assert_eq!(packets[0].fate, Fate::Unreachable { from, kind: 3, code: 13 });
    };
    lab.node("a").unwrap().enter(work).unwrap();
}

fn expect_duplicate(engine: &Engine) {
    wait_until("duplicate", SOON, || (engine.stats().duplicates == 1).then_some(())).unwrap();
}
