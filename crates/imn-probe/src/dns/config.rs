use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Entry};
use hickory_proto::rr::rdata::opt::{EdnsOption, NSIDPayload};
use hickory_proto::rr::{self, DNSClass, Name};

use super::answer::{Answer, HEADER, Question};
use super::record::{Class, RecordType};
use crate::pace::Rate;
use crate::tls;

/// Size of UDP answers asked for unless said otherwise: what passes nearly everywhere unfragmented (RFC 9715).
const UDP_SIZE: u16 = 1232;

/// Settings of a [`Engine`](super::Engine).
#[derive(Debug, Clone)]
pub struct Config {
    /// Queries under way at once, of which each holds one file; others wait their turn. Default 8,192, lowered to
    /// what the process's limit of open files leaves.
    pub max_open: usize,
    /// Queries per second to anywhere but loopback; `None` is unlimited. Default 20,000.
    pub rate: Option<Rate>,
    /// Queries per second to one /24 or /48 other than loopback; `None` is unlimited. Default 200.
    pub prefix_rate: Option<Rate>,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_open: 8192, rate: Rate::new(20_000), prefix_rate: Rate::new(200) }
    }
}

/// How a resolver is spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// One datagram.
    #[default]
    Udp,
    /// A connection (RFC 7766).
    Tcp,
    /// DNS over TLS (RFC 7858).
    Dot,
    /// DNS over HTTPS (RFC 8484), by POST on HTTP/2.
    Doh,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Udp, Self::Tcp, Self::Dot, Self::Doh];

    /// The port that it has unless said otherwise.
    pub const fn port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 53,
            Self::Dot => 853,
            Self::Doh => 443,
        }
    }

    /// `udp`, `tcp`, `dot` or `doh`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Dot => "dot",
            Self::Doh => "doh",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Transport {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|transport| transport.name() == text).ok_or("use udp, tcp, dot or doh")
    }
}

/// What to ask, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "they are bits of the message, and one choice")]
pub struct Query {
    /// The name, absolute whether or not it ends in a dot; not ASCII: by IDNA (RFC 5891).
    pub name: String,
    /// Type.
    pub kind: RecordType,
    /// Class.
    pub class: Class,
    /// How the resolver is spoken to.
    pub transport: Transport,
    /// RD: the resolver should do the work.
    pub recursion: bool,
    /// CD: answers that fail validation are wanted as well.
    pub checking_disabled: bool,
    /// AD in the query: the resolver should say whether it has validated, without DNSSEC's records (RFC 6840 §5.7).
    pub authentic_data: bool,
    /// EDNS with this size of UDP answers, 512 or more; `None` asks without EDNS.
    pub udp_size: Option<u16>,
    /// DO: DNSSEC's records are wanted. Needs EDNS.
    pub dnssec_ok: bool,
    /// Ask for the name of the server's instance (RFC 5001). Needs EDNS.
    pub nsid: bool,
    /// Ask again over TCP when the answer over UDP is truncated.
    pub retry_truncated: bool,
    /// How long all of it may take, from its first packet (Tmax).
    pub timeout: Duration,
    /// Differentiated services code point, 0..=63.
    pub dscp: u8,
    /// Source address; `None` for the host's choice.
    pub source: Option<IpAddr>,
    /// The name in the server's certificate, for [`Transport::Dot`] and [`Transport::Doh`]; its address if `None`.
    pub server_name: Option<String>,
    /// Take any certificate (RFC 8310's opportunistic privacy).
    pub insecure: bool,
    /// Path of [`Transport::Doh`].
    pub path: String,
}

impl Query {
    /// Asks over UDP, for recursion, with EDNS and NSID, and waits two seconds.
    pub fn new(name: impl Into<String>, kind: RecordType) -> Self {
        Self {
            name: name.into(),
            kind,
            class: Class::IN,
            transport: Transport::Udp,
            recursion: true,
            checking_disabled: false,
            authentic_data: false,
            udp_size: Some(UDP_SIZE),
            dnssec_ok: false,
            nsid: true,
            retry_truncated: true,
            timeout: Duration::from_secs(2),
            dscp: 0,
            source: None,
            server_name: None,
            insecure: false,
            path: "/dns-query".to_owned(),
        }
    }

