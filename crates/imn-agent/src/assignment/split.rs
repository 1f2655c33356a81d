//! Who makes whose rounds: rendezvous hashing, so that a change of the instances moves as few targets as can be.

use imn_contract::{TargetId, latest::Assignment};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::roster::Member;

/// Each assignment with the one of the members whose it is; nobody, when there are none.
pub(super) fn split<'a, 'm>(
    work: &[&'a Assignment],
    members: &[&'m Member],
) -> Vec<(&'a Assignment, Option<&'m Member>)> {
    let seed = |member: &Member| xxh3_64_with_seed(member.instance.as_str().as_bytes(), 0);
    let seeds: Vec<(u64, &Member)> = members.iter().map(|member| (seed(member), *member)).collect();
    let heaviest = |assignment: &Assignment| {
        let target = TargetId::as_str(&assignment.target).as_bytes();
        let heaviest = seeds.iter().max_by_key(|(seed, _)| xxh3_64_with_seed(target, *seed));
        heaviest.map(|(_, member)| *member)
    };
    work.iter().map(|assignment| (*assignment, heaviest(assignment))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::Service;
    use imn_contract::{InstanceId, ModuleType};
    use std::collections::BTreeMap;

    fn owners(work: &[Assignment], members: &[Member]) -> BTreeMap<String, String> {
        let (work, members): (Vec<_>, Vec<_>) = (work.iter().collect(), members.iter().collect());
        let split = split(&work, &members);
        split.iter().map(|(one, by)| (one.target.to_string(), by.unwrap().instance.to_string())).collect()
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
                until_us: None,
            })
            .collect();
        let member = |n| Member {
            instance: InstanceId::new(format!("lon1-icmp-{n}")).unwrap(),
            service: Service::In,
            stand_in: None,
        };
        let members: Vec<Member> = (0..4).map(member).collect();
        let three = owners(&work, &members[..3]);
        let four = owners(&work, &members);
        assert_eq!((three.len(), four.len()), (3000, 3000));
        let moved: Vec<_> = four.iter().filter(|(target, owner)| three[*target] != **owner).collect();
        assert!(moved.iter().all(|(_, owner)| **owner == "lon1-icmp-3"));
        for Member { instance, .. } in &members {
            let share = four.values().filter(|owner| **owner == instance.as_str()).count();
            assert!((600..900).contains(&share), "{instance} has {share}");
        }
        let first = &work[0];
        assert_eq!(split(&[first], &[]), [(first, None)]);
    }
}
