//! Coded errors, as every refusal on the wire carries one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The codes of the contract. The number is what travels; the name is for people and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ErrorCode {
    /// The request is malformed or a field is out of range.
    Invalid = 400,
    /// The sender may not do this.
    Denied = 403,
    /// No vantage point matches the request.
    NoVantage = 404,
    /// An identifier was used again with another body.
    Conflict = 409,
    /// The message's schema major is not accepted.
    Schema = 422,
    /// The module is disabled.
    Disabled = 423,
    /// The circuit to this target is open.
    CircuitOpen = 425,
    /// No free slot; try again later.
    Saturated = 429,
    /// The job was cancelled.
    Cancelled = 499,
    /// Something this depends on is not available now.
    Unavailable = 503,
    /// The deadline passed.
    Deadline = 504,
    /// The module process ended while it worked on the job.
    ModuleCrashed = 520,
}

impl ErrorCode {
    /// The number that travels.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The name that goes with the number.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Denied => "denied",
            Self::NoVantage => "no_vantage",
            Self::Conflict => "conflict",
            Self::Schema => "schema",
            Self::Disabled => "disabled",
            Self::CircuitOpen => "circuit_open",
            Self::Saturated => "saturated",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "unavailable",
            Self::Deadline => "deadline",
            Self::ModuleCrashed => "module_crashed",
        }
    }

    /// Whether the same request may succeed later.
    pub const fn retryable(self) -> bool {
        matches!(
            self,
            Self::CircuitOpen | Self::Saturated | Self::Unavailable | Self::Deadline | Self::ModuleCrashed
        )
    }
}

/// An error as it travels: coded, worded, and naming the field and the fix where there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{code} {name}: {message}")]
pub struct Fault {
    /// The number of an [`ErrorCode`], or a module's own.
    pub code: u16,
    /// The code's name, for example `saturated`.
    pub name: String,
    /// What is wrong and what to do about it, in one or two sentences.
    pub message: String,
    /// The field that is wrong, as a path such as `from.limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Whether the same request may succeed later.
    #[serde(default)]
    pub retryable: bool,
    /// When to try again at the earliest, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Fault {
    /// A fault of this code, with its name and retryability.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code: code.code(),
            name: code.name().to_owned(),
            message: message.into(),
            field: None,
            retryable: code.retryable(),
            retry_after_ms: None,
        }
    }

    /// An [`ErrorCode::Invalid`] that names the field.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Invalid, message).at(field)
    }

    /// A 404 whose name is `no_module` in place of `no_vantage`.
    pub fn no_module(message: impl Into<String>) -> Self {
        Self { name: "no_module".to_owned(), ..Self::new(ErrorCode::NoVantage, message) }
    }

    /// The same fault, naming a field.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The same fault, saying when to try again.
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retryable = true;
        self.retry_after_ms = Some(ms);
        self
    }

    /// Whether this is a fault of `code`.
    pub fn is(&self, code: ErrorCode) -> bool {
        self.code == code.code()
    }
}
