//! Log lines to the journal of systemd, each field of an event by its own name (the native protocol of systemd.io).

use std::{
    fmt,
    io::{self, Write as _},
    os::unix::net::UnixDatagram,
    path::Path,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use super::{Redactor, trace};

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
/// A value is cut to this, so that an entry fits into one datagram.
const LONGEST: usize = 8192;

/// Hands every event to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    sender: UnixDatagram,
    redactor: Redactor,
}

pub(super) fn layer(socket: &Path, redactor: Redactor) -> io::Result<Journal> {
    let sender = UnixDatagram::unbound()?;
    sender.connect(socket)?;
    // A journal that is stuck costs lines, not measurements.
    sender.set_nonblocking(true)?;
    Ok(Journal { sender, redactor })
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        let priority = match *meta.level() {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            Level::DEBUG | Level::TRACE => "7",
        };
        let mut entry = Entry { bytes: Vec::with_capacity(256), redactor: self.redactor };
        entry.put("PRIORITY", priority);
        entry.put("SYSLOG_IDENTIFIER", "imn");
        entry.put("TARGET", meta.target());
        if let Some((trace, span)) = trace::ids() {
            entry.put("TRACE_ID", &trace.to_string());
            entry.put("SPAN_ID", &span.to_string());
        }
        event.record(&mut entry);
        // There is nobody to tell.
        let _ = self.sender.send(&entry.bytes);
    }
}

struct Entry {
    bytes: Vec<u8>,
    redactor: Redactor,
}

impl Entry {
    /// Always with its length, since a value may have several lines.
    fn put(&mut self, name: &str, value: &str) {
        let end =
            value.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= LONGEST).last();
        let value = &value[..end.unwrap_or(0)];
        // Writing to memory does not fail.
        let _ = self.bytes.write_all(name.as_bytes());
        let _ = self.bytes.write_all(b"\n");
        let _ = self.bytes.write_all(&(value.len() as u64).to_le_bytes());
        let _ = self.bytes.write_all(value.as_bytes());
        let _ = self.bytes.write_all(b"\n");
    }

    fn field(&mut self, name: &str, value: &str) {
        let shown = self.redactor.field(name, value);
        if name == "message" {
            return self.put("MESSAGE", &shown);
        }
        let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let name: String = "F_".chars().chain(name.chars().map(upper)).take(64).collect();
        self.put(&name, &shown);
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field.name(), &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn the_journal_gets_the_fields_and_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let subscriber = tracing_subscriber::registry().with(layer(&path, Redactor::new(true)).unwrap());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target = "192.0.2.1", n = 3, token = "hush", "no answer\nof 192.0.2.1");
            tracing::error!("{}", "é".repeat(10_000));
        });
        let mut entry = vec![0; 65_536];
        let length = journal.recv(&mut entry).unwrap();
        let text = String::from_utf8_lossy(&entry[..length]).into_owned();
        for part in [
            "PRIORITY\n\u{1}\0\0\0\0\0\0\u{0}4\n",
            "MESSAGE\n\u{10}\0\0\0\0\0\0\0no answer\nof ***\n",
            "F_N\n\u{1}\0\0\0\0\0\0\u{0}3\n",
        ] {
            assert!(text.contains(part), "{part:?} in {text:?}");
        }
        assert!(!text.contains("192.0.2.1") && !text.contains("hush"), "{text:?}");
        assert!(journal.recv(&mut entry).unwrap() < 9_000);
    }
}
