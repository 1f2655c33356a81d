//! Reading an answer. Whatever the bytes are, what could be read before the first fault is kept.

use super::cursor::{Cursor, Fault};
use super::record::{Class, Rcode, RecordType};
use super::text;

/// Octets of a header (RFC 1035 §4.1.1).
pub(super) const HEADER: usize = 12;
/// Text of answers kept at most, in bytes: compressed names make a message of 64 KiB some megabytes of text.
const MOST_TEXT: usize = 256 * 1024;
const OPTION_NSID: u16 = 3;
const OPTION_EDE: u16 = 15;
/// Extended errors kept at most.
const MOST_ERRORS: usize = 8;

/// A DNS message that came as an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Identifier.
    pub id: u16,
    /// The header's flags.
    pub flags: Flags,
    /// Response code, with EDNS's upper bits.
    pub rcode: Rcode,
    /// What the header says that there is.
    pub counts: Counts,
    /// The first question.
    pub question: Option<Question>,
    /// Records of the answer section.
    pub answers: Vec<Record>,
    /// Records of the answer section left out of [`answers`](Self::answers), since their text is too long in all.
    pub omitted: u32,
    /// What EDNS says.
    pub edns: Option<Edns>,
    /// Octets behind the last record: header counts that are too low, or padding.
    pub trailing: usize,
    /// What is wrong with the message.
    pub fault: Option<Malformed>,
}

/// Flags of a header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the bits of the header")]
pub struct Flags {
    /// Authoritative answer.
    pub aa: bool,
    /// Truncated.
    pub tc: bool,
    /// Recursion desired.
    pub rd: bool,
    /// Recursion available.
    pub ra: bool,
    /// Authentic data (RFC 4035 §3.2.3).
    pub ad: bool,
    /// Checking disabled (RFC 4035 §3.2.2).
    pub cd: bool,
}

/// Entries per section, by the header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions.
    pub question: u16,
    /// Answers.
    pub answer: u16,
    /// Records of authorities.
    pub authority: u16,
    /// Additional records, that of EDNS included.
    pub additional: u16,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Name, with its final dot.
    pub name: String,
    /// Type.
    pub kind: RecordType,
    /// Class.
    pub class: Class,
}

/// A resource record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Owner, with its final dot.
    pub name: String,
    /// Type.
    pub kind: RecordType,
    /// Class.
    pub class: Class,
    /// Time to live, in seconds.
    pub ttl: u32,
    /// Data, as zone files write it.
    pub data: String,
}

/// The OPT record of an answer (RFC 6891).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edns {
    /// Version.
    pub version: u8,
    /// Size of UDP messages that the server takes.
    pub udp_size: u16,
    /// DNSSEC records are wanted.
    pub dnssec_ok: bool,
    /// Name of the server's instance (RFC 5001).
    pub nsid: Option<Vec<u8>>,
    /// Extended errors: code and text (RFC 8914).
    pub errors: Vec<(u16, String)>,
}

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// In the question section.
    #[error("question {number} of {claimed}: {fault}")]
    Question {
        /// Which, from 1.
        number: u16,
        /// How many the header says that there are.
        claimed: u16,
        /// What.
        fault: Fault,
    },
    /// In a section of records.
    #[error("{section} record {number} of {claimed}: {fault}")]
    Record {
        /// `answer`, `authority` or `additional`.
        section: &'static str,
        /// Which, from 1.
        number: u16,
        /// How many the header says that there are.
        claimed: u16,
        /// What.
        fault: Fault,
    },
    /// The header counts more records than there are.
    #[error("the header counts {claimed} {section} records, and {found} are there")]
    Count {
        /// `answer`, `authority` or `additional`.
        section: &'static str,
        /// How many are there.
        found: u16,
        /// How many the header says that there are.
        claimed: u16,
    },
    /// More than one OPT record (RFC 6891 §6.1.1).
    #[error("two OPT records")]
    Opt,
}

