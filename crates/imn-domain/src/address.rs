//! Addresses of targets: what they are, and their one canonical text.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::target::TargetKind;

/// Longest address, in bytes.
const MAX_LEN: usize = 2_048;
const MAX_HOST: usize = 253;
const MAX_LABEL: usize = 63;
const DNS_PORT: u16 = 53;

/// Why a text is no address of a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {reason}")]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

/// Takes a text for what it looks like: an address, a prefix, a URL, else a DNS name. The result is its kind and its
/// canonical form: `2001:DB8::1` becomes `2001:db8::1`, `Example.COM.` becomes `example.com`.
///
/// # Errors
/// When it is none of these; the message says what is wrong.
pub fn classify(text: &str) -> Result<(TargetKind, String), AddressError> {
    let trimmed = text.trim();
    let bare = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(trimmed);
    let kind = if bare.parse::<IpAddr>().is_ok() {
        TargetKind::Ip
    } else if trimmed.contains("://") {
        TargetKind::Url
    } else if trimmed.parse::<IpNet>().is_ok() {
        TargetKind::Prefix
    } else {
        TargetKind::Host
    };
    canonical(kind, text).map(|address| (kind, address))
}

/// The canonical form of an address of this kind. A resolver's is `address:port`.
///
/// # Errors
/// When the text is no address of this kind.
pub fn canonical(kind: TargetKind, text: &str) -> Result<String, AddressError> {
    let fail = |reason| AddressError { text: text.chars().take(80).collect(), reason };
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(fail("is empty"));
    }
    if trimmed.len() > MAX_LEN {
        return Err(fail("is longer than 2048 bytes"));
    }
    match kind {
        TargetKind::Ip => ip(trimmed).map(|ip| ip.to_string()).map_err(fail),
        TargetKind::Host => host(trimmed).map_err(fail),
        TargetKind::Url => url(trimmed).map_err(fail),
        TargetKind::Prefix => match trimmed.parse::<IpNet>() {
            Ok(net) => Ok(net.trunc().to_string()),
            Err(_) => Err(fail("is no prefix: write, for example, 192.0.2.0/24")),
        },
        TargetKind::Resolver => {
            let address = match trimmed.parse::<SocketAddr>() {
                Ok(address) => address,
                Err(_) => SocketAddr::new(ip(trimmed).map_err(fail)?, DNS_PORT),
            };
            let host = ip(&address.ip().to_string()).map_err(fail)?;
            Ok(SocketAddr::new(host, address.port()).to_string())
        }
    }
}

fn ip(text: &str) -> Result<IpAddr, &'static str> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    // An IPv4 address in IPv6's dress is an IPv4 address.
    let ip = bare.parse::<IpAddr>().map_err(|_| "is no IPv4 or IPv6 address")?.to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.is_unspecified() {
        Err("is the unspecified address, which nobody has")
    } else if ip.is_multicast() || broadcast {
        Err("is an address of many; a target is one")
    } else {
        Ok(ip)
    }
}

fn host(text: &str) -> Result<String, &'static str> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if !name.is_ascii() {
        return Err("is not ASCII: write an international name in its xn-- form");
    }
    if name.is_empty() || name.len() > MAX_HOST {
        return Err("is no DNS name: names have 1 to 253 bytes");
    }
    let label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !name.split('.').all(label) {
        return Err("is neither an address nor a DNS name; a port belongs into params");
    }
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return Err("is no IPv4 address, and no DNS name ends with a number");
    }
    Ok(name)
}

fn url(text: &str) -> Result<String, &'static str> {
    let (scheme, rest) = text.split_once("://").ok_or("is no URL: write http:// or https:// in front")?;
    let scheme = scheme.to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return Err("is no http or https URL"),
    };
    if rest.bytes().any(|b| !b.is_ascii_graphic()) {
        return Err("has blanks or bytes beyond ASCII: percent-encode them");
    }
    let rest = rest.split('#').next().unwrap_or(rest);
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.contains('@') {
        return Err("carries a user name or password, which a target must not");
    }
    let (name, port) = match authority.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => {
            let port = port.parse::<u16>().ok().filter(|port| *port > 0);
            (name, Some(port.ok_or("has a port that is no number from 1 to 65535")?))
        }
        _ => (authority, None),
    };
    let name = if let Some(inner) = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        match ip(inner)? {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        }
    } else if name.parse::<IpAddr>().is_ok() {
        ip(name)?.to_string()
    } else {
        host(name)?
    };
    let port = port.filter(|port| *port != default_port).map(|port| format!(":{port}")).unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(format!("{scheme}://{name}{port}{slash}{path}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_become_canonical() {
        use TargetKind::{Host, Ip, Prefix, Url};
        for (text, kind, address) in [
            ("127.0.0.5", Ip, "127.0.0.5"),
            (" 2001:DB8:0::1 ", Ip, "2001:db8::1"),
            ("[::1]", Ip, "::1"),
            ("::FFFF:192.0.2.1", Ip, "192.0.2.1"),
            ("http://[::ffff:192.0.2.1]/", Url, "http://192.0.2.1/"),
            ("Example.COM.", Host, "example.com"),
            ("_dmarc.example.com", Host, "_dmarc.example.com"),
            ("192.0.2.77/24", Prefix, "192.0.2.0/24"),
            ("HTTPS://Example.com:443", Url, "https://example.com/"),
            ("http://[2001:DB8::1]:8080/a?b#c", Url, "http://[2001:db8::1]:8080/a?b"),
            ("https://example.com?x=1", Url, "https://example.com/?x=1"),
        ] {
            assert_eq!(classify(text), Ok((kind, address.to_owned())), "{text}");
        }
        assert_eq!(canonical(TargetKind::Resolver, "8.8.8.8").as_deref(), Ok("8.8.8.8:53"));
        assert_eq!(canonical(TargetKind::Resolver, "[::1]:5353").as_deref(), Ok("[::1]:5353"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "  ",
            "300.1.2.3",
            "1.2.3",
            "example.com:443",
            "a..b",
            "-a.b",
            "a b",
            "münchen.de",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
            "ftp://example.com/",
            "http://",
            "http://u:p@example.com/",
            "http://example.com:0/",
            "http://exa mple.com/",
            "192.0.2.0/33",
            "a\nb",
            "fe80::1%eth0",
        ] {
            assert!(classify(text).is_err(), "{text:?}");
        }
        assert!(classify(&"a".repeat(64)).is_err());
        assert!(classify(&format!("http://a/{}", "a".repeat(3000))).is_err());
    }

    #[test]
    fn canonical_forms_of_many_texts_are_fixed_points() {
        let pieces = [
            "http://",
            "https://",
            "192.0.2.1",
            "127.1",
            "2001:db8::1",
            "[",
            "]",
            ":",
            "/",
            "/24",
            ".",
            "example",
            "net",
            "-",
            "_",
            "xn--",
            "80",
            "0",
            "65536",
            "@",
            "#",
            "?",
            "%",
            "%2f",
            " ",
            "A",
            "\u{e4}",
            "\u{202e}",
            "\0",
        ];
        for text in imn_testkit::hostile::texts(&pieces) {
            if let Ok((kind, address)) = classify(&text) {
                assert_eq!(classify(&address), Ok((kind, address.clone())), "{text:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn canonical_forms_are_fixed_points(text in "\\PC{0,40}|[a-z0-9.:/\\[\\]]{0,30}|http://[a-z0-9.:/@#?]{0,20}") {
            if let Ok((kind, address)) = classify(&text) {
                prop_assert_eq!(classify(&address), Ok((kind, address.clone())));
            }
        }
    }
}
