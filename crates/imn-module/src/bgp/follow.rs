//! A source that is followed on a thread of its own, which ends when nobody listens any more.

use std::{io, thread::JoinHandle};

use imn_contract::{
    ErrorCode, Fault,
    latest::{BgpSession, BgpUpdate},
};
use imn_probe::bgp::{self as engine, Event, Filter, Match, bmp, mrt, ris};
use ipnet::IpNet;
use tokio::{runtime::Builder, sync::mpsc};

use super::BgpSource;
use crate::convert;

/// Events that wait; a source that finds no room is slowed down.
const WAITING: usize = 256;
/// Updates of a file handed over together.
const TOGETHER: usize = 512;

/// What is heard from a source.
#[derive(Clone, Debug)]
pub enum BgpNews {
    /// Updates, in the order in which they were received.
    Updates(Vec<BgpUpdate>),
    /// A session came or went.
    Session(BgpSession),
    /// Something could not be read: its code, and what in words.
    Fault(String, String),
    /// A file was read to its end: its records.
    End(u64),
}

/// A source being followed. Dropping it ends that.
pub struct BgpFollow(Following);

/// The same, as the engine tells it.
pub(crate) struct Following {
    pub(crate) events: mpsc::Receiver<Heard>,
    /// Of a live source, whose thread ends at once. One that reads a file may wait for a web server, by its deadline.
    thread: Option<JoinHandle<()>>,
}

/// As the engine says it.
pub(crate) enum Heard {
    Event(Event),
    /// The end of a file.
    End(mrt::Counts),
}

impl BgpFollow {
    /// Begins to follow; what is heard is filtered by the prefixes, with those within them, or not at all if there
    /// are none.
    ///
    /// # Errors
    /// A fault when a file cannot be opened, or an address not be listened on.
    pub fn start(source: &BgpSource, prefixes: &[IpNet]) -> Result<Self, Fault> {
        let filter = Filter::new(prefixes.iter().map(|prefix| (*prefix, Match::MoreSpecific)));
        follow(source, filter).map(Self)
    }

    /// The next news; `None` when there is nothing more to come. Cancel-safe.
    pub async fn next(&mut self) -> Option<BgpNews> {
        loop {
            return Some(match self.0.events.recv().await? {
                Heard::Event(Event::Updates(updates)) => {
                    BgpNews::Updates(updates.iter().map(convert::bgp::update).collect())
                }
                Heard::Event(Event::Session(session)) => match session.state {
                    engine::SessionState::Routes { .. } => continue,
                    _ => BgpNews::Session(convert::bgp::session(&session)),
                },
                Heard::Event(Event::Fault(fault)) => {
                    BgpNews::Fault(fault.code.as_str().to_owned(), fault.to_string())
                }
                Heard::End(counts) => BgpNews::End(counts.records),
            });
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.events.close();
        // Whoever waits for room must see that there is none to come.
        while self.events.try_recv().is_ok() {}
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Begins to follow on a new thread. A URL is asked for here, which blocks.
pub(crate) fn follow(source: &BgpSource, filter: Filter) -> Result<Following, Fault> {
    let (sender, events) = mpsc::channel(WAITING);
    let named = std::thread::Builder::new().name("imn-bgp".to_owned());
    let thread = match source {
        BgpSource::Mrt(source) => {
            let input = engine::open(source)
                .map_err(|error| Fault::new(ErrorCode::Unavailable, error.to_string()).at("params.source"))?;
            let reader = mrt::Reader::new(input, &source.name());
            named.spawn(move || read(reader, &filter, &sender)).map(|_| None)
        }
        BgpSource::RisLive(url) => {
            let client = ris::Client::new(ris::Config::new((**url).clone(), filter));
            named.spawn(move || live(sender, async |events| client.run(events).await)).map(Some)
        }
        BgpSource::Bmp(listen) => {
            let bound = bmp::Listener::bind(bmp::Config::new(*listen, filter));
            let listener = bound.map_err(|error| {
                Fault::new(ErrorCode::Unavailable, format!("listen on {listen}: {error}")).at("params.source")
            })?;
            named.spawn(move || live(sender, async |events| listener.run(events).await)).map(Some)
        }
    };
    let no_thread = |error| Fault::new(ErrorCode::Unavailable, format!("start thread: {error}"));
    Ok(Following { events, thread: thread.map_err(|error: io::Error| no_thread(error))? })
}

/// Runs a live source on this thread.
fn live(sender: mpsc::Sender<Heard>, source: impl AsyncFnOnce(&mpsc::Sender<Event>)) {
    match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(pass(sender, source)),
        // Whoever listens sees that the source has ended.
        Err(error) => tracing::error!(%error, "no runtime for a bgp source"),
    }
}

/// Runs a live source, and passes on what it tells.
async fn pass(sender: mpsc::Sender<Heard>, source: impl AsyncFnOnce(&mpsc::Sender<Event>)) {
    let (events, mut told) = mpsc::channel(WAITING);
    let pass_on = async {
        while let Some(event) = told.recv().await {
            if sender.send(Heard::Event(event)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = source(&events) => {}
        () = pass_on => {}
        () = sender.closed() => {}
    }
}

/// Reads a file to its end, or until nobody listens.
fn read(mut reader: mrt::Reader<Box<dyn io::Read + Send>>, filter: &Filter, sender: &mpsc::Sender<Heard>) {
    let mut updates = Vec::new();
    let tell = |event| sender.blocking_send(Heard::Event(event)).is_ok();
    while let Some(read) = reader.read(filter, &mut updates) {
        if (updates.len() >= TOGETHER || read.is_err())
            && !updates.is_empty()
            && !tell(Event::Updates(std::mem::take(&mut updates)))
        {
            return;
        }
        if let Err(fault) = read
            && !tell(Event::Fault(fault))
        {
            return;
        }
        if sender.is_closed() {
            return;
        }
    }
    if !updates.is_empty() && !tell(Event::Updates(updates)) {
        return;
    }
    // Nobody listens: nobody misses it.
    let _ = sender.blocking_send(Heard::End(reader.counts()));
}
