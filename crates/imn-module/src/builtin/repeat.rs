//! A measurement made several times over.

use std::{future::Future, time::Duration};

use futures::{Stream, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

/// Measures `count` times, an interval apart from `due` on, each also while those before it still wait. Yields the
/// number of each, from 0, and what it found, as they end.
pub(super) fn repeat<'a, F>(
    count: u16,
    interval: Duration,
    due: Instant,
    measure: impl Fn(u16) -> F + 'a,
) -> impl Stream<Item = (u16, F::Output)> + Unpin
where
    F: Future + 'a,
{
    let measure = &measure;
    (0..count)
        .map(|number| {
            let work = measure(number);
            async move {
                if number > 0 {
                    sleep_until(due + interval * u32::from(number)).await;
                }
                (number, work.await)
            }
        })
        .collect::<FuturesUnordered<_>>()
}
