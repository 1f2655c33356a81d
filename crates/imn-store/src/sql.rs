//! One SQL text over two databases: pools, transactions, arguments and rows.
//!
//! The text uses `$1` placeholders, `ON CONFLICT` and `RETURNING`, ids as text, times as bigint, flags as 0 or 1 and
//! structures as JSON text, which SQLite and PostgreSQL understand alike; so the catalog is written once, without
//! generics over drivers.

mod migration;
mod script;
mod writer;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use sqlx::{
    Connection as _, Postgres, Row as _, SqlSafeStr, Sqlite,
    pool::{Pool, PoolOptions},
    postgres::{PgArguments, PgConnection, PgRow},
    sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous},
};

use crate::catalog::CatalogError;

pub(crate) use script::Many;
use writer::{Lease, Writer};

/// How long a statement waits for another process that holds SQLite's write lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(15);
/// Pages of SQLite's log before they are written into the database as well: 16 MiB. What many transactions change, such as
/// the end of a table, is then written there once and not by each hundredth of them.
const CHECKPOINT_PAGES: &str = "4096";
/// Connections that read SQLite beside the one that writes.
const SQLITE_READERS: u32 = 4;
const POSTGRES_CONNECTIONS: u32 = 16;
/// How long a PostgreSQL that is not there yet is waited for, and how often it is tried.
const POSTGRES_WITHIN: Duration = Duration::from_secs(30);
const POSTGRES_EVERY: Duration = Duration::from_secs(1);

/// A failed operation, before it is known which of its meanings for the caller applies.
#[derive(Debug, thiserror::Error)]
#[error("catalog {operation}: {source}")]
pub(crate) struct SqlError {
    pub(crate) operation: &'static str,
    #[source]
    pub(crate) source: sqlx::Error,
}

impl SqlError {
    /// As the catalog's error, given what the statement wrote.
    pub(crate) fn about(self, what: &'static str, key: &str) -> CatalogError {
        let Some(error) = self.source.as_database_error() else { return self.into() };
        if error.is_unique_violation() {
            CatalogError::Exists { what, key: key.to_owned() }
        } else if error.is_foreign_key_violation() {
            let message = "it is in use, or refers to something that is not there".to_owned();
            CatalogError::Reference { what, key: key.to_owned(), message }
        } else {
            self.into()
        }
    }
}

impl From<SqlError> for CatalogError {
    fn from(error: SqlError) -> Self {
        // `SQLITE_FULL` and PostgreSQL's `disk_full`.
        let code = error.source.as_database_error().and_then(sqlx::error::DatabaseError::code);
        if code.is_some_and(|code| matches!(&*code, "13" | "53100")) {
            return Self::NoSpace { operation: error.operation };
        }
        Self::Backend { operation: error.operation, message: error.source.to_string() }
    }
}

/// An argument of a statement.
#[derive(Clone, Debug)]
pub(crate) enum Arg {
    Text(Option<String>),
    Int(Option<i64>),
}

macro_rules! arg_from {
    ($($from:ty => |$value:ident| $arg:expr),+ $(,)?) => {
        $(impl From<$from> for Arg {
            fn from($value: $from) -> Self {
                $arg
            }
        })+
    };
}

arg_from! {
    &str => |value| Self::Text(Some(value.to_owned())),
    &String => |value| Self::Text(Some(value.clone())),
    String => |value| Self::Text(Some(value)),
    Option<String> => |value| Self::Text(value),
    &Option<String> => |value| Self::Text(value.clone()),
    i64 => |value| Self::Int(Some(value)),
    Option<i64> => |value| Self::Int(value),
    u64 => |value| Self::Int(Some(value as i64)),
    u32 => |value| Self::Int(Some(i64::from(value))),
    bool => |value| Self::Int(Some(i64::from(value))),
}

/// The arguments of a statement, in order.
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::sql::Arg::from($value)),*] };
}
pub(crate) use args;

/// A row of an answer.
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    pub(crate) fn text(&self, column: usize) -> Result<String, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }

    pub(crate) fn optional_text(&self, column: usize) -> Result<Option<String>, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }

    pub(crate) fn int(&self, column: usize) -> Result<i64, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }

    pub(crate) fn optional_int(&self, column: usize) -> Result<Option<i64>, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }
}

/// A database of the catalog.
#[derive(Clone, Debug)]
pub(crate) enum Database {
    /// One connection writes, others read.
    Sqlite {
        writer: Writer,
        readers: Pool<Sqlite>,
    },
    Postgres(Pool<Postgres>),
}

/// Waits until PostgreSQL takes connections, and says what it waits for. What no waiting mends is an error at once.
async fn reach(url: &str) -> Result<(), sqlx::Error> {
    let end = Instant::now() + POSTGRES_WITHIN;
    loop {
        match PgConnection::connect(url).await {
            Ok(connection) => return connection.close().await,
            Err(error @ sqlx::Error::Io(_)) if Instant::now() + POSTGRES_EVERY < end => {
                tracing::warn!(%error, "waiting for PostgreSQL");
                tokio::time::sleep(POSTGRES_EVERY).await;
            }
            Err(error) => return Err(error),
        }
    }
}

