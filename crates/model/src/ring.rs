//! The ring of node ids: who of a crowd sits in its seats, the same in every view.
//!
//! Ids are random and assigned by the server, so the nodes that come next on the ring after a list's place are a fair
//! choice that nobody can make for himself, and an index over ids yields them without looking at the others.

use crate::{Digest, NodeId};

/// The most nodes of a crowd that sit in its seats: they share out what comes from the origin.
pub const SEATS_MAX: usize = 32;

/// The most of them that are suggested to a node that does not sit.
const SEATS_SUGGESTED: usize = 4;

/// The place of a list on the ring: the first eight bytes of its digest.
pub fn place(list: &Digest) -> NodeId {
    let mut first = [0; 8];
    first.copy_from_slice(&list.as_bytes()[..8]);
    NodeId(u64::from_be_bytes(first))
}

/// How far behind a place a node stands. The `SEATS_MAX` nodes of a crowd that stand nearest sit in its seats.
pub const fn distance(place: NodeId, node: NodeId) -> u64 {
    node.0.wrapping_sub(place.0)
}

/// Of the nodes that stand nearest behind a list's place, nearest first, those that are suggested to a node: all, if it
/// sits in a seat itself, since those who sit have to know each other; else a few, which differ from node to node, so
/// that not everybody turns to the same.
pub fn suggested<T>(list: &Digest, node: NodeId, nearest: Vec<T>, id: impl Fn(&T) -> NodeId) -> Vec<T> {
    let place = place(list);
    let own = distance(place, node);
    let nearer = nearest.iter().filter(|other| distance(place, id(other)) < own).count();
    if nearer < SEATS_MAX {
        return nearest.into_iter().take(SEATS_MAX).collect();
    }
    let mut chosen: Vec<T> = nearest.into_iter().take(SEATS_MAX).collect();
    chosen.sort_by_key(|other| Digest::of(&(id(other).0 ^ node.0.rotate_left(32)).to_be_bytes()));
    chosen.truncate(SEATS_SUGGESTED);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sits_is_told_of_all_that_sit_and_others_of_a_few() {
        let list = Digest::from_bytes([0; 32]);
        let nearest: Vec<NodeId> = (0..40).map(|n| NodeId(n * 2)).collect();
        let told = |node| suggested(&list, NodeId(node), nearest.clone(), |node| *node);
        assert_eq!(told(5), nearest[..32]);
        assert_eq!(told(61), nearest[..32], "31 are nearer");
        assert_eq!(told(63).len(), SEATS_SUGGESTED, "32 are nearer");
        let few = told(1_001);
        assert_eq!(few.len(), SEATS_SUGGESTED);
        assert!(few.iter().all(|node| nearest[..32].contains(node)));
        assert!(
            (1_001..1_020).any(|node| told(node) != few),
            "not the same few for everybody"
        );
        assert_eq!(
            suggested(&list, NodeId(1_001), nearest[..9].to_vec(), |node| *node).len(),
            9
        );
    }

    #[test]
    fn distances_go_round_the_ring() {
        let place = place(&Digest::from_bytes([0xff; 32]));
        let mut nodes = [NodeId(5), NodeId(u64::MAX - 1), NodeId(u64::MAX), NodeId(0)];
        nodes.sort_by_key(|node| distance(place, *node));
        assert_eq!(nodes, [NodeId(u64::MAX), NodeId(0), NodeId(5), NodeId(u64::MAX - 1)]);
    }
}
