//! RIS Live against a server that speaks its format, and BMP routers that misbehave.

#![expect(clippy::unwrap_used, reason = "a test helper fails its test")]

use std::{net::SocketAddr, time::Duration};

use futures::{SinkExt, StreamExt};
use imn_probe::bgp::{Event, FaultCode, Filter, Match, SessionState, bmp, ris};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_tungstenite::{accept_async, tungstenite::Message};

use crate::sample::{BMP, line, updates_of};

const SOON: Duration = Duration::from_secs(20);

/// A message in the form of the manual: two families, a set in the path, a withdrawal, and the wire's own bytes, which
/// also have a large and an extended community.
pub(crate) const MESSAGE: &str = concat!(
    r#"{"type":"ris_message","data":{"timestamp":1636245154.85,"peer":"2001:7f8::a500:6450:1","#,
    r#""peer_asn":"64500","id":"21-2001-7f8-a500-64500-1-1","host":"rrc21.ripe.net","type":"UPDATE","#,
    r#""path":[64500,65001,[64900,64901]],"community":[[64500,100],[65535,65281]],"origin":"IGP","#,
    r#""announcements":[{"next_hop":"192.0.2.1","prefixes":["203.0.113.0/24","198.51.100.0/24"]},"#,
    r#"{"next_hop":"2001:db8::1,fe80::1","prefixes":["2001:db8:5::/48"]}],"#,
    r#""withdrawals":["203.0.113.128/25"],"raw":"#,
    r#""ffffffffffffffffffffffffffffffff006b02000519cb00718000474001010040021402020000fbf40000fde9"#,
    "01020000fd840000fd85400304c0000201c00808fbf40064ffffff01c0200c0000fbf40000000100000002c010",
    "080002fbf40000000718cb007118c63364",
    r#""}}"#,
);

/// A plain one without the wire's bytes.
const PLAIN: &str = r#"{"type":"ris_message","data":{"timestamp":1636245155,"peer":"192.0.2.9","peer_asn":"64509",
    "id":"x","host":"rrc00.ripe.net","type":"UPDATE","path":[64509,64666],"community":[[64500,1]],"origin":"IGP",
    "announcements":[{"next_hop":"192.0.2.9","prefixes":["203.0.113.0/24"]}]}}"#;

#[test]
fn the_fields_of_a_message_become_updates() {
    let mut updates = Vec::new();
    ris::read(MESSAGE, &Filter::everything(), &mut updates).unwrap();
    let communities = "[64500:100,no-export,64500:1:2,rt:64500:7]";
    let peer = "by AS64500 2001:7f8::a500:6450:1";
    let path = "64500 65001 {64900,64901}";
    assert_eq!(
        updates.iter().map(line).collect::<Vec<_>>(),
        [
            format!("W 203.0.113.128/25 {peer}"),
            format!("A 203.0.113.0/24 {peer} {path} via 192.0.2.1 {communities}"),
            format!("A 198.51.100.0/24 {peer} {path} via 192.0.2.1 {communities}"),
            format!("A 2001:db8:5::/48 {peer} {path} via 2001:db8::1 {communities}"),
        ]
    );
    assert_eq!(updates[0].time.as_nanos(), 1_636_245_154_850_000_000);
    assert_eq!(&*updates[0].collector, "rrc21.ripe.net");
    // A set has no single origin.
    assert_eq!(updates[1].origin_asn(), None);
    let wanted = Filter::new([("198.51.100.0/24".parse().unwrap(), Match::Exact)]);
    updates.clear();
    ris::read(MESSAGE, &wanted, &mut updates).unwrap();
    assert_eq!(updates.len(), 1);
    for (text, code) in [
        ("", FaultCode::Json),
        (r#"{"type":"ris_error","data":{"message":"bad prefix"}}"#, FaultCode::Refused),
        (&PLAIN.replace("203.0.113.0/24", "203.0.113.0/33"), FaultCode::Nlri),
        (&PLAIN.replace("192.0.2.9", "x"), FaultCode::Envelope),
        (&PLAIN.replace("1636245155", "-1"), FaultCode::Envelope),
        (&PLAIN.replace("path", "way"), FaultCode::Attributes),
    ] {
        updates.clear();
        let fault = ris::read(text, &Filter::everything(), &mut updates).unwrap_err();
        assert_eq!((fault.code, updates.len()), (code, 0), "{fault}");
    }
}

#[tokio::test]
async fn ris_live_is_subscribed_to_and_connected_to_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/v1/ws/", listener.local_addr().unwrap()).parse().unwrap();
    let filter = Filter::new([
        ("203.0.113.0/24".parse().unwrap(), Match::MoreSpecific),
        ("2001:db8::/32".parse().unwrap(), Match::Any),
    ]);
    let mut config = ris::Config::new(url, filter);
    config.min_pause = Duration::from_millis(20);
    let client = ris::Client::new(config);
    let (sender, mut events) = mpsc::channel(16);
    let server = async {
        let mut asked = Vec::new();
        for _ in 0..2 {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = accept_async(stream).await.unwrap();
            for _ in 0..2 {
                asked.push(socket.next().await.unwrap().unwrap().into_text().unwrap().to_string());
            }
            socket.send(Message::text(MESSAGE)).await.unwrap();
            socket.send(Message::text("{")).await.unwrap();
            socket.send(Message::text(PLAIN)).await.unwrap();
            // Gone without a word.
        }
        asked
    };
    let watch = async {
        let mut seen = Vec::new();
        while seen.iter().filter(|event| matches!(event, Event::Updates(_))).count() < 4 {
            seen.push(events.recv().await.unwrap());
        }
        drop(events);
        seen
    };
    let all = async { tokio::join!(server, watch, client.run(&sender)) };
    let (asked, seen, ()) = Box::pin(timeout(SOON, all)).await.unwrap();
    let data: Vec<serde_json::Value> = asked.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    assert_eq!(asked[..2], asked[2..]);
    let of = |prefix: &str| &data[..2].iter().find(|data| data["data"]["prefix"] == prefix).unwrap()["data"];
    assert!(data.iter().all(|data| data["type"] == "ris_subscribe" && data["data"]["type"] == "UPDATE"));
    assert_eq!(
        (&of("203.0.113.0/24")["moreSpecific"], &of("203.0.113.0/24")["lessSpecific"]),
        (&true.into(), &false.into())
    );
    assert_eq!(of("2001:db8::/32")["lessSpecific"], true);
    assert_eq!(of("2001:db8::/32")["socketOptions"]["includeRaw"], true);
    let told: Vec<_> = seen
        .iter()
        .map(|event| match event {
            Event::Updates(updates) => format!("{}", updates.len()),
            Event::Fault(fault) => fault.code.as_str().to_owned(),
            Event::Session(session) if session.state == SessionState::Up => "up".to_owned(),
            Event::Session(_) => "down".to_owned(),
        })
        .collect();
    assert_eq!(told, ["up", "3", "json", "1", "down", "up", "3", "json", "1"]);
}

