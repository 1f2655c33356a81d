//! RIPE RIS Live: updates of route collectors as JSON over a WebSocket.
//!
//! The format is that of <https://ris-live.ripe.net/manual/>. Path and prefixes are taken from its fields; large and
//! extended communities, which it does not tell there, from the message as it was on the wire, which is asked for too.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bgpkit_parser::models::{AsPath, Asn, Community, MetaCommunity, NextHopAddress};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use ipnet::IpNet;
use rand::RngExt;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::{
    sync::mpsc::Sender,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
    tungstenite::{Error as WsError, Message, protocol::WebSocketConfig},
};
use url::Url;

use super::{Event, Fault, FaultCode, Filter, Match, Route, Session, SessionState, Update, http, message};
use crate::Timestamp;

/// The service itself.
pub const RIPE: &str = "wss://ris-live.ripe.net/v1/ws/";

/// Longest message taken.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
const CONNECT: Duration = Duration::from_secs(30);
/// How often the server is asked whether it is there, and how long silence is borne.
const PING: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(90);
/// A connection that lasted so long is followed by the shortest pause.
const STEADY: Duration = Duration::from_mins(1);

/// How the service is followed.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it is: `ws` or `wss`.
    pub url: Url,
    /// What is wanted; the server is asked for it, rule by rule, and what it sends is filtered again.
    pub filter: Filter,
    /// Pause before the first new attempt to connect; it doubles up to `max_pause`.
    pub min_pause: Duration,
    /// Longest pause between attempts.
    pub max_pause: Duration,
}

impl Config {
    /// Pauses of one second to a minute.
    pub fn new(url: Url, filter: Filter) -> Self {
        Self { url, filter, min_pause: Duration::from_secs(1), max_pause: Duration::from_mins(1) }
    }
}

/// A client of the service.
#[derive(Debug)]
pub struct Client {
    config: Config,
    collector: Arc<str>,
}

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// The channel's reader is gone.
struct Gone;

impl Client {
    /// A client that connects when it is run.
    pub fn new(config: Config) -> Self {
        let collector = config.url.host_str().unwrap_or("ris-live").into();
        Self { config, collector }
    }

    /// Follows the service until the channel is closed, connecting again after pauses that double. What happened
    /// between two connections is not told by the service: a session that goes down says so.
    pub async fn run(&self, events: &Sender<Event>) {
        let mut pause = self.config.min_pause;
        loop {
            let start = Instant::now();
            let Ok(reason) = self.session(events).await else { return };
            if start.elapsed() >= STEADY {
                pause = self.config.min_pause;
            }
            if self.tell(events, SessionState::Down(reason)).await.is_err() {
                return;
            }
            let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::select! {
                () = sleep(jittered) => {}
                () = events.closed() => return,
            }
            pause = (pause * 2).min(self.config.max_pause);
        }
    }

