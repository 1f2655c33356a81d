//! Echo requests as they are written, and whatever comes back as it is read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an ICMP header.
pub(crate) const HEADER: usize = 8;
/// Bytes at the start of the payload that carry the cookie, the tag and the checksum balance.
pub(crate) const TAGGED: usize = 20;

/// IP version, and with it the numbers that ICMP and ICMPv6 do not share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// ICMP over IPv4.
    V4,
    /// ICMPv6.
    V6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(crate) fn echo_request(self) -> u8 {
        match self {
            Self::V4 => 8,
            Self::V6 => 128,
        }
    }

    pub(crate) fn echo_reply(self) -> u8 {
        match self {
            Self::V4 => 0,
            Self::V6 => 129,
        }
    }

    /// Types of the errors that end a packet's life: unreachable, time exceeded, parameter problem, too big.
    pub(crate) fn errors(self) -> &'static [u8] {
        match self {
            Self::V4 => &[3, 11, 12],
            Self::V6 => &[1, 2, 3, 4],
        }
    }
}

/// What the payload says about which packet this is: where its state lives, and proof that we wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cookie {
    /// Slot of the packet's state.
    pub slot: u32,
    /// Number of the packet since the engine started; tells apart the users of a slot.
    pub generation: u32,
    /// Keyed hash over target, slot and generation.
    pub tag: u64,
}

impl Cookie {
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let slot = u32::from_be_bytes(*body.first_chunk()?);
        let generation = u32::from_be_bytes(*body.get(4..)?.first_chunk()?);
        let tag = u64::from_be_bytes(*body.get(8..)?.first_chunk()?);
        Some(Self { slot, generation, tag })
    }

    /// True for what a router fills a short quote up with.
    pub(crate) fn is_zero(&self) -> bool {
        (self.slot, self.generation, self.tag) == (0, 0, 0)
    }
}

/// Writes the cookie over the start of a payload, and counting bytes behind the place of the checksum balance.
pub(crate) fn write_cookie(payload: &mut [u8], cookie: Cookie) {
    let (tagged, padding) = payload.split_at_mut(TAGGED);
    tagged[0..4].copy_from_slice(&cookie.slot.to_be_bytes());
    tagged[4..8].copy_from_slice(&cookie.generation.to_be_bytes());
    tagged[8..16].copy_from_slice(&cookie.tag.to_be_bytes());
    for (index, byte) in padding.iter_mut().enumerate() {
        *byte = index as u8;
    }
}

/// Writes an echo request over `bytes` (header and payload), so that its checksum is exactly `checksum`
/// whatever sequence and cookie are: routers that hash the first words of ICMP then keep a target on one path.
///
/// For IPv6 the kernel writes the checksum itself; it is constant per source and target all the same, because
/// the sum of the bytes is.
pub(crate) fn write_request(
    bytes: &mut [u8],
    family: Family,
    id: u16,
    sequence: u16,
    cookie: Cookie,
    checksum: u16,
) {
    bytes[0] = family.echo_request();
    bytes[4..6].copy_from_slice(&id.to_be_bytes());
    bytes[6..8].copy_from_slice(&sequence.to_be_bytes());
    write_cookie(&mut bytes[HEADER..], cookie);
    // The sum of everything with checksum c and balance b must be all ones: b = ~c + ~sum.
    let balance = fold(u64::from(!checksum) + u64::from(!sum(bytes)));
    bytes[HEADER + 16..HEADER + 18].copy_from_slice(&balance.to_be_bytes());
    bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
}

/// A received message, as far as it concerns us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// An echo reply.
    Reply {
        /// Identifier.
        id: u16,
        /// Sequence number.
        sequence: u16,
        /// Start of the payload; `None` if it is shorter than ours ever is.
        cookie: Option<Cookie>,
        /// Bytes of payload.
        length: usize,
        /// False when the checksum does not fit, for IPv4 (the kernel has dropped such ICMPv6 messages).
        intact: bool,
    },
    /// An error that quotes an echo request.
    Error {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// What it quotes.
        quoted: Quoted,
    },
    /// Anything else.
    Other,
}

/// The echo request inside an ICMP error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// Where the request was going.
    pub target: IpAddr,
    /// Identifier.
    pub id: u16,
    /// Sequence number.
    pub sequence: u16,
    /// Checksum as quoted.
    pub checksum: u16,
    /// Start of the payload, if enough of it is quoted.
    pub cookie: Option<Cookie>,
}

/// Splits a raw IPv4 datagram into TTL and ICMP message; `None` if it is not one.
pub fn split_ipv4(datagram: &[u8]) -> Option<(u8, &[u8])> {
    split_ip(datagram, 1)
}

/// Splits a raw IPv4 datagram of that transport into TTL and segment; `None` if it is not one.
pub(crate) fn split_ip(datagram: &[u8], protocol: u8) -> Option<(u8, &[u8])> {
    let header = datagram.first_chunk::<20>()?;
    let length = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || length < 20 || header[9] != protocol {
        return None;
    }
    Some((header[8], datagram.get(length..)?))
}

/// Reads an ICMP or ICMPv6 message, without its IP header. Total: any bytes give an answer.
///
/// `whole` says that the bytes are the complete message, so that an IPv4 checksum can be verified.
pub fn parse(family: Family, bytes: &[u8], whole: bool) -> Message {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Message::Other };
    let body = &bytes[HEADER..];
    let (kind, code) = (header[0], header[1]);
    if kind == family.echo_reply() && code == 0 {
        return Message::Reply {
            id: u16::from_be_bytes([header[4], header[5]]),
            sequence: u16::from_be_bytes([header[6], header[7]]),
            cookie: (body.len() >= TAGGED).then(|| Cookie::read(body)).flatten(),
            length: body.len(),
            intact: family == Family::V6 || !whole || sum(bytes) == 0xffff,
        };
    }
    if family.errors().contains(&kind)
        && let Some(quoted) = parse_quoted_datagram(family, body)
    {
        return Message::Error { kind, code, quoted };
    }
    Message::Other
}

