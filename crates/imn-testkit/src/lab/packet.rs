//! Just enough of IP to tell packets apart and to follow an echo through the laboratory.

use serde::Deserialize;
use std::hash::{DefaultHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The kinds of packets that are counted apart, so that neighbour discovery or a control connection does not blur
/// an exact comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// ICMP and ICMPv6 echo requests.
    IcmpEchoRequest,
    /// ICMP and ICMPv6 echo replies.
    IcmpEchoReply,
    /// All other ICMP and ICMPv6: errors, neighbour discovery, multicast listeners.
    IcmpOther,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Everything else, fragments after the first included.
    Other,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 6] =
        [Self::IcmpEchoRequest, Self::IcmpEchoReply, Self::IcmpOther, Self::Tcp, Self::Udp, Self::Other];
}

/// What identifies an echo on its way there and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EchoKey {
    /// The sender of the request.
    pub(crate) source: IpAddr,
    /// The destination of the request.
    pub(crate) destination: IpAddr,
    pub(crate) id: u16,
    pub(crate) sequence: u16,
    /// Of the data after the sequence number, which the reply returns.
    pub(crate) data: u64,
}

/// A packet as far as the emulator looks into it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) class: Class,
    pub(crate) echo: Option<EchoKey>,
}

impl Seen {
    pub(crate) fn new(packet: &[u8]) -> Self {
        Self::parse(packet).unwrap_or(Self { class: Class::Other, echo: None })
    }

    fn parse(packet: &[u8]) -> Option<Self> {
        let (source, destination, protocol, payload) = match packet.first()? >> 4 {
            4 => {
                let header = usize::from(packet[0] & 0x0f) * 4;
                let fragment = u16::from_be_bytes(array(packet, 6)?) & 0x1fff;
                if fragment != 0 {
                    return None;
                }
                let source = Ipv4Addr::from(array::<4>(packet, 12)?);
                let destination = Ipv4Addr::from(array::<4>(packet, 16)?);
                (source.into(), destination.into(), *packet.get(9)?, packet.get(header..)?)
            }
            6 => {
                let source = Ipv6Addr::from(array::<16>(packet, 8)?);
                let destination = Ipv6Addr::from(array::<16>(packet, 24)?);
                (IpAddr::from(source), IpAddr::from(destination), *packet.get(6)?, packet.get(40..)?)
            }
            _ => return None,
        };
        let class = match (protocol, payload.first()) {
            (1, Some(8)) | (58, Some(128)) => Class::IcmpEchoRequest,
            (1, Some(0)) | (58, Some(129)) => Class::IcmpEchoReply,
            (1 | 58, _) => Class::IcmpOther,
            (6, _) => Class::Tcp,
            (17, _) => Class::Udp,
            _ => Class::Other,
        };
        let echo = match class {
            Class::IcmpEchoRequest => EchoKey::new(source, destination, payload),
            Class::IcmpEchoReply => EchoKey::new(destination, source, payload),
            _ => None,
        };
        Some(Self { class, echo })
    }
}

impl EchoKey {
    fn new(source: IpAddr, destination: IpAddr, icmp: &[u8]) -> Option<Self> {
        let mut hasher = DefaultHasher::new();
        hasher.write(icmp.get(8..)?);
        Some(Self {
            source,
            destination,
            id: u16::from_be_bytes(array(icmp, 4)?),
            sequence: u16::from_be_bytes(array(icmp, 6)?),
            data: hasher.finish(),
        })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend(payload);
        packet
    }

    #[test]
    fn request_and_reply_have_one_key() {
        let request = Seen::new(&v4(1, &[8, 0, 1, 2, 0, 7, 0, 9, 1, 2, 3]));
        let mut reply = v4(1, &[0, 0, 9, 9, 0, 7, 0, 9, 1, 2, 3]);
        reply[12..20].rotate_left(4);
        let reply = Seen::new(&reply);
        assert_eq!((request.class, reply.class), (Class::IcmpEchoRequest, Class::IcmpEchoReply));
        let key = request.echo.unwrap();
        assert_eq!(Some(key), reply.echo);
        assert_eq!((key.id, key.sequence), (7, 9));
    }

    #[test]
    fn fragments_and_short_packets_are_other() {
        let mut fragment = v4(17, &[0; 8]);
        fragment[7] = 1;
        assert_eq!(Seen::new(&fragment).class, Class::Other);
        let whole = v4(1, &[8, 0, 1, 2, 0, 7, 0, 9]);
        for length in 0..whole.len() {
            let _ = Seen::new(&whole[..length]);
        }
        assert_eq!(Seen::new(&[]).class, Class::Other);
    }
}
