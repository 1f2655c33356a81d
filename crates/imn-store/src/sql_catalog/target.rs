//! Targets and their monitoring states.

use std::collections::{BTreeMap, BTreeSet};

use imn_contract::TargetId;
use imn_domain::Target;
use sqlx::AssertSqlSafe;

use super::{Columns, page, to_json, to_word};
use crate::{
    catalog::CatalogError,
    model::{Page, StateChange},
    sql::{Arg, Database, Row, Tx, args, placeholders},
};

const WHAT: &str = "target";
const SELECT: &str = "SELECT id, kind, address, display_name, tier, tags, params, expected_outcome, state, \
                      state_reason, state_since_us, created_us, updated_us, revision FROM target";

pub(super) async fn create(database: &Database, targets: &[Target]) -> Result<(), CatalogError> {
    let mut tx = database.begin("create targets").await?;
    let tiers: BTreeSet<String> = tx
        .fetch("SELECT name FROM tier", args![])
        .await?
        .iter()
        .map(|row| Columns::of(row).text())
        .collect::<Result<_, _>>()?;
    if let Some(target) = targets.iter().find(|target| !tiers.contains(&target.tier)) {
        return Err(CatalogError::Reference {
            what: WHAT,
            key: target.address.clone(),
            message: format!("there is no tier {:?}", target.tier),
        });
    }
    let rows = targets.iter().map(to_args).collect::<Result<Vec<_>, _>>()?;
    // A conflict must not fail the statement: PostgreSQL would then tell nothing more within the transaction.
    let added = tx
        .execute_many(
            "INSERT INTO target (id, kind, address, display_name, tier, tags, params, expected_outcome, state, \
             state_reason, state_since_us, created_us, updated_us, revision)",
            rows,
            "ON CONFLICT DO NOTHING",
        )
        .await?;
    if added < targets.len() as u64 {
        let key = first_conflict(&mut tx, targets).await?;
        return Err(CatalogError::Exists { what: WHAT, key });
    }
    tx.commit().await?;
    Ok(())
}

/// The address of the first target that was not added, because its address or id belongs to another.
async fn first_conflict(tx: &mut Tx, targets: &[Target]) -> Result<String, CatalogError> {
    let mut seen = BTreeSet::new();
    for chunk in targets.chunks(500) {
        let sql = format!("SELECT address, id FROM target WHERE address IN ({})", placeholders(chunk.len()));
        let rows = tx
            .fetch(AssertSqlSafe(sql), chunk.iter().map(|target| Arg::from(&target.address)).collect())
            .await?;
        let mut owners = BTreeMap::new();
        for row in &rows {
            let mut columns = Columns::of(row);
            owners.insert(columns.text()?, columns.text()?);
        }
        for target in chunk {
            let own = owners.get(&target.address).is_some_and(|id| id == target.id.as_str());
            if !own || !seen.insert(&target.address) {
                return Ok(target.address.clone());
            }
        }
    }
    Ok(String::new())
}

pub(super) async fn get(database: &Database, id_or_address: &str) -> Result<Option<Target>, CatalogError> {
    let sql = format!("{SELECT} WHERE id = $1 OR address = $1 ORDER BY (id = $1) DESC LIMIT 1");
    let rows = database.fetch("get target", AssertSqlSafe(sql), args![id_or_address]).await?;
    rows.first().map(from_row).transpose()
}

pub(super) async fn list(
    database: &Database,
    after: Option<&str>,
    limit: usize,
) -> Result<Page<Target>, CatalogError> {
    let sql = format!("{SELECT} WHERE id > $1 ORDER BY id LIMIT $2");
    let rows = database
        .fetch("list targets", AssertSqlSafe(sql), args![after.unwrap_or(""), limit as u64 + 1])
        .await?;
    let items = rows.iter().map(from_row).collect::<Result<_, _>>()?;
    Ok(page(items, limit, |target: &Target| target.id.to_string()))
}

pub(super) async fn count(database: &Database) -> Result<u64, CatalogError> {
    let rows = database.fetch("count targets", "SELECT COUNT(*) FROM target", args![]).await?;
    rows.first().map_or(Ok(0), |row| Columns::of(row).int()).map(|count| count as u64)
}

pub(super) async fn update(database: &Database, target: &Target) -> Result<(), CatalogError> {
    let mut tx = database.begin("update target").await?;
    let given = target.revision.saturating_sub(1);
    let mut arguments = to_args(target)?;
    arguments.push(Arg::from(given));
    let changed = tx
        .execute(
            "UPDATE target SET kind = $2, address = $3, display_name = $4, tier = $5, tags = $6, params = $7, \
             expected_outcome = $8, state = $9, state_reason = $10, state_since_us = $11, created_us = $12, \
             updated_us = $13, revision = $14 WHERE id = $1 AND revision = $15",
            arguments,
        )
        .await
        .map_err(|error| error.about(WHAT, &target.address))?;
    if changed == 0 {
        return Err(missing(&mut tx, &target.id, given).await?);
    }
    tx.commit().await?;
    Ok(())
}

