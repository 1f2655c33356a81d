use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

/// How a prefix of a filter selects prefixes of updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Match {
    /// The prefix itself.
    Exact,
    /// The prefix and all that lie within it.
    #[default]
    MoreSpecific,
    /// The prefix and all that cover it.
    Covering,
    /// All of these.
    Any,
}

impl Match {
    const fn inward(self) -> bool {
        matches!(self, Self::MoreSpecific | Self::Any)
    }

    const fn outward(self) -> bool {
        matches!(self, Self::Covering | Self::Any)
    }
}

/// Which prefixes are wanted, over a prefix trie: the cost of a question does not grow with the number of rules.
///
/// A filter without rules wants everything.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Numbers of the rules of each prefix, and how they match.
    rules: JointPrefixMap<IpNet, Vec<(u32, Match)>>,
    count: u32,
    /// Whether any rule looks outward; few do, and only then are the children of a prefix looked at.
    outward: bool,
}

impl Filter {
    /// A filter that wants everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// A filter of these prefixes; host bits are ignored.
    pub fn new(rules: impl IntoIterator<Item = (IpNet, Match)>) -> Self {
        let mut filter = Self::default();
        for (prefix, how) in rules {
            filter.add(prefix, how);
        }
        filter
    }

    /// Adds a rule; its number counts from 0.
    pub fn add(&mut self, prefix: IpNet, how: Match) -> u32 {
        let number = self.count;
        self.rules.entry(prefix.trunc()).or_default().push((number, how));
        self.count += 1;
        self.outward |= how.outward();
        number
    }

    /// The rules, each prefix with how it matches.
    pub fn rules(&self) -> impl Iterator<Item = (IpNet, Match)> {
        self.rules.iter().flat_map(|(prefix, rules)| rules.iter().map(move |(_, how)| (prefix, *how)))
    }

    /// Number of rules; 0 wants everything.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether it wants everything.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a prefix is wanted.
    pub fn wants(&self, prefix: &IpNet) -> bool {
        self.is_empty() || self.matching(prefix).next().is_some()
    }

    /// The numbers of the rules that want a prefix: the covering ones first, shortest first.
    pub fn matching(&self, prefix: &IpNet) -> impl Iterator<Item = u32> {
        let prefix = *prefix;
        let above = self.rules.cover(&prefix).flat_map(move |(rule, numbers)| {
            numbers.iter().filter(move |(_, how)| rule == prefix || how.inward())
        });
        let below = self.outward.then(|| self.rules.children(&prefix)).into_iter().flatten().flat_map(
            move |(rule, numbers)| numbers.iter().filter(move |(_, how)| rule != prefix && how.outward()),
        );
        above.chain(below).map(|(number, _)| *number)
    }

    /// The longest rule's prefix that covers a prefix or is it, however the rule matches.
    pub fn longest(&self, prefix: &IpNet) -> Option<IpNet> {
        self.rules.get_lpm(prefix).map(|(rule, _)| rule)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn each_way_of_matching_selects_what_it_says() {
        let filter = Filter::new([
            (net("10.0.0.0/8"), Match::Exact),
            (net("192.0.2.0/24"), Match::MoreSpecific),
            (net("198.51.100.128/25"), Match::Covering),
            (net("2001:db8::/32"), Match::Any),
        ]);
        for (prefix, rules) in [
            ("10.0.0.0/8", &[0][..]),
            ("10.1.0.0/16", &[]),
            ("192.0.2.0/24", &[1]),
            ("192.0.2.128/25", &[1]),
            ("192.0.0.0/16", &[]),
            ("198.51.100.0/24", &[2]),
            ("198.51.100.128/25", &[2]),
            ("198.51.100.128/26", &[]),
            ("2001:db8:1::/48", &[3]),
            ("2001::/16", &[3]),
            ("2001:db9::/32", &[]),
            ("0.0.0.0/0", &[2]),
        ] {
            assert_eq!(filter.matching(&net(prefix)).collect::<Vec<_>>(), rules, "{prefix}");
            assert_eq!(filter.wants(&net(prefix)), !rules.is_empty(), "{prefix}");
        }
        assert_eq!(filter.longest(&net("192.0.2.7/32")), Some(net("192.0.2.0/24")));
        assert!(Filter::everything().wants(&net("::/0")));
    }

    fn any_net() -> impl Strategy<Value = IpNet> {
        // Few bits, so that prefixes meet.
        prop_oneof![
            (0u32..16, 0u8..=6)
                .prop_map(|(bits, len)| IpNet::from(ipnet::Ipv4Net::new_assert((bits << 26).into(), len))),
            (0u128..16, 0u8..=6)
                .prop_map(|(bits, len)| IpNet::from(ipnet::Ipv6Net::new_assert((bits << 122).into(), len))),
        ]
        .prop_map(|net| net.trunc())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn the_trie_answers_as_a_list_does(
            rules in proptest::collection::vec((any_net(), 0usize..4), 1..12),
            asked in any_net(),
        ) {
            let ways = [Match::Exact, Match::MoreSpecific, Match::Covering, Match::Any];
            let rules: Vec<_> = rules.into_iter().map(|(net, way)| (net, ways[way])).collect();
            let filter = Filter::new(rules.iter().copied());
            let mut expected: Vec<u32> = (0u32..).zip(&rules).filter(|(_, (rule, how))| {
                *rule == asked
                    || (rule.contains(&asked) && how.inward())
                    || (asked.contains(rule) && how.outward())
            }).map(|(n, _)| n).collect();
            let mut found: Vec<u32> = filter.matching(&asked).collect();
            found.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
