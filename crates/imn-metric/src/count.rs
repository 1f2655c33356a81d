use serde::{Deserialize, Serialize};

/// Packet counts of one round, or the sum over several.
///
/// A packet is *unknown* when the measuring host itself may have lost it (its socket overflowed, the kernel
/// refused the send). It says nothing about the network, so it is left out of the loss ratio altogether.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Packets sent, or meant to be sent.
    pub sent: u64,
    /// Packets answered in time, each counted once however often it was answered.
    pub received: u64,
    /// Packets whose fate the measuring host hid from itself.
    pub unknown: u64,
}

impl Counts {
    /// Packets lost: sent, and neither received nor unknown (RFC 7680 §2.4, RFC 6673 §4).
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received).saturating_sub(self.unknown)
    }

    /// `lost / (sent − unknown)` in 0..=1 (RFC 7680 §4.1, RFC 6673 §8); `None` when nothing was observed.
    pub fn loss_ratio(&self) -> Option<f64> {
        let observed = self.sent.saturating_sub(self.unknown);
        (observed > 0).then(|| self.lost() as f64 / observed as f64)
    }

    /// [`loss_ratio`](Self::loss_ratio) in percent, 0..=100.
    pub fn loss_pct(&self) -> Option<f64> {
        self.loss_ratio().map(|ratio| ratio * 100.0)
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.unknown += other.unknown;
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(rounds: I) -> Self {
        rounds.fold(Self::default(), |mut total, round| {
            total += round;
            total
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_packets_are_neither_lost_nor_observed() {
        let counts = Counts { sent: 10, received: 6, unknown: 2 };
        assert_eq!(counts.lost(), 2);
        assert_eq!(counts.loss_pct(), Some(25.0));
        assert_eq!(Counts { sent: 3, received: 0, unknown: 3 }.loss_pct(), None);
        assert_eq!(Counts::default().loss_ratio(), None);
    }

    #[test]
    fn rounds_add_up() {
        let rounds =
            [Counts { sent: 3, received: 3, unknown: 0 }, Counts { sent: 3, received: 0, unknown: 1 }];
        let total: Counts = rounds.into_iter().sum();
        assert_eq!(total, Counts { sent: 6, received: 3, unknown: 1 });
        assert_eq!(total.loss_pct(), Some(40.0));
    }
}
