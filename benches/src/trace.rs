//! Six emulated routers, traced by this engine and by mtr in alternation: how long each takes, and what it finds.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use imn_probe::trace::{Config, Engine, Outcome, Spec};
use imn_testkit::{Lab, Node};

use crate::turn::{TURNS, median};

const LAB: &str = r#"
    name = "bench"
    seed = 11
    awake = true
    hosts = ["a", "b"]
    routers = ["r1", "r2", "r3", "r4", "r5", "r6"]
    links = [
        { between = ["a", "r1"], delay = "1ms" },
        { between = ["r1", "r2"], delay = "2ms" },
        { between = ["r2", "r3"], delay = "4ms" },
        { between = ["r3", "r4"], delay = "1ms" },
        { between = ["r4", "r5"], delay = "3ms" },
        { between = ["r5", "r6"], delay = "2ms" },
        { between = ["r6", "b"], delay = "2ms" },
    ]
"#;
/// Round trip to the target by the links alone, in milliseconds.
const PATH: f64 = 30.0;
const LONGEST: Duration = Duration::from_mins(1);

pub(super) fn compare() -> Result<()> {
    let lab = Lab::from_toml(LAB)?;
    let (node, target) = (lab.node("a")?, lab.node("b")?.v4()?.into());
    println!("six routers, {PATH} ms round trip; medians of {TURNS} alternated runs, engine start included");
    for cycles in [1, 10] {
        let (mut ours, mut theirs, mut errors) = (Vec::new(), Vec::new(), (Vec::new(), Vec::new()));
        for _ in 0..TURNS {
            let begun = Instant::now();
            let outcome = trace(node, target, cycles)?;
            ours.push(ms(begun.elapsed()));
            ensure!(outcome.reached, "the target was not reached: {outcome:?}");
            let average = outcome.hops.last().and_then(|hop| hop.rtt().avg()).context("no round trip")?;
            errors.0.push(average / 1e6 - PATH);
            let begun = Instant::now();
            let average = mtr(node, target, cycles)?;
            theirs.push(ms(begun.elapsed()));
            errors.1.push(average - PATH);
        }
        let (ours, theirs) = (median(ours), median(theirs));
        println!("{cycles} cycle(s) at 100 ms");
        println!("  imn    {ours:.1} ms, mean round trip {:+.3} ms off the links'", median(errors.0));
        println!("  mtr    {theirs:.1} ms, mean round trip {:+.3} ms off the links'", median(errors.1));
        println!("  ratio  {:.3}", ours / theirs);
    }
    Ok(())
}

fn trace(node: &Node, target: IpAddr, cycles: u16) -> Result<Outcome> {
    let engine = node.enter(|| Engine::start(&Config::default()))??;
    let spec = Spec { cycles, interval: Duration::from_millis(100), ..Spec::new(1, target) };
    engine.submit(vec![spec])?;
    Ok(engine.outcomes().recv_timeout(LONGEST)?)
}

/// The mean round trip to the target that mtr reports, in milliseconds.
fn mtr(node: &Node, target: IpAddr, cycles: u16) -> Result<f64> {
    let mtr = node.program("mtr").package("mtr-tiny").args(["--json", "-n", "-i", "0.1", "-G", "1"]);
    let mtr = mtr.args(["-c".to_owned(), cycles.to_string(), target.to_string()]);
    let report: serde_json::Value = serde_json::from_str(&mtr.run_ok(LONGEST)?)?;
    let hubs = report["report"]["hubs"].as_array().context("mtr's report has no hubs")?;
    hubs.last().and_then(|hub| hub["Avg"].as_f64()).context("mtr's report has no mean")
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
