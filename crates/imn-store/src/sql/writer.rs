//! The connection that writes SQLite.

use std::sync::Arc;

use sqlx::{
    ConnectOptions as _, Connection as _,
    sqlite::{SqliteConnectOptions, SqliteConnection},
};
use tokio::sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard};

/// The one connection that writes; who wants it waits here, in the order of coming, and not in SQLite's busy handler. It
/// is no pool's: a pool pings what comes back to it, which wakes the connection's thread and ours once more for each
/// transaction. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    options: Arc<SqliteConnectOptions>,
    /// `None` when closed.
    slot: Arc<Mutex<Option<Slot>>>,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) connection: SqliteConnection,
    /// Whether a transaction may be under way on it. Who fails, or is dropped half-way, leaves it so until the next comes; no
    /// other process writes, and readers see what was there before.
    begun: bool,
}

/// The connection, for one transaction.
pub(super) type Lease = OwnedMappedMutexGuard<Option<Slot>, Slot>;

impl Writer {
    pub(super) async fn open(options: SqliteConnectOptions) -> Result<Self, sqlx::Error> {
        let slot = Slot { connection: options.connect().await?, begun: false };
        Ok(Self { options: Arc::new(options), slot: Arc::new(Mutex::new(Some(slot))) })
    }

    /// The connection, when its turn comes, free of what others began. What is begun on it is undone before the next has
    /// it, unless [`Slot::ended`] is told.
    pub(super) async fn lease(&self) -> Result<Lease, sqlx::Error> {
        let slot = self.slot.clone().lock_owned().await;
        let mut lease =
            OwnedMutexGuard::try_map(slot, Option::as_mut).map_err(|_| sqlx::Error::PoolClosed)?;
        // Nothing to undo is an error as well: it had ended, or SQLite has undone it, as it does on a full disk. What state
        // the connection is in is then not known.
        if lease.begun && sqlx::raw_sql("ROLLBACK").execute(&mut lease.connection).await.is_err() {
            lease.connection = self.options.connect().await?;
        }
        lease.begun = true;
        Ok(lease)
    }

    /// Waits until the connection is closed; it can be had no more.
    pub(super) async fn close(&self) {
        if let Some(slot) = self.slot.lock().await.take()
            && let Err(error) = slot.connection.close().await
        {
            tracing::debug!(%error, "SQLite not closed in order");
        }
    }
}

impl Slot {
    /// What was begun has ended.
    pub(super) fn ended(&mut self) {
        self.begun = false;
    }
}
