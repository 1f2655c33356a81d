//! What gobgpd 3.10 and bird 2.0.12 wrote in the laboratory, kept so that readers are tested without one.

#![expect(clippy::unwrap_used, reason = "a test helper fails its test")]

use std::io::{Read, Write};

use bytes::BytesMut;
use imn_probe::{
    Timestamp,
    bgp::{Event, Fault, FaultCode, Filter, SessionState, Update, bmp, mrt, open},
};

/// BGP4MP messages by gobgpd: 203.0.113.0/24, 2001:db8:5::/48 and 198.51.100.0/24 announced, the first withdrawn.
pub(crate) const UPDATES: &[u8] = include_bytes!("../data/gobgpd-updates.mrt");
/// TABLE_DUMP_V2 by bird: a table of peers, an entry that one of them told, and two of its own.
pub(crate) const TABLE: &[u8] = include_bytes!("../data/bird-table.mrt");
/// The same updates as a stream of BMP by gobgpd, with a report of statistics.
pub(crate) const BMP: &[u8] = include_bytes!("../data/gobgpd.bmp");

/// Everything that a file of MRT says.
pub(crate) fn read_mrt(bytes: &[u8], filter: &Filter) -> (Vec<Update>, Vec<Fault>) {
    let mut reader = mrt::Reader::new(bytes, "sample");
    let (mut updates, mut faults) = (Vec::new(), Vec::new());
    while let Some(read) = reader.read(filter, &mut updates) {
        faults.extend(read.err());
    }
    assert_eq!(reader.counts().faults, faults.len() as u64);
    (updates, faults)
}

/// Everything that a stream of BMP says, and whether it could be followed to its end.
pub(crate) fn read_bmp(bytes: &[u8]) -> (Vec<Event>, Vec<Fault>, bool) {
    let mut decoder = bmp::Decoder::new("192.0.2.1".parse().unwrap());
    let mut received = BytesMut::from(bytes);
    let (mut events, mut faults) = (Vec::new(), Vec::new());
    loop {
        match bmp::split(&mut received) {
            Ok(Some(message)) => {
                let now = Timestamp::from_nanos(1);
                faults.extend(decoder.read(&message, now, &Filter::everything(), &mut events).err());
            }
            Ok(None) => return (events, faults, true),
            Err(fault) => {
                faults.push(fault);
                return (events, faults, false);
            }
        }
    }
}

pub(crate) fn updates_of(events: &[Event]) -> Vec<Update> {
    let updates = events.iter().filter_map(|event| match event {
        Event::Updates(updates) => Some(updates.clone()),
        _ => None,
    });
    updates.flatten().collect()
}

pub(crate) fn line(update: &Update) -> String {
    let route = update.route.as_deref().map(|route| {
        let communities: Vec<String> = route.communities().collect();
        let hop = route.next_hop.map(|hop| hop.to_string()).unwrap_or_default();
        format!(" {} via {hop} [{}]", route.as_path(), communities.join(","))
    });
    let path = update.path_id.map(|id| format!("#{id}")).unwrap_or_default();
    format!(
        "{} {}{path} by AS{} {}{}",
        update.kind(),
        update.prefix,
        update.peer_asn,
        update.peer_address,
        route.unwrap_or_default()
    )
}

const SAID: [&str; 4] = [
    "A 203.0.113.0/24 by AS64500 10.0.0.1 64500 via 10.0.0.1 [64500:100,no-export,64500:1:2]",
    "A 2001:db8:5::/48 by AS64500 10.0.0.1 64500 via ::ffff:10.0.0.1 []",
    "A 198.51.100.0/24 by AS64500 10.0.0.1 64500 65001 4200000001 via 10.0.0.1 [rt:64500:7]",
    "W 203.0.113.0/24 by AS64500 10.0.0.1",
];

#[test]
fn mrt_and_bmp_of_one_daemon_say_the_same() {
    let (updates, faults) = read_mrt(UPDATES, &Filter::everything());
    assert_eq!(faults, []);
    assert_eq!(updates.iter().map(line).collect::<Vec<_>>(), SAID);
    let (events, faults, whole) = read_bmp(BMP);
    assert!(whole && faults.is_empty(), "{faults:?}");
    assert_eq!(updates_of(&events).iter().map(line).collect::<Vec<_>>(), SAID);
    let sessions: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Session(session) => Some((&*session.collector, session.peer, &session.state)),
            _ => None,
        })
        .collect();
    let peer = Some(("10.0.0.1".parse().unwrap(), 64_500));
    assert_eq!(sessions[0], ("GoBGP@192.0.2.1", None, &SessionState::Up));
    assert_eq!(sessions[1], ("GoBGP@192.0.2.1", peer, &SessionState::Up));
    assert!(
        sessions.iter().any(|(_, of, state)| *of == peer && matches!(state, SessionState::Routes { .. })),
        "{sessions:?}"
    );
    assert_eq!(updates[2].origin_asn(), Some(4_200_000_001));
}

#[test]
fn a_table_is_a_snapshot_of_each_peer() {
    let (updates, faults) = read_mrt(TABLE, &Filter::everything());
    assert_eq!(faults, []);
    assert!(updates.iter().all(|update| update.snapshot && update.kind() == 'A'));
    let lines: Vec<String> = updates.iter().map(line).collect();
    assert!(
        lines.iter().any(|line| line.contains("198.51.100.0/24") && line.contains("4200000001")),
        "{lines:?}"
    );
    assert!(
        lines.contains(&"A 203.0.113.0/24 by AS0 ::  via  []".to_owned()),
        "a route of its own: {lines:?}"
    );
    // The entries without their table of peers.
    let length = u32::from_be_bytes(TABLE[8..12].try_into().unwrap()) as usize;
    let (updates, faults) = read_mrt(&TABLE[12 + length..], &Filter::everything());
    assert!(updates.is_empty() && faults.iter().all(|fault| fault.code == FaultCode::Peer), "{faults:?}");
}

#[test]
fn compressed_files_are_read_as_plain_ones_and_damage_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let bzip2 = |bytes: &[u8]| {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    // Two members in one file, as rotated files are put together.
    let twice = [gzip(UPDATES), gzip(UPDATES)].concat();
    let double = [bzip2(UPDATES), bzip2(UPDATES)].concat();
    for (name, bytes, count) in
        [("plain", UPDATES.to_vec(), 4), ("gz", twice, 8), ("bz2", double, 8), ("none", Vec::new(), 0)]
    {
        let path = dir.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        let source = path.to_str().unwrap().parse().unwrap();
        let mut all = Vec::new();
        open(&source).unwrap().read_to_end(&mut all).unwrap();
        let (updates, faults) = read_mrt(&all, &Filter::everything());
        assert_eq!((updates.len(), faults.len()), (count, 0), "{name}");
        if name == "plain" || name == "none" {
            continue;
        }
        for cut in [bytes.len() - 3, bytes.len() / 2 + 20] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let mut reader = mrt::Reader::new(open(&source).unwrap(), "cut");
            let mut updates = Vec::new();
            let mut last = None;
            while let Some(read) = reader.read(&Filter::everything(), &mut updates) {
                last = read.err();
            }
            let code = last.unwrap().code;
            assert!(matches!(code, FaultCode::Cut | FaultCode::Compression), "{name} {cut}: {code:?}");
        }
    }
    let missing = "/nowhere/at/all".parse().unwrap();
    assert!(open(&missing).err().unwrap().to_string().starts_with("open /nowhere/at/all"));
}
