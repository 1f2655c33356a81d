//! JWTs of nats-server's operator mode, version 2.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::{Error, Permissions, now_s};

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
    sign(key, &key.public_key(), "imn", &nats, now_s(), None)
}

/// Which keys of users an account does not accept, and of which time: JWTs made by then are refused.
pub(super) type Revocations = BTreeMap<String, u64>;

/// The revocations in an account's claims.
pub(super) fn revocations(claims: &Value) -> Revocations {
    serde_json::from_value(claims["nats"]["revocations"].clone()).unwrap_or_default()
}

pub(super) fn account(
    operator: &KeyPair,
    subject: &str,
    name: &str,
    limits: Limits,
) -> Result<String, Error> {
    account_without(operator, subject, name, limits, &Revocations::new(), now_s())
}

/// An account's JWT that revokes keys of users.
pub(super) fn account_without(
    operator: &KeyPair,
    subject: &str,
    name: &str,
    limits: Limits,
    revocations: &Revocations,
    issued: u64,
) -> Result<String, Error> {
    let mut nats = json!({
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
    if !revocations.is_empty() {
        nats["revocations"] = json!(revocations);
    }
    sign(operator, subject, name, &nats, issued, None)
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
    if let Some(answers) = answers(permissions) {
        nats["resp"] = answers;
    }
    sign(account, subject, name, &nats, now_s(), expires)
}

/// A user of the system account who may change accounts.
pub(super) fn system_user(
    account: &KeyPair,
    subject: &str,
    inbox: &str,
    expires: u64,
) -> Result<String, Error> {
    let nats = json!({
        "type": "user",
        "version": 2,
        "subs": UNLIMITED, "data": UNLIMITED, "payload": UNLIMITED,
        "pub": { "allow": [super::UPDATE_ACCOUNT] },
        "sub": { "allow": [inbox] },
    });
    sign(account, subject, "imn-claims", &nats, now_s(), Some(expires))
}

/// Whether the claims of a user allow just this.
pub(super) fn permits(claims: &Value, permissions: &Permissions) -> bool {
    let nats = &claims["nats"];
    nats["pub"]["allow"] == json!(permissions.publish)
        && nats["sub"]["allow"] == json!(permissions.subscribe)
        && nats["resp"] == answers(permissions).unwrap_or_default()
}

/// The right to answer each request once.
fn answers(permissions: &Permissions) -> Option<Value> {
    let within = permissions.answers?;
    Some(json!({ "max": 1, "ttl": within.as_nanos() as u64 }))
}

fn sign(
    issuer: &KeyPair,
    subject: &str,
    name: &str,
    nats: &Value,
    issued: u64,
    expires: Option<u64>,
) -> Result<String, Error> {
    let mut claims = json!({
        "jti": ulid::Ulid::generate().to_string(),
        "iat": issued,
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
