//! Record data as zone files write it (RFC 1035 §5.1, RFC 3597 §5, and the RFC of each type).

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use data_encoding::{BASE32HEX_NOPAD, BASE64, HEXUPPER};

use super::cursor::{Cursor, Fault};
use super::record::RecordType;

/// The data of a record, all of `data`. A type that has no text of its own is written as RFC 3597 has it.
pub(super) fn rdata(kind: RecordType, mut data: Cursor<'_>) -> Result<String, Fault> {
    let text = known(kind, &mut data)?;
    if data.left() == 0 { Ok(text) } else { Err(Fault::Data) }
}

/// Data as RFC 3597 §5 writes what is not understood.
pub(super) fn opaque(octets: &[u8]) -> String {
    match octets {
        [] => "\\# 0".to_owned(),
        octets => format!("\\# {} {}", octets.len(), HEXUPPER.encode(octets)),
    }
}

/// Appends a label, with what is special in zone files escaped.
pub(super) fn label(out: &mut String, octets: &[u8]) {
    for &octet in octets {
        match octet {
            b'"' | b'(' | b')' | b'.' | b';' | b'\\' | b'@' | b'$' => out.extend(['\\', char::from(octet)]),
            b'!'..=b'~' => out.push(char::from(octet)),
            _ => {
                let _ = write!(out, "\\{octet:03}");
            }
        }
    }
}

/// A string in quotes.
fn quoted(octets: &[u8]) -> String {
    let mut out = String::with_capacity(octets.len() + 2);
    out.push('"');
    for &octet in octets {
        match octet {
            b'"' | b'\\' => out.extend(['\\', char::from(octet)]),
            b' '..=b'~' => out.push(char::from(octet)),
            _ => {
                let _ = write!(out, "\\{octet:03}");
            }
        }
    }
    out.push('"');
    out
}

fn known(kind: RecordType, data: &mut Cursor<'_>) -> Result<String, Fault> {
    Ok(match kind.0 {
        1 => {
            let octets: [u8; 4] = data.take(4)?.try_into().map_err(|_| Fault::Data)?;
            Ipv4Addr::from(octets).to_string()
        }
        28 => {
            let octets: [u8; 16] = data.take(16)?.try_into().map_err(|_| Fault::Data)?;
            Ipv6Addr::from(octets).to_string()
        }
        // NS, CNAME, PTR, DNAME, and the forgotten ones that are a name as well.
        2..=5 | 7..=9 | 12 | 39 => data.name()?,
        6 => {
            let (primary, mailbox) = (data.name()?, data.name()?);
            let [serial, refresh, retry, expire, minimum] =
                [data.u32()?, data.u32()?, data.u32()?, data.u32()?, data.u32()?];
            format!("{primary} {mailbox} {serial} {refresh} {retry} {expire} {minimum}")
        }
        // HINFO
        13 => format!("{} {}", quoted(data.string()?), quoted(data.string()?)),
        // MINFO, RP
        14 | 17 => format!("{} {}", data.name()?, data.name()?),
        // MX, AFSDB, RT, KX
        15 | 18 | 21 | 36 => format!("{} {}", data.u16()?, data.name()?),
        // TXT, SPF
        16 | 99 => strings(data)?,
        33 => format!("{} {} {} {}", data.u16()?, data.u16()?, data.u16()?, data.name()?),
        35 => format!(
            "{} {} {} {} {} {}",
            data.u16()?,
            data.u16()?,
            quoted(data.string()?),
            quoted(data.string()?),
            quoted(data.string()?),
            data.name()?
        ),
        // DS, CDS
        43 | 59 => format!("{} {} {} {}", data.u16()?, data.u8()?, data.u8()?, HEXUPPER.encode(data.rest())),
        44 => format!("{} {} {}", data.u8()?, data.u8()?, HEXUPPER.encode(data.rest())),
        46 => signature(data)?,
        47 => {
            let next = data.name()?;
            format!("{next}{}", types(data)?)
        }
        // DNSKEY, CDNSKEY
        48 | 60 => format!("{} {} {} {}", data.u16()?, data.u8()?, data.u8()?, BASE64.encode(data.rest())),
        50 => {
            let head = format!("{} {} {} {}", data.u8()?, data.u8()?, data.u16()?, salt(data)?);
            let next = BASE32HEX_NOPAD.encode(data.string()?);
            format!("{head} {next}{}", types(data)?)
        }
        51 => format!("{} {} {} {}", data.u8()?, data.u8()?, data.u16()?, salt(data)?),
        // TLSA, SMIMEA
        52 | 53 => format!("{} {} {} {}", data.u8()?, data.u8()?, data.u8()?, HEXUPPER.encode(data.rest())),
        61 => BASE64.encode(data.rest()),
        63 => format!("{} {} {} {}", data.u32()?, data.u8()?, data.u8()?, HEXUPPER.encode(data.rest())),
        64 | 65 => service(data)?,
        108 => hyphens(data.take(6)?),
        109 => hyphens(data.take(8)?),
        256 => format!("{} {} {}", data.u16()?, data.u16()?, quoted(data.rest())),
        257 => {
            let (flags, tag) = (data.u8()?, data.string()?);
            let mut name = String::new();
            label(&mut name, tag);
            format!("{flags} {name} {}", quoted(data.rest()))
        }
        _ => opaque(data.rest()),
    })
}

