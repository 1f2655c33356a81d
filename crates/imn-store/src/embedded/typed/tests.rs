use imn_contract::{
    AgentId, InstanceId, ModuleType, TargetId,
    latest::{Batch, TimestampSource},
};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    embedded::{
        merge::{Merge, Source},
        row,
        segment::{self, MemorySource, Segment, Width},
        table::{Filter, Table, round as position},
    },
    model::RoundRow,
};

const HOP: &[Column] = &[
    Column { name: "hop", kind: ColumnType::U32, about: "" },
    Column { name: "from", kind: ColumnType::Text, about: "" },
    Column { name: "rtts_ms", kind: ColumnType::List(&ColumnType::F64), about: "" },
];

const EVERY: &[Column] = &[
    Column { name: "bool", kind: ColumnType::Bool, about: "" },
    Column { name: "u32", kind: ColumnType::U32, about: "" },
    Column { name: "u64", kind: ColumnType::U64, about: "" },
    Column { name: "i64", kind: ColumnType::I64, about: "" },
    Column { name: "f64", kind: ColumnType::F64, about: "" },
    Column { name: "text", kind: ColumnType::Text, about: "" },
    Column { name: "when", kind: ColumnType::Time, about: "" },
    Column { name: "names", kind: ColumnType::List(&ColumnType::Text), about: "" },
    Column { name: "hops", kind: ColumnType::List(&ColumnType::Struct(HOP)), about: "" },
    Column { name: "hop", kind: ColumnType::Struct(HOP), about: "" },
];

fn round_of(outcome: String) -> Round {
    Round { address: "192.0.2.1".into(), sent: 3, outcome: Some(outcome), ..Round::default() }
}

/// What comes back of outcomes: the columns of each as one object, and the rest.
fn through(columns: &'static [Column], outcomes: &[Round]) -> Vec<(Map<String, Value>, Option<String>)> {
    let mut filler = Filler::new(columns);
    let rests: Vec<_> = outcomes.iter().map(|round| filler.take(round).unwrap()).collect();
    let batch = RecordBatch::try_new(
        Arc::new(arrow::datatypes::Schema::new(fields(columns))),
        filler.finish().unwrap(),
    );
    let batch = batch.unwrap();
    let rows = rests.into_iter().enumerate().map(|(number, rest)| {
        let read = serde_json::to_value(read(columns, &batch, 0, number)).unwrap();
        (read.as_object().unwrap().clone(), rest)
    });
    rows.collect()
}

fn one(outcome: &Value) -> (Map<String, Value>, Option<Value>) {
    let (columns, rest) = through(EVERY, &[round_of(outcome.to_string())]).remove(0);
    (columns, rest.map(|rest| serde_json::from_str(&rest).unwrap()))
}

