//! Names to addresses, by the system's resolver: what every program on this host would connect to.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::error::Cause;
use super::spec::Family;

/// Addresses that are recorded at most; no name in use has nearly as many.
const MOST: usize = 128;

/// What a name stands for.
pub(super) struct Resolved {
    /// All its addresses, in the resolver's order.
    pub(super) addresses: Vec<IpAddr>,
    /// How long the resolver took.
    pub(super) elapsed: Duration,
}

/// All addresses of a name. The resolver blocks a thread; time spent waiting for a thread is not counted, and having
/// got none until the deadline is this host's fault and not the name's.
pub(super) async fn resolve(name: &str, deadline: Instant) -> Result<Resolved, Cause> {
    let begun = Arc::new(OnceLock::new());
    let (name, begin) = (name.to_owned(), Arc::clone(&begun));
    let work = tokio::task::spawn_blocking(move || {
        let begin = *begin.get_or_init(Instant::now);
        let found = (name.as_str(), 0).to_socket_addrs();
        (found.map(|found| found.map(|address| address.ip()).take(MOST).collect()), begin.elapsed())
    });
    let Ok(done) = timeout_at(deadline.into(), work).await else {
        return Err(if begun.get().is_some() { Cause::Timeout } else { Cause::Busy });
    };
    let Ok((found, elapsed)) = done else { return Err(Cause::Busy) };
    let mut addresses: Vec<IpAddr> = found.map_err(|error| Cause::Resolve(error.to_string()))?;
    let mut seen = Vec::with_capacity(addresses.len());
    addresses.retain(|address| {
        let new = !seen.contains(address);
        seen.push(*address);
        new
    });
    Ok(Resolved { addresses, elapsed })
}

/// The address that is measured.
pub(super) fn choose(addresses: &[IpAddr], family: Family) -> Result<IpAddr, Cause> {
    addresses.iter().copied().find(|address| family.admits(*address)).ok_or(Cause::NoAddress(family))
}
