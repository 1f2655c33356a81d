//! The text of a laboratory, checked, with its addresses and routes computed.

use crate::lab::shape::{self, Shape};
use crate::{Error, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Links at most: the emulator follows an echo with one bit per direction.
const LINKS: usize = 64;
/// Nodes at most: the management network has so many addresses.
const NODES: usize = 250;
/// Names that the kernel or the laboratory uses for something else.
const RESERVED: [&str; 4] = ["lo", "all", "default", "mgmt"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
struct Text {
    name: String,
    #[serde(default = "one")]
    seed: u64,
    hosts: Vec<String>,
    #[serde(default)]
    routers: Vec<String>,
    #[serde(default)]
    links: Vec<LinkText>,
    #[serde(default)]
    answers: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    management: bool,
    #[serde(default)]
    multipath: bool,
    #[serde(default = "yes")]
    echoes: bool,
    #[serde(default, deserialize_with = "shape::duration")]
    coalesce: Duration,
    #[serde(default)]
    awake: bool,
}

#[derive(Debug, Deserialize)]
struct LinkText {
    between: [String; 2],
    #[serde(default)]
    forward: toml::Table,
    #[serde(default)]
    backward: toml::Table,
    #[serde(flatten)]
    both: toml::Table,
}

/// A checked laboratory.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub(crate) struct Topology {
    pub(crate) name: String,
    pub(crate) seed: u64,
    pub(crate) management: bool,
    pub(crate) multipath: bool,
    pub(crate) echoes: bool,
    pub(crate) coalesce: Duration,
    pub(crate) awake: bool,
    pub(crate) nodes: Vec<NodePlan>,
    pub(crate) links: Vec<LinkPlan>,
}

#[derive(Debug)]
pub(crate) struct NodePlan {
    pub(crate) name: String,
    pub(crate) router: bool,
    /// Prefixes of which every address answers.
    pub(crate) answers: Vec<String>,
}

/// Link `n` has the prefixes 10.(n / 256).(n % 256).0/30 and fd00:0:0:n::/64; its first end is .1, its second .2.
#[derive(Debug)]
pub(crate) struct LinkPlan {
    /// Indices of the nodes.
    pub(crate) ends: [usize; 2],
    /// Forward (from the first end) and backward.
    pub(crate) shapes: [Shape; 2],
}

/// Where a node sends packets for a prefix.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) prefix: String,
    /// One, or all equally near: address and device.
    pub(crate) via: Vec<(IpAddr, String)>,
}

fn one() -> u64 {
    1
}

fn yes() -> bool {
    true
}

/// The addresses of end `end` of link `link`.
pub(crate) fn addresses(link: usize, end: usize) -> (Ipv4Addr, Ipv6Addr) {
    let host = end as u8 + 1;
    let v4 = Ipv4Addr::new(10, (link >> 8) as u8, link as u8, host);
    (v4, Ipv6Addr::new(0xfd00, 0, 0, link as u16, 0, 0, 0, u16::from(host)))
}

fn prefixes(link: usize) -> [String; 2] {
    [format!("10.{}.{}.0/30", link >> 8, link & 0xff), format!("fd00:0:0:{link:x}::/64")]
}

