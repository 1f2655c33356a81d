//! The HTTP engine: one request, its phases timed one by one.
//!
//! Every step is our own, so that each phase is what it says: the name is resolved to all its addresses and the first
//! of the family asked for is taken, the connection is made, secured, and used for one request; a redirect begins
//! anew. Times are differences on the monotonic clock. Nothing is retried and no second address is tried: that would
//! be a second measurement. What a server may send is bounded in each direction that it could grow.
//!
//! [`Engine::measure`] is a future that belongs to whoever awaits it; dropping it closes its connection.
//!
//! What is deliberately absent: cookies, caches, compression, proxies, connections kept for a next request.

mod engine;
mod error;
mod exchange;
mod expect;
mod meter;
mod outcome;
mod pool;
mod resolve;
mod spec;

pub use engine::Engine;
pub use error::{Cause, Error};
pub use expect::{Expect, Rule};
pub use hyper::body::Bytes;
pub use hyper::header::{HeaderMap, HeaderName, HeaderValue};
pub use hyper::{Method, StatusCode};
#[doc(hidden)]
pub use meter::Head as HeadScanner;
pub use outcome::{Answer, Hop, Outcome, Phase, Phases};
pub use spec::{Family, Limit, Spec, Version, parse_url};
pub use url::Url;
