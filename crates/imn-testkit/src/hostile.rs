//! Outside bytes for parsers: many, cheap, and the same in every run, beside the few that property tests make anew.

/// Inputs of one run of a parser.
pub const MANY: usize = 100_000;

/// Pieces of a text put together at random, up to twelve.
pub fn texts(pieces: &[&str]) -> impl Iterator<Item = String> {
    let mut dice = Dice(0x5eed);
    (0..MANY).map(move |_| (0..dice.below(13)).map(|_| pieces[dice.below(pieces.len())]).collect())
}

/// Bytes at random, up to this many.
pub fn bytes(longest: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut dice = Dice(0x5eed);
    (0..MANY).map(move |_| (0..dice.below(longest + 1)).map(|_| dice.next() as u8).collect())
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn inputs_are_many_and_the_same_again() {
        let pieces = ["a", "b", "\n", "\u{e4}"];
        let all: Vec<String> = texts(&pieces).collect();
        assert!(texts(&pieces).eq(all.iter().cloned()) && all.len() == MANY);
        assert!(all.iter().collect::<HashSet<_>>().len() > MANY / 4 && all.iter().any(String::is_empty));
        assert!(bytes(40).all(|bytes| bytes.len() <= 40) && bytes(40).any(|bytes| bytes.len() == 40));
    }
}
