//! A capture file of what entered a link, for tshark.

use crate::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const NANOSECOND_MAGIC: u32 = 0xa1b2_3c4d;
const RAW_IP: u32 = 101;
const SNAP: u32 = 65_535;

#[derive(Debug)]
pub(crate) struct Capture(BufWriter<File>);

impl Capture {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(Error::file("create", path))?;
        let mut writer = BufWriter::with_capacity(1 << 20, file);
        let version = 2 | 4 << 16;
        for word in [NANOSECOND_MAGIC, version, 0, 0, SNAP, RAW_IP] {
            writer.write_all(&u32::to_ne_bytes(word)).map_err(Error::file("write", path))?;
        }
        Ok(Self(writer))
    }

    /// Failures show as a short file; the emulator has no time for them.
    pub(crate) fn packet(&mut self, packet: &[u8]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let length = packet.len() as u32;
        for word in [now.as_secs() as u32, now.subsec_nanos(), length, length] {
            let _ = self.0.write_all(&word.to_ne_bytes());
        }
        let _ = self.0.write_all(packet);
    }
}
