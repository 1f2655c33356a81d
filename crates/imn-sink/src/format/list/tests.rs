use serde_json::json;

use super::*;

const COLUMNS: &[Column] = &[
    Column::new("ADDRESS", "address"),
    Column::new("TIER", "tier"),
    Column::new("RTT ms", "last.rtt_ms"),
    Column::wide("TAGS", "tags"),
];

fn rows() -> Vec<Value> {
    vec![
        json!({"address": "127.0.0.1", "tier": "critical", "last": {"rtt_ms": 0.0421}, "tags": {"pop": "jfk", "a": "b,c"}}),
        json!({"address": "::1", "tier": "low", "last": null, "tags": {}}),
    ]
}

fn written(format: Format, rows: &[Value]) -> String {
    let mut out = Vec::new();
    write(&mut out, format, COLUMNS, rows).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn lists_in_every_format() {
    let all: Vec<String> =
        Format::ALL.into_iter().map(|f| format!("-- {f}\n{}", written(f, &rows()))).collect();
    insta::assert_snapshot!(all.join(""));
}

#[test]
fn an_empty_list_is_a_list() {
    assert_eq!(written(Format::Json, &[]), "[]\n");
    assert_eq!(written(Format::Yaml, &[]), "[]\n");
    assert_eq!(written(Format::Ndjson, &[]), "");
    assert_eq!(written(Format::Csv, &[]), "address,tier,last.rtt_ms,tags\n");
    assert_eq!(written(Format::Table, &[]), "ADDRESS  TIER  RTT ms\n");
    assert_eq!(serde_json::from_str::<Vec<Value>>(&written(Format::Json, &rows())).unwrap(), rows());
}

#[test]
fn one_object_is_a_line_per_field() {
    let mut out = Vec::new();
    let object =
        json!({"name": "low", "probes": [{"type": "icmp"}], "regions": [], "note": "a\u{1b}[2Jb", "n": 3});
    write_one(&mut out, Format::Table, COLUMNS, &object).unwrap();
    insta::assert_snapshot!(String::from_utf8(out).unwrap());
    let mut out = Vec::new();
    write_one(&mut out, Format::Json, COLUMNS, &object).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), object);
}
