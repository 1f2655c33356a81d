//! Probes as they are written, and whatever comes back as it is read.
//!
//! The flow identifier of a trace stays constant while each probe is told apart by a field that no router hashes:
//! ICMP by its sequence number (the payload balances the checksum), UDP by its checksum (balanced likewise, as in
//! Paris traceroute), TCP by its sequence number. Over IPv6 a flow has a flow label of its own besides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::icmp::{Cookie, Family, HEADER, TAGGED, fold, split_ip, sum, write_cookie, write_request};

use super::config::Protocol;
use super::extension::{Extension, split_extension};

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
/// TCP header with a maximum segment size option.
const SYN: usize = 24;

/// What identifies a probe on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark {
    /// Where the probe goes.
    pub target: IpAddr,
    /// Number of the transport protocol.
    pub protocol: u8,
    /// Source port, or identifier of ICMP: the flow.
    pub flow: u16,
    /// Sequence number of ICMP and TCP, checksum of UDP.
    pub sequence: u32,
}

/// Number of the transport protocol.
pub(crate) fn number(protocol: Protocol, family: Family) -> u8 {
    match (protocol, family) {
        (Protocol::Icmp, Family::V4) => ICMP,
        (Protocol::Icmp, Family::V6) => ICMPV6,
        (Protocol::Udp { .. }, _) => UDP,
        (Protocol::Tcp { .. }, _) => TCP,
    }
}

/// Bytes of a probe behind its IP header.
pub(crate) fn length(protocol: Protocol, size: u16) -> usize {
    match protocol {
        Protocol::Icmp | Protocol::Udp { .. } => HEADER + usize::from(size),
        Protocol::Tcp { .. } => SYN,
    }
}

/// Everything but the mark that goes into a probe.
pub(crate) struct Draft {
    pub protocol: Protocol,
    pub source: IpAddr,
    pub cookie: Cookie,
    /// ICMP checksum of the flow.
    pub checksum: u16,
}

/// Writes a probe over `bytes`, which are zero and as many as [`length`] says.
pub(crate) fn write(bytes: &mut [u8], mark: &Mark, draft: &Draft) {
    let family = Family::of(mark.target);
    match draft.protocol {
        Protocol::Icmp => {
            write_request(bytes, family, mark.flow, mark.sequence as u16, draft.cookie, draft.checksum);
        }
        Protocol::Udp { port } => {
            bytes[0..2].copy_from_slice(&mark.flow.to_be_bytes());
            bytes[2..4].copy_from_slice(&port.to_be_bytes());
            let length = bytes.len() as u16;
            bytes[4..6].copy_from_slice(&length.to_be_bytes());
            write_cookie(&mut bytes[HEADER..], draft.cookie);
            // The sum of everything with checksum c and balance b must be all ones.
            let wanted = mark.sequence as u16;
            let open = pseudo(draft.source, mark.target, UDP, bytes);
            let balance = !fold(u64::from(open) + u64::from(wanted));
            bytes[HEADER + 16..HEADER + 18].copy_from_slice(&balance.to_be_bytes());
            bytes[6..8].copy_from_slice(&wanted.to_be_bytes());
        }
        Protocol::Tcp { port } => {
            bytes[0..2].copy_from_slice(&mark.flow.to_be_bytes());
            bytes[2..4].copy_from_slice(&port.to_be_bytes());
            bytes[4..8].copy_from_slice(&mark.sequence.to_be_bytes());
            bytes[12] = (SYN as u8 / 4) << 4;
            bytes[13] = 0x02;
            bytes[14..16].copy_from_slice(&64_240_u16.to_be_bytes());
            bytes[20..24].copy_from_slice(&[2, 4, 0x05, 0xb4]);
            let checksum = !pseudo(draft.source, mark.target, TCP, bytes);
            bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
        }
    }
}

