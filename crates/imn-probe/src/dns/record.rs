//! Numbers that have names: record types, classes, response codes (IANA, Domain Name System Parameters).

use std::fmt;
use std::str::FromStr;

/// A type of resource record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordType(pub u16);

/// A class of resource records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(pub u16);

/// A response code, with the upper bits that EDNS adds (RFC 6891 §6.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rcode(pub u16);

/// A text that is neither a name nor a number of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {kind}")]
pub struct UnknownName {
    text: String,
    kind: &'static str,
}

impl RecordType {
    /// IPv4 address.
    pub const A: Self = Self(1);
    /// Name server.
    pub const NS: Self = Self(2);
    /// Alias.
    pub const CNAME: Self = Self(5);
    /// Start of authority.
    pub const SOA: Self = Self(6);
    /// Pointer, of reverse look-ups.
    pub const PTR: Self = Self(12);
    /// Mail exchanger.
    pub const MX: Self = Self(15);
    /// Text.
    pub const TXT: Self = Self(16);
    /// IPv6 address.
    pub const AAAA: Self = Self(28);
    /// EDNS.
    pub const OPT: Self = Self(41);
    /// DNSSEC signature.
    pub const RRSIG: Self = Self(46);

    /// Whether it asks for a transfer of a zone, or is no question at all (RFC 6895 §3.1).
    pub fn is_no_lookup(self) -> bool {
        matches!(self.0, 0 | 41 | 249..=252)
    }
}

impl Class {
    /// The internet.
    pub const IN: Self = Self(1);
    /// Chaos, where servers say who they are.
    pub const CH: Self = Self(3);
}

impl Rcode {
    /// No error.
    pub const NOERROR: Self = Self(0);
    /// The server failed.
    pub const SERVFAIL: Self = Self(2);
    /// There is no such name.
    pub const NXDOMAIN: Self = Self(3);
    /// The server will not.
    pub const REFUSED: Self = Self(5);
}

const TYPES: &[(u16, &str)] = &[
    (1, "A"),
    (2, "NS"),
    (3, "MD"),
    (4, "MF"),
    (5, "CNAME"),
    (6, "SOA"),
    (7, "MB"),
    (8, "MG"),
    (9, "MR"),
    (10, "NULL"),
    (11, "WKS"),
    (12, "PTR"),
    (13, "HINFO"),
    (14, "MINFO"),
    (15, "MX"),
    (16, "TXT"),
    (17, "RP"),
    (18, "AFSDB"),
    (19, "X25"),
    (20, "ISDN"),
    (21, "RT"),
    (22, "NSAP"),
    (24, "SIG"),
    (25, "KEY"),
    (26, "PX"),
    (27, "GPOS"),
    (28, "AAAA"),
    (29, "LOC"),
    (33, "SRV"),
    (35, "NAPTR"),
    (36, "KX"),
    (37, "CERT"),
    (39, "DNAME"),
    (41, "OPT"),
    (42, "APL"),
    (43, "DS"),
    (44, "SSHFP"),
    (45, "IPSECKEY"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (49, "DHCID"),
    (50, "NSEC3"),
    (51, "NSEC3PARAM"),
    (52, "TLSA"),
    (53, "SMIMEA"),
    (55, "HIP"),
    (59, "CDS"),
    (60, "CDNSKEY"),
    (61, "OPENPGPKEY"),
    (62, "CSYNC"),
    (63, "ZONEMD"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (99, "SPF"),
    (104, "NID"),
    (105, "L32"),
    (106, "L64"),
    (107, "LP"),
    (108, "EUI48"),
    (109, "EUI64"),
    (249, "TKEY"),
    (250, "TSIG"),
    (251, "IXFR"),
    (252, "AXFR"),
    (255, "ANY"),
    (256, "URI"),
    (257, "CAA"),
];

const CLASSES: &[(u16, &str)] = &[(1, "IN"), (3, "CH"), (4, "HS"), (254, "NONE"), (255, "ANY")];

const RCODES: &[(u16, &str)] = &[
    (0, "NOERROR"),
    (1, "FORMERR"),
    (2, "SERVFAIL"),
    (3, "NXDOMAIN"),
    (4, "NOTIMP"),
    (5, "REFUSED"),
    (6, "YXDOMAIN"),
    (7, "YXRRSET"),
    (8, "NXRRSET"),
    (9, "NOTAUTH"),
    (10, "NOTZONE"),
    (11, "DSOTYPENI"),
    (16, "BADVERS"),
    (17, "BADKEY"),
    (18, "BADTIME"),
    (19, "BADMODE"),
    (20, "BADNAME"),
    (21, "BADALG"),
    (22, "BADTRUNC"),
    (23, "BADCOOKIE"),
];

/// What the kinds of numbers have in common: a table of names, and a word before a number that is in none.
macro_rules! named {
    ($kind:ident, $table:ident, $prefix:literal, $what:literal) => {
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match $table.iter().find(|(number, _)| *number == self.0) {
                    Some((_, name)) => f.write_str(name),
                    None => write!(f, concat!($prefix, "{}"), self.0),
                }
            }
        }

        impl FromStr for $kind {
            type Err = UnknownName;

            /// Reads a name in any case, a number, or a number behind the word of RFC 3597 §5.
            fn from_str(text: &str) -> Result<Self, UnknownName> {
                if let Some((number, _)) = $table.iter().find(|(_, name)| name.eq_ignore_ascii_case(text)) {
                    return Ok(Self(*number));
                }
                let upper = text.to_ascii_uppercase();
                let digits = upper.strip_prefix($prefix).unwrap_or(&upper);
                let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
                digits
                    .parse()
                    .ok()
                    .filter(|_| is_number)
                    .map(Self)
                    .ok_or_else(|| UnknownName { text: text.chars().take(40).collect(), kind: $what })
            }
        }
    };
}
named!(RecordType, TYPES, "TYPE", "record type");
named!(Class, CLASSES, "CLASS", "class");
named!(Rcode, RCODES, "RCODE", "response code");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_go_both_ways() {
        for (number, name) in TYPES {
            assert_eq!(name.parse(), Ok(RecordType(*number)));
            assert_eq!(RecordType(*number).to_string(), *name);
        }
        assert_eq!("aaaa".parse(), Ok(RecordType::AAAA));
        assert_eq!("type65280".parse(), Ok(RecordType(65_280)));
        assert_eq!("257".parse(), Ok(RecordType(257)));
        assert_eq!(RecordType(65_280).to_string(), "TYPE65280");
        assert_eq!(("CH".parse(), "3".parse()), (Ok(Class::CH), Ok(Class::CH)));
        assert_eq!(Rcode(4000).to_string(), "RCODE4000");
        assert_eq!("nxdomain".parse(), Ok(Rcode::NXDOMAIN));
        for wrong in ["", "TYPE", "AAAAA", "65536", "-1", "+1", "TYPE+1"] {
            assert!(wrong.parse::<RecordType>().is_err(), "{wrong}");
        }
    }
}
