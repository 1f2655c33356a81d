//! Measurements.

mod trace;

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use imn_sink::format::Format;

use super::{ConnectArgs, TlsArgs, tag};

pub(crate) use trace::{TraceArgs, Transport};

#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
    #[command(flatten)]
    pub(crate) packets: PacketArgs,
    /// Bytes of payload.
    #[arg(short, long, value_name = "BYTES", default_value_t = 56, value_parser = clap::value_parser!(u16).range(20..=65_507))]
    pub(crate) size: u16,
}

#[derive(Debug, Args)]
pub(crate) struct TcpArgs {
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
    #[command(flatten)]
    pub(crate) packets: PacketArgs,
    /// Port to connect to [default: 80; with --tls 443].
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Make a TLS handshake over each connection; it counts as answered once it is secured.
    #[arg(long)]
    pub(crate) tls: bool,
    #[command(flatten)]
    pub(crate) secured: TlsArgs,
}

/// Targets are the names to look up; the address of one is looked up the other way round.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct DnsArgs {
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
    /// Type of the records, by name or number [default: A, or PTR of an address].
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<String>,
    /// Class of the records, by name or number [default: IN].
    #[arg(long)]
    pub(crate) class: Option<String>,
    /// Resolver: an address or name, with or without a port, or a URL such as tls://9.9.9.9 or
    /// https://dns.example/dns-query [default: the host's own].
    #[arg(long, value_name = "RESOLVER")]
    pub(crate) resolver: Option<String>,
    /// Transport [default: udp].
    #[arg(long, value_parser = ["udp", "tcp", "dot", "doh"])]
    pub(crate) transport: Option<String>,
    /// Port of the resolver [default: the transport's own].
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Ask for DNSSEC's records.
    #[arg(long)]
    pub(crate) dnssec: bool,
    /// Do not ask for recursion.
    #[arg(long)]
    pub(crate) no_recursion: bool,
    /// Do not use EDNS.
    #[arg(long, conflicts_with_all = ["dnssec", "udp_size"])]
    pub(crate) no_edns: bool,
    /// Size of UDP answers that EDNS asks for [default: 1232].
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(512..))]
    pub(crate) udp_size: Option<u16>,
    /// Do not ask again over TCP when an answer is truncated.
    #[arg(long)]
    pub(crate) no_retry_tcp: bool,
    /// Name in the resolver's certificate [default: its own name or address].
    #[arg(long, value_name = "NAME")]
    pub(crate) server_name: Option<String>,
    /// Take any certificate.
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Response codes that are a success, separated by commas [default: NOERROR].
    #[arg(long, value_name = "RCODE")]
    pub(crate) expect_rcode: Option<String>,
    /// Regular expression that the data of an answer must match.
    #[arg(long, value_name = "REGEX")]
    pub(crate) expect_answer: Option<String>,
    /// Queries of each target.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) count: u16,
    /// Time between the queries of a target, such as `10ms` or `1s`.
    #[arg(short, long, default_value = "1s", value_parser = duration)]
    pub(crate) interval: Duration,
    /// How long a query may take in all, such as `500ms` or `2s`.
    #[arg(short, long, default_value = "2s", value_parser = patience)]
    pub(crate) timeout: Duration,
    /// Targets begun per second at most.
    #[arg(long, value_name = "N", conflicts_with = "from")]
    pub(crate) rate: Option<NonZeroU32>,
}

#[derive(Debug, Args)]
pub(crate) struct AnyArgs {
    /// Module type, such as icmp, tcp or echo; with --from also of modules that only the agents have.
    #[arg(value_name = "TYPE")]
    pub(crate) kind: String,
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
    /// Parameter of the type, its value as JSON or text; repeatable.
    #[arg(long = "param", value_name = "K=V", value_parser = tag)]
    pub(crate) params: Vec<(String, String)>,
    /// How long one target may take, such as `10s`.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(crate) deadline: Duration,
    /// Targets begun per second at most.
    #[arg(long, value_name = "N", conflicts_with = "from")]
    pub(crate) rate: Option<NonZeroU32>,
}

