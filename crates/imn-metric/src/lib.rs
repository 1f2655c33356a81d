//! Formulas over delays, the only place where they are written down.
//!
//! Every figure that IMN shows is computed here, so that the engine, the store, the exports and the UI cannot
//! disagree about what a number means. The definitions are the IETF's:
//!
//! | figure | definition | here |
//! |---|---|---|
//! | round-trip delay | RFC 2681, RFC 7679 | the samples themselves, in nanoseconds |
//! | loss | RFC 7680 (one way), RFC 6673 (round trip) | [`Counts`] |
//! | minimum, mean, maximum, standard deviation | RFC 2330 §11, RFC 6049 §4 | [`RttStats`] |
//! | ipdv, jitter | RFC 3393, RFC 5481 §4.1 | [`Ipdv`], [`ipdv`] |
//! | pdv | RFC 5481 §4.2 | [`RttStats::pdv`] |
//! | percentile | RFC 2330 §11.3 (empirical distribution, nearest rank) | [`percentile`], [`percentile_with_loss`] |
//! | reordering | RFC 4737 §3.3 (type-P-reordered) | [`Reordering`] |
//!
//! Delays are `u64` nanoseconds. The formulas are homogeneous: microseconds in give microseconds out.
//!
//! What is deliberately absent: quantile sketches (they estimate; these are exact), clocks, wire forms, and any
//! allocation. Callers own and sort their buffers.

mod count;
mod percentile;
mod reorder;
mod rtt;
mod variation;

pub use count::Counts;
pub use percentile::{percentile, percentile_with_loss};
pub use reorder::Reordering;
pub use rtt::RttStats;
pub use variation::{Ipdv, ipdv};