/// Runs a listener, lets `routers` speak to it, and gives what it told until it told `count` events.
async fn listen(routers: usize, count: usize, speak: impl AsyncFnOnce(SocketAddr)) -> Vec<Event> {
    let mut config = bmp::Config::new("127.0.0.1:0".parse().unwrap(), Filter::everything());
    config.routers = routers;
    let listener = bmp::Listener::bind(config).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, mut events) = mpsc::channel(4);
    let watch = async {
        let mut seen = Vec::new();
        while seen.len() < count {
            seen.push(events.recv().await.unwrap());
        }
        drop(events);
        seen
    };
    let all = async { tokio::join!(speak(address), watch, listener.run(&sender)) };
    Box::pin(timeout(SOON, all)).await.unwrap().1
}

fn faults(events: &[Event]) -> Vec<FaultCode> {
    let codes = events.iter().filter_map(|event| match event {
        Event::Fault(fault) => Some(fault.code),
        _ => None,
    });
    codes.collect()
}

#[tokio::test]
async fn several_routers_report_at_once_in_pieces() {
    let seen = listen(8, 3 * 8, async |address| {
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(TcpStream::connect(address).await.unwrap());
        }
        for piece in BMP.chunks(7) {
            for stream in &mut streams {
                stream.write_all(piece).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
        // Held until all is read: an end of the connection is an event too.
        for stream in &mut streams {
            let _ = timeout(Duration::from_secs(5), stream.read_u8()).await;
        }
    })
    .await;
    assert_eq!(updates_of(&seen).len(), 12, "{seen:?}");
    assert!(faults(&seen).is_empty());
}

#[tokio::test]
async fn hostile_routers_are_cut_off_and_the_others_stay() {
    let seen = listen(2, 9, async |address| {
        let mut good = TcpStream::connect(address).await.unwrap();
        good.write_all(&BMP[..25]).await.unwrap();
        // No BMP, an endless message, an end within one.
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[3, 0xff, 0xff, 0xff, 0xff, 0], &BMP[..10]] {
            let mut bad = TcpStream::connect(address).await.unwrap();
            bad.write_all(bytes).await.unwrap();
            bad.shutdown().await.unwrap();
            // It is shut out, or lets go, before the next one comes.
            let _ = bad.read_to_end(&mut Vec::new()).await;
        }
        let _second = TcpStream::connect(address).await.unwrap();
        let mut third = TcpStream::connect(address).await.unwrap();
        assert_eq!(third.read_to_end(&mut Vec::new()).await.unwrap_or_default(), 0);
        good.write_all(&BMP[25..]).await.unwrap();
        let _ = timeout(Duration::from_secs(5), good.read_u8()).await;
    })
    .await;
    assert_eq!(
        faults(&seen),
        [FaultCode::Envelope, FaultCode::Length, FaultCode::Cut, FaultCode::Limit],
        "{seen:?}"
    );
}
