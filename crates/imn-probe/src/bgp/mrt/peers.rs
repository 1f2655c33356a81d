//! The table of peers that the entries of a table refer to.

use std::net::IpAddr;

use bytes::Bytes;

use crate::bgp::{
    Fault, FaultCode,
    message::{Cursor, Family},
};

const IPV6: u8 = 1;
const WIDE_ASN: u8 = 2;

/// PEER_INDEX_TABLE (RFC 6396 section 4.3.1).
#[derive(Debug)]
pub(super) struct Peers(Vec<Peer>);

#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub asn: u32,
    pub address: IpAddr,
}

impl Peers {
    /// Reads the table: whole, or not at all, since a missing peer would shift nothing but the blame.
    pub(super) fn read(body: &Bytes) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(body);
        let mut read = || {
            let _collector = cursor.u32()?;
            let _view = cursor.counted()?;
            let count = cursor.u16()?;
            let mut peers = Vec::new();
            for _ in 0..count {
                let flags = cursor.u8()?;
                let _id = cursor.u32()?;
                let family = if flags & IPV6 == 0 { Family::V4 } else { Family::V6 };
                let address = cursor.address(family)?;
                let asn = if flags & WIDE_ASN == 0 { cursor.u16().map(u32::from) } else { cursor.u32() };
                peers.push(Peer { asn: asn?, address });
            }
            Some(peers)
        };
        let peers = read().ok_or_else(|| Fault::new(FaultCode::Envelope, "the table of peers is cut"))?;
        Ok(Self(peers))
    }

    pub(super) fn get(&self, index: u16) -> Option<Peer> {
        self.0.get(usize::from(index)).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
