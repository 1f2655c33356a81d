//! TLVs after the packet (RFC 8972 §4): what a sender adds for size, and what a reflector makes of those it receives.

use super::key::{Key, TAG};

const HEADER: usize = 4;
/// Flags: not understood (a sender sets it always), malformed, integrity failed.
const UNRECOGNIZED: u8 = 0x80;
const MALFORMED: u8 = 0x40;
const INTEGRITY: u8 = 0x20;
const EXTRA_PADDING: u8 = 1;
const HMAC: u8 = 8;

/// Makes `bytes` one Extra Padding TLV with pseudo-random content. Fewer than four octets cannot be one and stay zero.
pub(crate) fn pad(bytes: &mut [u8]) {
    let Some(length) = bytes.len().checked_sub(HEADER).and_then(|length| u16::try_from(length).ok()) else {
        return;
    };
    rand::fill(&mut bytes[HEADER..]);
    bytes[..2].copy_from_slice(&[UNRECOGNIZED, EXTRA_PADDING]);
    bytes[2..HEADER].copy_from_slice(&length.to_be_bytes());
}

/// Turns the TLVs of a request into those of its answer, in place and in the same length: flags are set for each, and
/// the HMAC TLV is checked with the request's sequence number and made anew with the answer's (RFC 8972 §4.8).
///
/// What does not begin with a TLV as a sender writes it, flagged as unrecognized, is padding of TWAMP-light and stays.
pub fn reflect(bytes: &mut [u8], key: Option<&Key>, asked: u32, answered: u32) {
    if bytes.first().is_none_or(|flags| flags & UNRECOGNIZED == 0) {
        return;
    }
    if let Some(key) = key
        && hmac(bytes).is_some_and(|at| !verifies(bytes, at, key, asked))
    {
        each(bytes, |_, flags| *flags = INTEGRITY);
        return;
    }
    each(bytes, |(kind, whole), flags| {
        *flags = match (whole, kind, key) {
            (false, ..) => MALFORMED,
            (true, EXTRA_PADDING, _) | (true, HMAC, Some(_)) => 0,
            _ => UNRECOGNIZED,
        }
    });
    if let Some(key) = key
        && let Some(at) = hmac(bytes)
    {
        let tag = key.sign(&[&answered.to_be_bytes(), &bytes[..at]]);
        bytes[at + HEADER..at + HEADER + TAG].copy_from_slice(&tag);
    }
}

fn verifies(bytes: &[u8], at: usize, key: &Key, sequence: u32) -> bool {
    key.verify(&[&sequence.to_be_bytes(), &bytes[..at]], &bytes[at + HEADER..at + HEADER + TAG])
}

/// Where a whole HMAC TLV begins.
fn hmac(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let (kind, length) = header(&bytes[at..])?;
        let next = at + HEADER + length;
        if next > bytes.len() {
            return None;
        }
        if kind == HMAC && length == TAG {
            return Some(at);
        }
        at = next;
    }
}

/// Shows the flags of each TLV, with its type and whether all of it is there and as long as its type says.
fn each(bytes: &mut [u8], mut visit: impl FnMut((u8, bool), &mut u8)) {
    let mut at = 0;
    while let Some((kind, length)) = header(&bytes[at..]) {
        let next = at + HEADER + length;
        let whole = next <= bytes.len() && (kind != HMAC || length == TAG);
        visit((kind, whole), &mut bytes[at]);
        if next > bytes.len() {
            return;
        }
        at = next;
    }
}

fn header(bytes: &[u8]) -> Option<(u8, usize)> {
    let [_, kind, high, low] = *bytes.first_chunk::<HEADER>()?;
    Some((kind, usize::from(u16::from_be_bytes([high, low]))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_unknown_and_malformed_tlvs_are_told_apart() {
        let mut bytes = vec![0x80, 1, 0, 2, 7, 7, 0x80, 4, 0, 4, 1, 2, 3, 4, 0x80, 5, 0, 9, 1];
        reflect(&mut bytes, None, 0, 0);
        assert_eq!(bytes, [0, 1, 0, 2, 7, 7, 0x80, 4, 0, 4, 1, 2, 3, 4, 0x40, 5, 0, 9, 1]);
        let padding = vec![0; 30];
        let mut returned = padding.clone();
        reflect(&mut returned, None, 0, 0);
        assert_eq!(returned, padding);
    }

    #[test]
    fn the_hmac_tlv_is_checked_and_made_anew() {
        let key = Key::new(b"secret").unwrap();
        let mut bytes = vec![0; 12 + HEADER + TAG];
        pad(&mut bytes[..12]);
        bytes[12..16].copy_from_slice(&[UNRECOGNIZED, HMAC, 0, 16]);
        let tag = key.sign(&[&5_u32.to_be_bytes(), &bytes[..12]]);
        bytes[16..].copy_from_slice(&tag);
        let mut forged = bytes.clone();
        reflect(&mut bytes, Some(&key), 5, 3);
        assert_eq!((bytes[0], bytes[12]), (0, 0));
        assert!(key.verify(&[&3_u32.to_be_bytes(), &bytes[..12]], &bytes[16..]));
        reflect(&mut forged, Some(&key), 6, 3);
        assert_eq!((forged[0], forged[12], &forged[16..]), (INTEGRITY, INTEGRITY, &tag[..]));
    }

    #[test]
    fn padding_is_one_tlv() {
        for length in 0..40 {
            let mut bytes = vec![0; length];
            pad(&mut bytes);
            assert_eq!(header(&bytes), (length >= HEADER).then(|| (EXTRA_PADDING, length - HEADER)));
            reflect(&mut bytes, None, 0, 0);
            assert!(bytes.first().is_none_or(|flags| *flags == 0));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]
        #[test]
        fn any_bytes_are_reflected(mut bytes in prop::collection::vec(any::<u8>(), 0..120), short: bool) {
            if short {
                // Lengths that fit, so that walks get far.
                bytes.iter_mut().skip(2).step_by(4).for_each(|high| *high = 0);
            }
            let key = Key::new(b"k");
            reflect(&mut bytes, key.as_ref(), 1, 2);
            reflect(&mut bytes, None, 1, 2);
        }
    }
}
