use std::{
    io,
    net::{SocketAddr, TcpListener as Bound},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::mpsc::Sender,
    time::{sleep, timeout},
};

use super::{Decoder, split};
use crate::{
    Timestamp,
    bgp::{Event, Fault, FaultCode, Filter, Session, SessionState},
};

/// How long the first message of a router is waited for: it is to begin with its initiation.
const FIRST: Duration = Duration::from_secs(30);
/// A listener that can take no connection waits so long, for example for want of files.
const PAUSE: Duration = Duration::from_millis(200);
/// Received at once.
const BUFFER: usize = 64 * 1024;

/// How routers are listened to.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where.
    pub listen: SocketAddr,
    /// What is wanted.
    pub filter: Filter,
    /// Routers at once, at most; another one is turned away.
    pub routers: usize,
}

impl Config {
    /// 64 routers.
    pub fn new(listen: SocketAddr, filter: Filter) -> Self {
        Self { listen, filter, routers: 64 }
    }
}

/// A station that routers report to. One future serves them all; what a router may hold in memory is a message and
/// its list of peers.
#[derive(Debug)]
pub struct Listener {
    socket: Bound,
    config: Config,
}

/// The channel's reader is gone.
struct Gone;

impl Listener {
    /// Listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(config: Config) -> io::Result<Self> {
        let socket = Bound::bind(config.listen)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, config })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Takes routers and their messages until the channel is closed.
    pub async fn run(&self, events: &Sender<Event>) {
        let socket = match self.socket.try_clone().and_then(TcpListener::from_std) {
            Ok(socket) => socket,
            Err(error) => {
                let fault = Fault::new(FaultCode::Io, format!("listen: {error}"));
                // Without a socket there is nothing to do, whether or not anybody hears it.
                let _ = events.send(Event::Fault(fault)).await;
                return;
            }
        };
        let mut routers = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = events.closed() => return,
                Some(ended) = routers.next(), if !routers.is_empty() => {
                    if matches!(ended, Err(Gone)) {
                        return;
                    }
                }
                accepted = socket.accept() => match accepted {
                    Ok((_, from)) if routers.len() >= self.config.routers => {
                        let text = format!("{from} is turned away: there are {} routers", routers.len());
                        if events.send(Event::Fault(Fault::new(FaultCode::Limit, text))).await.is_err() {
                            return;
                        }
                    }
                    Ok((stream, from)) => routers.push(self.router(stream, from, events)),
                    Err(error) => {
                        let fault = Fault::new(FaultCode::Io, format!("accept: {error}"));
                        if events.send(Event::Fault(fault)).await.is_err() {
                            return;
                        }
                        sleep(PAUSE).await;
                    }
                },
            }
        }
    }

    /// Serves one router until it leaves or sends what cannot be read.
    async fn router(
        &self,
        mut stream: TcpStream,
        from: SocketAddr,
        events: &Sender<Event>,
    ) -> Result<(), Gone> {
        let mut decoder = Decoder::new(from.ip().to_canonical());
        let mut received = BytesMut::with_capacity(BUFFER);
        let reason = self.follow(&mut stream, &mut decoder, &mut received, events).await?;
        let session = Session {
            collector: Arc::clone(decoder.collector()),
            peer: None,
            state: SessionState::Down(reason),
            time: Timestamp::now(),
        };
        events.send(Event::Session(session)).await.map_err(|_| Gone)
    }

    /// Gives why the connection ended.
    async fn follow(
        &self,
        stream: &mut TcpStream,
        decoder: &mut Decoder,
        received: &mut BytesMut,
        events: &Sender<Event>,
    ) -> Result<String, Gone> {
        let mut out = Vec::new();
        let mut is_first = true;
        loop {
            let message = match split(received) {
                Ok(Some(message)) => message,
                Ok(None) => {
                    let read = stream.read_buf(received);
                    let read = if is_first {
                        match timeout(FIRST, read).await {
                            Ok(read) => read,
                            Err(_) => return Ok("it says nothing".to_owned()),
                        }
                    } else {
                        read.await
                    };
                    match read {
                        Ok(0) if received.is_empty() => return Ok("closed by the router".to_owned()),
                        Ok(0) => {
                            let text = format!("{} ends within a message", decoder.collector());
                            let fault = Fault::new(FaultCode::Cut, text);
                            events.send(Event::Fault(fault)).await.map_err(|_| Gone)?;
                            return Ok("closed within a message".to_owned());
                        }
                        Ok(_) => continue,
                        Err(error) => return Ok(error.to_string()),
                    }
                }
                Err(fault) => {
                    let reason = fault.to_string();
                    events.send(Event::Fault(fault)).await.map_err(|_| Gone)?;
                    return Ok(reason);
                }
            };
            is_first = false;
            if let Err(fault) = decoder.read(&message, Timestamp::now(), &self.config.filter, &mut out) {
                let text = format!("{}: {}", decoder.collector(), fault.text);
                out.push(Event::Fault(Fault::new(fault.code, text)));
            }
            for event in out.drain(..) {
                events.send(event).await.map_err(|_| Gone)?;
            }
        }
    }
}