impl Topology {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let fault = |fault: String| Error::Topology(fault);
        let text: Text = toml::from_str(text).map_err(|error| fault(error.to_string()))?;
        let mut nodes: Vec<NodePlan> = Vec::new();
        let routers = text.routers.iter().map(|name| (name, true));
        for (name, router) in text.hosts.iter().map(|name| (name, false)).chain(routers) {
            let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            let fits = (1..=15).contains(&name.len()) && name.bytes().all(allowed);
            if !fits || RESERVED.contains(&name.as_str()) {
                return Err(fault(format!(
                    "{name:?} is no node name: 1 to 15 of a-z, 0-9, -; not {RESERVED:?}"
                )));
            }
            if nodes.iter().any(|node| node.name == *name) {
                return Err(fault(format!("node {name} appears twice")));
            }
            nodes.push(NodePlan { name: name.clone(), router, answers: Vec::new() });
        }
        let index = |name: &str| {
            let found = nodes.iter().position(|node| node.name == name);
            found.ok_or_else(|| Error::Topology(format!("there is no node {name}")))
        };
        let mut links: Vec<LinkPlan> = Vec::new();
        for link in text.links {
            let [a, b] = &link.between;
            let ends = [index(a)?, index(b)?];
            let parallel = links.iter().any(|other| other.ends == ends || other.ends == [ends[1], ends[0]]);
            if ends[0] == ends[1] || parallel {
                return Err(fault(format!("{a} and {b} must be two nodes with one link between them")));
            }
            let shape = |own: toml::Table| -> Result<Shape> {
                let mut table = link.both.clone();
                table.extend(own);
                let shape: Shape =
                    table.try_into().map_err(|error| fault(format!("link {a}-{b}: {error}")))?;
                shape.fault().map_or(Ok(shape), |text| Err(fault(format!("link {a}-{b}: {text}"))))
            };
            links.push(LinkPlan {
                ends,
                shapes: [shape(link.forward.clone())?, shape(link.backward.clone())?],
            });
        }
        if links.len() > LINKS || nodes.len() > NODES {
            return Err(fault(format!("at most {LINKS} links and {NODES} nodes fit")));
        }
        let answers: Vec<(usize, Vec<String>)> = text
            .answers
            .into_iter()
            .map(|(name, prefixes)| Ok((index(&name)?, prefixes)))
            .collect::<Result<_>>()?;
        for (node, prefixes) in answers {
            nodes[node].answers = prefixes;
        }
        let Text { name, seed, management, multipath, echoes, coalesce, awake, .. } = text;
        Ok(Self { name, seed, management, multipath, echoes, coalesce, awake, nodes, links })
    }

    /// The addresses of a node, in the order of its links; v4 before v6.
    pub(crate) fn addresses_of(&self, node: usize) -> Vec<IpAddr> {
        let mut found = Vec::new();
        for (index, link) in self.links.iter().enumerate() {
            if let Some(end) = link.ends.iter().position(|end| *end == node) {
                let (v4, v6) = addresses(index, end);
                found.extend([IpAddr::from(v4), IpAddr::from(v6)]);
            }
        }
        found
    }

    /// The routes of a node to every prefix that is not its own, by the fewest links; only routers forward. Among equal
    /// paths the one over the link that stands first in the text is taken, or with `multipath` all.
    pub(crate) fn routes_of(&self, node: usize) -> Vec<Route> {
        let paths = self.paths_from(node);
        let mut routes = BTreeSet::new();
        let mut add = |prefix: &str, ends: &[usize]| {
            let nearest = ends.iter().filter_map(|end| paths[*end].as_ref()).min_by_key(|path| path.length);
            let all = nearest.map_or(&[][..], |path| path.first.as_slice());
            let taken = if self.multipath { all.len() } else { all.len().min(1) };
            let via = all[..taken].iter().map(|&(link, end)| {
                let (v4, v6) = addresses(link, end);
                let via = if prefix.contains(':') { IpAddr::from(v6) } else { IpAddr::from(v4) };
                (via, self.nodes[self.links[link].ends[end]].name.clone())
            });
            if taken > 0 {
                routes.insert(Route { prefix: prefix.to_owned(), via: via.collect() });
            }
        };
        for (index, link) in self.links.iter().enumerate() {
            if !link.ends.contains(&node) {
                for prefix in &prefixes(index) {
                    add(prefix, &link.ends);
                }
            }
        }
        for (index, other) in self.nodes.iter().enumerate() {
            if index != node {
                for prefix in &other.answers {
                    add(prefix, &[index]);
                }
            }
        }
        routes.into_iter().collect()
    }

    /// The path to each node that can be reached.
    fn paths_from(&self, node: usize) -> Vec<Option<Path>> {
        let mut paths: Vec<Option<Path>> = vec![None; self.nodes.len()];
        paths[node] = Some(Path { length: 0, first: Vec::new() });
        let mut frontier = VecDeque::from([node]);
        while let Some(at) = frontier.pop_front() {
            let forwards = at == node || self.nodes[at].router;
            let Some(path) = paths[at].clone().filter(|_| forwards) else { continue };
            for (index, link) in self.links.iter().enumerate() {
                let Some(near) = link.ends.iter().position(|end| *end == at) else { continue };
                let far = link.ends[1 - near];
                let first = if at == node { vec![(index, 1 - near)] } else { path.first.clone() };
                match &mut paths[far] {
                    None => {
                        paths[far] = Some(Path { length: path.length + 1, first });
                        frontier.push_back(far);
                    }
                    // Another way as short. All nodes nearer are done, so what is passed on is whole.
                    Some(known) if known.length == path.length + 1 => {
                        let more = first.into_iter().filter(|link| !known.first.contains(link));
                        known.first.extend(more.collect::<Vec<_>>());
                    }
                    Some(_) => {}
                }
            }
        }
        paths
    }
}

