//! Withdrawals of one peer within a sliding window.

use std::collections::VecDeque;

/// Times of the last withdrawals, as many as are asked about at most.
#[derive(Clone, Debug, Default)]
pub(super) struct Flaps(VecDeque<i64>);

/// Times kept per peer.
const KEPT: usize = 64;

impl Flaps {
    pub(super) fn add(&mut self, now_us: i64) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(now_us);
    }

    /// How many lie within the window that ends now; 64 stands for that many or more.
    pub(super) fn within(&mut self, now_us: i64, window_us: i64) -> usize {
        while self.0.front().is_some_and(|at| at.saturating_add(window_us) <= now_us) {
            self.0.pop_front();
        }
        self.0.len()
    }
}
