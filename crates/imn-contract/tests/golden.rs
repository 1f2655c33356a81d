//! Major 1 is frozen: every sample in `golden/` is read, written again in both encodings, and unchanged. A sample's
//! file is named after its message, with an optional variant after a dot.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fs, path::Path};

use imn_contract::{Encoding, Message, decode, encode, latest, schemas};
use serde_json::Value;

fn unchanged<M: Message>(sample: &Value) {
    let json = serde_json::to_vec(sample).unwrap();
    let message: M = decode(&json, Encoding::Json).unwrap();
    for encoding in [Encoding::Json, Encoding::Cbor] {
        let bytes = encode(&message, encoding).unwrap();
        let back: M = decode(&bytes, encoding).unwrap();
        assert_eq!(&serde_json::to_value(&back).unwrap(), sample, "{encoding:?} changes a {}", M::NAME);
    }
}

macro_rules! checks {
    ($($type:ident),+ $(,)?) => {
        BTreeMap::from([$((<latest::$type as Message>::NAME, unchanged::<latest::$type> as fn(&Value)),)+])
    };
}

#[test]
fn every_sample_is_read_and_written_unchanged() {
    let checks = checks![
        Submit,
        SubmitReply,
        JobRequest,
        JobView,
        Task,
        TaskReply,
        Attempt,
        JobResult,
        Progress,
        LogLine,
        Announce,
        Health,
        ModuleConfig,
        ModuleControl,
        ModuleLog,
        ControlReply,
        Heartbeat,
        AgentControl,
        SimpleRequest,
        SimpleReply,
        SimpleError,
        Vouch,
        VouchReply,
        Renewal,
        Registry,
        AssignmentMeta,
        AssignmentShard,
        AssignmentFile,
        BatchColumns,
        Watermark,
        WatermarkRequest,
    ];
    let mut seen = BTreeMap::new();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_stem().unwrap().to_str().unwrap();
        let name = file.split('.').next().unwrap();
        let check = checks.get(name).unwrap_or_else(|| panic!("{file}: no such message"));
        check(&serde_json::from_slice(&fs::read(&path).unwrap()).unwrap());
        *seen.entry(name.to_owned()).or_insert(0) += 1;
    }
    let missing: Vec<_> = checks.keys().filter(|name| !seen.contains_key(**name)).collect();
    assert!(missing.is_empty(), "messages without a golden sample: {missing:?}");
    let schemas = schemas();
    for name in checks.keys() {
        let file = format!("{name}.v1.json");
        assert!(schemas.iter().any(|s| s.file == file), "{name} has no schema");
    }
}

#[test]
fn a_foreign_major_is_refused_by_name() {
    let error = decode::<latest::Submit>(br#"{"v":2,"kind":"entirely new"}"#, Encoding::Json).unwrap_err();
    let fault = imn_contract::Fault::from(error);
    assert_eq!((fault.code, fault.field.as_deref()), (422, Some("v")));
}

#[test]
fn a_wrong_field_is_named_in_both_encodings() {
    let body = serde_json::json!({"v":1,"type":"icmp","target":"a","from":{"limit":"two"}});
    let mut cbor = Vec::new();
    ciborium::into_writer(&body, &mut cbor).unwrap();
    for (bytes, encoding) in [(body.to_string().into_bytes(), Encoding::Json), (cbor, Encoding::Cbor)] {
        let fault: imn_contract::Fault = decode::<latest::Submit>(&bytes, encoding).unwrap_err().into();
        assert_eq!((fault.code, fault.field.as_deref()), (400, Some("from.limit")), "{encoding:?}");
    }
}