/// The shortest paths to a node.
#[derive(Clone, Debug)]
struct Path {
    /// In links.
    length: usize,
    /// The links by which they begin, each with the far end of that; none when they have no links.
    first: Vec<(usize, usize)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: &str = r#"
        name = "chain"
        hosts = ["a", "b"]
        routers = ["r1", "r2"]
        answers = { b = ["10.100.0.0/14"] }
        links = [
            { between = ["a", "r1"], delay = "1ms", loss = 0.5, backward = { delay = "2ms" } },
            { between = ["r1", "r2"] },
            { between = ["r2", "b"] },
        ]
    "#;

    #[test]
    fn directions_inherit_and_override() {
        let chain = Topology::parse(CHAIN).unwrap();
        let [forward, backward] = &chain.links[0].shapes;
        assert_eq!((forward.delay, backward.delay), (Duration::from_millis(1), Duration::from_millis(2)));
        assert_eq!((forward.loss.to_bits(), backward.loss.to_bits()), (0.5f64.to_bits(), 0.5f64.to_bits()));
    }

    #[test]
    fn routes_lead_over_the_chain() {
        let chain = Topology::parse(CHAIN).unwrap();
        let routes = chain.routes_of(0);
        let via =
            |prefix: &str| routes.iter().find(|route| route.prefix == prefix).map(|route| route.via[0].0);
        let first_hop = Some("10.0.0.2".parse().unwrap());
        assert_eq!(via("10.0.1.0/30"), first_hop);
        assert_eq!(via("10.0.2.0/30"), first_hop);
        assert_eq!(via("10.100.0.0/14"), first_hop);
        assert_eq!(via("fd00:0:0:2::/64"), Some("fd00::2".parse().unwrap()));
        assert_eq!(via("10.0.0.0/30"), None);
        let back = chain.routes_of(3);
        assert!(back.iter().all(|route| ["r1", "b"].contains(&route.via[0].1.as_str())), "{back:?}");
    }

    #[test]
    fn equal_paths_are_all_taken_if_wanted() {
        let diamond = r#"
            name = "diamond"
            multipath = true
            hosts = ["a", "b"]
            routers = ["r1", "m1", "m2", "r2"]
            links = [
                { between = ["a", "r1"] },
                { between = ["r1", "m1"] }, { between = ["r1", "m2"] },
                { between = ["m1", "r2"] }, { between = ["m2", "r2"] },
                { between = ["r2", "b"] },
            ]
        "#;
        let devices = |text: &str| {
            let routes = Topology::parse(text).unwrap().routes_of(2);
            let route = routes.into_iter().find(|route| route.prefix == "10.0.5.0/30").unwrap();
            route.via.into_iter().map(|(_, device)| device).collect::<Vec<_>>()
        };
        assert_eq!(devices(diamond), ["m1", "m2"]);
        assert_eq!(devices(&diamond.replace("multipath = true", "")), ["m1"]);
    }

    #[test]
    fn faults_are_named() {
        for (change, fault) in [
            (("\"a\", \"b\"]", "\"a\", \"a\"]"), "appears twice"),
            (("\"r2\"]\n        answers", "\"lo\"]\n        answers"), "is no node name"),
            (("loss = 0.5", "loss = 1.5"), "is not a probability"),
            (("loss = 0.5", "los = 0.5"), "unknown field"),
            (("\"1ms\"", "\"1 fortnight\""), "is not a duration"),
            (("{ between = [\"r1\", \"r2\"] }", "{ between = [\"r1\", \"zz\"] }"), "no node zz"),
            (("{ between = [\"r1\", \"r2\"] }", "{ between = [\"r1\", \"a\"] }"), "one link between"),
        ] {
            let text = CHAIN.replacen(change.0, change.1, 1);
            assert_ne!(text, CHAIN, "{change:?}");
            let error = Topology::parse(&text).unwrap_err().to_string();
            assert!(error.contains(fault), "{fault}: {error}");
        }
    }
}