/// At least one string (RFC 1035 §3.3.14).
fn strings(data: &mut Cursor<'_>) -> Result<String, Fault> {
    let mut out = quoted(data.string()?);
    while data.left() > 0 {
        out.push(' ');
        out.push_str(&quoted(data.string()?));
    }
    Ok(out)
}

/// RRSIG (RFC 4034 §3.2).
fn signature(data: &mut Cursor<'_>) -> Result<String, Fault> {
    let covered = RecordType(data.u16()?);
    let (algorithm, labels, ttl) = (data.u8()?, data.u8()?, data.u32()?);
    let (expiration, inception) = (calendar(data.u32()?), calendar(data.u32()?));
    let (tag, signer) = (data.u16()?, data.name()?);
    let signature = BASE64.encode(data.rest());
    Ok(format!("{covered} {algorithm} {labels} {ttl} {expiration} {inception} {tag} {signer} {signature}"))
}

/// Seconds since 1970 as YYYYMMDDHHmmSS.
fn calendar(seconds: u32) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March, in eras of 400 years from the year 0 on, make the leap day the last of its year.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months + 2) / 5 + 1;
    let month = if months < 10 { months + 3 } else { months - 9 };
    let year = era * 400 + year_of_era + u32::from(month <= 2);
    format!("{year:04}{month:02}{day:02}{:02}{:02}{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// The types of NSEC's bit maps (RFC 4034 §4.1.2), each behind a blank.
fn types(data: &mut Cursor<'_>) -> Result<String, Fault> {
    let mut out = String::new();
    while data.left() > 0 {
        let window = u16::from(data.u8()?) << 8;
        for (at, octet) in data.string()?.iter().enumerate() {
            for bit in (0..8).filter(|bit| octet & (0x80 >> bit) != 0) {
                let low = u16::try_from(at * 8 + bit).ok().filter(|low| *low < 256).ok_or(Fault::Data)?;
                let _ = write!(out, " {}", RecordType(window | low));
            }
        }
    }
    Ok(out)
}

fn salt(data: &mut Cursor<'_>) -> Result<String, Fault> {
    Ok(match data.string()? {
        [] => "-".to_owned(),
        salt => HEXUPPER.encode(salt),
    })
}

fn hyphens(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join("-")
}

/// SVCB and HTTPS (RFC 9460 §2.1).
fn service(data: &mut Cursor<'_>) -> Result<String, Fault> {
    const KEYS: [&str; 8] =
        ["mandatory", "alpn", "no-default-alpn", "port", "ipv4hint", "ech", "ipv6hint", "dohpath"];
    let mut out = format!("{} {}", data.u16()?, data.name()?);
    while data.left() > 0 {
        let key = data.u16()?;
        let length = data.u16()?;
        let mut value = data.split(usize::from(length))?;
        let named = |key: u16| {
            KEYS.get(usize::from(key)).map_or_else(|| format!("key{key}"), |name| (*name).to_owned())
        };
        let _ = write!(out, " {}", named(key));
        let mut items: Vec<String> = Vec::new();
        match key {
            0 => {
                while value.left() > 0 {
                    items.push(named(value.u16()?));
                }
            }
            1 => {
                // Commas within an identifier are escaped, and the list is a string then escaped once more.
                let mut list = Vec::new();
                while value.left() > 0 {
                    if !list.is_empty() {
                        list.push(b',');
                    }
                    for octet in value.string()? {
                        if matches!(octet, b',' | b'\\') {
                            list.push(b'\\');
                        }
                        list.push(*octet);
                    }
                }
                items.push(quoted(&list));
            }
            2 if value.left() == 0 => continue,
            3 => items.push(value.u16()?.to_string()),
            4 => {
                while value.left() > 0 {
                    items.push(known(RecordType::A, &mut value)?);
                }
            }
            5 => items.push(BASE64.encode(value.rest())),
            6 => {
                while value.left() > 0 {
                    items.push(known(RecordType::AAAA, &mut value)?);
                }
            }
            2 => return Err(Fault::Data),
            _ if value.left() == 0 => continue,
            _ => items.push(quoted(value.rest())),
        }
        if value.left() > 0 {
            return Err(Fault::Data);
        }
        let _ = write!(out, "={}", items.join(","));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_of_the_calendar() {
        for (seconds, text) in [
            (0, "19700101000000"),
            (951_782_400, "20000229000000"),
            (1_709_251_199, "20240229235959"),
            (1_709_251_200, "20240301000000"),
            (u32::MAX, "21060207062815"),
        ] {
            assert_eq!(calendar(seconds), text);
        }
    }

    #[test]
    fn what_is_special_is_escaped() {
        let mut name = String::new();
        label(&mut name, b"a.b\\c d\xff");
        assert_eq!(name, "a\\.b\\\\c\\032d\\255");
        assert_eq!(quoted(b"say \"hi\"\x00"), "\"say \\\"hi\\\"\\000\"");
        assert_eq!(opaque(&[1, 0xab]), "\\# 2 01AB");
    }
}
