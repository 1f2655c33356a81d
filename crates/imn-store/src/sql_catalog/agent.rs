//! Agents and what is assigned to them.

use std::collections::BTreeMap;

use imn_contract::AgentId;
use imn_domain::Agent;

use super::{Columns, to_json};
use crate::{
    catalog::CatalogError,
    model::AssignmentRow,
    sql::{Database, Row, args},
};

pub(super) async fn upsert(database: &Database, agents: &[Agent]) -> Result<(), CatalogError> {
    // Of an agent given twice the last counts: one statement may not write a row twice.
    let unique: BTreeMap<&AgentId, &Agent> = agents.iter().map(|agent| (&agent.id, agent)).collect();
    let rows = unique
        .into_values()
        .map(|agent| {
            Ok(args![
                agent.id.as_str(),
                &agent.name,
                &agent.region,
                &agent.location,
                &agent.provider,
                to_json(&agent.tags)?,
                &agent.public_ip,
                agent.max_targets.map(|max| max as i64),
                agent.first_seen_us,
                agent.last_heartbeat_us,
                agent.heartbeat.as_ref().map(to_json).transpose()?,
            ])
        })
        .collect::<Result<Vec<_>, CatalogError>>()?;
    let mut tx = database.begin("upsert agents").await?;
    tx.execute_many(
        "INSERT INTO agent (id, name, region, location, provider, tags, public_ip, max_targets, first_seen_us, \
         last_heartbeat_us, heartbeat)",
        rows,
        "ON CONFLICT (id) DO UPDATE SET name = excluded.name, region = excluded.region, \
         location = excluded.location, provider = excluded.provider, tags = excluded.tags, \
         last_heartbeat_us = excluded.last_heartbeat_us, heartbeat = excluded.heartbeat",
    )
    .await?;
    tx.commit().await?;
    Ok(())
}

pub(super) async fn list(database: &Database) -> Result<Vec<Agent>, CatalogError> {
    let rows = database
        .fetch(
            "list agents",
            "SELECT id, name, region, location, provider, tags, public_ip, max_targets, first_seen_us, \
             last_heartbeat_us, heartbeat FROM agent ORDER BY id",
            args![],
        )
        .await?;
    rows.iter().map(from_row).collect()
}

pub(super) async fn delete(database: &Database, id: &AgentId) -> Result<(), CatalogError> {
    let mut tx = database.begin("delete agent").await?;
    tx.execute("DELETE FROM assignment WHERE agent = $1", args![id.as_str()]).await?;
    let changed = tx.execute("DELETE FROM agent WHERE id = $1", args![id.as_str()]).await?;
    if changed == 0 {
        return Err(CatalogError::NotFound { what: "agent", key: id.to_string() });
    }
    tx.commit().await?;
    Ok(())
}

pub(super) async fn assignments(database: &Database) -> Result<Vec<AssignmentRow>, CatalogError> {
    let rows = database
        .fetch(
            "list assignments",
            "SELECT agent, target, type, since_us FROM assignment ORDER BY agent, target, type",
            args![],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            Ok(AssignmentRow {
                agent: columns.id()?,
                target: columns.id()?,
                kind: columns.id()?,
                since_us: columns.int()?,
            })
        })
        .collect()
}

pub(super) async fn change_assignments(
    database: &Database,
    add: &[AssignmentRow],
    remove: &[AssignmentRow],
    generations: &[(AgentId, u64)],
) -> Result<(), CatalogError> {
    let key = |row: &AssignmentRow| args![row.agent.as_str(), row.target.as_str(), row.kind.as_str()];
    let unique: BTreeMap<_, _> = add.iter().map(|row| ((&row.agent, &row.target, &row.kind), row)).collect();
    let added = unique
        .into_values()
        .map(|row| {
            let mut arguments = key(row);
            arguments.extend(args![row.since_us]);
            arguments
        })
        .collect();
    let generations: BTreeMap<_, _> = generations.iter().map(|(agent, number)| (agent, *number)).collect();
    let numbered = generations.into_iter().map(|(agent, number)| args![agent.as_str(), number]).collect();

    let mut tx = database.begin("change assignments").await?;
    tx.execute_many(
        "DELETE FROM assignment WHERE (agent, target, type) IN (",
        remove.iter().map(key).collect(),
        ")",
    )
    .await?;
    tx.execute_many(
        "WITH v (v_agent, v_target, v_type, v_since_us) AS (",
        added,
        ") INSERT INTO assignment (agent, target, type, since_us) \
         SELECT v_agent, v_target, v_type, v_since_us FROM v JOIN target ON id = v_target WHERE true \
         ON CONFLICT (agent, target, type) DO UPDATE SET since_us = excluded.since_us",
    )
    .await
    .map_err(|error| error.about("assignment", "of a target"))?;
    tx.execute_many(
        "INSERT INTO generation (agent, generation)",
        numbered,
        "ON CONFLICT (agent) DO UPDATE SET generation = excluded.generation",
    )
    .await?;
    tx.commit().await?;
    Ok(())
}

pub(super) async fn generations(database: &Database) -> Result<Vec<(AgentId, u64)>, CatalogError> {
    let rows = database
        .fetch("list generations", "SELECT agent, generation FROM generation ORDER BY agent", args![])
        .await?;
    rows.iter()
        .map(|row| {
            let mut columns = Columns::of(row);
            Ok((columns.id()?, columns.int()? as u64))
        })
        .collect()
}

fn from_row(row: &Row) -> Result<Agent, CatalogError> {
    let mut columns = Columns::of(row);
    Ok(Agent {
        id: columns.id()?,
        name: columns.optional_text()?,
        region: columns.optional_text()?,
        location: columns.optional_text()?,
        provider: columns.optional_text()?,
        tags: columns.json()?,
        public_ip: columns.optional_text()?,
        max_targets: columns.optional_int()?.map(|max| max as u64),
        first_seen_us: columns.int()?,
        last_heartbeat_us: columns.int()?,
        heartbeat: columns.optional_json()?,
    })
}