impl Database {
    pub(crate) async fn sqlite(path: &Path) -> Result<Self, CatalogError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES);
        let error = |source: sqlx::Error| CatalogError::Backend {
            operation: "open",
            message: format!("{}: {source}", path.display()),
        };
        let writer = Writer::open(options.clone()).await.map_err(error)?;
        let readers = PoolOptions::new()
            .max_connections(SQLITE_READERS)
            .test_before_acquire(false)
            .connect_lazy_with(options.read_only(true));
        let database = Self::Sqlite { writer, readers };
        migration::run(&database).await?;
        Ok(database)
    }

    pub(crate) async fn postgres(url: &str) -> Result<Self, CatalogError> {
        // The URL may hold a password: it is not repeated.
        let error = |source: sqlx::Error| CatalogError::Backend {
            operation: "open",
            message: format!("PostgreSQL: {source}"),
        };
        reach(url).await.map_err(error)?;
        let pool = PoolOptions::new().max_connections(POSTGRES_CONNECTIONS).connect(url).await;
        let database = Self::Postgres(pool.map_err(error)?);
        migration::run(&database).await?;
        Ok(database)
    }

    /// Begins a transaction that writes.
    pub(crate) async fn begin(&self, operation: &'static str) -> Result<Tx, SqlError> {
        let begin = async {
            match self {
                Self::Sqlite { writer, .. } => {
                    let mut lease = writer.lease().await?;
                    sqlx::query("BEGIN IMMEDIATE").execute(&mut lease.connection).await?;
                    Ok(TxInner::Sqlite(lease))
                }
                Self::Postgres(pool) => pool.begin().await.map(TxInner::Postgres),
            }
        };
        Ok(Tx { operation, inner: begin.await.map_err(|source| SqlError { operation, source })? })
    }

    /// Reads outside any transaction.
    pub(crate) async fn fetch(
        &self,
        operation: &'static str,
        sql: impl SqlSafeStr,
        args: Vec<Arg>,
    ) -> Result<Vec<Row>, SqlError> {
        match self {
            Self::Sqlite { readers, .. } => {
                sqlite_rows(sqlx::query_with(sql, sqlite_arguments(args)).fetch_all(readers).await)
            }
            Self::Postgres(pool) => {
                postgres_rows(sqlx::query_with(sql, postgres_arguments(args)).fetch_all(pool).await)
            }
        }
        .map_err(|source| SqlError { operation, source })
    }

    /// Waits until every connection is closed.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }

    /// The type of a column that holds identifiers: compared and ordered by bytes.
    pub(crate) const fn id_type(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "TEXT",
            Self::Postgres(_) => "TEXT COLLATE \"C\"",
        }
    }
}

/// A transaction; rolled back when dropped.
pub(crate) struct Tx {
    operation: &'static str,
    inner: TxInner,
}

