//! Which direction lost, doubled or reordered a packet: what the counters of a stateful reflector tell.

use std::collections::{BTreeMap, HashSet};

use imn_metric::Reordering;

use super::spec::Peer;

/// One direction of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Direction {
    /// Packets sent into it of which it is known whether they arrived. Backward: what the reflector answered, copies
    /// that the way forward had made included.
    pub sent: u32,
    /// Of them, those that did not arrive.
    pub lost: u32,
    /// Further copies that arrived. Forward: those whose answers arrived.
    pub duplicates: u32,
    /// Packets that arrived after one sent later (RFC 4737). Forward: of those whose answers arrived.
    pub reordered: u32,
}

/// Both directions of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Directions {
    /// From here to the reflector.
    pub forward: Direction,
    /// From the reflector to here.
    pub backward: Direction,
    /// Packets lost in one of the two directions, and nothing tells in which: those after the last answer, and, where
    /// the way forward doubles or reorders packets, those that a missing number may stand for or not.
    pub unattributed: u32,
}

/// An answer that arrived: the packet's sequence number and the reflector's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub sequence: u32,
    pub reflected: u32,
}

/// How many times further than was seen packets are taken to be overtaken at most.
const OVERTAKEN: u32 = 8;

/// Works out the directions from all answers in the order of their arrival, late ones and copies included, and from
/// the unanswered packets, in order; `sent` is the number of packets sent.
///
/// A stateful reflector counts its answers from 0 (RFC 8762 §4.3): a number that is missing was answered and lost on
/// the way back; a packet that is unanswered where no number is missing was lost on the way forth. `None` where this
/// cannot be told: the reflector is stateless, or not known to be otherwise, or its numbers contradict themselves.
pub(crate) fn attribute(
    peer: Peer,
    sent: u32,
    arrivals: &[Arrival],
    unanswered: &[u32],
) -> Option<Directions> {
    let counts = arrivals.iter().any(|arrival| arrival.reflected != arrival.sequence);
    let stateful = peer == Peer::Stateful || (peer == Peer::Auto && counts);
    if !stateful {
        // All came back: whoever counts, nothing was lost.
        return (unanswered.is_empty() && sent > 0).then(|| {
            let direction = Direction { sent, ..Direction::default() };
            Directions { forward: direction, backward: direction, unattributed: 0 }
        });
    }
    let mut by_count = BTreeMap::new();
    let mut backward = Direction::default();
    let mut order = Reordering::new();
    for arrival in arrivals {
        match by_count.insert(arrival.reflected, arrival.sequence) {
            // Two packets under one number: the reflector began anew, or counts something else.
            Some(other) if other != arrival.sequence => return None,
            Some(_) => backward.duplicates += 1,
            None => {
                order.arrive(arrival.reflected.into());
            }
        }
    }
    backward.reordered = order.count() as u32;
    let (first, last) = (*by_count.first_key_value()?.0, *by_count.last_key_value()?.0);
    let mut forward = Direction::default();
    let (mut seen, mut order) = (HashSet::new(), Reordering::new());
    // The latest packet that arrived there, and by how many others packets were overtaken at most.
    let (mut latest, mut extent) = (0, 0);
    for sequence in by_count.values() {
        if seen.insert(*sequence) {
            order.arrive(u64::from(*sequence));
            latest = latest.max(*sequence);
            extent = extent.max(latest - sequence);
        } else {
            forward.duplicates += 1;
        }
    }
    forward.reordered = order.count() as u32;

    // More numbers than packets, copies included, belong to no session of this size.
    let most = sent.saturating_mul(2);
    let lead = by_count[&first];
    let begin = match first.saturating_sub(lead) {
        0 => 0,
        // Copies and overtaking may explain it, or an earlier session: not to be told apart.
        1.. if first <= most => return None,
        // The reflector counts on from an earlier session.
        _ => first,
    };
    if last - begin > most {
        return None;
    }
    let mut gaps = Gaps::new(unanswered);
    if begin > 0 {
        gaps.skip_to(lead);
    }
    let mut expected = begin;
    for (count, sequence) in &by_count {
        gaps.close(*sequence, count - expected);
        expected = count + 1;
    }
    backward.sent = last - begin + 1;
    backward.lost = backward.sent - by_count.len() as u32;
    // Where packets are overtaken, one may have arrived where a number is missing further on, or after the last. Of
    // those that were overtaken most, the answers may be the lost ones: hence the margin.
    let overtaken =
        gaps.forward().min(gaps.surplus + gaps.forward_from(latest.saturating_sub(OVERTAKEN * extent)));
    forward.lost = gaps.forward() - overtaken;
    // Where there are copies, a missing number may be that of one, and its neighbour lost on the way forward.
    let copied = if forward.duplicates > 0 { gaps.matched } else { 0 };
    let unattributed = gaps.skipped + overtaken + copied + gaps.rest();
    forward.sent = sent.checked_sub(unattributed)?;
    Some(Directions { forward, backward, unattributed })
}