/// Sum over pseudo header (RFC 9293 §3.1, RFC 8200 §8.1) and segment, not complemented.
fn pseudo(source: IpAddr, target: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let addresses = match (source, target) {
        (IpAddr::V4(from), IpAddr::V4(to)) => u64::from(sum(&from.octets())) + u64::from(sum(&to.octets())),
        (IpAddr::V6(from), IpAddr::V6(to)) => u64::from(sum(&from.octets())) + u64::from(sum(&to.octets())),
        _ => 0,
    };
    fold(addresses + u64::from(protocol) + segment.len() as u64 + u64::from(sum(segment)))
}

/// A received message, as far as it concerns us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// An answer of the target itself: an echo reply, or a TCP segment.
    Direct {
        /// Which probe it answers, if it comes from that probe's target.
        mark: Mark,
        /// What an echo reply returns.
        cookie: Option<Cookie>,
        /// The answer.
        answer: Answer,
    },
    /// An ICMP error.
    Error {
        /// What it says.
        answer: Answer,
        /// What it quotes.
        quoted: Quoted,
        /// What it says besides.
        extension: Option<Extension>,
    },
    /// An ICMP message whose checksum is wrong.
    Corrupted,
    /// Anything else.
    Other,
}

/// How a node answers a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The TTL or hop limit was exceeded there.
    TimeExceeded,
    /// An echo reply.
    EchoReply,
    /// The port is open: SYN and ACK.
    SynAck,
    /// The port is closed: RST.
    Reset,
    /// Another ICMP or ICMPv6 error.
    Unreachable {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
}

/// The probe inside an ICMP error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// The probe.
    pub mark: Mark,
    /// TTL or hop limit at which it arrived.
    pub ttl: u8,
    /// Destination port; 0 for ICMP.
    pub port: u16,
    /// Checksum of ICMP as quoted; of others 0.
    pub checksum: u16,
    /// Start of the payload, if enough of it is quoted.
    pub cookie: Option<Cookie>,
}

/// Reads an ICMP or ICMPv6 message, without its IP header, that came from `from`. Total: any bytes give an answer.
///
/// `whole` says that the bytes are the complete message, so that an IPv4 checksum can be verified.
pub fn parse_icmp(family: Family, from: IpAddr, bytes: &[u8], whole: bool) -> Message {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Message::Other };
    let body = &bytes[HEADER..];
    let (kind, code) = (header[0], header[1]);
    let echo = kind == family.echo_reply() && code == 0;
    if !echo && !family.errors().contains(&kind) {
        return Message::Other;
    }
    if family == Family::V4 && whole && sum(bytes) != 0xffff {
        return Message::Corrupted;
    }
    if echo {
        let sequence = u32::from(u16::from_be_bytes([header[6], header[7]]));
        let flow = u16::from_be_bytes([header[4], header[5]]);
        let protocol = number(Protocol::Icmp, family);
        let mark = Mark { target: from, protocol, flow, sequence };
        let cookie = (body.len() >= TAGGED).then(|| Cookie::read(body)).flatten();
        return Message::Direct { mark, cookie, answer: Answer::EchoReply };
    }
    // The place of the length differs: RFC 4884 §4.1 to §4.5.
    let (length, exceeded) = match family {
        Family::V4 => (header[5], 11),
        Family::V6 => (header[4], 3),
    };
    let extensible = match family {
        Family::V4 => matches!(kind, 3 | 11 | 12),
        Family::V6 => matches!(kind, 1 | 3),
    };
    let (quote, extension) = if extensible { split_extension(family, length, body) } else { (body, None) };
    let answer =
        if (kind, code) == (exceeded, 0) { Answer::TimeExceeded } else { Answer::Unreachable { kind, code } };
    match parse_quoted(family, quote) {
        Some(quoted) => Message::Error { answer, quoted, extension },
        None => Message::Other,
    }
}

