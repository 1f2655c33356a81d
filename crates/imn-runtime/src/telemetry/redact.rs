//! What must not be shown: secrets never, addresses and names of hosts where they count as personal.

use std::{borrow::Cow, fmt, net::IpAddr, sync::OnceLock};

use serde::{Deserialize, Deserializer};

/// What stands in the place of what is not shown.
const HIDDEN: &str = "***";
/// Fields whose values are secrets, whatever they look like.
const SECRET: &[&str] = &[
    "api_key",
    "apikey",
    "attempt_token",
    "authorization",
    "cookie",
    "creds",
    "passwd",
    "password",
    "secret",
    "seed",
    "token",
];
/// Fields whose values name what somebody measures, or from where.
const PERSONAL: &[&str] = &[
    "address",
    "client",
    "client.address",
    "host",
    "host.name",
    "hostname",
    "imn.target",
    "peer",
    "resolver",
    "server.address",
    "target",
    "url",
    "url.full",
];
/// What follows the last dot of a file's name, and so of no host's.
const FILES: &[&str] = &[
    "conf", "creds", "gz", "jsonl", "json", "key", "lock", "log", "md", "nk", "out", "parquet", "pem", "py",
    "rs", "sock", "sql", "sqlite", "tmp", "toml", "txt", "yaml", "yml",
];
/// What names of subjects and of our own fields begin with.
const OURS: &[&str] = &["_inbox", "agent", "heartbeat", "imn", "messaging", "mmn", "otel", "service"];

static IN_FORCE: OnceLock<Redactor> = OnceLock::new();

/// Takes out of texts what must not be shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redactor {
    personal: bool,
}

impl Redactor {
    /// Hides secrets; with `personal` also addresses and names of hosts.
    pub const fn new(personal: bool) -> Self {
        Self { personal }
    }

    /// That of this process; before its log is started one that hides secrets alone.
    pub fn in_force() -> Self {
        IN_FORCE.get().copied().unwrap_or_default()
    }

    /// Makes it that of this process; the first one stays.
    pub(super) fn enforce(self) {
        let _ = IN_FORCE.set(self);
    }

    /// A text of any kind.
    pub fn text(self, text: &str) -> String {
        let shown = redact(text);
        if self.personal { without_addresses(&shown) } else { shown }
    }

    /// The value of a field.
    pub fn field(self, name: &str, value: &str) -> Cow<'static, str> {
        if self.hides(name) { Cow::Borrowed(HIDDEN) } else { Cow::Owned(self.text(value)) }
    }

    /// Whether nothing of a field's value may be shown.
    pub(super) fn hides(self, name: &str) -> bool {
        SECRET.contains(&name) || self.personal && PERSONAL.contains(&name)
    }
}

/// A text that is never shown: `{:?}` and `{}` give `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// A text of others, with `***` in the place of what looks like a secret: seeds of nkeys, JWTs, API keys, what follows
/// `Bearer` or `password=`, and the user and password of a URL.
pub fn redact(text: &str) -> String {
    let part_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(part_of_word) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c| !part_of_word(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        out.push_str(before);
        out.push_str(if is_secret(word) { HIDDEN } else { word });
        rest = after;
        if let Some(authority) = after.strip_prefix("://") {
            out.push_str("://");
            rest = authority;
            // A password may hold a `/` or `@` that should have been escaped: the last `@` before a gap counts.
            let gap = authority
                .find(|c: char| c.is_whitespace() || matches!(c, ',' | '"'))
                .unwrap_or(authority.len());
            if let Some(at) = authority[..gap].rfind('@') {
                out.push_str(HIDDEN);
                rest = &authority[at..];
            }
        } else if let Some((sign, length)) = announced(word, after) {
            out.push_str(&after[..sign]);
            out.push_str(HIDDEN);
            rest = &after[sign + length..];
        }
    }
    out.push_str(rest);
    out
}

/// Where a secret begins in what follows a word that announces one, and its length.
fn announced(word: &str, after: &str) -> Option<(usize, usize)> {
    let word = word.to_ascii_lowercase();
    let scheme = matches!(word.as_str(), "bearer" | "basic");
    let sign = if scheme {
        after.bytes().take_while(|byte| *byte == b' ').count()
    } else if SECRET.contains(&word.as_str()) {
        ["=\"", "=", "\":\"", "\": \""].iter().find(|sign| after.starts_with(**sign))?.len()
    } else {
        0
    };
    if sign == 0 {
        return None;
    }
    let value = &after[sign..];
    let quoted = after[..sign].ends_with('"');
    let ends = |c: char| c == '"' || !quoted && (c.is_whitespace() || matches!(c, ',' | ';' | '&' | '}'));
    let length = value.find(ends).unwrap_or(value.len());
    (length > 0).then_some((sign, length))
}

