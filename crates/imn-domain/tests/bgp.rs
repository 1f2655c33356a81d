//! Findings from updates, one case per table of `cases/bgp.toml`.
//!
//! A line of a case is a time in seconds, `A`, `W`, `down` or `tick`, a peer, a prefix, and a path whose last number is
//! the origin. Lines that begin with `>` are the findings of the line before them.

#![expect(clippy::unwrap_used, reason = "a test helper fails its test")]

use std::{collections::BTreeSet, fmt::Write, fs, net::IpAddr};

use imn_domain::bgp::{Finding, Peer, Policy, Route, Update, Watch};
use proptest::prelude::*;
use toml::{Table, Value};

fn peer(name: &str) -> Peer {
    let number: u8 = name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    let collector = name.trim_end_matches(|c: char| c.is_ascii_digit());
    Peer {
        collector: collector.into(),
        address: IpAddr::from([192, 0, 2, number]),
        asn: 64_700 + u32::from(number),
    }
}

fn update(words: &[&str]) -> Update {
    let path = words[4..].join(" ");
    let origins = words[4..].last().map(|last| {
        let inner = last.trim_start_matches('{').trim_end_matches('}');
        inner.split(',').map(|asn| asn.parse().unwrap()).collect()
    });
    Update {
        time_us: words[0].parse::<i64>().unwrap() * 1_000_000,
        prefix: words[3].parse().unwrap(),
        path_id: None,
        peer: peer(words[2]),
        route: (words[1] == "A").then(|| Route { origins: origins.unwrap_or_default(), as_path: path }),
    }
}

fn shown(finding: &Finding) -> String {
    let mut line = format!("> {} {} {}", finding.state.as_str(), finding.kind.as_str(), finding.prefix);
    for (name, value) in [
        ("origin", finding.origin.map(|asn| asn.to_string())),
        ("end", finding.end.map(|end| end.as_str().to_owned())),
        ("moas", finding.moas.then(|| "yes".to_owned())),
        ("visible", finding.visible.map(|(visible, all)| format!("{visible}/{all}"))),
        ("flaps", finding.flaps.map(|flaps| flaps.to_string())),
    ] {
        if let Some(value) = value {
            let _ = write!(line, " {name}={value}");
        }
    }
    let severity = serde_json::to_value(finding.severity).unwrap();
    let evidence = &finding.evidence;
    line + &format!(
        " {} peers={} updates={} first={} last={}",
        severity.as_str().unwrap(),
        evidence.peer_count,
        evidence.updates,
        evidence.first_us / 1_000_000,
        evidence.last_us / 1_000_000
    )
}

fn policy(case: &Table) -> Policy {
    let number = |key| case.get(key).and_then(Value::as_integer);
    let mut policy = Policy::default();
    let seconds = |key, default| number(key).map_or(default, |seconds| seconds * 1_000_000);
    policy.learn_us = seconds("learn_s", policy.learn_us);
    policy.adopt_us = seconds("adopt_s", policy.adopt_us);
    policy.flap_window_us = seconds("flap_window_s", policy.flap_window_us);
    policy.flaps = number("flaps").map_or(policy.flaps, |flaps| usize::try_from(flaps).unwrap());
    let origins = case.get("origins").and_then(Value::as_array);
    policy.origins =
        origins.into_iter().flatten().map(|asn| u32::try_from(asn.as_integer().unwrap()).unwrap()).collect();
    policy
}

