use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Octets of a truncated HMAC.
pub(crate) const TAG: usize = 16;
/// Longest key file taken.
const LONGEST: u64 = 4096;

/// The shared secret of authenticated mode: HMAC-SHA-256 truncated to 128 bits (RFC 8762 §4.4).
///
/// It is never shown.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

/// Why a key could not be read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read.
    #[error("read key file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has no key.
    #[error("key file {}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Key {
    /// From the secret itself, of any length.
    pub fn new(secret: &[u8]) -> Option<Self> {
        Hmac::new_from_slice(secret).ok().map(Self)
    }

    /// Reads the first line of a file: the secret as it stands, or in hexadecimal after `hex:`.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let content = |reason| KeyError::Content { path: path.to_owned(), reason };
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        let meta = std::fs::metadata(path).map_err(failed)?;
        if !meta.is_file() || meta.len() > LONGEST {
            return Err(content("is no file of at most 4096 bytes"));
        }
        let bytes = std::fs::read(path).map_err(failed)?;
        let line = bytes.split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
        let secret = match line.strip_prefix(b"hex:") {
            Some(digits) => {
                hexadecimal(digits).ok_or_else(|| content("hex: is not followed by pairs of digits"))?
            }
            None => line.to_vec(),
        };
        if secret.is_empty() {
            return Err(content("the first line is empty; write the secret on it"));
        }
        Self::new(&secret).ok_or_else(|| content("is no key"))
    }

    /// The tag over the parts, one after the other.
    pub(crate) fn sign(&self, parts: &[&[u8]]) -> [u8; TAG] {
        let whole = self.over(parts).finalize().into_bytes();
        let mut tag = [0; TAG];
        tag.copy_from_slice(&whole[..TAG]);
        tag
    }

    /// Whether the tag is that over the parts, in constant time.
    pub(crate) fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        tag.len() == TAG && self.over(parts).verify_truncated_left(tag).is_ok()
    }

    fn over(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

fn hexadecimal(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_tag_and_no_secret_in_sight() {
        // RFC 4868 §2.7.2.1, test case 2, truncated to 128 bits.
        let key = Key::new(b"Jefe").unwrap();
        let tag = key.sign(&[b"what do ya want ", b"for nothing?"]);
        assert_eq!(
            tag,
            [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e, 0x6a, 0x04, 0x24, 0x26, 0x08, 0x95, 0x75, 0xc7]
        );
        assert!(key.verify(&[b"what do ya want for nothing?"], &tag));
        assert!(!key.verify(&[b"what do ya want for nothing!"], &tag));
        assert!(!key.verify(&[b"what do ya want for nothing?"], &tag[..8]));
        assert_eq!(format!("{key:?}"), "Key(…)");
    }

    #[test]
    fn hexadecimal_digits_come_in_pairs() {
        assert_eq!(hexadecimal(b"00fF7a"), Some(vec![0, 255, 0x7a]));
        assert_eq!(hexadecimal(b"00f"), None);
        assert_eq!(hexadecimal(b"0g"), None);
    }
}
