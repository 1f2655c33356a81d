//! One BGP message (RFC 4271): which of its prefixes are wanted, and only then what it says of them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use bgpkit_parser::{
    bgp::attributes::parse_attributes,
    error::BgpValidationWarning,
    models::{AsnLength, AttrType},
};
use bytes::Bytes;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Fault, FaultCode, Filter, Route, Update};
use crate::Timestamp;

/// Bytes of marker, length and type.
pub(super) const HEADER: usize = 19;
const UPDATE: u8 = 2;
const UNICAST: u8 = 1;
const MP_REACH: u8 = 14;
const MP_UNREACH: u8 = 15;
const EXTENDED_LENGTH: u8 = 0x10;

/// Address families of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

/// What a message does not say itself.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub peer_asn: u32,
    pub peer_address: IpAddr,
    pub time: Timestamp,
    pub collector: Arc<str>,
    /// Whether AS numbers of paths have four bytes.
    pub wide_asn: bool,
    /// Families whose prefixes carry path identifiers.
    pub add_path: AddPath,
    pub snapshot: bool,
}

/// Families whose prefixes carry path identifiers (RFC 7911).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AddPath {
    pub v4: bool,
    pub v6: bool,
}

impl AddPath {
    pub(super) const ALL: Self = Self { v4: true, v6: true };

