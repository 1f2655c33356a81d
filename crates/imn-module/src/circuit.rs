//! Circuits: a target over which job after job ends in a fault is left alone for a while.
//!
//! Loss, refusal and the like are measurements, not faults: a job that tells them has succeeded. What counts is that
//! the type could not do its work: it failed, panicked, or was not done within the deadline.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use imn_contract::{ErrorCode, Fault};

/// Faults in a row that open a circuit.
const FAULTS: u32 = 5;
/// How long it stays open; doubles each time that the trial after it ends in a fault too.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LAST_PAUSE: Duration = Duration::from_mins(5);
/// How soon somebody may ask again while the trial is under way.
const TRIAL: Duration = Duration::from_secs(1);
/// A job that is not done within its deadline counts if that was at least so long.
const PATIENCE: Duration = Duration::from_secs(5);
/// Targets that are remembered at most.
const MOST: usize = 10_000;

/// The circuits of one instance, by target.
#[derive(Debug, Default)]
pub(crate) struct Circuits {
    targets: HashMap<String, Circuit>,
}

#[derive(Debug)]
struct Circuit {
    faults: u32,
    pause: Duration,
    /// Until when it is open; from then on one job at a time is let through as a trial.
    until: Option<Instant>,
    trial: bool,
}

impl Circuits {
    /// Lets a job through, or says for how long none is.
    pub(crate) fn admit(&mut self, target: &str, now: Instant) -> Result<(), Fault> {
        let Some(circuit) = self.targets.get_mut(target) else { return Ok(()) };
        let Some(until) = circuit.until else { return Ok(()) };
        let wait = if now < until {
            until - now
        } else if circuit.trial {
            TRIAL
        } else {
            circuit.trial = true;
            return Ok(());
        };
        let shown: String = target.chars().take(80).collect();
        let message = format!("{} jobs in a row ended in a fault over {shown:?}", circuit.faults);
        Err(Fault::new(ErrorCode::CircuitOpen, message).retry_after_ms(wait.as_millis().max(1) as u64))
    }

    /// Takes in how a job ended that `took` so long.
    pub(crate) fn ended(&mut self, target: &str, error: Option<&Fault>, took: Duration, now: Instant) {
        match error {
            None => drop(self.targets.remove(target)),
            Some(fault) if counts(fault, took) => self.fault(target, now),
            // It says nothing of the target; the next job is the trial.
            Some(_) => {
                if let Some(circuit) = self.targets.get_mut(target) {
                    circuit.trial = false;
                }
            }
        }
    }

    /// Circuits that let nothing through, or a trial only. One that nobody has asked for long after its pause is
    /// forgotten.
    pub(crate) fn open(&self, now: Instant) -> u32 {
        self.targets.values().filter(|circuit| circuit.is_open(now)).count() as u32
    }

    fn fault(&mut self, target: &str, now: Instant) {
        if !self.targets.contains_key(target) && self.targets.len() >= MOST {
            self.targets.retain(|_, circuit| circuit.is_open(now));
            if self.targets.len() >= MOST {
                return;
            }
        }
        let closed = Circuit { faults: 0, pause: FIRST_PAUSE, until: None, trial: false };
        let circuit = self.targets.entry(target.to_owned()).or_insert(closed);
        circuit.faults = circuit.faults.saturating_add(1);
        // One that was let through before the circuit opened is not the trial.
        let over = circuit.until.is_some_and(|until| now >= until);
        if over && std::mem::take(&mut circuit.trial) {
            circuit.pause = (circuit.pause * 2).min(LAST_PAUSE);
            circuit.until = Some(now + circuit.pause);
        } else if circuit.faults >= FAULTS && circuit.until.is_none() {
            circuit.until = Some(now + circuit.pause);
        }
    }
}

impl Circuit {
    fn is_open(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until + LAST_PAUSE)
    }
}

/// Whether a fault is one of the work, and not of what was asked for, of somebody's change of mind, or of a deadline that
/// left no time.
fn counts(fault: &Fault, took: Duration) -> bool {
    fault.code >= 500 && (!fault.is(ErrorCode::Deadline) || took >= PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "192.0.2.1";

    fn failed() -> Fault {
        Fault::new(ErrorCode::ModuleCrashed, "the job panicked")
    }

    #[test]
    fn faults_in_a_row_open_it_and_a_trial_closes_it() {
        let (mut circuits, start) = (Circuits::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        for _ in 1..FAULTS {
            circuits.admit(TARGET, start).unwrap();
            circuits.ended(TARGET, Some(&failed()), Duration::ZERO, start);
        }
        // One success forgets them all.
        circuits.ended(TARGET, None, Duration::ZERO, start);
        for _ in 0..FAULTS {
            circuits.admit(TARGET, start).unwrap();
            circuits.ended(TARGET, Some(&failed()), Duration::ZERO, start);
        }
        let refused = circuits.admit(TARGET, at(4)).unwrap_err();
        assert_eq!((refused.code, refused.retryable, refused.retry_after_ms), (425, true, Some(6_000)));
        circuits.admit("192.0.2.2", at(4)).unwrap();
        assert_eq!((circuits.open(at(4)), circuits.open(at(1_000))), (1, 0));

        // One job is tried; it fails, and the pause doubles.
        circuits.admit(TARGET, at(10)).unwrap();
        assert_eq!(circuits.admit(TARGET, at(10)).unwrap_err().retry_after_ms, Some(1_000));
        circuits.ended(TARGET, Some(&failed()), Duration::ZERO, at(10));
        assert_eq!(circuits.admit(TARGET, at(11)).unwrap_err().retry_after_ms, Some(19_000));
        // One that is cancelled says nothing: the next is the trial.
        circuits.admit(TARGET, at(30)).unwrap();
        circuits.ended(TARGET, Some(&Fault::new(ErrorCode::Cancelled, "stopped")), Duration::ZERO, at(30));
        circuits.admit(TARGET, at(30)).unwrap();
        circuits.ended(TARGET, None, Duration::ZERO, at(31));
        circuits.admit(TARGET, at(31)).unwrap();
        assert_eq!(circuits.open(at(31)), 0);
    }

    #[test]
    fn what_was_asked_wrongly_opens_nothing_and_memory_is_bounded() {
        let (mut circuits, now) = (Circuits::default(), Instant::now());
        for _ in 0..2 * FAULTS {
            circuits.ended(TARGET, Some(&Fault::invalid("params.count", "at least 1")), Duration::ZERO, now);
        }
        let late = Fault::new(ErrorCode::Deadline, "not done within 1 ms");
        for _ in 0..2 * FAULTS {
            circuits.ended(TARGET, Some(&late), Duration::from_millis(1), now);
        }
        circuits.admit(TARGET, now).unwrap();
        for number in 0..2 * MOST {
            circuits.ended(&format!("t{number}"), Some(&failed()), Duration::ZERO, now);
        }
        assert!(circuits.targets.len() <= MOST);
    }
}
