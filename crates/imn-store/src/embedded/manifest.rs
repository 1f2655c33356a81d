//! The manifest: which files are live, and up to where the log is in them. In the catalog's database, so that a change
//! of several files is one transaction.

use std::path::PathBuf;

use imn_contract::ModuleType;

use super::{
    error::Error,
    segment::Segment,
    table::{Bounds, Table},
};
use crate::{
    catalog::CatalogError,
    sql::{Database, Row, SqlError, args},
};

/// The position in the log up to which everything is in files.
const COVERED: &str = "results.covered";
/// Names the directory that the manifest is about.
const DIRECTORY: &str = "results.directory";
const OPERATION: &str = "manifest";

/// What the manifest says.
pub(super) struct Contents {
    /// The directory's name; `None` when there never was one.
    pub(super) directory: Option<String>,
    pub(super) covered: i64,
    /// By first position.
    pub(super) live: Vec<Segment>,
    /// Files that are no longer read.
    pub(super) dead: Vec<Segment>,
}

pub(super) async fn load(database: &Database) -> Result<Contents, Error> {
    let settings = database
        .fetch(OPERATION, "SELECT name, value FROM setting WHERE name IN ($1, $2)", args![COVERED, DIRECTORY])
        .await
        .map_err(CatalogError::from)?;
    let mut contents = Contents { directory: None, covered: 0, live: Vec::new(), dead: Vec::new() };
    for row in &settings {
        let value = row.text(1).map_err(corrupt)?;
        if row.text(0).map_err(corrupt)? == COVERED {
            contents.covered = value.parse().map_err(corrupt)?;
        } else {
            contents.directory = Some(value);
        }
    }
    let rows = database
        .fetch(
            OPERATION,
            "SELECT id, type, gap, level, path, first_position, min_due_us, max_due_us, min_target, max_target, \
             rows, bytes, dead FROM segment ORDER BY first_position, id",
            args![],
        )
        .await
        .map_err(CatalogError::from)?;
    for row in &rows {
        let (segment, dead) = from_row(row).map_err(corrupt)?;
        if dead { contents.dead.push(segment) } else { contents.live.push(segment) }
    }
    Ok(contents)
}

/// Begins a manifest for a fresh directory: whatever another one held is forgotten.
pub(super) async fn reset(database: &Database, directory: &str) -> Result<(), Error> {
    let reset = async {
        let mut tx = database.begin(OPERATION).await?;
        tx.execute("DELETE FROM segment", args![]).await?;
        for (name, value) in [(DIRECTORY, directory), (COVERED, "0")] {
            tx.execute(SET, args![name, value]).await?;
        }
        tx.commit().await
    };
    reset.await.map_err(|error: SqlError| CatalogError::from(error).into())
}

const SET: &str = "INSERT INTO setting (name, value) VALUES ($1, $2) \
                   ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// Adds files and marks others dead; with `covered`, everything up to that position of the log is in files now.
pub(super) async fn replace(
    database: &Database,
    add: &[Segment],
    dead: &[i64],
    covered: Option<i64>,
) -> Result<(), Error> {
    let replace = async {
        let mut tx = database.begin(OPERATION).await?;
        let rows = add.iter().map(|segment| {
            args![
                segment.id,
                match &segment.table {
                    Table::Rounds(kind) => kind.as_str(),
                    Table::Gaps => "",
                },
                segment.table == Table::Gaps,
                segment.level,
                segment.path.to_string_lossy().into_owned(),
                segment.first_position,
                segment.bounds.min_due_us,
                segment.bounds.max_due_us,
                &segment.bounds.min_target,
                &segment.bounds.max_target,
                segment.rows,
                segment.bytes,
                false,
            ]
        });
        tx.execute_many(
            "INSERT INTO segment (id, type, gap, level, path, first_position, min_due_us, max_due_us, min_target, \
             max_target, rows, bytes, dead)",
            rows.collect(),
            "",
        )
        .await?;
        let dead = dead.iter().map(|id| args![*id]).collect();
        tx.execute_many("UPDATE segment SET dead = 1 WHERE id IN (", dead, ")").await?;
        if let Some(covered) = covered {
            tx.execute(SET, args![COVERED, covered.to_string()]).await?;
        }
        tx.commit().await
    };
    replace.await.map_err(|error: SqlError| CatalogError::from(error).into())
}

/// Forgets files that are gone.
pub(super) async fn forget(database: &Database, ids: &[i64]) -> Result<(), Error> {
    let forget = async {
        let mut tx = database.begin(OPERATION).await?;
        let ids = ids.iter().map(|id| args![*id]).collect();
        tx.execute_many("DELETE FROM segment WHERE id IN (", ids, ")").await?;
        tx.commit().await
    };
    forget.await.map_err(|error: SqlError| CatalogError::from(error).into())
}

fn from_row(row: &Row) -> Result<(Segment, bool), Box<dyn std::error::Error + Send + Sync>> {
    let segment = Segment {
        id: row.int(0)?,
        table: if row.int(2)? != 0 { Table::Gaps } else { Table::Rounds(ModuleType::new(row.text(1)?)?) },
        level: row.int(3)?,
        path: PathBuf::from(row.text(4)?),
        first_position: row.int(5)?,
        bounds: Bounds {
            min_due_us: row.int(6)?,
            max_due_us: row.int(7)?,
            min_target: row.text(8)?,
            max_target: row.text(9)?,
        },
        rows: row.int(10)? as u64,
        bytes: row.int(11)? as u64,
    };
    Ok((segment, row.int(12)? != 0))
}

fn corrupt(error: impl std::fmt::Display) -> Error {
    Error::new(OPERATION, format!("a stored row cannot be read: {error}"))
}