/// Walks over the unanswered packets, from one answered packet to the next.
struct Gaps<'a> {
    unanswered: &'a [u32],
    /// Unanswered packets passed over before the first number of a session that began earlier.
    skipped: u32,
    /// Unanswered where as many numbers are missing.
    matched: u32,
    /// Unanswered where no number is missing: how many, and the last that it may be.
    forward: Vec<(u32, u32)>,
    /// Numbers missing where no packet is unanswered: answers to copies, or to packets that were overtaken.
    surplus: u32,
}

impl<'a> Gaps<'a> {
    fn new(unanswered: &'a [u32]) -> Self {
        Self { unanswered, skipped: 0, matched: 0, forward: Vec::new(), surplus: 0 }
    }

    fn skip_to(&mut self, sequence: u32) {
        self.skipped += self.take(sequence);
    }

    /// Up to an answered packet, before whose number so many are missing.
    fn close(&mut self, sequence: u32, missing: u32) {
        let silent = self.take(sequence);
        self.matched += silent.min(missing);
        self.surplus += missing.saturating_sub(silent);
        if silent > missing {
            self.forward.push((silent - missing, sequence - 1));
        }
    }

    /// Unanswered where no number is missing.
    fn forward(&self) -> u32 {
        self.forward.iter().map(|(count, _)| count).sum()
    }

    /// Of them, those that may be this packet or after it.
    fn forward_from(&self, sequence: u32) -> u32 {
        self.forward.iter().rev().take_while(|(_, last)| *last >= sequence).map(|(count, _)| count).sum()
    }

    fn rest(&self) -> u32 {
        self.unanswered.len() as u32
    }