/// Reads the IP datagram that an ICMP error quotes.
fn parse_quoted_datagram(family: Family, datagram: &[u8]) -> Option<Quoted> {
    match family {
        Family::V4 => {
            let header = datagram.first_chunk::<20>()?;
            let target = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
            let (_, message) = split_ipv4(datagram)?;
            parse_quoted(family, target.into(), message)
        }
        Family::V6 => {
            // Next header must be ICMPv6 at once: our requests carry no extension headers.
            let header = datagram.first_chunk::<40>()?;
            if header[0] >> 4 != 6 || header[6] != 58 {
                return None;
            }
            let target = Ipv6Addr::from(*header[24..].first_chunk::<16>()?);
            parse_quoted(family, target.into(), &datagram[40..])
        }
    }
}

/// Reads a quoted echo request from its ICMP header on.
pub fn parse_quoted(family: Family, target: IpAddr, message: &[u8]) -> Option<Quoted> {
    let header = message.first_chunk::<HEADER>()?;
    if header[0] != family.echo_request() {
        return None;
    }
    Some(Quoted {
        target,
        id: u16::from_be_bytes([header[4], header[5]]),
        sequence: u16::from_be_bytes([header[6], header[7]]),
        checksum: u16::from_be_bytes([header[2], header[3]]),
        cookie: Cookie::read(&message[HEADER..]),
    })
}

/// One's complement sum of big-endian words (RFC 1071), not complemented.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<2>();
    let mut total: u64 = words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum();
    if let [last] = rest {
        total += u64::from(*last) << 8;
    }
    fold(total)
}

pub(crate) fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn many_bytes_parse() {
        for (at, mut bytes) in imn_testkit::hostile::bytes(120).enumerate() {
            if at % 2 == 0 && bytes.len() > 60 {
                // Lead them into the quoting branch, where the lengths are.
                let ihl = bytes[1] % 16;
                (bytes[0], bytes[8], bytes[17]) = (3, 0x40 | ihl, 1);
                if let Some(kind) = bytes.get_mut(8 + usize::from(ihl) * 4) {
                    *kind = 8;
                }
            }
            for family in [Family::V4, Family::V6] {
                parse(family, &bytes, at % 3 == 0);
                parse_quoted(family, IpAddr::V4(Ipv4Addr::LOCALHOST), &bytes);
            }
            if let Some((_, message)) = split_ipv4(&bytes) {
                parse(Family::V4, message, true);
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse(bytes in prop::collection::vec(any::<u8>(), 0..200), whole: bool) {
            parse(Family::V4, &bytes, whole);
            parse(Family::V6, &bytes, whole);
            parse_quoted(Family::V4, IpAddr::V4(Ipv4Addr::LOCALHOST), &bytes);
            if let Some((_, message)) = split_ipv4(&bytes) {
                parse(Family::V4, message, whole);
            }
        }

        #[test]
        fn plausible_errors_parse(mut bytes in prop::collection::vec(any::<u8>(), 8..120), ihl in 0_u8..16) {
            // Lead the generator into the quoting branch, where the lengths are.
            bytes[0] = 3;
            if let Some(first) = bytes.get_mut(8) { *first = 0x40 | ihl; }
            if let Some(protocol) = bytes.get_mut(17) { *protocol = 1; }
            if let Some(kind) = bytes.get_mut(8 + usize::from(ihl) * 4) { *kind = 8; }
            parse(Family::V4, &bytes, true);
        }
    }

    proptest! {
        #[test]
        fn the_checksum_is_the_chosen_one(
            id: u16, sequence: u16, slot: u32, generation: u32, tag: u64,
            checksum in 1_u16..0xffff, size in TAGGED..200,
        ) {
            let cookie = Cookie { slot, generation, tag };
            let mut bytes = vec![0; HEADER + size];
            write_request(&mut bytes, Family::V4, id, sequence, cookie, checksum);
            prop_assert_eq!(&bytes[2..4], &checksum.to_be_bytes());
            prop_assert_eq!(sum(&bytes), 0xffff);
            let quoted = parse_quoted(Family::V4, Ipv4Addr::LOCALHOST.into(), &bytes).unwrap();
            prop_assert_eq!((quoted.id, quoted.sequence, quoted.checksum), (id, sequence, checksum));
            prop_assert_eq!(quoted.cookie, Some(cookie));
        }
    }

    #[test]
    fn a_minimal_quote_is_enough() {
        let mut request = vec![0; HEADER + 56];
        let cookie = Cookie { slot: 1, generation: 2, tag: 3 };
        write_request(&mut request, Family::V4, 77, 5, cookie, 0x1234);
        let mut error = vec![11, 0, 0, 0, 0, 0, 0, 0];
        error.extend([0x45, 0, 0, 84, 0, 0, 0, 0, 1, 1, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7]);
        error.extend(&request[..8]);
        let Message::Error { kind, code, quoted } = parse(Family::V4, &error, true) else {
            panic!("not an error")
        };
        assert_eq!((kind, code), (11, 0));
        assert_eq!(quoted.target, IpAddr::from([198, 51, 100, 7]));
        assert_eq!((quoted.id, quoted.sequence, quoted.checksum, quoted.cookie), (77, 5, 0x1234, None));
    }
}
