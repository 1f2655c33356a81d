mod trace;

use imn_contract::latest::{
    PingOutcome, RttSummary, StampClock, StampClocks, StampDirection, StampOutcome, TimestampSource, Typed,
};
use serde_json::{Value, json};

use super::*;

fn measured() -> Row {
    Row {
        agent: Some("lon1".to_owned()),
        source: Some("192.0.2.9".parse().unwrap()),
        elapsed: Some(Duration::from_millis(3_010)),
        outcome: ping().into(),
    }
}

fn ping() -> PingOutcome {
    PingOutcome {
        target: "www.example.net".to_owned(),
        address: Some("192.0.2.1".to_owned()),
        protocol: "icmp".to_owned(),
        port: None,
        size: Some(56),
        dscp: 0,
        sent: 4,
        received: 3,
        unknown: 0,
        loss_pct: Some(25.0),
        rtt_ms: RttSummary {
            min: Some(10.5),
            avg: Some(11.0),
            max: Some(11.5),
            stddev: Some(0.5),
            p50: Some(11.0),
            p95: None,
        },
        ipdv_ms: Some(0.5),
        pdv_ms: Some(0.5),
        jitter_ms: Some(0.5),
        duplicates: 1,
        late: 0,
        reordered: 0,
        rtts_ms: vec![Some(10.5), Some(11.0), None, Some(11.5)],
        ttl: None,
        resolve_ms: None,
        tls: None,
        timestamp_source: TimestampSource::Kernel,
        error_us: 12.5,
        tmax_ms: 1000,
        time: Some("2026-11-20T08:00:00.000001Z".to_owned()),
        error: None,
    }
}

fn stamp() -> StampOutcome {
    let way = |least: f64, lost| StampDirection {
        delay_ms: RttSummary {
            min: Some(least),
            avg: Some(least + 0.5),
            max: Some(least + 1.0),
            stddev: Some(0.7),
            p50: Some(least),
            p95: None,
        },
        ipdv_ms: Some(1.0),
        pdv_ms: Some(0.5),
        sent: Some(4),
        lost: Some(lost),
        loss_pct: Some(f64::from(lost) * 25.0),
        duplicates: Some(0),
        reordered: Some(0),
        ttl: Some(254),
        delays_ms: vec![Some(least), None, None, Some(least + 1.0)],
    };
    StampOutcome {
        address: Some("192.0.2.1".to_owned()),
        port: 862,
        mode: "authenticated".to_owned(),
        size: 112,
        ssid: Some(7),
        ssid_returned: Some(true),
        sent: 4,
        received: 2,
        loss_pct: Some(50.0),
        rtt_ms: ping().rtt_ms,
        ipdv_ms: Some(0.5),
        pdv_ms: Some(0.5),
        jitter_ms: Some(0.5),
        late: 1,
        corrupted: 2,
        residence_ms: Some(0.05),
        forward: way(-2.0, 1),
        backward: way(12.5, 0),
        unattributed: Some(0),
        clock: StampClocks {
            synced: true,
            error_us: Some(1310.5),
            local: StampClock { synced: true, error_us: Some(1000.0) },
            remote: Some(StampClock { synced: true, error_us: Some(300.5) }),
        },
        rtts_ms: vec![Some(10.5), None, None, Some(11.5)],
        timestamp_source: TimestampSource::Kernel,
        error_us: 10.0,
        time: Some("2026-11-20T08:00:00.000001Z".to_owned()),
        error: None,
        ..StampOutcome::unmeasured("far.example.net", 1000, String::new())
    }
}

/// Nothing of a direction is known where the reflector does not count.
fn stateless() -> StampOutcome {
    let unknown = |way: StampDirection| StampDirection {
        sent: None,
        lost: None,
        loss_pct: None,
        duplicates: None,
        reordered: None,
        ..way
    };
    let whole = stamp();
    StampOutcome {
        forward: unknown(whole.forward),
        backward: unknown(whole.backward),
        unattributed: None,
        clock: StampClocks { remote: Some(StampClock::default()), ..StampClocks::default() },
        ..stamp()
    }
}

fn unresolved() -> Row {
    let mut row = Row::new(PingOutcome {
        target: "no such\",=\nname\u{1b}".to_owned(),
        address: None,
        sent: 0,
        received: 0,
        loss_pct: None,
        rtt_ms: RttSummary::default(),
        ipdv_ms: None,
        pdv_ms: None,
        jitter_ms: None,
        duplicates: 0,
        rtts_ms: Vec::new(),
        timestamp_source: TimestampSource::User,
        error_us: 0.0,
        time: None,
        error: Some("resolve: Name or service not known".to_owned()),
        ..ping()
    });
    row.agent = Some("nyc1".to_owned());
    row
}

fn summary(rows: &[Row]) -> Summary {
    let mut tally = Tally::default();
    for row in rows {
        tally.add(row);
    }
    tally.finish(Duration::from_millis(3_050), Duration::from_micros(1_500))
}