    /// Whether it can be asked; the field that is wrong, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let wrong = |field, text: &str| Err((field, text.to_owned()));
        if let Err(error) = domain(&self.name) {
            return Err(("name", error));
        }
        if self.kind.is_no_lookup() {
            return Err(("type", format!("{} cannot be looked up", self.kind)));
        }
        if self.udp_size.is_some_and(|size| size < 512) {
            return wrong("udp_size", "use 512 to 65535 bytes");
        }
        if self.udp_size.is_none() && (self.dnssec_ok || self.nsid) {
            return wrong("udp_size", "DO and NSID need EDNS");
        }
        if self.timeout.is_zero() || self.timeout > Duration::from_hours(1) {
            return wrong("timeout", "use 1 ms to 1 hour");
        }
        if self.dscp > 63 {
            return wrong("dscp", "use 0 to 63");
        }
        if !self.path.starts_with('/') || !self.path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong("path", "use a path such as /dns-query");
        }
        if let Some(name) = &self.server_name
            && let Err(error) = tls::server_name(name)
        {
            return Err(("server_name", error.to_string()));
        }
        Ok(())
    }

    /// The message, with a random identifier where the transport has use for one.
    pub(super) fn ask(&self) -> Result<Ask, String> {
        // RFC 8484 §4.1: 0, for the sake of caches.
        let id = if self.transport == Transport::Doh { 0 } else { rand::random() };
        let mut entry = Entry::query(domain(&self.name)?, rr::RecordType::from(self.kind.0));
        entry.set_query_class(DNSClass::from(self.class.0));
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.add_query(entry);
        message.metadata.recursion_desired = self.recursion;
        message.metadata.checking_disabled = self.checking_disabled;
        message.metadata.authentic_data = self.authentic_data;
        if let Some(size) = self.udp_size {
            let mut edns = Edns::new();
            edns.set_max_payload(size).set_dnssec_ok(self.dnssec_ok);
            if self.nsid {
                let empty = NSIDPayload::new([]).map_err(|error| error.to_string())?;
                edns.options_mut().insert(EdnsOption::NSID(empty));
            }
            message.set_edns(edns);
        }
        let bytes = message.to_vec().map_err(|error| error.to_string())?;
        let question =
            Answer::read(&bytes).and_then(|own| own.question).ok_or("the query has no question")?;
        Ok(Ask { id, question, bytes })
    }
}

/// The name that reverse look-ups of an address ask for (RFC 1035 §3.5, RFC 3596 §2.5).
pub fn reverse(address: IpAddr) -> String {
    Name::from(address).to_ascii()
}

fn domain(text: &str) -> Result<Name, String> {
    if text.is_empty() {
        return Err("a name is missing; the root is written as a dot".to_owned());
    }
    let name = if text.is_ascii() {
        labels(text).and_then(|labels| Name::from_labels(labels).map_err(|error| error.to_string()))
    } else {
        Name::from_utf8(text).map_err(|error| error.to_string())
    };
    let mut name = name.map_err(|error| format!("{text:?} is no domain name: {error}"))?;
    name.set_fqdn(true);
    Ok(name)
}

/// The labels of a name as zone files write it: any octets, those that are special escaped (RFC 1035 §5.1, RFC 4343
/// §2.1). None for the root.
fn labels(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut labels = Vec::new();
    let mut label = Vec::new();
    let mut rest = text.strip_prefix('.').filter(|rest| rest.is_empty()).unwrap_or(text).bytes();
    while let Some(octet) = rest.next() {
        match octet {
            b'.' if label.is_empty() => return Err("an empty label".to_owned()),
            b'.' => labels.push(std::mem::take(&mut label)),
            b'\\' => match rest.next() {
                Some(first @ b'0'..=b'9') => {
                    let digits = [Some(first), rest.next(), rest.next()];
                    let value = digits.iter().try_fold(0_u32, |value, digit| {
                        digit.filter(u8::is_ascii_digit).map(|digit| value * 10 + u32::from(digit - b'0'))
                    });
                    let value = value.and_then(|value| u8::try_from(value).ok());
                    label.push(value.ok_or("a backslash wants three digits of an octet behind it")?);
                }
                Some(other) => label.push(other),
                None => return Err("a backslash at the end".to_owned()),
            },
            b'!'..=b'~' => label.push(octet),
            _ => return Err("a blank or control character that is not escaped".to_owned()),
        }
    }
    if !label.is_empty() {
        labels.push(label);
    }
    Ok(labels)
}

/// A query on the wire, and what its answer must match.
#[derive(Debug)]
pub(super) struct Ask {
    pub id: u16,
    pub question: Question,
    pub bytes: Vec<u8>,
}

