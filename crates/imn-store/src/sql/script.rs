//! Statements that are known beforehand, as one transaction.

use std::fmt::Write;

use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, Either, Executor};

use super::{Arg, Database, Row, SqlError, Writer, sqlite_arguments, values};

/// Arguments up to which SQLite is given a transaction at once, so that its thread is woken for the whole and not for each
/// statement. With more that is nothing, and statements one after the other stay prepared.
const AT_ONCE: usize = 100;

/// A statement of many rows: `{before} VALUES (…),(…) {after}`. Without rows nothing is done.
pub(crate) struct Many {
    pub(crate) before: &'static str,
    pub(crate) rows: Vec<Vec<Arg>>,
    pub(crate) after: &'static str,
}

impl Database {
    /// Runs statements in order, all or none, and makes them durable; the rows that each returns.
    pub(crate) async fn transact(
        &self,
        operation: &'static str,
        statements: Vec<Many>,
    ) -> Result<Vec<Vec<Row>>, SqlError> {
        let arguments: usize = statements.iter().flat_map(|many| &many.rows).map(Vec::len).sum();
        if let Self::Sqlite { writer, .. } = self
            && arguments <= AT_ONCE
        {
            return run_at_once(writer, statements).await.map_err(|source| SqlError { operation, source });
        }
        let mut tx = self.begin(operation).await?;
        let mut answers = Vec::with_capacity(statements.len());
        for Many { before, rows, after } in statements {
            answers.push(tx.fetch_many(before, rows, after).await?);
        }
        tx.commit().await?;
        Ok(answers)
    }
}

async fn run_at_once(writer: &Writer, statements: Vec<Many>) -> Result<Vec<Vec<Row>>, sqlx::Error> {
    let mut answers: Vec<Vec<Row>> = statements.iter().map(|_| Vec::new()).collect();
    let (sql, args, places) = at_once(statements);
    let mut lease = writer.lease().await?;
    let mut at = 0;
    {
        let query = sqlx::query_with(AssertSqlSafe(sql), sqlite_arguments(args));
        let mut ran = lease.connection.fetch_many(query);
        // What comes after the last statement is nothing but one more wake.
        while at < places.len()
            && let Some(step) = ran.try_next().await?
        {
            match step {
                Either::Right(row) => {
                    if let Some(Some(place)) = places.get(at) {
                        answers[*place].push(Row::Sqlite(row));
                    }
                }
                Either::Left(_) => at += 1,
            }
        }
    }
    lease.ended();
    Ok(answers)
}

/// The text of a transaction, its arguments, and for each of its statements whose rows those are; `None`: those of nobody.
fn at_once(statements: Vec<Many>) -> (String, Vec<Arg>, Vec<Option<usize>>) {
    let count = statements.iter().filter(|many| !many.rows.is_empty()).count();
    let (mut sql, mut args, mut places) = (String::new(), Vec::new(), Vec::new());
    // One statement is a transaction of its own.
    if count > 1 {
        sql.push_str("BEGIN IMMEDIATE;");
        places.push(None);
    }
    for (place, Many { before, rows, after }) in statements.into_iter().enumerate() {
        if let Some(first) = rows.first() {
            let values = values(args.len(), rows.len(), first.len());
            // Writing to a string does not fail.
            let _ = write!(sql, "{before} {values} {after};");
            args.extend(rows.into_iter().flatten());
            places.push(Some(place));
        }
    }
    if count > 1 {
        sql.push_str("COMMIT");
        places.push(None);
    }
    (sql, args, places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::args;

    fn many(before: &'static str, rows: Vec<Vec<Arg>>, after: &'static str) -> Many {
        Many { before, rows, after }
    }

    #[test]
    fn several_statements_are_one_transaction_with_places_of_their_own() {
        let one = many("A", vec![args!["x", 1_i64], args!["y", 2_i64]], "RETURNING id");
        let (sql, args, places) = at_once(vec![one, many("B", vec![], ""), many("C", vec![args!["z"]], "")]);
        assert_eq!(sql, "BEGIN IMMEDIATE;A VALUES ($1,$2),($3,$4) RETURNING id;C VALUES ($5) ;COMMIT");
        assert_eq!((args.len(), places), (5, vec![None, Some(0), Some(2), None]));
        let (sql, _, places) = at_once(vec![many("B", vec![], ""), many("C", vec![args!["z"]], "")]);
        assert_eq!((sql.as_str(), places), ("C VALUES ($1) ;", vec![Some(1)]));
    }

    #[tokio::test]
    async fn what_fails_or_is_dropped_half_way_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::sqlite(&directory.path().join("catalog.sqlite")).await.unwrap();
        let insert = |name: &str| {
            let rows = vec![args![name, "v"]];
            many("INSERT INTO setting (name, value)", rows, "RETURNING name")
        };
        let delete = |name: &str| many("DELETE FROM setting WHERE name IN (", vec![args![name]], ")");
        let wrong = || many("INSERT INTO setting (name, nothing)", vec![args!["c", "v"]], "");
        assert!(database.transact("write", vec![insert("a"), wrong()]).await.is_err());
        for polls in 0..40 {
            let name = format!("dropped{polls}");
            let run = database.transact("write", vec![insert(&name), insert("b")]);
            // As far as so many looks at it bring it; the transaction has then ended or will be undone.
            let _ = futures::future::select(Box::pin(run), Box::pin(yields(polls))).await;
            // Whoever writes next finds all of it or nothing.
            database.transact("write", vec![delete("nobody")]).await.unwrap();
            let sql = "SELECT name FROM setting WHERE name IN ($1, 'b')";
            let there = database.fetch("list", sql, args![name]).await.unwrap().len();
            assert!(there == 0 || there == 2, "{there} after {polls} looks");
            database.transact("write", vec![delete("b")]).await.unwrap();
        }
        let answers = database.transact("write", vec![insert("d"), insert("e")]).await.unwrap();
        let told: Vec<String> = answers.iter().flatten().map(|row| row.text(0).unwrap()).collect();
        assert_eq!(told, ["d", "e"]);
        let there = database.fetch("list", "SELECT name FROM setting WHERE name = 'a'", args![]).await;
        assert!(there.unwrap().is_empty());
        database.close().await;
    }

    async fn yields(times: usize) {
        for _ in 0..times {
            tokio::task::yield_now().await;
        }
    }
}
