//! Laboratories: network namespaces joined by emulated links.

mod awake;
mod build;
mod capture;
mod echo;
mod emulator;
mod namespace;
mod packet;
mod shape;
mod stats;
mod topology;

pub use echo::{EchoFate, EchoTrip};
pub use packet::Class;
pub use shape::{Distribution, Shape};
pub use stats::{Counts, Delays, Histogram, Stats};

use crate::{Error, NatsServer, Program, Result};
use awake::Awake;
use capture::Capture;
use echo::EchoLog;
use emulator::Emulator;
use namespace::Namespace;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use topology::Topology;

/// A running laboratory. Dropping it removes everything; so does the end of the test process.
///
/// The methods that ask the emulator fail with [`Error::System`] when its thread has ended.
#[derive(Debug)]
pub struct Lab {
    topology: Topology,
    nodes: Vec<Node>,
    emulator: Emulator,
    _awake: Option<Awake>,
    // Holds the switch of the management network.
    _management: Option<Namespace>,
}

/// A host or router: a network namespace with addresses.
#[derive(Clone, Debug)]
pub struct Node {
    name: String,
    namespace: Namespace,
    addresses: Vec<IpAddr>,
    management: Option<Ipv4Addr>,
}

impl Lab {
    /// Builds the laboratory that `text` describes; the crate's documentation has the format.
    ///
    /// # Errors
    /// [`Error::Topology`] when the text is at fault, [`Error::MissingProgram`] without iproute2, and what the system
    /// said when it refuses a namespace or a device (both need root).
    pub fn from_toml(text: &str) -> Result<Self> {
        build::build(Topology::parse(text)?)
    }

    /// The name that the text gives it.
    pub fn name(&self) -> &str {
        &self.topology.name
    }

    /// All nodes: hosts, then routers, in the order of the text.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of this name.
    ///
    /// # Errors
    /// [`Error::Unknown`] when there is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| self.unknown("node", name))
    }

    /// What happened so far to the packets that `from` sent to its neighbour `to`.
    ///
    /// # Errors
    /// [`Error::Unknown`] when no link leads from one to the other.
    pub fn stats(&self, from: &str, to: &str) -> Result<Stats> {
        let direction = self.direction(from, to)?;
        let mut stats = self.emulator.state()?.directions[direction].stats.clone();
        // What the device could not queue was never seen by the emulator; only the kernel knows.
        stats.overrun = self.node(from)?.namespace.enter(|| dropped_by_device(to))??;
        Ok(stats)
    }

    /// What is done to the packets from `from` to its neighbour `to`.
    ///
    /// # Errors
    /// [`Error::Unknown`] when no link leads from one to the other.
    pub fn shape(&self, from: &str, to: &str) -> Result<Shape> {
        let direction = self.direction(from, to)?;
        Ok(self.emulator.state()?.directions[direction].shaper.shape.clone())
    }

    /// Changes what is done to packets from `from` to `to`, from the next packet on; those under way keep their times.
    ///
    /// # Errors
    /// [`Error::Unknown`] when no link leads from one to the other, [`Error::Topology`] when a probability is none.
    pub fn set_shape(&self, from: &str, to: &str, shape: Shape) -> Result<()> {
        let direction = self.direction(from, to)?;
        if let Some(fault) = shape.fault() {
            return Err(Error::Topology(fault));
        }
        self.emulator.state()?.directions[direction].shaper.shape = shape;
        Ok(())
    }

    /// Writes a copy of every packet that enters the direction into a new capture file, until the laboratory ends or
    /// [`Lab::end_capture`] is called.
    ///
    /// # Errors
    /// [`Error::Unknown`] when no link leads from one to the other, [`Error::File`] when the file cannot be created.
    pub fn capture(&self, from: &str, to: &str, path: &Path) -> Result<()> {
        let direction = self.direction(from, to)?;
        let capture = Capture::create(path)?;
        self.emulator.state()?.directions[direction].capture = Some(capture);
        Ok(())
    }

    /// Completes the capture file of the direction.
    ///
    /// # Errors
    /// [`Error::Unknown`] when no link leads from one to the other.
    pub fn end_capture(&self, from: &str, to: &str) -> Result<()> {
        let direction = self.direction(from, to)?;
        self.emulator.state()?.directions[direction].capture = None;
        Ok(())
    }

    /// The echoes that `source` sent to `destination`, in the order of sending, and what the emulator did to each.
    ///
    /// # Errors
    /// [`Error::Topology`] when the laboratory keeps no echoes (`echoes = false`) or saw more than four million.
    pub fn echoes(&self, source: IpAddr, destination: IpAddr) -> Result<Vec<EchoTrip>> {
        self.echoes_where(|from, to| from == source && to == destination)
    }

    /// As [`Lab::echoes`], for all pairs of source and destination that `wanted` accepts.
    ///
    /// # Errors
    /// As [`Lab::echoes`].
    pub fn echoes_where(&self, wanted: impl FnMut(IpAddr, IpAddr) -> bool) -> Result<Vec<EchoTrip>> {
        let state = self.emulator.state()?;
        match &state.echoes {
            Some(log) if !log.overflowed => Ok(log.trips(wanted)),
            Some(_) => Err(Error::Topology("more than four million echoes: forget_echoes() earlier".into())),
            None => Err(Error::Topology("the laboratory keeps no echoes (echoes = false)".into())),
        }
    }

    /// Forgets the echoes seen so far; replies to those under way are no longer followed.
    ///
    /// # Errors
    /// [`Error::System`] when the emulator has stopped.
    pub fn forget_echoes(&self) -> Result<()> {
        let log = &mut self.emulator.state()?.echoes;
        *log = log.take().map(|_| EchoLog::default());
        Ok(())
    }

    fn direction(&self, from: &str, to: &str) -> Result<usize> {
        for (index, link) in self.topology.links.iter().enumerate() {
            let [first, second] = link.ends.map(|end| self.topology.nodes[end].name.as_str());
            if (first, second) == (from, to) {
                return Ok(2 * index);
            }
            if (second, first) == (from, to) {
                return Ok(2 * index + 1);
            }
        }
        Err(self.unknown("link", &format!("{from}-{to}")))
    }

    fn unknown(&self, kind: &'static str, name: &str) -> Error {
        Error::Unknown { lab: self.topology.name.clone(), kind, name: name.to_owned() }
    }
}

