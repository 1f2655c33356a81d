/// Nearest-rank percentile of delays sorted ascending: the smallest sample at or below which at least the
/// fraction `q` (0..=1) of all samples lies (RFC 2330 §11.3). `None` without samples.
pub fn percentile<T: Copy>(sorted: &[T], q: f64) -> Option<T> {
    percentile_with_loss(sorted, 0, q)
}

/// Nearest-rank percentile where every lost packet counts as an infinite delay (RFC 2681 §2.4, RFC 7679 §3.4).
///
/// `sorted` holds the received delays in ascending order, `lost` the number of packets without one; unknown
/// packets belong in neither. `q` is a fraction and is clamped to 0..=1. `None` when the rank falls on a lost
/// packet, which is infinity, or when there are no packets at all.
pub fn percentile_with_loss<T: Copy>(sorted: &[T], lost: u64, q: f64) -> Option<T> {
    let total = sorted.len() as u64 + lost;
    // 0.95 × 20 is 19.000000000000004 in binary; without the slack that would be rank 20.
    let exact = q.clamp(0.0, 1.0) * total as f64;
    let rank = ((exact - exact.abs() * 1e-12).ceil() as u64).clamp(1, total.max(1));
    usize::try_from(rank - 1).ok().and_then(|index| sorted.get(index)).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nearest_rank_takes_a_sample_never_an_interpolation() {
        let sorted: Vec<u64> = (1..=20).collect();
        assert_eq!(percentile(&sorted, 0.95), Some(19));
        assert_eq!(percentile(&sorted, 0.951), Some(20));
        assert_eq!(percentile(&sorted, 0.5), Some(10));
        assert_eq!(percentile(&sorted, 0.0), Some(1));
        assert_eq!(percentile(&sorted, 1.0), Some(20));
        assert_eq!(percentile::<u64>(&[], 0.5), None);
    }

    #[test]
    fn loss_is_infinite() {
        let sorted = [10_u64, 20, 30];
        assert_eq!(percentile_with_loss(&sorted, 1, 0.75), Some(30));
        assert_eq!(percentile_with_loss(&sorted, 1, 0.76), None);
        assert_eq!(percentile_with_loss::<u64>(&[], 5, 0.5), None);
        assert_eq!(percentile_with_loss::<u64>(&[], 0, 0.5), None);
    }

    proptest! {
        #[test]
        fn at_least_q_of_the_packets_are_at_or_below(
            mut samples in prop::collection::vec(0_u64..1000, 0..60),
            lost in 0_u64..30,
            q in 0.0_f64..=1.0,
        ) {
            samples.sort_unstable();
            let total = samples.len() as f64 + lost as f64;
            let need = q * total * (1.0 - 1e-9);
            match percentile_with_loss(&samples, lost, q) {
                Some(value) => {
                    prop_assert!(samples.iter().filter(|s| **s <= value).count() as f64 >= need);
                    prop_assert!((samples.iter().filter(|s| **s < value).count() as f64) < need.max(f64::MIN_POSITIVE));
                }
                None => prop_assert!(samples.is_empty() || (samples.len() as f64) < need),
            }
        }

        #[test]
        fn never_panics(samples in prop::collection::vec(any::<u64>(), 0..5), lost: u64, q: f64) {
            let _ = percentile_with_loss(&samples, lost.min(1 << 60), q);
        }
    }
}