    fn take(&mut self, before: u32) -> u32 {
        let count = self.unanswered.partition_point(|sequence| *sequence < before);
        self.unanswered = &self.unanswered[count..];
        count as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arrivals(pairs: &[(u32, u32)]) -> Vec<Arrival> {
        pairs.iter().map(|&(sequence, reflected)| Arrival { sequence, reflected }).collect()
    }

    #[test]
    fn losses_go_to_their_direction() {
        // Of 0..8: 1 was lost forth, 3 and 4 back, 7 is not known.
        let heard = arrivals(&[(0, 0), (2, 1), (5, 4), (6, 5)]);
        let found = attribute(Peer::Auto, 8, &heard, &[1, 3, 4, 7]).unwrap();
        assert_eq!((found.forward.sent, found.forward.lost), (7, 1));
        assert_eq!((found.backward.sent, found.backward.lost), (6, 2));
        assert_eq!(found.unattributed, 1);
    }

    #[test]
    fn nothing_is_claimed_of_a_stateless_or_confused_reflector() {
        let same = arrivals(&[(0, 0), (2, 2)]);
        assert_eq!(attribute(Peer::Auto, 3, &same, &[1]), None);
        assert_eq!(attribute(Peer::Stateless, 3, &same, &[1]), None);
        assert_eq!(attribute(Peer::Stateful, 3, &same, &[1]).unwrap().backward.lost, 1);
        assert_eq!(attribute(Peer::Auto, 2, &arrivals(&[(0, 0), (1, 1)]), &[]).unwrap().forward.lost, 0);
        // It was started again after the second packet.
        assert_eq!(attribute(Peer::Auto, 4, &arrivals(&[(0, 0), (1, 1), (2, 0), (3, 1)]), &[]), None);
        assert_eq!(attribute(Peer::Stateful, 3, &[], &[0, 1, 2]), None);
    }

    #[test]
    fn a_session_may_have_begun_earlier() {
        let heard = arrivals(&[(1, 1000), (2, 1001), (4, 1002), (6, 1004)]);
        let found = attribute(Peer::Auto, 7, &heard, &[0, 3, 5]).unwrap();
        assert_eq!((found.forward.lost, found.backward.lost, found.unattributed), (1, 1, 1));
    }

    /// What a path may do to a packet or an answer.
    #[derive(Debug, Clone, Copy)]
    struct Fate {
        lost: bool,
        twice: bool,
        held: u32,
    }

    fn fates(lossy: f64, copies: f64, holds: f64, count: usize) -> impl Strategy<Value = Vec<Fate>> {
        let fate = (prop::bool::weighted(lossy), prop::bool::weighted(copies), prop::bool::weighted(holds))
            .prop_map(|(lost, twice, held)| Fate { lost, twice, held: if held { 3 } else { 0 } });
        prop::collection::vec(fate, count)
    }

    /// Sends numbered packets through a direction: what arrives, in order, and how many were lost.
    fn through(packets: &[(u32, u32)], fates: &[Fate]) -> (Vec<(u32, u32)>, u32) {
        let mut moving = Vec::new();
        let mut lost = 0;
        for (at, packet) in packets.iter().enumerate() {
            let fate = fates[at % fates.len()];
            if fate.lost {
                lost += 1;
                continue;
            }
            for _ in 0..=u8::from(fate.twice) {
                moving.push((at as u32 + fate.held, moving.len(), *packet));
            }
        }
        moving.sort_unstable();
        (moving.into_iter().map(|(_, _, packet)| packet).collect(), lost)
    }

    fn session(forth: &[Fate], back: &[Fate]) -> (Option<Directions>, u32, u32, u32) {
        let packets: Vec<(u32, u32)> = (0..forth.len() as u32).map(|sequence| (sequence, 0)).collect();
        let (reached, forward_lost) = through(&packets, forth);
        let answers: Vec<(u32, u32)> =
            reached.iter().enumerate().map(|(count, packet)| (packet.0, count as u32)).collect();
        let (heard, backward_lost) = through(&answers, back);
        let unanswered: Vec<u32> = (0..forth.len() as u32)
            .filter(|sequence| heard.iter().all(|packet| packet.0 != *sequence))
            .collect();
        let sent = forth.len() as u32;
        let found = attribute(Peer::Stateful, sent, &arrivals(&heard), &unanswered);
        let after = answers.iter().rev().take_while(|answer| !heard.contains(answer)).count() as u32;
        (found, forward_lost, backward_lost, after)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn exact_in_order(forth in fates(0.1, 0.0, 0.0, 60), back in fates(0.1, 0.1, 0.1, 60)) {
            let (found, forward, backward, after) = session(&forth, &back);
            if let Some(found) = found {
                // What follows the last answer that was heard is told of no direction.
                prop_assert_eq!(found.backward.lost, backward - after);
                prop_assert_eq!(found.forward.lost + found.unattributed, forward + after);
                prop_assert!(found.forward.lost <= forward);
            }
        }

        #[test]
        fn never_a_wrong_claim(forth in fates(0.1, 0.1, 0.1, 60), back in fates(0.1, 0.1, 0.1, 60)) {
            let (found, forward, backward, after) = session(&forth, &back);
            // Of what was never seen to happen nobody can know that it did.
            let (copied, held) = (forth.iter().any(|fate| fate.twice), forth.iter().any(|fate| fate.held > 0));
            let seen = |found: &Directions| {
                (found.forward.duplicates > 0 || !copied) && (found.forward.reordered > 0 || !held)
            };
            if let Some(found) = found.filter(seen) {
                prop_assert_eq!(found.backward.lost, backward - after);
                prop_assert!(found.forward.lost <= forward, "{found:?} {forward}");
                prop_assert!(forward <= found.forward.lost + found.unattributed, "{found:?} {forward}");
            }
        }

        #[test]
        fn any_numbers(
            pairs in prop::collection::vec((0_u32..50, any::<u32>()), 0..30),
            small in prop::collection::vec((0_u32..50, 0_u32..60), 0..30),
            unanswered in prop::collection::btree_set(0_u32..50, 0..50),
        ) {
            let unanswered: Vec<u32> = unanswered.into_iter().collect();
            for pairs in [pairs, small] {
                let _ = attribute(Peer::Auto, 50, &arrivals(&pairs), &unanswered);
            }
        }
    }
}
