//! A module type of which the versions are other programs: what a version is, its answers tell.

#![allow(dead_code, reason = "each scenario uses a part of it")]

use std::{
    cell::RefCell,
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use imn_testkit::{Process, wait_until};
use serde_json::Value;

use crate::network::{Network, program, python};

pub(crate) const WORK: &str = "/api/v1/modules/work";
pub(crate) const SOON: Duration = Duration::from_mins(1);

/// Puts a program into the modules directory, in place of the one that is there: the built-in module `kind` under the
/// type `work`. The mark makes it another program.
pub(crate) fn install(network: &Network, kind: &str, mark: &str, manifest: &str) {
    let text = format!("#!/bin/sh\n# {mark}\nexec {} module {kind}\n", program().display());
    install_script(network, &text, manifest);
}

pub(crate) fn install_script(network: &Network, text: &str, manifest: &str) {
    let directory = network.state().join("agents/local/modules.d");
    fs::create_dir_all(&directory).unwrap();
    let draft = network.state().join("work");
    fs::write(&draft, text).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(directory.join("work.toml"), manifest).unwrap();
    fs::rename(draft, directory.join("work")).unwrap();
}

pub(crate) fn wait_ready(network: &Network, instances: usize) {
    network.wait_get(WORK, SOON, |body| {
        let all = body["instances"].as_array()?;
        let ready = all.iter().filter(|one| one["state"] == "ready").count();
        (all.len() == instances && ready == instances).then_some(())
    });
}

/// A client that goes on submitting jobs.
pub(crate) struct Load {
    process: Process,
    stop: PathBuf,
}

/// `None` without a Python that has nats-py.
pub(crate) fn load(
    network: &Network,
    kind: &str,
    params: &str,
    rate: u32,
    deadline: Duration,
) -> Option<Load> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/python/steady.py");
    let stop = network.state().join(format!("stop-{:016x}", rand()));
    let client = network.node().program(python()?).arg(script).arg(network.state()).args([kind, params]);
    let client = client.args([rate.to_string(), deadline.as_millis().to_string()]).arg(&stop);
    Some(Load { process: client.spawn().unwrap(), stop })
}

fn rand() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}

impl Load {
    /// Ends it, and tells what it has seen; each job has ended, and once.
    pub(crate) fn end(mut self) -> Value {
        fs::write(&self.stop, "").unwrap();
        let status = self.process.wait_deadline(Duration::from_mins(3)).unwrap();
        assert!(status.success(), "{}", self.process.tail());
        let seen: Value = serde_json::from_str(&self.process.stdout()).unwrap();
        let short = Value::Object(
            seen.as_object().unwrap().clone().into_iter().filter(|(name, _)| name != "when").collect(),
        );
        println!("{short}");
        assert_eq!((&seen["results"], &seen["ended"]), (&seen["jobs"], &seen["jobs"]), "{short}");
        seen
    }
}

/// A wave as it was seen: when it was there first and last, in seconds since the epoch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wave {
    pub(crate) wave: u64,
    pub(crate) share: u64,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// Follows the roll to version `to` until it is in one of the states; the waves that were seen, and how it ended.
pub(crate) fn follow(network: &Network, to: &str, states: &[&str]) -> (Vec<Wave>, Value) {
    let waves: RefCell<Vec<Wave>> = RefCell::default();
    let ended = network.wait_get(WORK, Duration::from_mins(2), |body| {
        let roll = body["rolls"].as_array()?.first()?;
        if !roll["to"].as_str()?.starts_with(&format!("{to} (")) {
            return None;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let (wave, share) = (roll["wave"].as_u64()?, roll["share_pct"].as_u64()?);
        let mut waves = waves.borrow_mut();
        match waves.last_mut() {
            Some(last) if (last.wave, last.share) == (wave, share) => last.to = now,
            _ if roll["state"] == "shifting" => waves.push(Wave { wave, share, from: now, to: now }),
            _ => {}
        }
        states.contains(&roll["state"].as_str()?).then(|| roll.clone())
    });
    (waves.into_inner(), ended)
}

/// Waits until nothing of a roll is left but the instances themselves.
pub(crate) fn wait_alone(network: &Network, instances: usize) {
    wait_until("the instance that was tried to be gone", SOON, || {
        let all = network.get(WORK);
        (all["instances"].as_array()?.len() == instances).then_some(())
    })
    .unwrap();
}
