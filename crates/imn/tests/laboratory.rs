//! Three vantage points around a chain of routers: what they measure is what the emulated links did, packet by packet.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking and tells its figures"
)]

#[path = "site/laboratory.rs"]
mod laboratory;
#[path = "site/network.rs"]
mod network;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use imn_testkit::{EchoFate, EchoTrip, Lab, Node, THREE_VANTAGE_POINTS, wait_until};
use laboratory::{Laboratory, Stored};
use serde_json::{Value, json};

const VANTAGE_POINTS: [&str; 3] = ["vp1", "vp2", "vp3"];
const TARGETS: [&str; 3] = ["t1", "t2", "t3"];
/// Links of the laboratory, both directions of which must have kept up.
const LINKS: [(&str, &str); 8] = [
    ("vp1", "r1"),
    ("vp2", "r2"),
    ("vp3", "r3"),
    ("r1", "r2"),
    ("r2", "r3"),
    ("r1", "t1"),
    ("r2", "t2"),
    ("r3", "t3"),
];
/// Packets per round, which fill its second evenly. Three targets share a prefix, to which an agent sends 200 a second
/// at most.
const COUNT: u64 = 50;
/// Most that the medians may be apart, in milliseconds.
const APART_MS: f64 = 0.3;

/// A vantage point and an address that it measures.
type Pair = (String, IpAddr);

/// What the product says of a pair.
#[derive(Default)]
struct Measured {
    sent: u64,
    lost: u64,
    unknown: u64,
    duplicates: u64,
    late: u64,
    /// In milliseconds, in order of sending; `None` for a packet not received.
    rtts: Vec<Option<f64>>,
}

