//! Which assignment applies to a node: by id before by label before all, then the latest.

use potluck_model::NodeId;
use potluck_model::api::{Labels, Target};
use potluck_model::selector::{Selector, SelectorError};

use crate::catalogue::AssignmentRecord;

/// A target that has been parsed, to be held against many nodes.
pub(crate) enum Matcher {
    All,
    Where(Selector),
    Node(NodeId),
}

impl Matcher {
    /// Parses the selector in a target.
    pub(crate) fn new(target: &Target) -> Result<Self, SelectorError> {
        match target {
            Target::All => Ok(Self::All),
            Target::Where(text) => text.parse().map(Self::Where),
            Target::Node(node) => Ok(Self::Node(*node)),
        }
    }

    /// Whether it is for this node.
    pub(crate) fn matches(&self, node: NodeId, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Where(selector) => selector.matches(labels),
            Self::Node(id) => *id == node,
        }
    }

    fn precedence(&self) -> u8 {
        match self {
            Self::All => 0,
            Self::Where(_) => 1,
            Self::Node(_) => 2,
        }
    }
}

/// Which of `assignments` applies to the node.
pub(crate) fn applying<'a>(
    assignments: &'a [(AssignmentRecord, Matcher)],
    node: NodeId,
    labels: &Labels,
) -> Option<&'a AssignmentRecord> {
    assignments
        .iter()
        .filter(|(_, matcher)| matcher.matches(node, labels))
        .max_by_key(|(record, matcher)| (matcher.precedence(), record.id))
        .map(|(record, _)| record)
}

#[cfg(test)]
mod tests {
    use potluck_model::UnixSeconds;

    use super::*;

    fn assignment(id: u64, target: Target) -> (AssignmentRecord, Matcher) {
        let matcher = Matcher::new(&target).unwrap();
        let record = AssignmentRecord {
            id,
            configuration: "web".parse().unwrap(),
            release: None,
            target,
            made: UnixSeconds(0),
            waves: Vec::new(),
            halted: false,
        };
        (record, matcher)
    }

    #[test]
    fn by_id_comes_before_by_label_before_all_and_then_the_latest() {
        let all = [
            assignment(1, Target::Node(NodeId(7))),
            assignment(2, Target::Where("role=web".into())),
            assignment(3, Target::Where("role".into())),
            assignment(4, Target::All),
        ];
        let labels = |text: &str| Labels::from([("role".parse().unwrap(), text.to_owned())]);
        let id = |node, labels: &Labels| applying(&all, NodeId(node), labels).map(|found| found.id);
        assert_eq!(id(7, &labels("web")), Some(1));
        assert_eq!(id(8, &labels("web")), Some(3));
        assert_eq!(id(8, &labels("db")), Some(3));
        assert_eq!(id(8, &Labels::new()), Some(4));
        assert_eq!(
            applying(&all[..3], NodeId(8), &Labels::new()).map(|found| found.id),
            None
        );
    }
}
