//! API keys, remembered answers, the audit log and settings.

use super::Columns;
use crate::{
    catalog::CatalogError,
    model::{ApiKey, AuditEntry},
    sql::{Database, Row, args},
};

/// How long an answer is remembered, in microseconds.
const REMEMBERED_US: i64 = 86_400_000_000;
const SELECT_KEY: &str = "SELECT id, secret_hash, name, role, created_us, expires_us FROM api_key \
                          WHERE $1 = '' OR id = $1 ORDER BY id";

pub(super) async fn create(database: &Database, key: &ApiKey) -> Result<(), CatalogError> {
    let mut tx = database.begin("create API key").await?;
    tx.execute(
        "INSERT INTO api_key (id, secret_hash, name, role, created_us, expires_us) \
         VALUES ($1, $2, $3, $4, $5, $6)",
        args![&key.id, &key.secret_hash, &key.name, &key.role, key.created_us, key.expires_us],
    )
    .await
    .map_err(|error| error.about("API key", &key.id))?;
    tx.commit().await?;
    Ok(())
}

pub(super) async fn get(database: &Database, id: &str) -> Result<Option<ApiKey>, CatalogError> {
    if id.is_empty() {
        return Ok(None);
    }
    let rows = database.fetch("get API key", SELECT_KEY, args![id]).await?;
    rows.first().map(key_from_row).transpose()
}

pub(super) async fn list(database: &Database) -> Result<Vec<ApiKey>, CatalogError> {
    let rows = database.fetch("list API keys", SELECT_KEY, args![""]).await?;
    rows.iter().map(key_from_row).collect()
}

pub(super) async fn delete(database: &Database, id: &str) -> Result<(), CatalogError> {
    let mut tx = database.begin("delete API key").await?;
    if tx.execute("DELETE FROM api_key WHERE id = $1", args![id]).await? == 0 {
        return Err(CatalogError::NotFound { what: "API key", key: id.to_owned() });
    }
    tx.commit().await?;
    Ok(())
}

pub(super) async fn idempotent(
    database: &Database,
    key: &str,
    request_hash: &str,
    answer: Option<&str>,
    now_us: i64,
) -> Result<Option<(String, String)>, CatalogError> {
    const SELECT: &str = "SELECT request_hash, answer FROM idempotency WHERE key = $1 AND time_us > $2";
    let expired_us = now_us.saturating_sub(REMEMBERED_US);
    let remembered = |rows: Vec<Row>| {
        let pair = |row: &Row| {
            let mut columns = Columns::of(row);
            Ok::<_, CatalogError>((columns.text()?, columns.text()?))
        };
        rows.first().map(pair).transpose()
    };
    let Some(answer) = answer else {
        return remembered(database.fetch("look up answer", SELECT, args![key, expired_us]).await?);
    };
    let mut tx = database.begin("remember answer").await?;
    tx.execute("DELETE FROM idempotency WHERE time_us <= $1", args![expired_us]).await?;
    if let Some(before) = remembered(tx.fetch(SELECT, args![key, expired_us]).await?)? {
        return Ok(Some(before));
    }
    tx.execute(
        "INSERT INTO idempotency (key, request_hash, answer, time_us) VALUES ($1, $2, $3, $4)",
        args![key, request_hash, answer, now_us],
    )
    .await?;
    tx.commit().await?;
    Ok(None)
}

pub(super) async fn audit(database: &Database, entry: &AuditEntry) -> Result<(), CatalogError> {
    let mut tx = database.begin("audit").await?;
    tx.execute(
        "INSERT INTO audit (id, time_us, actor, action, subject, detail) VALUES ($1, $2, $3, $4, $5, $6)",
        args![
            ulid::Ulid::generate().to_string(),
            entry.time_us,
            &entry.actor,
            &entry.action,
            &entry.subject,
            &entry.detail
        ],
    )
    .await?;
    tx.commit().await?;
    Ok(())
}

pub(super) async fn audit_log(database: &Database, limit: usize) -> Result<Vec<AuditEntry>, CatalogError> {
    let rows = database
        .fetch(
            "read audit log",
            "SELECT time_us, actor, action, subject, detail FROM audit ORDER BY time_us DESC, id DESC LIMIT $1",
            args![limit as u64],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            Ok(AuditEntry {
                time_us: columns.int()?,
                actor: columns.text()?,
                action: columns.text()?,
                subject: columns.text()?,
                detail: columns.text()?,
            })
        })
        .collect()
}

pub(super) async fn setting(database: &Database, name: &str) -> Result<Option<String>, CatalogError> {
    let rows =
        database.fetch("read setting", "SELECT value FROM setting WHERE name = $1", args![name]).await?;
    rows.first().map(|row| Columns::of(row).text()).transpose()
}

pub(super) async fn set_setting(database: &Database, name: &str, value: &str) -> Result<(), CatalogError> {
    let mut tx = database.begin("write setting").await?;
    tx.execute(
        "INSERT INTO setting (name, value) VALUES ($1, $2) \
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        args![name, value],
    )
    .await?;
    tx.commit().await?;
    Ok(())
}

fn key_from_row(row: &Row) -> Result<ApiKey, CatalogError> {
    let mut columns = Columns::of(row);
    Ok(ApiKey {
        id: columns.text()?,
        secret_hash: columns.text()?,
        name: columns.text()?,
        role: columns.text()?,
        created_us: columns.int()?,
        expires_us: columns.optional_int()?,
    })
}
