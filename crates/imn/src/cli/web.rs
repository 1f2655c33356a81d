//! Measurements of the web, and of TLS.

use std::{net::IpAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use clap::Args;

use super::measure::{MeasureArgs, duration, patience};

/// Whom to believe.
#[derive(Debug, Args)]
pub(crate) struct TlsArgs {
    /// Name that the certificate must be for [default: the target].
    #[arg(long, value_name = "NAME")]
    pub(crate) server_name: Option<String>,
    /// Take any certificate, and tell what is wrong with it.
    #[arg(short = 'k', long)]
    pub(crate) insecure: bool,
    /// File of further certificate authorities to believe, in PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct HttpArgs {
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
    /// Requests of each URL.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) count: u16,
    /// Time between the requests of a URL, such as `500ms` or `1s`.
    #[arg(short, long, default_value = "1s", value_parser = duration)]
    pub(crate) interval: Duration,
    /// How long a request may take, from the name to the last byte.
    #[arg(short, long, default_value = "10s", value_parser = patience)]
    pub(crate) timeout: Duration,
    /// URLs begun per second at most.
    #[arg(long, value_name = "N", conflicts_with = "from")]
    pub(crate) rate: Option<NonZeroU32>,
    /// Method of the request.
    #[arg(short = 'X', long, default_value = "GET")]
    pub(crate) method: String,
    /// Header of the request; repeatable.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,
    /// Body of the request.
    #[arg(long, value_name = "TEXT")]
    pub(crate) body: Option<String>,
    /// Version of HTTP to speak [default: whichever TLS agrees on].
    #[arg(long, value_name = "VERSION", value_parser = ["1.1", "2"])]
    pub(crate) http: Option<String>,
    /// Redirects to follow.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u8).range(..=30))]
    pub(crate) redirects: u8,
    /// Status codes that are expected, such as `200` or `200-299,404` [default: 200-299].
    #[arg(long, value_name = "CODES", value_delimiter = ',')]
    pub(crate) expect_status: Vec<String>,
    /// Header that must be there and match a regular expression; repeatable.
    #[arg(long, value_name = "NAME: REGEX", value_parser = header)]
    pub(crate) expect_header: Vec<(String, String)>,
    /// Header that must not match a regular expression; repeatable.
    #[arg(long, value_name = "NAME: REGEX", value_parser = header)]
    pub(crate) refuse_header: Vec<(String, String)>,
    /// Regular expression that the body must match, in its first 1 MiB; repeatable.
    #[arg(long, value_name = "REGEX")]
    pub(crate) expect_body: Vec<String>,
    /// Regular expression that the body must not match; repeatable.
    #[arg(long, value_name = "REGEX")]
    pub(crate) refuse_body: Vec<String>,
    /// Bytes that the body may have [default: 10 MiB].
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_body: Option<u64>,
    /// Connect to this address in place of what the URL's host resolves to.
    #[arg(long, value_name = "ADDR")]
    pub(crate) resolve: Option<IpAddr>,
    #[command(flatten)]
    pub(crate) secured: TlsArgs,
}

/// Reads a header, or a rule for one: a name, a colon, and the rest.
fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("write a name, a colon and a value".to_owned()),
    }
}
