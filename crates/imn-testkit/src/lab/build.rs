//! Turns a topology into namespaces, devices, addresses and routes.

use crate::lab::awake::Awake;
use crate::lab::emulator::{Config, Emulator, Plan};
use crate::lab::namespace::{Namespace, set_sysctl};
use crate::lab::topology::{self, NodePlan, Topology};
use crate::lab::{Lab, Node};
use crate::{Error, Program, Result, sys};
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Packets that a device keeps for the emulator.
const DEVICE_QUEUE: u32 = 10_000;
const MTU: u32 = 1500;
const IP: Duration = Duration::from_secs(20);

pub(crate) fn build(topology: Topology) -> Result<Lab> {
    let namespaces: Vec<Namespace> =
        topology.nodes.iter().map(|_| Namespace::new()).collect::<Result<_>>()?;
    let mut devices: Vec<Option<OwnedFd>> = (0..2 * topology.links.len()).map(|_| None).collect();
    for (index, (plan, namespace)) in topology.nodes.iter().zip(&namespaces).enumerate() {
        namespace.enter(|| configure_kernel(plan))??;
        for (link, end) in ends_of(&topology, index) {
            let name = peer(&topology, link, end);
            devices[2 * link + end] = Some(namespace.enter(|| sys::open_tun(name))??);
        }
        namespace.ip(&commands_for(&topology, index))?;
    }
    let management = if topology.management { Some(Management::build(&namespaces)?) } else { None };
    let nodes = topology.nodes.iter().enumerate().map(|(index, plan)| Node {
        name: plan.name.clone(),
        namespace: namespaces[index].clone(),
        addresses: topology.addresses_of(index),
        management: management.as_ref().map(|management| management.address(index)),
    });
    let nodes: Vec<Node> = nodes.collect();
    let mut plans = Vec::new();
    for (direction, device) in devices.into_iter().flatten().enumerate() {
        let link = &topology.links[direction / 2];
        let sender = &nodes[link.ends[direction % 2]];
        let shape = link.shapes[direction % 2].clone();
        plans.push(Plan { device, shape, sender: sender.addresses.clone() });
    }
    let emulator = Emulator::start(
        plans,
        &Config { seed: topology.seed, keep_echoes: topology.echoes, coalesce: topology.coalesce },
    )?;
    let management = management.map(|management| management.switch);
    let awake = topology.awake.then(Awake::start).transpose()?;
    Ok(Lab { topology, nodes, emulator, _awake: awake, _management: management })
}

/// The links of a node, each with the end at which the node is.
fn ends_of(topology: &Topology, node: usize) -> impl Iterator<Item = (usize, usize)> {
    let links = topology.links.iter().enumerate();
    links.filter_map(move |(index, link)| Some((index, link.ends.iter().position(|end| *end == node)?)))
}

/// The node at the other end of a link, by whose name the device is called.
fn peer(topology: &Topology, link: usize, end: usize) -> &str {
    &topology.nodes[topology.links[link].ends[1 - end]].name
}

