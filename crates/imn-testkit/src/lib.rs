//! Test machinery: real servers on private ports, child processes, and laboratories of network namespaces.
//!
//! The API blocks and every wait has a deadline. Whatever the kit makes ends with the test, also with a test that is
//! killed: the kernel signals direct children, namespaces without a name go with their last holder, and a watchdog
//! process kills the rest of the descendants and removes the files. The watchdog waits on a pipe for the death of the
//! test process, so nothing runs out of its hands.
//!
//! # Servers and processes
//!
//! ```no_run
//! use imn_testkit::{NatsServer, Program};
//! use std::time::Duration;
//!
//! let mut nats = NatsServer::start()?;
//! let mut agent = Program::new("imn").args(["agent", "--nats", &nats.url()]).spawn()?;
//! agent.wait_for("ready", Duration::from_secs(10), |agent| agent.stderr().contains("ready").then_some(()))?;
//! nats.kill9();
//! nats.restart()?; // the same port, the same store
//! agent.terminate();
//! agent.wait_deadline(Duration::from_secs(15))?;
//! # Ok::<(), imn_testkit::Error>(())
//! ```
//!
//! # Laboratories
//!
//! Every host and router is a network namespace. A link is a pair of TUN devices, one at each end, named after the
//! node at the other end; between them one real-time thread per laboratory, the *emulator*, holds each packet until its
//! time. It counts what it does, per direction and class of packet ([`Lab::stats`]), and follows every echo
//! ([`Lab::echoes`]), so that a test compares a measurement with what was really applied, its own lateness included.
//! A laboratory needs root ([`require_root`]).
//!
//! ```no_run
//! use imn_testkit::{EchoFate, Lab};
//! use std::time::Duration;
//!
//! let lab = Lab::from_toml(imn_testkit::THREE_VANTAGE_POINTS)?;
//! let (vp1, t3) = (lab.node("vp1")?, lab.node("t3")?);
//! let target = t3.v4()?.to_string();
//! vp1.program("ping").args(["-c", "10", "-i", "0.01", &target]).run(Duration::from_secs(5))?;
//! for echo in lab.echoes(vp1.v4()?.into(), t3.v4()?.into())? {
//!     assert!(echo.fate != EchoFate::Returned || echo.applied >= Duration::from_millis(37));
//! }
//! # Ok::<(), imn_testkit::Error>(())
//! ```
//!
//! The text of a laboratory:
//!
//! ```toml
//! name = "example"
//! seed = 7                       # of all random decisions; 1 if absent
//! hosts = ["a", "b"]             # do not forward
//! routers = ["r"]                # forward, answer with ICMP errors at any rate
//! management = true              # a network without emulation between the test process and all nodes
//! echoes = true                  # follow echoes, about 200 bytes each; the default
//! multipath = false              # equal paths are all used, each by other flows (addresses, protocol and ports)
//! coalesce = "0us"               # wake at most once per this time: less CPU under load, that much more lateness
//! awake = false                  # keep the processors from sleeping: no time is lost by waking them
//! answers = { b = ["10.100.0.0/14"] } # every address of these prefixes answers at b
//!
//! [[links]]
//! between = ["a", "r"]
//! delay = "10ms"                 # for both directions, as are all keys beside forward and backward
//! jitter = "1ms"
//! distribution = "normal"        # or "uniform", the default
//! loss = 0.01
//! forward = { rate = 10_000_000, queue = 100 } # from a to r: overrides and adds
//! backward = { delay = "15ms" }                # from r to a
//!
//! [[links]]
//! between = ["r", "b"]
//! loss_every = 100               # every hundredth packet, exactly …
//! loss_of = ["icmp_echo_reply"]  # … of this class
//! duplicate = 0.001
//! reorder = 0.01
//! reorder_by = "5ms"
//! keep_order = false
//! ```
//!
//! [`Shape`] says what each key of a link means. Link `n`, counted from 0, has the prefixes `10.0.n.0/30` and
//! `fd00:0:0:n::/64`; its first node is `.1` and `::1`, its second `.2` and `::2`. Routes to all links and answering
//! prefixes lead over the fewest links. A seed and a sequence of packets give the same decisions in every run; what the
//! kernel sends by itself is kept off the links (no router solicitations, no duplicate address detection, no multicast
//! listener reports).
//!
//! To look inside while a test runs: `nsenter --net=PATH`, with the path of [`Node::namespace_path`].
//!
//! # What it deliberately lacks
//!
//! No dependency on a product crate, so that a test never checks the product against itself. No asynchronous API. No
//! named namespaces and no `netem`: names outlive a killed test, and `netem` neither says which packets it dropped nor
//! what delay it applied. No dynamic routing, no name service. The emulator sees IP packets of at
//! most 1,500 bytes; there is no Ethernet on a link.

mod error;
pub mod hostile;
mod lab;
mod named;
mod nats;
mod postgres;
mod process;
mod session;
mod sys;
mod wait;
mod web;

pub use error::{Error, Result};
pub use lab::{Class, Counts, Delays, Distribution, EchoFate, EchoTrip, Histogram, Lab, Node, Shape, Stats};
pub use named::NameServer;
pub use nats::NatsServer;
pub use nix::sys::signal::Signal;
pub use postgres::Postgres;
pub use process::{Outcome, Process, Program};
pub use wait::{require_root, skip, wait_until};
pub use web::{Authority, Certificate, WebServer};

/// The laboratory `labs/three-vantage-points.toml`: vantage points vp1 to vp3 and targets t1 to t3 around the routers
/// r1, r2, r3, with known delays and losses and a management network.
pub const THREE_VANTAGE_POINTS: &str = include_str!("../labs/three-vantage-points.toml");
