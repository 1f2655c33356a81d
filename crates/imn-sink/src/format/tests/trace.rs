//! Traces in every format; ripe.atlas.sagan is the judge of Atlas' form.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use imn_contract::latest::{
    IcmpExtension, IcmpObject, LossKind, MplsLabel, TraceHop, TraceOutcome, TracePath, TraceResponder,
};
use serde_json::json;

use super::*;

fn node(address: &str, received: u32) -> TraceResponder {
    TraceResponder {
        address: address.to_owned(),
        received,
        avg_ms: Some(4.2),
        answer: "time_exceeded".to_owned(),
        reply_ttl: Some(62),
        reply_size: Some(96),
        ..TraceResponder::default()
    }
}

fn hop(number: u8, rtts: &[Option<f64>], responders: Vec<TraceResponder>) -> TraceHop {
    let received: Vec<f64> = rtts.iter().copied().flatten().collect();
    let lost = rtts.len() - received.len();
    TraceHop {
        hop: number,
        address: responders.first().map(|node| node.address.clone()),
        sent: rtts.len() as u32,
        received: received.len() as u32,
        loss_pct: Some(lost as f64 * 100.0 / rtts.len() as f64),
        loss_kind: Some(LossKind::None),
        last_ms: received.last().copied(),
        avg_ms: (!received.is_empty()).then(|| received.iter().sum::<f64>() / received.len() as f64),
        best_ms: received.iter().copied().reduce(f64::min),
        worst_ms: received.iter().copied().reduce(f64::max),
        stddev_ms: (received.len() > 1).then_some(0.1),
        jitter_ms: (received.len() > 1).then_some(0.2),
        rtts_ms: rtts.to_vec(),
        timestamp_source: TimestampSource::Kernel,
        responders,
        ..TraceHop::default()
    }
}

fn traced() -> TraceOutcome {
    let labels = vec![MplsLabel { label: 16_001, exp: 5, s: 1, ttl: 1 }];
    let object = IcmpObject { class: 1, kind: 1, mpls: labels };
    let mpls = TraceResponder {
        extension: Some(IcmpExtension { rfc4884: true, objects: vec![object] }),
        ..node("198.51.100.2", 1)
    };
    let prohibited = TraceResponder {
        answer: "unreachable".to_owned(),
        icmp_type: Some(3),
        icmp_code: Some(13),
        sign: Some("!X".to_owned()),
        ..node("203.0.113.9", 2)
    };
    let mut second = hop(2, &[Some(4.25), None], vec![mpls]);
    second.loss_kind = Some(LossKind::RateLimited);
    let mut fourth = hop(4, &[Some(9.5), Some(9.75)], vec![prohibited, node("198.51.100.4", 1)]);
    fourth.answered_by = vec![Some(0), Some(1)];
    TraceOutcome {
        target: "www.example.net".to_owned(),
        address: Some("203.0.113.9".to_owned()),
        source: Some("192.0.2.9".to_owned()),
        protocol: "icmp".to_owned(),
        size: Some(32),
        max_hops: 30,
        cycles: 2,
        reached: true,
        distance: Some(4),
        sent: 2,
        received: 2,
        loss_pct: Some(0.0),
        rtt_ms: RttSummary { min: Some(9.5), avg: Some(9.625), max: Some(9.75), ..RttSummary::default() },
        rtts_ms: vec![Some(9.5), Some(9.75)],
        hops: vec![
            hop(1, &[Some(0.5), Some(0.6)], vec![node("192.0.2.1", 2)]),
            second,
            hop(3, &[None, None], Vec::new()),
            fourth,
        ],
        paths: vec![TracePath { id: "00000000deadbeef".to_owned(), addresses: Vec::new(), flows: 1 }],
        timestamp_source: TimestampSource::Kernel,
        error_us: 1.5,
        tmax_ms: 1000,
        elapsed_ms: Some(1010.0),
        time: Some("2026-11-20T08:00:00.500000Z".to_owned()),
        ..TraceOutcome::default()
    }
}

fn unresolved() -> TraceOutcome {
    let kind = ModuleType::new("trace").unwrap();
    match Outcome::unmeasured(&kind, "nowhere", 1000, "resolve: no such name".to_owned()) {
        Outcome::Trace(outcome) => *outcome,
        other => panic!("{other:?}"),
    }
}

fn text(format: Format) -> String {
    written(format, &[Row::new(traced()), Row::new(unresolved())], false)
}

