//! How far a node is with what it is assigned, followed from its events.

use potluck_model::api::{NodeState, Progress};
use potluck_model::trace::{Event, Source, What};
use potluck_model::{Digest, UnixMicros};
use serde::{Deserialize, Serialize};

/// A node's progress, and what is needed to follow it further.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tracker {
    /// What is told.
    pub(crate) progress: Progress,
    /// When the node last asked for its list.
    requested: Option<UnixMicros>,
    /// When what it does now began.
    began: Option<UnixMicros>,
}

impl Tracker {
    /// The same node, which has just been assigned something else, or nothing.
    pub(crate) fn reassigned(&self, something: bool) -> Self {
        let mut tracker = Self::assigned(something);
        tracker.progress.ignored = self.progress.ignored;
        tracker
    }

    /// The progress of a node that has just been assigned something, or nothing.
    pub(crate) fn assigned(something: bool) -> Self {
        let state = if something {
            NodeState::Waiting
        } else {
            NodeState::Unassigned
        };
        Self {
            progress: Progress {
                state,
                ..Progress::default()
            },
            ..Self::default()
        }
    }

    /// Takes one more event, in the order in which they happened. `list` is what the node is assigned.
    pub(crate) fn apply(&mut self, event: &Event, list: Option<&Digest>) {
        match &event.what {
            What::ListRequested { .. } => self.requested = Some(event.at),
            What::Trouble { message } => self.progress.trouble = Some(message.clone()),
            What::Ignored(ignored) => self.progress.ignored = Some(*ignored),
            _ => {}
        }
        // Events of an earlier assignment say nothing about this one.
        if list.is_none() || event.list.as_ref() != list {
            return;
        }
        match &event.what {
            What::Asked { .. } => self.begin(event, NodeState::Fetching),
            What::Obtained { len, source, with, .. } => {
                if *source != Source::Held {
                    self.begin(event, NodeState::Fetching);
                }
                if self.progress.state == NodeState::Fetching {
                    let bytes = match source {
                        Source::Held => &mut self.progress.held_bytes,
                        Source::Peer(_) => &mut self.progress.peer_bytes,
                        Source::Origin => &mut self.progress.origin_bytes,
                    };
                    let with = with.iter().fold(0_u64, |sum, (_, len)| sum.saturating_add(*len));
                    *bytes = bytes.saturating_add(*len).saturating_add(with);
                }
            }
            What::Complete {
                held_bytes,
                peer_bytes,
                origin_bytes,
            } => {
                if matches!(self.progress.state, NodeState::Waiting | NodeState::Fetching) {
                    self.begin(event, NodeState::Fetching);
                    self.progress.state = NodeState::Executing;
                }
                self.progress.held_bytes = *held_bytes;
                self.progress.peer_bytes = *peer_bytes;
                self.progress.origin_bytes = *origin_bytes;
            }
            What::StepStarted { step } => {
                self.begin(event, NodeState::Executing);
                self.progress.step = Some(step.clone());
            }
            What::StepEnded { step, .. } if self.progress.step.as_ref() == Some(step) => self.progress.step = None,
            What::Executed { recap } => {
                let began = self.began.or(self.requested).unwrap_or(event.at);
                self.progress.state = if recap.converged() {
                    NodeState::Converged
                } else if recap.failed + recap.blocked + recap.interrupted + recap.undone > 0 {
                    NodeState::Failed
                } else {
                    NodeState::Halted
                };
                if recap.converged() {
                    self.progress.trouble = None;
                }
                self.progress.step = None;
                self.progress.recap = Some(*recap);
                self.progress.millis = Some(event.at.0.saturating_sub(began.0) / 1_000);
                self.began = None;
                self.requested = None;
            }
            _ => {}
        }
    }

