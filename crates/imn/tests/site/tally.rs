//! A module of somebody else's that notes in a file what it does, beginning and end: how often a job was done is
//! counted there, and not by us.

#![allow(dead_code, reason = "each scenario uses a part of it")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use imn_testkit::wait_until;
use serde_json::{Value, json};

use super::network::Network;

/// Its type.
pub(crate) const TALLY: &str = "tally";
/// The stream of its jobs.
pub(crate) const QUEUE: &str = "MMN_JOBS_tally";

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/python/alone_module.py");
/// The work of the example, and what is put in its place. A target that was begun before takes `again_ms`, where given;
/// with `until` it is done when there is such a file.
const WORK: &str = "    await asyncio.sleep(params.get(\"delay_ms\", 0) / 1e3)\n";
const NOTED: &str = r#"    with open(TALLY, "a+") as tally:
        tally.seek(0)
        again = "again_ms" in params and any(line.split()[1] == target for line in tally)
        tally.write(f"begin {target} {os.getpid()} {time.time()}\n")
    await asyncio.sleep(params.get("again_ms" if again else "delay_ms", 0) / 1e3)
    while "until" in params and not os.path.exists(params["until"]):
        await asyncio.sleep(0.01)
    with open(TALLY, "a") as tally:
        tally.write(f"end {target} {os.getpid()} {time.time()}\n")
"#;
/// How the example hears that it is to end, and what is put in its place by one that does not listen.
const ENDS: &str =
    "        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.draining.set)\n";
const IGNORES: &str = "        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n";

/// One line of the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Note {
    pub(crate) begins: bool,
    pub(crate) target: String,
    pub(crate) pid: u32,
    /// Seconds since the Unix epoch.
    pub(crate) at: f64,
}

/// What the module has noted.
pub(crate) struct Tally {
    path: PathBuf,
}

impl Tally {
    /// Plugs the module in and waits until its instances are ready.
    pub(crate) fn plug_in(network: &Network, python: &Path, instances: usize, slots: u32) -> Self {
        Self::plug(network, python, instances, slots, &[(WORK, NOTED)])
    }

    /// The same of one that ignores SIGTERM.
    pub(crate) fn plug_in_stubborn(network: &Network, python: &Path, instances: usize, slots: u32) -> Self {
        Self::plug(network, python, instances, slots, &[(WORK, NOTED), (ENDS, IGNORES)])
    }

    fn plug(
        network: &Network,
        python: &Path,
        instances: usize,
        slots: u32,
        changes: &[(&str, &str)],
    ) -> Self {
        let path = network.state().join("tally");
        fs::write(&path, "").unwrap();
        let python = fs::canonicalize(python.parent().unwrap()).unwrap().join("python");
        let text = fs::read_to_string(EXAMPLE).unwrap();
        let (_, mut rest) = text.split_once('\n').map(|(first, rest)| (first, rest.to_owned())).unwrap();
        for (from, to) in changes {
            assert_eq!(rest.matches(from).count(), 1, "the example has changed: {from}");
            rest = rest.replace(from, to);
        }
        let start = "\nPARAMS = ";
        assert_eq!(rest.matches(start).count(), 1, "the example has changed: {start}");
        rest = rest.replace(start, &format!("\nTALLY = {:?}{start}", path.display().to_string()));

        let directory = network.state().join("agents/local/modules.d");
        fs::create_dir_all(&directory).unwrap();
        let draft = network.state().join("tally.py");
        fs::write(&draft, format!("#!{}\n{rest}", python.display())).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
        let manifest = format!("type = {TALLY:?}\ninstances = {instances}\nslots = {slots}\n");
        fs::write(directory.join("tally.toml"), manifest).unwrap();
        fs::rename(draft, directory.join(TALLY)).unwrap();
        wait_ready(network, TALLY, instances);
        Self { path }
    }

    pub(crate) fn notes(&self) -> Vec<Note> {
        let text = fs::read_to_string(&self.path).unwrap();
        let note = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            Note {
                begins: words[0] == "begin",
                target: words[1].to_owned(),
                pid: words[2].parse().unwrap(),
                at: words[3].parse().unwrap(),
            }
        };
        // The last line may still be being written.
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(note).collect()
    }

    /// Every time that a target was begun.
    pub(crate) fn begun(&self, target: &str) -> Vec<Note> {
        self.notes().into_iter().filter(|note| note.begins && note.target == target).collect()
    }

    /// How often a target was begun, and how often done to the end.
    pub(crate) fn count(&self, target: &str) -> (usize, usize) {
        let notes = self.notes();
        let of = |begins: bool| notes.iter().filter(|n| n.begins == begins && n.target == target).count();
        (of(true), of(false))
    }

    /// How many beginnings and ends there are in all.
    pub(crate) fn total(&self) -> (usize, usize) {
        let notes = self.notes();
        let begun = notes.iter().filter(|note| note.begins).count();
        (begun, notes.len() - begun)
    }

    /// Waits until a target has been begun so often; the last time.
    pub(crate) fn wait_begun(&self, target: &str, times: usize, deadline: Duration) -> Note {
        let what = format!("{target} to be begun {times} times");
        wait_until(what, deadline, || self.begun(target).get(times - 1).cloned()).unwrap()
    }
}

/// Waits until a type has exactly so many instances, all ready.
pub(crate) fn wait_ready(network: &Network, kind: &str, instances: usize) {
    network.wait_get(&format!("/api/v1/modules/{kind}"), Duration::from_mins(1), |module| {
        let all = module["instances"].as_array()?;
        let ready = all.iter().filter(|one| one["state"] == "ready").count();
        (all.len() == instances && ready == instances).then_some(())
    });
}

/// A job for it.
pub(crate) fn job(target: &str, params: &Value) -> Value {
    json!({ "type": TALLY, "target": target, "params": params, "wait_for_module": true, "deadline": "2m" })
}
