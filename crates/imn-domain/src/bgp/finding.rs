use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Peer, Update};
use crate::tier::AlertSeverity;

/// Peers named in the evidence, at most; all are counted.
const MAX_PEERS: usize = 64;
/// Paths named in the evidence, at most.
const MAX_PATHS: usize = 16;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An AS originates the prefix that is not expected to.
    OriginChange,
    /// A prefix within the watched one is announced: traffic follows it, whoever announces it.
    MoreSpecific,
    /// Peers withdraw the prefix again and again.
    Flapping,
    /// Half of the peers that had a route, or all, have none any more.
    Withdrawal,
}

/// Whether it is still so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is.
    Open,
    /// It is over.
    Ended,
}

/// Why a finding ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It is not so any more.
    Over,
    /// Nobody is left who could tell: the sessions of all peers that saw it are down.
    Unseen,
    /// It has been so for so long that it is what is expected now.
    Adopted,
}

/// What a finding rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Peers that told of it, the first 64.
    pub peers: Vec<Peer>,
    /// How many peers told of it.
    pub peer_count: usize,
    /// Paths that they told, the first 16.
    pub paths: Vec<String>,
    /// The first update that says so, in microseconds since the Unix epoch.
    pub first_us: i64,
    /// The last one.
    pub last_us: i64,
    /// How many.
    pub updates: u64,
}

/// Something that operators want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// The prefix that is watched.
    pub watched: IpNet,
    /// The prefix that it is about: the watched one or one within it.
    pub prefix: IpNet,
    /// The AS that originates the route in question.
    pub origin: Option<u32>,
    /// The origins that were expected when it opened.
    pub expected: Vec<u32>,
    /// Whether an expected origin was still seen when it opened: several origins at once.
    pub moas: bool,
    /// How bad it is.
    pub severity: AlertSeverity,
    /// Whether it is still so.
    pub state: State,
    /// Why it ended.
    pub end: Option<End>,
    /// When it opened, became worse or ended, in microseconds since the Unix epoch.
    pub time_us: i64,
    /// Peers that still have a route, and peers there are; of a withdrawal.
    pub visible: Option<(usize, usize)>,
    /// Withdrawals within the window, of all peers; of flapping.
    pub flaps: Option<usize>,
    /// What it rests on.
    pub evidence: Evidence,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::OriginChange, Self::MoreSpecific, Self::Flapping, Self::Withdrawal];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OriginChange => "origin_change",
            Self::MoreSpecific => "more_specific",
            Self::Flapping => "flapping",
            Self::Withdrawal => "withdrawal",
        }
    }
}

impl State {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Ended => "ended",
        }
    }
}

impl End {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Over => "over",
            Self::Unseen => "unseen",
            Self::Adopted => "adopted",
        }
    }
}

impl Evidence {
    pub(super) fn new(update: &Update) -> Self {
        let mut evidence = Self {
            peers: Vec::new(),
            peer_count: 0,
            paths: Vec::new(),
            first_us: update.time_us,
            last_us: update.time_us,
            updates: 0,
        };
        evidence.add(update, true);
        evidence
    }

    /// Adds an update; `is_new_peer` says that its peer had not told of this before.
    pub(super) fn add(&mut self, update: &Update, is_new_peer: bool) {
        self.updates += 1;
        self.first_us = self.first_us.min(update.time_us);
        self.last_us = self.last_us.max(update.time_us);
        if is_new_peer {
            self.peer_count += 1;
            if self.peers.len() < MAX_PEERS {
                self.peers.push(update.peer.clone());
            }
        }
        if let Some(route) = &update.route
            && self.paths.len() < MAX_PATHS
            && !self.paths.contains(&route.as_path)
        {
            self.paths.push(route.as_path.clone());
        }
    }
}

impl Finding {
    /// In one line, for people.
    pub fn text(&self) -> String {
        let list = |asns: &[u32]| {
            let asns: Vec<String> = asns.iter().map(|asn| format!("AS{asn}")).collect();
            if asns.is_empty() { "none".to_owned() } else { asns.join(", ") }
        };
        let origin = self.origin.map_or_else(|| "an unknown AS".to_owned(), |asn| format!("AS{asn}"));
        let peers = match self.evidence.peer_count {
            1 => "1 peer".to_owned(),
            count => format!("{count} peers"),
        };
        let what = match self.kind {
            Kind::OriginChange => {
                let beside = if self.moas { " beside an expected origin" } else { "" };
                format!(
                    "{} is originated by {origin}{beside}; expected: {} ({peers})",
                    self.prefix,
                    list(&self.expected)
                )
            }
            Kind::MoreSpecific => format!(
                "{} within {} is announced by {origin}; expected: {} ({peers})",
                self.prefix,
                self.watched,
                list(&self.expected)
            ),
            Kind::Flapping => format!(
                "{} was withdrawn {} times within the window ({peers})",
                self.prefix,
                self.flaps.unwrap_or_default()
            ),
            Kind::Withdrawal => {
                let (visible, all) = self.visible.unwrap_or_default();
                format!("{} has a route at {visible} of {all} peers", self.prefix)
            }
        };
        match self.end {
            None => what,
            Some(end) => format!("{}: {what}", end.as_str()),
        }
    }
}
