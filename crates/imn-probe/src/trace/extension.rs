//! ICMP extensions: RFC 4884 (structure), RFC 4950 (MPLS label stack).

use crate::icmp::{Family, sum};

/// Where the extension begins when the message does not say so: RFC 4884 §5.5.
const ASSUMED_QUOTE: usize = 128;
const VERSION: u8 = 2;
/// Objects and labels kept of one message.
const OBJECTS: usize = 16;
const LABELS: usize = 16;
const MPLS: (u8, u8) = (1, 1);

/// What an ICMP error says beside the packet it quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// The message says itself how long its quote is (RFC 4884); if not, the place of the extension was assumed.
    pub compliant: bool,
    /// At most sixteen objects.
    pub objects: Vec<Object>,
}

/// One object of an extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Class number; 1 is MPLS.
    pub class: u8,
    /// Class type; 1 of MPLS is the incoming label stack.
    pub kind: u8,
    /// Bytes of its body.
    pub length: u16,
    /// The label stack, outermost first, at most sixteen, if it is one.
    pub labels: Vec<Label>,
}

/// One entry of an MPLS label stack (RFC 3032 §2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// Label, 20 bits.
    pub label: u32,
    /// Traffic class, formerly experimental bits: 3 bits.
    pub class: u8,
    /// Bottom of stack.
    pub bottom: bool,
    /// Time to live.
    pub ttl: u8,
}

/// Splits the body of an ICMP error (behind its eight bytes of header) into the quoted datagram and the extension.
/// `length` is the header's length field as it stands. Total: any bytes give an answer.
pub fn split_extension(family: Family, length: u8, body: &[u8]) -> (&[u8], Option<Extension>) {
    let unit = match family {
        Family::V4 => 4,
        Family::V6 => 8,
    };
    let said = usize::from(length) * unit;
    let (at, compliant) = if said == 0 { (ASSUMED_QUOTE, false) } else { (said, true) };
    let Some((quote, structure)) = body.split_at_checked(at) else { return (body, None) };
    match parse_structure(structure, compliant) {
        Some(objects) => (quote, Some(Extension { compliant, objects })),
        // What is said is believed of the quote's length, even if no extension follows.
        None => (if compliant { quote } else { body }, None),
    }
}

fn parse_structure(bytes: &[u8], compliant: bool) -> Option<Vec<Object>> {
    let header = bytes.first_chunk::<4>()?;
    let checked = header[2] != 0 || header[3] != 0;
    if header[0] >> 4 != VERSION || (checked && sum(bytes) != 0xffff) || (!checked && !compliant) {
        return None;
    }
    let mut objects = Vec::new();
    let mut rest = &bytes[4..];
    while let Some(header) = rest.first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([header[0], header[1]]));
        if length < 4 || length > rest.len() || objects.len() == OBJECTS {
            break;
        }
        let body = &rest[4..length];
        let (class, kind) = (header[2], header[3]);
        let labels = if (class, kind) == MPLS {
            body.as_chunks::<4>().0.iter().take(LABELS).map(|entry| Label::read(*entry)).collect()
        } else {
            Vec::new()
        };
        objects.push(Object { class, kind, length: (length - 4) as u16, labels });
        rest = &rest[length..];
    }
    Some(objects)
}

impl Label {
    fn read(entry: [u8; 4]) -> Self {
        let word = u32::from_be_bytes(entry);
        Self { label: word >> 12, class: (word >> 9) as u8 & 7, bottom: word & 0x100 != 0, ttl: entry[3] }
    }
}
