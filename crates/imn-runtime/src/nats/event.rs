//! What a connection says on its own: violations, slow consumers, interruptions.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_nats::{ClientError, Event, ServerError};
use tokio::sync::{broadcast, watch};

/// How many violations are remembered.
const REMEMBERED: usize = 32;

/// The server refused something; it says so by the way, not in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The server's own text.
    pub text: String,
    /// The subject in that text, if it names one.
    pub subject: Option<String>,
    /// When it came.
    pub at: Instant,
}

impl Violation {
    fn new(text: String) -> Self {
        let subject = text.split('"').nth(1).map(str::to_owned);
        Self { text, subject, at: Instant::now() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused by the server: {}", self.text)
    }
}

/// Counts since the connection was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times that the connection came up, the first included.
    pub connects: u64,
    /// Times that it went down.
    pub disconnects: u64,
    /// Messages dropped because a subscription's buffer was full.
    pub dropped: u64,
    /// Permission and authorization violations.
    pub violations: u64,
    /// Other errors that the server or the client reported.
    pub errors: u64,
}

/// The events of one connection; cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    connects: AtomicU64,
    disconnects: AtomicU64,
    dropped: AtomicU64,
    violations: AtomicU64,
    errors: AtomicU64,
    recent: Mutex<VecDeque<Violation>>,
    violated: broadcast::Sender<Violation>,
    connected: watch::Sender<bool>,
}

impl Events {
    pub(super) fn new(name: &str) -> Self {
        Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                connects: AtomicU64::new(0),
                disconnects: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
                violations: AtomicU64::new(0),
                errors: AtomicU64::new(0),
                recent: Mutex::new(VecDeque::new()),
                violated: broadcast::Sender::new(REMEMBERED),
                connected: watch::Sender::new(false),
            }),
        }
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        let shared = &self.shared;
        Counts {
            connects: shared.connects.load(Relaxed),
            disconnects: shared.disconnects.load(Relaxed),
            dropped: shared.dropped.load(Relaxed),
            violations: shared.violations.load(Relaxed),
            errors: shared.errors.load(Relaxed),
        }
    }

    /// Whether the connection is up.
    pub fn is_connected(&self) -> bool {
        *self.shared.connected.borrow()
    }

    /// Follows whether the connection is up; each change is a chance to ask for what was missed.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.shared.connected.subscribe()
    }

    /// Waits up to `timeout` for the connection to be up; tells whether it is.
    pub async fn wait_connected(&self, timeout: Duration) -> bool {
        let mut connected = self.connected();
        matches!(tokio::time::timeout(timeout, connected.wait_for(|up| *up)).await, Ok(Ok(_)))
    }

    /// Violations from now on. A receiver that lags misses the oldest of them.
    pub fn violations(&self) -> broadcast::Receiver<Violation> {
        self.shared.violated.subscribe()
    }

    /// The latest violation.
    pub fn last_violation(&self) -> Option<Violation> {
        self.recent().back().cloned()
    }

    /// The latest violation since `start` of which `about` says that it matters: why something timed out.
    pub fn violation_since(&self, start: Instant, about: impl Fn(&Violation) -> bool) -> Option<Violation> {
        self.recent().iter().rev().find(|v| v.at >= start && about(v)).cloned()
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, VecDeque<Violation>> {
        self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, event: Event) {
        let shared = &self.shared;
        let name = &shared.name;
        // The client drops events while 128 are waiting, so a change is read from whatever comes next, too: only a
        // connection has slow consumers and servers that speak, and only attempts to connect fail in the client.
        let up = match &event {
            Event::Connected | Event::SlowConsumer(_) | Event::ServerError(_) => Some(true),
            Event::Disconnected | Event::Closed | Event::ClientError(_) => Some(false),
            Event::LameDuckMode | Event::Draining => None,
        };
        if let Some(up) = up {
            shared.connected.send_if_modified(|now| std::mem::replace(now, up) != up);
        }
        match event {
            Event::Connected => {
                shared.connects.fetch_add(1, Relaxed);
                tracing::info!(connection = name, "nats connected");
            }
            Event::Disconnected => {
                shared.disconnects.fetch_add(1, Relaxed);
                tracing::warn!(connection = name, "nats connection lost");
            }
            Event::Closed => tracing::debug!(connection = name, "nats connection closed"),
            Event::SlowConsumer(subscription) => {
                let dropped = shared.dropped.fetch_add(1, Relaxed) + 1;
                // One line per message would be the next overload.
                if dropped.is_power_of_two() {
                    tracing::warn!(connection = name, subscription, dropped, "nats subscription buffer full");
                }
            }
            Event::ServerError(ServerError::AuthorizationViolation) => {
                self.violated("Authorization Violation".to_owned());
            }
            // An attempt to connect tells of refused credentials as a client error.
            Event::ServerError(ServerError::Other(text)) | Event::ClientError(ClientError::Other(text))
                if is_violation(&text) =>
            {
                self.violated(text);
            }
            Event::ServerError(error) => self.error(&error),
            Event::ClientError(error) => self.error(&error),
            Event::LameDuckMode => tracing::info!(connection = name, "nats server is going away"),
            Event::Draining => {}
        }
    }

    fn violated(&self, text: String) {
        self.shared.violations.fetch_add(1, Relaxed);
        tracing::warn!(connection = self.shared.name, text, "nats violation");
        let violation = Violation::new(text);
        let mut recent = self.recent();
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        recent.push_back(violation.clone());
        drop(recent);
        let _ = self.shared.violated.send(violation);
    }

    fn error(&self, error: &dyn fmt::Display) {
        let errors = self.shared.errors.fetch_add(1, Relaxed) + 1;
        // A server that stays away is an error per attempt.
        if errors.is_power_of_two() {
            tracing::warn!(connection = self.shared.name, %error, errors, "nats error");
        }
    }
}

fn is_violation(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["violation", "authentication", "authorization", "revoked"].iter().any(|word| text.contains(word))
}
