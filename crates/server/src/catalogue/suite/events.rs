//! What nodes report.

use potluck_model::api::{Labels, NodeState, Target};
use potluck_model::trace::{Cause, Event, Recap, What};
use potluck_model::{Digest, NodeId, UnixMicros};

use super::{assign, join, publish};
use crate::catalogue::{Catalogue, EVENT_BYTES_PER_NODE_MAX, EVENTS_PER_NODE_MAX};

fn event(seq: u64, list: Option<Digest>, what: What) -> Event {
    Event {
        boot: 1,
        seq,
        at: UnixMicros(seq),
        list,
        what,
    }
}

pub(super) fn events_count_once_and_are_bounded(c: &dyn Catalogue) {
    let node = join(c, 1, Labels::new());
    publish(c, "web", 1);
    assign(c, "web", None, Target::All);
    let progress = || c.node(node).unwrap().unwrap().progress;
    assert_eq!(progress().state, NodeState::Waiting);
    let list = c.node(node).unwrap().unwrap().assigned.unwrap().list;
    let asked = || What::ListRequested { cause: Cause::Start };
    let executed = What::Executed {
        recap: Recap::default(),
    };
    let report = vec![event(1, None, asked()), event(2, Some(list), executed)];
    assert!(c.add_events(NodeId(99), report.clone()).unwrap().is_none());
    let transition = c.add_events(node, report.clone()).unwrap().unwrap();
    assert_eq!(
        (transition.before, transition.after.state),
        (NodeState::Waiting, NodeState::Converged)
    );
    let again = c.add_events(node, report.clone()).unwrap().unwrap();
    assert_eq!(again.before, NodeState::Converged);
    assert_eq!(
        c.events(node, 0, None, 10).unwrap(),
        [(1, report[0].clone()), (2, report[1].clone())]
    );
    assert_eq!(c.events(node, 0, Some(list), 10).unwrap(), [(2, report[1].clone())]);
    assert_eq!(c.events(node, 1, None, 10).unwrap().len(), 1);
    assert_eq!(c.events(node, 0, None, 1).unwrap().len(), 1);
    assert_eq!(progress().state, NodeState::Converged);
    let more = (3..EVENTS_PER_NODE_MAX + 103).map(|seq| event(seq, None, asked()));
    for part in more.collect::<Vec<_>>().chunks(20_000) {
        c.add_events(node, part.to_vec()).unwrap();
    }
    let kept = c.events(node, 0, None, usize::MAX >> 1).unwrap();
    assert_eq!(kept.len() as u64, EVENTS_PER_NODE_MAX, "the oldest made room");
    assert_eq!(kept.last().unwrap().1.seq, EVENTS_PER_NODE_MAX + 102);
    publish(c, "web", 2);
    assert_eq!(progress().state, NodeState::Waiting, "a new release begins anew");
}

pub(super) fn long_events_are_bounded_in_bytes(c: &dyn Catalogue) {
    let node = join(c, 1, Labels::new());
    let line = "x".repeat(2_000);
    let long = |seq| {
        let output = What::StepOutput {
            step: "talk".parse().unwrap(),
            line: line.clone(),
        };
        event(seq, None, output)
    };
    for part in 0..12 {
        let events = (0..1_000).map(|seq| long(part * 1_000 + seq)).collect();
        c.add_events(node, events).unwrap();
    }
    let kept = c.events(node, 0, None, usize::MAX >> 1).unwrap();
    let bytes: u64 = kept
        .iter()
        .map(|(_, event)| serde_json::to_vec(event).unwrap().len() as u64)
        .sum();
    assert!(
        (EVENT_BYTES_PER_NODE_MAX - 3_000..=EVENT_BYTES_PER_NODE_MAX).contains(&bytes),
        "{bytes}"
    );
    assert_eq!(kept.last().unwrap().1.seq, 11_999, "the newest are kept");
    // Short ones again: nothing is counted twice.
    let before = kept.len();
    c.add_events(
        node,
        vec![event(20_000, None, What::ListRequested { cause: Cause::Start })],
    )
    .unwrap();
    let after = c.events(node, 0, None, usize::MAX >> 1).unwrap().len();
    assert!(after.abs_diff(before) <= 1, "{before} {after}");
}
