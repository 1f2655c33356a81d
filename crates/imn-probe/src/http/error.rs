//! Why a measurement is no success.

use std::{fmt, io};

use super::outcome::Phase;
use super::spec::Family;
use crate::outcome::Fate;
use crate::tls;

/// Why, and in which phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The phase that did not come to its end, or whose result is not as expected.
    pub phase: Phase,
    /// Why.
    pub cause: Cause,
}

/// Reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The name has no address, in the resolver's words.
    Resolve(String),
    /// The name has addresses, but none of the family asked for.
    NoAddress(Family),
    /// This host did not even get to ask for the name: nothing is known of the target.
    Busy,
    /// No connection; never [`Fate::Received`], and [`Fate::Lost`] is a timeout.
    Connect(Fate),
    /// No secured connection.
    Tls(tls::Error),
    /// The server does not speak the version of HTTP asked for.
    Version,
    /// Tmax passed.
    Timeout,
    /// The server reset the connection.
    Reset,
    /// The server closed the connection without an answer.
    Closed,
    /// The server closed the connection before the end of its answer.
    Truncated,
    /// The head is longer than this many bytes, or has too many lines.
    HeadTooLarge(u32),
    /// The body is longer than this many bytes.
    BodyTooLarge(u64),
    /// What came is no HTTP.
    Protocol(String),
    /// More redirects than this many.
    Redirects(u8),
    /// A redirect to where nobody can go.
    Location(String),
    /// The status is none of those expected.
    Status(String),
    /// A header is not as expected.
    Header(String),
    /// The body is not as expected.
    Body(String),
}

impl Cause {
    /// A word for programs, such as `timeout` or `tls_expired`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Resolve(_) => "resolve_failed",
            Self::NoAddress(_) => "no_address",
            Self::Busy | Self::Connect(Fate::Unknown) => "unknown",
            Self::Connect(Fate::Refused { .. }) => "refused",
            Self::Connect(Fate::Unreachable { .. }) => "unreachable",
            Self::Connect(Fate::NotSent { .. }) => "not_sent",
            Self::Connect(Fate::Reset { .. }) | Self::Reset => "reset",
            Self::Connect(_) | Self::Timeout => "timeout",
            Self::Tls(error) => error.class.code(),
            Self::Version => "version",
            Self::Closed => "closed",
            Self::Truncated => "truncated",
            Self::HeadTooLarge(_) => "head_too_large",
            Self::BodyTooLarge(_) => "body_too_large",
            Self::Protocol(_) => "protocol",
            Self::Redirects(_) => "too_many_redirects",
            Self::Location(_) => "bad_redirect",
            Self::Status(_) => "status",
            Self::Header(_) => "header",
            Self::Body(_) => "body",
        }
    }

    /// Whether it is this host's own fault, which says nothing of the target.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Busy | Self::Connect(Fate::Unknown | Fate::NotSent { .. }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = self.phase.name();
        match &self.cause {
            Cause::Resolve(words) => write!(f, "{words}"),
            Cause::NoAddress(Family::V4) => f.write_str("the name has no IPv4 address"),
            Cause::NoAddress(Family::V6) => f.write_str("the name has no IPv6 address"),
            Cause::NoAddress(Family::Any) => f.write_str("the name has no address"),
            Cause::Busy => f.write_str("unknown: this host had no resolver free in time"),
            Cause::Connect(fate) => connect(f, fate),
            Cause::Tls(error) => write!(f, "tls: {error}"),
            Cause::Version => f.write_str("the server does not speak HTTP/2"),
            Cause::Timeout => write!(f, "no answer within tmax, in phase {phase}"),
            Cause::Reset => write!(f, "connection reset in phase {phase}"),
            Cause::Closed => f.write_str("connection closed without an answer"),
            Cause::Truncated => f.write_str("connection closed before the end of the answer"),
            Cause::HeadTooLarge(limit) => {
                write!(f, "the head of the answer exceeds {limit} bytes or has too many lines")
            }
            Cause::BodyTooLarge(limit) => write!(f, "the body of the answer exceeds {limit} bytes"),
            Cause::Protocol(words) => write!(f, "what answers is no HTTP: {words}"),
            Cause::Redirects(limit) => write!(f, "more than {limit} redirects"),
            Cause::Location(words) => write!(f, "redirected to nowhere: {words}"),
            Cause::Status(words) | Cause::Header(words) | Cause::Body(words) => f.write_str(words),
        }
    }
}

impl std::error::Error for Error {}

fn connect(f: &mut fmt::Formatter<'_>, fate: &Fate) -> fmt::Result {
    match fate {
        Fate::Received { .. } | Fate::Lost => f.write_str("no answer within tmax, in phase connect"),
        Fate::Unknown => f.write_str("unknown: this host had no means for a connection"),
        Fate::Unreachable { from, kind, code } => {
            write!(f, "unreachable: icmp type {kind} code {code} from {from}")
        }
        Fate::Refused { .. } => f.write_str("connection refused"),
        Fate::Reset { .. } => f.write_str("connection reset in phase connect"),
        Fate::NotSent { errno } => write!(f, "not sent: {}", io::Error::from_raw_os_error(*errno)),
    }
}
