//! `bgp`: updates of a prefix, from a file as a job, from a live source as a job or all the time.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use imn_contract::{
    Fault,
    latest::{Assignment, BgpOutcome, ProgressKind, Round, Typed},
};
use imn_probe::bgp::{Event, Filter};
use imn_runtime::clock;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::{
    Addressing,
    bgp::{BgpParams, BgpSource, BgpSpec, Feeds, Heard, Tally, Window, follow},
    flight::{Found, Measure, Signs},
    module,
};

/// How often a job tells how far it is.
const TELL: Duration = Duration::from_millis(250);
/// A window that no round asks for so long belongs to a target that is gone.
const FORGOTTEN: Duration = Duration::from_hours(48);

#[derive(Default)]
pub(super) struct Bgp {
    feeds: Feeds,
    /// Standing windows, and when each was last asked for.
    windows: Mutex<HashMap<BgpSpec, (Arc<Window>, Instant)>>,
}

#[async_trait]
impl Measure for Bgp {
    type Spec = (BgpSpec, bool);
    type Outcome = BgpOutcome;

    fn kind(&self) -> &'static str {
        "bgp"
    }

    fn params_schema(&self) -> Value {
        module::schema::<BgpParams>()
    }

    fn spec(&self, target: &str, params: &Map<String, Value>) -> Result<(Self::Spec, Addressing), Fault> {
        Ok(((BgpSpec::read(target, params)?, false), Addressing::Opaque))
    }

    fn plan(&self, assignment: &Assignment) -> Result<(Self::Spec, Addressing), Fault> {
        let spec = BgpSpec::read(&assignment.address, &assignment.params)?;
        if matches!(spec.source, BgpSource::Mrt(_)) {
            return Err(Fault::invalid(
                "params.source",
                "a file is read by a job; standing work follows a live source",
            ));
        }
        // From now on, so that the first round knows what happened before it.
        self.window(&spec)?;
        Ok(((spec, true), Addressing::Opaque))
    }

    fn unmeasured(&self, (spec, _): &Self::Spec, error: String) -> BgpOutcome {
        BgpOutcome { source: spec.source.to_string(), ..BgpOutcome::unmeasured(&spec.target, 0, error) }
    }

    async fn measure(
        &self,
        (spec, is_standing): &Self::Spec,
        _: Option<IpAddr>,
        _: Instant,
        signs: &Signs,
    ) -> Found<BgpOutcome> {
        let done = if *is_standing {
            self.window(spec).map(|window| window.take())
        } else if matches!(spec.source, BgpSource::Mrt(_)) {
            read(spec, signs).await
        } else {
            self.watch(spec, signs).await
        };
        let outcome =
            done.unwrap_or_else(|fault| self.unmeasured(&(spec.clone(), *is_standing), fault.message));
        Found { round: round(&outcome), outcome }
    }
}

impl Bgp {
    /// The standing window of a spec.
    fn window(&self, spec: &BgpSpec) -> Result<Arc<Window>, Fault> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        windows.retain(|_, (_, asked)| now.duration_since(*asked) < FORGOTTEN);
        if let Some((window, asked)) = windows.get_mut(spec) {
            *asked = now;
            return Ok(Arc::clone(window));
        }
        let window = Arc::new(self.feeds.open(spec)?);
        windows.insert(spec.clone(), (Arc::clone(&window), now));
        Ok(window)
    }

    /// Follows a live source for a time.
    async fn watch(&self, spec: &BgpSpec, signs: &Signs) -> Result<BgpOutcome, Fault> {
        let window = self.feeds.open(spec)?;
        let end = Instant::now() + spec.duration;
        let mut told = 0;
        while Instant::now() < end {
            tokio::time::sleep_until(end.min(Instant::now() + TELL)).await;
            let seen = window.seen();
            if seen != told {
                told = seen;
                progress(signs, None, seen);
            }
        }
        Ok(window.take())
    }
}

/// Reads a file to its end, on a thread of its own that ends with this future.
async fn read(spec: &BgpSpec, signs: &Signs) -> Result<BgpOutcome, Fault> {
    let (source, filter) = (spec.source.clone(), Filter::new([(spec.prefix, spec.how)]));
    // Opening a URL blocks.
    let opened = tokio::task::spawn_blocking(move || follow(&source, filter)).await;
    let mut following =
        opened.map_err(|error| Fault::new(imn_contract::ErrorCode::Unavailable, error.to_string()))??;
    let mut tally = Tally::new(spec.carried);
    let mut next = Instant::now() + TELL;
    while let Some(heard) = following.events.recv().await {
        match heard {
            Heard::Event(Event::Updates(updates)) => updates.iter().for_each(|update| tally.update(update)),
            Heard::Event(Event::Session(session)) => tally.session(&session),
            Heard::Event(Event::Fault(fault)) => tally.fault(&fault),
            Heard::End(counts) => {
                tally.records = counts.records;
                progress(signs, Some(counts.records), tally.seen());
                break;
            }
        }
        if Instant::now() >= next {
            next = Instant::now() + TELL;
            progress(signs, None, tally.seen());
        }
    }
    Ok(tally.finish(spec, 0, 0, None))
}

fn progress(signs: &Signs, records: Option<u64>, updates: u64) {
    let mut detail = Map::new();
    let read = records.map(|records| format!("{records} records, ")).unwrap_or_default();
    detail.insert("text".to_owned(), json!(format!("{read}{updates} updates")));
    detail.insert("updates".to_owned(), json!(updates));
    if let Some(records) = records {
        detail.insert("records".to_owned(), json!(records));
    }
    signs.tell(ProgressKind::Text, detail);
}

/// The headline. What was asked is one question, of the source; without it nothing is known of the prefix.
fn round(outcome: &BgpOutcome) -> Round {
    let head = outcome.head();
    Round {
        address: outcome.target.as_str().into(),
        time_us: clock::now_us(),
        sent: head.sent,
        received: head.received,
        unknown: head.unknown,
        success: head.success,
        error: outcome.error.clone(),
        error_ns: (outcome.error_us * 1e3) as u64,
        ..Round::default()
    }
}
