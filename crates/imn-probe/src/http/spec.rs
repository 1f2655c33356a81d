use std::net::IpAddr;
use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use hyper::header::HeaderMap;
use url::Url;

use super::expect::Expect;

/// How a URL is measured.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Method of the request.
    pub method: Method,
    /// Headers of the request, on top of or in place of `host`, `user-agent` and `accept`.
    pub headers: HeaderMap,
    /// Body of the request.
    pub body: Bytes,
    /// Version to speak.
    pub version: Version,
    /// Which addresses of a name may be taken.
    pub family: Family,
    /// Connect to this address instead of resolving the URL's host; redirects to other hosts are resolved.
    pub address: Option<IpAddr>,
    /// Name that the certificate of the URL's host must be for, in place of that host.
    pub server_name: Option<String>,
    /// Redirects followed at most; with 0 a redirect is the answer.
    pub redirects: u8,
    /// What the answer must be like.
    pub expect: Expect,
    /// What the answer may cost.
    pub limit: Limit,
    /// Time for everything from resolution to the last byte, redirects included (Tmax).
    pub timeout: Duration,
    /// Differentiated services code point, 0..=63.
    pub dscp: u8,
}

impl Default for Spec {
    /// A GET within ten seconds that follows up to ten redirects and expects a status of 200 to 299.
    fn default() -> Self {
        Self {
            method: Method::GET,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            version: Version::Any,
            family: Family::Any,
            address: None,
            server_name: None,
            redirects: 10,
            expect: Expect::default(),
            limit: Limit::default(),
            timeout: Duration::from_secs(10),
            dscp: 0,
        }
    }
}

/// Bounds of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Bytes of the head, interim answers included. Default 64 KiB.
    pub head: u32,
    /// Bytes of the body. Default 10 MiB.
    pub body: u64,
}

impl Default for Limit {
    fn default() -> Self {
        Self { head: 64 << 10, body: 10 << 20 }
    }
}

/// Version of HTTP to speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/2 where TLS agrees on it, else HTTP/1.1.
    #[default]
    Any,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: agreed by TLS, or without TLS at once.
    Http2,
}

/// Which addresses of a name may be taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Family {
    /// The first that the resolver gives.
    #[default]
    Any,
    /// The first of IPv4.
    V4,
    /// The first of IPv6.
    V6,
}

impl Family {
    pub(super) fn admits(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// Reads a target: a URL of `http` or `https`, or what follows `http://`. Credentials belong into a header.
///
/// # Errors
/// Words that say what is wrong.
pub fn parse_url(text: &str) -> Result<Url, String> {
    const LONGEST: usize = 8192;
    if text.len() > LONGEST {
        return Err(format!("longer than {LONGEST} bytes"));
    }
    let text = text.trim();
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    let url = match scheme.as_deref() {
        Some("http" | "https") => Url::parse(text),
        Some(other) => return Err(format!("{other:?} is no scheme of HTTP: use http:// or https://")),
        None => Url::parse(&format!("http://{text}")),
    };
    let url = url.map_err(|error| error.to_string())?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err("names no host".to_owned());
    }
    if url.port() == Some(0) {
        return Err("port 0 is none: use 1 to 65535".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "credentials do not belong into a URL, which is shown: use the header authorization".to_owned()
        );
    }
    Ok(url)
}
