//! MRT files (RFC 6396, RFC 8050): updates as BGP4MP, tables as TABLE_DUMP_V2.

use std::{
    io::{self, Read},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};

use super::{
    Fault, FaultCode, Filter, Update,
    message::{self, AddPath, Context, Cursor, Family},
};
use crate::Timestamp;

mod peers;

use peers::Peers;

/// Bytes of a record's header.
const HEADER: usize = 12;
/// Longest record that is read: a table's entry from 65,535 peers comes near it. Longer ones are skipped.
pub const MAX_RECORD: u32 = 16 * 1024 * 1024;
/// A record grows in memory only as its bytes arrive, by so much.
const STEP: usize = 64 * 1024;

const OSPFV2: u16 = 11;
const TABLE_DUMP: u16 = 12;
const TABLE_DUMP_V2: u16 = 13;
const BGP4MP: u16 = 16;
const BGP4MP_ET: u16 = 17;
const ISIS: u16 = 32;
const OSPFV3_ET: u16 = 49;

/// Reads records one after the other, whoever wrote them, in memory that does not grow with the file.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    collector: Arc<str>,
    peers: Option<Peers>,
    buffer: BytesMut,
    /// Where the next record begins.
    offset: u64,
    ended: bool,
    counts: Counts,
}

/// What was read so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records, whole ones.
    pub records: u64,
    /// Bytes of records, after decompression.
    pub bytes: u64,
    /// Prefixes announced or withdrawn, wanted or not.
    pub prefixes: u64,
    /// Records that could not be read, or not wholly.
    pub faults: u64,
}

/// A record as it stands in the file.
struct Record {
    seconds: u32,
    kind: u16,
    subtype: u16,
    body: Bytes,
}

impl<R: Read> Reader<R> {
    /// Reads from `input`, already decompressed; `collector` is told with each update.
    pub fn new(input: R, collector: &str) -> Self {
        Self {
            input,
            collector: collector.into(),
            peers: None,
            buffer: BytesMut::new(),
            offset: 0,
            ended: false,
            counts: Counts::default(),
        }
    }

    /// What was read so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Reads the next record and adds to `out` the updates that the filter wants; `None` at the end of the input.
    ///
    /// After an error the next call goes on behind the record; where the input is cut or cannot be read, it ends.
    ///
    /// # Errors
    /// What is wrong with the record. Updates may have been added before it came to that; they are good.
    pub fn read(&mut self, filter: &Filter, out: &mut Vec<Update>) -> Option<Result<(), Fault>> {
        if self.ended {
            return None;
        }
        let at = self.offset;
        let read = match self.record() {
            Ok(None) => {
                self.ended = true;
                return None;
            }
            Ok(Some(record)) => {
                self.counts.records += 1;
                self.decode(&record, filter, out)
            }
            Err(fault) => Err(fault),
        };
        Some(read.map_err(|fault| {
            self.counts.faults += 1;
            Fault::new(fault.code, format!("record at byte {at}: {}", fault.text))
        }))
    }

    /// The next whole record; `None` at an end between records.
    fn record(&mut self) -> Result<Option<Record>, Fault> {
        let mut header = [0; HEADER];
        let have = self.fill(&mut header)?;
        if have == 0 {
            return Ok(None);
        }
        if have < HEADER {
            return Err(self.cut(format!("its header has {have} bytes of {HEADER}")));
        }
        let mut cursor = Cursor::new(&header);
        let (Some(seconds), Some(kind), Some(subtype), Some(length)) =
            (cursor.u32(), cursor.u16(), cursor.u16(), cursor.u32())
        else {
            return Err(self.cut("its header is cut".to_owned()));
        };
        self.offset += HEADER as u64 + u64::from(length);
        self.counts.bytes += HEADER as u64;
        if length > MAX_RECORD {
            let skipped = self.skip(u64::from(length))?;
            if skipped < u64::from(length) {
                return Err(self.cut(format!("it says {length} bytes and has {skipped}")));
            }
            return Err(Fault::new(FaultCode::Length, format!("{length} bytes are more than are read")));
        }
        let body = self.body(length as usize)?;
        Ok(Some(Record { seconds, kind, subtype, body }))
    }

