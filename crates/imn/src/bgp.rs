//! `imn bgp watch`: updates as they come, judged as the server judges them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufWriter, Stdout},
    time::Duration,
};

use anyhow::Result;
use imn_contract::{
    ErrorCode,
    latest::{BgpSession, BgpUpdate},
};
use imn_domain::bgp::{Finding, Policy, Update, Watch};
use imn_module::{BgpFollow, BgpNews, BgpSource};
use imn_runtime::{clock, task::Signals};
use imn_sink::format::update::{Mark, Writer};
use tokio::time::Instant;

use crate::{
    cli::{BgpVerb, WatchArgs},
    exit::{Code, Exit},
};

pub(crate) fn main(verb: BgpVerb) -> Result<Code> {
    let BgpVerb::Watch(args) = verb;
    let (flag, source) = source(&args)?;
    let follow = BgpFollow::start(&source, &args.prefixes).map_err(|fault| {
        // A file that cannot be read is a wrong value; an address may be had another time.
        let file = matches!(source, BgpSource::Mrt(_));
        let code = if file || fault.is(ErrorCode::Invalid) { Code::Usage } else { Code::Error };
        Exit::new(code, format!("{flag}: {}", fault.message))
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(watch(&args, follow))
}

/// The source, and the flag that names it.
fn source(args: &WatchArgs) -> Result<(&'static str, BgpSource)> {
    let (flag, text) = match (&args.source.mrt, &args.source.ris_live, args.source.bmp_listen) {
        (Some(file), _, _) => ("--mrt", format!("mrt:{file}")),
        (_, Some(url), _) => ("--ris-live", format!("ris-live:{url}")),
        (_, _, Some(address)) => return Ok(("--bmp-listen", BgpSource::Bmp(address))),
        _ => return Err(Exit::usage("name a source: --mrt, --ris-live or --bmp-listen").into()),
    };
    let source = text.parse().map_err(|error: String| Exit::usage(format!("{flag}: {error}")))?;
    Ok((flag, source))
}

async fn watch(args: &WatchArgs, mut follow: BgpFollow) -> Result<Code> {
    let mut signals = Signals::listen()?;
    let mut show = Show::new(args);
    let end = args.span.map(|span| Instant::now() + span);
    let interrupted = loop {
        let news = tokio::select! {
            biased;
            _ = signals.next() => break true,
            () = until(end) => break false,
            news = follow.next() => news,
        };
        let Some(news) = news else { break false };
        if !show.take(news)? {
            break false;
        }
    };
    // The thread that follows the source must not wait for us.
    drop(follow);
    show.finish()?;
    Ok(if interrupted && end.is_none() { Code::Interrupted } else { show.code })
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

struct Show {
    writer: Option<Writer<BufWriter<Stdout>>>,
    watches: Vec<Watch>,
    left: Option<u64>,
    faults: BTreeMap<String, u64>,
    code: Code,
    /// Whether the source was ever reached, once it is known.
    reached: Option<bool>,
}

impl Show {
    fn new(args: &WatchArgs) -> Self {
        let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        let policy = Policy {
            origins: args.origins.iter().copied().collect::<BTreeSet<_>>(),
            learn_us: micros(args.learn),
            ..Policy::default()
        };
        Self {
            writer: Some(Writer::new(BufWriter::new(io::stdout()), args.output.unwrap_or_default())),
            watches: args.prefixes.iter().map(|prefix| Watch::new(*prefix, policy.clone())).collect(),
            left: args.count,
            faults: BTreeMap::new(),
            code: Code::Ok,
            reached: None,
        }
    }

    /// Shows news; whether more is wanted.
    fn take(&mut self, news: BgpNews) -> Result<bool> {
        let Some(writer) = &mut self.writer else { return Ok(false) };
        match news {
            BgpNews::Updates(updates) => {
                for update in updates {
                    let marks = judge(&mut self.watches, &update);
                    writer.update(&update, &marks)?;
                    if let Some(left) = &mut self.left {
                        *left -= 1;
                        if *left == 0 {
                            return Ok(false);
                        }
                    }
                }
                writer.flush()?;
            }
            BgpNews::Session(session) => {
                tell(&session);
                if session.peer_address.is_none() {
                    self.reached = Some(session.up || self.reached == Some(true));
                }
                let marks = lose(&mut self.watches, &session);
                writer.marks(&session.timestamp, &marks)?;
                writer.flush()?;
            }
            BgpNews::Fault(code, text) => {
                let count = self.faults.entry(code).or_default();
                *count += 1;
                // The first of a kind in words, all of them counted at the end.
                if *count == 1 {
                    eprintln!("fault: {text}");
                }
                self.code = Code::Partial;
            }
            BgpNews::End(records) => {
                tracing::debug!(records, "end of the file");
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            writer.finish()?;
        }
        if self.reached == Some(false) {
            eprintln!("the source was never reached");
            self.code = Code::Partial;
        }
        if !self.faults.is_empty() {
            let each: Vec<String> =
                self.faults.iter().map(|(code, count)| format!("{code} {count}")).collect();
            eprintln!("not everything could be read: {}", each.join(", "));
        }
        Ok(())
    }
}

fn judge(watches: &mut [Watch], update: &BgpUpdate) -> Vec<Mark> {
    let Ok(time_us) = clock::parse_rfc3339(&update.timestamp) else { return Vec::new() };
    let Some(update) = Update::read(update, time_us) else { return Vec::new() };
    watches.iter_mut().flat_map(|watch| watch.observe(&update)).map(|finding| mark(&finding)).collect()
}

fn lose(watches: &mut [Watch], session: &BgpSession) -> Vec<Mark> {
    let peer = session.peer_address.as_deref().and_then(|address| address.parse().ok());
    if peer.is_none() && session.up {
        return Vec::new();
    }
    let time_us = clock::parse_rfc3339(&session.timestamp).unwrap_or_default();
    let lost = watches.iter_mut().flat_map(|watch| watch.lose(&session.collector, peer, time_us));
    lost.map(|finding| mark(&finding)).collect()
}

fn mark(finding: &Finding) -> Mark {
    let severity = serde_json::to_value(finding.severity).unwrap_or_default();
    Mark {
        kind: finding.kind.as_str(),
        state: finding.state.as_str(),
        severity: severity.as_str().unwrap_or_default().to_owned(),
        prefix: finding.prefix.to_string(),
        origin_asn: finding.origin,
        expected_origins: finding.expected.clone(),
        peers: finding.evidence.peer_count,
        text: finding.text(),
    }
}

fn tell(session: &BgpSession) {
    let peer = session.peer_address.as_ref().map(|peer| format!(" peer {peer}")).unwrap_or_default();
    let reason = session.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let state = if session.up { "up" } else { "down" };
    let clean =
        |text: String| text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>();
    eprintln!("{}", clean(format!("{}{peer} {state}{reason}", session.collector)));
}