/// How many packets, how fast, and how long each is waited for.
#[derive(Debug, Args)]
pub(crate) struct PacketArgs {
    /// Packets to each target [default: 4; with --live as many as possible].
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) count: Option<u16>,
    /// Time between the packets to a target, such as `10ms` or `1s`.
    #[arg(short, long, default_value = "1s", value_parser = duration)]
    pub(crate) interval: Duration,
    /// How long each answer is waited for, such as `500ms` or `2s`; may exceed the interval.
    #[arg(short, long, default_value = "1s", value_parser = patience)]
    pub(crate) timeout: Duration,
    /// Packets per second at most [default: 20000 beyond this host, unlimited toward loopback].
    #[arg(long, value_name = "PPS", conflicts_with = "from")]
    pub(crate) rate: Option<NonZeroU32>,
    /// Packets per second at most to one /24 or /48 beyond this host [default: 200].
    #[arg(long, value_name = "PPS", conflicts_with = "from")]
    pub(crate) prefix_rate: Option<NonZeroU32>,
}

/// What all measurements have.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct MeasureArgs {
    /// Addresses or names, or what the type measures.
    #[arg(value_name = "TARGET", required_unless_present = "file")]
    pub(crate) targets: Vec<String>,
    /// File of targets, one per line; `-` is standard input. Empty lines and what follows a `#` are left out.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Measure from this process; the default.
    #[arg(long, conflicts_with = "from")]
    pub(crate) local: bool,
    /// Measure from agents: a region, an agent's id or name, a tag `k=v`, an earlier job's id, `any` (one) or `all`.
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) from: Option<String>,
    /// IPv4 only.
    #[arg(short = '4', long = "ipv4", conflicts_with = "ipv6")]
    pub(crate) ipv4: bool,
    /// IPv6 only.
    #[arg(short = '6', long = "ipv6")]
    pub(crate) ipv6: bool,
    /// Form of the output [default: table].
    #[arg(short, long, value_name = "FORMAT", value_parser = format())]
    pub(crate) output: Option<Format>,
    /// Show each target's figures while they are measured; on a terminal only.
    #[arg(long)]
    pub(crate) live: bool,
    /// Add one object about all targets together; with --file in place of the rows.
    #[arg(long)]
    pub(crate) summary: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

fn format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.map(Format::name)).try_map(|name| name.parse::<Format>())
}

/// Longest time that any flag takes.
const LONGEST: Duration = Duration::from_hours(24);

/// Reads a duration greater than zero: a number and `us`, `ms`, `s`, `m` or `h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a number and its unit, such as 10ms, 5s or 2m".to_owned();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "us" | "µs" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    let span = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    if span.is_zero() {
        return Err("must be greater than zero, such as 10ms".to_owned());
    }
    if span > LONGEST {
        return Err("must be at most 24h".to_owned());
    }
    Ok(span)
}

/// Longest time that an answer is waited for.
const PATIENCE: Duration = Duration::from_hours(1);

/// Reads how long an answer is waited for.
pub(super) fn patience(text: &str) -> Result<Duration, String> {
    let span = duration(text)?;
    if span < Duration::from_millis(1) || span > PATIENCE {
        return Err("must be 1ms to 1h".to_owned());
    }
    Ok(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_waited_for_within_limits() {
        assert_eq!(patience("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(patience("1h"), Ok(PATIENCE));
        for text in ["999us", "61m", "24h", "999999h", "5"] {
            assert!(patience(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("10ms"), Ok(Duration::from_millis(10)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("0.5s"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        for text in [
            "",
            "5",
            "s",
            "0s",
            "0.0ms",
            "-1s",
            "1 s",
            "1..2s",
            "5x",
            "25h",
            "1e3s",
            "9999999999999999999999h",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