    /// One connection; gives why it ended.
    async fn session(&self, events: &Sender<Event>) -> Result<String, Gone> {
        let mut socket = match timeout(CONNECT, self.connect()).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return Ok(error),
            Err(_) => return Ok(format!("no answer within {} s", CONNECT.as_secs())),
        };
        self.tell(events, SessionState::Up).await?;
        let mut heard = Instant::now();
        let mut ping = tokio::time::interval_at(heard + PING, PING);
        loop {
            tokio::select! {
                () = events.closed() => return Err(Gone),
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Ok(format!("silent for {} s", heard.elapsed().as_secs()));
                    }
                    if let Err(error) = socket.send(Message::text(r#"{"type":"ping"}"#)).await {
                        return Ok(error.to_string());
                    }
                }
                next = socket.next() => {
                    heard = Instant::now();
                    match next {
                        Some(Ok(Message::Text(text))) => self.take(&text, events).await?,
                        Some(Ok(Message::Close(frame))) => {
                            let said = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
                            return Ok(format!("closed by the server {said}").trim_end().to_owned());
                        }
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return Ok(error.to_string()),
                        None => return Ok("closed by the server".to_owned()),
                    }
                }
            }
        }
    }

    async fn connect(&self) -> Result<Socket, String> {
        let words = |error: WsError| error.to_string();
        let mut url = self.config.url.clone();
        if !url.query_pairs().any(|(name, _)| name == "client") {
            url.query_pairs_mut().append_pair("client", concat!("imn-", env!("CARGO_PKG_VERSION")));
        }
        let connector = match url.scheme() {
            "wss" => Connector::Rustls(http::tls()?),
            _ => Connector::Plain,
        };
        let limits =
            WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        let connected =
            connect_async_tls_with_config(url.as_str(), Some(limits), true, Some(connector)).await;
        let (mut socket, _) = connected.map_err(words)?;
        for subscription in subscriptions(&self.config.filter) {
            socket.feed(Message::text(subscription)).await.map_err(words)?;
        }
        socket.flush().await.map_err(words)?;
        Ok(socket)
    }

    async fn take(&self, text: &str, events: &Sender<Event>) -> Result<(), Gone> {
        let mut updates = Vec::new();
        let event = match read(text, &self.config.filter, &mut updates) {
            Ok(session) => session.map(Event::Session),
            Err(fault) => Some(Event::Fault(fault)),
        };
        if let Some(event) = event {
            events.send(event).await.map_err(|_| Gone)?;
        }
        if updates.is_empty() {
            return Ok(());
        }
        events.send(Event::Updates(updates)).await.map_err(|_| Gone)
    }

    async fn tell(&self, events: &Sender<Event>, state: SessionState) -> Result<(), Gone> {
        let collector = Arc::clone(&self.collector);
        let session = Session { collector, peer: None, state, time: Timestamp::now() };
        events.send(Event::Session(session)).await.map_err(|_| Gone)
    }
}

