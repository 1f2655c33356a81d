//! What DuckDB, reading our Parquet files, says of the rounds of the 10.100.0.0/14 targets.

#![allow(dead_code, reason = "each scenario uses a part of it")]

use std::{fs, net::Ipv4Addr, time::Duration};

use serde_json::Value;

use super::network::Network;

/// Counts over all targets of one interval.
#[derive(Debug, PartialEq)]
pub(crate) struct Verdict {
    /// Targets with rounds.
    pub(crate) targets: u64,
    /// Rows in the files.
    pub(crate) rows: u64,
    /// Rows beyond the first of each (target, due).
    pub(crate) duplicates: u64,
    /// Due times between a target's first and last record that are neither a row nor within a gap, and those that
    /// are too many.
    pub(crate) unaccounted: u64,
    /// Rows within a gap of their target.
    pub(crate) contradictions: u64,
    /// Rounds that gaps record.
    pub(crate) gap_rounds: u64,
    /// Packets sent, by the rows.
    pub(crate) sent: u64,
    /// Packets received, by the rows.
    pub(crate) received: u64,
    /// Packets of which nothing is known, by the rows.
    pub(crate) unknown: u64,
    /// 99th percentile of |sent − due| of rounds due since the given time, in microseconds.
    pub(crate) late_p99_us: f64,
    /// Latest of the first due times and earliest of the last, in microseconds since the Unix epoch.
    pub(crate) span_us: (i64, i64),
}

const SQL: &str = "
with r as (select target, epoch_us(due) due, epoch_us(time) sent_at, sent, received, unknown from rounds
           where type = 'icmp' and address like '10.10%'),
 g as (select target, epoch_us(first_due) lo, epoch_us(last_due) hi, rounds n from GAPS
       where type = 'icmp' and target in (select target from r)),
 rt as (select target, count(*) n, count(distinct due) d, min(due) lo, max(due) hi from r group by target),
 gt as (select target, sum(n)::bigint n, min(lo) lo, max(hi) hi from g group by target),
 t as (select rt.target, rt.d, rt.lo rlo, rt.hi rhi, coalesce(gt.n, 0) gaps,
       (greatest(rt.hi, coalesce(gt.hi, rt.hi)) - least(rt.lo, coalesce(gt.lo, rt.lo))) / INTERVAL + 1 expected
       from rt left join gt using (target))
select (select count(*) from t), (select count(*) from r), (select sum(n - d)::bigint from rt),
 (select sum(abs(expected - d - gaps))::bigint from t),
 (select count(*) from r join g on r.target = g.target and r.due between g.lo and g.hi),
 (select coalesce(sum(n), 0)::bigint from g), (select sum(sent)::bigint from r), (select sum(received)::bigint from r),
 (select sum(unknown)::bigint from r),
 (select quantile_cont(abs(sent_at - due), 0.99) from r where due >= SINCE), (select max(rlo) from t), (select min(rhi) from t)";

const NO_GAPS: &str = "(select null::varchar as target, null::varchar as type, null::timestamptz as first_due, \
                       null::timestamptz as last_due, 0::bigint as rounds where false)";

/// Moves everything committed to files and counts there; `None` without Python.
pub(crate) fn verdict(network: &Network, interval: Duration, since_us: i64) -> Option<Verdict> {
    let run = |args: &[&str]| network.program().args(args).run_ok(Duration::from_mins(2)).unwrap();
    run(&["results", "compact"]);
    let files = run(&["results", "files", "-o", "json"]);
    let listing = network.state().join("files.json");
    fs::write(&listing, &files).unwrap();
    let has_gaps = files.contains("\"gap\"");
    let sql = SQL
        .replace("GAPS", if has_gaps { "gaps" } else { NO_GAPS })
        .replace("INTERVAL", &interval.as_micros().to_string())
        .replace("SINCE", &since_us.to_string());
    let text = network.python("count.py", &[listing.to_str().unwrap(), &sql], Duration::from_mins(2))?;
    let rows: Value = serde_json::from_str(&text).unwrap();
    let n = |at: usize| rows[0][at].as_u64().unwrap_or_else(|| panic!("column {at} of {rows}"));
    Some(Verdict {
        targets: n(0),
        rows: n(1),
        duplicates: n(2),
        unaccounted: n(3),
        contradictions: n(4),
        gap_rounds: n(5),
        sent: n(6),
        received: n(7),
        unknown: n(8),
        late_p99_us: rows[0][9].as_f64().unwrap(),
        span_us: (rows[0][10].as_i64().unwrap(), rows[0][11].as_i64().unwrap()),
    })
}

/// The address of the `n`th target: few to a /24, so that its rate limit is far away.
fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 100, 0, 0)) + 2 * n)
}

/// Makes a tier with this interval, one packet, one second of patience, and `count` targets in 10.100.0.0/14.
pub(crate) fn load(network: &Network, count: u32, interval: Duration) {
    let tier = serde_json::json!({
        "name": "load",
        "probes": [{"type": "icmp"}],
        "probe_interval": format!("{}ms", interval.as_millis()),
        "probe_timeout": "1s",
        "count": 1,
        "agent_selection": {"strategy": "all"},
    });
    network.post("/api/v1/tiers", &tier);
    let line = |n: u32| format!("{{\"ip\":\"{}\",\"tier\":\"load\"}}", address(n));
    let lines = (1..=count).map(line).collect::<Vec<_>>().join("\n") + "\n";
    let file = network.state().join("targets.ndjson");
    fs::write(&file, lines).unwrap();
    let file = file.display().to_string();
    network.program().args(["target", "import", &file]).run_ok(Duration::from_mins(1)).unwrap();
}

/// Removes the targets that a new network measures by itself, so that the kernel's counters are of the load alone.
pub(crate) fn quiet(network: &Network) {
    for address in ["127.0.0.1", "::1"] {
        let answer = network.curl("GET", &format!("/api/v1/targets/{address}"), None);
        assert_eq!(answer.status, 200, "{}", answer.body);
        network.program().args(["target", "remove", address]).run_ok(Duration::from_secs(20)).unwrap();
    }
}

/// Waits until the network has committed rounds of every target of the load.
pub(crate) fn wait_measured(network: &Network, count: u32, interval: Duration) {
    for n in [1, count / 2, count] {
        let path = format!("/api/v1/targets/{}/results?limit=1", address(n));
        network.wait_get(&path, interval * 4 + Duration::from_secs(30), |body| {
            body["items"].as_array().filter(|items| !items.is_empty()).map(|_| ())
        });
    }
}

/// Waits until a round is committed that is due from now on. What one module makes is committed in the order in which it
/// was made: all before is committed, then, too.
pub(crate) fn caught_up(network: &Network, deadline: Duration) {
    let now = jiff::Timestamp::now();
    let path = format!("/api/v1/targets/{}/results?limit=1", address(1));
    network.wait_get(&path, deadline, |body| {
        let due: jiff::Timestamp = body["items"][0]["due"].as_str()?.parse().unwrap();
        (due > now).then_some(())
    });
}