#[test]
fn mtr_json_is_what_mtr_writes() {
    let text = text(Format::MtrJson);
    let documents: Vec<Value> =
        serde_json::Deserializer::from_str(&text).into_iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(documents.len(), 2);
    let report = &documents[0]["report"];
    assert_eq!(
        report["mtr"],
        json!({"src": "192.0.2.9", "dst": "www.example.net", "tos": 0, "tests": 2, "psize": "60",
               "bitpattern": "0x00"})
    );
    let hubs = report["hubs"].as_array().unwrap();
    assert_eq!(
        hubs[1],
        json!({"count": 2, "host": "198.51.100.2", "Loss%": 50.0, "Snt": 2, "Last": 4.25, "Avg": 4.25,
               "Best": 4.25, "Wrst": 4.25, "StDev": 0.0})
    );
    assert_eq!((hubs.len(), &hubs[2]["host"], &hubs[2]["Loss%"]), (4, &json!("???"), &json!(100.0)));
}

#[test]
fn every_hop_is_in_the_lines_of_csv_influx_and_prometheus() {
    let csv = text(Format::Csv);
    assert_eq!(csv.lines().count(), 6, "{csv}");
    let columns = csv.lines().next().unwrap().split(',').count();
    assert!(csv.lines().all(|line| line.split(',').count() == columns), "{csv}");
    assert!(csv.contains(",2,198.51.100.2,,,2,1,0,50,rate_limited,4.25,"), "{csv}");
    let influx = text(Format::Influx);
    assert!(
        influx.contains("trace_hop,url=www.example.net,protocol=icmp,hop=2,ip=198.51.100.2 "),
        "{influx}"
    );
    assert_eq!(influx.lines().filter(|line| line.starts_with("trace_hop,")).count(), 4);
    let prometheus = text(Format::Prometheus);
    let loss = prometheus
        .lines()
        .find(|line| line.starts_with("imn_trace_hop_loss_ratio") && line.contains("hop=\"2\""));
    assert!(loss.is_some_and(|line| line.ends_with(" 0.5")), "{prometheus}");
    let table = text(Format::Table);
    assert!(table.contains("MPLS 16001/5/1/1, rate-limited"), "{table}");
    assert!(table.contains("!X") && table.contains("198.51.100.4"), "{table}");
}

#[test]
fn json_has_the_hops_that_scripts_rely_on() {
    let rows: Vec<Value> = serde_json::from_str(&text(Format::Json)).unwrap();
    let hop = &rows[0]["hops"][1];
    for name in
        "hop address sent received unknown loss_pct loss_kind last_ms avg_ms best_ms worst_ms stddev_ms \
                 jitter_ms timestamp_source responders"
            .split_whitespace()
    {
        assert!(hop.get(name).is_some(), "{name}");
    }
    assert_eq!(hop["loss_kind"], "rate_limited");
    assert_eq!(rows[1]["error"], "resolve: no such name");
}

/// The Python interpreter with ripe.atlas.sagan; `None` when `cargo xtask test` has not made it.
fn python() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = std::env::var_os("IMN_TEST_PYTHON")
        .map_or_else(|| root.join("target/venv/bin/python"), PathBuf::from);
    path.exists().then_some(path)
}

#[test]
fn sagan_reads_traceroutes() {
    const SCRIPT: &str = r"
import json, sys
from ripe.atlas.sagan import Result
for raw in json.load(sys.stdin):
    result = Result.get(raw, on_malformation=Result.ACTION_FAIL)
    hops = [[[p.origin, p.rtt, p.ttl, p.size, p.error_message] for p in hop.packets] for hop in result.hops]
    icmp = [p.icmp_header.objects for hop in result.hops for p in hop.packets if p.icmp_header]
    print(json.dumps([type(result).__name__, result.af, result.destination_address, result.source_address,
                      result.protocol, result.paris_id, result.total_hops, result.destination_ip_responded,
                      result.end_time.isoformat(), hops, icmp]))
";
    let Some(python) = python() else {
        return imn_testkit::skip("sagan_reads_traceroutes", "no Python with sagan: cargo xtask test");
    };
    let mut plain = traced();
    plain.hops[3].responders[0].sign = None;
    let text = written(Format::Atlas, &[Row::new(plain), Row::new(traced())], false);
    let mut child = Command::new(python)
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let read: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        read[0],
        json!([
            "TracerouteResult", 4, "203.0.113.9", "192.0.2.9", "ICMP", 1, 4, true, "2026-11-20T08:00:01+00:00",
            [
                [["192.0.2.1", 0.5, 62, 96, null], ["192.0.2.1", 0.6, 62, 96, null]],
                [["198.51.100.2", 4.25, 62, 96, null], [null, null, null, null, null]],
                [[null, null, null, null, null], [null, null, null, null, null]],
                [["203.0.113.9", 9.5, 62, 96, null], ["198.51.100.4", 9.75, 62, 96, null]],
            ],
            [[{"class": 1, "type": 1, "mpls": [{"label": 16001, "exp": 5, "s": 1, "ttl": 1}]}]],
        ])
    );
    assert_eq!(read[1][9][3][0][4], "Administratively prohibited");
}
