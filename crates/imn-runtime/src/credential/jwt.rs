//! JWTs of nats-server's operator mode, version 2.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::{Error, Permissions, now_s};

/// How long after a request an answer to it may be published.
const ANSWER_WITHIN: Duration = Duration::from_mins(2);
const UNLIMITED: i64 = -1;

/// What an account may use of JetStream.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    jetstream: i64,
}

impl Limits {
    /// The system account must say 0 explicitly, or the server takes it as having JetStream and refuses to start.
    pub(super) const SYSTEM: Self = Self { jetstream: 0 };
    pub(super) const FULL: Self = Self { jetstream: UNLIMITED };
}

pub(super) fn operator(key: &KeyPair, system_account: &str) -> Result<String, Error> {
    let nats = json!({ "type": "operator", "version": 2, "system_account": system_account });
    sign(key, &key.public_key(), "imn", &nats, None)
}

pub(super) fn account(
    operator: &KeyPair,
    subject: &str,
    name: &str,
    limits: Limits,
) -> Result<String, Error> {
    let nats = json!({
        "type": "account",
        "version": 2,
        "limits": {
            "subs": UNLIMITED, "data": UNLIMITED, "payload": UNLIMITED,
            "imports": UNLIMITED, "exports": UNLIMITED, "wildcards": true,
            "conn": UNLIMITED, "leaf": UNLIMITED,
            "mem_storage": limits.jetstream, "disk_storage": limits.jetstream,
            "streams": limits.jetstream, "consumer": limits.jetstream,
            "max_ack_pending": limits.jetstream,
            "mem_max_stream_bytes": limits.jetstream, "disk_max_stream_bytes": limits.jetstream,
            "max_bytes_required": false,
        },
        "default_permissions": { "pub": {}, "sub": {} },
    });
    sign(operator, subject, name, &nats, None)
}

pub(super) fn user(
    account: &KeyPair,
    subject: &str,
    name: &str,
    permissions: &Permissions,
    expires: Option<u64>,
) -> Result<String, Error> {
    let mut nats = json!({
        "type": "user",
        "version": 2,
        "subs": UNLIMITED, "data": UNLIMITED, "payload": UNLIMITED,
        "pub": { "allow": permissions.publish },
        "sub": { "allow": permissions.subscribe },
    });
    if permissions.responses {
        nats["resp"] = json!({ "max": 1, "ttl": ANSWER_WITHIN.as_nanos() as u64 });
    }
    sign(account, subject, name, &nats, expires)
}

/// Whether the claims of a user allow just this.
pub(super) fn permits(claims: &Value, permissions: &Permissions) -> bool {
    let nats = &claims["nats"];
    nats["pub"]["allow"] == json!(permissions.publish)
        && nats["sub"]["allow"] == json!(permissions.subscribe)
        && nats["resp"].is_object() == permissions.responses
}

fn sign(
    issuer: &KeyPair,
    subject: &str,
    name: &str,
    nats: &Value,
    expires: Option<u64>,
) -> Result<String, Error> {
    let mut claims = json!({
        "jti": ulid::Ulid::generate().to_string(),
        "iat": now_s(),
        "iss": issuer.public_key(),
        "sub": subject,
        "name": name,
        "nats": nats,
    });
    if let Some(expires) = expires {
        claims["exp"] = json!(expires);
    }
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let text = format!("{}.{}", part(&header), part(&claims));
    let signature = issuer.sign(text.as_bytes()).map_err(Error::key("sign the jwt of", name))?;
    Ok(format!("{text}.{}", BASE64URL_NOPAD.encode(&signature)))
}