#[test]
fn what_fits_is_in_columns_and_what_does_not_stays() {
    let whole = json!({
        "bool": false, "u32": 4_294_967_295u32, "u64": u64::MAX, "i64": -1, "f64": 0.1, "text": "a\u{0}\"b",
        "when": "2026-11-20T13:00:00.000001+01:00", "names": ["x", null, ""],
        "hops": [{"hop": 1, "from": "192.0.2.1", "rtts_ms": [1.5, null]}, null, {"from": null, "hop": 2}],
        "hop": {}, "address": "192.0.2.1", "sent": 3,
    });
    let (columns, rest) = one(&whole);
    assert_eq!(rest, None);
    assert_eq!(columns.len(), EVERY.len());
    for name in ["bool", "u32", "u64", "i64", "f64", "text", "names"] {
        assert_eq!(columns[name], whole[name], "{name}");
    }
    assert_eq!(columns["when"], "2026-11-20T12:00:00.000001Z");
    let blank = json!({"hop": null, "from": null, "rtts_ms": null});
    assert_eq!(columns["hop"], blank);
    assert_eq!(
        columns["hops"],
        json!([
            {"hop": 1, "from": "192.0.2.1", "rtts_ms": [1.5, null]}, null,
            {"hop": 2, "from": null, "rtts_ms": null},
        ])
    );

    // An integer is a float's value; a float is no integer; what is out of range, of another kind or finer than the
    // column is kept, and so is what nobody knows, at any depth.
    let odd = json!({
        "bool": "true", "u32": 4_294_967_296u64, "u64": -1, "i64": u64::MAX, "f64": 3, "text": 7,
        "when": "2026-11-20T12:00:00.0000001Z", "names": "x", "hops": [{"hop": 1, "mpls": [16]}],
        "hop": {"hop": 1.5}, "address": "192.0.2.2", "sent": 4, "acme": {"a": [1]}, "none": null,
    });
    let (columns, rest) = one(&odd);
    assert_eq!(columns["f64"], json!(3.0));
    assert_eq!(columns["when"], "2026-11-20T12:00:00.000000Z");
    assert_eq!(columns["hops"], json!([{"hop": 1, "from": null, "rtts_ms": null}]));
    let mut kept = odd.clone();
    for name in ["f64", "none"] {
        kept.as_object_mut().unwrap().remove(name);
    }
    assert_eq!(rest, Some(kept));

    for text in ["", "{", "[1]", "7", "{\"u32\":1}x"] {
        let (columns, rest) = through(EVERY, &[round_of(text.to_owned())]).remove(0);
        assert!(columns.values().all(Value::is_null), "{text}");
        assert_eq!(rest.as_deref(), Some(text));
    }
    let long = json!({"names": vec!["x"; 5_000]});
    assert_eq!(one(&long).1, Some(long));
    // A type without columns keeps its text to the letter.
    let text = "{ \"u32\" : 1 }";
    assert_eq!(Filler::new(&[]).take(&round_of(text.to_owned())).unwrap().as_deref(), Some(text));
}

#[test]
fn rows_keep_their_order_over_blocks() {
    // Together more than one block.
    let text = "x".repeat(BLOCK_BYTES / 3);
    let rounds: Vec<Round> = (0..10)
        .map(|n| match n % 4 {
            3 => Round::default(),
            _ => round_of(json!({"u32": n, "text": text, "hops": vec![json!({"hop": n}); n]}).to_string()),
        })
        .collect();
    for (n, (columns, rest)) in through(EVERY, &rounds).into_iter().enumerate() {
        assert_eq!(rest, None);
        let hops = columns["hops"].as_array().map(Vec::len);
        let (number, length) = (columns["u32"].as_u64(), columns["text"].as_str().map(str::len));
        let expected =
            if n % 4 == 3 { (None, None, None) } else { (Some(n as u64), Some(n), Some(text.len())) };
        assert_eq!((number, hops, length), expected, "{n}");
    }
}

/// Values that fit often and fail in every way.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0u32..9).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9f64).prop_map(Value::from),
        "[a-z]{0,3}".prop_map(Value::from),
        (0i64..2_000_000_000_000_000).prop_map(|us| Value::from(time(us))),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        let names = EVERY.iter().chain(HOP).map(|column| column.name).chain(["acme"]).collect::<Vec<_>>();
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(names), inner), 0..5).prop_map(|fields| {
                fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Value>()
            }),
        ]
    })
}

