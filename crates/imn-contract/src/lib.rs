//! Wire types of the network: subjects, identifiers, versioned messages and their codecs.
//!
//! Everything that two processes say to each other is a type in this crate: agents, modules and the server never
//! link each other, they meet here. A message is JSON by default and CBOR where its `Content-Type` says so; its
//! integer major stands in the body (`v`) and in the header `MMN-Schema`. A major that has shipped is frozen by the
//! golden samples in `tests/golden`; minors only add fields, and receivers ignore those that they do not know.
//!
//! Deliberately absent: NATS itself (that is `imn-runtime`), the HTTP API's types (`imn-server`) and the stored
//! form of results (`imn-store`). Wire, HTTP and stored types are three sets, converted at the edge.

mod asyncapi;
mod codec;
mod error;
pub mod header;
mod id;
mod name;
mod schema;
pub mod stream;
pub mod subject;
pub mod v1;

pub use asyncapi::asyncapi;
pub use codec::{DecodeError, Encoding, MAX_MESSAGE_BYTES, Message, decode, encode};
pub use error::{ErrorCode, Fault};
pub use id::{AgentId, IdError, InstanceId, JobId, ModuleType, TargetId};
pub use name::{canonical_type, partition, phase_us, shard};
pub use schema::{SchemaFile, schemas};
pub use v1 as latest;
