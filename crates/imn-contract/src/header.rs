//! Names of NATS headers.

/// Idempotency key of JetStream.
pub const MSG_ID: &str = "Nats-Msg-Id";
/// The job that a message is about.
pub const JOB: &str = "MMN-Job";
/// The number of the attempt, from 1.
pub const ATTEMPT: &str = "MMN-Attempt";
/// The secret that shows that an attempt was handed out by the server.
pub const ATTEMPT_TOKEN: &str = "MMN-Attempt-Token";
/// Schema name and major, for example `job/1`.
pub const SCHEMA: &str = "MMN-Schema";
/// Public key that signed an announcement.
pub const NKEY: &str = "MMN-Nkey";
/// Signature over the payload bytes of an announcement.
pub const SIGNATURE: &str = "MMN-Signature";
/// Media type of the payload.
pub const CONTENT_TYPE: &str = "Content-Type";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// Error number in replies of NATS micro services.
pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";
/// Error text in replies of NATS micro services.
pub const SERVICE_ERROR: &str = "Nats-Service-Error";