fn is_secret(word: &str) -> bool {
    let base32 = |c: char| c.is_ascii_uppercase() || ('2'..='7').contains(&c);
    let seed = word.len() == 58 && word.starts_with('S') && word.chars().all(base32);
    let jwt = word.starts_with("eyJ") && word.matches('.').count() == 2;
    let key = word.len() >= 40
        && word
            .strip_prefix("imn_")
            .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_hexdigit() || c == '_'));
    seed || jwt || key
}

/// The text without addresses and names of hosts. Rather too much is hidden than too little.
fn without_addresses(text: &str) -> String {
    let text = hide(
        text,
        |c| c.is_ascii_hexdigit() || matches!(c, ':' | '.'),
        |before, run, after| {
            let outside = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
            let alone =
                before.chars().next_back().is_none_or(outside) && after.chars().next().is_none_or(outside);
            let bare = run.trim_end_matches('.');
            let bare = bare.strip_suffix(':').filter(|bare| !bare.ends_with(':')).unwrap_or(bare);
            let is_v6 = |text: &str| text.contains(':') && text.parse::<IpAddr>().is_ok();
            (alone && is_v6(bare)).then_some((0, bare.len()))
        },
    );
    let text = hide(
        &text,
        |c| c.is_ascii_digit() || c == '.',
        |_, run, _| {
            let from = run.len() - run.trim_start_matches('.').len();
            let bare = run.trim_matches('.');
            let parts = bare.split('.').map(|part| part.len() <= 3 && part.parse::<u8>().is_ok());
            let (mut count, mut fit) = (0, true);
            parts.for_each(|part| (count, fit) = (count + 1, fit && part));
            (count >= 4 && fit).then_some((from, bare.len()))
        },
    );
    hide(
        &text,
        |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'),
        |before, run, _| {
            let from = run.len() - run.trim_start_matches('.').len();
            let bare = run.trim_matches('.');
            // The authority of a URL is a host; what follows a single `/` is part of a path.
            let authority = before.ends_with("://") && !bare.is_empty();
            let path = before.ends_with('/') && !authority;
            (authority || !path && is_host_name(bare)).then_some((from, bare.len()))
        },
    )
}

fn is_host_name(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let mut labels = lower.split('.');
    let (Some(first), Some(last)) = (labels.next(), lower.rsplit('.').next()) else { return false };
    let top = (2..=24).contains(&last.len())
        && (last.chars().all(|c| c.is_ascii_alphabetic()) || last.starts_with("xn--"));
    lower.contains('.')
        && lower.split('.').all(|label| !label.is_empty())
        && top
        && !FILES.contains(&last)
        && !OURS.contains(&first)
}

