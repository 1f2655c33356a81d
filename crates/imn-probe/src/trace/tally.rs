//! What is known of a trace while it runs, put together of its events.

use std::net::IpAddr;
use std::time::Duration;

use crate::outcome::{Fate, Timestamp, nanos};

use super::config::Spec;
use super::outcome::{Event, Hop, Outcome, Path, Probe, Responder};
use super::socket::source_toward;
use super::verdict::judge_loss;

/// The hops of a trace so far.
#[derive(Debug, Clone)]
pub struct Tally {
    spec: Spec,
    source: Option<IpAddr>,
    hops: Vec<Hop>,
    end: Option<u8>,
}

impl Tally {
    /// Nothing is known yet.
    pub fn new(spec: &Spec) -> Self {
        let source = spec.source.or_else(|| source_toward(spec.target).ok());
        Self { spec: spec.clone(), source, hops: Vec::new(), end: None }
    }

    /// Takes an event of the trace.
    pub fn take(&mut self, event: &Event) {
        self.end = event.end;
        let first = self.spec.first_hop;
        let at = usize::from(event.ttl.saturating_sub(first));
        while self.hops.len() <= at {
            let ttl = first + self.hops.len() as u8;
            self.hops.push(Hop { ttl, probes: Vec::new(), responders: Vec::new(), loss: None });
        }
        let hop = &mut self.hops[at];
        let responder = event.from.map(|(address, answer)| {
            let known = hop.responders.iter().position(|responder| responder.address == address);
            known.unwrap_or_else(|| {
                hop.responders.push(Responder {
                    address,
                    answer,
                    ttl: None,
                    size: 0,
                    quoted_ttl: None,
                    extension: None,
                });
                hop.responders.len() - 1
            }) as u8
        });
        if let (Some(responder), Fate::Received { ttl, .. }) = (responder, event.probe.fate) {
            hop.responders[usize::from(responder)].ttl = ttl;
        }
        hop.probes.push(Probe { responder, ..event.probe });
    }

    /// What is known of the hop at this TTL.
    pub fn hop(&self, ttl: u8) -> Option<&Hop> {
        self.hops.get(usize::from(ttl.checked_sub(self.spec.first_hop)?))
    }

    /// All that is known, in the form of an outcome. Probes under way are not in it.
    pub fn outcome(&self) -> Outcome {
        let mut hops = self.hops.clone();
        if let Some(end) = self.end {
            hops.truncate(usize::from(end.saturating_sub(self.spec.first_hop)) + 1);
        }
        for hop in &mut hops {
            // Answers may overtake each other.
            hop.probes.sort_by_key(|probe| probe.cycle);
        }
        let counts: Vec<_> = hops.iter().map(Hop::counts).collect();
        for (hop, loss) in hops.iter_mut().zip(judge_loss(&counts)) {
            hop.loss = loss;
        }
        let target = self.spec.target;
        let last = hops.last().and_then(Hop::main);
        let sent =
            || hops.iter().flat_map(|hop| &hop.probes).filter(|probe| probe.sent > Timestamp::default());
        let started = sent().map(|probe| probe.sent).min();
        let settled = sent().map(|probe| {
            let until = probe.rtt().unwrap_or(self.spec.timeout);
            probe.sent.as_nanos().saturating_add(nanos(until))
        });
        let elapsed = settled.max().zip(started).map(|(end, start)| end.saturating_sub(start.as_nanos()));
        Outcome {
            source: self.source,
            reached: last.is_some_and(|node| node.address == target),
            started,
            elapsed: Duration::from_nanos(elapsed.unwrap_or_default()),
            // Those of many flows are told apart only when all of them are known.
            paths: if self.spec.multipath.is_none() {
                Path::single(&hops, self.spec.flow).into_iter().collect()
            } else {
                Vec::new()
            },
            hops,
            ..Outcome::nothing(&self.spec)
        }
    }
}

impl Outcome {
    /// The outcome of a trace that has not begun.
    fn nothing(spec: &Spec) -> Self {
        let Spec { key, target, protocol, due, timeout, .. } = *spec;
        Self {
            key,
            target,
            source: spec.source,
            protocol,
            due,
            started: None,
            elapsed: Duration::ZERO,
            hops: Vec::new(),
            reached: false,
            paths: Vec::new(),
            complete: false,
            tmax: timeout,
            beyond: 0,
            duplicates: 0,
            late: 0,
            wrong_source: 0,
            forged: 0,
            lateness: Duration::ZERO,
            error: None,
            errno: None,
            cancelled: false,
        }
    }
}