impl Node {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its addresses in the order of its links, v4 before v6.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its IPv4 address on its first link.
    ///
    /// # Errors
    /// [`Error::Topology`] when it has no link.
    pub fn v4(&self) -> Result<Ipv4Addr> {
        let found = self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        });
        found.ok_or_else(|| Error::Topology(format!("node {} has no link", self.name)))
    }

    /// Its IPv6 address on its first link.
    ///
    /// # Errors
    /// [`Error::Topology`] when it has no link.
    pub fn v6(&self) -> Result<Ipv6Addr> {
        let found = self.addresses.iter().find_map(|address| match address {
            IpAddr::V6(v6) => Some(*v6),
            IpAddr::V4(_) => None,
        });
        found.ok_or_else(|| Error::Topology(format!("node {} has no link", self.name)))
    }

    /// Its address on the management network, on which the test process and all nodes reach each other directly.
    ///
    /// # Errors
    /// [`Error::Topology`] when the laboratory has none (`management = true`).
    pub fn management(&self) -> Result<Ipv4Addr> {
        self.management.ok_or_else(|| Error::Topology("management = true is missing".into()))
    }

    /// A program that will run on this node.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Program {
        self.namespace.program(program)
    }

    /// Runs `work` on a fresh thread on this node: the sockets that it opens belong to the node for good. Threads that
    /// it starts are on the node too.
    ///
    /// # Errors
    /// [`Error::System`] when the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.enter(work)
    }

    /// Starts a nats-server on this node, on its management address if the laboratory has a management network, or
    /// else on its first address.
    ///
    /// # Errors
    /// As [`NatsServer::with_config`].
    pub fn nats_server(&self, config: &str) -> Result<NatsServer> {
        let listen = self.management.map_or_else(|| self.v4(), Ok)?;
        NatsServer::launch(config, listen.into(), Some(self.namespace.descriptor()))
    }

    /// A path by which `nsenter --net=PATH` enters the node while the test runs.
    pub fn namespace_path(&self) -> PathBuf {
        self.namespace.path()
    }
}

/// The packets that the device `name` of this thread's namespace dropped instead of sending.
fn dropped_by_device(name: &str) -> Result<u64> {
    let path = "/proc/thread-self/net/dev";
    let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'));
    // Eight receive columns, then bytes, packets, errors, drops of transmission.
    let drops = line.and_then(|line| line.split_ascii_whitespace().nth(11)?.parse().ok());
    drops.ok_or_else(|| Error::Topology(format!("device {name} is gone")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_laboratory_can_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Lab>();
        shared::<Node>();
        shared::<crate::Process>();
        shared::<NatsServer>();
    }
}
