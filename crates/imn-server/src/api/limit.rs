//! Rate limits per API key, told by the `RateLimit` headers.

use std::{num::NonZeroU32, time::Duration};

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
};

use super::problem::Problem;

const POLICY: &str = "ratelimit-policy";
const STATE: &str = "ratelimit";

/// Requests per window and key: enough for a console that redraws, few enough to stop a loop gone wild.
const DEFAULT_PER_WINDOW: NonZeroU32 = NonZeroU32::new(6_000).expect("not zero");
const WINDOW: Duration = Duration::from_mins(1);
/// Keys remembered before those that are idle are forgotten.
const MANY_KEYS: usize = 1_024;

type Limiter = DefaultKeyedRateLimiter<String, StateInformationMiddleware>;

/// The limiter of one server.
pub(crate) struct Limits {
    limiter: Limiter,
    clock: DefaultClock,
    per_window: u32,
}

/// What is left of a key's rate.
pub(crate) struct Rate {
    limit: u32,
    remaining: u32,
    reset: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(DEFAULT_PER_WINDOW)
    }
}

impl Limits {
    /// Allows `per_window` requests a minute of each key; unused ones may be made at once.
    pub(crate) fn new(per_window: NonZeroU32) -> Self {
        let limiter =
            RateLimiter::keyed(Quota::per_minute(per_window)).with_middleware::<StateInformationMiddleware>();
        Self { limiter, clock: DefaultClock::default(), per_window: per_window.get() }
    }

    /// Counts one request of `key`.
    pub(crate) fn take(&self, key: &str) -> Result<Rate, Problem> {
        if self.limiter.len() > MANY_KEYS {
            self.limiter.retain_recent();
        }
        match self.limiter.check_key(&key.to_owned()) {
            Ok(snapshot) => {
                let remaining = snapshot.remaining_burst_capacity();
                Ok(self.rate(remaining, None))
            }
            Err(denied) => {
                let wait = denied.wait_time_from(self.clock.now()).as_secs() + 1;
                let mut headers = HeaderMap::new();
                self.rate(0, Some(wait)).write(&mut headers);
                let detail = format!("more than {} requests in 60 s; try again in {wait} s", self.per_window);
                let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", detail)
                    .header(header::RETRY_AFTER, HeaderValue::from(wait));
                Err(headers
                    .into_iter()
                    .filter_map(|(name, value)| Some((name?, value)))
                    .fold(problem, |problem, (name, value)| problem.header(name, value)))
            }
        }
    }

    fn rate(&self, remaining: u32, reset: Option<u64>) -> Rate {
        let used = u64::from(self.per_window.saturating_sub(remaining));
        let refill = (used * WINDOW.as_secs()).div_ceil(u64::from(self.per_window));
        Rate { limit: self.per_window, remaining, reset: reset.unwrap_or(refill) }
    }
}

impl Rate {
    /// Writes the headers `RateLimit-Policy` and `RateLimit`.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let policy = format!("\"key\";q={};w={}", self.limit, WINDOW.as_secs());
        let state = format!("\"key\";r={};t={}", self.remaining, self.reset);
        for (name, text) in [(POLICY, policy), (STATE, state)] {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        }
    }
}
