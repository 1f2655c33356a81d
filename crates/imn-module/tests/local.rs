//! Measuring without any network of modules.

use std::time::Duration;

use imn_module::{
    Pace, PingSpec,
    local::{Plan, Run, Step},
};
use imn_testkit::require_root;

fn plan(spec: PingSpec) -> Plan {
    Plan { spec, rate: None, pace: Pace::default(), progress: false, figures: false }
}

#[test]
fn thousands_of_targets_have_one_outcome_each() {
    if !require_root("thousands_of_targets_have_one_outcome_each") {
        return;
    }
    let names: Vec<String> = (0..5000).map(|n| format!("127.1.{}.{}", n / 250, n % 250 + 1)).collect();
    let spec = PingSpec { count: 2, interval: Duration::from_millis(50), ..PingSpec::icmp() };
    let mut seen = vec![0; names.len()];
    let (mut sent, mut unknown, mut received) = (0, 0, 0);
    for step in Run::start(names.clone(), plan(spec)).unwrap() {
        let Step::Done { target, outcome } = step else { panic!("no progress was asked for") };
        seen[target] += 1;
        assert_eq!(outcome.target, names[target]);
        sent += outcome.sent;
        unknown += outcome.unknown;
        received += outcome.received;
    }
    assert!(seen.iter().all(|count| *count == 1));
    assert_eq!(sent, 10_000);
    assert_eq!(received + unknown, 10_000);
}

#[test]
fn every_packet_is_told_and_names_fail_alone() {
    if !require_root("every_packet_is_told_and_names_fail_alone") {
        return;
    }
    let names = ["127.0.0.1", "no-such-host.invalid", "::1"].map(str::to_owned).to_vec();
    let spec = PingSpec { count: 3, interval: Duration::from_millis(10), ..PingSpec::icmp() };
    let steps: Vec<Step> = Run::start(names, Plan { progress: true, ..plan(spec) }).unwrap().collect();
    let packets = |wanted| {
        steps.iter().filter(|s| matches!(s, Step::Packet { target, .. } if *target == wanted)).count()
    };
    assert_eq!((packets(0), packets(1), packets(2)), (3, 0, 3));
    let failed = steps.iter().find_map(|s| match s {
        Step::Done { target: 1, outcome } => outcome.error.clone(),
        _ => None,
    });
    assert!(failed.unwrap().contains("no-such-host.invalid"));
}

#[test]
fn what_cannot_be_measured_is_said_before_anything_is_sent() {
    let field = |names: &[&str], spec: PingSpec| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Run::start(names, plan(spec)).err().unwrap().field.unwrap()
    };
    assert_eq!(field(&["999.1.1.1"], PingSpec::tcp(80)), "target");
    assert_eq!(field(&["127.0.0.1"], PingSpec { count: 0, ..PingSpec::tcp(80) }), "params.count");
    assert_eq!(field(&["127.0.0.1"], PingSpec::tcp(0)), "params.port");
}
