//! STAMP against an independent implementation (scapy, and packets after the figures of RFC 8762), in both roles.

#![expect(clippy::unwrap_used, reason = "a test helper fails its test")]

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use imn_probe::stamp::{Format, Key, Outcome, Pacing, Reflector, ReflectorConfig, Sender, Spec};
use imn_probe::{Packet, Timestamp, TsSource};
use imn_testkit::{Process, Program, skip};

const SOON: Duration = Duration::from_mins(1);
const SECRET: &str = "correct horse battery staple";
const HOSTS: [&str; 2] = ["127.0.0.1", "::1"];

fn python() -> Option<Program> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = std::env::var_os("IMN_TEST_PYTHON")
        .map_or_else(|| root.join("../../target/venv/bin/python"), PathBuf::from);
    let script = root.join("tests/python/stamp_peer.py");
    path.exists().then(|| Program::new(path).arg(script))
}

/// A reflector of scapy's, and where it is.
fn peer(host: &str, behaviour: &str, key: Option<&str>) -> Option<(Process, SocketAddr)> {
    let mut process = python()?.args(["reflect", host, behaviour]).args(key).spawn().unwrap();
    let port =
        process.wait_for("its port", SOON, |process| process.stdout().lines().next()?.trim().parse().ok());
    let address: IpAddr = host.parse().unwrap();
    Some((process, SocketAddr::new(address, port.unwrap())))
}

fn measure(spec: &Spec) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sender = Sender::new(&Pacing::default());
    runtime.block_on(sender.measure(spec, Timestamp::now(), |_, _| {})).unwrap()
}

fn spec(target: SocketAddr, count: u16) -> Spec {
    let (interval, timeout) = (Duration::from_millis(5), Duration::from_millis(500));
    Spec { count, interval, timeout, ..Spec::new(target) }
}

#[test]
fn the_reflector_answers_scapy() {
    for (host, secret) in HOSTS.into_iter().flat_map(|host| [(host, None), (host, Some(SECRET))]) {
        let Some(python) = python() else {
            return skip("the_reflector_answers_scapy", "needs Python with scapy");
        };
        let config = ReflectorConfig {
            listen: vec![SocketAddr::new(host.parse().unwrap(), 0)],
            stateful: true,
            key: secret.and_then(|secret| Key::new(secret.as_bytes())),
            ..ReflectorConfig::default()
        };
        let reflector = Reflector::start(&config).unwrap();
        let port = reflector.addresses()[0].port().to_string();
        let told = python.args(["send", host, &port]).args(secret).run_ok(SOON).unwrap();
        assert_eq!(told.trim(), "ok", "{host} {secret:?}");
    }
}

#[test]
fn the_sender_asks_scapy() {
    for (host, secret) in HOSTS.into_iter().flat_map(|host| [(host, None), (host, Some(SECRET))]) {
        let key = secret.and_then(|secret| Key::new(secret.as_bytes()));
        let size = if key.is_some() { 112 } else { 200 };
        let Some((_peer, target)) = peer(host, "stateless", secret) else {
            return skip("the_sender_asks_scapy", "needs Python with scapy");
        };
        let outcome = measure(&Spec { key: key.clone(), size, ..spec(target, 20) });
        let counts = Packet::counts(&outcome.packets);
        assert_eq!((counts.sent, counts.received), (20, 20), "{outcome:?}");
        assert_eq!(Packet::ts_source(&outcome.packets), Some(TsSource::Kernel));
        let clock = outcome.peer_clock.unwrap();
        // 3 · 2^(20 − 32) s.
        assert_eq!((clock.synced, clock.error), (true, Some(Duration::from_nanos(732_422))));
        for (packet, trip) in outcome.packets.iter().zip(&outcome.trips) {
            let (there, back) = trip.unwrap().one_way.unwrap();
            let rtt = packet.rtt().unwrap().as_nanos() as i64;
            assert!(there > 0 && back > 0 && (there + back - rtt).abs() <= 2, "{packet:?} {trip:?}");
            assert_eq!(trip.unwrap().ttl_there, 200);
        }
        // Every fifth is lost on the way there; on the way back every seventh, but for the 35th.
        let (_peer, target) = peer(host, "stateful", secret).unwrap();
        let outcome = measure(&Spec { key, size, ..spec(target, 36) });
        let directions = outcome.directions.unwrap();
        assert_eq!((directions.forward.lost, directions.backward.lost, directions.unattributed), (7, 4, 0));
        assert_eq!(Packet::counts(&outcome.packets).lost(), 11);
    }
}

#[test]
fn the_sender_understands_twamp_light_and_atomic_time() {
    let Some((_peer, target)) = peer("127.0.0.1", "twamp", None) else {
        return skip("the_sender_understands_twamp_light_and_atomic_time", "needs Python with scapy");
    };
    let outcome = measure(&spec(target, 10));
    assert_eq!(Packet::counts(&outcome.packets).received, 10, "{outcome:?}");
    assert_eq!((outcome.ssid_returned, outcome.corrupted, outcome.foreign), (Some(false), 0, 0));
    let (_peer, target) = peer("127.0.0.1", "ptp", None).unwrap();
    let outcome = measure(&Spec { format: Format::Ptp, ..spec(target, 10) });
    for trip in &outcome.trips {
        let (there, back) = trip.unwrap().one_way.unwrap();
        assert!((0..100_000_000).contains(&there) && (0..100_000_000).contains(&back), "{trip:?}");
    }
}

#[test]
fn what_is_no_answer_is_counted_and_changes_nothing() {
    let Some((_peer, target)) = peer("127.0.0.1", "hostile", None) else {
        return skip("what_is_no_answer_is_counted_and_changes_nothing", "needs Python with scapy");
    };
    let outcome = measure(&spec(target, 20));
    let counts = Packet::counts(&outcome.packets);
    assert_eq!((counts.sent, counts.received), (20, 20), "{outcome:?}");
    // Too short: two a packet. No answer to anything: four. The last copy may come after the end.
    assert_eq!((outcome.corrupted, outcome.foreign, outcome.wrong_source), (40, 80, 20), "{outcome:?}");
    assert!((19..=20).contains(&outcome.duplicates), "{outcome:?}");
    assert_eq!((outcome.late, outcome.reordered), (0, 0));

    let (_peer, target) = peer("127.0.0.1", "forger", Some(SECRET)).unwrap();
    let key = Key::new(SECRET.as_bytes());
    let outcome = measure(&Spec { key, size: 112, ..spec(target, 20) });
    let counts = Packet::counts(&outcome.packets);
    assert_eq!((counts.received, counts.lost(), outcome.corrupted), (10, 10, 20), "{outcome:?}");
}