    const fn of(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

impl Context {
    pub(super) fn asn_length(&self) -> AsnLength {
        if self.wide_asn { AsnLength::Bits32 } else { AsnLength::Bits16 }
    }

    fn update(&self, (path_id, prefix): Found, route: Option<Arc<Route>>) -> Update {
        Update {
            prefix,
            path_id,
            route,
            peer_asn: self.peer_asn,
            peer_address: self.peer_address,
            time: self.time,
            collector: Arc::clone(&self.collector),
            snapshot: self.snapshot,
        }
    }
}

type Found = (Option<u32>, IpNet);

/// Reads a whole message, header included. Messages other than UPDATE have no updates.
///
/// Adds to `out` what the filter wants: withdrawals first, as RFC 4271 has an announcement win over a withdrawal in
/// the same message. Gives the number of prefixes there were, wanted or not.
pub(super) fn read(
    message: &Bytes,
    context: &Context,
    filter: &Filter,
    out: &mut Vec<Update>,
) -> Result<u64, Fault> {
    let mut cursor = Cursor::new(message);
    let header = cursor.take(HEADER).ok_or_else(|| message_fault("is shorter than a BGP header"))?;
    if header[..16] != [0xff; 16] {
        return Err(message_fault("has no BGP marker"));
    }
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    if length != message.len() {
        return Err(message_fault(format!("says {length} bytes and has {}", message.len())));
    }
    match header[18] {
        UPDATE => update(&message.slice(HEADER..), context, filter, out),
        1 | 3..=5 => Ok(0),
        other => Err(message_fault(format!("is of type {other}, which is none"))),
    }
}

/// Reads the body of an UPDATE.
fn update(body: &Bytes, context: &Context, filter: &Filter, out: &mut Vec<Update>) -> Result<u64, Fault> {
    let mut cursor = Cursor::new(body);
    let withdrawn = cursor.counted().ok_or_else(|| message_fault("its withdrawn routes run out"))?;
    let start = cursor.at + 2;
    let attributes = cursor.counted().ok_or_else(|| message_fault("its path attributes run out"))?;
    let announced = cursor.rest();
    let section = body.slice(start..start + attributes.len());

    let mut gone = Vec::new();
    let mut come = Vec::new();
    let mut prefixes = wanted(withdrawn, Family::V4, context, filter, &mut gone)?;
    let multi = multiprotocol(attributes);
    if let Ok(Multiprotocol { unreach: Some((family, nlri)), .. }) = multi {
        prefixes += wanted(nlri, family, context, filter, &mut gone)?;
    }
    out.extend(gone.into_iter().map(|found| context.update(found, None)));

    let multi = multi?;
    prefixes += wanted(announced, Family::V4, context, filter, &mut come)?;
    let classic = come.len();
    let mut next_hop = None;
    if let Some(reach) = multi.reach {
        prefixes += wanted(reach.nlri, reach.family, context, filter, &mut come)?;
        next_hop = reach.next_hop;
    }
    if come.is_empty() {
        return Ok(prefixes);
    }
    let needs = if classic > 0 { Needs::NextHop } else { Needs::Path };
    let read = route(section, context, needs)?;
    // Both kinds of prefixes have a next hop of their own.
    let multi = (classic < come.len()).then(|| Arc::new(Route { next_hop, ..read.clone() }));
    let classic_route = Arc::new(read);
    out.extend(come.into_iter().enumerate().map(|(n, found)| {
        let route = multi.as_ref().filter(|_| n >= classic).unwrap_or(&classic_route);
        context.update(found, Some(Arc::clone(route)))
    }));
    Ok(prefixes)
}

/// Reads the attributes of an entry of a table and adds the update, if the prefix is wanted, which the caller knows.
pub(super) fn entry(
    prefix: IpNet,
    path_id: Option<u32>,
    attributes: Bytes,
    context: &Context,
    out: &mut Vec<Update>,
) -> Result<(), Fault> {
    let abbreviated = attributes_of(&attributes).find_map(|attribute| match attribute {
        Ok((MP_REACH, value)) => Some(table_next_hop(value)),
        _ => None,
    });
    if attributes_of(&attributes).any(|attribute| attribute.is_err()) {
        return Err(attribute_fault("an attribute runs out of its field"));
    }
    let read = route(attributes, context, Needs::Nothing)?;
    let next_hop = read.next_hop.or(abbreviated.flatten());
    out.push(context.update((path_id, prefix), Some(Arc::new(Route { next_hop, ..read }))));
    Ok(())
}

/// The communities of a message that was read otherwise, for feeds that tell only some of them.
pub(super) fn communities(message: &Bytes) -> Option<Vec<bgpkit_parser::models::MetaCommunity>> {
    let body = (message.len() >= HEADER && message[18] == UPDATE).then(|| message.slice(HEADER..))?;
    let mut cursor = Cursor::new(&body);
    cursor.counted()?;
    let start = cursor.at + 2;
    let length = cursor.counted()?.len();
    let section = body.slice(start..start + length);
    let parsed = parse_attributes(section, &AsnLength::Bits32, false, None, None, None).ok()?;
    Some(parsed.iter_communities().collect())
}

/// Reads prefixes as they are coded in NLRI (RFC 4271 section 4.3); adds the wanted ones. All or none: a field that
/// does not come out even says nothing of its prefixes.
fn wanted(
    nlri: &[u8],
    family: Family,
    context: &Context,
    filter: &Filter,
    found: &mut Vec<Found>,
) -> Result<u64, Fault> {
    let before = found.len();
    let mut cursor = Cursor::new(nlri);
    let mut count = 0;
    while !cursor.is_empty() {
        let Some((path_id, prefix)) = prefix(&mut cursor, family, context.add_path.of(family)) else {
            found.truncate(before);
            return Err(Fault::new(FaultCode::Nlri, "a prefix does not fit into its field"));
        };
        count += 1;
        if filter.wants(&prefix) {
            found.push((path_id, prefix));
        }
    }
    Ok(count)
}

/// One coded prefix. Bits beyond its length are of no meaning.
pub(super) fn prefix(cursor: &mut Cursor<'_>, family: Family, add_path: bool) -> Option<Found> {
    let path_id = if add_path { Some(cursor.u32()?) } else { None };
    let length = cursor.u8()?;
    let bytes = cursor.take(usize::from(length).div_ceil(8))?;
    let net = match family {
        Family::V4 => {
            let mut octets = [0; 4];
            octets.get_mut(..bytes.len())?.copy_from_slice(bytes);
            IpNet::V4(Ipv4Net::new(Ipv4Addr::from(octets), length).ok()?.trunc())
        }
        Family::V6 => {
            let mut octets = [0; 16];
            octets.get_mut(..bytes.len())?.copy_from_slice(bytes);
            IpNet::V6(Ipv6Net::new(Ipv6Addr::from(octets), length).ok()?.trunc())
        }
    };
    Some((path_id, net))
}

#[derive(Default)]
struct Multiprotocol<'a> {
    reach: Option<Reach<'a>>,
    unreach: Option<(Family, &'a [u8])>,
}

struct Reach<'a> {
    family: Family,
    next_hop: Option<IpAddr>,
    nlri: &'a [u8],
}

/// The prefixes that stand among the attributes (RFC 4760); those of other families than unicast are not ours.
fn multiprotocol(attributes: &[u8]) -> Result<Multiprotocol<'_>, Fault> {
    let mut found = Multiprotocol::default();
    for attribute in attributes_of(attributes) {
        let (code, value) = attribute.map_err(|()| attribute_fault("an attribute runs out of its field"))?;
        let malformed = || attribute_fault(format!("attribute {code} is malformed"));
        if !matches!(code, MP_REACH | MP_UNREACH) {
            continue;
        }
        let mut cursor = Cursor::new(value);
        let family = family(&mut cursor).ok_or_else(malformed)?;
        if code == MP_UNREACH {
            found.unreach = family.map(|family| (family, cursor.rest()));
            continue;
        }
        let length = cursor.u8().ok_or_else(malformed)?;
        let hop = cursor.take(usize::from(length)).ok_or_else(malformed)?;
        // A reserved byte.
        cursor.u8().ok_or_else(malformed)?;
        let Some(family) = family else { continue };
        let next_hop = Some(next_hop(hop).ok_or_else(malformed)?);
        found.reach = Some(Reach { family, next_hop, nlri: cursor.rest() });
    }
    Ok(found)
}

