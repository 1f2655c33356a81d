//! What a new network begins with.

use imn_contract::ModuleType;
use serde_json::Map;

use crate::tier::{AgentSelection, Probe, Strategy, Tier};

/// The tiers `critical`, `standard` and `low`, each with one ICMP probe.
pub fn seeded_tiers(now_us: i64) -> Vec<Tier> {
    let all = AgentSelection::default();
    let spread = |count| AgentSelection {
        strategy: Strategy::Distributed,
        count: Some(count),
        ..AgentSelection::default()
    };
    vec![
        tier("critical", "Critical", (5_000, 1_000, 1), all, now_us),
        tier("standard", "Standard", (30_000, 2_000, 3), spread(4), now_us),
        tier("low", "Low", (300_000, 3_000, 3), spread(2), now_us),
    ]
}

fn tier(
    name: &str,
    display_name: &str,
    (probe_interval_ms, probe_timeout_ms, count): (u64, u64, u32),
    agent_selection: AgentSelection,
    now_us: i64,
) -> Tier {
    let icmp = ModuleType::new("icmp").map(|kind| Probe { kind, params: Map::new() });
    Tier {
        name: name.to_owned(),
        display_name: Some(display_name.to_owned()),
        probes: icmp.into_iter().collect(),
        probe_interval_ms,
        probe_timeout_ms,
        probe_retries: 0,
        count,
        agent_selection,
        default_expected_outcome: None,
        created_us: now_us,
        updated_us: now_us,
        revision: 1,
    }
}