impl Answer {
    /// Reads a message; `None` when it is too short for a header.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut at = Cursor::new(bytes);
        let mut answer = Self::header(&mut at).ok()?;
        answer.fault = answer.sections(&mut at).err().or(answer.fault);
        if answer.fault.is_none() {
            answer.trailing = at.left();
        }
        Some(answer)
    }

    /// Whether the header is that of an answer to a standard query.
    pub(super) fn is_answer(bytes: &[u8]) -> bool {
        // QR set, opcode 0.
        bytes.get(2).is_some_and(|flags| flags & 0b1111_1000 == 0b1000_0000)
    }

    fn header(at: &mut Cursor<'_>) -> Result<Self, Fault> {
        let (id, bits) = (at.u16()?, at.u16()?);
        let bit = |number: u32| bits >> number & 1 == 1;
        let counts =
            Counts { question: at.u16()?, answer: at.u16()?, authority: at.u16()?, additional: at.u16()? };
        Ok(Self {
            id,
            flags: Flags { aa: bit(10), tc: bit(9), rd: bit(8), ra: bit(7), ad: bit(5), cd: bit(4) },
            rcode: Rcode(bits & 0xf),
            counts,
            question: None,
            answers: Vec::new(),
            omitted: 0,
            edns: None,
            trailing: 0,
            fault: None,
        })
    }

    fn sections(&mut self, at: &mut Cursor<'_>) -> Result<(), Malformed> {
        let claimed = self.counts.question;
        for number in 1..=claimed {
            let question = question(at).map_err(|fault| Malformed::Question { number, claimed, fault })?;
            self.question.get_or_insert(question);
        }
        let mut room = MOST_TEXT;
        for (section, claimed) in [
            ("answer", self.counts.answer),
            ("authority", self.counts.authority),
            ("additional", self.counts.additional),
        ] {
            for number in 1..=claimed {
                if at.left() == 0 {
                    return Err(Malformed::Count { section, found: number - 1, claimed });
                }
                let wrong = |fault| Malformed::Record { section, number, claimed, fault };
                let raw = raw(at).map_err(wrong)?;
                match section {
                    "answer" if room == 0 => self.omitted += 1,
                    "answer" => {
                        let (record, fault) = raw.record();
                        // A record that does not fit its type spoils nothing behind it.
                        self.fault = self.fault.or(fault.map(wrong));
                        room = room.saturating_sub(record.name.len() + record.data.len());
                        self.answers.push(record);
                    }
                    "additional" if raw.kind == RecordType::OPT => {
                        if self.edns.is_some() {
                            return Err(Malformed::Opt);
                        }
                        let edns = edns(&raw).map_err(wrong)?;
                        self.rcode.0 |= (raw.ttl >> 24) as u16 * 16;
                        self.edns = Some(edns);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// A record whose data is not yet looked at.
struct Raw<'a> {
    name: String,
    kind: RecordType,
    class: u16,
    ttl: u32,
    data: Cursor<'a>,
}

impl Raw<'_> {
    fn record(mut self) -> (Record, Option<Fault>) {
        let (data, fault) = match text::rdata(self.kind, self.data) {
            Ok(text) => (text, None),
            Err(fault) => (text::opaque(self.data.rest()), Some(fault)),
        };
        let record =
            Record { name: self.name, kind: self.kind, class: Class(self.class), ttl: self.ttl, data };
        (record, fault)
    }
}

fn question(at: &mut Cursor<'_>) -> Result<Question, Fault> {
    Ok(Question { name: at.name()?, kind: RecordType(at.u16()?), class: Class(at.u16()?) })
}

fn raw<'a>(at: &mut Cursor<'a>) -> Result<Raw<'a>, Fault> {
    let name = at.name()?;
    let (kind, class, ttl) = (RecordType(at.u16()?), at.u16()?, at.u32()?);
    let length = at.u16()?;
    Ok(Raw { name, kind, class, ttl, data: at.split(usize::from(length))? })
}

fn edns(raw: &Raw<'_>) -> Result<Edns, Fault> {
    let mut edns = Edns {
        version: (raw.ttl >> 16) as u8,
        udp_size: raw.class,
        dnssec_ok: raw.ttl & 0x8000 != 0,
        ..Edns::default()
    };
    let mut options = raw.data;
    while options.left() > 0 {
        let code = options.u16()?;
        let length = options.u16()?;
        let mut value = options.split(usize::from(length))?;
        match code {
            OPTION_NSID => edns.nsid = Some(value.rest().to_vec()),
            OPTION_EDE if edns.errors.len() < MOST_ERRORS => {
                let code = value.u16()?;
                edns.errors.push((code, String::from_utf8_lossy(value.rest()).into_owned()));
            }
            _ => {}
        }
    }
    Ok(edns)
}
