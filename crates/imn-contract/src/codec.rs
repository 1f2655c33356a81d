//! JSON and CBOR, with the schema major checked before the body is read.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::{ErrorCode, Fault};

/// The longest message that any decoder takes, in bytes; NATS's own default limit.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// A message of the contract: versioned, and known by a schema name.
pub trait Message: Serialize + DeserializeOwned + JsonSchema {
    /// The schema's name, for example `job`.
    const NAME: &'static str;
    /// The integer major that this type speaks.
    const MAJOR: u32 = 1;

    /// What goes in the header `MMN-Schema`, for example `job/1`.
    fn schema() -> String {
        format!("{}/{}", Self::NAME, Self::MAJOR)
    }
}

/// How a message is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`, the default.
    #[default]
    Json,
    /// `application/cbor`.
    Cbor,
}

impl Encoding {
    /// What a `Content-Type` names; absent or unknown means JSON.
    pub fn from_content_type(value: Option<&str>) -> Self {
        let media = value.and_then(|v| v.split(';').next()).map(str::trim);
        if media.is_some_and(|m| m.eq_ignore_ascii_case("application/cbor")) {
            Self::Cbor
        } else {
            Self::Json
        }
    }

    /// The media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Cbor => "application/cbor",
        }
    }
}

/// Why bytes are no message of the wanted type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than [`MAX_MESSAGE_BYTES`].
    #[error("decode {schema}: the message has {len} bytes, more than the {MAX_MESSAGE_BYTES} allowed")]
    TooLong {
        /// The schema wanted.
        schema: String,
        /// The length found, in bytes.
        len: usize,
    },
    /// A schema major that this receiver does not speak.
    #[error("decode {schema}: schema major {found} is not accepted; send v = {accepted}")]
    Major {
        /// The schema wanted.
        schema: String,
        /// The major found.
        found: u64,
        /// The major accepted.
        accepted: u32,
    },
    /// The bytes are not the encoding that they claim to be, or a field does not fit.
    #[error("decode {schema}: {message}")]
    Body {
        /// The schema wanted.
        schema: String,
        /// The field at fault, when one could be named.
        field: Option<String>,
        /// What is wrong.
        message: String,
    },
}

impl DecodeError {
    pub(crate) fn body(schema: String, field: Option<String>, message: impl Into<String>) -> Self {
        Self::Body { schema, field: field.map(clip), message: clip(message.into()) }
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        match &error {
            DecodeError::TooLong { .. } => Fault::new(ErrorCode::Invalid, error.to_string()),
            DecodeError::Major { .. } => Fault::new(ErrorCode::Schema, error.to_string()).at("v"),
            DecodeError::Body { field, .. } => {
                let fault = Fault::new(ErrorCode::Invalid, error.to_string());
                match field {
                    Some(field) => fault.at(field.clone()),
                    None => fault,
                }
            }
        }
    }
}

/// A decoder repeats what it has found, and that may be a megabyte long: nobody reads more than this of it.
const LONGEST_DETAIL: usize = 400;

fn clip(mut text: String) -> String {
    if text.len() > LONGEST_DETAIL {
        // The start says what is wrong, the end what was expected and where.
        let head = text.floor_char_boundary(LONGEST_DETAIL / 2);
        let tail = text.ceil_char_boundary(text.len() - LONGEST_DETAIL / 2);
        text.replace_range(head..tail, " … ");
    }
    text
}

#[derive(Deserialize)]
struct Major {
    #[serde(default)]
    v: Option<u64>,
}

/// Writes a message.
///
/// # Errors
/// When a value has no form in the encoding, such as a map whose keys are no strings.
pub fn encode<M: Message>(message: &M, encoding: Encoding) -> Result<Bytes, DecodeError> {
    let mut out = Vec::with_capacity(256);
    let written = match encoding {
        Encoding::Json => serde_json::to_writer(&mut out, message).map_err(|e| e.to_string()),
        Encoding::Cbor => ciborium::into_writer(message, &mut out).map_err(|e| e.to_string()),
    };
    match written {
        Ok(()) => Ok(out.into()),
        Err(message) => Err(DecodeError::body(M::schema(), None, message)),
    }
}

/// Reads a message. Any bytes give a value or a coded error.
///
/// A body without `v` is taken as major 1.
///
/// # Errors
/// [`DecodeError`]: too long, another major, or a body that does not fit; the field is named where it can be.
pub fn decode<M: Message>(bytes: &[u8], encoding: Encoding) -> Result<M, DecodeError> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(DecodeError::TooLong { schema: M::schema(), len: bytes.len() });
    }
    let major: Major = read(bytes, encoding).map_err(|(f, m)| DecodeError::body(M::schema(), f, m))?;
    let found = major.v.unwrap_or(1);
    if found != u64::from(M::MAJOR) {
        return Err(DecodeError::Major { schema: M::schema(), found, accepted: M::MAJOR });
    }
    read(bytes, encoding).map_err(|(f, m)| DecodeError::body(M::schema(), f, m))
}

type ReadError = (Option<String>, String);

fn read<T: DeserializeOwned>(bytes: &[u8], encoding: Encoding) -> Result<T, ReadError> {
    match encoding {
        Encoding::Json => {
            let mut de = serde_json::Deserializer::from_slice(bytes);
            let value = serde_path_to_error::deserialize(&mut de).map_err(named)?;
            de.end().map_err(|e| (None, e.to_string()))?;
            Ok(value)
        }
        Encoding::Cbor => {
            let mut rest = bytes;
            match ciborium::from_reader(&mut rest) {
                Ok(value) if rest.is_empty() => Ok(value),
                Ok(_) => Err((None, "bytes follow the message".to_owned())),
                Err(error) => Err((field_at_fault::<T>(bytes), error.to_string())),
            }
        }
    }
}

/// CBOR's reader cannot tell where it failed; the same value read through JSON can.
fn field_at_fault<T: DeserializeOwned>(bytes: &[u8]) -> Option<String> {
    let value: serde_json::Value = ciborium::from_reader(bytes).ok()?;
    serde_path_to_error::deserialize::<_, T>(value).err().and_then(|error| named(error).0)
}

fn named<E: std::fmt::Display>(error: serde_path_to_error::Error<E>) -> ReadError {
    let path = error.path().to_string();
    let inner = error.into_inner().to_string();
    if path.is_empty() || path == "." { (None, inner) } else { (Some(path), inner) }
}
