use std::{collections::HashMap, net::IpAddr, sync::Arc};

use bgpkit_parser::{
    bmp::messages::{
        BmpMessage, BmpMessageBody, BmpPeerType, BmpPerPeerHeader, InitiationTlvType, PeerUpNotification,
        PerPeerFlags, StatType, StatsData, TerminationTlvValue, parse_per_peer_header,
    },
    models::{
        Afi, AsnLength, BgpMessage, CapabilityValue, ParamValue, Safi,
        capabilities::{AddPathAddressFamily, AddPathSendReceive},
    },
    parse_bmp_msg,
};
use bytes::{Bytes, BytesMut};

use crate::{
    Timestamp,
    bgp::{
        Event, Fault, FaultCode, Filter, Session, SessionState, View,
        message::{self, AddPath, Context},
    },
};

/// Longest message taken; a message of BGP has at most 65,535 bytes (RFC 8654), a Peer Up carries two.
pub const MAX_MESSAGE: usize = 256 * 1024;
/// Bytes of version, length and type.
const HEADER: usize = 6;
const VERSION: u8 = 3;
const ROUTE_MONITORING: u8 = 0;
const ROUTE_MIRRORING: u8 = 6;
/// Peers of one router, at most.
const MAX_PEERS: usize = 10_000;

/// Takes the next whole message off what was received; `None` while it is not whole yet.
///
/// # Errors
/// When it is no BMP, or longer than any may be: nothing after it can be read either.
pub fn split(received: &mut BytesMut) -> Result<Option<Bytes>, Fault> {
    if received.is_empty() {
        return Ok(None);
    }
    if received[0] != VERSION {
        let text = format!("version {} is not {VERSION}, or this is no BMP", received[0]);
        return Err(Fault::new(FaultCode::Envelope, text));
    }
    let Some(length) = received.get(1..5).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()) else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(length) as usize;
    if !(HEADER..=MAX_MESSAGE).contains(&length) {
        return Err(Fault::new(FaultCode::Length, format!("a message of {length} bytes")));
    }
    Ok((received.len() >= length).then(|| received.split_to(length).freeze()))
}

/// Understands the messages of one router.
#[derive(Debug)]
pub struct Decoder {
    address: IpAddr,
    collector: Arc<str>,
    peers: HashMap<Key, Peer>,
    skipped: u64,
}

/// Address, distinguisher, and whether it is the router itself.
type Key = (IpAddr, u64, bool);

#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    add_path: AddPath,
    /// The table that is followed: the first that is told of. The others repeat it.
    view: Option<View>,
}

impl Decoder {
    /// For a router that connected from this address; it is named after it until it says its name.
    pub fn new(address: IpAddr) -> Self {
        Self { address, collector: address.to_string().into(), peers: HashMap::new(), skipped: 0 }
    }

    /// The router, as its updates name it.
    pub fn collector(&self) -> &Arc<str> {
        &self.collector
    }

    /// Messages of tables that repeat another one, or of what the router itself sends.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Reads a whole message. `now` stands where the router gives no time.
    ///
    /// # Errors
    /// What is wrong with the message; the next one can be read all the same. Updates that were added are good.
    pub fn read(
        &mut self,
        message: &Bytes,
        now: Timestamp,
        filter: &Filter,
        out: &mut Vec<Event>,
    ) -> Result<(), Fault> {
        match message.get(HEADER - 1) {
            Some(&ROUTE_MONITORING) => self.monitoring(message.slice(HEADER..), now, filter, out),
            // Copies of messages, for debugging the router.
            Some(&ROUTE_MIRRORING) => Ok(()),
            Some(_) => {
                let parsed = parse_bmp_msg(&mut message.clone());
                let parsed = parsed.map_err(|error| Fault::new(FaultCode::Envelope, error.to_string()))?;
                self.session(parsed, now, out)
            }
            None => Err(Fault::new(FaultCode::Length, "a message without a type")),
        }
    }

    fn monitoring(
        &mut self,
        mut body: Bytes,
        now: Timestamp,
        filter: &Filter,
        out: &mut Vec<Event>,
    ) -> Result<(), Fault> {
        let header = parse_per_peer_header(&mut body);
        let header = header.map_err(|error| Fault::new(FaultCode::Envelope, error.to_string()))?;
        let view = view(&header);
        let peer = self.peer(&header)?;
        if view == View::Out || *peer.view.get_or_insert(view) != view {
            self.skipped += 1;
            return Ok(());
        }
        let add_path = peer.add_path;
        let context = Context {
            peer_asn: header.peer_asn.into(),
            peer_address: header.peer_ip,
            time: time(&header, now),
            collector: Arc::clone(&self.collector),
            wide_asn: header.asn_length() == AsnLength::Bits32,
            add_path,
            snapshot: false,
        };
        let mut updates = Vec::new();
        let read = message::read(&body, &context, filter, &mut updates);
        if !updates.is_empty() {
            out.push(Event::Updates(updates));
        }
        read.map(drop)
    }