#[test]
fn three_vantage_points_measure_what_the_links_did() {
    if !imn_testkit::require_root("laboratory") {
        return;
    }
    if network::python().is_none() {
        return imn_testkit::skip("laboratory", "no Python with duckdb; `cargo xtask test` installs it");
    }
    let mut laboratory = Laboratory::start(THREE_VANTAGE_POINTS, &VANTAGE_POINTS);
    let tier = json!({
        "name": "laboratory",
        "probes": [{"type": "icmp", "params": {"interval": format!("{}ms", 1000 / COUNT)}}],
        "probe_interval": "1s",
        "probe_timeout": "1s",
        "count": COUNT,
        "agent_selection": {"strategy": "all"},
    });
    laboratory.ask("POST", "/api/v1/tiers", Some(&tier));
    let targets: Vec<String> = addresses(&laboratory.lab)
        .iter()
        .map(|address| {
            let target = json!({"ip": address.to_string(), "tier": "laboratory"});
            let made: Value = laboratory.ask("POST", "/api/v1/targets", Some(&target));
            made["id"].as_str().unwrap().to_owned()
        })
        .collect();

    // 5,000 packets of every pair in the long run; in the suite, of the pairs of either family together.
    let (goal, deadline) = if network::soak() { (5_000, 180) } else { (600, 40) };
    for vantage_point in VANTAGE_POINTS {
        for target in &targets {
            laboratory.wait_sent(vantage_point, target, goal, Duration::from_secs(deadline));
        }
    }
    for target in &targets {
        laboratory.ask("DELETE", &format!("/api/v1/targets/{target}"), None);
    }
    for vantage_point in VANTAGE_POINTS {
        laboratory.wait_agent(vantage_point, "to have no targets", |agent| {
            (agent["telemetry"]["targets"] == 0).then_some(())
        });
    }
    committed(&laboratory);

    // Nobody is left who could still send: what is found now is final.
    laboratory.stop_agents();
    let measured = measured(laboratory.stored());
    let applied = applied(&laboratory.lab);
    assert_eq!(
        measured.keys().collect::<Vec<_>>(),
        applied.keys().collect::<Vec<_>>(),
        "what is stored and what was sent are of different pairs"
    );
    let mut faults = Vec::new();
    for (pair, measured) in &measured {
        compare(pair, measured, &applied[pair], goal, &mut faults);
    }
    undisturbed(&laboratory.lab, &mut faults);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Waits until the store has a row for every packet that entered the links.
fn committed(laboratory: &Laboratory) {
    let mut open: Vec<String> = Vec::new();
    let waited = wait_until("all that was sent to be committed", Duration::from_secs(30), || {
        let measured = measured(laboratory.stored());
        open.clear();
        for (pair, trips) in applied(&laboratory.lab) {
            let (seen, stored) = (trips.len() as u64, measured.get(&pair).map_or(0, |found| found.sent));
            if seen != stored {
                open.push(format!("{} → {}: {seen} seen, {stored} stored", pair.0, pair.1));
            }
        }
        open.is_empty().then_some(())
    });
    waited.unwrap_or_else(|error| panic!("{error}\n{}", open.join("\n")));
}

/// Holds one pair's measurement to what happened to its packets, and prints its line.
fn compare(pair: &Pair, measured: &Measured, trips: &[EchoTrip], goal: u64, faults: &mut Vec<String>) {
    let name = format!("{} → {}", pair.0, pair.1);
    let mut hold = |holds: bool, text: String| {
        if !holds {
            faults.push(format!("{name}: {text}"));
        }
    };
    let seen = trips.len() as u64;
    let dropped = trips.iter().filter(|trip| is_dropped(trip)).count() as u64;
    let returned = trips.iter().filter(|trip| trip.fate == EchoFate::Returned);
    let ours = median(measured.rtts.iter().copied().flatten());
    let true_one = median(returned.map(|trip| milliseconds(trip.applied)));
    eprintln!(
        "{name}: sent {} of {seen} seen, lost {} of {dropped} dropped, median {ours:.3} ms, applied {true_one:.3} ms, \
         apart {:+.3} ms",
        measured.sent,
        measured.lost,
        ours - true_one
    );
    hold(seen >= goal, format!("only {seen} packets"));
    hold(measured.sent == seen, format!("{} sent by our account, {seen} seen", measured.sent));
    hold(measured.lost == dropped, format!("{} lost by our account, {dropped} dropped", measured.lost));
    hold(measured.unknown == 0, format!("{} unknown", measured.unknown));
    hold(measured.duplicates == 0, format!("{} duplicates", measured.duplicates));
    hold(measured.late == 0, format!("{} late", measured.late));
    hold((ours - true_one).abs() <= APART_MS, format!("the medians are {:.3} ms apart", ours - true_one));
    // The counts could agree by chance; the packets one by one could not.
    let differs = measured.rtts.iter().zip(trips).position(|(rtt, trip)| rtt.is_none() != is_dropped(trip));
    if let Some(at) = differs {
        hold(false, format!("packet {at}: {:?} by our account, {:?}", measured.rtts[at], trips[at]));
    }
    hold(measured.rtts.len() == trips.len(), format!("{} times for {seen} packets", measured.rtts.len()));
}

/// Holds the laboratory to its own word: nothing but the emulator, by its given chances, has dropped a packet.
fn undisturbed(lab: &Lab, faults: &mut Vec<String>) {
    for (a, b) in LINKS {
        for (from, to) in [(a, b), (b, a)] {
            let stats = lab.stats(from, to).unwrap();
            let total = stats.total();
            if (stats.overrun, total.queue_dropped, total.refused, total.duplicated) != (0, 0, 0, 0) {
                faults.push(format!("the link {from} → {to} did not keep up: {stats:?}"));
            }
        }
    }
    let trips = lab.echoes_where(|_, _| true).unwrap();
    let unanswered = trips.iter().filter(|trip| trip.fate == EchoFate::Unanswered).count();
    if unanswered > 0 {
        faults.push(format!("{unanswered} echoes got lost between the links"));
    }
    if !trips.iter().any(is_dropped) {
        faults.push("the links lost nothing, so nothing was shown".to_owned());
    }
}

fn is_dropped(trip: &EchoTrip) -> bool {
    matches!(trip.fate, EchoFate::RequestLost | EchoFate::ReplyLost)
}

/// All addresses that are measured: of each target its own, of both families.
fn addresses(lab: &Lab) -> Vec<IpAddr> {
    TARGETS.iter().flat_map(|name| both(lab.node(name).unwrap())).collect()
}

fn both(node: &Node) -> [IpAddr; 2] {
    [node.v4().unwrap().into(), node.v6().unwrap().into()]
}

/// What the product says, by pair.
fn measured(rounds: Vec<Stored>) -> BTreeMap<Pair, Measured> {
    let mut pairs: BTreeMap<Pair, Measured> = BTreeMap::new();
    for round in rounds {
        let pair = pairs.entry((round.agent, round.target)).or_default();
        pair.sent += round.sent;
        pair.lost += round.sent - round.received - round.unknown;
        pair.unknown += round.unknown;
        pair.duplicates += round.duplicates;
        pair.late += round.late;
        pair.rtts.extend(round.rtts_us.iter().map(|rtt| rtt.map(|us| us / 1e3)));
    }
    pairs
}

/// What the emulator did, by pair, in order of sending.
fn applied(lab: &Lab) -> BTreeMap<Pair, Vec<EchoTrip>> {
    let mut pairs: BTreeMap<Pair, Vec<EchoTrip>> = BTreeMap::new();
    let sources: Vec<(&str, [IpAddr; 2])> =
        VANTAGE_POINTS.iter().map(|name| (*name, both(lab.node(name).unwrap()))).collect();
    for trip in lab.echoes_where(|_, _| true).unwrap() {
        let (name, _) = sources.iter().find(|(_, source)| source.contains(&trip.source)).unwrap();
        pairs.entry(((*name).to_owned(), trip.destination)).or_default().push(trip);
    }
    pairs
}

fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// The lower median; NaN, which satisfies nothing, of nothing.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.len().checked_sub(1).map_or(f64::NAN, |last| sorted[last / 2])
}
