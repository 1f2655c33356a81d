//! What a module found, in the form of the simple interface.

use std::time::{SystemTime, UNIX_EPOCH};

use imn_contract::{
    ModuleType,
    latest::{PingOutcome, SimpleReply, SimpleRequest},
};
use serde_json::Value;

pub(super) fn reply(request: &SimpleRequest, kind: &ModuleType, outcome: Value, id: &str) -> SimpleReply {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let mut reply = SimpleReply {
        v: 1,
        protocol: kind.to_string(),
        address: request.target.clone(),
        is_alive: true,
        port: request.port,
        timestamp: now,
        rtt_min: None,
        rtt_avg: None,
        rtt_max: None,
        packets_sent: 0,
        packets_received: 0,
        packet_loss: None,
        jitter: None,
        request_id: id.to_owned(),
        outcome: Value::Null,
    };
    if !matches!(kind.as_str(), "icmp" | "tcp") {
        reply.outcome = outcome;
        return reply;
    }
    let Ok(ping) = serde_json::from_value::<PingOutcome>(outcome.clone()) else {
        reply.outcome = outcome;
        return reply;
    };
    reply.address = ping.address.unwrap_or_else(|| request.target.clone());
    reply.is_alive = ping.received > 0;
    reply.port = ping.port.or(request.port);
    reply.rtt_min = ping.rtt_ms.min;
    reply.rtt_avg = ping.rtt_ms.avg;
    reply.rtt_max = ping.rtt_ms.max;
    reply.packets_sent = ping.sent;
    reply.packets_received = ping.received;
    reply.packet_loss = ping.loss_pct;
    reply.jitter = ping.jitter_ms;
    reply
}
