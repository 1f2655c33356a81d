//! When the kernel stamps what it receives.
//!
//! It does so while any socket asks for it, and begins a moment after the first has asked. Of what arrives before, it
//! makes up a stamp when the packet is read, which then holds the time in the queue.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use crate::outcome::Timestamp;
use crate::sys::{RecvBatch, set_option};

/// How often it is looked whether stamping has begun, and how long between.
const TRIES: usize = 200;
const PAUSE: Duration = Duration::from_micros(100);

/// Keeps the kernel stamping while it lives.
#[derive(Debug)]
pub(crate) struct Keeper {
    _socket: Option<UdpSocket>,
    begun: bool,
}

impl Keeper {
    /// Asks for stamps and waits until they come, 20 ms or so at most.
    pub(crate) fn new() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok();
        let begun = socket.as_ref().is_some_and(begins);
        Self { _socket: socket, begun }
    }

    /// Whether stamps were seen to be taken on arrival; if not, they are not to be trusted.
    pub(crate) fn stamps(&self) -> bool {
        self.begun
    }
}

/// Sends to itself until a stamp is older than its reading.
fn begins(socket: &UdpSocket) -> bool {
    let flags = libc::SOF_TIMESTAMPING_RX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE;
    let asked = set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, flags).is_ok();
    let Ok(address) = socket.local_addr() else { return false };
    let mut batch = RecvBatch::new(1, 64);
    asked
        && (0..TRIES).any(|_| {
            let sent = socket.send_to(&[0; 8], address).is_ok();
            std::thread::sleep(PAUSE);
            let before = Timestamp::now().as_nanos();
            let read = batch.receive(socket, false).is_ok_and(|count| count > 0);
            sent && read && batch.control(0).stamp.is_some_and(|stamp| stamp < before)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_stamps_once_it_is_asked() {
        assert!(Keeper::new().stamps());
    }
}
