//! Lists of tiers, agents and modules: filtered, ordered and paged as those of targets are.

use serde_json::{Value, json};

use crate::bench::Bench;

const TIERS: &str = "/api/v1/tiers";
const AGENTS: &str = "/api/v1/agents";
const MODULES: &str = "/api/v1/modules";

/// One field of every item.
fn each<'a>(list: &'a Value, field: &str) -> Vec<&'a str> {
    list["items"].as_array().unwrap().iter().map(|item| item[field].as_str().unwrap()).collect()
}

/// All pages of a list, each of so many.
async fn pages(bench: &Bench, path: &str, query: &[(&str, &str)], limit: &str, field: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut token = None::<String>;
    loop {
        let mut query = query.to_vec();
        query.push(("limit", limit));
        query.extend(token.as_deref().map(|token| ("page_token", token)));
        let page = bench.ask(path, &query).await.expect(200);
        found.extend(each(&page, field).into_iter().map(str::to_owned));
        match page["next_page_token"].as_str() {
            Some(next) => token = Some(next.to_owned()),
            None => return found,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tiers_are_filtered_ordered_and_paged() {
    let bench = Bench::start().await;
    let gold = json!({
        "name": "gold", "display_name": "Gold", "probe_interval": "10ms", "probes": [{ "type": "tcp" }],
        "agent_selection": { "strategy": "distributed", "count": 7 },
    });
    bench.post(TIERS, &gold).await.expect(201);
    for (filter, names) in [
        ("", vec!["critical", "gold", "low", "standard"]),
        ("probe_interval<=5s", vec!["critical", "gold"]),
        ("probe_interval>1m", vec!["low"]),
        ("agent_selection.strategy=distributed AND count>=3", vec!["low", "standard"]),
        ("agent_selection.count=7", vec!["gold"]),
        ("probes:tcp OR name=low", vec!["gold", "low"]),
        ("display_name:gol", vec!["gold"]),
        ("created>2020-01-01T00:00:00Z AND NOT probes:icmp", vec!["gold"]),
    ] {
        let list = bench.ask(TIERS, &[("filter", filter)]).await.expect(200);
        assert_eq!(each(&list, "name"), names, "{filter}");
    }
    let order = [("order_by", "probe_interval desc")];
    for limit in ["1", "3", "1000"] {
        let found = pages(&bench, TIERS, &order, limit, "name").await;
        assert_eq!(found, ["low", "standard", "critical", "gold"], "{limit}");
    }
    let first = bench.ask(TIERS, &[("limit", "1")]).await.expect(200);
    let token = first["next_page_token"].as_str().unwrap();
    for (query, field) in [
        (vec![("filter", "colour=red")], "filter"),
        (vec![("filter", "probe_interval<soon")], "filter"),
        (vec![("filter", "agent_selection.strategy=some")], "filter"),
        (vec![("order_by", "colour")], "order_by"),
        (vec![("limit", "0")], "limit"),
        (vec![("filter", "name=low"), ("page_token", token)], "page_token"),
        (vec![("page_token", "x")], "page_token"),
    ] {
        let problem = bench.ask(TIERS, &query).await.problem(400);
        assert_eq!(problem["errors"][0]["field"], field, "{query:?}: {problem}");
    }
    // A token of another list is none of this one.
    let problem = bench.ask(AGENTS, &[("page_token", token)]).await.problem(400);
    assert_eq!(problem["errors"][0]["field"], "page_token", "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_modules_are_filtered_ordered_and_paged() {
    let bench = Bench::start().await.ready().await;
    for (agent, kind) in [("lon1", "echo"), ("nyc1", "icmp"), ("tyo1", "icmp")] {
        bench.heartbeat_with(agent, kind).await;
    }
    for (query, ids) in [
        (vec![("filter", "modules:icmp")], vec!["nyc1", "tyo1"]),
        (vec![("filter", "tags.pop=\"lon1\" OR id=tyo1")], vec!["lon1", "tyo1"]),
        (vec![("filter", "status=active AND telemetry.targets>4")], vec!["lon1", "nyc1", "tyo1"]),
        (vec![("filter", "region!=eu")], vec![]),
        (vec![("status", "active"), ("region", "eu"), ("filter", "id=lon1")], vec!["lon1"]),
        (vec![("order_by", "id desc")], vec!["tyo1", "nyc1", "lon1"]),
    ] {
        let list = bench.ask(AGENTS, &query).await.expect(200);
        assert_eq!(each(&list, "id"), ids, "{query:?}");
        assert_eq!(pages(&bench, AGENTS, &query, "1", "id").await, ids, "{query:?}");
    }
    for (filter, instances) in [
        ("type=icmp", vec!["nyc1-icmp-0", "tyo1-icmp-0"]),
        ("state=ready AND agent:1 AND standing=false", vec!["lon1-echo-0", "nyc1-icmp-0", "tyo1-icmp-0"]),
        ("slots>4", vec![]),
    ] {
        let query = [("filter", filter)];
        assert_eq!(pages(&bench, MODULES, &query, "2", "instance").await, instances, "{filter}");
    }
    // The types are of all that match, whatever page it is.
    let page = bench.ask(MODULES, &[("filter", "type=icmp"), ("limit", "1")]).await.expect(200);
    assert_eq!((&page["types"][0]["instances"], page["items"].as_array().unwrap().len()), (&json!(2), 1));
    for (path, filter) in
        [(AGENTS, "status=asleep"), (MODULES, "state=asleep"), (MODULES, "restarts=many"), (AGENTS, "x=1")]
    {
        let problem = bench.ask(path, &[("filter", filter)]).await.problem(400);
        assert_eq!(problem["errors"][0]["field"], "filter", "{path} {filter}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_may_exceed_the_interval_within_bounds() {
    let bench = Bench::start().await;
    let tier = |interval: &str, timeout: Option<&str>| {
        let mut tier = json!({ "name": format!("t-{interval}-{}", timeout.unwrap_or("none")), "probe_interval": interval });
        if let Some(timeout) = timeout {
            tier["probe_timeout"] = json!(timeout);
        }
        tier
    };
    for (interval, timeout, taken) in [
        ("1s", Some("60s"), "1m"),
        ("10ms", Some("1s"), "1s"),
        ("5m", Some("60s"), "1m"),
        ("10ms", None, "1s"),
        ("1s", None, "2s"),
    ] {
        let made = bench.post(TIERS, &tier(interval, timeout)).await.expect(201);
        assert_eq!(made["probe_timeout"], taken, "{interval} {timeout:?}");
    }
    for (interval, timeout, words) in [
        ("10ms", "1001ms", "more than 100 intervals: use at most 1s"),
        ("100ms", "11s", "more than 100 intervals: use at most 10s"),
        ("5m", "61s", "out of range: 1ms to 1m"),
        ("1s", "1h", "out of range: 1ms to 1m"),
    ] {
        let problem = bench.post(TIERS, &tier(interval, Some(timeout))).await.problem(400);
        assert_eq!(problem["errors"].as_array().unwrap().len(), 1, "{problem}");
        assert_eq!(problem["errors"][0]["field"], "probe_timeout", "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(words), "{words}: {problem}");
    }
}