fn written(format: Format, rows: &[Row], with_summary: bool) -> String {
    let layout = Layout::for_targets(["www.example.net"]).with_agents(["lon1"]).with_addresses(false);
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, format, layout);
    for row in rows {
        writer.row(row).unwrap();
    }
    if with_summary {
        let placed = writer.summary(&summary(rows)).unwrap();
        assert_eq!(placed, !matches!(format, Format::Csv | Format::Atlas), "{format}");
    }
    writer.finish().unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn measurements_in_every_format() {
    let rows = [measured(), unresolved()];
    for format in Format::ALL.into_iter().filter(|format| *format != Format::MtrJson) {
        // The time of a result that has none is now.
        let rows = if format == Format::Atlas { &rows[..1] } else { &rows[..] };
        insta::assert_snapshot!(format.name(), written(format, rows, true));
    }
}

#[test]
fn stamp_in_every_format_but_atlas() {
    let nothing = StampOutcome::unmeasured("nowhere.example.net", 1000, "resolve: no such name".to_owned());
    let rows = [stamp(), stateless(), nothing].map(Row::new);
    let kind = imn_contract::ModuleType::new("stamp").unwrap();
    let all: Vec<String> = Format::ALL
        .into_iter()
        .filter(|format| format.admits(&kind))
        .map(|format| format!("-- {format}\n{}", written(format, &rows, false)))
        .collect();
    assert_eq!(all.len(), 6, "neither atlas nor mtr-json");
    insta::assert_snapshot!(all.join(""));
}

#[test]
fn summaries_in_every_format() {
    let summary = summary(&[measured(), unresolved()]);
    let all: Vec<String> = Format::ALL
        .into_iter()
        .map(|format| {
            let mut out = Vec::new();
            summary.write(&mut out, format).unwrap();
            format!("-- {format}\n{}", String::from_utf8(out).unwrap())
        })
        .collect();
    insta::assert_snapshot!(all.join(""));
}

#[test]
fn nothing_measured_is_well_formed() {
    for format in [Format::Json, Format::Atlas] {
        assert_eq!(written(format, &[], false), "[]\n");
    }
    assert!(written(Format::Csv, &[], false).starts_with("agent,target,"));
    for format in [Format::Table, Format::Ndjson, Format::Prometheus, Format::Influx] {
        assert_eq!(written(format, &[], false), "", "{format}");
    }
}

#[test]
fn json_has_the_fields_that_scripts_rely_on() {
    let rows: Vec<Value> = serde_json::from_str(&written(Format::Json, &[measured()], false)).unwrap();
    for name in
        "target address sent received unknown loss_pct rtt_ms ipdv_ms pdv_ms jitter_ms duplicates late \
                 reordered rtts_ms timestamp_source error_us tmax_ms error"
            .split_whitespace()
    {
        assert!(rows[0].get(name).is_some(), "{name}");
    }
    for name in "min avg max stddev p50 p95".split_whitespace() {
        assert!(rows[0]["rtt_ms"].get(name).is_some(), "{name}");
    }
}

#[test]
fn loss_is_infinite_in_a_summary() {
    let summary = summary(&[measured()]);
    assert_eq!((summary.sent, summary.lost), (4, 1));
    assert_eq!((summary.rtt_ms.p50, summary.rtt_ms.p95, summary.rtt_ms.max), (Some(11.0), None, Some(11.5)));
}

#[test]
fn formats_have_names() {
    for format in Format::ALL {
        assert_eq!(format.name().parse(), Ok(format));
    }
    let error = "yaml".parse::<Format>().unwrap_err().to_string();
    assert_eq!(
        error,
        "\"yaml\" is no format; use table, json, ndjson, csv, atlas, prometheus, influx, mtr-json"
    );
}

#[test]
fn a_type_without_a_form_of_its_own_is_written_as_it_is() {
    let echo = json!({"echo": {"target": "192.0.2.7", "params": {"a": 1}}});
    let odd = json!({"target": "t,=\"\n", "success": false, "error": "it \"broke\"", "depth_m": 2.5});
    let rows =
        [Row::new(Outcome::Other(echo)), Row::new(Outcome::Other(odd)), Row::new(Outcome::Other(json!(7)))];
    let some = [Format::Table, Format::Json, Format::Ndjson, Format::Csv, Format::Prometheus, Format::Influx];
    let all: Vec<String> =
        some.into_iter().map(|format| format!("-- {format}\n{}", written(format, &rows, true))).collect();
    insta::assert_snapshot!(all.join(""));
    let mut writer = Writer::new(Vec::new(), Format::Atlas, Layout::default());
    assert_eq!(writer.row(&rows[0]).unwrap_err().kind(), std::io::ErrorKind::Unsupported);
}

#[test]
fn another_form_has_another_header() {
    let other = Row::new(Outcome::Other(json!({"target": "x"})));
    for format in [Format::Csv, Format::Table] {
        let text = written(format, &[measured(), other.clone(), other.clone()], false);
        assert_eq!(text.lines().count(), 5, "{text}");
    }
    let echo = ModuleType::new("echo").unwrap();
    let mut out = Vec::new();
    Writer::new(&mut out, Format::Csv, Layout::default().of(echo.clone())).finish().unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "agent,target,address,time,success,error,outcome\n");
    assert!(!Format::Atlas.admits(&echo) && Format::Csv.admits(&echo));
}