    /// Reads a body; its memory grows as the bytes come, so that a length that lies costs nothing.
    fn body(&mut self, length: usize) -> Result<Bytes, Fault> {
        self.buffer.clear();
        while self.buffer.len() < length {
            let have = self.buffer.len();
            let more = STEP.min(length - have);
            self.buffer.resize(have + more, 0);
            let mut buffer = std::mem::take(&mut self.buffer);
            let got = self.fill(&mut buffer[have..]);
            self.buffer = buffer;
            let got = got?;
            if got < more {
                return Err(self.cut(format!("it says {length} bytes and has {}", have + got)));
            }
        }
        self.counts.bytes += length as u64;
        Ok(self.buffer.split_to(length).freeze())
    }

    /// Fills as much of `into` as the input has.
    fn fill(&mut self, into: &mut [u8]) -> Result<usize, Fault> {
        let mut have = 0;
        while have < into.len() {
            match self.input.read(&mut into[have..]) {
                Ok(0) => break,
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.ended = true;
                    return Err(io_fault(&error));
                }
            }
        }
        Ok(have)
    }

    fn skip(&mut self, length: u64) -> Result<u64, Fault> {
        let mut left = length;
        let mut scrap = vec![0; STEP];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(STEP).min(STEP);
            let got = self.fill(&mut scrap[..want])?;
            left -= got as u64;
            if got < want {
                break;
            }
        }
        Ok(length - left)
    }

    fn cut(&mut self, text: String) -> Fault {
        self.ended = true;
        Fault::new(FaultCode::Cut, text)
    }

    fn decode(&mut self, record: &Record, filter: &Filter, out: &mut Vec<Update>) -> Result<(), Fault> {
        let mut micros = 0;
        let mut body = record.body.clone();
        if record.kind == BGP4MP_ET {
            micros = Cursor::new(&body).u32().ok_or_else(|| envelope("has no microseconds"))?;
            if micros >= 1_000_000 {
                return Err(envelope(format!("{micros} microseconds are more than a second")));
            }
            body = body.slice(4..);
        }
        let nanos = u64::from(record.seconds) * 1_000_000_000 + u64::from(micros) * 1000;
        let time = Timestamp::from_nanos(nanos);
        match record.kind {
            BGP4MP | BGP4MP_ET => {
                self.counts.prefixes += bgp4mp(record.subtype, &body, time, &self.collector, filter, out)?;
                Ok(())
            }
            TABLE_DUMP_V2 => self.table(record.subtype, &body, time, filter, out),
            // Of other protocols, and the table format of before 2008.
            OSPFV2 | TABLE_DUMP | ISIS..=OSPFV3_ET => {
                Err(Fault::new(FaultCode::Type, format!("records of type {} are not read", record.kind)))
            }
            kind => Err(Fault::new(FaultCode::Type, format!("{kind} is no type of record"))),
        }
    }

    fn table(
        &mut self,
        subtype: u16,
        body: &Bytes,
        time: Timestamp,
        filter: &Filter,
        out: &mut Vec<Update>,
    ) -> Result<(), Fault> {
        let (family, add_path) = match subtype {
            1 => {
                // An index that cannot be read must not leave the one before in force.
                self.peers = None;
                self.peers = Some(Peers::read(body)?);
                return Ok(());
            }
            2 => (Family::V4, false),
            4 => (Family::V6, false),
            8 => (Family::V4, true),
            10 => (Family::V6, true),
            // Multicast, generic and geographic entries are of other families than ours.
            3 | 5..=7 | 9 | 11 | 12 => return Ok(()),
            _ => return Err(Fault::new(FaultCode::Type, format!("{subtype} is no subtype of a table"))),
        };
        let peers = self.peers.as_ref();
        let peers = peers.ok_or_else(|| Fault::new(FaultCode::Peer, "no table of peers comes before it"))?;
        let cut = || envelope("an entry runs out of the record");
        let mut cursor = Cursor::new(body);
        // A sequence number.
        cursor.u32().ok_or_else(cut)?;
        let (_, prefix) = message::prefix(&mut cursor, family, false)
            .ok_or_else(|| Fault::new(FaultCode::Nlri, "its prefix does not fit"))?;
        let entries = cursor.u16().ok_or_else(cut)?;
        self.counts.prefixes += u64::from(entries);
        if !filter.wants(&prefix) {
            return Ok(());
        }
        let mut first = None;
        for _ in 0..entries {
            let index = cursor.u16().ok_or_else(cut)?;
            // When the route was learned: long ago, and not when it was seen here.
            cursor.u32().ok_or_else(cut)?;
            let path_id = if add_path { Some(cursor.u32().ok_or_else(cut)?) } else { None };
            let start = cursor.at + 2;
            let length = cursor.counted().ok_or_else(cut)?.len();
            let Some(peer) = peers.get(index) else {
                let text = format!("an entry names peer {index} of {}", peers.len());
                first.get_or_insert(Fault::new(FaultCode::Peer, text));
                continue;
            };
            let context = Context {
                peer_asn: peer.asn,
                peer_address: peer.address,
                time,
                collector: Arc::clone(&self.collector),
                // In a table they always have (RFC 6396 section 4.3.4).
                wide_asn: true,
                add_path: AddPath::default(),
                snapshot: true,
            };
            let attributes = body.slice(start..start + length);
            if let Err(fault) = message::entry(prefix, path_id, attributes, &context, out) {
                first.get_or_insert(fault);
            }
        }
        if !cursor.is_empty() {
            first.get_or_insert(envelope("has bytes behind its last entry"));
        }
        first.map_or(Ok(()), Err)
    }
}

