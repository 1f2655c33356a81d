//! BMP, the BGP Monitoring Protocol, version 3 (RFC 7854; tables of RFC 8671 and RFC 9069): routers connect to us and
//! tell what their peers tell them.

mod decoder;
mod listener;

pub use decoder::{Decoder, MAX_MESSAGE, split};
pub use listener::{Config, Listener};
