//! Whether a target that answers nothing is asked under a fresh identifier as well.
//!
//! Echo requests to a target keep their identifier, so that routers send them all one way. When none is answered, it
//! may be that way, or a translator's stale state, and not the target: one more request, under another identifier
//! and counted apart, tells.

use std::{collections::HashMap, net::IpAddr};

use imn_contract::latest::Round;
use serde_json::json;

/// Identifiers that an engine has besides the usual one.
const FRESH: u8 = 15;
/// Of the rounds in a row without an answer beyond those that are each confirmed, one in so many is.
const NOW_AND_THEN: u32 = 8;
/// Marks the keys of confirmations; those of rounds are far below.
const MARK: u64 = 1 << 63;

/// Silent targets that are remembered at most: beyond it all are forgotten, which costs each a few confirmations.
const MOST: usize = 262_144;

/// The targets that answer nothing.
#[derive(Debug, Default)]
pub(super) struct Confirm {
    silent: HashMap<IpAddr, Silent>,
    /// Rounds in flight that have a confirmation, by their keys.
    open: HashMap<u64, Open>,
}

#[derive(Debug, Default)]
struct Silent {
    rounds: u32,
    flow: u8,
    /// The last confirmation was answered.
    elsewhere: bool,
}

#[derive(Debug)]
struct Open {
    target: IpAddr,
    answered: Option<bool>,
    /// The round without an answer that waits for its confirmation.
    round: Option<Round>,
}

impl Confirm {
    /// Key and flow of a confirmation to send with a round, if there is to be one: of `each` silent rounds in a row, and
    /// then now and then.
    pub(super) fn begin(&mut self, key: u64, target: IpAddr, each: u8) -> Option<(u64, u8)> {
        let silent = self.silent.get_mut(&target)?;
        let wanted = each > 0
            && (silent.elsewhere
                || silent.rounds <= u32::from(each)
                || silent.rounds.is_multiple_of(NOW_AND_THEN));
        wanted.then(|| {
            silent.flow = silent.flow % FRESH + 1;
            self.open.insert(key, Open { target, answered: None, round: None });
            (key | MARK, silent.flow)
        })
    }

    /// The round was not taken after all.
    pub(super) fn forget(&mut self, key: u64) {
        self.open.remove(&key);
    }

    /// Whether a key is that of a confirmation.
    pub(super) fn is_confirmation(key: u64) -> bool {
        key & MARK != 0
    }

    /// Takes in the end of a confirmation; gives back its round if that has waited for it.
    pub(super) fn confirmed(&mut self, key: u64, answered: bool) -> Option<(u64, Round)> {
        let key = key & !MARK;
        let open = self.open.get_mut(&key)?;
        open.answered = Some(answered);
        let target = open.target;
        if let Some(silent) = self.silent.get_mut(&target) {
            silent.elsewhere = answered;
        }
        let round = open.round.take()?;
        self.open.remove(&key);
        Some((key, settled(round, answered)))
    }

    /// Takes in the end of a round; gives it back unless it waits for its confirmation. `silent`: every packet was
    /// lost, and nothing else is known of the target.
    pub(super) fn ended(&mut self, key: u64, target: IpAddr, silent: bool, round: Round) -> Option<Round> {
        if silent {
            if self.silent.len() >= MOST {
                self.silent.clear();
            }
            self.silent.entry(target).or_default().rounds += 1;
        } else if round.received > 0 {
            self.silent.remove(&target);
        }
        if !silent {
            self.open.remove(&key);
            return Some(round);
        }
        match self.open.get_mut(&key) {
            None => Some(round),
            Some(Open { answered: Some(answered), .. }) => {
                let answered = *answered;
                self.open.remove(&key);
                Some(settled(round, answered))
            }
            Some(open) => {
                open.round = Some(round);
                None
            }
        }
    }
}

/// A round without an answer, given what its confirmation brought: one that was answered says that the target is up.
fn settled(mut round: Round, answered: bool) -> Round {
    round.outcome = Some(json!({ "confirm_sent": 1, "confirm_received": u32::from(answered) }).to_string());
    if answered {
        round.success = true;
        round.error = Some(
            "no answer within tmax, but one under a fresh identifier: stale state or one bad path among several"
                .to_owned(),
        );
    }
    round
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn silent(confirm: &mut Confirm, key: u64) -> Option<Round> {
        confirm.ended(key, TARGET, true, Round { sent: 1, ..Round::default() })
    }

    #[test]
    fn a_fresh_identifier_tells_a_bad_path_from_an_outage() {
        let mut confirm = Confirm::default();
        assert_eq!(confirm.begin(1, TARGET, 3), None, "nothing is wrong yet");
        assert!(silent(&mut confirm, 1).is_some(), "told at once: it has no confirmation");
        // Answered elsewhere, in either order of arrival.
        let (key, flow) = confirm.begin(2, TARGET, 3).unwrap();
        assert!(Confirm::is_confirmation(key) && flow != 0);
        assert_eq!(silent(&mut confirm, 2), None, "it waits");
        let (key, round) = confirm.confirmed(key, true).unwrap();
        assert!(key == 2 && round.success && round.received == 0, "the loss stays what it is");
        let (key, next) = confirm.begin(3, TARGET, 3).unwrap();
        assert_ne!(next, flow, "each is fresh");
        assert_eq!(confirm.confirmed(key, false), None);
        let round = silent(&mut confirm, 3).unwrap();
        assert!(!round.success && round.outcome.unwrap().contains("\"confirm_received\":0"));
        // An answer ends it.
        let (key, _) = confirm.begin(4, TARGET, 3).unwrap();
        let answered = Round { sent: 1, received: 1, success: true, ..Round::default() };
        assert_eq!(confirm.ended(4, TARGET, false, answered.clone()), Some(answered));
        assert_eq!(confirm.confirmed(key, true), None);
        assert_eq!(confirm.begin(5, TARGET, 3), None);
        assert!(confirm.open.is_empty() && confirm.silent.is_empty());
    }

    #[test]
    fn what_stays_down_costs_little_more() {
        let mut confirm = Confirm::default();
        silent(&mut confirm, 0);
        let mut asked = 0;
        for key in 1..=80 {
            if let Some((confirmation, _)) = confirm.begin(key, TARGET, 3) {
                asked += 1;
                confirm.confirmed(confirmation, false);
            }
            silent(&mut confirm, key).unwrap();
        }
        assert_eq!(asked, 3 + 10);
        assert!(confirm.open.is_empty());
    }
}