/// Reads the datagram that an ICMP error quotes.
pub fn parse_quoted(family: Family, datagram: &[u8]) -> Option<Quoted> {
    let (ttl, protocol, target, segment): (u8, u8, IpAddr, &[u8]) = match family {
        Family::V4 => {
            let header = datagram.first_chunk::<20>()?;
            // A later fragment has no transport header.
            if u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0 {
                return None;
            }
            let target = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
            let (ttl, segment) = split_ip(datagram, header[9])?;
            (ttl, header[9], target.into(), segment)
        }
        Family::V6 => {
            // The transport at once: our probes carry no extension headers.
            let header = datagram.first_chunk::<40>()?;
            if header[0] >> 4 != 6 {
                return None;
            }
            let target = Ipv6Addr::from(*header[24..].first_chunk::<16>()?);
            (header[7], header[6], target.into(), &datagram[40..])
        }
    };
    let words = segment.first_chunk::<8>()?;
    let word = |at: usize| u16::from_be_bytes([words[at], words[at + 1]]);
    let cookie = || Cookie::read(&segment[HEADER..]).filter(|cookie| !cookie.is_zero());
    let (flow, port, sequence, checksum, cookie) = match (family, protocol) {
        (Family::V4, ICMP) | (Family::V6, ICMPV6) => {
            if words[0] != family.echo_request() {
                return None;
            }
            (word(4), 0, u32::from(word(6)), word(2), cookie())
        }
        (_, UDP) => (word(0), word(2), u32::from(word(6)), 0, cookie()),
        (_, TCP) => (word(0), word(2), u32::from(word(4)) << 16 | u32::from(word(6)), 0, None),
        _ => return None,
    };
    Some(Quoted { mark: Mark { target, protocol, flow, sequence }, ttl, port, checksum, cookie })
}

/// Reads a TCP segment, without its IP header, that came from `from` and its port.
pub fn parse_tcp(from: IpAddr, segment: &[u8]) -> Option<(u16, Message)> {
    let header = segment.first_chunk::<20>()?;
    let answer = match header[13] & 0x16 {
        0x12 => Answer::SynAck,
        flags if flags & 0x04 != 0 => Answer::Reset,
        _ => return None,
    };
    let port = u16::from_be_bytes([header[0], header[1]]);
    let flow = u16::from_be_bytes([header[2], header[3]]);
    let acknowledged = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    let mark = Mark { target: from, protocol: TCP, flow, sequence: acknowledged.wrapping_sub(1) };
    Some((port, Message::Direct { mark, cookie: None, answer }))
}

