//! The AsyncAPI document of the contract: what is said on which subject, by whom, to whom, in which form.
//!
//! Addresses are made by the constructors of [`crate::subject`], names and schemas come from the messages, so that
//! neither can say anything else than the code does.

mod channel;

use serde_json::{Map, Value, json};

use crate::{header, id::IdError};
use channel::{Channel, Way, channels};

/// The AsyncAPI 3.0 document; its schemas are the files beside it.
///
/// # Errors
/// When a name in it is no identifier, which a test rules out.
pub fn asyncapi() -> Result<Value, IdError> {
    let all = channels()?;
    let (mut documented, mut operations, mut messages) = (Map::new(), Map::new(), Map::new());
    for channel in &all {
        let replies = format!("{}-reply", channel.name);
        documented.insert(channel.name.to_owned(), described(channel));
        for name in channel.messages.iter().chain(channel.replies) {
            messages.entry((*name).to_owned()).or_insert_with(|| message(name));
        }
        if !channel.replies.is_empty() {
            let reply = json!({
                "address": null,
                "description": format!("The inbox of whoever asked on `{}`.", channel.address),
                "messages": references(channel.replies),
            });
            documented.insert(replies.clone(), reply);
        }
        for (verb, action, roles) in [("sends", "send", channel.from), ("receives", "receive", channel.to)] {
            for role in roles {
                let operation = operation(channel, &replies, action, role);
                operations.insert(format!("{role}-{verb}-{}", channel.name), operation);
            }
        }
    }
    Ok(json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "IMN contract",
            "version": "1",
            "description": "What servers, agents, modules and clients of the Internet Measurement Network say to each \
                other over NATS. Payloads are JSON, or CBOR by `Content-Type: application/cbor`. Receivers ignore \
                fields that they do not know.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "nats": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": "nats-server 2.9.10 or later, with JetStream",
            },
        },
        "channels": documented,
        "operations": operations,
        "components": { "messages": messages },
    }))
}

fn described(channel: &Channel) -> Value {
    let mut value = json!({
        "address": channel.address,
        "description": channel.says,
        "messages": references(channel.messages),
        "x-imn-kind": match channel.way {
            Way::Core => "core",
            Way::Request => "request",
            Way::Stream(_) => "jetstream",
            Way::Kept(_) => "direct get",
        },
    });
    if let Way::Stream(stream) | Way::Kept(stream) = channel.way {
        value["x-imn-stream"] = json!(stream);
    }
    if !channel.headers.is_empty() {
        value["x-imn-headers"] = json!(channel.headers);
    }
    if !channel.covers.is_empty() {
        value["x-imn-subject"] = json!(channel.covers);
    }
    let parameters: Map<String, Value> = channel
        .address
        .split('.')
        .filter_map(|token| token.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| (name.to_owned(), json!({ "description": channel::parameter(name) })))
        .collect();
    if !parameters.is_empty() {
        value["parameters"] = Value::Object(parameters);
    }
    value
}

fn operation(channel: &Channel, replies: &str, action: &str, role: &str) -> Value {
    let at = |name: &str| format!("#/channels/{name}");
    let listed = |channel: &str, names: &[&str]| -> Vec<Value> {
        names.iter().map(|name| json!({ "$ref": format!("#/channels/{channel}/messages/{name}") })).collect()
    };
    let mut value = json!({
        "action": action,
        "channel": { "$ref": at(channel.name) },
        "messages": listed(channel.name, channel.messages),
    });
    if let (Some(queue), "receive") = (&channel.queue, action) {
        value["bindings"] = json!({ "nats": { "queue": queue, "bindingVersion": "0.1.0" } });
        value["summary"] = json!(format!("One {role} of the queue group `{queue}`."));
    }
    if !channel.replies.is_empty() {
        value["reply"] =
            json!({ "channel": { "$ref": at(replies) }, "messages": listed(replies, channel.replies) });
    }
    value
}

