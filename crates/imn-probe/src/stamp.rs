//! STAMP (RFC 8762, with session identifiers and TLVs of RFC 8972): sender and reflector, both also for peers that speak
//! TWAMP-light.
//!
//! A sender measures round trips less the time that the peer kept each packet, the delay of each direction by the two
//! clocks, and, with a stateful reflector, the loss of each direction. Differences of two clocks are worth what the
//! clocks are: every outcome says what both ends know of theirs.
//!
//! Deliberately absent: control protocols (OWAMP-Control, TWAMP-Control), TLVs other than padding and HMAC, which a
//! reflector returns marked as not understood, and hardware time stamps.

mod direction;
mod estimate;
mod floor;
mod key;
mod outcome;
mod packet;
mod reflector;
mod sender;
mod session;
mod spec;
mod time;
mod tlv;

pub use direction::{Direction, Directions};
pub use estimate::{ClockQuality, ErrorEstimate};
pub use key::{Key, KeyError};
pub use outcome::{Outcome, PeerClock, Trip};
pub use packet::{AUTHENTICATED, PORT, UNAUTHENTICATED};
pub use reflector::{Config as ReflectorConfig, Reflector, Stats as ReflectorStats};
pub use sender::{Pacing, Sender, StartError};
pub use spec::{Peer, Spec};
pub use time::Format;

/// Codecs of outside bytes, for fuzzing and tests only.
#[doc(hidden)]
pub mod wire {
    pub use super::packet::{Answer, Malformed, Request};
    pub use super::tlv::reflect;
}