/// Splits a raw IPv4 datagram of any transport into TTL and segment.
pub(crate) fn split_segment(datagram: &[u8]) -> Option<(u8, &[u8])> {
    let protocol = *datagram.get(9)?;
    split_ip(datagram, protocol)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: [&str; 2] = ["192.0.2.1", "198.51.100.7"];
    const V6: [&str; 2] = ["2001:db8::1", "2001:db8:1::7"];

    fn probe(protocol: Protocol, ends: [&str; 2], flow: u16, sequence: u32) -> (Mark, Vec<u8>) {
        let target: IpAddr = ends[1].parse().unwrap();
        let mark = Mark { target, protocol: number(protocol, Family::of(target)), flow, sequence };
        let draft = Draft {
            protocol,
            source: ends[0].parse().unwrap(),
            cookie: Cookie { slot: 7, generation: 8, tag: 0x0123_4567_89ab_cdef },
            checksum: 0x1234,
        };
        let mut bytes = vec![0; length(protocol, 32)];
        write(&mut bytes, &mark, &draft);
        (mark, bytes)
    }

    /// The probe as it stands on the wire.
    fn datagram(mark: &Mark, ends: [&str; 2], segment: &[u8]) -> Vec<u8> {
        let mut bytes = match mark.target {
            IpAddr::V4(_) => {
                let mut header =
                    vec![0x45, 0, 0, (20 + segment.len()) as u8, 0, 9, 0, 0, 1, mark.protocol, 0, 0];
                for end in ends {
                    header.extend(end.parse::<Ipv4Addr>().unwrap().octets());
                }
                header
            }
            IpAddr::V6(_) => {
                let mut header = vec![0x60, 0, 0, 0, 0, segment.len() as u8, mark.protocol, 1];
                for end in ends {
                    header.extend(end.parse::<Ipv6Addr>().unwrap().octets());
                }
                header
            }
        };
        bytes.extend(segment);
        bytes
    }

    proptest! {
        #[test]
        fn a_probe_is_known_by_its_quote(flow: u16, sequence in 1_u32..0xffff, cut in 8_usize..60, six: bool) {
            for protocol in [Protocol::Icmp, Protocol::UDP, Protocol::TCP] {
                let ends = if six { V6 } else { V4 };
                let (mark, segment) = probe(protocol, ends, flow, sequence);
                let whole = segment.len();
                let quote = datagram(&mark, ends, &segment[..cut.min(whole)]);
                let family = Family::of(mark.target);
                let quoted = parse_quoted(family, &quote).unwrap();
                prop_assert_eq!(quoted.mark, mark);
                prop_assert_eq!(quoted.ttl, 1);
                prop_assert_eq!(quoted.cookie.is_some(), protocol != Protocol::TCP && cut >= 24);
                if protocol != Protocol::Icmp || !six {
                    let check = match protocol {
                        Protocol::Icmp => sum(&segment),
                        Protocol::Udp { .. } => pseudo(ends[0].parse().unwrap(), mark.target, UDP, &segment),
                        Protocol::Tcp { .. } => pseudo(ends[0].parse().unwrap(), mark.target, TCP, &segment),
                    };
                    prop_assert_eq!(check, 0xffff);
                }
            }
        }

        #[test]
        fn the_flow_stands_still(flow: u16, one in 1_u32..0xffff, other in 1_u32..0xffff, six: bool) {
            let ends = if six { V6 } else { V4 };
            // ICMP: type, code, checksum and identifier.
            let [a, b] = [one, other].map(|sequence| probe(Protocol::Icmp, ends, flow, sequence).1);
            prop_assert_eq!(&a[..6], &b[..6]);
            // UDP and TCP: the ports.
            for protocol in [Protocol::UDP, Protocol::TCP] {
                let [a, b] = [one, other].map(|sequence| probe(protocol, ends, flow, sequence).1);
                prop_assert_eq!(&a[..4], &b[..4]);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        #[test]
        fn any_bytes_parse(
            mut bytes in prop::collection::vec(any::<u8>(), 0..220),
            kind in 0_u8..14,
            length in 0_u8..48,
            whole: bool,
            lead: bool,
        ) {
            let from: IpAddr = V4[0].parse().unwrap();
            if lead && bytes.len() > 60 {
                // Lead the generator into the branches where the lengths are.
                bytes[0] = kind;
                bytes[5] = length;
                bytes[8] = 0x40 | (bytes[8] & 0x0f);
                bytes[17] = [ICMP, TCP, UDP][usize::from(bytes[17] % 3)];
                if let Some(version) = bytes.get_mut(8 + usize::from(length) * 4) {
                    *version = 0x20;
                }
            }
            for family in [Family::V4, Family::V6] {
                parse_icmp(family, from, &bytes, whole);
                parse_quoted(family, &bytes);
                let (quote, extension) = split_extension(family, length, &bytes);
                prop_assert!(quote.len() <= bytes.len());
                if let Some(extension) = extension {
                    prop_assert!(extension.objects.len() <= 16);
                    prop_assert!(extension.objects.iter().all(|object| object.labels.len() <= 16));
                }
            }
            parse_tcp(from, &bytes);
            split_segment(&bytes);
        }
    }

    #[test]
    fn what_fills_up_a_short_quote_is_no_cookie() {
        let (mark, segment) = probe(Protocol::UDP, V4, 61_440, 77);
        let mut quote = datagram(&mark, V4, &segment[..8]);
        quote.resize(128, 0);
        let quoted = parse_quoted(Family::V4, &quote).unwrap();
        assert_eq!((quoted.mark, quoted.port, quoted.cookie), (mark, 33_434, None));
    }
}
