//! BGP updates from MRT files, RIPE RIS Live and BMP.
//!
//! Every source gives the same [`Update`]. A [`Filter`] over prefixes is asked before anything else of a message is
//! looked at, so that a feed of which little is wanted costs little. What cannot be read is a [`Fault`] with a code,
//! and reading goes on behind it wherever the format says where that is.
//!
//! [`mrt::Reader`] is synchronous and reads one record at a time; [`ris::Client`] and [`bmp::Listener`] are futures
//! that their caller owns, and hand [`Event`]s to a bounded channel: a slow reader slows the peer, nothing is dropped.
//!
//! Deliberately absent: any judgement of updates (that is the domain's), routes of other families than IPv4 and IPv6
//! unicast, and BGP sessions of our own.

pub mod bmp;
mod file;
mod filter;
mod http;
mod message;
pub mod mrt;
pub mod ris;
mod update;

pub use file::{Compression, OpenError, Source, open};
pub use filter::{Filter, Match};
pub use update::{Event, Fault, FaultCode, Route, Session, SessionState, Update, View};
