//! Traces.

use std::{num::NonZeroU32, time::Duration};

use clap::{Args, ValueEnum};

use super::{MeasureArgs, duration, patience};

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
    /// What to send [default: icmp; with --multipath udp].
    #[arg(long, value_enum)]
    pub(crate) protocol: Option<Transport>,
    /// Destination port of UDP [default: 33434] or TCP [default: 80].
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Cycles: probes to each hop [default: 1; for mtr 10].
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) count: Option<u16>,
    /// Time between the starts of cycles, such as `100ms` or `1s`; may be shorter than the round trip.
    #[arg(short, long, default_value = "1s", value_parser = duration)]
    pub(crate) interval: Duration,
    /// How long each answer is waited for, such as `500ms` or `2s`.
    #[arg(short, long, default_value = "1s", value_parser = patience)]
    pub(crate) timeout: Duration,
    /// Once the target has answered, what is still missing is waited for so long, or three times the longest round
    /// trip; as long as --timeout to wait for everything.
    #[arg(long, default_value = "250ms", value_parser = duration)]
    pub(crate) grace: Duration,
    /// Bytes of ICMP or UDP payload.
    #[arg(short, long, value_name = "BYTES", default_value_t = 32, value_parser = clap::value_parser!(u16).range(20..=1472))]
    pub(crate) size: u16,
    /// First TTL or hop limit.
    #[arg(long, value_name = "TTL", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) first_hop: u8,
    /// Last TTL or hop limit.
    #[arg(long, value_name = "TTL", default_value_t = 30, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) max_hops: u8,
    /// Find all parallel paths, and name each.
    #[arg(long, conflicts_with = "count")]
    pub(crate) multipath: bool,
    /// Which of 256 flows to send; equal flows take equal paths.
    #[arg(long, default_value_t = 0)]
    pub(crate) flow: u8,
    /// Show the names of the hops' addresses.
    #[arg(long)]
    pub(crate) names: bool,
    /// Show which autonomous systems originate the hops' addresses.
    #[arg(long)]
    pub(crate) asn: bool,
    /// Where autonomous systems are looked up: a zone that answers as `asn.cymru.com`, the default, does.
    #[arg(long, value_name = "ZONE")]
    pub(crate) asn_zone: Option<String>,
    /// Who is asked for names and autonomous systems [default: the resolver of the host that traces].
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub(crate) resolver: Option<String>,
    /// Targets begun per second at most.
    #[arg(long, value_name = "N", conflicts_with = "from")]
    pub(crate) rate: Option<NonZeroU32>,
}

/// What a probe is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// ICMP or ICMPv6 echo requests.
    Icmp,
    /// UDP datagrams.
    Udp,
    /// TCP segments with the SYN flag.
    Tcp,
}