fn references(names: &[&str]) -> Value {
    let of = |name: &&str| ((*name).to_owned(), json!({ "$ref": format!("#/components/messages/{name}") }));
    Value::Object(names.iter().map(of).collect())
}

fn message(name: &str) -> Value {
    let mut properties = json!({
        (header::CONTENT_TYPE): { "type": "string", "enum": ["application/json", "application/cbor"] },
        (header::SCHEMA): { "type": "string", "const": format!("{name}/1") },
    });
    let more: &[&str] = match name {
        "ingest-batch" => return batch(),
        "announce" | "registry" => &[header::NKEY, header::SIGNATURE],
        "job" | "attempt" => &[header::JOB, header::ATTEMPT, header::ATTEMPT_TOKEN, header::TRACEPARENT],
        "result" => &[header::JOB, header::ATTEMPT],
        "submit" => &[header::TRACEPARENT],
        "ack" | "submit-reply" | "job-view" | "control-reply" | "vouch-reply" => {
            &[header::SERVICE_ERROR_CODE, header::SERVICE_ERROR]
        }
        _ => &[],
    };
    for name in more {
        properties[*name] = json!({ "type": "string", "description": channel::header(name) });
    }
    json!({
        "name": name,
        "contentType": "application/json",
        "headers": { "type": "object", "properties": properties },
        "payload": payload(name),
    })
}

/// What is packed is described by what it is packed from.
fn batch() -> Value {
    json!({
        "name": "ingest-batch",
        "contentType": "application/octet-stream",
        "description": "The columns of a batch as CBOR, compressed by zstd: this is what they are once unpacked.",
        "payload": payload("ingest-batch"),
    })
}

fn payload(name: &str) -> Value {
    json!({
        "schemaFormat": "application/schema+json;version=draft-2020-12",
        "schema": { "$ref": format!("./{name}.v1.json") },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What stands in `subject.rs` and is no subject.
    const NONE: [&str; 4] = ["SERVER_QUEUE", "work_queue", "last_token", "token"];

    #[test]
    fn every_subject_of_the_contract_has_a_channel() {
        let source = include_str!("subject.rs");
        let declared: BTreeSet<&str> = source
            .lines()
            .filter_map(|line| line.strip_prefix("pub fn ").or_else(|| line.strip_prefix("pub const ")))
            .filter_map(|rest| rest.split(['(', ':']).next())
            .filter(|name| !NONE.contains(name))
            .collect();
        let all = channels().unwrap();
        let covered: BTreeSet<&str> = all.iter().flat_map(|channel| channel.covers).copied().collect();
        assert_eq!(declared, covered);
    }

    #[test]
    fn every_message_has_a_schema_and_every_reference_a_target() {
        let document = asyncapi().unwrap();
        let files: BTreeSet<String> =
            crate::schemas().into_iter().map(|file| format!("./{}", file.file)).collect();
        let mut named = BTreeSet::new();
        check(&document, &document, &files, &mut named);
        // What stands in no message is a part of one, or is written to files and standard input.
        let elsewhere = |file: &str| {
            file.starts_with("./outcome-")
                || file.contains("module-config")
                || file.contains("assignment-file")
        };
        let missing: Vec<_> = files.iter().filter(|f| !named.contains(*f) && !elsewhere(f)).collect();
        assert_eq!(missing, Vec::<&String>::new(), "messages that are said nowhere");
    }

    fn check(node: &Value, whole: &Value, files: &BTreeSet<String>, named: &mut BTreeSet<String>) {
        match node {
            Value::Object(map) => {
                if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                    match reference.strip_prefix('#') {
                        Some(pointer) => assert!(whole.pointer(pointer).is_some(), "{reference}"),
                        None => assert!(files.contains(reference), "{reference}"),
                    }
                    named.insert(reference.to_owned());
                }
                map.values().for_each(|value| check(value, whole, files, named));
            }
            Value::Array(items) => items.iter().for_each(|value| check(value, whole, files, named)),
            _ => {}
        }
    }
}
