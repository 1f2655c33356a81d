use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use bgpkit_parser::models::{AsPath, AsPathSegment, ExtendedCommunity, MetaCommunity};
use ipnet::IpNet;

use crate::Timestamp;

/// One prefix announced or withdrawn by one peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The prefix, without host bits.
    pub prefix: IpNet,
    /// Path identifier, where the session or file has such (RFC 7911).
    pub path_id: Option<u32>,
    /// What is announced; `None` withdraws the prefix.
    pub route: Option<Arc<Route>>,
    /// The peer's AS number.
    pub peer_asn: u32,
    /// The peer's address; unspecified for a router's own table (RFC 9069).
    pub peer_address: IpAddr,
    /// When the collector received it; for an entry of a table, when the table was written.
    pub time: Timestamp,
    /// Who collected it: the file, the route collector, or the monitored router.
    pub collector: Arc<str>,
    /// Whether it is an entry of a table, not a message.
    pub snapshot: bool,
}

/// The path attributes of an announcement, shared by all of its prefixes.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub(super) path: AsPath,
    pub(super) communities: Vec<MetaCommunity>,
    /// Next hop; of a pair of a global and a link-local address the global one.
    pub next_hop: Option<IpAddr>,
}

/// Which of a router's tables a peer is seen through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// Adj-RIB-In before policy.
    PrePolicy,
    /// Adj-RIB-In after policy.
    PostPolicy,
    /// The router's own table (RFC 9069).
    Local,
    /// Adj-RIB-Out (RFC 8671): what the router tells the peer.
    Out,
}

/// What a live source tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Prefixes of one message; never empty.
    Updates(Vec<Update>),
    /// A session came, went, or said something of itself.
    Session(Session),
    /// Something could not be read.
    Fault(Fault),
}

/// News of a session: with the source itself, or of one of its peers.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// The collector.
    pub collector: Arc<str>,
    /// The peer, address and AS number; `None` for the connection to the collector itself.
    pub peer: Option<(IpAddr, u32)>,
    /// What happened.
    pub state: SessionState,
    /// When.
    pub time: Timestamp,
}

/// What happened to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// It is up. Of a peer: what is announced from now on is all that it has.
    Up,
    /// It is down, and why. The peer's routes are gone with it, which is no withdrawal.
    Down(String),
    /// The router counts so many routes from the peer.
    Routes {
        /// In the Adj-RIB-In.
        received: Option<u64>,
        /// In the router's own table.
        installed: Option<u64>,
    },
}

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {text}", code.as_str())]
pub struct Fault {
    /// What kind of thing.
    pub code: FaultCode,
    /// In words; of a file with the offset of the record in what was decompressed.
    pub text: String,
}

/// Kinds of [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultCode {
    /// The input ends within a record.
    Cut,
    /// A record or message is longer than any may be, or too short.
    Length,
    /// A record of a type that is not known; it is skipped.
    Type,
    /// What is around the BGP message: peer, addresses, table entry.
    Envelope,
    /// The BGP message's own header or structure.
    Message,
    /// Prefixes: one is longer than its family has bits, or runs out of its field.
    Nlri,
    /// Path attributes: malformed, or a mandatory one is missing. The announcement is not told (RFC 7606 would have
    /// a router take it for a withdrawal).
    Attributes,
    /// A table entry names a peer that the table of peers does not have.
    Peer,
    /// The compressed stream is damaged.
    Compression,
    /// The source cannot be reached or read.
    Io,
    /// The server refuses or complains, in its own words.
    Refused,
    /// A text message that is no message of the feed.
    Json,
    /// More routers or peers than are taken.
    Limit,
}

impl Update {
    /// `A` for an announcement, `W` for a withdrawal.
    pub fn kind(&self) -> char {
        if self.route.is_some() { 'A' } else { 'W' }
    }

    /// The AS that originates the route; `None` for a withdrawal, and where the path does not name exactly one.
    pub fn origin_asn(&self) -> Option<u32> {
        self.route.as_deref().and_then(Route::origin_asn)
    }
}