/// Address family and subsequent one; the inner `None` for one that is not unicast IPv4 or IPv6.
#[expect(clippy::option_option, reason = "cut is one thing, another family another")]
fn family(cursor: &mut Cursor<'_>) -> Option<Option<Family>> {
    let (afi, safi) = (cursor.u16()?, cursor.u8()?);
    Some(match (afi, safi) {
        (1, UNICAST) => Some(Family::V4),
        (2, UNICAST) => Some(Family::V6),
        _ => None,
    })
}

/// A next hop by its length; of a pair the global address (RFC 2545 section 3), which comes first.
fn next_hop(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 | 32 => <[u8; 16]>::try_from(&bytes[..16]).ok().map(IpAddr::from),
        _ => None,
    }
}

/// The next hop of MP_REACH_NLRI in a table: shortened (RFC 6396 section 4.3.4), or whole as some writers have it.
fn table_next_hop(value: &[u8]) -> Option<IpAddr> {
    let (length, short) = value.split_first()?;
    if *length != 0 && usize::from(*length) == short.len() {
        return next_hop(short);
    }
    let length = usize::from(*value.get(3)?);
    next_hop(value.get(4..4 + length)?)
}

/// Which attributes must be there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Needs {
    /// None: in a table also routes stand that a router made itself.
    Nothing,
    /// Origin and path.
    Path,
    /// These and a next hop, for prefixes outside of MP_REACH_NLRI.
    NextHop,
}

/// Parses the attributes that a route has.
fn route(section: Bytes, context: &Context, needs: Needs) -> Result<Route, Fault> {
    let parsed = parse_attributes(section, &context.asn_length(), false, None, None, None)
        .map_err(|error| attribute_fault(error.to_string()))?;
    if let Some(warning) = parsed.validation_warnings().iter().find(|warning| is_fatal(warning)) {
        return Err(attribute_fault(warning.to_string()));
    }
    let missing = |what| Err(attribute_fault(format!("the mandatory {what} is missing or malformed")));
    let has = |kind| parsed.has_attr(kind);
    if (needs >= Needs::Path || has(AttrType::AS_PATH)) && parsed.as_path().is_none() {
        return missing("AS_PATH");
    }
    if needs >= Needs::Path && !has(AttrType::ORIGIN) {
        return missing("ORIGIN");
    }
    let next_hop = parsed.next_hop();
    if needs >= Needs::NextHop && next_hop.is_none() {
        return missing("NEXT_HOP");
    }
    let path = parsed.effective_as_path().unwrap_or_default();
    Ok(Route { path, communities: parsed.iter_communities().collect(), next_hop })
}

/// Whether what is wrong concerns what we tell of a route. A wrong flag or a bad optional attribute does not.
fn is_fatal(warning: &BgpValidationWarning) -> bool {
    use BgpValidationWarning as W;
    let told = |kind: &AttrType| {
        matches!(
            kind,
            AttrType::ORIGIN
                | AttrType::AS_PATH
                | AttrType::AS4_PATH
                | AttrType::NEXT_HOP
                | AttrType::COMMUNITIES
                | AttrType::EXTENDED_COMMUNITIES
                | AttrType::LARGE_COMMUNITIES
                | AttrType::IPV6_ADDRESS_SPECIFIC_EXTENDED_COMMUNITIES
        )
    };
    match warning {
        W::InvalidOriginAttribute { .. }
        | W::InvalidNextHopAttribute { .. }
        | W::MalformedAsPath { .. }
        | W::MalformedAttributeList { .. } => true,
        W::AttributeLengthError { attr_type, .. }
        | W::OptionalAttributeError { attr_type, .. }
        | W::PartialAttributeError { attr_type, .. } => told(attr_type),
        _ => false,
    }
}

/// Walks attributes: code and value of each; an error where one runs out of the field.
fn attributes_of(bytes: &[u8]) -> impl Iterator<Item = Result<(u8, &[u8]), ()>> {
    let mut cursor = Cursor::new(bytes);
    std::iter::from_fn(move || {
        if cursor.is_empty() {
            return None;
        }
        let mut one = || {
            let (flags, code) = (cursor.u8()?, cursor.u8()?);
            let length = if flags & EXTENDED_LENGTH == 0 { u16::from(cursor.u8()?) } else { cursor.u16()? };
            Some((code, cursor.take(usize::from(length))?))
        };
        let read = one();
        if read.is_none() {
            cursor = Cursor::new(&[]);
        }
        Some(read.ok_or(()))
    })
}

fn message_fault(text: impl Into<String>) -> Fault {
    Fault::new(FaultCode::Message, text)
}

fn attribute_fault(text: impl Into<String>) -> Fault {
    Fault::new(FaultCode::Attributes, text)
}

/// Reads bytes from the front; nothing is taken when too few are left.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        self.at = self.bytes.len();
        rest
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// An address of a family.
    pub(super) fn address(&mut self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.array::<4>().map(IpAddr::from),
            Family::V6 => self.array::<16>().map(IpAddr::from),
        }
    }

    /// A field behind its length in two bytes.
    pub(super) fn counted(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}
