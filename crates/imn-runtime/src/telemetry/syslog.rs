//! Log lines to the syslog daemon, as glibc's `syslog` sends them (RFC 3164).

use std::{
    io::{self, Write},
    os::unix::net::UnixDatagram,
    path::Path,
    sync::Arc,
};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{Layer, fmt::MakeWriter, registry::LookupSpan};

use super::{Lines, Redactor, line};

/// Where the daemon listens.
pub(super) const SOCKET: &str = "/dev/log";
/// Facility `daemon`.
const FACILITY: u8 = 3;
/// A line is cut to this, which every daemon takes.
const LONGEST: usize = 8192;

pub(super) fn layer<S>(socket: &Path, redactor: Redactor) -> io::Result<Lines<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let sender = UnixDatagram::unbound()?;
    sender.connect(socket)?;
    // A daemon that is stuck costs lines, not measurements.
    sender.set_nonblocking(true)?;
    let daemon = Daemon { sender: Arc::new(sender) };
    // The daemon stamps the time and shows the level.
    let form = tracing_subscriber::fmt::format().without_time().with_level(false).with_ansi(false);
    let lines = tracing_subscriber::fmt::layer().with_writer(daemon).with_ansi(false);
    Ok(lines.fmt_fields(line::Fields(redactor)).event_format(line::Text(form)).boxed())
}

struct Daemon {
    sender: Arc<UnixDatagram>,
}

/// One line; it leaves when it is complete.
struct Line {
    sender: Arc<UnixDatagram>,
    text: Vec<u8>,
}

impl<'a> MakeWriter<'a> for Daemon {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        self.line(Level::INFO)
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        self.line(*meta.level())
    }
}

impl Daemon {
    fn line(&self, level: Level) -> Line {
        let severity = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        let tag = format!("<{}>imn[{}]: ", FACILITY * 8 + severity, std::process::id());
        Line { sender: Arc::clone(&self.sender), text: tag.into_bytes() }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LONGEST.saturating_sub(self.text.len());
        self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let text = self.text.strip_suffix(b"\n").unwrap_or(&self.text);
        // There is nobody to tell.
        let _ = self.sender.send(text);
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn the_daemon_gets_a_line_with_its_priority() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let lines = layer(&path, Redactor::default()).unwrap();
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target = "192.0.2.1", "no answer\nat all, eyJh.eyJq.c2ln");
            tracing::error!("{}", "x".repeat(100_000));
        });
        let mut line = vec![0; 65_536];
        let length = daemon.recv(&mut line).unwrap();
        let text = String::from_utf8_lossy(&line[..length]).into_owned();
        assert!(text.starts_with(&format!("<28>imn[{}]: ", std::process::id())), "{text}");
        assert!(text.contains("no answer") && text.contains("target=\"192.0.2.1\""), "{text}");
        assert!(text.contains("at all, ***"), "{text}");
        assert_eq!(daemon.recv(&mut line).unwrap(), LONGEST);
        assert!(
            layer::<tracing_subscriber::Registry>(&directory.path().join("none"), Redactor::default())
                .is_err()
        );
    }
}