pub(super) async fn delete(
    database: &Database,
    id: &TargetId,
    revision: Option<u64>,
) -> Result<(), CatalogError> {
    let mut tx = database.begin("delete target").await?;
    let changed = tx
        .execute(
            "DELETE FROM target WHERE id = $1 AND ($2 = 0 OR revision = $2)",
            args![id.as_str(), revision.unwrap_or(0)],
        )
        .await?;
    if changed == 0 {
        return Err(missing(&mut tx, id, revision.unwrap_or(0)).await?);
    }
    tx.commit().await?;
    Ok(())
}

/// Why nothing was changed.
async fn missing(tx: &mut Tx, id: &TargetId, given: u64) -> Result<CatalogError, CatalogError> {
    let rows = tx.fetch("SELECT revision FROM target WHERE id = $1", args![id.as_str()]).await?;
    let key = id.to_string();
    Ok(match rows.first() {
        None => CatalogError::NotFound { what: WHAT, key },
        Some(row) => CatalogError::Stale { what: WHAT, key, current: Columns::of(row).int()? as u64, given },
    })
}

pub(super) async fn set_states(database: &Database, changes: &[StateChange]) -> Result<(), CatalogError> {
    let mut latest: BTreeMap<&TargetId, &StateChange> = BTreeMap::new();
    let mut history = Vec::with_capacity(changes.len());
    for change in changes {
        latest.insert(&change.target, change);
        history.push(args![
            change.target.as_str(),
            change.time_us,
            to_word(&change.from)?,
            to_word(&change.to)?,
            &change.reason
        ]);
    }
    let states = latest
        .values()
        .map(|change| Ok(args![change.target.as_str(), to_word(&change.to)?, &change.reason, change.time_us]))
        .collect::<Result<Vec<_>, CatalogError>>()?;
    let mut tx = database.begin("set states").await?;
    tx.execute_many(
        "WITH v (id, state, reason, since_us) AS (",
        states,
        ") UPDATE target SET state = v.state, state_reason = v.reason, state_since_us = v.since_us FROM v \
         WHERE target.id = v.id",
    )
    .await?;
    // A target may have been removed meanwhile.
    tx.execute_many(
        "WITH v (target, time_us, from_state, to_state, reason) AS (",
        history,
        ") INSERT INTO state_change (target, time_us, from_state, to_state, reason) SELECT v.target, v.time_us, \
         v.from_state, v.to_state, v.reason FROM v JOIN target ON target.id = v.target WHERE true \
         ON CONFLICT DO NOTHING",
    )
    .await?;
    tx.commit().await?;
    Ok(())
}

pub(super) async fn state_history(
    database: &Database,
    target: &TargetId,
    limit: usize,
) -> Result<Vec<StateChange>, CatalogError> {
    let rows = database
        .fetch(
            "state history",
            "SELECT time_us, from_state, to_state, reason FROM state_change WHERE target = $1 \
             ORDER BY time_us DESC LIMIT $2",
            args![target.as_str(), limit as u64],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            Ok(StateChange {
                target: target.clone(),
                time_us: columns.int()?,
                from: columns.word()?,
                to: columns.word()?,
                reason: columns.text()?,
            })
        })
        .collect()
}

fn to_args(target: &Target) -> Result<Vec<Arg>, CatalogError> {
    Ok(args![
        target.id.as_str(),
        to_word(&target.kind)?,
        &target.address,
        &target.display_name,
        &target.tier,
        to_json(&target.tags)?,
        to_json(&target.params)?,
        target.expected_outcome.as_ref().map(to_json).transpose()?,
        to_word(&target.monitoring_state)?,
        &target.state_reason,
        target.state_since_us,
        target.created_us,
        target.updated_us,
        target.revision,
    ])
}

fn from_row(row: &Row) -> Result<Target, CatalogError> {
    let mut columns = Columns::of(row);
    Ok(Target {
        id: columns.id()?,
        kind: columns.word()?,
        address: columns.text()?,
        display_name: columns.optional_text()?,
        tier: columns.text()?,
        tags: columns.json()?,
        params: columns.json()?,
        expected_outcome: columns.optional_json()?,
        monitoring_state: columns.word()?,
        state_reason: columns.optional_text()?,
        state_since_us: columns.int()?,
        created_us: columns.int()?,
        updated_us: columns.int()?,
        revision: columns.int()? as u64,
    })
}
