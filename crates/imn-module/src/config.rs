//! The configuration that arrives on standard input.

use std::io::Read;

use imn_contract::{Encoding, decode, v1::ModuleConfig};

use crate::Error;

/// Longest configuration taken, in bytes.
const LIMIT: usize = imn_contract::MAX_MESSAGE_BYTES;

/// Reads one JSON object, up to its closing brace: the writer need not close the pipe.
pub(crate) fn read(mut input: impl Read) -> Result<ModuleConfig, Error> {
    let fail = |message: String| Error::Config { message };
    let mut bytes = Vec::with_capacity(4096);
    let mut chunk = [0u8; 4096];
    loop {
        let count = input.read(&mut chunk).map_err(|error| fail(error.to_string()))?;
        bytes.extend_from_slice(&chunk[..count]);
        if bytes.len() > LIMIT {
            return Err(fail(format!("more than {LIMIT} bytes")));
        }
        if let Some(end) = object_end(&bytes).map_err(fail)? {
            return decode(&bytes[..end], Encoding::Json).map_err(|error| fail(error.to_string()));
        }
        if count == 0 {
            return Err(fail(if bytes.is_empty() {
                "nothing came; a module is started by an agent, which writes one JSON object".to_owned()
            } else {
                "the object is not complete".to_owned()
            }));
        }
    }
}

/// Where the first JSON value ends; `None` while it is incomplete.
fn object_end(bytes: &[u8]) -> Result<Option<usize>, String> {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<serde::de::IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => Ok(Some(values.byte_offset())),
        None => Ok(None),
        Some(Err(error)) if error.is_eof() => Ok(None),
        Some(Err(error)) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"agent":"lon1","type":"icmp","instance":"lon1-icmp-0","nats_url":"nats://127.0.0.1",
        "inbox_prefix":"_INBOX_x","config":{"a":"}"}}"#;

    /// A pipe that stays open: reading past the object would block for ever, here it fails.
    struct Open<'a>(&'a [u8]);

    impl Read for Open<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            assert!(!self.0.is_empty(), "read past the object");
            let count = self.0.len().min(7).min(buf.len());
            buf[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn an_object_is_enough() {
        let config = read(Open(TEXT.as_bytes())).unwrap();
        assert_eq!(config.instance.as_str(), "lon1-icmp-0");
        assert_eq!(config.config["a"], "}");
        assert_eq!(config.partitions, 1);
    }

    #[test]
    fn misfits_are_worded() {
        let text = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert!(text(b"").contains("started by an agent"));
        assert!(text(b"{\"agent\":").contains("not complete"));
        assert!(text(b"hello").contains("expected"));
        assert!(text(&TEXT.replace("lon1-icmp-0", "a b").into_bytes()).contains("instance"));
        assert!(text(&TEXT.replacen('{', "{\"v\":2,", 1).into_bytes()).contains("major 2"));
    }
}