impl Route {
    /// The AS that originates the route; `None` where the path is empty or ends in a set of several.
    pub fn origin_asn(&self) -> Option<u32> {
        let mut origins = self.origins();
        origins.next().filter(|_| origins.next().is_none())
    }

    /// All ASes that may originate it: one, or the members of the set that ends the path.
    pub fn origins(&self) -> impl Iterator<Item = u32> {
        self.path.iter_origins().map(u32::from)
    }

    /// The path as text, nearest AS first: sets in braces, confederations in brackets.
    pub fn as_path(&self) -> String {
        Path(&self.path).to_string()
    }

    /// Number of communities of all kinds.
    pub fn community_count(&self) -> usize {
        self.communities.len()
    }

    /// The communities as text: `64500:1`, large `64500:1:2`, extended `rt:64500:1` or `soo:64500:1`, and any other
    /// as sixteen hexadecimal digits behind `ext:`; well-known ones by name.
    pub fn communities(&self) -> impl Iterator<Item = String> {
        self.communities.iter().map(|community| CommunityText(community).to_string())
    }
}

impl FaultCode {
    /// The code as it is told and counted.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Length => "length",
            Self::Type => "type",
            Self::Envelope => "envelope",
            Self::Message => "message",
            Self::Nlri => "nlri",
            Self::Attributes => "attributes",
            Self::Peer => "peer",
            Self::Compression => "compression",
            Self::Io => "io",
            Self::Refused => "refused",
            Self::Json => "json",
            Self::Limit => "limit",
        }
    }
}

impl Fault {
    pub(super) fn new(code: FaultCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

struct Path<'a>(&'a AsPath);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, segment) in self.0.iter_segments().enumerate() {
            if n > 0 {
                f.write_str(" ")?;
            }
            let (open, between, close) = match segment {
                AsPathSegment::AsSequence(_) => ("", " ", ""),
                AsPathSegment::AsSet(_) => ("{", ",", "}"),
                AsPathSegment::ConfedSequence(_) => ("(", " ", ")"),
                AsPathSegment::ConfedSet(_) => ("[", ",", "]"),
            };
            f.write_str(open)?;
            for (n, asn) in segment.iter().enumerate() {
                write!(f, "{}{}", if n > 0 { between } else { "" }, u32::from(*asn))?;
            }
            f.write_str(close)?;
        }
        Ok(())
    }
}

struct CommunityText<'a>(&'a MetaCommunity);

impl fmt::Display for CommunityText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            MetaCommunity::Plain(community) => write!(f, "{community}"),
            MetaCommunity::Large(community) => write!(f, "{community}"),
            MetaCommunity::Extended(community) => extended(f, community),
            MetaCommunity::Ipv6Extended(community) => write!(f, "ext6:{community}"),
        }
    }
}

/// Route targets and route origins (RFC 4360, RFC 5668) as people write them, the rest as its bytes.
fn extended(f: &mut fmt::Formatter<'_>, community: &ExtendedCommunity) -> fmt::Result {
    let name = |subtype: u8| match subtype {
        2 => Some("rt"),
        3 => Some("soo"),
        _ => None,
    };
    match community {
        ExtendedCommunity::TransitiveTwoOctetAs(c) if name(c.subtype).is_some() => {
            let local = u32::from_be_bytes(c.local_admin);
            write!(f, "{}:{}:{local}", name(c.subtype).unwrap_or_default(), u32::from(c.global_admin))
        }
        ExtendedCommunity::TransitiveFourOctetAs(c) if name(c.subtype).is_some() => {
            let local = u16::from_be_bytes(c.local_admin);
            write!(f, "{}:{}:{local}", name(c.subtype).unwrap_or_default(), u32::from(c.global_admin))
        }
        ExtendedCommunity::TransitiveIpv4Addr(c) if name(c.subtype).is_some() => {
            let local = u16::from_be_bytes(c.local_admin);
            let global: Ipv4Addr = c.global_admin;
            write!(f, "{}:{global}:{local}", name(c.subtype).unwrap_or_default())
        }
        other => write!(f, "ext:{other}"),
    }
}
