//! One identity in two places at once: two starts of an agent that come by turns.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use potluck_model::NodeId;

/// The starts of each node that are remembered besides the latest.
const BEFORE_MAX: usize = 4;

/// The starts of agents that were heard. Lost with the process: the next turns show it again.
#[derive(Default)]
pub(crate) struct Instances(Mutex<BTreeMap<NodeId, Starts>>);

struct Starts {
    latest: u64,
    before: VecDeque<u64>,
}

impl Instances {
    /// Notes that this start of the node's agent was heard. Whether another one was heard since it was before: an agent
    /// that was started again does not come back as the one that it was.
    pub(crate) fn heard(&self, node: NodeId, instance: u64) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let starts = all.entry(node).or_insert_with(|| Starts {
            latest: instance,
            before: VecDeque::new(),
        });
        if starts.latest == instance {
            return false;
        }
        let again = starts.before.contains(&instance);
        starts.before.retain(|before| *before != instance);
        starts.before.push_back(starts.latest);
        if starts.before.len() > BEFORE_MAX {
            starts.before.pop_front();
        }
        starts.latest = instance;
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_starts_that_come_by_turns_are_two_places() {
        let instances = Instances::default();
        let node = NodeId(1);
        for start in 1..100 {
            assert!(!instances.heard(node, start), "a restart is no second place");
            assert!(!instances.heard(node, start));
        }
        assert!(!instances.heard(node, 200));
        assert!(instances.heard(node, 99), "the one of before goes on");
        assert!(instances.heard(node, 200));
        assert!(!instances.heard(NodeId(2), 99), "another node");
    }
}
