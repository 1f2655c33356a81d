//! Room for jobs: what is on its way to a slot, by type, and telling whoever waits for one.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use imn_contract::ModuleType;
use tokio::sync::watch;

/// A job that has been taken from the queue and has no slot yet, until this is dropped: what it will need is not asked
/// for again.
#[derive(Debug)]
pub(crate) struct Claim {
    room: Arc<Room>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.room.claims.fetch_sub(1, Relaxed);
        self.room.changed.send_replace(());
    }
}

#[derive(Debug)]
struct Room {
    claims: AtomicU32,
    changed: watch::Sender<()>,
}

/// The rooms of all types.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    by_type: Mutex<HashMap<ModuleType, Arc<Room>>>,
}

impl Rooms {
    pub(super) fn claim(&self, kind: &ModuleType) -> Claim {
        let room = self.of(kind);
        room.claims.fetch_add(1, Relaxed);
        Claim { room }
    }

    pub(super) fn claims(&self, kind: &ModuleType) -> u32 {
        self.of(kind).claims.load(Relaxed)
    }

    pub(super) fn changes(&self, kind: &ModuleType) -> watch::Receiver<()> {
        self.of(kind).changed.subscribe()
    }

    /// There may be more room for a type than before.
    pub(super) fn tell(&self, kind: &ModuleType) {
        self.of(kind).changed.send_replace(());
    }

    /// There may be more room for any type.
    pub(super) fn tell_all(&self) {
        for room in self.by_type.lock().unwrap_or_else(PoisonError::into_inner).values() {
            room.changed.send_replace(());
        }
    }

    fn of(&self, kind: &ModuleType) -> Arc<Room> {
        let mut rooms = self.by_type.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = rooms.get(kind) {
            return Arc::clone(room);
        }
        let room = Arc::new(Room { claims: AtomicU32::new(0), changed: watch::Sender::new(()) });
        rooms.insert(kind.clone(), Arc::clone(&room));
        room
    }
}