/// Why a message is not the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mismatch {
    /// No header, or that of something else than an answer.
    Form,
    Id,
    Question,
}

impl Ask {
    /// Reads a message, if it is an answer to this.
    pub(super) fn judge(&self, bytes: &[u8]) -> Result<Answer, Mismatch> {
        if bytes.len() < HEADER || !Answer::is_answer(bytes) {
            return Err(Mismatch::Form);
        }
        if bytes[..2] != self.id.to_be_bytes() {
            return Err(Mismatch::Id);
        }
        let answer = Answer::read(bytes).ok_or(Mismatch::Form)?;
        let ours = &self.question;
        match &answer.question {
            Some(theirs) if theirs.name.eq_ignore_ascii_case(&ours.name) => {
                let same = (theirs.kind, theirs.class) == (ours.kind, ours.class);
                if same { Ok(answer) } else { Err(Mismatch::Question) }
            }
            // Servers that could not read the query, or would not, need not repeat it; and one that is cut short
            // within its question is ours by its identifier.
            None if answer.rcode.0 != 0 || answer.fault.is_some() => Ok(answer),
            _ => Err(Mismatch::Question),
        }
    }
}

/// The resolvers of this host, with port 53, as `/etc/resolv.conf` names them; this host itself if it names none.
pub fn system_resolvers() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let found = resolvers(&text);
    if found.is_empty() { vec![SocketAddr::from(([127, 0, 0, 1], 53))] } else { found }
}

fn resolvers(text: &str) -> Vec<SocketAddr> {
    let port = Transport::Udp.port();
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        let Some((address, zone)) = name.split_once('%') else {
            return Some(SocketAddr::new(name.parse().ok()?, port));
        };
        // Link-local addresses name their interface.
        let index = nix::net::if_::if_nametoindex(zone).ok()?;
        Some(SocketAddr::V6(std::net::SocketAddrV6::new(address.parse().ok()?, port, 0, index)))
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_of_the_host() {
        let text = "# nameserver 192.0.2.9\nsearch x\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # x\n\
                    nameserver fe80::1%lo\nnameserver nonsense\n;nameserver 192.0.2.8\nnameserver";
        let expected: Vec<SocketAddr> =
            ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%1]:53"].map(|text| text.parse().unwrap()).into();
        assert_eq!(resolvers(text), expected);
    }

    #[test]
    fn names_that_can_be_asked_for() {
        for (text, wire) in [
            (".", "."),
            ("Example.ORG", "Example.ORG."),
            ("_dmarc.dis_allowed.example.", "_dmarc.dis_allowed.example."),
            ("bücher.example", "xn--bcher-kva.example."),
            ("1/26.2.0.192.in-addr.arpa", "1/26.2.0.192.in-addr.arpa."),
            ("*.wild.example.", "*.wild.example."),
            ("strange\\.label\\032x\\255.example", "strange\\.label\\032x\\255.example."),
        ] {
            let ask = Query::new(text, RecordType::A).ask().unwrap();
            assert_eq!(ask.question.name, wire);
        }
        for wrong in [
            "",
            "..",
            ".a",
            "a..b",
            "a b",
            "a\\",
            "a\\25",
            "a\\256",
            &"a".repeat(64),
            &vec!["a".repeat(60); 5].join("."),
        ] {
            assert_eq!(Query::new(wrong, RecordType::A).check().unwrap_err().0, "name", "{wrong}");
        }
        assert_eq!(reverse("192.0.2.1".parse().unwrap()), "1.2.0.192.in-addr.arpa.");
        assert!(reverse("2001:db8::1".parse().unwrap()).ends_with("8.b.d.0.1.0.0.2.ip6.arpa."));
    }

    #[test]
    fn queries_that_cannot_be_asked_say_why() {
        let query = Query::new("example.org", RecordType::A);
        let field = |query: &Query| query.check().unwrap_err().0;
        assert_eq!(field(&Query { kind: RecordType(252), ..query.clone() }), "type");
        assert_eq!(field(&Query { udp_size: Some(100), ..query.clone() }), "udp_size");
        assert_eq!(field(&Query { udp_size: None, ..query.clone() }), "udp_size");
        assert_eq!(field(&Query { timeout: Duration::ZERO, ..query.clone() }), "timeout");
        assert_eq!(field(&Query { path: "dns query".to_owned(), ..query.clone() }), "path");
        assert_eq!(field(&Query { server_name: Some("a b".to_owned()), ..query.clone() }), "server_name");
        assert_eq!(query.check(), Ok(()));
    }
}