enum TxInner {
    Sqlite(Lease),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Tx {
    /// Runs a statement; rows affected.
    pub(crate) async fn execute(&mut self, sql: impl SqlSafeStr, args: Vec<Arg>) -> Result<u64, SqlError> {
        match &mut self.inner {
            TxInner::Sqlite(lease) => sqlx::query_with(sql, sqlite_arguments(args))
                .execute(&mut lease.connection)
                .await
                .map(|done| done.rows_affected()),
            TxInner::Postgres(tx) => sqlx::query_with(sql, postgres_arguments(args))
                .execute(&mut **tx)
                .await
                .map(|done| done.rows_affected()),
        }
        .map_err(|source| self.error(source))
    }

    /// Runs a statement; its rows.
    pub(crate) async fn fetch(&mut self, sql: impl SqlSafeStr, args: Vec<Arg>) -> Result<Vec<Row>, SqlError> {
        match &mut self.inner {
            TxInner::Sqlite(lease) => {
                let query = sqlx::query_with(sql, sqlite_arguments(args));
                sqlite_rows(query.fetch_all(&mut lease.connection).await)
            }
            TxInner::Postgres(tx) => {
                postgres_rows(sqlx::query_with(sql, postgres_arguments(args)).fetch_all(&mut **tx).await)
            }
        }
        .map_err(|source| self.error(source))
    }

    /// Runs several statements without arguments.
    pub(crate) async fn script(&mut self, sql: impl SqlSafeStr) -> Result<(), SqlError> {
        match &mut self.inner {
            TxInner::Sqlite(lease) => sqlx::raw_sql(sql).execute(&mut lease.connection).await.map(drop),
            TxInner::Postgres(tx) => sqlx::raw_sql(sql).execute(&mut **tx).await.map(drop),
        }
        .map_err(|source| self.error(source))
    }

    /// Runs `{before} (…),(…) {after}` with the rows as its `VALUES`, in few statements; rows affected in all.
    pub(crate) async fn execute_many(
        &mut self,
        before: &str,
        rows: Vec<Vec<Arg>>,
        after: &str,
    ) -> Result<u64, SqlError> {
        let mut affected = 0;
        for (sql, args) in self.statements(before, rows, after) {
            affected += self.execute(sqlx::AssertSqlSafe(sql), args).await?;
        }
        Ok(affected)
    }

    /// The same; the rows that it returns.
    pub(crate) async fn fetch_many(
        &mut self,
        before: &str,
        rows: Vec<Vec<Arg>>,
        after: &str,
    ) -> Result<Vec<Row>, SqlError> {
        let mut found = Vec::new();
        for (sql, args) in self.statements(before, rows, after) {
            found.extend(self.fetch(sqlx::AssertSqlSafe(sql), args).await?);
        }
        Ok(found)
    }

    /// The numbers of rows are powers of two, so that there are few different texts and all stay prepared.
    fn statements(&self, before: &str, rows: Vec<Vec<Arg>>, after: &str) -> Vec<(String, Vec<Arg>)> {
        let arguments = if self.is_postgres() { POSTGRES_ARGUMENTS } else { SQLITE_ARGUMENTS };
        let columns = rows.first().map_or(1, |row| row.len().max(1));
        let most = power_of_two_below((arguments / columns).max(1));
        let mut statements = Vec::new();
        let mut rows = rows.into_iter();
        while rows.len() > 0 {
            let count = power_of_two_below(rows.len()).min(most);
            let sql = format!("{before} {} {after}", values(0, count, columns));
            statements.push((sql, rows.by_ref().take(count).flatten().collect()));
        }
        statements
    }

    /// Makes it durable.
    pub(crate) async fn commit(self) -> Result<(), SqlError> {
        match self.inner {
            TxInner::Sqlite(mut lease) => {
                let committed = sqlx::query("COMMIT").execute(&mut lease.connection).await;
                committed.map(|_| lease.ended())
            }
            TxInner::Postgres(tx) => tx.commit().await,
        }
        .map_err(|source| SqlError { operation: self.operation, source })
    }

    /// Whether this is PostgreSQL.
    pub(crate) const fn is_postgres(&self) -> bool {
        matches!(self.inner, TxInner::Postgres(_))
    }

    fn error(&self, source: sqlx::Error) -> SqlError {
        SqlError { operation: self.operation, source }
    }
}

/// Arguments of one statement of many rows. SQLite searches the name of each argument among all of the statement, so
/// that more are slower; PostgreSQL saves round trips by more.
const SQLITE_ARGUMENTS: usize = 500;
const POSTGRES_ARGUMENTS: usize = 8_000;

/// The greatest power of two that is not above `number`, which is not 0.
const fn power_of_two_below(number: usize) -> usize {
    1 << number.ilog2()
}

/// `VALUES ($1,$2),($3,$4)…`; the placeholders are numbered after those that there are.
fn values(there: usize, rows: usize, columns: usize) -> String {
    let mut sql = String::from("VALUES ");
    for row in 0..rows {
        sql.push_str(if row == 0 { "(" } else { ",(" });
        for column in 0..columns {
            if column > 0 {
                sql.push(',');
            }
            sql.push('$');
            sql.push_str(&(there + row * columns + column + 1).to_string());
        }
        sql.push(')');
    }
    sql
}

/// `$1,$2,…`, for `IN (…)`.
pub(crate) fn placeholders(count: usize) -> String {
    (1..=count).map(|n| format!("${n}")).collect::<Vec<_>>().join(",")
}

fn sqlite_arguments(args: Vec<Arg>) -> SqliteArguments {
    let mut arguments = SqliteArguments::default();
    for arg in args {
        // Encoding a text or an integer cannot fail.
        let _ = match arg {
            Arg::Text(value) => sqlx::Arguments::add(&mut arguments, value),
            Arg::Int(value) => sqlx::Arguments::add(&mut arguments, value),
        };
    }
    arguments
}

fn postgres_arguments(args: Vec<Arg>) -> PgArguments {
    let mut arguments = PgArguments::default();
    for arg in args {
        let _ = match arg {
            Arg::Text(value) => sqlx::Arguments::add(&mut arguments, value),
            Arg::Int(value) => sqlx::Arguments::add(&mut arguments, value),
        };
    }
    arguments
}

fn sqlite_rows(rows: Result<Vec<SqliteRow>, sqlx::Error>) -> Result<Vec<Row>, sqlx::Error> {
    Ok(rows?.into_iter().map(Row::Sqlite).collect())
}

fn postgres_rows(rows: Result<Vec<PgRow>, sqlx::Error>) -> Result<Vec<Row>, sqlx::Error> {
    Ok(rows?.into_iter().map(Row::Postgres).collect())
}
