//! Results of the type `http`.

use std::io;

use imn_contract::latest::HttpOutcome;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Common, Row, json as text};

#[derive(Serialize)]
struct Http<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    uri: &'a str,
    result: Vec<Map<String, Value>>,
}

/// One result for the request that is told, as Atlas has one for each address that it asks.
pub(super) fn result(row: &Row, outcome: &HttpOutcome) -> io::Result<String> {
    let common = Common::new(row, "http", "HTTPGet");
    let phases = &outcome.phases_ms;
    let source = super::source(row).or_else(|| outcome.hops.last()?.source.clone());
    // Atlas' times begin with the connection: `ttr` alone is before it.
    let sum = |parts: &[Option<f64>]| parts.iter().flatten().sum::<f64>();
    let first_byte = phases.processing.map(|_| sum(&[phases.connect, phases.tls, phases.processing]));
    let whole =
        phases.transfer.map(|_| sum(&[phases.connect, phases.tls, phases.processing, phases.transfer]));
    let mut result = Map::new();
    let mut set = |name: &str, value: Value| {
        if !value.is_null() {
            result.insert(name.to_owned(), value);
        }
    };
    set("method", json!(outcome.method));
    set("af", json!(super::family(&row.outcome.head())));
    set("dst_addr", json!(outcome.address));
    set("src_addr", json!(source));
    set("rt", json!(whole));
    set("res", json!(outcome.status));
    set("ver", json!(outcome.version));
    set("hsize", json!(outcome.head_bytes));
    set("bsize", json!(outcome.body_bytes));
    set("ttr", json!(phases.resolve));
    set("ttc", json!(phases.connect));
    set("ttfb", json!(first_byte));
    // What is not as we expect it is an answer to Atlas all the same.
    if outcome.status.is_none() || outcome.body_bytes.is_none() || whole.is_none() {
        set("err", json!(outcome.error));
    }
    text::text(&Http { common, uri: &outcome.target, result: vec![result] })
}
