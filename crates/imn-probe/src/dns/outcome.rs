use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::answer::{Answer, Malformed};
use crate::outcome::{Fate, Timestamp, TsSource};
use crate::tls::{self, Handshake};

/// What became of one query.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// When its first packet left: the kernel's transmit timestamp if there is one.
    pub sent: Timestamp,
    /// This host's address, where it is known.
    pub local: Option<IpAddr>,
    /// Parts of the time that it took.
    pub phases: Phases,
    /// Who took the timestamps of [`Phases::query`].
    pub source: TsSource,
    /// Error term of [`Phases::query`]: what this host itself adds to it, by its loopback. `None` while uncalibrated.
    pub error: Option<Duration>,
    /// The answer, also one that is malformed or truncated.
    pub answer: Option<Answer>,
    /// The answer as it came.
    pub bytes: Vec<u8>,
    /// Messages that came and were not the answer.
    pub wrong: Wrong,
    /// Size of the query, in bytes.
    pub query_size: usize,
    /// The answer over UDP was truncated, and it was asked again over TCP.
    pub retried: bool,
    /// The TLS handshake, where one came to its end.
    pub tls: Option<Box<Handshake>>,
    /// Status of the HTTP response, where there is one.
    pub http_status: Option<u16>,
    /// Why there is no good answer.
    pub failure: Option<Failure>,
}

/// How long the parts of a query took; `None` for one that was not reached, or that its transport does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// SYN to SYN-ACK.
    pub connect: Option<Duration>,
    /// TLS handshake.
    pub tls: Option<Duration>,
    /// Query sent to the answer's last byte: the latency.
    pub query: Option<Duration>,
    /// After a truncated answer: connection, query and answer over TCP.
    pub retry: Option<Duration>,
}

impl Phases {
    /// All of them; `None` when nothing was answered.
    pub fn total(&self) -> Option<Duration> {
        let parts = [self.connect, self.tls, self.query, self.retry];
        self.query.map(|_| parts.into_iter().flatten().sum())
    }
}

/// Messages that were ignored, by the first thing that was wrong with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wrong {
    /// From an address or port that was not asked.
    pub source: u32,
    /// No answer at all: shorter than a header, or a query.
    pub form: u32,
    /// Another identifier.
    pub id: u32,
    /// Another question.
    pub question: u32,
}

impl Wrong {
    /// All of them.
    pub fn total(&self) -> u32 {
        [self.form, self.id, self.question].into_iter().fold(self.source, u32::saturating_add)
    }

    fn words(&self) -> String {
        let parts = [
            (self.source, "from another source"),
            (self.form, "no answer at all"),
            (self.id, "with a wrong id"),
            (self.question, "to another question"),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        parts.join(", ")
    }
}

/// Why there is no good answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing came within Tmax.
    #[error("no answer within tmax")]
    Timeout,
    /// Within Tmax came only messages that were ignored.
    #[error("no answer within tmax; ignored {}", .0.words())]
    Wrong(Wrong),
    /// This host may have lost the answer itself.
    #[error("unknown: this host may have lost the answer itself")]
    Unknown,
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// An ICMP error came back.
    #[error("unreachable: icmp type {kind} code {code} from {from}")]
    Unreachable {
        /// The node that sent it.
        from: IpAddr,
        /// ICMP or ICMPv6 type.
        kind: u8,
        /// ICMP or ICMPv6 code.
        code: u8,
    },
    /// The local kernel would not send.
    #[error("not sent: {}", io::Error::from_raw_os_error(*.errno))]
    NotSent {
        /// The operating system's error number.
        errno: i32,
    },
    /// The connection ended too early.
    #[error("connection closed after {got} bytes of the answer")]
    Closed {
        /// Bytes received, of the length as well.
        got: usize,
    },
    /// The connection was reset.
    #[error("connection reset")]
    Reset,
    /// The answer does not add up.
    #[error("malformed answer: {0}")]
    Malformed(#[from] Malformed),
    /// The length before an answer over TCP is less than a header.
    #[error("malformed answer: a length of {0} bytes is less than a header")]
    Length(u16),
    /// No TLS session.
    #[error("tls: {0}")]
    Tls(#[from] tls::Error),
    /// HTTP did not work.
    #[error("http: {0}")]
    Http(String),
    /// A status other than 200.
    #[error("http status {0}")]
    Status(u16),
    /// Truncated over UDP, and it could not be had over TCP.
    #[error("truncated, and over tcp: {0}")]
    Retry(Box<Failure>),
}

impl Failure {
    /// One word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Wrong(_) => "wrong_answer",
            Self::Unknown => "unknown",
            Self::Refused => "refused",
            Self::Unreachable { .. } => "unreachable",
            Self::NotSent { .. } => "not_sent",
            Self::Closed { .. } | Self::Reset => "closed",
            Self::Malformed(_) | Self::Length(_) => "malformed",
            Self::Tls(error) => error.class.code(),
            Self::Http(_) | Self::Status(_) => "http",
            Self::Retry(_) => "truncated",
        }
    }

    /// Whether it says nothing about the network or the server.
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Unknown | Self::NotSent { .. } => true,
            Self::Retry(failure) => failure.is_unknown(),
            _ => false,
        }
    }

    /// What the end of a connection attempt means; `None` if it succeeded.
    pub(super) fn of(fate: Fate) -> Option<Self> {
        Some(match fate {
            Fate::Received { .. } => return None,
            Fate::Lost => Self::Timeout,
            Fate::Unknown => Self::Unknown,
            Fate::Unreachable { from, kind, code } => Self::Unreachable { from, kind, code },
            Fate::Refused { .. } => Self::Refused,
            Fate::Reset { .. } => Self::Reset,
            Fate::NotSent { errno } => Self::NotSent { errno },
        })
    }
}
