//! Keys that were vouched for, and the tokens by which agents come in.

use std::str::FromStr;

use imn_contract::{AgentId, InstanceId};

use super::{Columns, corrupt};
use crate::{
    catalog::CatalogError,
    model::{Credential, EnrollmentToken},
    sql::{Database, Row, Tx, args},
};

const SELECT_TOKEN: &str = "SELECT id, secret_hash, agent, created_us, created_by, expires_us, used_us, used_by \
                            FROM enrollment_token WHERE $1 = '' OR id = $1 ORDER BY created_us DESC, id";
const SELECT_CREDENTIAL: &str = "SELECT public_key, agent, instance, issued_us, expires_us, revoked_us \
                                 FROM credential";

pub(super) async fn create_token(database: &Database, token: &EnrollmentToken) -> Result<(), CatalogError> {
    let mut tx = database.begin("create enrollment token").await?;
    tx.execute(
        "INSERT INTO enrollment_token (id, secret_hash, agent, created_us, created_by, expires_us) \
         VALUES ($1, $2, $3, $4, $5, $6)",
        args![
            &token.id,
            &token.secret_hash,
            token.agent.as_ref().map(ToString::to_string),
            token.created_us,
            &token.created_by,
            token.expires_us
        ],
    )
    .await
    .map_err(|error| error.about("enrollment token", &token.id))?;
    tx.commit().await?;
    Ok(())
}

pub(super) async fn token(database: &Database, id: &str) -> Result<Option<EnrollmentToken>, CatalogError> {
    if id.is_empty() {
        return Ok(None);
    }
    let rows = database.fetch("get enrollment token", SELECT_TOKEN, args![id]).await?;
    rows.first().map(token_from_row).transpose()
}

pub(super) async fn tokens(database: &Database) -> Result<Vec<EnrollmentToken>, CatalogError> {
    let rows = database.fetch("list enrollment tokens", SELECT_TOKEN, args![""]).await?;
    rows.iter().map(token_from_row).collect()
}

pub(super) async fn delete_token(database: &Database, id: &str) -> Result<(), CatalogError> {
    let mut tx = database.begin("delete enrollment token").await?;
    if tx.execute("DELETE FROM enrollment_token WHERE id = $1", args![id]).await? == 0 {
        return Err(CatalogError::NotFound { what: "enrollment token", key: id.to_owned() });
    }
    tx.commit().await?;
    Ok(())
}

pub(super) async fn enroll(
    database: &Database,
    token: &str,
    credential: &Credential,
) -> Result<bool, CatalogError> {
    let mut tx = database.begin("enroll").await?;
    let spent = tx
        .execute(
            "UPDATE enrollment_token SET used_us = $2, used_by = $3 WHERE id = $1 AND used_us IS NULL",
            args![token, credential.issued_us, credential.agent.to_string()],
        )
        .await?;
    if spent == 0 {
        return Ok(false);
    }
    put(&mut tx, credential).await?;
    tx.commit().await?;
    Ok(true)
}

pub(super) async fn note(database: &Database, credentials: &[Credential]) -> Result<(), CatalogError> {
    let mut tx = database.begin("note credentials").await?;
    for credential in credentials {
        put(&mut tx, credential).await?;
    }
    tx.commit().await?;
    Ok(())
}

pub(super) async fn get(database: &Database, public_key: &str) -> Result<Option<Credential>, CatalogError> {
    let sql = format!("{SELECT_CREDENTIAL} WHERE public_key = $1");
    let rows = database.fetch("get credential", sqlx::AssertSqlSafe(sql), args![public_key]).await?;
    rows.first().map(from_row).transpose()
}

pub(super) async fn list(
    database: &Database,
    agent: Option<&AgentId>,
) -> Result<Vec<Credential>, CatalogError> {
    let sql = format!(
        "{SELECT_CREDENTIAL} WHERE $1 = '' OR agent = $1 ORDER BY agent, instance, issued_us, public_key"
    );
    let agent = agent.map_or("", AgentId::as_str);
    let rows = database.fetch("list credentials", sqlx::AssertSqlSafe(sql), args![agent]).await?;
    rows.iter().map(from_row).collect()
}

pub(super) async fn revoke(
    database: &Database,
    agent: &AgentId,
    now_us: i64,
) -> Result<Vec<Credential>, CatalogError> {
    let mut tx = database.begin("revoke credentials").await?;
    tx.execute(
        "UPDATE credential SET revoked_us = $2 WHERE agent = $1 AND revoked_us IS NULL",
        args![agent.as_str(), now_us],
    )
    .await?;
    let sql = format!("{SELECT_CREDENTIAL} WHERE agent = $1 ORDER BY instance, issued_us, public_key");
    let rows = tx.fetch(sqlx::AssertSqlSafe(sql), args![agent.as_str()]).await?;
    let revoked = rows.iter().map(from_row).collect::<Result<_, _>>()?;
    tx.commit().await?;
    Ok(revoked)
}

async fn put(tx: &mut Tx, credential: &Credential) -> Result<(), CatalogError> {
    tx.execute(
        "INSERT INTO credential (public_key, agent, instance, issued_us, expires_us, revoked_us) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (public_key) DO UPDATE SET \
         issued_us = excluded.issued_us, expires_us = excluded.expires_us",
        args![
            &credential.public_key,
            credential.agent.to_string(),
            credential.instance.as_ref().map_or_else(String::new, ToString::to_string),
            credential.issued_us,
            credential.expires_us,
            credential.revoked_us
        ],
    )
    .await?;
    Ok(())
}

fn token_from_row(row: &Row) -> Result<EnrollmentToken, CatalogError> {
    let mut columns = Columns::of(row);
    Ok(EnrollmentToken {
        id: columns.text()?,
        secret_hash: columns.text()?,
        agent: optional_id(columns.optional_text()?)?,
        created_us: columns.int()?,
        created_by: columns.text()?,
        expires_us: columns.int()?,
        used_us: columns.optional_int()?,
        used_by: optional_id(columns.optional_text()?)?,
    })
}

fn from_row(row: &Row) -> Result<Credential, CatalogError> {
    let mut columns = Columns::of(row);
    Ok(Credential {
        public_key: columns.text()?,
        agent: columns.id()?,
        instance: optional_id::<InstanceId>(Some(columns.text()?).filter(|text| !text.is_empty()))?,
        issued_us: columns.int()?,
        expires_us: columns.optional_int()?,
        revoked_us: columns.optional_int()?,
    })
}

fn optional_id<T: FromStr<Err = imn_contract::IdError>>(
    text: Option<String>,
) -> Result<Option<T>, CatalogError> {
    text.map(|text| text.parse().map_err(|error| corrupt("decode", error))).transpose()
}
