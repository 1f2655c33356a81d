//! Updates and sessions.

use imn_contract::latest::{BgpSession, BgpUpdate};
use imn_probe::{
    Timestamp,
    bgp::{Match, Route, Session, SessionState, Update},
};
use imn_runtime::clock;

/// Communities told of one update, at most.
const COMMUNITIES: usize = 64;
/// Longest path told, in bytes.
const PATH: usize = 1_000;

pub(crate) fn update(update: &Update) -> BgpUpdate {
    let route = update.route.as_deref();
    let origins: Vec<u32> = route.into_iter().flat_map(Route::origins).take(COMMUNITIES).collect();
    BgpUpdate {
        timestamp: time(update.time),
        prefix: update.prefix.to_string(),
        kind: update.kind().to_string(),
        peer_asn: update.peer_asn,
        peer_address: update.peer_address.to_string(),
        origin_asn: update.origin_asn(),
        origin_set: if origins.len() > 1 { origins } else { Vec::new() },
        as_path: route.map(|route| clip(route.as_path())),
        next_hop: route.and_then(|route| route.next_hop).map(|hop| hop.to_string()),
        communities: route.into_iter().flat_map(Route::communities).take(COMMUNITIES).collect(),
        collector: update.collector.to_string(),
        path_id: update.path_id,
        snapshot: update.snapshot,
    }
}

pub(crate) fn session(session: &Session) -> BgpSession {
    BgpSession {
        timestamp: time(session.time),
        collector: session.collector.to_string(),
        peer_address: session.peer.map(|(address, _)| address.to_string()),
        up: session.state == SessionState::Up,
        reason: match &session.state {
            SessionState::Down(reason) => Some(reason.clone()),
            _ => None,
        },
    }
}

pub(crate) const fn how(how: Match) -> &'static str {
    match how {
        Match::Exact => "exact",
        Match::MoreSpecific => "more_specific",
        Match::Covering => "covering",
        Match::Any => "any",
    }
}

/// A path as long as anybody reads; a longer one ends in dots.
pub(crate) fn clip(mut path: String) -> String {
    if path.len() > PATH {
        path.truncate(PATH);
        path.push_str(" …");
    }
    path
}

fn time(time: Timestamp) -> String {
    clock::rfc3339((time.as_nanos() / 1000) as i64)
}
