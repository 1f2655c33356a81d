//! `imn results`: the server's Parquet files; from the store itself while no server runs.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use imn_contract::canonical_type;
use imn_runtime::clock;
use imn_sink::format::list::{self, Column};
use imn_store::{ColumnType, EmbeddedConfig, EmbeddedResults, Results, SegmentFile, SqlCatalog};
use reqwest::Method;
use serde_json::{Value, json};

use super::{block_on, print, query, show_one};
use crate::{
    cli::{Common, ResultsVerb},
    client::{self, Client, Sent},
    exit::{Code, Exit},
};

const COLUMNS: &[Column] = &[
    Column::new("PATH", "path"),
    Column::new("TABLE", "table"),
    Column::new("ROWS", "rows"),
    Column::new("BYTES", "bytes"),
    Column::new("FIRST DUE", "min_due"),
    Column::new("LAST DUE", "max_due"),
];

const DECLARED: &[Column] = &[
    Column::new("TYPE", "type"),
    Column::new("COLUMN", "column"),
    Column::new("SQL TYPE", "sql_type"),
    Column::new("MEANING", "about"),
];

/// How long a compaction may take.
const COMPACT: Duration = Duration::from_mins(10);

pub(crate) fn main(verb: ResultsVerb) -> Result<Code> {
    block_on(run(verb))
}

async fn run(verb: ResultsVerb) -> Result<Code> {
    match verb {
        ResultsVerb::Files { from, to, common } => {
            let range =
                (bound("--from", from.as_deref(), i64::MIN)?, bound("--to", to.as_deref(), i64::MAX)?);
            let files = if let Some(client) = online(&common).await? {
                client.whole("/api/v1/results/files", &query([("from", &from), ("to", &to)])).await?
            } else {
                open(&common).await?.files(range.0, range.1).await?.iter().map(file).collect()
            };
            let mut text = Vec::new();
            list::write(&mut text, common.output, COLUMNS, &files)?;
            print(&text)?;
            Ok(Code::Ok)
        }
        ResultsVerb::Columns { kind, output } => {
            let wanted = kind.as_deref().map(canonical_type);
            let known = |kind: &&str| wanted.is_none_or(|wanted| wanted == *kind);
            let rows: Vec<Value> = imn_store::typed().filter(known).flat_map(columns).collect();
            if let (Some(kind), true) = (kind, rows.is_empty()) {
                let types: Vec<&str> = imn_store::typed().collect();
                let types = types.join(", ");
                let message =
                    format!("{kind} has no columns of its own; {types} have, others keep `outcome`");
                return Err(Exit::new(Code::NotFound, message).into());
            }
            let mut text = Vec::new();
            list::write(&mut text, output, DECLARED, &rows)?;
            print(&text)?;
            Ok(Code::Ok)
        }
        ResultsVerb::Compact { common } => {
            let done = if let Some(client) = online(&common).await? {
                let sent = Sent { wait: COMPACT, ..Sent::default() };
                client.call(Method::POST, "/api/v1/results:compact", sent).await?.body
            } else {
                let store = open(&common).await?;
                store.compact().await?;
                let files = store.files(i64::MIN, i64::MAX).await?;
                json!({ "files": files.len(), "rows": files.iter().map(|file| file.rows).sum::<u64>() })
            };
            let columns = [Column::new("FILES", "files"), Column::new("ROWS", "rows")];
            show_one(&common, &columns, &done)
        }
    }
}

/// A type's columns, each followed by the fields within it: `hops` is a list of structures, `hops[].hop` one of their
/// fields.
fn columns(kind: &'static str) -> Vec<Value> {
    let mut rows = Vec::new();
    describe("", imn_store::columns(kind), &mut |path, sql_type, about| {
        rows.push(json!({ "type": kind, "column": path, "sql_type": sql_type, "about": about }));
    });
    rows
}

fn describe(prefix: &str, columns: &[imn_store::Column], tell: &mut dyn FnMut(&str, &str, &str)) {
    for column in columns {
        let mut path = format!("{prefix}{}", column.name);
        let (mut of, mut brackets) = (column.kind, String::new());
        while let ColumnType::List(within) = of {
            (of, brackets) = (*within, brackets + "[]");
        }
        tell(&path, &format!("{}{brackets}", sql_type(of)), column.about);
        if let ColumnType::Struct(fields) = of {
            path += &brackets;
            describe(&format!("{path}."), fields, tell);
        }
    }
}

/// What it is to DuckDB.
const fn sql_type(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Bool => "BOOLEAN",
        ColumnType::U32 => "UINTEGER",
        ColumnType::U64 => "UBIGINT",
        ColumnType::I64 => "BIGINT",
        ColumnType::F64 => "DOUBLE",
        ColumnType::Text => "VARCHAR",
        ColumnType::Time => "TIMESTAMP WITH TIME ZONE",
        ColumnType::List(_) => "LIST",
        ColumnType::Struct(_) => "STRUCT",
    }
}

/// The server, when one runs; none when this host's store is to be opened instead. A server that was named is never
/// replaced by the store.
async fn online(common: &Common) -> Result<Option<Client>> {
    let named = common.connect.url.is_some();
    let client = match Client::find(&common.connect) {
        Ok(client) => client,
        Err(error) if named => return Err(error),
        Err(_) => return Ok(None),
    };
    match client.get("/healthz", &[]).await {
        Ok(_) => Ok(Some(client)),
        Err(failure) if named || !failure.is_silent() => Err(failure.into()),
        Err(_) => Ok(None),
    }
}

async fn open(common: &Common) -> Result<EmbeddedResults> {
    let state = client::state_dir(&common.connect)?;
    // `imn up` keeps the server's state in a directory of its own, `imn server` is given that directory.
    let places = [state.join("server"), state.clone()];
    let place: PathBuf =
        places.into_iter().find(|place| place.join("catalog.sqlite").is_file()).ok_or_else(|| {
            Exit::new(
                Code::NotFound,
                format!(
                    "no server answers and {} holds no results; name the server with --url or the directory with --state-dir",
                    state.display()
                ),
            )
        })?;
    let catalog = SqlCatalog::sqlite(&place.join("catalog.sqlite")).await?;
    let results = EmbeddedResults::open(&place.join("results"), &catalog, EmbeddedConfig::default()).await;
    results.with_context(|| format!("open the results in {}", place.display()))
}

fn file(file: &SegmentFile) -> Value {
    json!({
        "path": file.path.display().to_string(),
        "table": file.table,
        "min_due": clock::rfc3339(file.min_due_us),
        "max_due": clock::rfc3339(file.max_due_us),
        "rows": file.rows,
        "bytes": file.bytes,
    })
}

fn bound(flag: &str, text: Option<&str>, default: i64) -> Result<i64> {
    let Some(text) = text else { return Ok(default) };
    Ok(clock::parse_rfc3339(text).map_err(|error| Exit::usage(format!("{flag}: {error}")))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_told_with_what_is_within_them() {
        let rows = columns("trace");
        let told = |path: &str| {
            let row = rows.iter().find(|row| row["column"] == path);
            row.map(|row| row["sql_type"].as_str().unwrap().to_owned())
        };
        for (path, sql_type) in [
            ("target_name", "VARCHAR"),
            ("rtt_ms", "STRUCT"),
            ("rtt_ms.p95", "DOUBLE"),
            ("hops", "STRUCT[]"),
            ("hops[].rtts_ms", "DOUBLE[]"),
            ("hops[].responders[].extension.objects[].mpls[].label", "UINTEGER"),
        ] {
            assert_eq!(told(path).as_deref(), Some(sql_type), "{path}");
        }
    }
}