    /// Enters `state`; from a state of rest, that begins a new run with new counts.
    fn begin(&mut self, event: &Event, state: NodeState) {
        if self.began.is_none() {
            self.began = Some(self.requested.unwrap_or(event.at));
        }
        let progress = &mut self.progress;
        match progress.state {
            NodeState::Fetching if state == NodeState::Executing => progress.state = state,
            NodeState::Fetching | NodeState::Executing => {}
            _ => {
                *progress = Progress {
                    state,
                    trouble: progress.trouble.take(),
                    ignored: progress.ignored.take(),
                    ..Progress::default()
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use potluck_model::NodeId;
    use potluck_model::trace::{About, Cause, Outcome, Recap, Why};

    use super::*;

    fn run(tracker: &mut Tracker, events: Vec<What>) -> NodeState {
        let list = Digest::of(b"list");
        for (index, what) in events.into_iter().enumerate() {
            let event = Event {
                boot: 1,
                seq: index as u64,
                at: UnixMicros(1_000_000 * (index as u64 + 1)),
                list: (!matches!(what, What::ListRequested { .. })).then_some(list),
                what,
            };
            tracker.apply(&event, Some(&list));
        }
        tracker.progress.state
    }

    fn asked() -> What {
        What::Asked {
            request: 1,
            to: "127.0.0.1:1".parse().unwrap(),
            interface: None,
            about: About::default(),
        }
    }

    fn obtained(len: u64, source: Source) -> What {
        What::Obtained {
            digest: Digest::of(b"file"),
            offset: 0,
            len,
            source,
            why: Why::Answered,
            with: Vec::new(),
        }
    }

    fn recap(outcomes: &[Outcome]) -> What {
        let mut recap = Recap::default();
        for outcome in outcomes {
            recap.count(*outcome);
        }
        What::Executed { recap }
    }

    #[test]
    fn a_node_goes_from_waiting_over_fetching_and_executing_to_converged() {
        let step: potluck_model::StepId = "one".parse().unwrap();
        let mut tracker = Tracker::assigned(true);
        assert_eq!(tracker.progress.state, NodeState::Waiting);
        let requested = What::ListRequested { cause: Cause::Start };
        assert_eq!(
            run(
                &mut tracker,
                vec![
                    requested,
                    asked(),
                    obtained(5, Source::Peer(NodeId(1))),
                    obtained(7, Source::Origin)
                ]
            ),
            NodeState::Fetching
        );
        assert_eq!((tracker.progress.peer_bytes, tracker.progress.origin_bytes), (5, 7));
        assert_eq!(
            run(&mut tracker, vec![What::StepStarted { step: step.clone() }]),
            NodeState::Executing
        );
        assert_eq!(tracker.progress.step, Some(step.clone()));
        let ended = What::StepEnded {
            step,
            outcome: Outcome::Changed,
            millis: 1,
            exit: Some(0),
            message: String::new(),
        };
        let trouble = What::Trouble { message: "slow".into() };
        let last = vec![ended, trouble, obtained(0, Source::Held), recap(&[Outcome::Changed])];
        assert_eq!(run(&mut tracker, last), NodeState::Converged);
        assert_eq!(tracker.progress.millis, Some(3_000), "from the request for the list");
        assert_eq!(
            tracker.progress.trouble, None,
            "what went well in the end is no trouble"
        );
        assert_eq!(tracker.progress.step, None);
    }

    #[test]
    fn contents_that_came_together_are_all_counted() {
        let mut tracker = Tracker::assigned(true);
        let digest = Digest::of(b"file");
        let many = What::Obtained {
            digest,
            offset: 0,
            len: 5,
            source: Source::Origin,
            why: Why::MyShare,
            with: vec![(digest, 7), (digest, u64::MAX), (digest, 1)],
        };
        run(&mut tracker, vec![many]);
        assert_eq!(tracker.progress.origin_bytes, u64::MAX, "a node may say anything");
    }

    #[test]
    fn a_node_that_only_checked_again_stays_converged_until_a_step_starts() {
        let mut tracker = Tracker::assigned(true);
        run(&mut tracker, vec![recap(&[])]);
        let complete = What::Complete {
            held_bytes: 9,
            peer_bytes: 0,
            origin_bytes: 0,
        };
        assert_eq!(run(&mut tracker, vec![complete]), NodeState::Converged);
        let started = What::StepStarted {
            step: "a".parse().unwrap(),
        };
        assert_eq!(run(&mut tracker, vec![started]), NodeState::Executing);
    }

    #[test]
    fn what_a_node_ignored_is_known_whatever_it_is_assigned() {
        let mut tracker = Tracker::assigned(false);
        let ignored = potluck_model::trace::Ignored {
            datagrams_unopened: 7,
            ..Default::default()
        };
        let event = Event {
            boot: 1,
            seq: 1,
            at: UnixMicros(1),
            list: None,
            what: What::Ignored(ignored),
        };
        tracker.apply(&event, None);
        assert_eq!(tracker.progress.ignored, Some(ignored));
        let mut tracker = tracker.reassigned(true);
        run(&mut tracker, vec![asked(), recap(&[]), asked()]);
        assert_eq!(tracker.progress.ignored, Some(ignored));
    }

    #[test]
    fn failed_and_halted_runs_are_told_apart() {
        let mut tracker = Tracker::assigned(true);
        let state = run(&mut tracker, vec![recap(&[Outcome::Halted, Outcome::Changed])]);
        assert_eq!(state, NodeState::Halted);
        let state = run(&mut tracker, vec![recap(&[Outcome::Halted, Outcome::Failed])]);
        assert_eq!(state, NodeState::Failed);
    }

    #[test]
    fn events_of_another_list_change_nothing() {
        let mut tracker = Tracker::assigned(true);
        run(&mut tracker, vec![]);
        let event = Event {
            boot: 1,
            seq: 9,
            at: UnixMicros(1),
            list: Some(Digest::of(b"other")),
            what: recap(&[Outcome::Changed]),
        };
        tracker.apply(&event, Some(&Digest::of(b"list")));
        assert_eq!(tracker, Tracker::assigned(true));
        tracker.apply(&event, None);
        assert_eq!(tracker, Tracker::assigned(true));
    }
}
