//! Who makes whose rounds: rendezvous hashing, so that a change of the instances moves as few targets as can be.

use imn_contract::{InstanceId, TargetId, latest::Assignment};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Each instance with its share, possibly empty; every assignment is with exactly one of them.
pub(super) fn split<'a>(
    work: &[&'a Assignment],
    instances: &'a [InstanceId],
) -> Vec<(&'a InstanceId, Vec<&'a Assignment>)> {
    let mut shares: Vec<(&InstanceId, Vec<&Assignment>)> =
        instances.iter().map(|instance| (instance, Vec::new())).collect();
    let seeds: Vec<u64> =
        instances.iter().map(|instance| xxh3_64_with_seed(instance.as_str().as_bytes(), 0)).collect();
    for assignment in work {
        let weight = |seed: &u64| xxh3_64_with_seed(TargetId::as_str(&assignment.target).as_bytes(), *seed);
        let heaviest = seeds.iter().enumerate().max_by_key(|(_, seed)| weight(seed)).map(|(at, _)| at);
        if let Some(at) = heaviest {
            shares[at].1.push(assignment);
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use imn_contract::ModuleType;
    use std::collections::BTreeMap;

    fn owners(work: &[Assignment], instances: &[InstanceId]) -> BTreeMap<String, String> {
        let refs: Vec<&Assignment> = work.iter().collect();
        let mut owners = BTreeMap::new();
        for (instance, share) in split(&refs, instances) {
            for assignment in share {
                let twice = owners.insert(assignment.target.to_string(), instance.to_string());
                assert!(twice.is_none(), "{} is with two", assignment.target);
            }
        }
        owners
    }

    #[test]
    fn every_target_is_with_one_and_moves_only_to_or_from_what_changes() {
        let kind = ModuleType::new("icmp").unwrap();
        let work: Vec<Assignment> = (0..3000)
            .map(|n| Assignment {
                target: TargetId::new(format!("t{n}")).unwrap(),
                kind: kind.clone(),
                address: "192.0.2.1".into(),
                interval_ms: 1000,
                timeout_ms: 1000,
                count: 1,
                params: serde_json::Map::new(),
                since_us: 0,
            })
            .collect();
        let instances: Vec<InstanceId> =
            (0..4).map(|n| InstanceId::new(format!("lon1-icmp-{n}")).unwrap()).collect();
        let three = owners(&work, &instances[..3]);
        let four = owners(&work, &instances);
        assert_eq!((three.len(), four.len()), (3000, 3000));
        let moved: Vec<_> = four.iter().filter(|(target, owner)| three[*target] != **owner).collect();
        assert!(moved.iter().all(|(_, owner)| **owner == "lon1-icmp-3"));
        for instance in &instances {
            let share = four.values().filter(|owner| **owner == instance.as_str()).count();
            assert!((600..900).contains(&share), "{instance} has {share}");
        }
        assert!(owners(&work, &[]).is_empty());
    }
}
