//! What loss at a hop means.

use imn_metric::Counts;

/// A difference is believed when chance would make one as large less often than this.
const SIGNIFICANCE: f64 = 0.05;

/// What loss at a hop means for packets that are only forwarded there.
///
/// A probe that is lost on its way to hop *h*, or whose kind of packet is, would have been lost on its way to any
/// later hop too: forwarding loss persists, and so the loss ratio can only grow along a path. A router that answers
/// fewer probes than it forwards shows loss that its successors do not have. Hops are judged from the last that
/// answers backwards. A hop has *rate-limited* its answers if its loss exceeds that of the forwarding hops behind it
/// by more than chance explains: one-sided exact test of Fisher at 5 %, against those hops together, or against the
/// one with the least loss (then at 1 %, since the least of several is picked). Loss at the last hop that answers is
/// *forwarding* loss, and so is loss that is not refuted before a hop that has forwarding loss. Any other, of too few
/// probes to refute anything, is not judged, and is no evidence for the hops before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LossKind {
    /// Nothing was lost.
    None,
    /// Probes, or their answers, were lost on the way, as other packets are.
    Forwarding,
    /// The hop forwards what it does not answer.
    RateLimited,
}

/// Judges each hop of a path by the counts of all, first hop first. A hop that never answers while a later one does
/// is rate-limited; behind the last that answers nothing can be said.
pub fn judge_loss(hops: &[Counts]) -> Vec<Option<LossKind>> {
    let mut verdicts = vec![None; hops.len()];
    let Some(last) = hops.iter().rposition(|hop| hop.received > 0) else { return verdicts };
    let (mut behind, mut least, mut persists) = (Counts::default(), None::<Counts>, false);
    for index in (0..=last).rev() {
        let hop = hops[index];
        let verdict = if hop.lost() == 0 {
            (hop.received > 0).then_some(LossKind::None)
        } else if index == last {
            Some(LossKind::Forwarding)
        } else if exceeds(hop, behind) < SIGNIFICANCE
            || least.is_some_and(|least| exceeds(hop, least) < SIGNIFICANCE / 5.0)
        {
            Some(LossKind::RateLimited)
        } else if hop.received == 0 {
            // Too few probes for the test, but what is behind answers through it.
            Some(LossKind::RateLimited)
        } else {
            persists.then_some(LossKind::Forwarding)
        };
        verdicts[index] = verdict;
        persists |= verdict == Some(LossKind::Forwarding);
        // What is not judged is no evidence for or against another.
        if matches!(verdict, Some(LossKind::None | LossKind::Forwarding)) {
            behind += hop;
            let less = |least: Counts| hop.loss_ratio() < least.loss_ratio();
            if least.is_none_or(less) {
                least = Some(hop);
            }
        }
    }
    verdicts
}

/// Probability of at least as many losses at `hop`, were its loss that of `behind`: Fisher's exact test, one-sided.
fn exceeds(hop: Counts, behind: Counts) -> f64 {
    let observed = |counts: Counts| counts.sent.saturating_sub(counts.unknown);
    let (drawn, other) = (observed(hop), observed(behind));
    let (all, lost) = (drawn + other, hop.lost() + behind.lost());
    if other == 0 {
        return 1.0;
    }
    let most = drawn.min(lost);
    let log =
        |x: u64| ln_choose(lost, x) + ln_choose(all - lost, drawn.saturating_sub(x)) - ln_choose(all, drawn);
    (hop.lost()..=most).map(|x| log(x).exp()).sum::<f64>().min(1.0)
}

fn ln_choose(n: u64, k: u64) -> f64 {
    if k > n {
        return f64::NEG_INFINITY;
    }
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// By Stirling's series; its error is below 1e-9 from ten on.
fn ln_factorial(n: u64) -> f64 {
    if n < 10 {
        return (2..=n).map(|factor| (factor as f64).ln()).sum();
    }
    let n = n as f64;
    n * n.ln() - n + (2.0 * std::f64::consts::PI * n).ln() / 2.0 + 1.0 / (12.0 * n)
        - 1.0 / (360.0 * n.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(hops: &[(u64, u64)]) -> Vec<Option<LossKind>> {
        let counts: Vec<Counts> =
            hops.iter().map(|&(sent, received)| Counts { sent, received, unknown: 0 }).collect();
        judge_loss(&counts)
    }

    #[test]
    fn fisher_is_exact() {
        // 3 of 10 against 0 of 30: C(10,3) / C(40,3).
        let p = exceeds(
            Counts { sent: 10, received: 7, unknown: 0 },
            Counts { sent: 30, received: 30, unknown: 0 },
        );
        assert!((p - 120.0 / 9880.0).abs() < 1e-9, "{p}");
        assert!((ln_factorial(20) - 2_432_902_008_176_640_000_f64.ln()).abs() < 1e-9);
    }

    #[test]
    fn loss_that_persists_is_forwarding_and_other_is_not() {
        use LossKind::{Forwarding, None as Whole, RateLimited};
        // A router in the middle answers seven of ten, one never answers, and all is well behind them.
        let verdicts = judge(&[(10, 10), (10, 7), (10, 0), (10, 10), (10, 10), (10, 10)]);
        let expected = [Whole, RateLimited, RateLimited, Whole, Whole, Whole].map(Some);
        assert_eq!(verdicts, expected);
        // A lossy link before the third hop.
        let verdicts = judge(&[(100, 100), (100, 100), (100, 81), (100, 79), (100, 84), (100, 80)]);
        assert_eq!(verdicts, [Whole, Whole, Forwarding, Forwarding, Forwarding, Forwarding].map(Some));
        // Both at once: the second hop answers half, and a tenth is lost from the third on.
        let verdicts = judge(&[(100, 100), (100, 50), (100, 91), (100, 90), (100, 88)]);
        assert_eq!(verdicts, [Whole, RateLimited, Forwarding, Forwarding, Forwarding].map(Some));
        // One of ten, and nothing behind: nobody can tell. A silent hop is told from one probe.
        assert_eq!(judge(&[(10, 9), (10, 10)]), [None, Some(Whole)]);
        assert_eq!(judge(&[(1, 0), (1, 1)]), [Some(RateLimited), Some(Whole)]);
        assert_eq!(judge(&[(3, 0), (3, 3), (3, 1)]), [RateLimited, Whole, Forwarding].map(Some));
        // What cannot be judged at one hop proves nothing of those before it.
        assert_eq!(judge(&[(3, 2), (3, 1), (3, 2), (3, 3)]), [None, None, None, Some(Whole)]);
        // Behind the last that answers nothing is known.
        assert_eq!(judge(&[(10, 10), (10, 9), (10, 0)]), [Some(Whole), Some(Forwarding), None]);
        assert_eq!(judge(&[(10, 0)]), [None]);
    }
}