/// A message in its envelope (RFC 6396 section 4.4, RFC 8050 section 3).
fn bgp4mp(
    subtype: u16,
    body: &Bytes,
    time: Timestamp,
    collector: &Arc<str>,
    filter: &Filter,
    out: &mut Vec<Update>,
) -> Result<u64, Fault> {
    let (wide_asn, add_path) = match subtype {
        // Changes of state.
        0 | 5 => return Ok(0),
        1 | 6 => (false, false),
        4 | 7 => (true, false),
        8 | 10 => (false, true),
        9 | 11 => (true, true),
        _ => return Err(Fault::new(FaultCode::Type, format!("{subtype} is no subtype of BGP4MP"))),
    };
    let mut cursor = Cursor::new(body);
    let mut read = || {
        let mut asn = || if wide_asn { cursor.u32() } else { cursor.u16().map(u32::from) };
        let (peer, _local) = (asn()?, asn()?);
        let _interface = cursor.u16()?;
        let family = match cursor.u16()? {
            1 => Family::V4,
            2 => Family::V6,
            _ => return None,
        };
        let address = cursor.address(family)?;
        cursor.address(family)?;
        Some((peer, address))
    };
    let (peer_asn, peer_address) = read().ok_or_else(|| envelope("its peers cannot be read"))?;
    let context = Context {
        peer_asn,
        peer_address,
        time,
        collector: Arc::clone(collector),
        wide_asn,
        add_path: if add_path { AddPath::ALL } else { AddPath::default() },
        snapshot: false,
    };
    message::read(&body.slice(cursor.at..), &context, filter, out)
}

fn envelope(text: impl Into<String>) -> Fault {
    Fault::new(FaultCode::Envelope, text)
}

/// Decompressors say so when their stream is damaged.
fn io_fault(error: &io::Error) -> Fault {
    let code = match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => FaultCode::Compression,
        io::ErrorKind::UnexpectedEof => FaultCode::Cut,
        _ => FaultCode::Io,
    };
    Fault::new(code, error.to_string())
}
