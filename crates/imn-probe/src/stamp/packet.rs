//! The four packets of RFC 8762: sender and reflector, unauthenticated and authenticated.

use super::estimate::ErrorEstimate;
use super::key::{Key, TAG};
use super::tlv;

/// UDP port of reflectors.
pub const PORT: u16 = 862;
/// Octets of an unauthenticated packet without TLVs.
pub const UNAUTHENTICATED: usize = 44;
/// Octets of an authenticated packet without TLVs.
pub const AUTHENTICATED: usize = 112;
/// The least request of a TWAMP-light sender (RFC 5357 §4.1.2): sequence number, time stamp, error estimate.
const LEAST_REQUEST: usize = 14;
/// The least answer of a TWAMP-light reflector (RFC 5357 §4.2.1).
const LEAST_ANSWER: usize = 41;
/// What an HMAC is over (RFC 8762 §4.4): six blocks, which its field follows.
const SIGNED: usize = 96;

/// Octets of a packet without TLVs.
pub(crate) const fn base(authenticated: bool) -> usize {
    if authenticated { AUTHENTICATED } else { UNAUTHENTICATED }
}

/// Why bytes are no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// There are too few.
    Short,
    /// The HMAC is another.
    Unauthentic,
}

/// What a sender writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Request {
    /// Counts from 0.
    pub sequence: u32,
    /// When it was sent.
    pub timestamp: u64,
    /// What the sender knows of its clock.
    pub estimate: ErrorEstimate,
    /// Session identifier (RFC 8972 §3); 0 is none.
    pub ssid: u16,
}

impl Request {
    /// Writes the fields at the front of `bytes`, of at least [`base`] octets and zero but for TLVs.
    pub fn write(&self, bytes: &mut [u8], key: Option<&Key>) {
        let at = if key.is_some() { [0, 16, 24, 26] } else { [0, 4, 12, 14] };
        put(bytes, at[0], &self.sequence.to_be_bytes());
        put(bytes, at[1], &self.timestamp.to_be_bytes());
        put(bytes, at[2], &self.estimate.bits().to_be_bytes());
        put(bytes, at[3], &self.ssid.to_be_bytes());
        sign(bytes, key);
    }

    /// Reads a request of this protocol or of TWAMP-light.
    pub fn parse(bytes: &[u8], key: Option<&Key>) -> Result<Self, Malformed> {
        check(bytes, key, LEAST_REQUEST)?;
        let at = if key.is_some() { [0, 16, 24, 26] } else { [0, 4, 12, 14] };
        // What must be zero is padding with TWAMP-light, which knows no session identifier and may fill it at random.
        let end = base(key.is_some()) - if key.is_some() { TAG } else { 0 };
        let zero = bytes.get(at[3] + 2..end).is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
        Ok(Self {
            sequence: u32::from_be_bytes(array(bytes, at[0])),
            timestamp: u64::from_be_bytes(array(bytes, at[1])),
            estimate: ErrorEstimate::from_bits(u16::from_be_bytes(array(bytes, at[2]))),
            ssid: if zero { u16::from_be_bytes(array(bytes, at[3])) } else { 0 },
        })
    }
}

/// What a reflector writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answer {
    /// The request's sequence number, or the reflector's own count.
    pub sequence: u32,
    /// When the answer was sent.
    pub timestamp: u64,
    /// What the reflector knows of its clock.
    pub estimate: ErrorEstimate,
    /// The request's session identifier; 0 from a reflector that knows none.
    pub ssid: u16,
    /// When the request was received.
    pub received: u64,
    /// The request's sequence number.
    pub sender_sequence: u32,
    /// The request's time stamp.
    pub sender_timestamp: u64,
    /// The request's error estimate.
    pub sender_estimate: ErrorEstimate,
    /// The TTL or hop limit with which the request arrived.
    pub sender_ttl: u8,
}

impl Answer {
    /// Writes the answer to `request` into `bytes`, which are as many as the request's: never more goes back than came.
    pub fn write(&self, request: &[u8], bytes: &mut [u8], key: Option<&Key>) {
        let mut whole = [0; AUTHENTICATED];
        let at = Fields::of(key.is_some());
        put(&mut whole, 0, &self.sequence.to_be_bytes());
        put(&mut whole, at.timestamp, &self.timestamp.to_be_bytes());
        put(&mut whole, at.estimate, &self.estimate.bits().to_be_bytes());
        put(&mut whole, at.estimate + 2, &self.ssid.to_be_bytes());
        put(&mut whole, at.received, &self.received.to_be_bytes());
        put(&mut whole, at.sender_sequence, &self.sender_sequence.to_be_bytes());
        put(&mut whole, at.sender_timestamp, &self.sender_timestamp.to_be_bytes());
        put(&mut whole, at.sender_estimate, &self.sender_estimate.bits().to_be_bytes());
        whole[at.sender_ttl] = self.sender_ttl;
        sign(&mut whole, key);
        let base = base(key.is_some());
        let front = base.min(bytes.len());
        bytes[..front].copy_from_slice(&whole[..front]);
        if let (Some(to), Some(from)) = (bytes.get_mut(base..), request.get(base..))
            && to.len() == from.len()
        {
            to.copy_from_slice(from);
            tlv::reflect(to, key, self.sender_sequence, self.sequence);
        }
    }

