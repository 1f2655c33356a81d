//! The schema's versions: run at open, in order, each once.

use sqlx::AssertSqlSafe;

use super::{Database, args};
use crate::catalog::CatalogError;

/// Each entry brings the schema from the version before to its own; a released one never changes.
const MIGRATIONS: [&str; 4] = [
    include_str!("../../migrations/0001.sql"),
    include_str!("../../migrations/0002.sql"),
    include_str!("../../migrations/0003.sql"),
    include_str!("../../migrations/0004.sql"),
];
/// Locks out another server that migrates the same PostgreSQL; any number of our own.
const LOCK: &str = "SELECT CAST(pg_advisory_xact_lock(7090710) AS TEXT)";

pub(super) async fn run(database: &Database) -> Result<(), CatalogError> {
    let mut tx = database.begin("migrate").await?;
    if tx.is_postgres() {
        tx.fetch(LOCK, args![]).await?;
    }
    tx.script("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)").await?;
    let rows = tx.fetch("SELECT version FROM schema_version", args![]).await?;
    let version = rows.first().map_or(Ok(0), |row| row.int(0));
    let version = version.map_err(|source| super::SqlError { operation: "migrate", source })?;
    let known = MIGRATIONS.len() as i64;
    if version > known {
        return Err(CatalogError::Backend {
            operation: "migrate",
            message: format!(
                "the database has schema version {version}, this imn knows versions up to {known}: use the imn \
                 that wrote it, or a newer one"
            ),
        });
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
        tx.script(AssertSqlSafe(migration.replace(" ID ", &format!(" {} ", database.id_type())))).await?;
    }
    if version < known {
        tx.execute("DELETE FROM schema_version", args![]).await?;
        tx.execute("INSERT INTO schema_version VALUES ($1)", args![known]).await?;
    }
    tx.commit().await?;
    Ok(())
}