    /// The peer of a header; one that was not announced is taken as it is.
    fn peer(&mut self, header: &BmpPerPeerHeader) -> Result<&mut Peer, Fault> {
        let key = key(header);
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&key) {
            return Err(Fault::new(FaultCode::Limit, format!("more than {MAX_PEERS} peers of one router")));
        }
        Ok(self.peers.entry(key).or_default())
    }

    fn session(&mut self, message: BmpMessage, now: Timestamp, out: &mut Vec<Event>) -> Result<(), Fault> {
        let header = message.per_peer_header;
        match message.message_body {
            BmpMessageBody::InitiationMessage(initiation) => {
                let named = initiation.tlvs.iter().find(|tlv| tlv.info_type == InitiationTlvType::SysName);
                let name: String = named
                    .map(|tlv| tlv.info.chars().filter(|c| !c.is_control()).take(64).collect())
                    .unwrap_or_default();
                // With its address, so that no router speaks in another's name.
                if !name.is_empty() {
                    self.collector = format!("{name}@{}", self.address).into();
                }
                self.tell(None, SessionState::Up, now, out);
            }
            BmpMessageBody::TerminationMessage(termination) => {
                let said = termination.tlvs.into_iter().map(|tlv| match tlv.info_value {
                    TerminationTlvValue::String(text) => text,
                    TerminationTlvValue::Reason(reason) => format!("{reason:?}"),
                });
                let said: Vec<String> = said.collect();
                let reason: String = said.join(", ").chars().filter(|c| !c.is_control()).take(200).collect();
                self.peers.clear();
                self.tell(None, SessionState::Down(format!("terminated: {reason}")), now, out);
            }
            BmpMessageBody::PeerUpNotification(up) => {
                if let Some(header) = header {
                    let add_path = negotiated(&up);
                    *self.peer(&header)? = Peer { add_path, view: None };
                    self.tell(Some(&header), SessionState::Up, now, out);
                }
            }
            BmpMessageBody::PeerDownNotification(down) => {
                if let Some(header) = header {
                    self.peers.remove(&key(&header));
                    self.tell(Some(&header), SessionState::Down(format!("{:?}", down.reason)), now, out);
                }
            }
            BmpMessageBody::StatsReport(stats) => {
                let gauge = |wanted| {
                    stats.counters.iter().find_map(|counter| match counter.stat_data {
                        StatsData::Gauge(value) if counter.stat_type == wanted => Some(value),
                        StatsData::Counter(value) if counter.stat_type == wanted => Some(value.into()),
                        _ => None,
                    })
                };
                let received = gauge(StatType::RoutesInAdjRibsIn);
                let installed = gauge(StatType::RoutesInLocRib);
                if received.is_some() || installed.is_some() {
                    self.tell(header.as_ref(), SessionState::Routes { received, installed }, now, out);
                }
            }
            BmpMessageBody::RouteMonitoring(_) | BmpMessageBody::RouteMirroring(_) => {}
        }
        Ok(())
    }

    fn tell(
        &self,
        header: Option<&BmpPerPeerHeader>,
        state: SessionState,
        now: Timestamp,
        out: &mut Vec<Event>,
    ) {
        out.push(Event::Session(Session {
            collector: Arc::clone(&self.collector),
            peer: header.map(|header| (header.peer_ip, header.peer_asn.into())),
            state,
            time: header.map_or(now, |header| time(header, now)),
        }));
    }
}

fn key(header: &BmpPerPeerHeader) -> Key {
    (header.peer_ip, header.peer_distinguisher, header.peer_type == BmpPeerType::LocalRib)
}

fn view(header: &BmpPerPeerHeader) -> View {
    match header.peer_flags {
        PerPeerFlags::LocalRibPeerFlags(_) => View::Local,
        PerPeerFlags::PeerFlags(flags) if flags.is_adj_rib_out() => View::Out,
        PerPeerFlags::PeerFlags(flags) if flags.is_post_policy() => View::PostPolicy,
        PerPeerFlags::PeerFlags(_) => View::PrePolicy,
    }
}

/// The router's time; a router that has none says zero.
fn time(header: &BmpPerPeerHeader, now: Timestamp) -> Timestamp {
    if header.timestamp > 0.0 {
        // Seconds and microseconds of 32 bits each.
        Timestamp::from_nanos((header.timestamp * 1e6).round() as u64 * 1000)
    } else {
        now
    }
}

/// Families whose prefixes the peer sends with path identifiers: it offers to send, the router to receive.
fn negotiated(up: &PeerUpNotification) -> AddPath {
    let offers = |open: &BgpMessage, wanted: [AddPathSendReceive; 2], afi: Afi| {
        let BgpMessage::Open(open) = open else { return false };
        let families = open.opt_params.iter().filter_map(|param| match &param.param_value {
            ParamValue::Capacities(capabilities) => Some(capabilities),
            ParamValue::Raw(_) => None,
        });
        let mut families = families.flatten().filter_map(|capability| match &capability.value {
            CapabilityValue::AddPath(add_path) => Some(&add_path.address_families),
            _ => None,
        });
        let is = |family: &AddPathAddressFamily| {
            family.afi == afi && family.safi == Safi::Unicast && wanted.contains(&family.send_receive)
        };
        families.any(|families| families.iter().any(is))
    };
    let both = |afi| {
        use AddPathSendReceive::{Receive, Send, SendReceive};
        offers(&up.received_open, [Send, SendReceive], afi)
            && offers(&up.sent_open, [Receive, SendReceive], afi)
    };
    AddPath { v4: both(Afi::Ipv4), v6: both(Afi::Ipv6) }
}
