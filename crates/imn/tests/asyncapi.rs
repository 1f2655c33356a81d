//! The AsyncAPI document, as the program prints it, is one for another program too.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "site/network.rs"]
mod network;

use std::{fs, path::Path, time::Duration};

use imn_testkit::Program;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_mins(1);

#[test]
fn the_document_is_read_by_another_program() {
    let Some(python) = network::python() else {
        return imn_testkit::skip("asyncapi", "no Python with asyncapi3; `cargo xtask test` installs it");
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("asyncapi.yaml");
    let printed = Program::new(network::program()).args(["docs", "asyncapi"]).run_ok(SOON).unwrap();
    fs::write(&path, printed).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/asyncapi.py");
    let read = Program::new(python).args(["-W", "ignore"]).arg(script).arg(&path).run_ok(SOON).unwrap();
    let read: Value = serde_json::from_str(&read).unwrap();
    assert_eq!(read["asyncapi"], "3.0.0");
    let has = |list: &str, wanted: &str| read[list].as_array().unwrap().contains(&json!(wanted));
    // The subjects that are fixed, whoever made the document.
    for address in [
        "mmn.jobs.submit",
        "mmn.jobs.result.{job}",
        "mmn.modules.announce",
        "mmn.modules.health.{instance}",
        "heartbeat.{vp}",
        "agent.{vp}.in",
        "agent.{vp}.out",
        "agent.{vp}.error",
    ] {
        assert!(has("addresses", address), "{address}: {read}");
    }
    for message in ["submit", "submit-reply", "result", "announce", "health", "heartbeat", "simple-request"] {
        assert!(has("messages", message), "{message}: {read}");
    }
}
