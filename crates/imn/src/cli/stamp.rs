//! STAMP.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};
use imn_probe::stamp::PORT;

use super::measure::{MeasureArgs, duration, patience};

#[derive(Debug, Subcommand)]
pub(crate) enum StampVerb {
    /// Measure round trips, both one-way delays, and loss per direction with a STAMP or TWAMP-light reflector.
    Send(Box<StampSendArgs>),
    /// Answer STAMP and TWAMP-light senders until ended.
    Reflect(StampReflectArgs),
}

#[derive(Debug, Args)]
pub(crate) struct StampSendArgs {
    /// Targets are ADDR or ADDR:PORT, one port for all; 862 if none is given.
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
    /// Packets to each target.
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) count: u16,
    /// Time between the packets to a target, such as `10ms` or `1s`.
    #[arg(short, long, default_value = "100ms", value_parser = duration)]
    pub(crate) interval: Duration,
    /// How long each answer is waited for, such as `500ms` or `2s`; may exceed the interval.
    #[arg(short, long, default_value = "1s", value_parser = patience)]
    pub(crate) timeout: Duration,
    /// Bytes of UDP payload [default: 44, or 112 with a key].
    #[arg(short, long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(44..=65_507))]
    pub(crate) size: Option<u16>,
    /// Differentiated services code point.
    #[arg(long, value_parser = clap::value_parser!(u8).range(..=63))]
    pub(crate) dscp: Option<u8>,
    /// File whose first line is the secret of authenticated mode; with --from its name in the agents' key directory.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Session identifier [default: a random one].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) ssid: Option<u16>,
    /// How time stamps are written.
    #[arg(long, value_enum, default_value = "ntp")]
    pub(crate) timestamps: Timestamps,
    /// How the reflector numbers its answers; auto finds out.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) reflector: Numbering,
    /// Port to send from [default: any].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..))]
    pub(crate) source_port: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Timestamps {
    /// As NTP does.
    Ntp,
    /// As IEEE 1588 does.
    Ptp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Numbering {
    /// Found out; where it cannot be, losses are told of no direction.
    Auto,
    /// By a count of its own.
    Stateful,
    /// By the sender's number.
    Stateless,
}

#[derive(Debug, Args)]
pub(crate) struct StampReflectArgs {
    /// Where to listen; repeatable [default: port 862 of all addresses].
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = listen)]
    pub(crate) listen: Vec<SocketAddr>,
    /// Number answers by a count per session, so that senders can tell the directions of losses.
    #[arg(long)]
    pub(crate) stateful: bool,
    /// File whose first line is the secret of authenticated mode; only who has it is answered.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Packets per second of one source at most, 0 for any number; loopback is not limited.
    #[arg(long, value_name = "PPS", default_value_t = 2_000)]
    pub(crate) source_rate: u32,
    /// Sessions whose count is kept at once.
    #[arg(long, value_name = "N", default_value = "65536")]
    pub(crate) max_sessions: NonZeroU32,
    /// A session that is silent for this long is forgotten.
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = duration)]
    pub(crate) session_timeout: Duration,
}

/// An address, with or without a port.
fn listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, PORT));
    }
    Err("write an address, or ADDR:PORT such as 0.0.0.0:8620 or [::]:8620".to_owned())
}