/// Whether two values say the same: a number whatever its form, and null like nothing.
fn says(a: &Value, b: &Value) -> bool {
    match (a, b) {
        // JSON is read to the last digit but one.
        (Value::Number(x), Value::Number(y)) if x.is_f64() || y.is_f64() => {
            let (x, y) = (x.as_f64().unwrap(), y.as_f64().unwrap());
            (x - y).abs() <= x.abs() * f64::EPSILON
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| says(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            let names = x.keys().chain(y.keys());
            names.into_iter().all(|name| says(x.get(name).unwrap_or(&NULL), y.get(name).unwrap_or(&NULL)))
        }
        (a, b) => a == b,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn nothing_of_an_outcome_is_lost(
        fields in prop::collection::vec(
            (prop::sample::select(EVERY.iter().map(|c| c.name).chain(["sent", "acme"]).collect::<Vec<_>>()), any_value()),
            0..6,
        ),
    ) {
        let outcome: Map<String, Value> = fields.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
        let (columns, rest) = one(&Value::Object(outcome.clone()));
        let rest = rest.unwrap_or_default();
        for (name, value) in outcome {
            let found = rest.get(&name).is_some_and(|kept| says(kept, &value))
                || columns.get(&name).is_some_and(|column| says(column, &value))
                || name == "sent" && value == 3;
            prop_assert!(found || value.is_null(), "{name}: {value} {:?} {rest}", columns.get(&name));
        }
    }
}

#[test]
fn hostile_bytes_only_cost_their_own_columns() {
    const MARKS: &[u8] = b"{}[]\",:-0.e9tfn\\u";
    let sample = json!({
        "bool": true, "u32": 7, "i64": -1, "f64": 1e308, "text": "\u{2028}é", "when": "2026-11-20T12:00:00Z",
        "hops": [{"hop": 1, "from": "192.0.2.1", "rtts_ms": [1.5, null]}], "acme": [[[]]],
    });
    let sample = sample.to_string();
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let rounds = (0..100_000).map(|_| {
        let mut bytes = sample.clone().into_bytes();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            match random(3) {
                0 => bytes[at] = MARKS[random(MARKS.len())],
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, MARKS[random(MARKS.len())]),
            }
        }
        round_of(String::from_utf8_lossy(&bytes).into_owned())
    });
    let rounds: Vec<Round> = rounds.collect();
    let mut whole = 0;
    for (round, (columns, rest)) in rounds.iter().zip(through(EVERY, &rounds)) {
        let text = round.outcome.as_deref().unwrap();
        match serde_json::from_str::<Map<String, Value>>(text) {
            Ok(fields) => {
                whole += 1;
                let kept: Map<String, Value> = serde_json::from_str(rest.as_deref().unwrap_or("{}")).unwrap();
                for (name, value) in fields {
                    // A time is written in one form, an infinite number cannot be.
                    let is_there = name == "when" && columns["when"].is_string() || name == "f64";
                    let found = kept.get(&name).or(columns.get(&name)).unwrap_or(&NULL);
                    assert!(says(found, &value) || value.is_null() || is_there, "{text}: {name} is {found}");
                }
            }
            Err(_) => assert_eq!(rest.as_deref(), Some(text)),
        }
    }
    assert!(whole > 10_000, "{whole}");
}

fn batch(kind: &str, due_us: i64, outcome: Option<&str>) -> Batch {
    let round = Round {
        target: Some(TargetId::new("t1").unwrap()),
        due_us,
        time_us: due_us,
        sent: 1,
        ts_source: TimestampSource::Kernel,
        outcome: outcome.map(str::to_owned),
        ..Round::default()
    };
    Batch {
        agent: AgentId::new("lon1").unwrap(),
        instance: InstanceId::new("lon1-x-0").unwrap(),
        kind: ModuleType::new(kind).unwrap(),
        epoch: 1,
        first_seq: 1,
        last_seq: 1,
        rounds: vec![round],
        gaps: Vec::new(),
    }
}

