//! The modules that come with the product.

mod bgp;
pub(crate) mod dns;
mod echo;
mod faulty;
mod heartbeat;
mod http;
mod ping;
mod repeat;
mod secure;
mod stamp;
mod trace;

use std::sync::Arc;

use imn_contract::canonical_type;

use crate::{flight::Measurer, module::SharedModule, ping::Kind};

pub(crate) use secure::SecureSpec;

/// Types of the built-in modules.
pub const KINDS: [&str; 10] =
    ["icmp", "tcp", "dns", "http", "stamp", "trace", "bgp", "echo", "faulty", "heartbeat"];

/// The built-in module of a type or alias.
pub fn builtin(kind: &str) -> Option<SharedModule> {
    Some(match canonical_type(kind) {
        "icmp" => Arc::new(ping::Ping::new(Kind::Icmp)),
        "tcp" => Arc::new(ping::Ping::new(Kind::Tcp)),
        "dns" => Arc::new(Measurer::new(dns::Dns::default())),
        "http" => Arc::new(Measurer::new(http::Http::default())),
        "stamp" => Arc::new(Measurer::new(stamp::Stamp::default())),
        "bgp" => Arc::new(Measurer::new(bgp::Bgp::default())),
        "trace" => Arc::new(Measurer::new(trace::Trace::default())),
        "echo" => Arc::new(echo::Echo),
        "faulty" => Arc::new(faulty::Faulty),
        "heartbeat" => Arc::new(heartbeat::HostHealth),
        _ => return None,
    })
}

/// Whether the built-in module of a type can have standing work.
pub fn has_standing(kind: &str) -> bool {
    matches!(canonical_type(kind), "icmp" | "tcp" | "dns" | "http" | "stamp" | "trace" | "heartbeat" | "bgp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_module_and_a_schema() {
        for kind in KINDS {
            let module = builtin(kind).unwrap();
            assert_eq!(module.kind(), kind);
            assert!(module.params_schema().is_object(), "{kind}");
        }
        assert_eq!(builtin("tcping").unwrap().kind(), "tcp");
        assert!(builtin("nonsense").is_none());
    }
}