    /// Reads an answer of this protocol or of TWAMP-light.
    pub fn parse(bytes: &[u8], key: Option<&Key>) -> Result<Self, Malformed> {
        check(bytes, key, LEAST_ANSWER)?;
        let at = Fields::of(key.is_some());
        let estimate = |at| ErrorEstimate::from_bits(u16::from_be_bytes(array(bytes, at)));
        Ok(Self {
            sequence: u32::from_be_bytes(array(bytes, 0)),
            timestamp: u64::from_be_bytes(array(bytes, at.timestamp)),
            estimate: estimate(at.estimate),
            ssid: u16::from_be_bytes(array(bytes, at.estimate + 2)),
            received: u64::from_be_bytes(array(bytes, at.received)),
            sender_sequence: u32::from_be_bytes(array(bytes, at.sender_sequence)),
            sender_timestamp: u64::from_be_bytes(array(bytes, at.sender_timestamp)),
            sender_estimate: estimate(at.sender_estimate),
            sender_ttl: array::<1>(bytes, at.sender_ttl)[0],
        })
    }
}

/// Where the fields of an answer are (RFC 8762 figures 4 and 6).
struct Fields {
    timestamp: usize,
    estimate: usize,
    received: usize,
    sender_sequence: usize,
    sender_timestamp: usize,
    sender_estimate: usize,
    sender_ttl: usize,
}

impl Fields {
    const fn of(authenticated: bool) -> Self {
        if authenticated {
            Self {
                timestamp: 16,
                estimate: 24,
                received: 32,
                sender_sequence: 48,
                sender_timestamp: 64,
                sender_estimate: 72,
                sender_ttl: 80,
            }
        } else {
            Self {
                timestamp: 4,
                estimate: 12,
                received: 16,
                sender_sequence: 24,
                sender_timestamp: 28,
                sender_estimate: 36,
                sender_ttl: 40,
            }
        }
    }
}

fn check(bytes: &[u8], key: Option<&Key>, least: usize) -> Result<(), Malformed> {
    let Some(key) = key else {
        return if bytes.len() < least { Err(Malformed::Short) } else { Ok(()) };
    };
    let (Some(signed), Some(tag)) = (bytes.get(..SIGNED), bytes.get(SIGNED..AUTHENTICATED)) else {
        return Err(Malformed::Short);
    };
    if key.verify(&[signed], tag) { Ok(()) } else { Err(Malformed::Unauthentic) }
}

fn sign(bytes: &mut [u8], key: Option<&Key>) {
    if let Some(key) = key
        && bytes.len() >= AUTHENTICATED
    {
        let tag = key.sign(&[&bytes[..SIGNED]]);
        put(bytes, SIGNED, &tag);
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// The octets at a place; zeros where there are none.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> Option<Key> {
        Key::new(b"a shared secret")
    }

    #[test]
    fn fields_are_where_rfc_8762_draws_them() {
        let request = Request {
            sequence: 0x0102_0304,
            timestamp: 0x1112_1314_1516_1718,
            estimate: ErrorEstimate::from_bits(0x8501),
            ssid: 0xabcd,
        };
        let mut bytes = [0; UNAUTHENTICATED];
        request.write(&mut bytes, None);
        assert_eq!(
            bytes[..16],
            [1, 2, 3, 4, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x85, 1, 0xab, 0xcd]
        );
        let mut bytes = [0; AUTHENTICATED];
        request.write(&mut bytes, key().as_ref());
        assert_eq!((bytes[3], bytes[4], bytes[16], bytes[24], bytes[26]), (4, 0, 0x11, 0x85, 0xab));
        assert_eq!(bytes[96..], key().unwrap().sign(&[&bytes[..96]]));
        bytes[40] ^= 1;
        assert_eq!(Request::parse(&bytes, key().as_ref()), Err(Malformed::Unauthentic));
        assert_eq!(Request::parse(&bytes[..111], key().as_ref()), Err(Malformed::Short));
    }

    #[test]
    fn padding_of_twamp_light_is_no_session_identifier() {
        let mut bytes = [0x5a; 60];
        assert_eq!(Request::parse(&bytes, None).unwrap().ssid, 0);
        assert_eq!(Request::parse(&bytes[..14], None).unwrap().ssid, 0);
        assert_eq!(Request::parse(&bytes[..13], None), Err(Malformed::Short));
        bytes[16..44].fill(0);
        assert_eq!(Request::parse(&bytes, None).unwrap().ssid, 0x5a5a);
    }

    proptest! {
        #[test]
        fn both_are_read_as_written(
            sequence: u32, timestamp: u64, bits: u16, ssid: u16, received: u64, count: u32, ttl: u8,
            authenticated: bool, more in 0_usize..100,
        ) {
            let key = key().filter(|_| authenticated);
            let estimate = ErrorEstimate::from_bits(bits);
            let request = Request { sequence, timestamp, estimate, ssid };
            let mut asked = vec![0; base(authenticated) + more];
            request.write(&mut asked, key.as_ref());
            prop_assert_eq!(Request::parse(&asked, key.as_ref()), Ok(request));
            let answer = Answer {
                sequence: count, timestamp: received ^ 7, estimate, ssid, received,
                sender_sequence: sequence, sender_timestamp: timestamp, sender_estimate: estimate, sender_ttl: ttl,
            };
            let mut told = vec![0; asked.len()];
            answer.write(&asked, &mut told, key.as_ref());
            prop_assert_eq!(Answer::parse(&told, key.as_ref()), Ok(answer));
            prop_assert_eq!(&told[base(authenticated)..], &asked[base(authenticated)..]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]
        #[test]
        fn any_bytes_are_answered_in_their_length_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Answer::parse(&bytes, None);
            if let Ok(request) = Request::parse(&bytes, None) {
                let answer = Answer { sender_sequence: request.sequence, ..Answer::default() };
                let mut told = vec![0; bytes.len()];
                answer.write(&bytes, &mut told, None);
                if bytes.len() >= LEAST_ANSWER {
                    prop_assert_eq!(Answer::parse(&told, None).unwrap().sender_sequence, request.sequence);
                }
            }
        }
    }
}