/// Replaces a part of each maximal run of characters: `part` gets what stands before, the run, and what follows, and
/// says where the part begins and how long it is.
fn hide(
    text: &str,
    of_run: impl Fn(char) -> bool,
    part: impl Fn(&str, &str, &str) -> Option<(usize, usize)>,
) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(start) = text[at..].find(&of_run).map(|start| at + start) {
        let end = text[start..].find(|c| !of_run(c)).map_or(text.len(), |end| start + end);
        let run = &text[start..end];
        out.push_str(&text[at..start]);
        match part(&text[..start], run, &text[end..]) {
            Some((from, length)) => {
                out.push_str(&run[..from]);
                out.push_str(HIDDEN);
                out.push_str(&run[from + length..]);
            }
            None => out.push_str(run),
        }
        at = end;
    }
    out.push_str(&text[at..]);
    out
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn secrets_are_not_shown_and_the_rest_is() {
        let user = nkeys::KeyPair::new_user();
        let seed = user.seed().unwrap();
        let text =
            format!("user {} seed \"{seed}\" jwt=eyJ0eXAi.eyJqdGki.c2ln, at 10:20.", user.public_key());
        let shown = format!("user {} seed \"***\" jwt=***, at 10:20.", user.public_key());
        assert_eq!(redact(&text), shown);
        assert_eq!(
            redact("nats://u:p/w@h:4222,tls://x:y@z see http://h/@a"),
            "nats://***@h:4222,tls://***@z see http://***@a"
        );
        let key = format!("imn_{}_{}", "0a".repeat(8), "f9".repeat(32));
        assert_eq!(redact(&format!("key {key}; imn_runtime")), "key ***; imn_runtime");
        assert_eq!(
            redact("Authorization: Bearer a/b+c= token=x&p=1 {\"password\":\"a b\",\"n\":1} token: none"),
            "Authorization: Bearer *** token=***&p=1 {\"password\":\"***\",\"n\":1} token: none"
        );
        let secret = Secret::new("open sesame");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(secret.expose(), "open sesame");
    }

    #[test]
    fn addresses_and_names_are_hidden_where_they_are_personal() {
        let personal = Redactor::new(true);
        let shown = [
            ("connect 192.0.2.1:80: refused", "connect ***:80: refused"),
            ("[2001:db8::1]:443 and ::1, ::ffff:10.0.0.1.", "[***]:443 and ***, ***."),
            (
                "resolve www.Example.net. for https://localhost:8080/a.html",
                "resolve ***. for https://***:8080/a.html",
            ),
            ("1.0.0.127.in-addr.arpa", "***.***"),
            // What is ours stays.
            (
                "imn_runtime::nats mmn.jobs.result.abc /var/lib/a.b/instances.json 2026-11-28T13:14:51.123Z 0.1.0",
                "",
            ),
            ("module started instance=lon1-icmp-0 pid=12 took 1.5 ms", ""),
        ];
        for (text, hidden) in shown {
            let hidden = if hidden.is_empty() { text } else { hidden };
            assert_eq!(personal.text(text), hidden);
            assert_eq!(Redactor::new(false).text(text), text);
        }
        assert_eq!(personal.field("target", "anything"), "***");
        assert_eq!(Redactor::new(false).field("target", "example.net"), "example.net");
        assert_eq!(Redactor::new(false).field("token", "x"), "***");
    }

    proptest! {
        #[test]
        fn what_holds_no_secret_stays_as_it_is(text in "[ a-z0-9.:/é\"-]{0,60}") {
            let announces = ["eyj", "bearer", "basic"].iter().any(|word| text.contains(word));
            let quoted = SECRET.iter().any(|word| text.contains(&format!("{word}\":")));
            prop_assume!(!announces && !quoted);
            prop_assert_eq!(redact(&text), text);
        }

        #[test]
        fn any_text_can_be_redacted(text in ".{0,80}") {
            let once = redact(&text);
            prop_assert_eq!(redact(&once), once.clone());
            let _ = Redactor::new(true).text(&text);
        }

        #[test]
        fn no_address_is_shown(v4: [u8; 4], v6: [u16; 8], before in "[a-z]{0,5}[ =\"(/]", after in "([ ,\")/].{0,5})?") {
            let (v4, v6) = (Ipv4Addr::from(v4), Ipv6Addr::from(v6));
            for address in [v4.to_string(), v6.to_string()] {
                for text in [format!("{before}{address}{after}"), format!("{before}[{address}]:80{after}")] {
                    let shown = Redactor::new(true).text(&text);
                    prop_assert!(!shown.contains(&address), "{text} -> {shown}");
                }
            }
            let shown = Redactor::new(true).text(&format!("{before}{v4}:80{after}"));
            prop_assert!(!shown.contains(&v4.to_string()), "{shown}");
        }

        #[test]
        fn no_host_name_is_shown(name in "[a-z][a-z0-9-]{0,8}(\\.[a-z0-9]{1,8}){0,2}\\.(net|org|example|de)", before in "[a-z]{0,5}[ =\"(@]") {
            prop_assume!(!OURS.contains(&name.split('.').next().unwrap_or_default()));
            let shown = Redactor::new(true).text(&format!("{before}{name}: not found"));
            prop_assert!(!shown.contains(&name), "{shown}");
        }

        #[test]
        fn no_secret_is_shown(secret in "[A-Za-z0-9+/_-]{1,40}", field in proptest::sample::select(SECRET), form in 0..4) {
            let text = match form {
                0 => format!("{field}={secret} end"),
                1 => format!("{{\"{field}\":\"{secret}\",\"n\":1}}"),
                2 => format!("{field}=\"{secret} and {secret}\""),
                _ => format!("Bearer {secret}"),
            };
            let shown = redact(&text).replacen(field, "", 1).replace("Bearer", "").replace("end", "");
            prop_assert!(secret.len() < 4 || !shown.contains(&secret), "{shown}");
            prop_assert!(redact(&text).contains(HIDDEN));
        }
    }
}
