//! Nonces that a key is to be shown over: signed instead of remembered, so that asking for many costs no memory.

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use rand::Rng;
use sha2::Sha256;

/// How long a nonce is good for, in microseconds.
const GOOD_FOR_US: i64 = 120_000_000;
const TIME: usize = 8;
const RANDOM: usize = 16;

/// Makes nonces and knows its own again.
pub(super) struct Nonces {
    key: [u8; 64],
}

impl Nonces {
    pub(super) fn new() -> Self {
        let mut key = [0; 64];
        rand::rng().fill_bytes(&mut key);
        Self { key }
    }

    /// A fresh nonce, and when it ends.
    pub(super) fn fresh(&self, now_us: i64) -> (String, i64) {
        let end = now_us + GOOD_FOR_US;
        let mut bytes = Vec::with_capacity(TIME + RANDOM + 32);
        bytes.extend_from_slice(&end.to_be_bytes());
        let mut random = [0; RANDOM];
        rand::rng().fill_bytes(&mut random);
        bytes.extend_from_slice(&random);
        let tag = self.mac(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&tag);
        (BASE64URL_NOPAD.encode(&bytes), end)
    }

    /// Whether a nonce was made here and has not ended.
    pub(super) fn is_good(&self, nonce: &str, now_us: i64) -> bool {
        let Ok(bytes) = BASE64URL_NOPAD.decode(nonce.as_bytes()) else { return false };
        let Some((said, tag)) = bytes.split_at_checked(TIME + RANDOM) else { return false };
        let end = said.first_chunk::<TIME>().map_or(0, |end| i64::from_be_bytes(*end));
        self.mac(said).verify_slice(tag).is_ok() && now_us < end
    }

    fn mac(&self, bytes: &[u8]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&self.key.into());
        mac.update(bytes);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_known_where_it_was_made_and_in_its_time() {
        let nonces = Nonces::new();
        let (nonce, end) = nonces.fresh(5);
        assert!(nonces.is_good(&nonce, 5) && nonces.is_good(&nonce, end - 1));
        assert!(!nonces.is_good(&nonce, end));
        assert!(!Nonces::new().is_good(&nonce, 5), "another server's");
        let mut later = BASE64URL_NOPAD.decode(nonce.as_bytes()).unwrap();
        later[0] = 0x7f;
        for wrong in ["", "*", "AAAA", &nonce[1..], &BASE64URL_NOPAD.encode(&later)] {
            assert!(!nonces.is_good(wrong, 5), "{wrong}");
        }
        assert_ne!(nonces.fresh(5).0, nonce);
    }
}
