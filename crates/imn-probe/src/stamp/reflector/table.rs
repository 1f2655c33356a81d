use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// A session that has been silent for this long makes room for a new one where there is no other.
const IDLE: u64 = 10_000_000_000;
/// A full table is searched for room at most this often.
const SEARCH: u64 = 1_000_000_000;

/// What tells sessions apart: both ends, and the session identifier (RFC 8972 §3).
pub(crate) type Name = (SocketAddr, IpAddr, u16, u16);

/// The number of the answer that is about to be sent.
#[derive(Debug)]
pub(crate) struct Claim {
    name: Name,
    pub(crate) count: u32,
}

/// The counts of a stateful reflector's sessions.
#[derive(Debug)]
pub(crate) struct Table {
    /// Per session: the next number, and when it was last heard of.
    sessions: HashMap<Name, (u32, u64)>,
    most: usize,
    timeout: u64,
    search_at: u64,
}

impl Table {
    pub(crate) fn new(most: usize, timeout: u64) -> Self {
        Self { sessions: HashMap::new(), most, timeout, search_at: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// The next number of a session; `None` when it is new and there is no room.
    pub(crate) fn claim(&mut self, name: Name, now: u64) -> Option<Claim> {
        if let Some(session) = self.sessions.get_mut(&name) {
            if session.1 + self.timeout <= now {
                session.0 = 0;
            }
            session.1 = now;
            return Some(Claim { name, count: session.0 });
        }
        if self.sessions.len() >= self.most && !self.make_room(now) {
            return None;
        }
        self.sessions.insert(name, (0, now));
        Some(Claim { name, count: 0 })
    }

    /// The answer of a claim was sent.
    pub(crate) fn answered(&mut self, claim: &Claim) {
        if let Some(session) = self.sessions.get_mut(&claim.name) {
            session.0 = claim.count.wrapping_add(1);
        }
    }

    fn make_room(&mut self, now: u64) -> bool {
        if now < self.search_at {
            return false;
        }
        self.search_at = now + SEARCH;
        for idle in [self.timeout, IDLE.min(self.timeout)] {
            self.sessions.retain(|_, session| session.1 + idle > now);
            if self.sessions.len() < self.most {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn name(port: u16) -> Name {
        (([192, 0, 2, 1], port).into(), [192, 0, 2, 9].into(), 862, 7)
    }

    #[test]
    fn each_session_has_its_own_count_of_answers() {
        let mut table = Table::new(10, 900 * S);
        for count in 0..3 {
            let claim = table.claim(name(1), S).unwrap();
            assert_eq!(claim.count, count);
            table.answered(&claim);
        }
        // Not sent, not counted.
        assert_eq!(table.claim(name(1), S).unwrap().count, 3);
        assert_eq!(table.claim(name(1), 2 * S).unwrap().count, 3);
        let other = (name(1).0, name(1).1, 862, 8);
        assert_eq!(table.claim(other, S).unwrap().count, 0);
        assert_eq!(table.claim(name(1), 902 * S).unwrap().count, 0);
    }

    #[test]
    fn a_full_table_keeps_those_that_are_active() {
        let mut table = Table::new(100, 900 * S);
        for port in 0..100 {
            let claim = table.claim(name(port), S).unwrap();
            table.answered(&claim);
        }
        assert!(table.claim(name(1000), 2 * S).is_none());
        for port in 0..50 {
            table.claim(name(port), 8 * S).unwrap();
        }
        assert_eq!(table.claim(name(1000), 12 * S).unwrap().count, 0);
        assert_eq!(table.len(), 51);
        assert_eq!(table.claim(name(7), 12 * S).unwrap().count, 1);
    }
}
