//! Tiers.

use imn_domain::Tier;

use super::{Columns, to_json};
use crate::{
    catalog::CatalogError,
    sql::{Database, Tx, args},
};

const WHAT: &str = "tier";

pub(super) async fn create(database: &Database, tier: &Tier) -> Result<(), CatalogError> {
    let mut tx = database.begin("create tier").await?;
    tx.execute(
        "INSERT INTO tier (name, body, revision) VALUES ($1, $2, $3)",
        args![&tier.name, to_json(tier)?, tier.revision],
    )
    .await
    .map_err(|error| error.about(WHAT, &tier.name))?;
    tx.commit().await?;
    Ok(())
}

pub(super) async fn get(database: &Database, name: &str) -> Result<Option<Tier>, CatalogError> {
    let rows = database.fetch("get tier", "SELECT body FROM tier WHERE name = $1", args![name]).await?;
    rows.first().map(|row| Columns::of(row).json()).transpose()
}

pub(super) async fn list(database: &Database) -> Result<Vec<Tier>, CatalogError> {
    let rows = database.fetch("list tiers", "SELECT body FROM tier ORDER BY name", args![]).await?;
    rows.iter().map(|row| Columns::of(row).json()).collect()
}

pub(super) async fn update(database: &Database, tier: &Tier) -> Result<(), CatalogError> {
    let mut tx = database.begin("update tier").await?;
    let given = tier.revision.saturating_sub(1);
    let changed = tx
        .execute(
            "UPDATE tier SET body = $2, revision = $3 WHERE name = $1 AND revision = $4",
            args![&tier.name, to_json(tier)?, tier.revision, given],
        )
        .await?;
    if changed == 0 {
        return Err(missing(&mut tx, &tier.name, given).await?);
    }
    tx.commit().await?;
    Ok(())
}

pub(super) async fn delete(
    database: &Database,
    name: &str,
    revision: Option<u64>,
) -> Result<(), CatalogError> {
    let mut tx = database.begin("delete tier").await?;
    let used = tx.fetch("SELECT address FROM target WHERE tier = $1 LIMIT 1", args![name]).await?;
    if let Some(row) = used.first() {
        let message = format!("target {} and maybe others use it", Columns::of(row).text()?);
        return Err(CatalogError::Reference { what: WHAT, key: name.to_owned(), message });
    }
    let changed = tx
        .execute(
            "DELETE FROM tier WHERE name = $1 AND ($2 = 0 OR revision = $2)",
            args![name, revision.unwrap_or(0)],
        )
        .await
        .map_err(|error| error.about(WHAT, name))?;
    if changed == 0 {
        return Err(missing(&mut tx, name, revision.unwrap_or(0)).await?);
    }
    tx.commit().await?;
    Ok(())
}

/// Why nothing was changed.
async fn missing(tx: &mut Tx, name: &str, given: u64) -> Result<CatalogError, CatalogError> {
    let rows = tx.fetch("SELECT revision FROM tier WHERE name = $1", args![name]).await?;
    let key = name.to_owned();
    Ok(match rows.first() {
        None => CatalogError::NotFound { what: WHAT, key },
        Some(row) => CatalogError::Stale { what: WHAT, key, current: Columns::of(row).int()? as u64, given },
    })
}