/// Switches off what would make the kernel of a node, and not the emulator, decide about packets.
fn configure_kernel(node: &NodePlan) -> Result<()> {
    let forward = if node.router { "1" } else { "0" };
    for (name, value) in [
        ("ipv4/ip_forward", forward),
        ("ipv6/conf/all/forwarding", forward),
        ("ipv4/ping_group_range", "0 2147483647"),
        ("ipv4/icmp_ratelimit", "0"),
        ("ipv6/icmp/ratelimit", "0"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        // Among several equal routes a flow keeps to one, and a node answers from where it was asked.
        ("ipv4/fib_multipath_hash_policy", "1"),
        ("ipv6/fib_multipath_hash_policy", "1"),
        ("ipv4/icmp_errors_use_inbound_ifaddr", "1"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/default/router_solicitations", "0"),
        ("ipv6/conf/default/addr_gen_mode", "1"),
    ] {
        set_sysctl(name, value)?;
    }
    for name in ["ipv4/icmp_msgs_per_sec", "ipv4/icmp_msgs_burst"] {
        // One for the whole machine, and out of reach here, before Linux 6.13.
        let _ = set_sysctl(name, "10000000");
    }
    Ok(())
}

/// The devices, addresses and routes of a node, for ip(8).
fn commands_for(topology: &Topology, node: usize) -> String {
    let mut text = String::from("link set dev lo up\n");
    for (link, end) in ends_of(topology, node) {
        let device = peer(topology, link, end);
        let (v4, v6) = topology::addresses(link, end);
        // Without multicast the kernel has nothing of its own to say on the link.
        let _ = writeln!(text, "link set dev {device} multicast off mtu {MTU} txqueuelen {DEVICE_QUEUE} up");
        let _ = writeln!(text, "address add {v4}/30 dev {device}");
        let _ = writeln!(text, "address add {v6}/64 dev {device} nodad");
    }
    for route in topology.routes_of(node) {
        let _ = write!(text, "route add {}", route.prefix);
        for (via, device) in &route.via {
            let hop = if route.via.len() > 1 { " nexthop" } else { "" };
            let _ = write!(text, "{hop} via {via} dev {device}");
        }
        text.push('\n');
    }
    for prefix in &topology.nodes[node].answers {
        let _ = writeln!(text, "route add local {prefix} dev lo");
    }
    text
}

/// The management network: a switch in a namespace of its own, which every node and the namespace of the test process
/// are plugged into. It has no emulation. When the switch goes, all plugs go.
struct Management {
    switch: Namespace,
    /// 198.18.`subnet`.0/24.
    subnet: u8,
}

impl Management {
    fn build(nodes: &[Namespace]) -> Result<Self> {
        let switch = Namespace::new()?;
        switch.ip("link add name switch type bridge\nlink set dev switch up\n")?;
        let subnet = Self::plug_in_test_process(&switch)?;
        let management = Self { switch, subnet };
        let mut text = String::new();
        for (index, node) in nodes.iter().enumerate() {
            let path = node.path();
            let _ =
                writeln!(text, "link add name n{index} type veth peer name mgmt netns {}", path.display());
            let _ = writeln!(text, "link set dev n{index} master switch up");
        }
        management.switch.ip(&text)?;
        for (index, node) in nodes.iter().enumerate() {
            let address = management.address(index);
            node.ip(&format!("address add {address}/24 dev mgmt\nlink set dev mgmt up\n"))?;
        }
        Ok(management)
    }

    fn address(&self, node: usize) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.subnet, node as u8 + 2)
    }

    /// Gives the test process the first address of a subnet that no other laboratory of this machine has: the name of
    /// the device, of which there can be only one, is the lock.
    fn plug_in_test_process(switch: &Namespace) -> Result<u8> {
        let first = std::process::id() as u8;
        for step in 0..=u8::MAX {
            let subnet = first.wrapping_add(step);
            let own = format!("/proc/{}/ns/net", std::process::id());
            match switch
                .ip(&format!("link add name test type veth peer name imn-mgmt-{subnet} netns {own}\n"))
            {
                Err(Error::Ended { output, .. }) if output.contains("File exists") => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    switch.ip("link set dev test master switch up\n")?;
                    let device = format!("imn-mgmt-{subnet}");
                    let address = format!("198.18.{subnet}.1/24");
                    ip(&["address", "add", &address, "dev", &device])?;
                    ip(&["link", "set", "dev", &device, "up"])?;
                    return Ok(subnet);
                }
            }
        }
        Err(Error::Topology("all 256 management networks of this machine are taken".into()))
    }
}

/// Runs ip(8) in the namespace of the test process.
fn ip(args: &[&str]) -> Result<()> {
    Program::new("ip").package("iproute2").args(args).run_ok(IP).map(drop)
}
