//! The module SDK and the built-in measurement modules.
//!
//! A module is a process of its own that does one kind of measurement. Whoever writes one implements [`Module`] and
//! calls [`run`]; `examples/hello_module.rs` is a whole one, and `docs/guide/modules.md` makes one step by step.
//! Continuous rounds are an opt-in, [`Standing`]. The built-in modules `icmp`, `tcp`, `dns`, `http`, `stamp`, `trace`,
//! `bgp`, `echo`, `faulty` and `heartbeat` use the same interface and nothing else.
//! A type whose measurement is one future implements [`flight::Measure`] and gets jobs and standing work from it.
//! [`local`] measures without any network of modules, through the same engines and the same conversion.
//!
//! Deliberately absent: the agent (it is met over NATS and by the files that it writes), the engines (`imn-probe`),
//! any judgement of results, and per-round tasks: standing work is one thread however many targets there are.

mod announce;
mod bgp;
mod builtin;
mod circuit;
mod config;
mod context;
mod convert;
mod desk;
mod engine;
mod error;
pub mod flight;
mod health;
mod http;
mod live;
pub mod local;
mod log;
mod metrics;
mod module;
mod perform;
mod ping;
mod process;
mod run;
mod service;
mod stamp;
mod standing;
mod trace;

pub use async_trait::async_trait;
pub use bgp::{BgpFollow, BgpNews, BgpSource};
pub use builtin::{KINDS, builtin, has_standing};
pub use context::{JobContext, Sign};
pub use engine::Pace;
pub use error::Error;
pub use imn_contract::{Fault, latest::ProgressKind};
pub use module::{Job, Module, SharedModule};
pub use ping::{PingSpec, Protocol};
pub use run::{run, run_builtin};
pub use stamp::clock_quality;
pub use standing::{Addressing, Done, Due, Family, Plan, Standing};
