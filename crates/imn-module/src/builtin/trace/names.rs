//! Who is on a path: names of addresses by reverse look-up, and the autonomous systems that originate them, as a zone
//! of the kind of Team Cymru's tells.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use imn_contract::latest::TraceOutcome;
use imn_probe::dns::{Config, Engine, Query, RecordType, reverse, system_resolvers};
use tokio::time::Instant;

use crate::trace::{ASN_ZONE, Wanted};

/// How long an answer is waited for, and how often it is asked for.
const PATIENCE: Duration = Duration::from_millis(700);
const ATTEMPTS: usize = 2;
/// How long what was found, or not found, is believed.
const BELIEVED: Duration = Duration::from_mins(10);
/// Answers remembered at most; all are forgotten when there are more.
const REMEMBERED: usize = 65_536;

/// Asks, and remembers.
pub(super) struct Names {
    engine: Engine,
    known: Mutex<HashMap<Asked, (Instant, Option<String>)>>,
}

/// A question to a resolver.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Asked {
    resolver: SocketAddr,
    name: String,
    kind: RecordType,
}

impl Names {
    pub(super) fn new() -> Self {
        Self { engine: Engine::new(&Config::default()), known: Mutex::default() }
    }

    /// Fills in what is wanted of each hop's address; what cannot be found is left out.
    pub(super) async fn fill(&self, outcome: &mut TraceOutcome, wanted: &Wanted) {
        let resolver = wanted.resolver.or_else(|| system_resolvers().first().copied());
        let Some(resolver) = resolver else { return };
        let hops = outcome.hops.iter_mut().filter_map(|hop| {
            let address: IpAddr = hop.address.as_deref()?.parse().ok()?;
            Some(async move {
                let name = async {
                    let asked = Asked { resolver, name: reverse(address), kind: RecordType::PTR };
                    if wanted.names { self.ask(asked).await } else { None }
                };
                let origin = async {
                    let zone = wanted.asn_zone.as_deref()?;
                    // Of what is announced to nobody, strangers are told nothing.
                    if zone == ASN_ZONE && !is_public(address) {
                        return None;
                    }
                    let asked = Asked { resolver, name: origin_name(address, zone), kind: RecordType::TXT };
                    self.ask(asked).await
                };
                let (name, origin) = tokio::join!(name, origin);
                hop.host = name.map(|name| name.trim_end_matches('.').to_owned());
                hop.asn = origin.as_deref().and_then(origin_asn);
            })
        });
        join_all(hops).await;
    }

    /// The data of the first record of the type asked for.
    async fn ask(&self, asked: Asked) -> Option<String> {
        let now = Instant::now();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&asked).cloned();
        if let Some((_, data)) = known.filter(|(since, _)| now - *since < BELIEVED) {
            return data;
        }
        let query = Query { timeout: PATIENCE, nsid: false, ..Query::new(asked.name.clone(), asked.kind) };
        for _ in 0..ATTEMPTS {
            let Ok(outcome) = self.engine.query(asked.resolver, &query).await else { return None };
            let Some(answer) = outcome.answer else { continue };
            let data = answer.answers.into_iter().find(|record| record.kind == asked.kind);
            let data = data.map(|record| record.data);
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(asked, (now, data.clone()));
            return data;
        }
        None
    }
}

/// Whether the address may be announced to the world.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || shared)
        }
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local()),
    }
}

/// `1.2.0.192.origin.ZONE`, or by half octets under `origin6.ZONE`.
fn origin_name(address: IpAddr, zone: &str) -> String {
    let name = reverse(address);
    match name.strip_suffix(".in-addr.arpa.") {
        Some(labels) => format!("{labels}.origin.{zone}"),
        None => format!("{}.origin6.{zone}", name.trim_end_matches(".ip6.arpa.")),
    }
}

/// The first number of `"64500 64501 | 192.0.2.0/24 | ZZ | registry | 2026-11-21"`.
fn origin_asn(text: &str) -> Option<u32> {
    text.trim_start_matches('"').split([' ', '|']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_answers_of_the_origin_zone() {
        let name = |address: &str| origin_name(address.parse().unwrap(), "asn.example");
        assert_eq!(name("192.0.2.1"), "1.2.0.192.origin.asn.example");
        let six = name("2001:db8::1");
        assert!(
            six.starts_with("1.0.0.0.") && six.ends_with(".8.b.d.0.1.0.0.2.origin6.asn.example"),
            "{six}"
        );
        assert_eq!(origin_asn("\"64500 64501 | 192.0.2.0/24 | ZZ | test | 2026-11-21\""), Some(64_500));
        assert_eq!(origin_asn("\"\""), None);
    }

    #[test]
    fn private_addresses_are_known() {
        for (address, public) in [
            ("10.1.2.3", false),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("100.64.0.1", false),
            ("100.128.0.1", true),
            ("192.0.2.1", true),
            ("fd00::1", false),
            ("fe80::1", false),
            ("2001:db8::1", true),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }
}