#[test]
fn findings_follow_from_updates() {
    let path = format!("{}/tests/cases/bgp.toml", env!("CARGO_MANIFEST_DIR"));
    let cases: Table = fs::read_to_string(path).unwrap().parse().unwrap();
    for (name, case) in &cases {
        let case = case.as_table().unwrap();
        let text: Vec<&str> = case["script"].as_str().unwrap().trim().lines().map(str::trim).collect();
        let mut watch = Watch::new("203.0.113.0/24".parse().unwrap(), policy(case));
        let mut lines = Vec::new();
        for line in text.iter().filter(|line| !line.starts_with('>')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let now_us = words[0].parse::<i64>().unwrap() * 1_000_000;
            let found = match words[1] {
                "tick" => watch.advance(now_us),
                "down" if words[2].ends_with(|c: char| c.is_ascii_digit()) => {
                    let peer = peer(words[2]);
                    watch.lose(&peer.collector, Some(peer.address), now_us)
                }
                "down" => watch.lose(words[2], None, now_us),
                _ => watch.observe(&update(&words)),
            };
            lines.push((*line).to_owned());
            lines.extend(found.iter().map(shown));
        }
        assert_eq!(lines.join("\n"), text.join("\n"), "{name}");
        let open: BTreeSet<&str> = watch.open().map(|finding| finding.kind.as_str()).collect();
        let expected = case.get("open").and_then(Value::as_str).unwrap_or_default();
        assert_eq!(open, expected.split_whitespace().collect(), "{name}");
        assert!(watch.open().all(|finding| !finding.text().is_empty()), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Whatever is told, in whatever order: the state says of itself what a plain list of routes says.
    #[test]
    fn the_state_is_that_of_a_list_of_routes(
        steps in proptest::collection::vec((0u8..6, 0u32..4, any::<bool>(), 0i64..100), 1..200),
    ) {
        let mut watch = Watch::new("203.0.113.0/24".parse().unwrap(), Policy { learn_us: 0, ..Policy::default() });
        let mut routes = std::collections::BTreeMap::new();
        for (n, (number, origin, announces, at)) in steps.into_iter().enumerate() {
            let route = announces.then(|| Route { origins: vec![origin], as_path: origin.to_string() });
            let peer = peer(&format!("c{number}"));
            let known = routes.contains_key(&peer);
            if announces || known {
                routes.insert(peer.clone(), route.as_ref().map(|_| origin));
            }
            if n % 37 == 36 {
                watch.lose("c", Some(peer.address), at);
                routes.remove(&peer);
                continue;
            }
            let prefix = "203.0.113.0/24".parse().unwrap();
            let opened = watch.observe(&Update { time_us: at * 1_000_000, prefix, path_id: None, peer, route });
            prop_assert!(opened.len() <= 8);
            let status = watch.status(at * 1_000_000);
            prop_assert_eq!(status.peers, routes.len());
            prop_assert_eq!(status.visible, routes.values().flatten().count());
            for asn in 0..4 {
                let seen = routes.values().flatten().filter(|origin| **origin == asn).count();
                prop_assert_eq!(status.origins.get(&asn).copied().unwrap_or_default(), seen);
                let is_open = watch.open().any(|f| f.kind.as_str() == "origin_change" && f.origin == Some(asn));
                prop_assert_eq!(is_open, seen > 0 && !status.expected.contains(&asn));
            }
            let is_gone = status.peers > 0 && status.visible * 2 <= status.peers;
            let withdrawn = watch.open().any(|finding| finding.kind.as_str() == "withdrawal");
            prop_assert!(!withdrawn || is_gone, "a withdrawal is open at {}/{}", status.visible, status.peers);
        }
    }
}

#[test]
fn a_flood_of_peers_prefixes_and_origins_stays_bounded() {
    let policy = Policy { origins: BTreeSet::from([64_500]), ..Policy::default() };
    let mut watch = Watch::new("10.0.0.0/8".parse().unwrap(), policy);
    for n in 0..20_000u32 {
        let peer = Peer { collector: "c".into(), address: IpAddr::from(n.to_be_bytes()), asn: n };
        let route = Some(Route { origins: vec![n], as_path: n.to_string() });
        let inner = ipnet::Ipv4Net::new([10, (n >> 8) as u8, n as u8, 0].into(), 24).unwrap();
        for prefix in ["10.0.0.0/8".parse().unwrap(), ipnet::IpNet::V4(inner)] {
            watch.observe(&Update {
                time_us: n.into(),
                prefix,
                path_id: None,
                peer: peer.clone(),
                route: route.clone(),
            });
        }
    }
    let status = watch.status(20_000);
    assert!(watch.open().count() <= 256 && status.peers <= 4_096 && status.more_specifics.len() <= 1_024);
    assert!(status.overflow > 15_000);
}