#[test]
fn a_file_without_the_columns_is_read_and_merged_with_one_that_has_them() {
    let directory = tempfile::tempdir().unwrap();
    let kind = ModuleType::new("heartbeat").unwrap();
    let table = Table::Rounds(kind.clone());
    // A type without columns is written as all types once were.
    let plain = Table::Rounds(ModuleType::new("acme").unwrap());
    let old_outcome = "{\"uptime_s\":7.5}";
    let write = |name: &str, of: &Table, rows: &RecordBatch| {
        let mut source = MemorySource::new(of, rows, &Filter::ALL, Width::Whole).unwrap();
        let path = directory.path().join(name);
        let (bounds, rows, bytes) = segment::write(of, &path, &mut source).unwrap().unwrap();
        let path = name.into();
        Segment { id: 1, table: table.clone(), level: 0, path, first_position: 1, bounds, rows, bytes }
    };
    let old = row::rounds(&kind, &[&batch("heartbeat", 1, Some(old_outcome))]).unwrap().unwrap();
    let columns: Vec<usize> = (0..position::TYPED).collect();
    let mut old = old.project(&columns).unwrap();
    // As it was: all of the outcome in the one column.
    let mut arrays = old.columns().to_vec();
    arrays[position::OUTCOME] = Arc::new(StringArray::from(vec![old_outcome]));
    old = RecordBatch::try_new(plain.schema(), arrays).unwrap();
    let new = row::rounds(&kind, &[&batch("heartbeat", 2, Some("{\"uptime_s\":8.5,\"acme\":1}"))]);
    let segments = [write("old", &plain, &old), write("new", &table, &new.unwrap().unwrap())];

    let read = |segments: &[Segment], width: Width| {
        let open = |segment| segment::read(segment, directory.path(), &Filter::ALL, width).unwrap();
        let mut merge = Merge::new(&table, segments.iter().map(open).collect(), 64).unwrap();
        let mut rows: Vec<RoundRow> = Vec::new();
        while let Some(batch) = merge.next_batch().unwrap() {
            rows.extend((0..batch.num_rows()).map(|number| row::round(&table, &batch, number).unwrap()));
        }
        rows
    };
    let expected = [(Value::Null, Some(old_outcome)), (json!(8.5), Some("{\"acme\":1}"))];
    let check = |rows: &[RoundRow]| {
        let found: Vec<_> =
            rows.iter().map(|row| (row.columns.get("uptime_s"), row.outcome.as_deref())).collect();
        assert_eq!(found, expected);
    };
    check(&read(&segments, Width::Whole));
    let brief = read(&segments, Width::Brief);
    assert!(brief.iter().all(|row| row.columns == Columns::default() && row.outcome.is_none()));
    assert_eq!(brief.len(), 2);

    let sources =
        segments.iter().map(|one| segment::read(one, directory.path(), &Filter::ALL, Width::Whole).unwrap());
    let mut merged = Merge::new(&table, sources.collect(), 64).unwrap();
    segment::write(&table, &directory.path().join("merged"), &mut merged).unwrap().unwrap();
    check(&read(&[Segment { path: "merged".into(), rows: 2, ..segments[0].clone() }], Width::Whole));

    // The other way round something would be lost: that is refused.
    let newer = Segment { table: plain, path: "new".into(), ..segments[1].clone() };
    let refused = segment::read(&newer, directory.path(), &Filter::ALL, Width::Whole).err().unwrap();
    assert!(refused.to_string().contains("a newer one wrote it"), "{refused}");
}

#[test]
fn structures_gain_fields_within() {
    const BEFORE: &[Column] =
        &[Column { name: "hops", kind: ColumnType::List(&ColumnType::Struct(&[HOP[1]])), about: "" }];
    const AFTER: &[Column] =
        &[Column { name: "hops", kind: ColumnType::List(&ColumnType::Struct(HOP)), about: "" }];
    let mut filler = Filler::new(BEFORE);
    for outcome in
        ["{\"hops\":[{\"from\":\"a\"},null]}", "{}", "{\"hops\":[]}", "{\"hops\":[{\"from\":\"b\"}]}"]
    {
        filler.take(&round_of(outcome.to_owned())).unwrap();
    }
    let schema = |columns| Arc::new(arrow::datatypes::Schema::new(fields(columns)));
    let batch = RecordBatch::try_new(schema(BEFORE), filler.finish().unwrap()).unwrap();
    check(batch.schema_ref().fields(), schema(AFTER).fields()).unwrap();
    assert!(check(schema(AFTER).fields(), batch.schema_ref().fields()).is_err());
    let wide = conform(&batch, &schema(AFTER)).unwrap();
    let hops = |row| read(AFTER, &wide, 0, row).get("hops");
    let hop = |from: &str| json!({"hop": null, "from": from, "rtts_ms": null});
    assert_eq!(hops(0), json!([hop("a"), null]));
    assert_eq!((hops(1), hops(2), hops(3)), (Value::Null, json!([]), json!([hop("b")])));
}
