//! Identifiers: what may stand as one token of a subject, a file name or a path of the API.

use std::{
    borrow::Cow,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};
use ulid::{Generator, Ulid};

/// What identifiers look like: `[A-Za-z0-9_-]{1,64}`.
const PATTERN: &str = "^[A-Za-z0-9_-]{1,64}$";
const MAX_LEN: usize = 64;

/// Why a text is no identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is no identifier: use 1 to 64 of A-Z a-z 0-9 _ -")]
pub struct IdError {
    what: &'static str,
    text: String,
}

fn check(what: &'static str, text: &str) -> Result<(), IdError> {
    let ok = (1..=MAX_LEN).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if ok { Ok(()) } else { Err(IdError { what, text: text.chars().take(80).collect() }) }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a text as this identifier.
            ///
            /// # Errors
            /// When the text does not match `[A-Za-z0-9_-]{1,64}`.
            pub fn new(text: impl Into<Arc<str>>) -> Result<Self, IdError> {
                let text = text.into();
                check($what, &text)?;
                Ok(Self(text))
            }

            /// The identifier's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The identifier's text, shared with it.
            pub fn text(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(text).map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": PATTERN })
            }
        }
    };
}

identifier!(
    /// A vantage point's agent, for example `lon1`.
    AgentId,
    "agent"
);
identifier!(
    /// One slot of a module, stable across restarts of its process, for example `lon1-icmp-0`.
    InstanceId,
    "instance"
);
identifier!(
    /// A module type in its canonical name, for example `icmp`; see [`crate::canonical_type`].
    ModuleType,
    "type"
);
identifier!(
    /// One on-demand measurement request. A fresh one is a ULID; a client may bring its own.
    JobId,
    "job_id"
);
identifier!(
    /// A target of continuous measurement.
    TargetId,
    "target"
);

impl JobId {
    /// A fresh ULID, greater than those that this process made before.
    pub fn generate() -> Self {
        Self(ulid().into())
    }
}

impl TargetId {
    /// A fresh ULID, greater than those that this process made before: a list in order of ids is in order of creation.
    pub fn generate() -> Self {
        Self(ulid().into())
    }
}

fn ulid() -> String {
    static GENERATOR: Mutex<Generator> = Mutex::new(Generator::new());
    let mut generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    // It fails after 2^80 of them in one millisecond.
    generator.generate().unwrap_or_else(|_| Ulid::generate()).to_string()
}

impl InstanceId {
    /// The stable name of slot `slot` of a module at a vantage point: `{agent}-{type}-{slot}`.
    ///
    /// # Errors
    /// When the joined name is longer than an identifier may be.
    pub fn slot(agent: &AgentId, module: &ModuleType, slot: u32) -> Result<Self, IdError> {
        Self::new(format!("{agent}-{module}-{slot}"))
    }
}
