//! Numbers that follow from the seed alone, and ranks that all nodes compute alike.

use potluck_model::{Digest, NodeId};

/// SplitMix64: for spreading load and jitter, not for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        let hash = blake3::hash(seed);
        Self(first_u64(hash.as_bytes()))
    }

    pub(crate) const fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `end`, which is not zero. (The bias is below 2^-32 for what is drawn here.)
    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        self.u64() % end
    }
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of `x`.
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The rank of a node for a part of a content: the same on every node. Of several nodes, the highest comes first.
pub(crate) fn rank(content: &Digest, part: u32, node: NodeId) -> u64 {
    let content = first_u64(content.as_bytes());
    mix(mix(content ^ u64::from(part).wrapping_mul(0x9e37_79b9_7f4a_7c15)) ^ mix(node.0))
}

/// Whether a holder is among those who answer a request: about `threshold / 65536` of all holders are.
pub(crate) fn answers(request: u64, asker: NodeId, holder: NodeId, threshold: u16) -> bool {
    (mix(mix(request ^ asker.0.rotate_left(32)) ^ holder.0) as u16) <= threshold
}

fn first_u64(bytes: &[u8; 32]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&bytes[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_bounds_the_answers_at_any_population() {
        let holders = 10_000u64;
        let threshold = (16 * 65_536 / holders) as u16;
        let count = (0..holders)
            .filter(|n| answers(7, NodeId(1), NodeId(mix(*n)), threshold))
            .count();
        assert!((5..40).contains(&count), "{count} answers");
        assert!((0..holders).all(|n| answers(7, NodeId(1), NodeId(n), u16::MAX)));
    }

    #[test]
    fn ranks_of_version_1_stay_as_they_are() {
        let content = Digest::from_bytes([7; 32]);
        assert_eq!(
            rank(&content, 3, NodeId(5)),
            RANK,
            "{:#x}",
            rank(&content, 3, NodeId(5))
        );
    }

    const RANK: u64 = 0x94f2_e897_7598_9aba;

    #[test]
    fn shares_are_about_even() {
        let content = Digest::of(b"content");
        let mut shares = [0u32; 8];
        for part in 0..8_000 {
            let owner = (0..8).max_by_key(|n| rank(&content, part, NodeId(*n))).unwrap();
            shares[owner as usize] += 1;
        }
        assert!(shares.iter().all(|share| (850..1_150).contains(share)), "{shares:?}");
    }
}