/// What is sent to the server to have what a filter wants: one subscription per rule, one for everything.
pub fn subscriptions(filter: &Filter) -> Vec<String> {
    let options = json!({ "includeRaw": true });
    let whole = || json!({ "type": "ris_subscribe", "data": { "type": "UPDATE", "socketOptions": options } });
    if filter.is_empty() {
        return vec![whole().to_string()];
    }
    let one = |(prefix, how): (IpNet, Match)| {
        let mut message = whole();
        let data = &mut message["data"];
        data["prefix"] = prefix.to_string().into();
        data["moreSpecific"] = matches!(how, Match::MoreSpecific | Match::Any).into();
        data["lessSpecific"] = matches!(how, Match::Covering | Match::Any).into();
        message.to_string()
    };
    filter.rules().map(one).collect()
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Complaint {
    message: String,
}

#[derive(Deserialize)]
struct Body {
    timestamp: f64,
    peer: String,
    peer_asn: String,
    host: String,
    #[serde(rename = "type")]
    kind: String,
    raw: Option<String>,
    path: Option<AsPath>,
    community: Option<Vec<(u32, u16)>>,
    announcements: Option<Vec<Announcement>>,
    withdrawals: Option<Vec<String>>,
    state: Option<String>,
}

#[derive(Deserialize)]
struct Announcement {
    next_hop: String,
    prefixes: Vec<String>,
}

/// Reads one message of the service; adds the updates that the filter wants, and gives news of a peer's session.
///
/// # Errors
/// [`FaultCode::Json`] for a text that is no message, [`FaultCode::Refused`] for a complaint of the server, and the
/// codes of BGP messages.
pub fn read(text: &str, filter: &Filter, out: &mut Vec<Update>) -> Result<Option<Session>, Fault> {
    let json = |error: serde_json::Error| Fault::new(FaultCode::Json, error.to_string());
    let envelope: Envelope<'_> = serde_json::from_str(text).map_err(json)?;
    let data = envelope.data.map_or("null", RawValue::get);
    match envelope.kind.as_str() {
        "ris_message" => {}
        "ris_error" => {
            let complaint: Complaint = serde_json::from_str(data).map_err(json)?;
            return Err(Fault::new(FaultCode::Refused, clip(&complaint.message)));
        }
        // Answers, and whatever is added to the format.
        _ => return Ok(None),
    }
    let body: Body = serde_json::from_str(data).map_err(json)?;
    let time = time(body.timestamp)?;
    let envelope = |text: String| Fault::new(FaultCode::Envelope, text);
    let peer_address: IpAddr =
        body.peer.parse().map_err(|_| envelope(format!("{:?} is no address of a peer", clip(&body.peer))))?;
    let peer_asn: u32 = body
        .peer_asn
        .parse()
        .map_err(|_| envelope(format!("{:?} is no AS number of a peer", clip(&body.peer_asn))))?;
    let collector: Arc<str> = clip(&body.host).into();
    match body.kind.as_str() {
        "UPDATE" => {}
        "STATE" | "RIS_PEER_STATE" => {
            let state = match body.state.as_deref() {
                Some("connected" | "up") => SessionState::Up,
                Some(other) => SessionState::Down(clip(other)),
                None => return Err(envelope("a change of state without a state".to_owned())),
            };
            return Ok(Some(Session { collector, peer: Some((peer_address, peer_asn)), state, time }));
        }
        _ => return Ok(None),
    }
    let update = |prefix, route| Update {
        prefix,
        path_id: None,
        route,
        peer_asn,
        peer_address,
        time,
        collector: Arc::clone(&collector),
        snapshot: false,
    };
    for text in body.withdrawals.iter().flatten() {
        if let Some(prefix) = prefix(text)?.filter(|prefix| filter.wants(prefix)) {
            out.push(update(prefix, None));
        }
    }
    let mut communities = None;
    for announcement in body.announcements.iter().flatten() {
        let mut route = None;
        for text in &announcement.prefixes {
            let Some(prefix) = prefix(text)?.filter(|prefix| filter.wants(prefix)) else { continue };
            let route = if let Some(route) = &route {
                route
            } else {
                let communities = communities.get_or_insert_with(|| told_communities(&body)).clone();
                route.insert(Arc::new(announced(&body, &announcement.next_hop, communities)?))
            };
            out.push(update(prefix, Some(Arc::clone(route))));
        }
    }
    Ok(None)
}

fn announced(body: &Body, next_hop: &str, communities: Vec<MetaCommunity>) -> Result<Route, Fault> {
    let missing = || Fault::new(FaultCode::Attributes, "an announcement without a path");
    let path = body.path.clone().ok_or_else(missing)?;
    let hop: Result<NextHopAddress, _> = next_hop.parse();
    let hop =
        hop.map_err(|_| Fault::new(FaultCode::Attributes, format!("{:?} is no next hop", clip(next_hop))))?;
    Ok(Route { path, communities, next_hop: Some(hop.global_addr()) })
}

/// Communities of the message on the wire if it is told, else those of the fields.
fn told_communities(body: &Body) -> Vec<MetaCommunity> {
    let raw = body.raw.as_deref().and_then(unhex);
    if let Some(all) = raw.and_then(|bytes| message::communities(&bytes)) {
        return all;
    }
    let plain = |(asn, value): &(u32, u16)| MetaCommunity::Plain(well_known(*asn, *value));
    body.community.iter().flatten().map(plain).collect()
}

/// A community, by its name if it has one (RFC 1997), as the wire's reader would give it.
fn well_known(asn: u32, value: u16) -> Community {
    match (asn, value) {
        (0xffff, 0xff01) => Community::NoExport,
        (0xffff, 0xff02) => Community::NoAdvertise,
        (0xffff, 0xff03) => Community::NoExportSubConfed,
        _ => Community::Custom(Asn::new_32bit(asn), value),
    }
}

fn unhex(text: &str) -> Option<Bytes> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?))
        .collect::<Option<Vec<u8>>>()
        .map(Bytes::from)
}

/// A prefix; `None` for the mark of the end of a table.
fn prefix(text: &str) -> Result<Option<IpNet>, Fault> {
    if text == "eor" {
        return Ok(None);
    }
    let prefix: Result<IpNet, _> = text.parse();
    match prefix {
        Ok(prefix) => Ok(Some(prefix.trunc())),
        Err(_) => Err(Fault::new(FaultCode::Nlri, format!("{:?} is no prefix", clip(text)))),
    }
}

fn time(seconds: f64) -> Result<Timestamp, Fault> {
    // Until the year 2200, so that nothing overflows.
    if (0.0..7.3e9).contains(&seconds) {
        Ok(Timestamp::from_nanos((seconds * 1e6).round() as u64 * 1000))
    } else {
        Err(Fault::new(FaultCode::Envelope, format!("{seconds} is no time")))
    }
}

/// What others say, as much of it as is worth repeating.
fn clip(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
